"""Areas under the ROC curve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self, final

import torch

from luzpy.ground.arguments import check_choice, check_flag, is_whole
from luzpy.metrics.metric import Metric
from luzpy.metrics.roc import areas, counted, exact_area
from luzpy.metrics.shapes import aligned

AVERAGES = ("micro", "macro", "weighted", "none")
ROUNDING = 1e-5  # how far probabilities may lie outside of [0, 1]


class _AUROC(Metric):
    """Columns of scores, each with rows that are of its class and rows that are not."""

    abbrev = "AUC"

    def __init__(
        self,
        num_thresholds: int | None = 200,
        thresholds: Iterable[float] | None = None,
        from_logits: bool = False,
    ) -> None:
        self.thresholds = _thresholds(num_thresholds, thresholds)
        check_flag("from_logits", from_logits)
        self.from_logits = from_logits
        self.reset()

    def reset(self) -> None:
        self.columns: int = 0
        self.counts: Any = 0
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # where there are no thresholds
        self.faults: Any = False

    def merge(self, others: Sequence[Self]) -> None:
        for other in others:
            self.columns = self.columns or other.columns
            self.counts = self.counts + other.counts
            self.kept = self.kept + other.kept
            self.faults = self.faults | other.faults

    def _add(self, scores: torch.Tensor, positive: torch.Tensor, known: torch.Tensor) -> None:
        """Take in one batch: scores, whether they are of the class, which targets are classes."""
        columns = scores.shape[1]
        if self.columns not in (0, columns):
            raise ValueError(
                f"`preds` must have the same classes in every batch, {self.columns}, got {columns}."
            )
        self.columns = columns
        inside = scores if self.from_logits else scores.clamp(0, 1)
        outside = (scores - inside).abs() > ROUNDING
        faults = torch.stack((outside.any(), ~known.all(), scores.isnan().any()))
        self.faults = self.faults | faults
        if self.thresholds is None:
            self.kept.append((inside, positive))
        else:
            if self.thresholds.device != scores.device:
                self.thresholds = self.thresholds.to(scores.device)
            intervals = torch.bucketize(inside.contiguous(), self.thresholds, right=True)
            self.counts = self.counts + counted(intervals, positive, len(self.thresholds) + 1)

    def _areas(self, pooled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The areas of the columns, or of all as one, and how many rows are of each class."""
        columns = 1 if pooled else self.columns or 1
        outside, unknown, missing = self.faults.tolist() if self.columns else (False, False, True)
        if outside:
            raise ValueError(
                "`preds` must be probabilities in [0, 1], got others: are they logits? Then say "
                "from_logits=True."
            )
        if unknown:
            raise ValueError(
                "`target` must be classes, counted from 0 and fewer than `preds` has columns (0 or "
                "1 if it has one), got others."
            )
        if missing:
            return torch.full((columns,), math.nan), torch.ones(columns)
        if self.thresholds is not None:
            counts = self.counts.sum(0, keepdim=True) if pooled else self.counts
            return areas(counts), counts[:, 1].sum(1).cpu()
        scores = torch.cat([scores for scores, _ in self.kept]).reshape(-1, columns)
        positive = torch.cat([positive for _, positive in self.kept]).reshape(-1, columns)
        each = map(exact_area, scores.unbind(1), positive.unbind(1))
        return torch.cat(tuple(each)), positive.sum(0).cpu()


@final
class BinaryAUROC(_AUROC):
    """The area under the ROC curve of a binary classifier.

    Rows are counted between a number of thresholds, so that no predictions need be kept; there the
    curve is a straight line (R luz takes steps). With one class only the area is not defined: NaN.
    Port of R luz's `luz_metric_binary_auroc()`.

    `preds` and `target` have the same shape, or differ by dimensions of length 1; targets are 0 or
    1, as integers, floats or booleans.

    Args:
        num_thresholds: How many thresholds, evenly spaced in [0, 1]. None: the exact area, for
            which all predictions are kept.
        thresholds: The thresholds themselves, in place of `num_thresholds`.
        from_logits: Whether `preds` are logits, which a sigmoid makes probabilities.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If it is out of bounds; from `compute`, if predictions were not in [0, 1] or
            targets not 0 or 1.

    Examples:
        >>> import luzpy as luz, torch
        >>> auroc = luz.metrics.BinaryAUROC()
        >>> auroc.update(torch.tensor([0.9, 0.8, 0.4]), torch.tensor([1, 1, 1]))
        >>> auroc.update(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0, 0, 0]))
        >>> round(auroc.compute(), 4)
        0.8889
    """

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        if preds.shape != target.shape:
            target = aligned(target, preds, "target", "preds")
        scores, target = preds.float().reshape(-1, 1), target.reshape(-1, 1)
        if self.from_logits:  # the exact area needs no sigmoid, which can part or join scores
            scores = scores.clone() if self.thresholds is None else scores.sigmoid()
        positive = target == 1
        self._add(scores, positive, positive | (target == 0))

    def compute(self) -> float:
        return float(self._areas(pooled=True)[0])


