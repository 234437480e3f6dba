"""Which metrics are computed on which set."""

from __future__ import annotations

import attrs

from luzpy.ground.nested import is_mapping, is_sequence
from luzpy.metrics.adapters import as_metric
from luzpy.metrics.metric import Metric, is_torchmetric


@attrs.frozen(init=False)
class MetricSet:
    """Metrics for training, for validation, or for both. Port of R luz's `luz_metric_set()`.

    Args:
        metrics: Computed on both sets.
        train_metrics: Computed on the training set only.
        valid_metrics: Computed on the validation set only, and by `evaluate`.

    Each is one metric, a list, or a dict name → metric: luzpy metrics, torchmetrics metrics,
    functions `(preds, target) -> number`. The loss is always included.

    Raises:
        TypeError: If something is not a metric.
        ValueError: If two metrics of one set have the same name.

    Examples:
        >>> import luzpy as luz
        >>> metrics = luz.metrics.MetricSet([luz.metrics.MAE()], valid_metrics=luz.metrics.RMSE())
        >>> [metric.abbrev for metric in metrics.valid]
        ['MAE', 'RMSE']
    """

    train: tuple[Metric, ...]
    valid: tuple[Metric, ...]

    def __init__(
        self, metrics: object = None, train_metrics: object = None, valid_metrics: object = None
    ) -> None:
        both = _listed(metrics)
        for name, extra in (("train", train_metrics), ("valid", valid_metrics)):
            chosen = tuple(as_metric(given, own) for own, given in both + _listed(extra))
            _check_names(chosen, name)
            object.__setattr__(self, name, chosen)


def as_metric_set(metrics: object) -> MetricSet:
    """Make a `MetricSet` of one metric, a list of them or a ready set."""
    return metrics if isinstance(metrics, MetricSet) else MetricSet(metrics)


def _listed(metrics: object) -> list[tuple[str | None, object]]:
    """Each metric, and the name that the user gave it."""
    if metrics is None:
        return []
    if is_mapping(metrics) and not is_torchmetric(metrics):
        for name in metrics:
            if not isinstance(name, str) or not name:
                raise TypeError(f"`metrics` must have names that are strings, got {name!r}.")
        return list(metrics.items())
    return [(None, given) for given in (metrics if is_sequence(metrics) else [metrics])]


def _check_names(metrics: tuple[Metric, ...], name: str) -> None:
    names = ["loss", *(metric.abbrev.lower() for metric in metrics)]
    for metric in names:
        if names.count(metric) > 1:
            raise ValueError(
                f"`metrics` must have different names, got {metric!r} twice in the {name} set; "
                "set the `abbrev` of one, or give a dict name -> metric."
            )
