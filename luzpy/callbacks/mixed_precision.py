"""Mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit, internals
from luzpy.core.modules import trained_parameters
from luzpy.ground.nested import map_nested
from luzpy.ground.types import Values

DTYPES = (torch.float16, torch.bfloat16)


@final
class MixedPrecision(Callback):
    """Computes forward passes and losses in half precision, wherever torch's autocast allows.

    On CUDA it uses float16 with a `torch.amp.GradScaler`; elsewhere bfloat16, which needs none.
    Training, validation and prediction all run under autocast; predictions are returned in float32.
    Gradients are unscaled before other callbacks see them in `on_train_batch_before_step` (R luz
    clips the scaled ones), and a step is skipped if any of them is not finite. Port of R luz's
    `luz_callback_mixed_precision()`.

    A module with its own `step` runs its forward passes and losses under `with ctx.autocast():`. To
    have its loss scaled, it must do what luzpy's own step does: set `ctx.loss_grad`, call
    `ctx.call("on_train_batch_before_backward")`, then `ctx.backward(ctx.loss_grad)`,
    `ctx.call("on_train_batch_before_step")` and `ctx.step_opt(optimizer)`. A step that does not do
    this trains without scaling.

    Args:
        dtype: `torch.float16` or `torch.bfloat16`, whatever the device; if None, that of the
            accelerator's `mixed_precision`, else as described above.
        **grad_scaler_options: Arguments of `torch.amp.GradScaler`, such as `init_scale`;
            `enabled` is True for float16 only, unless given.

    Raises:
        TypeError: If an option is unknown to the scaler.
        ValueError: If `dtype` is anything else.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.MixedPrecision(init_scale=1024.0)
        <luzpy.callbacks.MixedPrecision: dtype by device>
    """

    weight: float = float("-inf")  # before every callback that looks at gradients

    def __init__(self, *, dtype: torch.dtype | None = None, **grad_scaler_options: Any) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(
                f"`dtype` must be torch.float16, torch.bfloat16 or None, got {dtype!r}."
            )
        try:
            torch.amp.GradScaler("cpu", **grad_scaler_options)  # fails now if an option is wrong
        except TypeError as err:
            raise TypeError(
                "`grad_scaler_options` must be arguments of torch.amp.GradScaler, got "
                f"{grad_scaler_options!r}: {err}"
            ) from err
        self.dtype = dtype
        self.grad_scaler_options = grad_scaler_options
        self.scaler: torch.amp.GradScaler | None = None
        self._gradients: _Gradients | None = None
        self._step: Callable[[torch.optim.Optimizer], object] | None = None
        self._scaled = self._unscaled = self._stepped = self._finite = False

    def on_fit_begin(self, ctx: Context) -> None:
        if ctx.accelerator.is_sharded:  # FSDP computes in its own precision
            raise ValueError(
                "`callbacks` must not hold MixedPrecision with FSDP: set the `mixed_precision` of "
                "the accelerate.Accelerator."
            )
        dtype = self._autocast(ctx)
        options = {"enabled": dtype == torch.float16, **self.grad_scaler_options}
        self.scaler = torch.amp.GradScaler(ctx.device.type, **options)
        self._gradients = _Gradients(ctx)
        self._step, ctx.step_opt = ctx.step_opt, self._step_if_finite
        self._scaled = self._unscaled = self._stepped = self._finite = False
        at_exit(ctx, self._end)

    def on_train_batch_before_backward(self, ctx: Context) -> None:
        if ctx.loss_grad is None or self.scaler is None:
            return
        if self._stepped:
            self._unscaled = self._stepped = False
        with torch.enable_grad():
            ctx.loss_grad = self.scaler.scale(ctx.loss_grad)
        self._scaled = True

    def on_train_batch_before_step(self, ctx: Context) -> None:
        self._unscale()

    def on_valid_begin(self, ctx: Context) -> None:
        self._autocast(ctx)

    def on_predict_begin(self, ctx: Context) -> None:
        self._autocast(ctx)

    def on_predict_batch_end(self, ctx: Context) -> None:
        ctx.pred = map_nested(_in_float32, ctx.pred)

    def state_dict(self) -> Values:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Values) -> None:
        if state and self.scaler is not None:
            self.scaler.load_state_dict(state)

    def __repr__(self) -> str:
        dtype = "dtype by device" if self.dtype is None else self.dtype
        return f"<luzpy.callbacks.MixedPrecision: {dtype}>"

    def _autocast(self, ctx: Context) -> torch.dtype:
        on_cuda = ctx.device.type == "cuda"
        by_device = torch.float16 if on_cuda else torch.bfloat16
        dtype = self.dtype or ctx.accelerator.dtype or by_device
        internals(ctx).autocast = torch.autocast(ctx.device.type, dtype=dtype)
        return dtype

    # All gradients of the model are unscaled and judged together, once for each backward pass,
    # also those of other optimizers and of none: a norm taken over the model counts them in.

    def _unscale(self) -> None:
        if not self._scaled or self._unscaled or self._gradients is None or self.scaler is None:
            return
        self.scaler.unscale_(self._gradients)
        self._unscaled = True

    def _step_if_finite(self, optimizer: torch.optim.Optimizer) -> None:
        assert self._step is not None
        assert self.scaler is not None
        assert self._gradients is not None
        if self._scaled:
            self._finite = bool(self.scaler.step(self._gradients))
            self.scaler.update()
            self._scaled = False
            self._stepped = True
        elif not self._stepped:  # the step scaled no loss
            self._finite = True
        if self._finite:
            self._step(optimizer)

    def _end(self) -> None:
        self._gradients = self._step = None


@final
class _Gradients(torch.optim.Optimizer):
    """What the scaler takes for an optimizer: every parameter; a step only says "finite"."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(trained_parameters(ctx), {})

    def step(self, closure: Any = None) -> Any:
        """Called by the scaler only if every gradient is finite."""
        return True


def _in_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in DTYPES else tensor
