"""Ending a run whose loss is no longer finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.ground.devices import has_streams, stacked
from luzpy.ground.nested import is_mapping

# Where a device cannot say whether a copy has arrived, it is waited for once in so many batches.
LOOK_EVERY = 10


@final
class StopOnNaN(Callback):
    """Ends the run when a training loss is NaN or infinite; `fitted.stopped` is `"not finite"`.

    On a CPU, the run ends after the batch with that loss. It does not wait for an accelerator: the
    answer is checked once it has arrived, usually a batch or two later (on devices with a single
    stream, such as MPS, every 10 batches), and at the end of the epoch. The weights are those after
    the last batch; `KeepBestModel` restores those of the best epoch. Validation is not watched, and
    a step skipped by `MixedPrecision` does not count as a loss that is not finite.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.StopOnNaN()
        <luzpy.callbacks.StopOnNaN>
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._wrong: torch.Tensor | None = None  # on the device: whether there was one so far
        self._copy: torch.Tensor | None = None  # on its way from there
        self._arrived: Any = None
        self._stopped = False

    def on_fit_begin(self, ctx: Context) -> None:
        self._begin()

    def on_train_batch_end(self, ctx: Context) -> None:
        wrong = _any_wrong(ctx.loss)
        if wrong is None or self._stopped:
            return
        if wrong.is_cpu:
            self._stop_if(ctx, wrong)
            return
        self._wrong = wrong if self._wrong is None else self._wrong | wrong
        if has_streams(wrong.device):
            self._look_without_waiting(ctx)
        elif ctx.iter % LOOK_EVERY == 0:
            self._stop_if(ctx, self._wrong)

    def on_train_end(self, ctx: Context) -> None:
        if self._wrong is not None:
            self._stop_if(ctx, self._wrong)

    def on_fit_end(self, ctx: Context) -> None:
        self._begin()

    def __repr__(self) -> str:
        return "<luzpy.callbacks.StopOnNaN>"

    def _look_without_waiting(self, ctx: Context) -> None:
        assert self._wrong is not None
        if self._copy is not None:
            if not self._arrived.query():
                return
            self._stop_if(ctx, self._copy)
        device = self._wrong.device
        self._copy = torch.empty((), dtype=torch.bool, pin_memory=True)
        self._copy.copy_(self._wrong, non_blocking=True)
        self._arrived = torch.Event(device)
        self._arrived.record(torch.accelerator.current_stream(device))

    def _stop_if(self, ctx: Context, wrong: torch.Tensor) -> None:
        if wrong.item():
            self._stopped = True
            ctx.stop("not finite")


def _any_wrong(loss: Any) -> torch.Tensor | None:
    """Whether any of a batch's losses is not finite, where they are; None without a loss."""
    losses: Mapping[str, Any] = loss if is_mapping(loss) else {"opt": loss}
    found = [torch.as_tensor(each).detach().isfinite().all() for each in losses.values()]
    if not found:
        return None
    return ~(found[0] if len(found) == 1 else stacked(found).all())
