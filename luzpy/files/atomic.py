"""Writing a file so that a kill, a full disk or a crash never leaves half of one."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from luzpy.ground.errors import LuzError

_MARK = ".luzpy-partial"


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """A binary file to write to, which takes the place of `path` once it is whole and on disk.

    It is written beside `path`, in the same file system, synchronised, and renamed; then the
    folder is synchronised. It gets the permissions that the umask gives. What a killed write left
    behind is removed. Where `path` is a symbolic link, the file it points to is replaced.

    Args:
        path: The file; missing folders are made, `~` is the home folder.

    Raises:
        TypeError: If `path` is not a path.
        LuzError: If it cannot be written, for example because the disk is full; what was at
            `path` is still there.
    """
    target = real_path(path)
    try:
        if target.exists() and not target.is_file():
            raise LuzError(
                f"`path` must name a file, got {os.fspath(path)!r}, which is not a file."
            )
        _make_folders(target.parent)
        partial, file = _open_partial(target)
        try:
            with file:
                try:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                    if os.name != "nt":  # Windows renames closed files only
                        os.replace(partial, target)
                finally:
                    # Under the lock: the name may soon be another's.
                    if os.name != "nt" and _is_at(file, partial):
                        with suppress(OSError):
                            partial.unlink()
            if os.name == "nt":
                os.replace(partial, target)
        finally:
            if os.name == "nt":
                with suppress(OSError):
                    partial.unlink()
        _sync_folder(target.parent)
    except OSError as err:
        raise LuzError(f"{os.fspath(path)} could not be written: {err}") from err


def real_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Where a file really lies: `~` and symbolic links are followed.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If it is empty, or has a zero byte in it.
    """
    if not _is_path(path):
        raise TypeError(f"`{name}` must be a path, got {path!r}.")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"`{name}` must be a path, got {path!r}.")
    return Path(os.path.realpath(Path(path).expanduser()))


def _is_path(path: object) -> bool:
    return isinstance(path, (str, os.PathLike)) and isinstance(os.fspath(path), str)


def _open_partial(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `target`, locked for as long as its writer lives.

    Several that write to one target each have a number. What a killed one has left behind is
    removed by the next that comes to its number: no folder has to be searched for it.
    """
    for number in itertools.count():
        # Shortened: the longest name that a file may have is left for the target's own.
        partial = target.with_name(f".{target.name[:40]}.{number}{_MARK}")
        _remove_leftover(partial)
        try:
            file = partial.open("xb")
        except FileExistsError:  # another one is writing
            continue
        locked = _lock(file)
        if locked is False or (locked and not _is_at(file, partial)):
            file.close()  # somebody takes it for a leftover, or has removed it as one
            continue
        return partial, file
    raise AssertionError


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one that lies there."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _lock(file: BinaryIO) -> bool | None:
    """Take the lock of a partial file, which the system frees when we die.

    Returns:
        Whether it is ours now: False if somebody else has it, None where files have no locks.
    """
    if os.name == "nt":
        return True  # open files cannot be removed there
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_leftover(partial: Path) -> None:
    """Remove a partial file that nobody writes to."""
    with suppress(OSError), partial.open("rb") as file:
        # A number of a process would say little: containers begin at 1 over and over again.
        if _lock(file) and _is_at(file, partial):
            partial.unlink()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise if a file could not be written there; missing folders are made.

    Raises:
        LuzError: If it could not.
    """
    target = real_path(path)
    try:
        _make_folders(target.parent)
        partial, file = _open_partial(target)
        file.close()
        partial.unlink()
    except OSError as err:
        raise LuzError(
            f"{os.fspath(path)} could not be written, as `path` must be in a folder that can be "
            f"written to: {err}"
        ) from err


def _make_folders(folder: Path) -> None:
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no folders to synchronise
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)
