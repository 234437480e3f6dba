"""What a resumed run needs of its data: the same rows, in the same number of batches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from luzpy.core.context import Context
from luzpy.data.dataset import Split, length_of
from luzpy.data.portions import Portions
from luzpy.ground.errors import LuzError
from luzpy.ground.types import Batch, Values

DATA = {"training": "train_data", "validation": "valid_data"}


def data_state(ctx: Context) -> Values:
    """The number of batches over all processes, and the rows that luzpy has chosen."""
    loaders = {kind: getattr(ctx, name) for kind, name in DATA.items()}
    return {
        "batches": {
            kind: None if loader is None else _count(loader) for kind, loader in loaders.items()
        },
        "rows": {kind: torch.tensor(split.indices) for kind, split in _splits(ctx).items()},
    }


def restore_data(
    ctx: Context, state: Values, path: Path, *, same_batches: bool, same_rows: bool
) -> None:
    """Use the rows that the run began with.

    Args:
        ctx: The run.
        state: What `data_state` gave.
        path: The file, for messages.
        same_batches: Whether there must be as many batches.
        same_rows: Whether luzpy must choose from as many rows; else it chooses anew.

    Raises:
        LuzError: If the data are others.
    """
    found = data_state(ctx)
    for what, count in state["batches"].items() if same_batches else ():
        if found["batches"][what] != count:
            raise LuzError(
                f"{path} does not fit the run: it was written with {count} {what} batches an "
                f"epoch, this run has {found['batches'][what]}."
            )
    sizes = {kind: len(rows) for kind, rows in state["rows"].items()}
    if sizes != {kind: len(rows) for kind, rows in found["rows"].items()}:
        if not same_rows:
            return
        raise LuzError(
            f"{path} does not fit the run: `valid_data` was a different part of the rows."
        )
    rows = {kind: state["rows"][kind].tolist() for kind in sizes}
    before = [index for own in found["rows"].values() for index in own.tolist()]
    if sorted(index for own in rows.values() for index in own) != sorted(before):
        raise LuzError(f"{path} does not fit the run: its rows are not those of the data.")
    for kind, split in _splits(ctx).items():
        split.indices = rows[kind]


def _count(loader: Iterable[Batch]) -> int | None:
    inner = loader if isinstance(loader, Portions) else getattr(loader, "loader", loader)
    return length_of(inner)


def _splits(ctx: Context) -> dict[str, Split]:
    datasets = {kind: getattr(getattr(ctx, name), "dataset", None) for kind, name in DATA.items()}
    return {kind: dataset for kind, dataset in datasets.items() if isinstance(dataset, Split)}
