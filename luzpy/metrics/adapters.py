"""Metrics made from users' functions and torchmetrics metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self, final

import torch

from luzpy.data.batches import batch_rows
from luzpy.ground.arguments import shown
from luzpy.ground.types import Batch, Values
from luzpy.metrics.metric import (
    Metric,
    is_torchmetric,
    load_torchmetrics_state,
    torchmetrics_state,
)


@final
class FunctionMetric(Metric):
    """A plain function `(preds, target) -> number`, averaged over samples."""

    def __init__(self, function: Callable[[Batch, Batch], Any]) -> None:
        self.function = function
        self.abbrev: str = getattr(function, "__name__", type(function).__name__)
        self.higher_is_better = getattr(function, "higher_is_better", None)
        self.reset()

    def reset(self) -> None:
        self.total: torch.Tensor | float = 0.0
        self.rows: int = 0

    def update(self, preds: Batch, target: Batch) -> None:
        rows = batch_rows((preds, target), preds, target)
        self.total = self.total + self.function(preds, target) * rows
        self.rows += rows

    def compute(self) -> float:
        return float(self.total) / self.rows if self.rows else float("nan")

    def merge(self, others: Sequence[Self]) -> None:
        for other in others:
            self.total = self.total + other.total
            self.rows += other.rows

    def state_dict(self) -> Values:
        return {"total": self.total, "rows": self.rows}  # not the function, whatever it is


@final
class TorchMetric(Metric):
    """A `torchmetrics.Metric` or `MetricCollection`."""

    syncs_itself = True

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        # The rows of a MetricCollection have the names that it gives them.
        self.abbrev: str = "" if hasattr(metric, "items") else type(metric).__name__
        self.higher_is_better = getattr(metric, "higher_is_better", None)
        self._device: torch.device | None = None

    def reset(self) -> None:
        self.metric.reset()

    def update(self, preds: Batch, target: Batch) -> None:
        if isinstance(preds, torch.Tensor) and preds.device != self._device:
            self.to(preds.device)
        self.metric.update(preds, target)

    def to(self, device: torch.device) -> None:
        """Move it, with what it has accumulated."""
        self.metric.to(device)
        self._device = device

    def compute(self) -> object:
        return self.metric.compute()

    def state_dict(self) -> Values:
        return torchmetrics_state(self.metric)

    def load_state_dict(self, state: Values) -> None:
        load_torchmetrics_state(self.metric, state)


def as_metric(given: object, name: str | None = None) -> Metric:
    """Make a `Metric` from what a user passed, with the user's name for it if there is one.

    Raises:
        TypeError: If it is none of the kinds that are allowed, or a class instead of an instance.
    """
    if name is not None:
        metric = copy.copy(as_metric(given))  # the user's own keeps its name
        metric.abbrev = name
        return metric
    if isinstance(given, Metric):
        return given
    if isinstance(given, type):
        raise TypeError(
            f"`metrics` must hold instances, got the class {given.__name__}: write "
            f"{given.__name__}()."
        )
    if is_torchmetric(given):
        return TorchMetric(given)
    if callable(given) and not isinstance(given, torch.nn.Module):
        return FunctionMetric(given)
    instead = ""
    if isinstance(given, torch.Tensor):
        instead = ". Are these the targets? Input and target are one argument: evaluate((x, y))"
    raise TypeError(
        "`metrics` must hold luzpy metrics, torchmetrics metrics or functions (preds, target) -> "
        f"number, got {shown(given)}{instead}."
    )
