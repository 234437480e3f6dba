"""The `Metric` base class, and the adapters that make one of what users give."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast, final

import torch

from luzpy.batches import batch_rows
from luzpy.plain import first_foreign, plain

# What every module has, and what of torchmetrics' own does not change from batch to batch.
_NOT_ACCUMULATED = frozenset(vars(torch.nn.Module())) | {"_defaults", "_device", "_computed"}


class Metric(ABC):
    """Something accumulated over the batches of an epoch. Port of R luz's `luz_metric()`.

    A subclass sets `abbrev` and writes `reset`, `update` and `compute`. A metric given to `setup`
    is a template: every run works on its own copy, reset at the start of each epoch. Keep sums as
    tensors on the device of `preds` and read them in `compute` only, so that a GPU is not waited
    for at every batch.

    Attributes:
        abbrev: The name in progress bars; in lower case the name in records and tables.

    Examples:
        >>> import luzpy as luz
        >>> class Largest(luz.metrics.Metric):
        ...     abbrev = "Largest"
        ...     def reset(self):
        ...         self.value = float("-inf")
        ...     def update(self, preds, target):
        ...         self.value = max(self.value, float(preds.max()))
        ...     def compute(self):
        ...         return self.value
    """

    abbrev: str = ""
    # Whether `compute` itself reaches out to the other processes of the run, as torchmetrics does.
    gathers_itself: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.abbrev:
            cls.abbrev = cls.__name__

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches."""

    @abstractmethod
    def update(self, preds: Any, target: Any) -> None:
        """Take in one batch.

        Args:
            preds: The model's output, detached.
            target: The batch's target.
        """

    @abstractmethod
    def compute(self) -> Any:
        """The value over all batches: a number, a tensor, or a dict name → number."""

    def merge(self, others: Sequence[Any]) -> None:
        """Take in what the metrics of other processes have accumulated, in a distributed run.

        Where a metric has it, each process accumulates its own rows, and they are merged when the
        epoch is over. A metric without it is handed all processes' batches one after another,
        which is right for any, but sends every prediction to every process.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint in the middle of an epoch keeps.

        Attributes that are tensors, plain values, queues, or metrics themselves. A metric that
        accumulates something else writes both methods itself.
        """
        state = {name: _kept(value) for name, value in vars(self).items()}
        return {name: value for name, value in state.items() if first_foreign(value) is None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, value in state.items():
            own = vars(self).get(name)
            if isinstance(own, Metric):
                own.load_state_dict(value)
            elif _is_torchmetric(own):
                load_torchmetrics_state(own, value)
            elif type(own) is not dict and isinstance(own, dict):  # such as a Counter
                cast("dict[Any, Any]", own).clear()
                cast("dict[Any, Any]", own).update(value)
            elif isinstance(own, deque):
                cast("deque[Any]", own).clear()
                cast("deque[Any]", own).extend(value)
            else:
                setattr(self, name, value)


@final
class FunctionMetric(Metric):
    """A plain function `(preds, target) -> number`, averaged over samples."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function
        self.abbrev: str = getattr(function, "__name__", type(function).__name__)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.total: Any = 0.0
        self.rows: int = 0

    def update(self, preds: Any, target: Any) -> None:
        """Add the batch's value, weighted by its rows."""
        rows = batch_rows((target, preds), target, preds)
        self.total = self.total + self.function(preds, target) * rows
        self.rows += rows

    def merge(self, others: Sequence[Any]) -> None:
        """Add the other processes' totals."""
        self.total = sum((other.total for other in others), self.total)
        self.rows += sum(other.rows for other in others)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"total": self.total, "rows": self.rows}

    def compute(self) -> float:
        """The mean over samples."""
        return float(self.total) / self.rows if self.rows else float("nan")


@final
class TorchMetric(Metric):
    """A `torchmetrics.Metric` or `MetricCollection`."""

    gathers_itself = True

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        # The rows of a MetricCollection have the names that it gives them.
        self.abbrev: str = "" if hasattr(metric, "items") else type(metric).__name__

    def reset(self) -> None:
        """Forget all batches."""
        self.metric.reset()

    def update(self, preds: Any, target: Any) -> None:
        """Hand the batch on, moving the metric to its device first."""
        if isinstance(preds, torch.Tensor) and preds.device != self._device():
            self.to(preds.device)
        self.metric.update(preds, target)

    def to(self, device: torch.device) -> None:
        """Move it, with what it has accumulated."""
        self.metric.to(device)

    def compute(self) -> Any:
        """What torchmetrics computes."""
        return self.metric.compute()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: torchmetrics_state(metric) for name, metric in self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, metric in self._parts():
            load_torchmetrics_state(metric, state[name])

    def _parts(self) -> list[tuple[str, Any]]:
        if hasattr(self.metric, "items"):  # a MetricCollection; its groups share states
            return list(self.metric.items(keep_base=True, copy_state=False))
        return [("", self.metric)]

    def _device(self) -> Any:
        first = next(iter(self.metric.values()), None) if hasattr(self.metric, "values") else None
        return getattr(self.metric if first is None else first, "device", None)


