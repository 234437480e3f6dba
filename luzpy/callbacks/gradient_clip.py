"""Gradient clipping."""

from __future__ import annotations

from typing import final

from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.core.modules import trained_parameters
from luzpy.ground.arguments import check_number, is_number


@final
class GradientClip(Callback):
    """Scales the gradients down to a norm of at most `max_norm` before every optimizer step.

    The norm is taken over all parameters that have a gradient: the model's, and what else the
    optimizers step, such as parameters of the loss. Under `MixedPrecision`,
    the gradients are unscaled first (R luz clips the scaled ones). A module with its own `step`
    must call `ctx.call("on_train_batch_before_step")` before it steps. Port of R luz's
    `luz_callback_gradient_clip()`.

    Args:
        max_norm: The largest norm.
        norm_type: The p of the p-norm; infinity for the maximum norm.
        clip_value: Instead of the norm, the largest absolute value of each gradient element.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If `max_norm` is negative, `norm_type` or `clip_value` is not positive, or both
            a norm and `clip_value` are given.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.GradientClip(max_norm=1)
        <luzpy.callbacks.GradientClip: max_norm 1, norm_type 2>
    """

    every_gradient = True

    def __init__(
        self, max_norm: float = 1, norm_type: float = 2, *, clip_value: float | None = None
    ) -> None:
        check_number("max_norm", max_norm, minimum=0)
        if not is_number(norm_type):
            raise TypeError(f"`norm_type` must be a number, got {norm_type!r}.")
        if not norm_type > 0:
            raise ValueError(f"`norm_type` must be positive, got {norm_type!r}.")
        if clip_value is not None:
            check_number("clip_value", clip_value)
            if not clip_value > 0:
                raise ValueError(f"`clip_value` must be positive, got {clip_value!r}.")
            if (max_norm, norm_type) != (1, 2):
                raise ValueError(
                    f"`clip_value` must be None where a norm is given, got {clip_value!r}: use two "
                    "callbacks to clip by both."
                )
        self.clip_value = clip_value
        self.max_norm = max_norm
        self.norm_type = norm_type

    def on_train_batch_before_step(self, ctx: Context) -> None:
        if self.clip_value is not None:
            clip_grad_value_(trained_parameters(ctx), self.clip_value)
            return
        clip_grad_norm_(trained_parameters(ctx), self.max_norm, self.norm_type)

    def __repr__(self) -> str:
        if self.clip_value is not None:
            return f"<luzpy.callbacks.GradientClip: clip_value {self.clip_value:g}>"
        return (
            f"<luzpy.callbacks.GradientClip: max_norm {self.max_norm:g}, "
            f"norm_type {self.norm_type:g}>"
        )
