"""Metrics of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch

from luzpy.metrics.metric import Metric
from luzpy.metrics.shapes import ROUNDING, aligned


class _MeanCorrect(Metric):
    """The share of correct answers; a subclass says which are correct."""

    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.correct: torch.Tensor | int = 0
        self.total: int = 0
        self.outside: torch.Tensor | bool = False  # whether a score was no probability

    def compute(self) -> float:
        return float(self.correct) / self.total if self.total else float("nan")

    def merge(self, others: Sequence[Self]) -> None:
        for other in others:
            self.correct = self.correct + other.correct
            self.total += other.total
            self.outside = self.outside | other.outside

    def _count(self, correct: torch.Tensor) -> None:
        self.correct = self.correct + correct.sum()
        self.total += correct.numel()


class Accuracy(_MeanCorrect):
    """The share of rows whose largest score is that of the true class.

    Port of R luz's `luz_metric_accuracy()`. `preds` has the shape (N, C) or (N, C, ...), scores of
    C classes; `target` has the shape (N) or (N, ...), class indices (or the shape (N, 1)).

    Raises:
        ValueError: If the shapes do not fit.

    Examples:
        >>> import luzpy as luz, torch
        >>> accuracy = luz.metrics.Accuracy()
        >>> accuracy.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]))
        >>> accuracy.compute()
        0.5
    """

    abbrev = "Acc"

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        if preds.ndim < 2 or preds.shape[1] == 1:
            raise ValueError(
                f"`preds` must have the shape (N, C), scores of C > 1 classes, got "
                f"{tuple(preds.shape)}; for one score a row use BinaryAccuracy."
            )
        classes = preds.argmax(1)
        if classes.shape != target.shape:
            target = aligned(target, classes, "target", "preds' rows")
        self._count(classes == target)


class BinaryAccuracy(_MeanCorrect):
    """The share of rows whose probability is on the correct side of the threshold.

    Port of R luz's `luz_metric_binary_accuracy()`. `preds` and `target` have the same shape, or
    differ by a trailing 1: (N, 1) and (N). (R luz broadcasts these against each other.)

    Args:
        threshold: Probabilities above it count as 1.

    Raises:
        ValueError: If the shapes do not fit; from `compute`, if predictions were not in [0, 1].

    Examples:
        >>> import luzpy as luz, torch
        >>> accuracy = luz.metrics.BinaryAccuracy()
        >>> accuracy.update(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([1, 0, 0]))
        >>> round(accuracy.compute(), 4)
        0.6667
    """

    abbrev = "Acc"

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        super().__init__()

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        self.outside = self.outside | ((preds < -ROUNDING) | (preds > 1 + ROUNDING)).any()
        self._count_above(preds, target)

    def compute(self) -> float:
        if self.outside:
            raise ValueError(
                "`preds` must be probabilities in [0, 1], got others: are they logits? Then use "
                "BinaryAccuracyWithLogits."
            )
        return super().compute()

    def _count_above(self, probabilities: torch.Tensor, target: torch.Tensor) -> None:
        if probabilities.shape != target.shape:
            target = aligned(target, probabilities, "target", "preds")
        self._count((probabilities > self.threshold) == target)


class BinaryAccuracyWithLogits(BinaryAccuracy):
    """`BinaryAccuracy` for logits: a sigmoid is applied first.

    Port of R luz's `luz_metric_binary_accuracy_with_logits()`.

    Args:
        threshold: Probabilities above it count as 1.
    """

    abbrev = "Acc"

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        self._count_above(preds.sigmoid(), target)
