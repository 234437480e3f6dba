"""Which direction is better for a metric's rows."""

from __future__ import annotations

from collections.abc import Container, Iterable

from luzpy.metrics.adapters import TorchMetric
from luzpy.metrics.metric import Metric


def directions(metrics: Iterable[Metric]) -> dict[str, bool | None]:
    """Whether higher is better, by the metrics' names in lower case; None if unknown."""
    found: dict[str, bool | None] = {"loss": False}
    for metric in metrics:
        if isinstance(metric, TorchMetric) and not metric.abbrev:  # a MetricCollection
            for name, part in metric.metric.items(copy_state=False):
                found[name.lower()] = part.higher_is_better
        else:
            found[metric.abbrev.lower()] = metric.higher_is_better
    return found


def owner_of(row: str, names: Iterable[str], rows: Container[str]) -> str | None:
    """The name of the metric that made a row, None if no metric did.

    A metric of several values has the rows `<name>_<key>`, and none of its bare name.

    Args:
        row: The row's name in lower case.
        names: The names of the metrics.
        rows: The names of all rows.
    """
    owners = [n for n in names if row == n or (row.startswith(f"{n}_") and n not in rows)]
    return max(owners, key=len, default=None)
