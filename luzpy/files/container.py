"""The format of luzpy's files: one of torch's own, with a version and a checksum after it.

A file is what `torch.save` writes, so `torch.load(path, weights_only=True)` opens it too, followed
by 42 bytes: the mark `LUZPY`, the version as a byte, the SHA-256 of all before it, and the last
four bytes of the mark again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from luzpy.errors import LuzError
from luzpy.files.atomic import written_atomically

VERSION = 1
_MARK = b"LUZPY"
_TRAILER = len(_MARK) + 1 + hashlib.sha256().digest_size + 4
_BLOCK = 1 << 20


class _Hashing:
    """A file to write to, which keeps a checksum of what goes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def write(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> None:
    """Write `content`, tensors and plain values, as a luzpy file of this kind.

    Raises:
        LuzError: If it cannot be written.
    """
    with written_atomically(path) as file:
        hashing = _Hashing(file)
        torch.save({"luzpy": kind, **content}, cast(BinaryIO, hashing))
        file.write(_MARK + bytes([VERSION]) + hashing.sha256.digest() + _MARK[-4:])


def read(
    path: str | os.PathLike[str], kind: str, *, trusted: bool = False, map_location: Any = None
) -> dict[str, Any]:
    """Read a luzpy file of this kind.

    Args:
        path: The file.
        kind: What `write` was told.
        trusted: Whether to unpickle what is not a tensor or plain value, running whatever code
            the file holds.
        map_location: Where tensors go, as in `torch.load`.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If it is truncated, altered, foreign, of another kind, of a later version, or
            holds more than tensors and plain values; it names the path.
    """
    target = Path(path)
    if not target.exists():
        raise FileNotFoundError(f"There is no file {target}.")
    try:
        with target.open("rb") as file:
            _check(file, target)
            content = torch.load(file, map_location=map_location, weights_only=not trusted)
    except pickle.UnpicklingError as err:
        raise LuzError(
            f"{target} holds more than tensors and plain values; nothing of it was run. If you "
            f"trust where it comes from, load it with trusted=True. ({str(err).splitlines()[0]})"
        ) from err
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as err:
        raise LuzError(f"{target} could not be read: {err}") from err
    found = content.get("luzpy") if isinstance(content, dict) else None
    if found != kind:
        raise LuzError(f"{target} must be a luzpy file with a {kind}, got one with a {found}.")
    return cast("dict[str, Any]", content)


def _check(file: BinaryIO, path: Path) -> None:
    """Raise unless the file is whole and ours; leaves it at its start."""
    size = file.seek(0, os.SEEK_END)
    body = size - _TRAILER
    file.seek(max(body, 0))
    trailer = file.read()
    if body < 0 or not trailer.endswith(_MARK[-4:]) or not trailer.startswith(_MARK):
        raise LuzError(f"{path} is truncated, or not a luzpy file.")
    version = trailer[len(_MARK)]
    if version > VERSION:
        raise LuzError(
            f"{path} has the format {version}, of a later luzpy; this one reads up to {VERSION}."
        )
    sha256 = hashlib.sha256()
    file.seek(0)
    left = body
    while left:
        block = file.read(min(_BLOCK, left))
        sha256.update(block)
        left -= len(block)
    if sha256.digest() != trailer[len(_MARK) + 1 : -4]:
        raise LuzError(f"{path} is damaged: its checksum does not match.")
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # torch compresses nothing: an entry larger than the file is a bomb.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise LuzError(f"{path} holds a compressed entry, {entry.filename!r}.")
    file.seek(0)
