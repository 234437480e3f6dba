"""How results are printed, after R luz's print methods."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

from luzpy.metrics.base import format_value
from luzpy.records import Records


def metric_lines(rows: Mapping[str, float]) -> list[str]:
    """One line a metric."""
    return [f"{name}: {format_value(value)}" for name, value in rows.items()]


def pretty_seconds(seconds: float) -> str:
    """A duration for people: `340ms`, `1.5s`, `2m 3s`, `1h 2m 3s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m {rest}s" if hours else f"{minutes}m {rest}s"


def time_lines(records: Records) -> list[str]:
    """How long the fit and its epochs took."""
    profile = records.get("profile", {})
    lines: list[str] = []
    for what, label in (
        ("fit", "Total time"),
        ("train", "Avg time per training epoch"),
        ("valid", "Avg time per validation epoch"),
    ):
        seconds = profile.get(what, [])
        if seconds:
            lines.append(f"* {label}: {pretty_seconds(mean(seconds))}")
    return lines


def result_lines(records: Records) -> list[str]:
    """The last epoch's metrics."""
    lines: list[str] = []
    for split, title in (("train", "Training"), ("valid", "Validation")):
        epochs = records["metrics"].get(split, [])
        if epochs:
            lines += [f"i {title}:", *metric_lines(epochs[-1])]
    return lines
