"""The `Metric` base class."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

import torch

from luzpy.ground.nested import is_mapping, is_sequence
from luzpy.ground.primitives import find_unsupported, from_primitives, to_primitives
from luzpy.ground.types import Batch, Values

if TYPE_CHECKING:
    import torchmetrics

_DEQUE: Any = deque
_DICT: Any = dict
# What of a torchmetrics metric does not change from batch to batch.
_SETTINGS = frozenset(vars(torch.nn.Module())) | {"_defaults", "_device"}


class Metric(ABC):
    """Something accumulated over the batches of an epoch. Port of R luz's `luz_metric()`.

    A subclass sets `abbrev` and defines `reset`, `update` and `compute`. A metric passed to `setup`
    is a template: every run has its own copy, reset at the start of each epoch. Keep sums as
    tensors on the device of `preds` and read them only in `compute`, so that batches do not wait
    for a GPU.

    Attributes:
        abbrev: The name in progress bars; in lower case, the name in records and tables.
        higher_is_better: Whether higher values are better; None if unknown. Callbacks such as
            `KeepBestModel` use it.

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
    higher_is_better: bool | None = None
    # Whether `compute` itself reaches out to the other processes of the run, as torchmetrics does.
    syncs_itself: ClassVar[bool] = False
    # Whether it is computed over the rows of all processes, by all of them at once.
    is_shared: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.abbrev:
            cls.abbrev = cls.__name__

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches."""

    @abstractmethod
    def update(self, preds: Batch, target: Batch) -> None:
        """Accumulate one batch.

        Args:
            preds: The model's output, detached.
            target: The batch's target.
        """

    @abstractmethod
    def compute(self) -> Any:
        """Return the value over all batches: a number, a tensor, or a dict name → number."""

    def merge(self, others: Sequence[Any]) -> None:
        """Merge in what the other processes' metrics have accumulated, in a distributed run.

        If a metric defines it, each process accumulates its own rows, and they are merged at the
        end of the epoch. A metric without it gets all processes' batches one after another, which
        is always correct, but sends every prediction to every process.
        """
        raise NotImplementedError

    def state_dict(self) -> Values:
        """Return the state for a checkpoint in the middle of an epoch.

        It has the attributes that are tensors, plain values, queues, or metrics. A metric that
        accumulates anything else must define both methods itself.
        """
        return _kept(vars(self))

    def load_state_dict(self, state: Values) -> None:
        """Restore the state from a checkpoint."""
        _load(vars(self), state)


def is_torchmetric(
    given: object,
) -> TypeGuard[torchmetrics.Metric | torchmetrics.MetricCollection]:
    """Whether this is a `torchmetrics.Metric` or `MetricCollection`."""
    library = sys.modules.get("torchmetrics")  # whoever has such a metric has imported it
    return library is not None and isinstance(given, (library.Metric, library.MetricCollection))


def torchmetrics_state(metric: Any) -> Values:
    """What a metric of torchmetrics, and those that it wraps, have accumulated.

    Its own `state_dict`, persistent or not, lacks how many batches there were, without which
    `compute` warns, and what wrappers keep beside their states: the extremes of `MinMaxMetric`,
    the place of `Running` in its window.
    """
    return {
        where: _kept({n: v for n, v in part.__dict__.items() if n not in _SETTINGS})
        for where, part in metric.named_modules()
    }


def load_torchmetrics_state(metric: Any, state: Values) -> None:
    """Restore the state of a torchmetrics metric."""
    for where, part in metric.named_modules():
        _load(part.__dict__, state[where])


def _kept(attributes: Values) -> Values:
    """Those that a checkpoint can keep, as it keeps them."""
    kept: Values = {}
    for name, value in attributes.items():
        if isinstance(value, Metric):
            state = value.state_dict()
        elif is_torchmetric(value):
            state = torchmetrics_state(value)
        else:
            state = to_primitives([*value] if isinstance(value, _DEQUE) else value)
        if find_unsupported(state) is None:
            kept[name] = state
    return kept


def _load(attributes: Values, state: Values) -> None:
    for name, value in from_primitives(state).items():
        own: Any = attributes.get(name)
        if isinstance(own, Metric):
            own.load_state_dict(value)
        elif is_torchmetric(own):
            load_torchmetrics_state(own, value)
        elif isinstance(own, _DEQUE):
            own.clear()
            own.extend(value)
        elif isinstance(own, _DICT) and is_mapping(value):  # it may be a Counter
            own.clear()
            own.update(value)
        else:
            attributes[name] = value


def disable_sync(metric: Metric) -> None:
    """Let the metrics of torchmetrics that `metric` holds not reach out to other processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _disable_sync(metric)


def _disable_sync(held: object) -> None:
    if isinstance(held, Metric):
        held = vars(held)
    if is_mapping(held):
        held = [*held.values()]
    if is_sequence(held):
        for item in held:
            _disable_sync(item)
    elif isinstance(held, torch.nn.Module):
        for part in held.modules():
            if is_torchmetric(part):
                vars(part)["distributed_available_fn"] = lambda: False
