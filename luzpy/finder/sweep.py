"""The two callbacks that make a learning rate finder of `fit`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import attrs
import torch

from luzpy.callback import Callback
from luzpy.context import Context, Optimizers, StopFit
from luzpy.errors import LuzError
from luzpy.finder.smoothing import exponential_average
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

    weight = float("-inf")

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
            optimizer.register_step_post_hook(lambda *_, name=name: self.stepped.add(name))

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Set the rung's learning rate."""
        rate = self.rates[self.rung]
        for name, optimizer in self.varied.items():
            for group, scale in zip(optimizer.param_groups, self.scales[name], strict=True):
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate * scale)
                else:
                    group["lr"] = rate * scale

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
    """When a sweep ends early.

    Args:
        stop_div: How many times the range seen up to the best smoothed loss it may have risen
            above that best; never for None.
    """

    stop_div: float | None

    def first_stop(self, losses: Sequence[float]) -> tuple[int, str] | None:
        """The first rung (from 0) that ends the sweep, and why; None if none does."""
        smoothed = exponential_average(losses)
        best = highest = None
        spread = 0.0
        for rung, (loss, value) in enumerate(zip(losses, smoothed, strict=True)):
            if not math.isfinite(loss):
                return rung, "not finite"
            highest = value if highest is None else max(highest, value)
            if best is None or value < best:
                best, spread = value, highest - value
            elif self.stop_div is not None and spread > 0 and value > best + self.stop_div * spread:
                return rung, "diverged"
        return None


@final
class RecordLoss(Callback):
    """Records the loss of each rung, before its update, and ends the sweep.

    Args:
        sweep: The callback that sets the learning rates.
        rule: When to stop before the last rung.
        valid_batches: What to validate on at every rung; nothing for None.
        bar: A progress bar with an `update` method, or None.
    """

    weight = float("inf")

    def __init__(self, sweep: SweepLR, rule: StopRule, valid_data: Any, bar: Any) -> None:
        self.sweep = sweep
        self.rule = rule
        self.valid_data = valid_data
        self.bar = bar
        self.losses: list[float] = []
        self.valid_losses: list[float] = []
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
        self._within.append(self._loss(ctx))
        if not self.sweep.all_stepped:
            if len(self._within) > MAX_BATCHES_WITHOUT_STEP:
                raise LuzError(
                    f"`step` must step the optimizer: it did not in {MAX_BATCHES_WITHOUT_STEP} "
                    "batches."
                )
            return
        rung = self._within
        self._ahead.append(rung[0] if len(rung) == 1 else torch.stack(rung).mean())
        self._within = []
        self.sweep.advance()
        last = self.sweep.rung == len(self.sweep.rates)
        if last or len(self._ahead) >= LOOK_EVERY:
            reason = self.look()
            if reason is not None:
                raise StopFit(reason)
        if last:
            raise StopFit("completed")

    def on_interrupt(self, ctx: Context) -> None:
        """Keep what there is."""
        self.look()

    def look(self) -> str | None:
        """Read the losses so far; cut them where the sweep ends and say why it does."""
        if self._ahead:
            self.losses += torch.stack(self._ahead).tolist()
            if self.bar is not None:
                self.bar.update(len(self._ahead))
        if self._valid_ahead:
            self.valid_losses += torch.stack(self._valid_ahead).tolist()
        self._ahead, self._valid_ahead = [], []
        stop = self.rule.first_stop(self.losses)
        if stop is None:
            return None
        rung, reason = stop
        del self.losses[rung + 1 :]
        return reason

    def _loss(self, ctx: Context) -> torch.Tensor:
        """The batch's loss: the varied optimizer's, else the mean over optimizers."""
        loss: Any = ctx.loss
        if isinstance(loss, dict):
            if not loss:
                raise LuzError("`step` must set `ctx.loss`; the learning rate finder records it.")
            losses: dict[str, torch.Tensor] = loss
            name = self.sweep.opt_name
            if name in losses:
                loss = losses[name]
            else:
                loss = torch.stack([torch.as_tensor(v).reshape(()) for v in losses.values()]).mean()
        return torch.as_tensor(loss).detach().reshape(())


def _validation_loss(ctx: Context, valid_data: Any) -> torch.Tensor:
    """The mean loss over samples of `valid_data`; the training goes on as if nothing had been."""
    kept = (ctx.data, ctx.valid_data, ctx.iter, ctx.batch, ctx.batch_size, ctx.pred, ctx.loss)
    ctx.valid_data = valid_data
    ctx.buffers.pop("valid_loss", None)
    with preserved_random_state(), in_eval_mode(ctx.model):
        validate(ctx)
    total, rows = ctx.buffers.pop("valid_loss")
    ctx.data, ctx.valid_data, ctx.iter, ctx.batch, ctx.batch_size, ctx.pred, ctx.loss = kept
    ctx.training = True
    return total / rows
