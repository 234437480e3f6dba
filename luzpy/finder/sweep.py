"""The two callbacks that make a learning rate finder of `fit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import attrs
import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context, Internals, Optimizers, at_exit, internals
from luzpy.core.loop import validate
from luzpy.core.modules import bound, in_eval_mode
from luzpy.finder.divergence import DivergenceMonitor
from luzpy.finder.ensemble import Ensemble
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.random_state import preserved_random_state
from luzpy.ground.types import Data

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
        self.rung = 0
        self.varied = _varied(ctx.optimizers, self.opt_name)
        self.scales = {name: _group_scales(name, opt) for name, opt in self.varied.items()}
        self.stepped: set[str] = set()
        for name, optimizer in self.varied.items():
            listener = optimizer.register_step_post_hook(partial(self._note_step, name))
            at_exit(ctx, listener.remove)

    def on_train_batch_begin(self, ctx: Context) -> None:
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


@final
class RecordLoss(Callback):
    """Records the loss of each rung, before its update, and ends the sweep.

    All processes end the sweep at the same rung: their losses are averaged before it decides.

    Args:
        sweep: The callback that sets the learning rates.
        stop_div: When to stop before the last rung, as in `DivergenceMonitor`.
        valid_data: What to validate on at every rung; nothing for None.
        bar: A progress bar with an `update` method, or None.
        ensemble: The models, where several are trained together.
    """

    runs_last = True

    def __init__(
        self,
        sweep: SweepLR,
        stop_div: float | None,
        valid_data: Data,
        bar: Any,
        ensemble: Ensemble | None = None,
    ) -> None:
        self.sweep = sweep
        self.valid_data = valid_data
        self.bar = bar
        self.ensemble = ensemble
        n_curves = 1 if ensemble is None else ensemble.size
        self._monitors = [DivergenceMonitor(stop_div) for _ in range(n_curves)]
        self._losses: list[list[float]] = []  # rung by rung, one of each curve
        self._valid_losses: list[list[float]] = []
        # What has not been read from the device yet: of whole rungs, and of the one under way.
        self._pending: list[torch.Tensor] = []
        self._valid_pending: list[torch.Tensor] = []
        self._partial_step: list[torch.Tensor] = []
        self._validation: Context | None = None
        self._valid_sum: list[tuple[torch.Tensor, int]] = []

    def on_fit_begin(self, ctx: Context) -> None:
        if self.valid_data is not None:
            self._validation = self._validation_context(ctx)
        at_exit(ctx, self._forget_run)

    def on_train_batch_begin(self, ctx: Context) -> None:
        if self._validation is not None and not self._partial_step:
            self._valid_pending.append(self._validation_loss(ctx, self._validation))

    def on_train_batch_end(self, ctx: Context) -> None:
        loss = self._loss(ctx) * getattr(ctx.data, "weight", 1)  # of its share of all rows
        self._partial_step.append(loss)
        if not self.sweep.all_stepped:
            if len(self._partial_step) > MAX_BATCHES_WITHOUT_STEP:
                raise LuzError(
                    f"`step` must step the optimizer: it did not in {MAX_BATCHES_WITHOUT_STEP} "
                    "batches."
                )
            return
        rung = self._partial_step
        self._pending.append(rung[0] if len(rung) == 1 else torch.stack(rung).mean(0))
        self._partial_step = []
        self.sweep.advance()
        last = self.sweep.rung == len(self.sweep.rates)
        if last or len(self._pending) >= LOOK_EVERY:
            self.read(ctx)
            stops = [monitor.stop for monitor in self._monitors if monitor.stop]
            if len(stops) == len(self._monitors):
                _end(ctx, stops[0][1])
        if last:
            _end(ctx, "completed")

    def on_fit_end(self, ctx: Context) -> None:
        self.read(ctx)

    def read(self, ctx: Context) -> None:
        """Read the losses so far; with several processes their mean, so that all stop together."""
        mean = ctx.accelerator.mean
        if self._valid_pending:
            self._valid_losses += _numbers(mean(torch.stack(self._valid_pending)))
        self._valid_pending = []
        if not self._pending:
            return
        seen = _numbers(mean(torch.stack(self._pending)))
        self._pending = []
        self._losses += seen
        for monitor, losses in zip(self._monitors, zip(*seen, strict=True), strict=True):
            monitor.update(losses)
        if self.bar is not None:
            self.bar.update(len(seen) * len(self._monitors))

    def end_with_nan(self) -> None:
        """The rung under way could not be computed any more: its loss is not a number."""
        self._losses.append([math.nan] * len(self._monitors))
        for monitor in self._monitors:
            monitor.update([math.nan])

    def swept(self) -> list[Sweep]:
        """What was recorded of each model, cut where its curve ended."""
        return [self._swept(index, monitor) for index, monitor in enumerate(self._monitors)]

    def _swept(self, index: int, monitor: DivergenceMonitor) -> Sweep:
        end, stopped = len(self._losses), None
        if monitor.stop is not None:
            end, stopped = monitor.stop[0] + 1, monitor.stop[1]
        losses = [rung[index] for rung in self._losses[:end]]
        valid = None
        if self.valid_data is not None:
            valid = [rung[index] for rung in self._valid_losses[:end]]
            valid += [math.nan] * (end - len(valid))
        return Sweep(losses, valid, stopped)

    def _loss(self, ctx: Context) -> torch.Tensor:
        """The batch's loss in each model: the varied optimizer's, else the mean over optimizers."""
        if self.ensemble is not None:
            return self.ensemble.losses
        loss: Any = ctx.loss
        if is_mapping(loss):
            if not loss:
                raise LuzError("`step` must set `ctx.loss`; the learning rate finder records it.")
            if self.sweep.opt_name in loss:
                loss = loss[self.sweep.opt_name]
            else:
                loss = torch.stack([torch.as_tensor(v).reshape(()) for v in loss.values()]).mean()
        return torch.as_tensor(loss).detach().reshape(1)

    def _validation_context(self, ctx: Context) -> Context:
        """A run of its own on the same model: the training goes on as if it had not been."""
        add = Callback.from_functions(weight=float("inf"), on_valid_batch_end=self._add_valid_batch)
        shared = [c for c in ctx.callbacks if c not in (self.sweep, self) and not c.runs_last]
        run = internals(ctx)
        return Context(
            verbose=False,
            accelerator=ctx.accelerator,
            device=ctx.device,
            model=ctx.model,
            optimizers=ctx.optimizers,
            loss_fn=ctx.loss_fn,
            train_data=ctx.train_data,
            valid_data=self.valid_data,
            epoch=1,
            max_epochs=ctx.max_epochs,
            training=False,
            hparams=ctx.hparams,
            opt_hparams=ctx.opt_hparams,
            buffers=ctx.buffers,
            callbacks=[*shared, add],
            internals=Internals(
                metric_set=run.metric_set, opt_names=run.opt_names, autocast=run.autocast
            ),
        )

    def _add_valid_batch(self, ctx: Context) -> None:
        loss = self._loss(ctx) if ctx.device.type == "mps" else self._loss(ctx).double()
        rows = internals(ctx).n_rows
        self._valid_sum.append((loss * rows, rows))

    def _validation_loss(self, ctx: Context, validation: Context) -> torch.Tensor:
        """The validation loss, averaged over samples, with the current weights."""
        self._valid_sum = []
        run, reason = internals(ctx), None
        try:
            with preserved_random_state(), in_eval_mode(ctx.model), bound(validation):
                validate(validation)
        except Exception:
            reason = run.requested_reason
            if reason is None:
                raise  # else the signal has ended the worker processes, too
        reason = reason or internals(validation).stop.reason
        if reason is not None:
            ctx.stop(reason)
        if not self._valid_sum:
            return torch.full((len(self._monitors),), math.nan, device=ctx.device)
        losses, rows = zip(*self._valid_sum, strict=True)
        return torch.stack(losses).sum(0) / sum(rows)

    def _forget_run(self) -> None:
        self._validation = None


def _end(ctx: Context, reason: str) -> None:
    """End the run without asking other processes, which do so too."""
    internals(ctx).stop.request(reason)


def _numbers(losses: Any) -> list[list[float]]:
    return losses.tolist()


@attrs.frozen
class Sweep:
    """What was recorded of one model.

    Attributes:
        losses: The loss of each rung.
        valid_losses: The validation loss of each rung, if there is any.
        stopped: Why it ended before the last rung; None if it did not.
    """

    losses: list[float]
    valid_losses: list[float] | None
    stopped: str | None
