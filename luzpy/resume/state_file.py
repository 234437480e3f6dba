"""The file that a run resumes from."""

from __future__ import annotations

from pathlib import Path

from luzpy.files.atomic import check_writable
from luzpy.files.checkpoint import read_checkpoint
from luzpy.ground.arguments import is_whole
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Values

_PARTS = ("train", "valid", "epoch")


def read_state(file: Path, path: Path, result: Path | None) -> Values | None:
    """The state to resume from; None if there is no file yet.

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
    saved = content.get("resume")
    if not is_mapping(saved):
        raise LuzError(
            f"{path} is a checkpoint without a position to resume from: it was not written by "
            "AutoResume."
        )
    counts = (content["epoch"], saved.get("batches"), saved.get("pass_done", 0))
    if saved.get("part") not in _PARTS or not all(is_whole(n) and n >= 0 for n in counts):
        raise LuzError(f"{path} does not say where to resume.")
    return content


def described(epoch: int, saved: Values) -> str:
    """Where the run resumes, in words."""
    if saved["part"] == "epoch":
        return f"epoch {epoch}"
    kind = "training" if saved["part"] == "train" else "validation"
    return f"{kind} batch {saved['batches']} of epoch {epoch}"
