"""Areas under the ROC curve: torchmetrics' where they are exact, else from counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self, final

import torch

from luzpy.ground.arguments import check_choice, check_count, check_flag
from luzpy.ground.devices import widest_float
from luzpy.metrics.metric import Metric
from luzpy.metrics.shapes import ROUNDING, aligned

AVERAGES = ("micro", "macro", "weighted", "none")


class _AUROC(Metric):
    """Columns of scores, each with rows that are of its class and rows that are not."""

    abbrev = "AUC"
    higher_is_better = True

    def __init__(
        self,
        num_thresholds: int | None = None,
        thresholds: Iterable[float] | None = None,
        from_logits: bool = False,
    ) -> None:
        check_count("num_thresholds", num_thresholds, minimum=2, optional=True)
        check_flag("from_logits", from_logits)
        self.thresholds: torch.Tensor | None = None
        if thresholds is not None:
            given = sorted(map(float, thresholds))
            if not given or given[0] < 0 or given[-1] > 1:
                raise ValueError(f"`thresholds` must be numbers in [0, 1], got {given!r}.")
            self.thresholds = torch.tensor(given)
        elif num_thresholds is not None:  # the outermost are the ends of the curve
            self.thresholds = torch.arange(1, num_thresholds - 1) / (num_thresholds - 1)
        self.from_logits = from_logits
        self.reset()

    def reset(self) -> None:
        self.columns: int = 0
        self.faults: torch.Tensor | bool = False
        self.counts: torch.Tensor | int = 0  # (columns, 2, intervals between thresholds)
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # where there are no thresholds

    def merge(self, others: Sequence[Self]) -> None:
        for other in others:
            self.columns = self.columns or other.columns
            self.faults = self.faults | other.faults
            self.counts = self.counts + other.counts
            self.kept = self.kept + other.kept

    def _add(self, scores: torch.Tensor, positive: torch.Tensor, known: torch.Tensor) -> None:
        """Take in one batch: scores, whether they are of the class, which targets are classes."""
        if self.columns not in (0, scores.shape[1]):
            raise ValueError(
                f"`preds` must have the same classes in every batch, {self.columns}, got "
                f"{scores.shape[1]}."
            )
        self.columns = scores.shape[1]
        inside = scores if self.from_logits else scores.clamp(0, 1)
        outside = (scores - inside).abs() > ROUNDING
        self.faults = self.faults | torch.stack((outside.any(), ~known.all(), scores.isnan().any()))
        if self.thresholds is None:
            self.kept.append((inside, positive))
        else:
            self.thresholds = self.thresholds.to(scores.device)
            intervals = torch.bucketize(inside.contiguous(), self.thresholds, right=True)
            self.counts = self.counts + _counted(intervals, positive, len(self.thresholds) + 1)

    def _areas(self, pooled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The areas of the columns, or of all as one, and how many rows are of each class."""
        columns = 1 if pooled else self.columns or 1
        outside, unknown, missing = False, False, True  # before the first batch
        counts: torch.Tensor | None = None
        if isinstance(self.faults, torch.Tensor):
            found = self.faults
            if isinstance(self.counts, torch.Tensor):  # together: a device is waited for once
                found = torch.cat((found.long(), self.counts.flatten())).cpu()
                counts = found[3:].reshape(self.counts.shape)
            outside, unknown, missing = map(bool, found[:3].cpu())
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
        if counts is not None:
            counts = counts.sum(0, keepdim=True) if pooled else counts
            others, own = counts.double().unbind(1)
            # Of all pairs those where the row of the class lies higher; in one interval: half.
            pairs = (own * (others.cumsum(1) - others / 2)).sum(1)
            return pairs / (own.sum(1) * others.sum(1)), own.sum(1)
        scores, positive = (
            torch.cat(parts).reshape(-1, columns) for parts in zip(*self.kept, strict=True)
        )
        areas = map(_exact_area, scores.unbind(1), positive.unbind(1))
        return torch.tensor(list(areas)), positive.sum(0).cpu()


@final
class BinaryAUROC(_AUROC):
    """The area under the ROC curve of a binary classifier.

    By default it is exact, which requires keeping all predictions of an epoch. With thresholds,
    rows are only counted between them, and the curve is interpolated linearly (R luz has 200, and
    uses steps). With a single class, the area is undefined: NaN. Port of R luz's
    `luz_metric_binary_auroc()`.

    `preds` and `target` have the same shape, or differ by dimensions of length 1; targets are 0 or
    1, as integers, floats or booleans.

    Args:
        num_thresholds: How many thresholds, evenly spaced in [0, 1]. None: the exact area.
        thresholds: The thresholds themselves, instead of `num_thresholds`.
        from_logits: Whether `preds` are logits, to which a sigmoid is applied.

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
    (N, 1)). If a class has no rows, or all of them, its area is undefined: NaN, and so is the macro
    average.

    Args:
        num_thresholds: How many thresholds, evenly spaced in [0, 1], as for `BinaryAUROC`. None:
            the exact areas.
        thresholds: The thresholds themselves, instead of `num_thresholds`.
        from_logits: Whether `preds` are logits, to which a softmax is applied.
        average: `"micro"`: one area, with all classes' rows pooled into one binary problem.
            `"macro"`: the mean over classes. `"weighted"`: the mean weighted by the classes' rows.
            `"none"`: the areas, one for each class.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If it is out of bounds, or the shapes do not match; from `compute`, if
            predictions were not in [0, 1] or targets were not classes.

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
        num_thresholds: int | None = None,
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


def _counted(intervals: torch.Tensor, positive: torch.Tensor, size: int) -> torch.Tensor:
    """How many rows of each column, not of its class and of it, lie in each of `size` intervals.

    Unlike torchmetrics' `torch.bincount` it does not wait for a GPU.
    """
    columns = intervals.shape[1]
    cells = (torch.arange(columns, device=intervals.device) * 2 + positive) * size + intervals
    counts = torch.zeros(columns * 2 * size, dtype=torch.int64, device=intervals.device)
    counts.index_add_(0, cells.flatten(), torch.ones_like(cells).flatten())
    return counts.reshape(columns, 2, size)


def _exact_area(scores: torch.Tensor, positive: torch.Tensor) -> float:
    from torchmetrics.functional.classification import binary_auroc  # slow to import

    if positive.all() or not positive.any():
        return math.nan
    if widest_float(scores.device) != torch.float64:
        scores, positive = scores.cpu(), positive.cpu()
    # torchmetrics takes a sigmoid of what lies outside [0, 1], which may join or part scores.
    ranks = torch.searchsorted(scores.sort().values, scores.contiguous()).double() / len(scores)
    return float(binary_auroc(ranks, positive.long(), validate_args=False))
