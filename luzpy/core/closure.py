"""Steps of optimizers that recompute their batch: LBFGS, and sharpness-aware ones."""

from __future__ import annotations

import weakref
from typing import Any, cast, final

import torch
from torch import nn

from luzpy.core.context import Context, internals
from luzpy.core.modules import trained_parameters
from luzpy.core.optimizers import needs_closure

_BEFORE_STEP = "on_train_batch_before_step"


@final
class ClosureStep:
    """`ctx.step_opt` of a run in which an optimizer's `step` requires a closure.

    The loop has computed the batch, its loss and the gradients already, with all hooks. A closure
    that is called while the weights and the gradients are still the same has nothing to do. Any
    other call computes all of it again; of the hooks only those are called that act on every
    gradient, as clipping does.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = weakref.ref(ctx)  # a model dies with its run, without a garbage collection

    def __call__(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the step."""
        ctx = self._ctx()
        assert ctx is not None
        if not needs_closure(optimizer):
            optimizer.step()
            return
        pred, parts = ctx.pred, dict(internals(ctx).loss_parts)
        try:
            cast(Any, optimizer).step(_Closure(ctx))
        finally:
            # Those of the loss that is reported.
            ctx.pred, internals(ctx).loss_parts = pred, parts


@final
class _Closure:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._parameters = trained_parameters(ctx)
        self._marks = _marks(self._parameters)
        self._loss: torch.Tensor = ctx.loss[internals(ctx).opt_name]

    def __call__(self) -> torch.Tensor:
        if self._marks == _marks(self._parameters):
            self._marks = None
            return self._loss
        self._marks = None
        ctx, run = self._ctx, internals(self._ctx)
        for parameter in self._parameters:
            parameter.grad = None
        with torch.enable_grad():
            with run.autocast:
                by_keyword = run.unpacking is not None and run.unpacking.by_keyword
                ctx.pred = ctx.model(**ctx.input) if by_keyword else ctx.model(ctx.input)
                loss = run.loss_of(ctx)
            ctx.backward(loss)
        with torch.no_grad():
            for hook in run.hooks[_BEFORE_STEP]:
                if getattr(getattr(hook, "__self__", None), "every_gradient", False):
                    hook(ctx)
        return loss.detach()


def _marks(parameters: list[nn.Parameter]) -> list[tuple[Any, ...]] | None:
    """What changes when a weight or a gradient does."""
    grads = [parameter.grad for parameter in parameters]
    return [
        (p._version, None if g is None else (g.data_ptr(), g._version))  # pyright: ignore[reportPrivateUsage]
        for p, g in zip(parameters, grads, strict=True)
    ]
