"""The curves in a frame of records, run by run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from luzpy.finder.curves import Curves
from luzpy.finder.smoothing import exponential_average
from luzpy.ground.arguments import is_number


def averaged(records: pd.DataFrame, column: str, beta: float) -> pd.Series[float]:
    """The bias-corrected exponential average of a column, run by run."""
    check_columns(records, column)
    smoothed = np.empty(len(records))
    for positions in _run_positions(records):
        smoothed[positions] = exponential_average(records[column].to_numpy()[positions], beta)
    return pd.Series(smoothed, index=records.index, name=f"smoothed_{column}")


def curves_of(records: pd.DataFrame) -> Curves:
    """The learning rates and losses of each run."""
    check_columns(records, "lr", "loss")
    lr, loss = records["lr"].to_numpy(float), records["loss"].to_numpy(float)
    return [(lr[positions], loss[positions]) for positions in _run_positions(records)]


def _run_positions(records: pd.DataFrame) -> list[Any]:
    """The rows of each run, in order."""
    if "run" not in records.columns:
        return [np.arange(len(records))] if len(records) else []
    runs = records["run"]
    return [np.flatnonzero(runs == run) for run in runs.unique()]


def check_columns(records: pd.DataFrame, *columns: str) -> None:
    """Raise unless the records have these columns."""
    missing = [column for column in columns if column not in records.columns]
    if missing:
        raise ValueError(
            f"The records must have the columns {', '.join(columns)}; {', '.join(missing)} "
            "is missing."
        )


def check_beta(beta: Any) -> None:
    """Raise unless `beta` can weigh an average."""
    if not is_number(beta):
        raise TypeError(f"`beta` must be a number in [0, 1), got {beta!r}.")
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1), got {beta!r}.")
