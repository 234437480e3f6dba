"""Areas under the ROC curve, on torchmetrics' implementation."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, cast, final

import torch

from luzpy.metrics.base import Metric, load_torchmetrics_state, torchmetrics_state
from luzpy.metrics.shapes import aligned

AVERAGES = ("micro", "macro", "weighted", "none")
ROUNDING = 1e-5  # how far probabilities may lie outside of [0, 1]


class BinaryAUROC(Metric):
    """The area under the ROC curve of a binary classifier.

    Confusion matrices are counted at a number of thresholds, so that no predictions need be kept;
    between thresholds the curve is a straight line (R luz takes steps there). With one class only
    the area is not defined: NaN. Port of R luz's `luz_metric_binary_auroc()`.

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

    abbrev = "AUC"

    def __init__(
        self,
        num_thresholds: int | None = 200,
        thresholds: Iterable[float] | None = None,
        from_logits: bool = False,
    ) -> None:
        self.thresholds: torch.Tensor | None = _thresholds(num_thresholds, thresholds)
        self.from_logits: bool = _checked_flag("from_logits", from_logits)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._curve = _BinaryCurve(self.thresholds)

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Take in one batch."""
        if preds.shape != target.shape:
            target = aligned(target, preds, "target", "preds")
        scores = preds.float().flatten()
        self._curve.update(scores.sigmoid() if self.from_logits else scores, target.flatten())

    def compute(self) -> float:
        """The area."""
        return self._curve.compute()

    def merge(self, others: Sequence[Any]) -> None:
        """Add the other processes' counts."""
        self._curve = _merged([self._curve, *(other._curve for other in others)])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self._curve.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.reset()
        self._curve.load(state)


class MulticlassAUROC(Metric):
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

    abbrev = "AUC"

    def __init__(
        self,
        num_thresholds: int | None = 200,
        thresholds: Iterable[float] | None = None,
        from_logits: bool = False,
        average: str = "micro",
    ) -> None:
        self.thresholds: torch.Tensor | None = _thresholds(num_thresholds, thresholds)
        self.from_logits: bool = _checked_flag("from_logits", from_logits)
        if average not in AVERAGES:
            raise ValueError(
                f"`average` must be one of {', '.join(map(repr, AVERAGES))}, got {average!r}."
            )
        self.average = average
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._curve: _BinaryCurve | _MulticlassCurves | None = None

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Take in one batch."""
        if preds.ndim < 2:
            raise ValueError(
                f"`preds` must have the shape (N, C), probabilities of C classes, got "
                f"{tuple(preds.shape)}; for one probability a row use BinaryAUROC."
            )
        classes = preds.shape[1]
        like = preds.select(1, 0)
        if like.shape != target.shape:
            target = aligned(target, like, "target", "preds' rows")
        scores = preds.float().movedim(1, -1).reshape(-1, classes)
        if self.from_logits:
            scores = scores.softmax(1)
        target = target.reshape(-1)
        if self._curve is None:
            self._curve = self._new_curve(classes)
        if isinstance(self._curve, _BinaryCurve):
            one_hot = target[:, None] == torch.arange(classes, device=target.device)
            unknown = (target < 0) | (target >= classes)
            self._curve.update(scores.flatten(), one_hot.flatten())
            self._curve.flag(unknown)
        else:
            self._curve.update(scores, target)

    def compute(self) -> float | list[float]:
        """The area, or the list of them with `average="none"`."""
        if self._curve is None:
            return float("nan")
        if isinstance(self._curve, _BinaryCurve):
            return self._curve.compute()
        areas, rows = self._curve.compute()
        if self.average == "none":
            return areas
        if self.average == "macro":
            return sum(areas) / len(areas)
        counted = [(area, n) for area, n in zip(areas, rows, strict=True) if n]
        return sum(area * n for area, n in counted) / sum(rows)

    def merge(self, others: Sequence[Any]) -> None:
        """Add the other processes' counts."""
        curves = [metric._curve for metric in (self, *others) if metric._curve is not None]
        self._curve = _merged(curves) if curves else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {} if self._curve is None else self._curve.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.reset()
        if state:
            self._curve = self._new_curve(state["classes"])
            self._curve.load(state)

    def _new_curve(self, classes: int) -> _BinaryCurve | _MulticlassCurves:
        if self.average == "micro":
            return _BinaryCurve(self.thresholds)
        return _MulticlassCurves(self.thresholds, classes)


