"""How results are printed, after R luz's print methods."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

from luzpy.ground.records import Records, epoch_metrics, seconds
from luzpy.metrics.values import format_value


def metric_lines(rows: Mapping[str, float]) -> list[str]:
    """One line a metric."""
    return [f"{name}: {format_value(value)}" for name, value in rows.items()]


def pretty_seconds(duration: float) -> str:
    """A duration for people: `340ms`, `1.5s`, `2m 3s`, `1h 2m 3s`."""
    if duration < 1:
        return f"{duration * 1000:.0f}ms"
    if duration < 60:
        return f"{duration:.1f}s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m {rest}s" if hours else f"{minutes}m {rest}s"


def time_lines(records: Records) -> list[str]:
    """How long the fit and its epochs took."""
    lines: list[str] = []
    for what, label in (
        ("fit", "Total time"),
        ("train", "Avg time per training epoch"),
        ("valid", "Avg time per validation epoch"),
    ):
        found = seconds(records, what)
        if found:
            lines.append(f"* {label}: {pretty_seconds(mean(found))}")
    return lines


def result_lines(records: Records) -> list[str]:
    """The last epoch's metrics."""
    lines: list[str] = []
    for split, title in (("train", "Training"), ("valid", "Validation")):
        rows = epoch_metrics(records, split)
        if rows:
            lines += [f"{title}:", *metric_lines(rows)]
    return lines
