"""Writing a file so that a kill, a full disk or a crash never leaves half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from luzpy.errors import LuzError

_MARK = ".luzpy-partial"


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """A binary file to write to, which takes the place of `path` once it is whole and on disk.

    It is written beside `path`, in the same file system, synchronised, and renamed; then the
    folder is synchronised. It gets the permissions that the umask gives. What a killed write left
    behind is removed.

    Args:
        path: The file; missing folders are made.

    Raises:
        LuzError: If it cannot be written, for example because the disk is full; what was at
            `path` is still there.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{_MARK}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
        _sync_folder(target.parent)
    except OSError as err:
        raise LuzError(f"{target} could not be written: {err}") from err


def _remove_leftovers(target: Path) -> None:
    prefix = f".{target.name}."
    for path in target.parent.iterdir():
        name = path.name
        if not (name.startswith(prefix) and name.endswith(_MARK)):
            continue
        pid = name[len(prefix) :].partition("-")[0]
        if pid.isdigit() and (int(pid) == os.getpid() or _is_running(int(pid))):
            continue
        with suppress(OSError):
            path.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no folders to synchronise
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
