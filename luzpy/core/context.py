"""The state of a run: what callbacks, metrics and custom steps read and write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from luzpy.core.hooks import HOOKS, Hook, HookOwner
from luzpy.core.protocols import RunAccelerator
from luzpy.data.batches import input_of, target_of, with_part
from luzpy.data.unpacking import Unpack, Unpacking
from luzpy.ground.errors import add_note
from luzpy.ground.records import (
    Records,
    append,
    epoch_metrics,
    get_metrics,
    metrics_frame,
    new_records,
    set_metric,
)
from luzpy.ground.types import Batch, Values
from luzpy.metrics.metric import Metric
from luzpy.metrics.metric_set import MetricSet

if TYPE_CHECKING:
    import pandas as pd

Optimizers = dict[str, torch.optim.Optimizer]
Loss = Callable[[Batch, Batch], torch.Tensor]
_LIST: type[list[Batch]] = list


@attrs.define
class Stop:
    """Whether something is to end: the first reason counts."""

    reason: str | None = None

    def request(self, reason: str | None) -> None:
        """Give a reason."""
        self.reason = self.reason or reason


def _no_loss(ctx: Any) -> torch.Tensor:
    raise NotImplementedError  # the loop says what gives it, at the start of each epoch


@attrs.define(slots=True, eq=False, kw_only=True)
class Internals:
    """What luzpy keeps of a run for itself.

    Attributes:
        metric_set: The templates that the run's metrics are made from.
        spec: What the run was specified by.
        began: When the run began, in seconds since 1970; one that was resumed began when it first
            did.
        fit_seed: The `seed` that `fit` was given.
        make_result: `make_result(ctx, stopped)`, what the run returns.
        opt_names: The names of the losses that a step goes through: each optimizer's own, or one
            on which all of them step.
        opt_name: Which of them is under way.
        unpack: What takes batches apart, if the user gave it.
        unpacking: How the batch is taken apart; None if it is (input, target) in order.
        n_rows: How many rows the batch has; 0 if none of them count.
        loss_parts: Optimizer name → the parts of its loss, where it is a sum of named ones.
        loss_is_outputs: Whether the loss is `.loss` of what the module returns.
        is_loss_summed: Whether the loss is the sum over the batch's rows, not their mean.
        autocast: Entered around every forward pass and its loss.
        loss_of: What gives the loss of a batch.
        checked_losses: The parts, training or not, whose first batch has been checked.
        starts_step: Whether gradients are zeroed before this batch.
        ends_step: Whether the optimizer steps after it.
        stop: Whether the run is to end; the loop checks after each batch and each epoch.
        requested: What `ctx.stop` writes to: `stop` itself, unless others have to agree to it.
        is_cut_short: Whether the run was interrupted in the middle of a batch.
        at_exit: Functions called when the run is over, however it ended.
        hooks: Hook name → the callbacks' functions, in order.
    """

    metric_set: MetricSet | None = None
    spec: Any = None
    began: float = attrs.field(factory=time.time)
    fit_seed: int | None = None
    make_result: Callable[[Any, str], Any] | None = None
    opt_names: tuple[str, ...] = ()
    opt_name: str | None = None
    unpack: Unpack | None = None
    unpacking: Unpacking | None = None
    n_rows: int = 0
    loss_parts: dict[str, Values] = attrs.field(factory=dict[str, Values])
    loss_is_outputs: bool = False
    is_loss_summed: bool = False
    autocast: AbstractContextManager[object] = attrs.field(factory=nullcontext)
    loss_of: Callable[[Any], torch.Tensor] = attrs.field(default=_no_loss)
    checked_losses: set[bool] = attrs.field(factory=set[bool])
    starts_step: bool = True
    ends_step: bool = True
    stop: Stop = attrs.field(factory=Stop)
    requested: Stop = attrs.field(default=attrs.Factory(lambda self: self.stop, takes_self=True))
    is_cut_short: bool = False
    at_exit: list[Callable[[], None]] = attrs.field(factory=list[Callable[[], None]])
    hooks: dict[str, list[Hook]] = attrs.field(factory=dict[str, list[Hook]])

    @property
    def requested_reason(self) -> str | None:
        """Why the run is to end, also if others have not agreed to it yet."""
        return self.stop.reason or self.requested.reason


def _backward(loss: torch.Tensor) -> None:
    loss.backward()  # pyright: ignore[reportUnknownMemberType]  (torch's has no types)


def _step_opt(opt: torch.optim.Optimizer) -> None:
    opt.step()


@attrs.define(slots=True, eq=False, repr=False, kw_only=True)
class Context:
    """The state of one run, passed to every hook and, during the run, bound to the module's `ctx`.

    Fields have R luz's names. `epoch` and `iter` count from 1; they are 0 before the first.

    Attributes:
        verbose: Whether the run prints.
        accelerator: The `Accelerator` of the run.
        device: Where the model and the batches are.
        model: The module in training.
        optimizers: Optimizer name → optimizer; a single one is called `"opt"`.
        data: The DataLoader being iterated, `train_data` or `valid_data`.
        train_data: The DataLoader for training.
        valid_data: The DataLoader for validation, or None.
        min_epochs: Early stopping does not act before this epoch.
        max_epochs: The last epoch.
        epoch: The current epoch.
        iter: The current batch within the epoch's training or validation.
        training: Whether the run is in its training part.
        batch: The current batch, on the device.
        pred: The model's output for the batch.
        loss_fn: `loss_fn(pred, target)`.
        loss: Optimizer name → detached loss (a custom step may set a plain tensor).
        loss_grad: The loss with its graph, in a training step.
        backward: `backward(loss)`.
        step_opt: `step_opt(optimizer)`, which takes the step.
        metrics: `"train"` and `"valid"` → the metrics being accumulated.
        records: What the run has logged, as plain dicts and lists.
        hparams: The module's hyperparameters.
        opt_hparams: The optimizer's hyperparameters.
        buffers: A dict in which callbacks can share values.
    """

    verbose: bool
    accelerator: RunAccelerator
    model: nn.Module
    device: torch.device = attrs.field(
        default=attrs.Factory(lambda self: self.accelerator.device, takes_self=True)
    )
    optimizers: Optimizers = attrs.field(factory=Optimizers)
    data: Iterable[Batch] | None = None
    train_data: Iterable[Batch] | None = None
    valid_data: Iterable[Batch] | None = None
    min_epochs: int = 0
    max_epochs: int = 0
    epoch: int = 0
    iter: int = 0
    training: bool = True
    batch: Batch = None
    pred: Batch = None
    loss_fn: Loss | None = None
    loss: Any = attrs.field(factory=Values)
    loss_grad: torch.Tensor | None = None
    backward: Callable[[torch.Tensor], object] = _backward
    step_opt: Callable[[torch.optim.Optimizer], object] = _step_opt
    metrics: dict[str, list[Metric]] = attrs.field(factory=lambda: {"train": [], "valid": []})
    records: Records = attrs.field(factory=new_records)
    hparams: Mapping[str, Any] = attrs.field(factory=Values)
    opt_hparams: Mapping[str, Any] = attrs.field(factory=Values)
    buffers: Values = attrs.field(factory=Values)
    _internals: Internals = attrs.field(factory=Internals, alias="internals")
    _callbacks: list[HookOwner] = attrs.field(factory=list[HookOwner], alias="callbacks")

    def __attrs_post_init__(self) -> None:
        self.callbacks = self._callbacks

    @property
    def callbacks(self) -> list[HookOwner]:
        """The callbacks, in the order in which they run."""
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: list[HookOwner]) -> None:
        self._callbacks = sorted(callbacks, key=lambda c: (c.runs_last, c.weight))
        for name in HOOKS:
            hooks = [callback.hook(name) for callback in self._callbacks]
            self._internals.hooks[name] = [hook for hook in hooks if hook]

    @property
    def opt(self) -> torch.optim.Optimizer:
        """The current optimizer: the only one, or within luzpy's step the one whose step it is."""
        name = self.opt_name
        if name not in self.optimizers:
            raise AttributeError(f"There is no optimizer {name!r} here: `ctx.optimizers` is empty.")
        return self.optimizers[name]

    @property
    def opt_name(self) -> str:
        """Its name."""
        names = self._internals.opt_names
        name = names[0] if len(names) == 1 else self._internals.opt_name
        if name is None or (self.optimizers and name not in self.optimizers):
            known = ", ".join(map(repr, self.optimizers or names)) or "none"
            raise AttributeError(
                f"There is no single current optimizer here: use one of `ctx.optimizers` ({known})."
            )
        return name

    @property
    def input(self) -> Batch:
        """The model's input: the first part of the batch, or what `unpack` returns.

        It is the batch itself, if it has no parts.
        """
        batch, unpacking = self.batch, self._internals.unpacking
        if unpacking is not None:
            return unpacking.of(batch).input
        return batch[0] if type(batch) is _LIST and batch else input_of(batch)

    @input.setter
    def input(self, value: Batch) -> None:
        unpacking = self._internals.unpacking
        if unpacking is None:
            self.batch = with_part(self.batch, 0, value)
        else:
            unpacking.of(self.batch).input = value

    @property
    def target(self) -> Batch:
        """The second part of the batch, or what `unpack` returns; None if there is none."""
        batch, unpacking = self.batch, self._internals.unpacking
        if unpacking is not None:
            return unpacking.of(batch).target
        return batch[1] if type(batch) is _LIST and len(batch) > 1 else target_of(batch)

    @target.setter
    def target(self, value: Batch) -> None:
        unpacking = self._internals.unpacking
        if unpacking is None:
            self.batch = with_part(self.batch, 1, value)
        else:
            unpacking.of(self.batch).target = value

    def autocast(self) -> AbstractContextManager[object]:
        """The context manager for the forward passes and losses of a custom step.

        Under `MixedPrecision` it is torch's autocast, else nothing.
        """
        return self._internals.autocast

    def stop(self, reason: str) -> None:
        """End the run after the current batch or epoch.

        Every callback still gets its hook. Then `on_fit_end` is called, and `fitted.stopped` is the
        reason. If several reasons are given, the first one counts.

        Args:
            reason: The value of `fitted.stopped`.

        Raises:
            TypeError: If it is not a string.
            ValueError: If it is empty.
        """
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`reason` must be a string, got {reason!r}.")
        if not reason:
            raise ValueError("`reason` must not be empty, got ''.")
        self._internals.requested.request(reason)

    def call(self, hook: str) -> None:
        """Call one hook of every callback, in order and with gradients disabled.

        Raises:
            ValueError: If there is no such hook.
        """
        functions = self._internals.hooks.get(hook)
        if not functions:
            if functions is None:
                raise ValueError(f"`hook` must be one of {', '.join(HOOKS)}, got {hook!r}.")
            return
        grad_enabled = torch.is_grad_enabled()
        if grad_enabled:
            torch.set_grad_enabled(False)
        function = functions[0]
        try:
            for function in functions:
                function(self)
        except Exception as err:
            add_note(err, f"in the callback {_owner(function)}, {hook}, {where(self)}.")
            raise
        finally:
            if torch.is_grad_enabled() is not grad_enabled:
                torch.set_grad_enabled(grad_enabled)

    def log(self, what: str, set: str, value: object) -> None:
        """Append `value` to `records[what][set]`."""
        append(self.records, what, set, value)

    def log_metric(self, name: str, value: float) -> None:
        """Log `value` as this epoch's metric `name`, of the training or the validation set."""
        set_metric(
            self.records, "train" if self.training else "valid", max(self.epoch, 1), name, value
        )

    def get_metric(self, name: str, set: str, epoch: int | None = None) -> float | None:
        """The value of a metric in an epoch (the last one if None), or None if there is none."""
        return epoch_metrics(self.records, set, epoch).get(name)

    def get_metrics_df(self) -> pd.DataFrame:
        """Return all metrics so far, as a frame with columns set, metric, epoch, value."""
        return metrics_frame(self.records)


@get_metrics.register(Context)
def _(x: Context) -> pd.DataFrame:
    return metrics_frame(x.records)


def internals(ctx: Context) -> Internals:
    """What luzpy keeps of the run for itself."""
    return ctx._internals  # pyright: ignore[reportPrivateUsage]


def at_exit(ctx: Context, function: Callable[[], None]) -> None:
    """Register a function to be called once when the run is over, however it ended."""
    functions = internals(ctx).at_exit
    if function not in functions:
        functions.append(function)


def where(ctx: Context) -> str:
    """Where in the run we are, for messages."""
    if not ctx.epoch and not ctx.iter:
        return "before the first epoch"
    if not ctx.epoch and not ctx.training and ctx.train_data is not None:
        return "in the validation before the first epoch"
    part = "training" if ctx.training else "validation"
    if not internals(ctx).opt_names:
        part = "prediction"
    epoch = f"epoch {ctx.epoch}, " if ctx.epoch else ""
    return f"at {epoch}iteration {ctx.iter} ({part})"


def _owner(function: Hook) -> str:
    owner = getattr(function, "__self__", None)
    if owner is not None:
        return type(owner).__name__
    return f"from {getattr(function, '__name__', repr(function))}()"