@final
class MulticlassAUROC(_AUROC):
    """The areas under the ROC curves of the classes, each against all others.

    Port of R luz's `luz_metric_multiclass_auroc()`. `preds` has the shape (N, C) or (N, C, ...),
    probabilities of C classes; `target` has the shape (N) or (N, ...), class indices (or the shape
    (N, 1)). The area of a class that has no rows, or all, is not defined: NaN, and so is the macro
    average over it.

    Args:
        num_thresholds: How many thresholds, evenly spaced in [0, 1]. None: the exact areas, for
            which all predictions are kept.
        thresholds: The thresholds themselves, in place of `num_thresholds`.
        from_logits: Whether `preds` are logits, which a softmax makes probabilities.
        average: `"micro"`: one area, over all classes' rows as if they were one binary problem.
            `"macro"`: the mean over classes. `"weighted"`: the mean weighted by the classes' rows.
            `"none"`: the areas, one for each class.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If it is out of bounds, or the shapes do not fit; from `compute`, if predictions
            were not in [0, 1] or targets no classes.

    Examples:
        >>> import luzpy as luz, torch
        >>> auroc = luz.metrics.MulticlassAUROC(average="none")
        >>> preds = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.2, 0.2, 0.6]])
        >>> auroc.update(preds, torch.tensor([0, 1, 2]))
        >>> auroc.compute()
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        num_thresholds: int | None = 200,
        thresholds: Iterable[float] | None = None,
        from_logits: bool = False,
        average: str = "micro",
    ) -> None:
        super().__init__(num_thresholds, thresholds, from_logits)
        check_choice("average", average, AVERAGES)
        self.average = average

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        if preds.ndim < 2:
            raise ValueError(
                f"`preds` must have the shape (N, C), probabilities of C classes, got "
                f"{tuple(preds.shape)}; for one probability a row use BinaryAUROC."
            )
        like = preds.select(1, 0)
        if like.shape != target.shape:
            target = aligned(target, like, "target", "preds' rows")
        scores = preds.float().movedim(1, -1).flatten(0, -2)
        if self.from_logits:
            scores = scores.softmax(1)
        positive = target.reshape(-1, 1) == torch.arange(scores.shape[1], device=target.device)
        self._add(scores, positive, positive.any(1))

    def compute(self) -> float | list[float]:
        each, rows = self._areas(pooled=self.average == "micro")
        if self.average == "none" and self.columns:
            return [float(area) for area in each]
        if self.average == "weighted":
            each, rows = each[rows > 0], rows[rows > 0]
            return float((each * rows).sum() / rows.sum())
        return float(each.mean())


def _thresholds(count: Any, given: Iterable[float] | None) -> torch.Tensor | None:
    """The thresholds in order, without those at the ends of the curve."""
    if given is not None:
        inner = sorted(float(threshold) for threshold in given)
        if not inner or inner[0] < 0 or inner[-1] > 1:
            raise ValueError(f"`thresholds` must be numbers in [0, 1], got {inner!r}.")
    elif count is None:
        return None
    elif not is_whole(count):
        raise TypeError(f"`num_thresholds` must be a whole number or None, got {count!r}.")
    elif count <= 1:
        raise ValueError(f"`num_thresholds` must be at least 2, got {count!r}.")
    else:
        inner = [i / (count - 1) for i in range(1, count - 1)]
    return torch.tensor(inner, dtype=torch.float32)
