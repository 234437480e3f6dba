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

from luzpy.files.atomic import real_path, written_atomically
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.primitives import find_unsupported
from luzpy.ground.types import Data, Values

VERSION = 1
_MARK = b"LUZPY"
_TRAILER = len(_MARK) + 1 + hashlib.sha256().digest_size + 4
_BLOCK = 1 << 20
_DEPTH = 100
_LISTS: Any = (list, tuple, set)

FITTED, WEIGHTS, CHECKPOINT = "fitted model", "model's weights", "checkpoint"
_Kinds = dict[str, type | tuple[type, ...]]
FIELDS: dict[str, _Kinds] = {
    FITTED: {
        "module": (str, type(None)),
        "state": dict,
        "records": dict,
        "hparams": dict,
        "opt_hparams": dict,
        "stopped": str,
    },
    WEIGHTS: {"state": dict},
    CHECKPOINT: {
        "epoch": int,
        "records": dict,
        "model": dict,
        "optimizers": dict,
        "optimizer_types": dict,
        "callbacks": list,
    },
}
"""What a file of each kind must hold."""


class _Hashing:
    """A file to write to, which keeps a checksum of what goes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Data) -> int:
        self.sha256.update(data)
        try:
            return self._file.write(data)
        except OSError as err:
            self.error = err  # torch makes another error of it
            raise

    def flush(self) -> None:
        self._file.flush()


def write(path: str | os.PathLike[str], kind: str, content: Values) -> None:
    """Write `content` as a luzpy file of this kind.

    Raises:
        LuzError: If it cannot be written.
    """
    with written_atomically(path) as file:
        hashing = _Hashing(file)
        try:
            torch.save({"luzpy": kind, **content}, cast(BinaryIO, hashing))
        except Exception as err:
            reason = hashing.error or err
            raise LuzError(f"{os.fspath(path)} could not be written: {reason}") from reason
        head = _MARK + bytes([VERSION])
        hashing.sha256.update(head)
        file.write(head + hashing.sha256.digest() + _MARK[-4:])


def check_primitive(content: Values, path: str | os.PathLike[str]) -> None:
    """Raise unless `read` will read `content` back without running code.

    Raises:
        LuzError: If something in it is neither a tensor nor a primitive; it says what and where.
    """
    for name, value in content.items():
        unsupported = find_unsupported(value, name)
        if unsupported:
            raise LuzError(
                f"{os.fspath(path)} can only hold tensors and plain values, got {unsupported}."
            )


def read(
    path: str | os.PathLike[str], kind: str, *, trusted: bool = False, map_location: Any = "cpu"
) -> Values:
    """Read a luzpy file of this kind.

    Args:
        path: The file.
        kind: What `write` was told.
        trusted: Whether to unpickle what is not a tensor or plain value, running whatever code
            the file holds.
        map_location: Where tensors go, as in `torch.load`.

    Raises:
        TypeError: If `path` is not a path.
        FileNotFoundError: If there is no file.
        LuzError: If it is truncated, altered, foreign, of another kind, of a later version, or
            holds more than tensors and plain values; it names the path.
    """
    target = real_path(path)
    if not target.exists():
        raise FileNotFoundError(f"There is no file {os.fspath(path)}.")
    if not target.is_file():
        raise LuzError(f"{os.fspath(path)} could not be read: it is no file.")
    try:
        with target.open("rb") as file:
            size = _check(file, Path(path))
            content = torch.load(file, map_location=map_location, weights_only=not trusted)
    except LuzError:
        raise
    except pickle.UnpicklingError as err:
        raise LuzError(
            f"{os.fspath(path)} holds more than tensors and plain values; nothing of it was run. "
            "If you trust where it comes from, load it with trusted=True. "
            f"({_reason(err)})"
        ) from err
    except Exception as err:  # whatever the unpickler stumbles over
        raise LuzError(f"{os.fspath(path)} could not be read: {err}") from err
    _check_content(content, kind, size, path)
    return content


def peek(path: Path, kind: str) -> Values | None:
    """A file's content with its tensors left where they are; None if it cannot be read so.

    Its checksum is not compared: whoever goes on with the file reads it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_entries(file, size, path)
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        _check_content(content, kind, size, path)
    except Exception:  # whatever the unpickler stumbles over
        return None
    return content


def _reason(err: Exception) -> str:
    """What torch found, without its advice to unpickle the file."""
    lines = [line for line in str(err).splitlines() if line.strip() and "weights_only" not in line]
    if not lines:
        return type(err).__name__
    return lines[0].rpartition("WeightsUnpickler error:")[2].strip()


def _check(file: BinaryIO, path: Path) -> int:
    """Raise unless the file is whole and ours; its size. Leaves it at its start."""
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
    sha256.update(trailer[: len(_MARK) + 1])
    if sha256.digest() != trailer[len(_MARK) + 1 : -4]:
        raise LuzError(f"{path} is damaged: its checksum does not match.")
    _check_entries(file, size, path)
    file.seek(0)
    return size


def _check_entries(file: BinaryIO, size: int, path: Path) -> None:
    """Raise unless the archive is of a kind that torch writes."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # torch compresses nothing: an entry larger than the file is a bomb.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise LuzError(f"{path} holds a compressed entry, {entry.filename!r}.")
            if entry.filename.endswith("constants.pkl"):
                raise LuzError(f"{path} holds a TorchScript program, not a luzpy file's content.")


def _check_content(content: Any, kind: str, size: int, path: str | os.PathLike[str]) -> None:
    fields = content if is_mapping(content) else dict[str, Any]()
    found = fields.get("luzpy")
    if found != kind:
        raise LuzError(
            f"{os.fspath(path)} must be a luzpy file with a {kind}, got one with a {found!r:.60}."
        )
    for name, types in FIELDS.get(kind, {}).items():
        if not isinstance(fields.get(name), types):
            raise LuzError(
                f"{os.fspath(path)} is no {kind} that luzpy wrote: its {name!r} is "
                f"{type(fields.get(name)).__name__}."
            )
    if not _is_finite(content, size):
        raise LuzError(f"{os.fspath(path)} holds a nest of values that is larger than the file.")


def _is_finite(content: Any, limit: int) -> bool:
    """Whether walking through `content` ends: references can nest one list a billion times."""
    stack = [(content, 0)]
    seen = 0
    while stack:
        value, depth = stack.pop()
        seen += 1
        if seen + len(stack) > limit or depth > _DEPTH:
            return False
        if is_mapping(value):
            stack += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, _LISTS):
            stack += [(item, depth + 1) for item in value]
    return True
