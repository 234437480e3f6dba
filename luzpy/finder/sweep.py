"""The two callbacks that make a learning rate finder of `fit`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast, final

import attrs
import torch

from luzpy.callback import Callback
from luzpy.context import Context, Optimizers, StopFit
from luzpy.distributed.ranks import Ranks
from luzpy.distributed.sharding import ShardedLoader
from luzpy.errors import LuzError
from luzpy.finder.ensemble import Ensemble
from luzpy.finder.smoothing import ExponentialAverage
from luzpy.loop import in_eval_mode, validate
from luzpy.random_state import preserved_random_state

# Losses are looked at this many rungs at a time, so that a GPU is not waited for at each.
LOOK_EVERY = 10
# A rung is one optimizer step. A run in which this many batches pass without one never ends.
MAX_BATCHES_WITHOUT_STEP = 10_000


def learning_rates(steps: int, start_lr: float, end_lr: float, log_spaced: bool) -> list[float]:
    """The learning rate of each rung, in closed form; the last is exactly `end_lr`.

    Rung t of n uses start·(end/start)^(t/n), as R luz's finder does (its first rung from 1e-6 to
    1 in 100 is 1.15e-06), or start + (t/n)·(end - start).
    """
    if log_spaced:
        ratio = end_lr / start_lr
        rates = [start_lr * ratio ** (t / steps) for t in range(1, steps + 1)]
    else:
        rates = [start_lr + (t / steps) * (end_lr - start_lr) for t in range(1, steps + 1)]
    rates[-1] = end_lr
    return rates


@final
class SweepLR(Callback):
    """Gives the varied optimizers the learning rate of each rung.

    Parameter groups keep their ratios to the first one.

    Args:
        rates: The learning rate of each rung, for the first parameter group.
        opt_name: Which optimizer to vary; all if None.
    """

    weight: float = float("-inf")

    def __init__(self, rates: Sequence[float], opt_name: str | None) -> None:
        self.rates = rates
        self.opt_name = opt_name

    def on_fit_begin(self, ctx: Context) -> None:
        """Choose the optimizers, and listen to their steps."""
        self.rung = 0
        self.varied = _varied(ctx.optimizers, self.opt_name)
        self.scales = {name: _group_scales(name, opt) for name, opt in self.varied.items()}
        self.stepped: set[str] = set()
        for name, optimizer in self.varied.items():
            optimizer.register_step_post_hook(partial(self._note_step, name))

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Set the rung's learning rate."""
        rate = self.rates[self.rung]
        for name, optimizer in self.varied.items():
            for group, scale in zip(optimizer.param_groups, self.scales[name], strict=True):
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate * scale)
                else:
                    group["lr"] = rate * scale

    def _note_step(self, name: str, *_: Any) -> None:
        self.stepped.add(name)

    @property
    def all_stepped(self) -> bool:
        """Whether every varied optimizer has stepped in this rung."""
        return len(self.stepped) == len(self.varied)

    def advance(self) -> None:
        """Go on to the next rung."""
        self.rung += 1
        self.stepped.clear()


def _varied(optimizers: Optimizers, opt_name: str | None) -> Optimizers:
    if opt_name is None:
        return optimizers
    if opt_name not in optimizers:
        raise LuzError(
            f"`opt_name` must be one of {', '.join(map(repr, optimizers))}, got {opt_name!r}."
        )
    return {opt_name: optimizers[opt_name]}


def _group_scales(name: str, optimizer: torch.optim.Optimizer) -> list[float]:
    base = [float(group["lr"]) for group in optimizer.param_groups]
    if base[0] == 0:
        raise LuzError(
            f"`lr` of the first parameter group of optimizer {name!r} must not be 0: the groups' "
            "rates keep their ratios to it."
        )
    return [lr / base[0] for lr in base]


