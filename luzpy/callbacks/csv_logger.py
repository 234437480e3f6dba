"""Metrics in a CSV file."""

from __future__ import annotations

import csv
import io
import os
from functools import partial
from pathlib import Path
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.files.atomic import check_writable, real_path, written_atomically
from luzpy.ground.errors import LuzError
from luzpy.ground.records import SETS, epoch_metrics

Row = dict[str, object]
KEYS = ("epoch", "set")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@final
class CSVLogger(Callback):
    """Writes the metrics to a CSV file, one row for each epoch and set, as each epoch ends.

    The columns are `epoch`, `set` and the metrics of both sets; a metric that a set does not have
    is left blank. Each epoch is on disk before the next one begins. A new run starts a new file. A
    run resumed after epoch 1 continues its file, and replaces only the epochs that it repeats. (R
    luz overwrites it, and fails if the sets' metrics differ.) Text that a spreadsheet would take
    for a formula is prefixed with `'`. Port of R luz's `luz_callback_csv_logger()`.

    Args:
        path: The file. Its folder is created if necessary; `~` is the home folder.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: In a run: if a metric is called `epoch` or `set`.
        LuzError: In a resumed run: if the file is not one of this callback's.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.CSVLogger("metrics.csv")
        <luzpy.callbacks.CSVLogger: metrics.csv>
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        real_path(path)
        self.path: Path = Path(path).expanduser()
        self._rows: list[Row] | None = None

    def on_fit_begin(self, ctx: Context) -> None:
        self._rows = None
        ctx.accelerator.broadcast_from_main(partial(check_writable, self.path))

    def on_epoch_end(self, ctx: Context) -> None:
        if not ctx.accelerator.is_main:
            return
        if self._rows is None:
            # Whether the run was resumed is known only now, after every callback's on_fit_begin.
            self._rows = self._rows_before(ctx.epoch) if ctx.epoch > 1 else []
        self._rows += _epoch_rows(ctx)
        with written_atomically(self.path) as file:
            file.write(_as_csv(self._rows).encode())

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.CSVLogger: {self.path}>"

    def _rows_before(self, epoch: int) -> list[Row]:
        """The file's rows of earlier epochs."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            if tuple(columns[:2]) != KEYS:
                raise LuzError(
                    f"`path` must be a file that CSVLogger wrote, to continue it, got "
                    f"{str(self.path)!r} with the columns {columns}."
                )
            return [
                {**row} for row in reader if row["epoch"].isdecimal() and int(row["epoch"]) < epoch
            ]


def _as_csv(rows: list[Row]) -> str:
    """The rows below a header of all their columns; what a row lacks is left blank."""
    columns = list(dict.fromkeys(name for row in ({**dict.fromkeys(KEYS)}, *rows) for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _inert(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula; numbers stay as they are."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _epoch_rows(ctx: Context) -> list[Row]:
    rows: list[Row] = []
    for set in SETS:
        metrics = epoch_metrics(ctx.records, set, ctx.epoch)
        for name in KEYS:
            if name in metrics:
                raise ValueError(
                    f"`metrics` must have other names than the columns epoch and set, got {name!r}."
                )
        if metrics:
            cells = {str(_inert(name)): _inert(value) for name, value in metrics.items()}
            rows.append({"epoch": ctx.epoch, "set": set, **cells})
    return rows
