"""Metrics of regressions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch

from luzpy.ground.devices import widest_float
from luzpy.metrics.metric import Metric
from luzpy.metrics.shapes import aligned

# To add a number in double precision takes as long as to sum a batch's: many are added at once.
TOTALS_AT_ONCE = 256
# They hold neither large squares nor long sums.
HALF_PRECISION = (torch.float16, torch.bfloat16)


class _MeanError(Metric):
    """A mean of errors over all elements; a subclass says of what."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total: torch.Tensor | float = 0.0
        self.recent: list[torch.Tensor] = []
        self.elements: int = 0

    def compute(self) -> float:
        return float(self._sum()) / self.elements if self.elements else float("nan")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        if preds.shape != target.shape:
            target = aligned(target, preds, "target", "preds")
        errors = preds - target
        if errors.dtype in HALF_PRECISION:
            errors = errors.float()
        self.recent.append(self._measure(errors).sum())
        self.elements += errors.numel()
        if len(self.recent) == TOTALS_AT_ONCE:
            self.total, self.recent = self._sum(), []

    def merge(self, others: Sequence[Self]) -> None:
        self.total = sum((other._sum() for other in others), self._sum())
        self.recent = []
        self.elements += sum(other.elements for other in others)

    @staticmethod
    @abstractmethod
    def _measure(errors: torch.Tensor) -> torch.Tensor:
        """What each error counts."""

    def _sum(self) -> torch.Tensor | float:
        """All batches' total, on their device and in double precision where it has it."""
        if not self.recent:
            return self.total
        recent = torch.stack(self.recent)
        return self.total + recent.sum(dtype=widest_float(recent.device))


class MAE(_MeanError):
    """The mean absolute error. Port of R luz's `luz_metric_mae()`.

    `preds` and `target` have the same shape, or differ by dimensions of length 1.

    Raises:
        ValueError: If the shapes do not match.

    Examples:
        >>> import luzpy as luz, torch
        >>> mae = luz.metrics.MAE()
        >>> mae.update(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        >>> mae.compute()
        1.5
    """

    abbrev = "MAE"

    @staticmethod
    def _measure(errors: torch.Tensor) -> torch.Tensor:
        return errors.abs()


class MSE(_MeanError):
    """The mean squared error. Port of R luz's `luz_metric_mse()`.

    `preds` and `target` have the same shape, or differ by dimensions of length 1.

    Raises:
        ValueError: If the shapes do not match.

    Examples:
        >>> import luzpy as luz, torch
        >>> mse = luz.metrics.MSE()
        >>> mse.update(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        >>> mse.compute()
        2.5
    """

    abbrev = "MSE"

    @staticmethod
    def _measure(errors: torch.Tensor) -> torch.Tensor:
        return errors.square()


class RMSE(MSE):
    """The root of the mean squared error. Port of R luz's `luz_metric_rmse()`.

    Examples:
        >>> import luzpy as luz, torch
        >>> rmse = luz.metrics.RMSE()
        >>> rmse.update(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 6.0]))
        >>> round(rmse.compute(), 4)
        3.5355
    """

    abbrev = "RMSE"

    def compute(self) -> float:
        return math.sqrt(super().compute())