@attrs.frozen
class StopRule:
    """When a curve of losses ends before its last rung.

    Args:
        stop_div: How many times the range seen up to the best smoothed loss it may have risen
            above that best; never for None.
    """

    stop_div: float | None

    def first_stop(self, losses: Iterable[float]) -> tuple[int, str] | None:
        """The first rung (from 0) that ends the curve, and why; None if none does."""
        watch = Watch(self)
        watch.look(losses)
        return watch.stop


class Watch:
    """A curve under a `StopRule`, looked at a few rungs at a time.

    Attributes:
        stop: The rung (from 0) that ended the curve, and why; None so far.
    """

    def __init__(self, rule: StopRule) -> None:
        self.stop: tuple[int, str] | None = None
        self._stop_div = rule.stop_div
        self._average = ExponentialAverage()
        self._best = self._highest = math.nan
        self._range = 0.0

    def look(self, losses: Iterable[float]) -> None:
        """Take in the next rungs' losses."""
        for loss in losses:
            if self.stop is not None:
                return
            rung = self._average.count
            value = self._average.add(loss)
            if not math.isfinite(loss):
                self.stop = (rung, "not finite")
            elif rung == 0 or value < self._best:
                self._highest = value if rung == 0 else max(self._highest, value)
                self._best, self._range = value, self._highest - value
            else:
                self._highest = max(self._highest, value)
                if self._diverged(value):
                    self.stop = (rung, "diverged")

    def _diverged(self, value: float) -> bool:
        if self._stop_div is None or self._range <= 0:
            return False
        return value > self._best + self._stop_div * self._range


