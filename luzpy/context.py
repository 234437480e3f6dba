"""The state of a run: what callbacks, metrics and custom steps read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from torch import nn

from luzpy.batches import input_of, target_of
from luzpy.callback import HOOKS, Callback, Hook, implemented_hook
from luzpy.errors import LuzError
from luzpy.records import Records, get_metrics, metrics_frame, new_records

if TYPE_CHECKING:
    import pandas as pd

    from luzpy.device import Accelerator

Optimizers = dict[str, torch.optim.Optimizer]
_LIST: Any = list  # untyped, so that no `cast` is needed where every batch passes


class StopFit(Exception):
    """Raised to end training in an orderly way; the loop catches it in one place.

    Args:
        reason: What `fitted.stopped` will say.
        hook: Called before `on_fit_end`.
    """

    def __init__(self, reason: str, hook: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hook = hook


@attrs.frozen
class Resume:
    """Where a resumed run goes on.

    Args:
        epoch: The epoch.
        part: `"train"`, `"valid"`, or `"epoch"` at its end.
        batches: How many batches of that part are done.
        restore: Called when they have been skipped; puts the whole state back.
        before_skipping: Called before each of them with its number, from 0.
    """

    epoch: int
    part: str
    batches: int
    restore: Callable[[Context], None]
    before_skipping: Callable[[int], None]


default_backward: Callable[[torch.Tensor], Any] = cast(Any, torch.Tensor).backward


def default_step_opt(opt: torch.optim.Optimizer) -> None:
    """How an optimizer is stepped unless a callback replaces `ctx.step_opt`."""
    opt.step()


@attrs.define(slots=True, eq=False, repr=False, kw_only=True)
class Context:
    """The state of one run, handed to every hook and, during the run, bound as `self.ctx`.

    Fields have R luz's names. `epoch` and `iter` count from 1; before the first they are 0.

    Attributes:
        verbose: Whether the run prints.
        accelerator: The `Accelerator` of the run.
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
        batch_size: How many rows it has.
        stands_in: Whether it only keeps this process in step with others that have one batch more:
            no loss, metric, gradient or prediction of it counts.
        pred: The model's output for it.
        loss_fn: `loss_fn(pred, target)`.
        loss: Optimizer name → detached loss (a custom step may set a plain tensor).
        loss_grad: The loss with its graph, in a training step.
        forward_context: A reusable context manager entered around every forward pass and its
            loss; a custom step writes `with self.ctx.forward_context:` itself.
        backward: `backward(loss)`.
        step_opt: `step_opt(optimizer)`, which takes the step.
        metrics: `"train"` and `"valid"` → the metrics being accumulated.
        metric_set: The templates they are made from.
        records: What the run has logged, as plain dicts and lists.
        hparams: The module's hyperparameters.
        opt_hparams: The optimizer's hyperparameters.
        buffers: A dict in which callbacks may leave things for one another.
        stopped: How the run ended.
        at_exit: Functions called when the run is over, however it ended.
        at_safe_point: Functions called with the context and `"train"`, `"valid"` or `"epoch"`
            after every batch and every epoch, and with `"fit"` at the end, when all callbacks
            have run.
        step_begins: Whether the batch is the first that its optimizer step takes in: gradients
            are zeroed before it.
        step_ends: Whether it is the last: the optimizer steps after it.
        stop_request: Raised at the next safe point, if set: a `StopFit`, or a `SystemExit`.
        stop_wanted: What this process was told, of several that have to agree.
        resume: Where a resumed run goes on, until it is there.
    """

    verbose: bool
    accelerator: Accelerator
    model: nn.Module
    optimizers: Optimizers = attrs.field(factory=Optimizers)
    opt: torch.optim.Optimizer | None = None
    opt_name: str | None = None
    data: Iterable[Any] | None = None
    train_data: Iterable[Any] | None = None
    valid_data: Iterable[Any] | None = None
    min_epochs: int = 0
    max_epochs: int = 0
    epoch: int = 0
    iter: int = 0
    training: bool = True
    batch: Any = None
    batch_size: int = 0
    stands_in: bool = False
    pred: Any = None
    loss_fn: Callable[[Any, Any], torch.Tensor] | None = None
    loss: Any = attrs.field(factory=dict[str, Any])
    loss_grad: torch.Tensor | None = None
    forward_context: AbstractContextManager[Any] = attrs.field(factory=nullcontext)
    backward: Callable[[torch.Tensor], Any] = default_backward
    step_opt: Callable[[torch.optim.Optimizer], Any] = default_step_opt
    metrics: dict[str, list[Any]] = attrs.field(factory=lambda: {"train": [], "valid": []})
    metric_set: Any = None
    records: Records = attrs.field(factory=new_records)
    hparams: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    opt_hparams: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    buffers: dict[str, Any] = attrs.field(factory=dict[str, Any])
    stopped: str = "completed"
    at_exit: list[Callable[[], None]] = attrs.field(factory=list[Callable[[], None]])
    at_safe_point: list[Callable[[Context, str], None]] = attrs.field(
        factory=list[Callable[[Any, str], None]]
    )
    step_begins: bool = True
    step_ends: bool = True
    stop_request: StopFit | SystemExit | None = None
    stop_wanted: StopFit | SystemExit | None = None
    resume: Resume | None = None
    _callbacks: list[Callback] = attrs.field(factory=list[Callback], alias="callbacks")
    _hooks: dict[str, list[Hook]] = attrs.field(factory=dict[str, list[Hook]], init=False)

    def __attrs_post_init__(self) -> None:
        self.callbacks = self._callbacks

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks, in the order in which they run."""
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: list[Callback]) -> None:
        self._callbacks = sorted(callbacks, key=lambda callback: callback.weight)
        found = {
            name: [implemented_hook(callback, name) for callback in self._callbacks]
            for name in HOOKS
        }
        self._hooks = {name: [hook for hook in hooks if hook] for name, hooks in found.items()}

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return self.accelerator.device

    @property
    def input(self) -> Any:
        """The first part of the batch (the batch itself, if it has no parts)."""
        batch = self.batch
        return batch[0] if type(batch) is _LIST and batch else input_of(batch)

    @input.setter
    def input(self, value: Any) -> None:
        self._set_part(0, value)

    @property
    def target(self) -> Any:
        """The second part of the batch, or None."""
        batch = self.batch
        return batch[1] if type(batch) is _LIST and len(batch) > 1 else target_of(batch)

    @target.setter
    def target(self, value: Any) -> None:
        self._set_part(1, value)

    def _set_part(self, index: int, value: Any) -> None:
        batch = self.batch
        if isinstance(batch, dict):
            parts = dict(cast("dict[Any, Any]", batch))
            keys = list(parts)
            parts[keys[index] if index < len(keys) else "target"] = value
            self.batch = parts
            return
        parts = list(cast("list[Any]", batch)) if isinstance(batch, (list, tuple)) else [batch]
        if index < len(parts):
            parts[index] = value
        else:
            parts.append(value)
        self.batch = parts

    def call(self, hook: str) -> None:
        """Call one hook of every callback, in order and without gradients.

        Raises:
            LuzError: If a callback fails; it says which one, and the original is its cause.
            ValueError: If there is no such hook.
        """
        functions = self._hooks.get(hook)
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
        except (LuzError, StopFit):
            raise
        except Exception as err:
            raise self.failure(f"The callback {_callback_name(function)}, {hook},", err) from err
        finally:
            if torch.is_grad_enabled() is not grad_enabled:
                torch.set_grad_enabled(grad_enabled)

    def failure(self, who: str, err: Exception) -> LuzError:
        """A `LuzError` that says who failed, and where in the run."""
        return LuzError(f"{who} failed {self.where()}: {type(err).__name__}: {err}")

    def where(self) -> str:
        """Where in the run we are, for messages."""
        if not self.epoch and not self.iter:
            return "before the first epoch"
        part = "training" if self.training else "validation"
        if not self.optimizers:
            part = "prediction"
        epoch = f"epoch {self.epoch}, " if self.epoch else ""
        return f"at {epoch}iteration {self.iter} ({part})"

    def request_stop(self, request: StopFit | SystemExit) -> None:
        """Ask for an orderly end at the next safe point; of several processes, when all know."""
        self.stop_wanted = request
        if self.accelerator.ranks.size == 1:
            self.stop_request = request

    def log(self, what: str, set: str, value: Any) -> None:
        """Append `value` to `records[what][set]`."""
        self.records.setdefault(what, {}).setdefault(set, []).append(value)

    def log_metric(self, name: str, value: float) -> None:
        """Keep `value` as this epoch's metric `name`, of the training or the validation set."""
        epochs = self.records["metrics"].setdefault("train" if self.training else "valid", [])
        while len(epochs) < max(self.epoch, 1):
            epochs.append({})
        epochs[max(self.epoch, 1) - 1][name] = value

    def get_metric(self, name: str, set: str, epoch: int | None = None) -> float | None:
        """The value of a metric in an epoch (the last one if None), or None if there is none."""
        epochs = self.records["metrics"].get(set, [])
        index = len(epochs) if epoch is None else epoch
        if not 1 <= index <= len(epochs):
            return None
        return epochs[index - 1].get(name)

    def get_metrics_df(self) -> pd.DataFrame:
        """All metrics so far: columns set, metric, epoch, value."""
        return metrics_frame(self.records)


@get_metrics.register(Context)
def _(x: Context) -> pd.DataFrame:
    return metrics_frame(x.records)


def _callback_name(function: Hook) -> str:
    owner = getattr(function, "__self__", None)
    if owner is not None:
        return type(owner).__name__
    return f"from {getattr(function, '__name__', repr(function))}()"
