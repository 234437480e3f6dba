"""The callback that records the loss of each rung, and ends the sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import attrs
import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context, internals
from luzpy.finder.divergence import DivergenceMonitor
from luzpy.finder.ensemble import Ensemble
from luzpy.finder.sweep import SweepLR
from luzpy.finder.validation import validation_loss
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Batch, Data

# Losses are looked at this many rungs at a time, so that a GPU is not waited for at each.
LOOK_EVERY = 10
# A rung is one optimizer step. A run in which this many batches pass without one never ends.
MAX_BATCHES_WITHOUT_STEP = 1_000
# Nor one of which so many batches have stepped without a loss.
MAX_BATCHES_WITHOUT_LOSS = 100

_Losses = dict[str, torch.Tensor]


@attrs.frozen
class Sweep:
    """What was recorded of one model.

    Attributes:
        losses: The loss of each rung.
        valid_losses: The validation loss of each rung, if there is any.
        stopped: Why it ended before the last rung; None if it did not.
        initial_losses: The loss of each rung's batch at the initial weights, if that was looked at.
    """

    losses: list[float]
    valid_losses: list[float] | None
    stopped: str | None
    initial_losses: list[float] | None = None


@final
class RecordLoss(Callback):
    """Records the loss of each rung, before its update, and ends the sweep.

    All processes end the sweep at the same rung: their losses are averaged before it decides.

    Args:
        sweep: The callback that sets the learning rates.
        stop_div: When to stop before the last rung, as in `DivergenceMonitor`.
        valid_data: What to validate on at every rung; nothing for None.
        show: Called with how many rungs were recorded since the last time.
        ensemble: The models, where several are trained together.
    """

    runs_last = True

    def __init__(
        self,
        sweep: SweepLR,
        stop_div: float | None,
        valid_data: Data,
        show: Callable[[int], object],
        ensemble: Ensemble | None = None,
    ) -> None:
        self.sweep = sweep
        self.valid_data = valid_data
        self.show = show
        self.ensemble = ensemble
        n_curves = 1 if ensemble is None else ensemble.size
        self._monitors = [DivergenceMonitor(stop_div) for _ in range(n_curves)]
        self._losses: list[list[float]] = []  # rung by rung, one of each curve
        self._valid_losses: list[list[float]] = []
        # What has not been read from the device yet: of whole rungs, and of the one under way.
        self._pending: list[torch.Tensor] = []
        self._valid_pending: list[torch.Tensor] = []
        self._partial_step: list[_Losses] = []

    def on_train_batch_begin(self, ctx: Context) -> None:
        if self.valid_data is None or self._partial_step:
            return
        others = [c for c in ctx.callbacks if c is not self.sweep and not c.runs_last]
        loss = validation_loss(ctx, self.valid_data, others, self.loss_of)
        if loss is None:
            loss = torch.full((len(self._monitors),), math.nan, device=ctx.device)
        self._valid_pending.append(loss)

    def on_train_batch_end(self, ctx: Context) -> None:
        losses = self._losses_of(ctx)
        weight = getattr(ctx.data, "weight", None)  # of the batch's share of all rows
        if weight is not None:
            losses = {name: loss * weight for name, loss in losses.items()}
        self._partial_step.append(losses)
        batches = len(self._partial_step)
        if not self.sweep.all_stepped:
            if batches > MAX_BATCHES_WITHOUT_STEP or self.sweep.nothing_steps(ctx):
                raise LuzError(
                    f"`step` must step the optimizer: it did not in {batches} "
                    f"batch{'' if batches == 1 else 'es'}. A step that does not call "
                    "`ctx.opt.step()` trains nothing that luzpy can vary."
                )
            return
        loss = self._rung_loss()
        if loss is None:  # of batches without one: the rung goes on until there is one
            if batches >= MAX_BATCHES_WITHOUT_LOSS:
                raise LuzError(
                    "`step` must set `ctx.loss`, which the learning rate finder records: it did "
                    f"not in {batches} batches."
                )
            return
        self._pending.append(loss)
        self._partial_step = []
        self.sweep.advance()
        last = self.sweep.rung == len(self.sweep.rates)
        if not (last or len(self._pending) >= LOOK_EVERY):
            return
        self.read(ctx)
        ends = [monitor.stop for monitor in self._monitors if monitor.stop]
        if last or len(ends) == len(self._monitors):
            every = ends[0][1] if len(ends) == len(self._monitors) else "completed"
            internals(ctx).stop.request(every)  # not `ctx.stop`: the other processes do so too

    def on_fit_end(self, ctx: Context) -> None:
        self.read(ctx)

    def read(self, ctx: Context) -> None:
        """Read the losses so far; with several processes their mean, so that all stop together."""
        if self._valid_pending:
            self._valid_losses += _means(ctx, self._valid_pending)
        self._valid_pending = []
        if not self._pending:
            return
        seen = _means(ctx, self._pending)
        self._pending = []
        self._losses += seen
        for monitor, losses in zip(self._monitors, zip(*seen, strict=True), strict=True):
            monitor.update(losses)
        self.show(len(seen) * len(self._monitors))

    def end_with_nan(self) -> None:
        """The rung under way could not be computed any more: its loss is not a number."""
        self._losses.append([math.nan] * len(self._monitors))
        for monitor in self._monitors:
            monitor.update([math.nan])

    def swept(self) -> list[Sweep]:
        """What was recorded of each model, cut where its curve ended."""
        return [self._swept(index, monitor) for index, monitor in enumerate(self._monitors)]

    def _swept(self, index: int, monitor: DivergenceMonitor) -> Sweep:
        last, stopped = monitor.stop or (len(self._losses) - 1, None)
        losses = [rung[index] for rung in self._losses[: last + 1]]
        if self.valid_data is None:
            return Sweep(losses, None, stopped)
        valid = [rung[index] for rung in self._valid_losses[: last + 1]]
        return Sweep(losses, valid + [math.nan] * (len(losses) - len(valid)), stopped)

    def loss_of(self, ctx: Context) -> torch.Tensor | None:
        """The batch's loss in each model, if it has one: the varied optimizer's, else the mean."""
        return self._mean({name: [loss] for name, loss in self._losses_of(ctx).items()})

    def _losses_of(self, ctx: Context) -> _Losses:
        """The batch's losses by name, of each model; none if it has none."""
        if self.ensemble is not None:
            return {"": self.ensemble.losses}
        loss: Batch = ctx.loss
        named: dict[str, Batch] = dict(loss) if is_mapping(loss) else {"": loss}
        return {name: torch.as_tensor(v).detach().reshape(1) for name, v in named.items()}

    def _rung_loss(self) -> torch.Tensor | None:
        """The loss of the rung under way: each one's mean over the batches that had it."""
        lists: dict[str, list[torch.Tensor]] = {}
        for losses in self._partial_step:
            for name, loss in losses.items():
                lists.setdefault(name, []).append(loss)
        return self._mean(lists)

    def _mean(self, lists: dict[str, list[torch.Tensor]]) -> torch.Tensor | None:
        """The varied optimizer's loss, else the mean over optimizers; None if there is none."""
        own = self.sweep.opt_name
        if own in lists:
            lists = {own: lists[own]}
        means = [_mean_of(losses) for losses in lists.values()]
        return _mean_of(means) if means else None


def _mean_of(losses: list[torch.Tensor]) -> torch.Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)


def _means(ctx: Context, losses: list[torch.Tensor]) -> list[list[float]]:
    """The mean over all processes, as numbers."""
    means: Batch = ctx.accelerator.mean(torch.stack(losses))
    return means.tolist()
