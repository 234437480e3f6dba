"""What a run logs: plain dicts and lists, and the frame made of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Records = dict[str, dict[str, list[Any]]]


def new_records() -> Records:
    """Empty records, with the sets and timings that every run has."""
    return {
        "metrics": {"train": [], "valid": []},
        "profile": {"fit": [], "epoch": [], "train": [], "valid": []},
    }


def metrics_frame(records: Mapping[str, Mapping[str, list[Any]]]) -> pd.DataFrame:
    """One row per set, epoch and metric: columns set, metric, epoch (from 1), value."""
    import pandas as pd

    rows = [
        (set_name, metric, epoch, value)
        for set_name, epochs in records["metrics"].items()
        for epoch, metrics in enumerate(epochs, start=1)
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(rows, columns=["set", "metric", "epoch", "value"])


@singledispatch
def get_metrics(x: Any) -> pd.DataFrame:
    """The metrics of a fitted model, a running context or an evaluation, as a frame.

    Port of R luz's `get_metrics()`.

    Args:
        x: A `FittedModule`, a `Context` or an `Evaluation`.

    Returns:
        One row per value: columns set, metric, epoch (from 1), value; of an evaluation only
        metric and value.

    Raises:
        TypeError: If `x` is none of these.
    """
    raise TypeError(f"`x` must be a FittedModule, an Evaluation or a Context, got {x!r}.")
