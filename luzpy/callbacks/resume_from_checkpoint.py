"""Starting a run from a checkpoint."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context, internals
from luzpy.files import container
from luzpy.files.atomic import real_path
from luzpy.files.checkpoint import read_checkpoint, restore_checkpoint
from luzpy.ground.arguments import check_flag, is_number
from luzpy.ground.errors import LuzError
from luzpy.ground.types import Values


@final
class ResumeFromCheckpoint(Callback):
    """Starts a run from a checkpoint, for fine-tuning.

    Port of R luz's `luz_callback_resume_from_checkpoint()`. Epochs count from 1 again, unless the
    records are restored: then they continue from the checkpoint's. `valid_data=0.1` draws new rows,
    and may hold out rows that the checkpoint's run was trained on: pass the rows to hold out as
    data, or use `AutoResume`, which keeps them.

    Args:
        path: A file that `ModelCheckpoint` wrote, or a folder: then the checkpoint of the latest
            epoch is used; of several runs that of the newest one, with a warning. If nothing is
            there, it warns and the run starts from scratch.
        restore_model_state: Whether to restore the weights.
        restore_records: Whether to restore the records.
        restore_optimizer_state: Whether to restore the optimizers' state.
        restore_callbacks_state: Whether to restore the callbacks' state.

    Raises:
        TypeError: If an argument is of the wrong type.
        LuzError: In a run: if the file cannot be used, or does not fit.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.ResumeFromCheckpoint("models/")
        <luzpy.callbacks.ResumeFromCheckpoint: models>
    """

    weight: float = float("inf")

    def __init__(
        self,
        path: str | os.PathLike[str],
        restore_model_state: bool = True,
        restore_records: bool = False,
        restore_optimizer_state: bool = False,
        restore_callbacks_state: bool = False,
    ) -> None:
        real_path(path)
        for name, flag in (
            ("restore_model_state", restore_model_state),
            ("restore_records", restore_records),
            ("restore_optimizer_state", restore_optimizer_state),
            ("restore_callbacks_state", restore_callbacks_state),
        ):
            check_flag(name, flag)
        self.path: Path = Path(path)
        self.restore_model_state = restore_model_state
        self.restore_records = restore_records
        self.restore_optimizer_state = restore_optimizer_state
        self.restore_callbacks_state = restore_callbacks_state

    def on_fit_begin(self, ctx: Context) -> None:
        path, content = ctx.accelerator.broadcast_from_main(self._read)
        if path is None or content is None:
            if ctx.accelerator.is_main:
                warnings.warn(
                    f"There is no checkpoint at {self.path}: the run starts from scratch.",
                    UserWarning,
                    stacklevel=2,
                )
            return
        restore_checkpoint(
            ctx,
            content,
            path,
            model=self.restore_model_state,
            records=self.restore_records,
            optimizers=self.restore_optimizer_state,
            callbacks=self.restore_callbacks_state,
        )
        if self.restore_records:
            # Of AutoResume's files some are of an epoch that is not over.
            part = content.get("resume", {}).get("part", "epoch")
            ctx.epoch = content["epoch"] - (part != "epoch")
            internals(ctx).began = content.get("began", internals(ctx).began)  # it is the same run
            if ctx.epoch >= ctx.max_epochs and ctx.accelerator.is_main:
                warnings.warn(
                    f"There is nothing left to train: {path} is of epoch {ctx.epoch}, and `epochs` "
                    f"is {ctx.max_epochs}. `epochs` includes those of the restored records.",
                    UserWarning,
                    stacklevel=2,
                )

    def _read(self) -> tuple[Path | None, Values | None]:
        """The checkpoint and where it was, or None for its content where there is none."""
        place = real_path(self.path)
        if place.is_dir():
            return newest_checkpoint(place)
        return place, read_checkpoint(place) if place.exists() else None

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.ResumeFromCheckpoint: {self.path}>"


def newest_checkpoint(folder: Path) -> tuple[Path | None, Values | None]:
    """The checkpoint of the newest run's latest epoch in `folder`, and where it is.

    Of several of one epoch it is the last written. Files are only looked into to find it: it alone
    is read whole.
    """
    found: list[tuple[float, int, int, Path]] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            if not path.is_file() or not _is_archive(path):
                continue
            content = container.peek(path, container.CHECKPOINT) or read_checkpoint(path)
            # luzpy 0.1.0 did not write when a run began.
            began = content.get("began", 0.0)
            found.append(
                (
                    began if is_number(began) else 0.0,
                    content["epoch"],
                    path.stat().st_mtime_ns,
                    path,
                )
            )
        except (LuzError, OSError) as err:
            _warn_of(err)
    for began, _, _, path in sorted(found, reverse=True):
        try:
            content = read_checkpoint(path)
        except LuzError as err:
            _warn_of(err)
            continue
        others = [other for other in found if other[0] != began]
        if others:
            warnings.warn(
                f"{folder} has checkpoints of {len({other[0] for other in found})} runs: "
                f"{path.name}, of the newest run, is used, not {max(others)[-1].name}, of an "
                "earlier one. Give each run its own folder.",
                UserWarning,
                stacklevel=4,
            )
        return path, content
    return None, None


def _warn_of(err: Exception) -> None:
    warnings.warn(f"Passed over: {err}", UserWarning, stacklevel=5)


def _is_archive(path: Path) -> bool:
    """Whether it is what torch writes, and few others do."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"
