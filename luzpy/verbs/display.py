"""How results are printed, after R luz's print methods."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

from luzpy.ground.durations import pretty_seconds
from luzpy.ground.records import (
    Records,
    epoch_arrays,
    epoch_metrics,
    epochs_done,
    partial_epoch,
    restored_epoch,
    seconds,
)
from luzpy.metrics.values import shown


def metric_lines(
    rows: Mapping[str, float], arrays: Mapping[str, list[Any]] | None = None
) -> list[str]:
    """One line per metric, even if it computes an array."""
    return [f"{name}: {text}" for name, text in shown(rows, arrays or {}).items()]


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
            total = what == "fit"  # one number each time that the training went on
            lines.append(f"* {label}: {pretty_seconds(sum(found) if total else mean(found))}")
    return lines


def stop_line(records: Records, reason: str) -> str:
    """Where a run was stopped, and why."""
    partial = partial_epoch(records)
    if partial is None:
        return f"Stopped after epoch {epochs_done(records)}: {reason}"
    epoch, split, batch = partial
    part = "" if split == "train" else "validation "
    return f"Stopped in epoch {epoch}, after {part}batch {batch}: {reason}"


def best_lines(records: Records) -> list[str]:
    """Which epoch's weights the model has, if not the last one's."""
    restored = restored_epoch(records)
    if restored is None:
        return []
    epoch, monitor = restored
    return [f"* Best epoch: {epoch} of {epochs_done(records)}, by {monitor}; these are its weights"]


def result_lines(records: Records) -> list[str]:
    """The metrics of the epoch whose weights the model has."""
    lines: list[str] = []
    restored = restored_epoch(records)
    epoch = None if restored is None else restored[0]
    for split, title in (("train", "Training"), ("valid", "Validation")):
        rows = epoch_metrics(records, split, epoch)
        if rows:
            lines += [f"{title}:", *metric_lines(rows, epoch_arrays(records, split, epoch))]
    return lines