def torchmetrics_state(metric: Any) -> dict[str, Any]:
    """What a `torchmetrics.Metric`, and those that it wraps, have accumulated."""
    kept: dict[str, Any] = {}
    for where, part in metric.named_modules():
        own = {name: plain(v) for name, v in part.__dict__.items() if name not in _NOT_ACCUMULATED}
        kept[where] = {name: v for name, v in own.items() if first_foreign(v) is None}
    return kept


def load_torchmetrics_state(metric: Any, state: dict[str, Any]) -> None:
    """Let a `torchmetrics.Metric` go on from a state."""
    for where, part in metric.named_modules():
        part.__dict__.update(state[where], _computed=None)


def keep_to_itself(metric: Metric) -> None:
    """Let the metrics of torchmetrics that `metric` holds not reach out to other processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    _keep_to_itself(vars(metric))


def _keep_to_itself(held: Any) -> None:
    """The metrics in a nest of containers."""
    if isinstance(held, Metric):
        held = vars(held)
    if isinstance(held, Mapping):
        held = list(cast("Mapping[Any, Any]", held).values())
    if isinstance(held, (list, tuple)):
        for item in cast("list[Any]", held):
            _keep_to_itself(item)
    elif isinstance(held, torch.nn.Module):
        for part in held.modules():
            if _is_torchmetric(part):
                cast(Any, part).distributed_available_fn = _alone


def _alone() -> bool:
    return False


def _kept(value: Any) -> Any:
    """An attribute of a metric as a checkpoint keeps it."""
    if isinstance(value, Metric):
        return value.state_dict()
    if _is_torchmetric(value):
        return torchmetrics_state(value)
    return plain(list(cast("deque[Any]", value)) if isinstance(value, deque) else value)


def as_metric(given: Any) -> Metric:
    """Make a `Metric` of what a user gave.

    Raises:
        TypeError: If it is none of the kinds that are allowed, or a class instead of an instance.
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, type):
        raise TypeError(
            f"`metrics` must hold instances, got the class {given.__name__}: write "
            f"{given.__name__}()."
        )
    if _is_torchmetric(given):
        return TorchMetric(given)
    if callable(given) and not isinstance(given, torch.nn.Module):
        return FunctionMetric(given)
    raise TypeError(
        "`metrics` must hold luzpy metrics, torchmetrics metrics or functions (preds, target) -> "
        f"number, got {given!r}."
    )


def _is_torchmetric(given: Any) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")  # whoever has such a metric has imported it
    return torchmetrics is not None and isinstance(
        given, (torchmetrics.Metric, torchmetrics.MetricCollection)
    )


def named_values(abbrev: str, value: Any) -> dict[str, float]:
    """The rows that a metric's value makes: one for a number, one an entry for several.

    Args:
        abbrev: The metric's name; rows are named in lower case.
        value: A number, a tensor of one or several elements, or a dict or list of these.

    Raises:
        TypeError: If it is none of these.
    """
    name = abbrev.lower()
    if isinstance(value, torch.Tensor):
        value = cast(Any, value).tolist()
    if isinstance(value, Mapping):
        parts = list(cast("Mapping[Any, Any]", value).items())
    elif isinstance(value, (list, tuple)):
        items = cast("list[Any]", value)
        if len(items) == 1:
            return named_values(abbrev, items[0])
        parts = list(enumerate(items))
    else:
        try:
            return {name: float(value)}
        except (TypeError, ValueError):
            raise TypeError(
                f"the metric {abbrev!r} must compute a number, a tensor, or a dict of these, got "
                f"{value!r}."
            ) from None
    rows: dict[str, float] = {}
    for key, part in parts:
        rows |= named_values(f"{name}_{key}" if name else str(key), part)
    return rows


def format_value(value: float) -> str:
    """A metric's value as it is printed: four decimals, as in R luz."""
    return f"{round(value, 4):g}" if abs(value) < 1e5 else f"{value:.6g}"