@final
class RecordLoss(Callback):
    """Records the loss of each rung, before its update, and ends the sweep.

    Args:
        sweep: The callback that sets the learning rates.
        rule: When to stop before the last rung.
        valid_data: What to validate on at every rung; nothing for None.
        bar: A progress bar with an `update` method, or None.
        ensemble: The models, where several are trained together.
    """

    weight: float = float("inf")

    def __init__(
        self,
        sweep: SweepLR,
        rule: StopRule,
        valid_data: Any,
        bar: Any,
        ensemble: Ensemble | None = None,
    ) -> None:
        self.sweep = sweep
        self.valid_data = valid_data
        self.bar = bar
        self.ensemble = ensemble
        n_curves = 1 if ensemble is None else ensemble.size
        self._watches = [Watch(rule) for _ in range(n_curves)]
        self._losses: list[list[float]] = []  # rung by rung, one of each curve
        self._valid_losses: list[list[float]] = []
        self._ahead: list[torch.Tensor] = []
        self._valid_ahead: list[torch.Tensor] = []
        self._within: list[torch.Tensor] = []

    def on_train_batch_begin(self, ctx: Context) -> None:
        """At the first batch of a rung: the validation loss, at the same weights."""
        if self.valid_data is not None and not self._within:
            self._valid_ahead.append(_validation_loss(ctx, self.valid_data))

    def on_valid_batch_end(self, ctx: Context) -> None:
        """Take in a batch of the rung's validation."""
        loss = self._loss(ctx).double() if ctx.device.type != "mps" else self._loss(ctx)
        total, rows = ctx.buffers.get("valid_loss", (0.0, 0))
        ctx.buffers["valid_loss"] = (total + loss * ctx.batch_size, rows + ctx.batch_size)

    def on_train_batch_end(self, ctx: Context) -> None:
        """Take in the batch; the rung ends with the optimizers' step."""
        loss = self._loss(ctx)
        if ctx.accelerator.ranks.size > 1:
            loss = loss * cast(ShardedLoader, ctx.data).weight
        self._within.append(loss)
        if not self.sweep.all_stepped:
            if len(self._within) > MAX_BATCHES_WITHOUT_STEP:
                raise LuzError(
                    f"`step` must step the optimizer: it did not in {MAX_BATCHES_WITHOUT_STEP} "
                    "batches."
                )
            return
        rung = self._within
        self._ahead.append(rung[0] if len(rung) == 1 else torch.stack(rung).mean(0))
        self._within = []
        self.sweep.advance()
        last = self.sweep.rung == len(self.sweep.rates)
        if last or len(self._ahead) >= LOOK_EVERY:
            self.look(ctx.accelerator.ranks)
            stops = [watch.stop for watch in self._watches if watch.stop]
            if len(stops) == len(self._watches):
                raise StopFit(stops[0][1])
        if last:
            raise StopFit("completed")

    def on_interrupt(self, ctx: Context) -> None:
        """Keep what there is."""
        self.look(ctx.accelerator.ranks)

    def look(self, ranks: Ranks) -> None:
        """Read the losses so far, of several processes the mean: all of them stop as one."""
        if self._valid_ahead:
            self._valid_losses += cast(Any, ranks.mean(torch.stack(self._valid_ahead))).tolist()
        self._valid_ahead = []
        if not self._ahead:
            return
        seen: list[list[float]] = cast(Any, ranks.mean(torch.stack(self._ahead))).tolist()
        self._ahead = []
        self._losses += seen
        for watch, losses in zip(self._watches, zip(*seen, strict=True), strict=True):
            watch.look(losses)
        if self.bar is not None:
            self.bar.update(len(seen) * len(self._watches))

    def end_with_nan(self) -> None:
        """The rung under way could not be computed any more: its loss is not a number."""
        self._losses.append([math.nan] * len(self._watches))
        for watch in self._watches:
            watch.look([math.nan])

    def curves(self) -> list[Curve]:
        """What was recorded of each model, cut where its curve ended."""
        return [self._curve(index, watch) for index, watch in enumerate(self._watches)]

    def _curve(self, index: int, watch: Watch) -> Curve:
        end, stopped = len(self._losses), None
        if watch.stop is not None:
            end, stopped = watch.stop[0] + 1, watch.stop[1]
        losses = [rung[index] for rung in self._losses[:end]]
        valid = None
        if self.valid_data is not None:
            valid = [rung[index] for rung in self._valid_losses[:end]]
            valid += [math.nan] * (end - len(valid))
        return Curve(losses, valid, stopped)

    def _loss(self, ctx: Context) -> torch.Tensor:
        """The batch's loss in each model: the varied optimizer's, else the mean over optimizers."""
        if self.ensemble is not None:
            return self.ensemble.losses
        loss: Any = ctx.loss
        if isinstance(loss, dict):
            if not loss:
                raise LuzError("`step` must set `ctx.loss`; the learning rate finder records it.")
            losses = cast("dict[str, torch.Tensor]", loss)
            if self.sweep.opt_name in losses:
                loss = losses[self.sweep.opt_name]
            else:
                loss = torch.stack([torch.as_tensor(v).reshape(()) for v in losses.values()]).mean()
        return torch.as_tensor(loss).detach().reshape(1)


@attrs.frozen
class Curve:
    """What was recorded of one model.

    Attributes:
        losses: The loss of each rung.
        valid_losses: The validation loss of each rung, if there is any.
        stopped: Why the curve ended before the last rung; None if it did not.
    """

    losses: list[float]
    valid_losses: list[float] | None
    stopped: str | None


_OF_A_BATCH = ("data", "valid_data", "iter", "batch", "batch_size", "stands_in", "pred", "loss")


def _validation_loss(ctx: Context, valid_data: Any) -> torch.Tensor:
    """The mean loss over samples of `valid_data`; the training goes on as if nothing had been."""
    kept = {name: getattr(ctx, name) for name in _OF_A_BATCH}
    ctx.valid_data = valid_data
    ctx.buffers.pop("valid_loss", None)
    with preserved_random_state(), in_eval_mode(ctx.model):
        validate(ctx)
    total, rows = ctx.buffers.pop("valid_loss")
    for name, value in kept.items():
        setattr(ctx, name, value)
    ctx.training = True
    return total / rows
