"""Metrics in a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO, final

from luzpy.callback import Callback
from luzpy.context import Context
from luzpy.errors import LuzError

KEYS = ("epoch", "set")


@final
class CSVLogger(Callback):
    """Writes the metrics to a CSV file, one row for each epoch and set, as each epoch ends.

    The columns are `epoch`, `set` and the metrics of both sets; a metric that a set does not have
    is left blank. Each epoch is on the disk before the next one begins. A fresh run starts a fresh
    file; one that is resumed after epoch 1 goes on with the file, of which it replaces only the
    epochs that it runs again. (R luz overwrites it, and fails when the sets' metrics differ.)
    Port of R luz's `luz_callback_csv_logger()`.

    Args:
        path: The file. Its folder is made if need be; `~` is the home folder.

    Raises:
        TypeError: If `path` is not a path.
        LuzError: In a resumed run: if the file is not one of this callback's.

    Examples:
        >>> CSVLogger("metrics.csv")
        <luzpy.callbacks.CSVLogger: metrics.csv>
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self._begin()

    def _begin(self) -> None:
        self._columns: list[str] = []
        self._begun = False

    def on_fit_begin(self, ctx: Context) -> None:
        """Start afresh."""
        self._begin()
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, ctx: Context) -> None:
        """Write the epoch's rows."""
        rows = _epoch_rows(ctx)
        known = len(self._columns)
        # Whether the run was resumed is known only now, after every callback's on_fit_begin.
        kept = [] if self._begun or ctx.epoch == 1 else self._rows_before(ctx.epoch)
        self._columns = _merged(self._columns, KEYS, *rows)
        if not self._begun:
            self._write_anew([*kept, *rows])
        elif len(self._columns) > known:
            self._write_anew([*self._rows_before(ctx.epoch), *rows])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                self._write(file, rows)
        self._begun = True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"columns": list(self._columns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._columns = list(state["columns"])

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.CSVLogger: {self.path}>"

    def _rows_before(self, epoch: int) -> list[dict[str, Any]]:
        """The file's rows of earlier epochs; their columns become ours."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            if tuple(columns[:2]) != KEYS:
                raise LuzError(
                    f"`path` must be a file that CSVLogger wrote, to go on with it, got "
                    f"{str(self.path)!r} with the columns {columns}."
                )
            # A row cut short by a kill belongs to an epoch that is run again.
            whole = [row for row in reader if None not in row.values() and row["epoch"].isdecimal()]
        rows: list[dict[str, Any]] = [row for row in whole if int(row["epoch"]) < epoch]
        self._columns = _merged(columns, self._columns)
        return rows

    def _write_anew(self, rows: list[dict[str, Any]]) -> None:
        # Beside the file and then in its place: a run that is killed meanwhile loses nothing.
        beside = self.path.with_name(self.path.name + ".tmp")
        with beside.open("w", newline="", encoding="utf-8") as file:
            self._write(file, [dict(zip(self._columns, self._columns, strict=True)), *rows])
        beside.replace(self.path)

    def _write(self, file: TextIO, rows: list[dict[str, Any]]) -> None:
        csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def _epoch_rows(ctx: Context) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for split, epochs in ctx.records["metrics"].items():
        if len(epochs) >= ctx.epoch and epochs[ctx.epoch - 1]:
            rows.append({"epoch": ctx.epoch, "set": split, **epochs[ctx.epoch - 1]})
    return rows


def _merged(*names: Iterable[str]) -> list[str]:
    """All names, each once, in the order of their first appearance."""
    return list(dict.fromkeys(name for group in names for name in group))
