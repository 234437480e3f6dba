"""The callback that raises the learning rate, rung by rung."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import final

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context, Optimizers, at_exit
from luzpy.core.modules import optimized_parameters
from luzpy.core.optimizers import after_step, rate_scales
from luzpy.ground.errors import LuzError


def learning_rates(steps: int, start_lr: float, end_lr: float, log_spaced: bool) -> list[float]:
    """The learning rate of each rung, in closed form; the last is exactly `end_lr`.

    Rung t of n uses start·(end/start)^(t/n), as R luz's finder does (its first rung from 1e-6 to
    1 in 100 is 1.15e-06), or start + (t/n)·(end - start).
    """
    shares = [t / steps for t in range(1, steps)]
    if log_spaced:
        ratio = end_lr / start_lr
        return [*(start_lr * ratio**share for share in shares), end_lr]
    return [*(start_lr + share * (end_lr - start_lr) for share in shares), end_lr]


@final
class SweepLR(Callback):
    """Sets the learning rate of the varied optimizers at each rung.

    Parameter groups keep their shares of the rate, except those that have their own rate.

    Args:
        rates: The learning rate of each rung, that which `set_opt_hparams(lr=...)` sets.
        opt_name: Which optimizer to vary; all if None.
    """

    weight: float = float("-inf")

    def __init__(self, rates: Sequence[float], opt_name: str | None) -> None:
        self.rates = rates
        self.opt_name = opt_name

    def on_fit_begin(self, ctx: Context) -> None:
        self.rung = 0
        self.varied = _varied(ctx.optimizers, self.opt_name)
        self.scales = {name: rate_scales(ctx, name) for name in self.varied}
        self.stepped: set[str] = set()
        self.any_stepped = False
        for name, optimizer in ctx.optimizers.items():
            at_exit(ctx, after_step(optimizer, partial(self._note_step, name)))

    def on_train_batch_begin(self, ctx: Context) -> None:
        rate = self.rates[self.rung]
        for name, optimizer in self.varied.items():
            for group, scale in zip(optimizer.param_groups, self.scales[name], strict=True):
                if scale is None:
                    continue
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate * scale)
                else:
                    group["lr"] = rate * scale

    def _note_step(self, name: str) -> None:
        self.any_stepped = True
        if name in self.varied:
            self.stepped.add(name)

    @property
    def all_stepped(self) -> bool:
        """Whether every varied optimizer has stepped in this rung."""
        return len(self.stepped) == len(self.varied)

    def nothing_steps(self, ctx: Context) -> bool:
        """Whether no optimizer has stepped so far, and no gradient has been accumulated."""
        if self.any_stepped:
            return False
        return all(p.grad is None for p in optimized_parameters(ctx.optimizers.values()))

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