class _Curve(ABC):
    """Scores in [0, 1] and targets, accumulated; nothing is read from the device before the end.

    Args:
        thresholds: Where to count; None to keep everything.
        classes: How many classes the targets have.
    """

    def __init__(self, thresholds: torch.Tensor | None, classes: int) -> None:
        self.thresholds = thresholds
        self.classes = classes
        self.metric: Any = None
        self.counts: torch.Tensor
        self.faults: _Faults

    @abstractmethod
    def _torchmetric(self) -> Any:
        """A fresh metric of torchmetrics', imported only now."""

    def _start(self, device: torch.device) -> None:
        if self.metric is None:
            self.metric = self._torchmetric().to(device)
            self.counts = torch.zeros(self.classes, dtype=torch.int64, device=device)
            self.faults = _Faults(device)

    def add(self, other: Any) -> None:
        """Take in what another of its kind has accumulated."""
        self.counts += other.counts
        for name, flag in vars(self.faults).items():
            flag |= getattr(other.faults, name)
        if self.thresholds is None:
            self.metric.preds += other.metric.preds
            self.metric.target += other.metric.target
        else:
            self.metric.confmat += other.metric.confmat

    def state(self) -> dict[str, Any]:
        """Everything accumulated, as tensors and plain values; empty before the first batch."""
        if self.metric is None:
            return {}
        return {
            "classes": self.classes,
            "metric": torchmetrics_state(self.metric),
            "counts": self.counts,
            "faults": vars(self.faults),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if state:
            self._start(state["counts"].device)
            load_torchmetrics_state(self.metric, state["metric"])
            self.counts = state["counts"]
            vars(self.faults).update(state["faults"])


def _merged(curves: Sequence[Any]) -> Any:
    """One curve of several, some of which may have had no batch."""
    started = [curve for curve in curves if curve.metric is not None]
    for other in started[1:]:
        started[0].add(other)
    return started[0] if started else curves[0]


@final
class _BinaryCurve(_Curve):
    """One class against another."""

    def __init__(self, thresholds: torch.Tensor | None) -> None:
        super().__init__(thresholds, classes=2)

    def _torchmetric(self) -> Any:
        from torchmetrics.classification import BinaryAUROC as TorchBinaryAUROC

        return cast(Any, TorchBinaryAUROC)(
            thresholds=self.thresholds, validate_args=False, sync_on_compute=False
        )

    def update(self, scores: torch.Tensor, target: torch.Tensor) -> None:
        """Take in one batch, both flat."""
        self._start(scores.device)
        positive = target == 1
        scores = self.faults.noted(scores, ~(positive | (target == 0)))
        self.counts += torch.stack((positive.sum(), (~positive).sum()))
        self.metric.update(scores, positive.long())

    def flag(self, wrong_targets: torch.Tensor) -> None:
        """Note targets that are wrong for another reason."""
        self.faults.targets |= wrong_targets.any()

    def compute(self) -> float:
        """The area, NaN where there is none."""
        if self.metric is None or self.faults.any() or not self.counts.all():
            return float("nan")
        return float(self.metric.compute())


@final
class _MulticlassCurves(_Curve):
    """Several classes, each against all others."""

    def _torchmetric(self) -> Any:
        from torchmetrics.classification import MulticlassAUROC as TorchMulticlassAUROC

        return cast(Any, TorchMulticlassAUROC)(
            num_classes=self.classes,
            average="none",
            thresholds=self.thresholds,
            validate_args=False,
            sync_on_compute=False,
        )

    def update(self, scores: torch.Tensor, target: torch.Tensor) -> None:
        """Take in one batch."""
        if scores.shape[1] != self.classes:
            raise ValueError(
                f"`preds` must have the same classes in every batch, {self.classes}, got "
                f"{scores.shape[1]}."
            )
        self._start(scores.device)
        unknown = (target < 0) | (target >= self.classes)
        scores = self.faults.noted(scores, unknown)
        target = target.long().masked_fill(unknown, 0)
        self.counts += torch.zeros_like(self.counts).index_add_(0, target, torch.ones_like(target))
        self.metric.update(scores, target)

    def compute(self) -> tuple[list[float], list[int]]:
        """The areas of the classes, and how many rows each has."""
        rows = cast("list[int]", cast(Any, self.counts).tolist())
        if self.faults.any():
            return [math.nan] * self.classes, rows
        with warnings.catch_warnings():
            # torchmetrics warns of classes without rows and counts them as 0; they are NaN below.
            warnings.simplefilter("ignore", UserWarning)
            areas = cast("list[float]", self.metric.compute().tolist())
        defined = [0 < n < sum(rows) for n in rows]
        return [a if d else math.nan for a, d in zip(areas, defined, strict=True)], rows


class _Faults:
    """What is wrong with the batches, noted on the device."""

    def __init__(self, device: torch.device) -> None:
        self.scores = torch.zeros((), dtype=torch.bool, device=device)
        self.targets = torch.zeros((), dtype=torch.bool, device=device)
        self.missing = torch.zeros((), dtype=torch.bool, device=device)

    def noted(self, scores: torch.Tensor, wrong_targets: torch.Tensor) -> torch.Tensor:
        """The scores, in [0, 1]: of others torchmetrics would take a sigmoid or softmax."""
        inside = scores.clamp(0, 1)
        self.scores |= ((scores - inside).abs() > ROUNDING).any()
        self.targets |= wrong_targets.any()
        self.missing |= scores.isnan().any()
        return inside

    def any(self) -> bool:
        """Whether a score was NaN, which makes the area NaN; raises for worse."""
        if self.scores:
            raise ValueError(
                "`preds` must be probabilities in [0, 1], got others: are they logits? Then say "
                "from_logits=True."
            )
        if self.targets:
            raise ValueError(
                "`target` must be classes, counted from 0 and fewer than `preds` has columns (0 or "
                "1 if it has one), got others."
            )
        return bool(self.missing)


def _thresholds(count: Any, given: Iterable[float] | None) -> torch.Tensor | None:
    """The thresholds in order, with one below 0 and one above 1, at which the curve ends."""
    if given is not None:
        inner = sorted(float(threshold) for threshold in given)
        if not inner or inner[0] < 0 or inner[-1] > 1:
            raise ValueError(f"`thresholds` must be numbers in [0, 1], got {inner!r}.")
    elif count is None:
        return None
    else:
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"`num_thresholds` must be a whole number or None, got {count!r}.")
        if count <= 1:
            raise ValueError(f"`num_thresholds` must be at least 2, got {count!r}.")
        inner = [i / (count - 1) for i in range(1, count - 1)]
    eps = torch.finfo(torch.float32).eps
    return torch.tensor([-eps, *inner, 1 + eps], dtype=torch.float32)


def _checked_flag(name: str, flag: Any) -> bool:
    if not isinstance(flag, bool):
        raise TypeError(f"`{name}` must be True or False, got {flag!r}.")
    return flag
