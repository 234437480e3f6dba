"""Gradient clipping."""

from __future__ import annotations

from typing import final

from torch.nn.utils import clip_grad_norm_

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.ground.arguments import check_number, is_number


@final
class GradientClip(Callback):
    """Scales the gradients down to a norm of at most `max_norm` before every optimizer step.

    The norm is taken over all parameters of the model that have a gradient. Under `MixedPrecision`
    the gradients have been unscaled before (R luz clips the scaled ones). A module with a `step` of
    its own calls `ctx.call("on_train_batch_before_step")` before it steps. Port of R luz's
    `luz_callback_gradient_clip()`.

    Args:
        max_norm: The largest norm.
        norm_type: The p of the p-norm; infinity for the maximum norm.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If `max_norm` is negative, or `norm_type` not positive.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.GradientClip(max_norm=1)
        <luzpy.callbacks.GradientClip: max_norm 1, norm_type 2>
    """

    def __init__(self, max_norm: float = 1, norm_type: float = 2) -> None:
        check_number("max_norm", max_norm, minimum=0)
        if not is_number(norm_type):
            raise TypeError(f"`norm_type` must be a number, got {norm_type!r}.")
        if not norm_type > 0:
            raise ValueError(f"`norm_type` must be positive, got {norm_type!r}.")
        self.max_norm = max_norm
        self.norm_type = norm_type

    def on_train_batch_before_step(self, ctx: Context) -> None:
        clip_grad_norm_(ctx.model.parameters(), self.max_norm, self.norm_type)

    def __repr__(self) -> str:
        return (
            f"<luzpy.callbacks.GradientClip: max_norm {self.max_norm:g}, "
            f"norm_type {self.norm_type:g}>"
        )
