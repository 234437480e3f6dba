"""The curves in a frame of records, run by run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from luzpy.finder.curves import Curves, paired
from luzpy.finder.smoothing import exponential_average
from luzpy.ground.arguments import is_number


def averaged(records: pd.DataFrame, column: str, beta: float) -> pd.Series[float]:
    """The bias-corrected exponential average of a column, run by run."""
    check_columns(records, column)
    smoothed = np.empty(len(records))
    for rows in _rows_of_runs(records):
        smoothed[rows] = exponential_average(records[column].to_numpy()[rows], beta)
    return pd.Series(smoothed, index=records.index, name=f"smoothed_{column}")


def curves_of(records: pd.DataFrame) -> Curves:
    """The learning rates of each run, and the losses by which they are judged.

    Where there are initial losses, those of the same batches at the initial weights: what the loss
    differs from these by, on top of their mean. What a batch is like drops out.
    """
    check_columns(records, "lr", "loss")
    lr, loss = records["lr"].to_numpy(float), records["loss"].to_numpy(float)
    runs = [rows for rows in _rows_of_runs(records) if len(rows)]
    if "initial_loss" in records:
        initial = records["initial_loss"].to_numpy(float)
        return [(lr[rows], paired(loss[rows], initial[rows])) for rows in runs]
    return [(lr[rows], loss[rows]) for rows in runs]


def _rows_of_runs(records: pd.DataFrame) -> Iterator[npt.NDArray[np.intp]]:
    if "run" not in records:
        yield np.arange(len(records))
        return
    for run in records["run"].unique():
        yield np.flatnonzero(records["run"] == run)


def check_columns(records: pd.DataFrame, *columns: str) -> None:
    """Raise unless the records have these columns."""
    missing = [column for column in columns if column not in records]
    if missing:
        raise ValueError(
            f"The records must have the columns {', '.join(columns)}; {', '.join(missing)} "
            "is missing."
        )


def check_beta(beta: float) -> None:
    """Raise unless `beta` can weigh an average."""
    if not is_number(beta):
        raise TypeError(f"`beta` must be a number in [0, 1), got {beta!r}.")
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1), got {beta!r}.")
