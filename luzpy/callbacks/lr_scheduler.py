"""Learning rate schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, final

import torch

from luzpy.callbacks.monitor import Monitor
from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.core.hooks import HOOKS, Hook
from luzpy.core.modules import learning_rates
from luzpy.ground.errors import LuzError
from luzpy.ground.records import add_batch_rates
from luzpy.ground.types import Values

BY_BATCH, BY_EPOCH = "on_train_batch_end", "on_epoch_end"
AFTER_STEP = ("on_train_batch_after_step", BY_BATCH)
GO_BY_BATCH = (torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR)


@final
class LRScheduler(Callback):
    """Steps one of torch's learning rate schedulers. Port of R luz's `luz_callback_lr_scheduler()`.

    If a fitted model is trained further, the schedule starts from scratch, from the learning rate
    of the specification.

    Args:
        lr_scheduler: A class from `torch.optim.lr_scheduler`, or any function that creates a
            scheduler from an optimizer. The learning rates are in `records["lr"]`; see `Metrics`.
        *args: The scheduler's arguments after the optimizer.
        call_on: The hook at which it steps, such as `"on_train_batch_end"`. None: that hook for
            torch's `OneCycleLR` and `CyclicLR`, which step per batch, else `"on_epoch_end"`.
        opt_name: Which optimizer, if there are several.
        monitor: The metric passed to a scheduler whose `step` needs one (`ReduceLROnPlateau`): by
            default the valid loss, else the train loss. Such a scheduler can only step at
            `"on_epoch_end"`.
        **kwargs: The scheduler's further arguments.

    Raises:
        ValueError: If `call_on` is not a hook.
        LuzError: In a run: if `opt_name` is missing or unknown, or `monitor` does not exist.

    Examples:
        >>> import luzpy as luz, torch
        >>> luz.callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=2)
        <luzpy.callbacks.LRScheduler: StepLR, on_epoch_end>
    """

    def __init__(
        self,
        lr_scheduler: Callable[..., Any],
        *args: Any,
        call_on: str | None = None,
        opt_name: str | None = None,
        monitor: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not callable(lr_scheduler):
            raise TypeError(
                "`lr_scheduler` must be a scheduler's class or a function that makes one of an "
                f"optimizer, got {lr_scheduler!r}."
            )
        if call_on is not None and call_on not in HOOKS:
            raise ValueError(f"`call_on` must be one of {', '.join(HOOKS)}, got {call_on!r}.")
        if call_on == "on_fit_begin":
            raise ValueError("`call_on` must be a hook after 'on_fit_begin', got that one.")
        self.lr_scheduler = lr_scheduler
        self.args = args
        self.kwargs = kwargs
        # What a function makes is seen when the run begins.
        self._asks: bool = call_on is None and not isinstance(lr_scheduler, type)
        self.call_on: str = call_on or _fitting(lr_scheduler)
        self.opt_name = opt_name
        self.monitor: Monitor | None = None if monitor is None else Monitor(monitor)
        self.scheduler: Any = None
        self._name = ""
        self._wants_metrics = False

    def hook(self, name: str) -> Hook | None:
        # No attribute of its own: a callback that holds a method of itself is a cycle.
        if self._asks and name in (BY_BATCH, BY_EPOCH):
            return self._step_by_batch if name == BY_BATCH else self._step_by_epoch
        return self._step if name == self.call_on else super().hook(name)

    def on_fit_begin(self, ctx: Context) -> None:
        name = self.opt_name
        if name is None:
            if len(ctx.optimizers) > 1:
                raise LuzError(
                    "`opt_name` must say which optimizer to schedule, one of "
                    f"{', '.join(map(repr, ctx.optimizers))}, got None."
                )
            name = next(iter(ctx.optimizers))
        if name not in ctx.optimizers:
            raise LuzError(
                f"`opt_name` must be one of {', '.join(map(repr, ctx.optimizers))}, got {name!r}."
            )
        try:
            self.scheduler = self.lr_scheduler(ctx.optimizers[name], *self.args, **self.kwargs)
        except (TypeError, ValueError) as err:
            kind = TypeError if isinstance(err, TypeError) else ValueError
            raise kind(
                f"`lr_scheduler` must make a scheduler of its arguments, got {self.args!r} and "
                f"{self.kwargs!r}: {err}"
            ) from err
        self._name = name
        if self._asks:
            self.call_on = _fitting(type(self.scheduler))
        self._wants_metrics = "metrics" in inspect.signature(self.scheduler.step).parameters
        if self._wants_metrics:
            if self.monitor is not None:
                self.monitor.check(ctx)
            if self.call_on != "on_epoch_end":
                raise LuzError(
                    "`call_on` must be 'on_epoch_end' for a scheduler whose step wants metrics, "
                    f"got {self.call_on!r}."
                )

    def _step_by_batch(self, ctx: Context) -> None:
        if self.call_on == BY_BATCH:
            self._step(ctx)

    def _step_by_epoch(self, ctx: Context) -> None:
        if self.call_on == BY_EPOCH:
            self._step(ctx)

    def _step(self, ctx: Context) -> None:
        by_batch = self.call_on.startswith("on_train_batch_")
        uses_next = by_batch and self.call_on not in AFTER_STEP
        if by_batch and not uses_next:
            self._log(ctx)
        self._advance(ctx)
        if uses_next:
            self._log(ctx)

    def _log(self, ctx: Context) -> None:
        """Keep the rates of this batch's step."""
        rates = learning_rates(ctx.optimizers[self._name])
        add_batch_rates(ctx.records, self._name, ctx.epoch, rates)

    def _advance(self, ctx: Context) -> None:
        if self._wants_metrics:
            default = "train_loss" if ctx.valid_data is None else "valid_loss"
            monitor = self.monitor or Monitor(default)
            self.scheduler.step(monitor.value(ctx))
        else:
            self.scheduler.step()

    def state_dict(self) -> Values:
        return {} if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state: Values) -> None:
        self.scheduler.load_state_dict(state)

    def __repr__(self) -> str:
        name = getattr(self.lr_scheduler, "__name__", repr(self.lr_scheduler))
        return f"<luzpy.callbacks.LRScheduler: {name}, {self.call_on}>"


def _fitting(kind: Any) -> str:
    """The hook at which a scheduler of this class should step."""
    by_batch = isinstance(kind, type) and issubclass(kind, GO_BY_BATCH)
    return BY_BATCH if by_batch else BY_EPOCH
