"""The file that a run goes on from."""

from __future__ import annotations

from pathlib import Path

from luzpy.files.atomic import check_writable
from luzpy.files.checkpoint import read_checkpoint
from luzpy.ground.errors import LuzError
from luzpy.ground.types import Values


def read_state(file: Path, path: Path, result: Path | None) -> Values | None:
    """What the run goes on from; None if there is no file yet.

    Args:
        file: The file.
        path: What the user calls it.
        result: Another file, which the run will write.

    Raises:
        LuzError: If a file cannot be written, or this one cannot be read.
    """
    if not file.is_dir():
        check_writable(file)
    if result is not None:
        check_writable(result)
    if not file.exists():
        return None
    content = read_checkpoint(file)
    if not isinstance(content.get("resume"), dict):
        raise LuzError(
            f"{path} is a checkpoint without a place to go on from: it was not written by "
            "AutoResume."
        )
    return content


def described(epoch: int, saved: Values) -> str:
    """Where the run goes on, for people."""
    if saved["part"] == "epoch":
        return f"epoch {epoch}"
    kind = "training" if saved["part"] == "train" else "validation"
    return f"{kind} batch {saved['batches']} of epoch {epoch}"
