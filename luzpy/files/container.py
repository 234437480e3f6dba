"""The format of luzpy's files: one of torch's own, with a version and a checksum after it.

A file is what `torch.save` writes, so `torch.load(path, weights_only=True)` opens it too, followed
by 42 bytes: the mark `LUZPY`, the version as a byte, the SHA-256 of all before it, and the last
four bytes of the mark again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import torch

from luzpy.files.atomic import real_path, written_atomically
from luzpy.files.pickled import check_pickle
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.primitives import find_unsupported, from_primitives, is_plain_collection
from luzpy.ground.records import is_records
from luzpy.ground.types import Data, Values, Where

VERSION = 1
_MARK = b"LUZPY"
_TRAILER = len(_MARK) + 1 + hashlib.sha256().digest_size + 4
_END = 98  # how long the records at the end of an archive are
_BLOCK = 1 << 20
_DEPTH = 100

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
    path: str | os.PathLike[str], kind: str, *, trusted: bool = False, map_location: Where = "cpu"
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
        raise LuzError(f"{os.fspath(path)} could not be read: it is not a file.")
    try:
        with target.open("rb") as file:
            size = _check(file, Path(path))
            _check_entries(file, size - _TRAILER, trusted=trusted)
            file.seek(0)
            content = torch.load(file, map_location=map_location, weights_only=not trusted)
    except LuzError:
        raise
    except pickle.UnpicklingError as err:
        raise LuzError(
            f"{os.fspath(path)} holds more than tensors and plain values; none of it was run. "
            "If you trust its source, load it with trusted=True. "
            f"({_reason(err)})"
        ) from err
    except Exception as err:  # whatever the unpickler stumbles over
        raise LuzError(f"{os.fspath(path)} could not be read: {err}.") from err
    _check_content(content, kind, size, path)
    return content


def peek(path: Path, kind: str) -> Values | None:
    """A file's content with its tensors left where they are; None if it cannot be read so.

    Its checksum is not compared: whoever goes on with the file reads it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_entries(file, size - _TRAILER)
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
    """Raise unless the file is whole and ours; its size."""
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
    return size


def _check_entries(file: BinaryIO, body: int, *, trusted: bool = False) -> None:
    """Raise unless the archive is one that torch writes: every reader of it sees the same entries.

    What torch reads it with follows numbers that Python's `zipfile` corrects, and the reverse: an
    archive with two directories would show each of them another content.
    """
    file.seek(max(body - _END, 0))
    end = file.read(min(_END, body))
    _, *disks, n, total, length, start, comment = struct.unpack("<4s4H2LH", end[-22:])
    numbers, position = (n, total, length, start), body - 22
    if end[-42:-38] == b"PK\x06\x07":
        wide = struct.unpack("<4sQ2H2L4Q", end[:56])[-4:]
        most = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        if any(few not in (many, top) for few, many, top in zip(numbers, wide, most, strict=True)):
            raise ValueError("its directory has two sizes")
        numbers, position = wide, body - _END
        disks += [*struct.unpack("<4sLQL", end[-42:-22])[1:3]]
        disks[-1] -= position
    n, total, length, start = numbers
    file.seek(0)
    if (
        file.read(4) != b"PK\x03\x04"
        or start + length != position
        or n != total
        or comment
        or any(disks)
    ):
        raise ValueError("it is not an archive of torch's")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.orig_filename.lower() for entry in entries]
        if len(set(names)) != n or not all(name.isascii() and "\0" not in name for name in names):
            raise ValueError("its entries must have distinct names")
        for name, entry in zip(names, entries, strict=True):
            # torch compresses nothing: entries larger than the file are a bomb.
            stored = entry.compress_type == zipfile.ZIP_STORED
            body -= entry.file_size
            if not stored or entry.compress_size != entry.file_size or body < 0:
                raise ValueError(f"it holds a compressed entry, {entry.filename!r}")
            if name.endswith("constants.pkl"):
                raise ValueError("it holds a TorchScript program, not a luzpy file's content")
            if name.endswith("data.pkl") and not trusted:
                check_pickle(archive.read(entry))


def _check_content(content: object, kind: str, size: int, path: str | os.PathLike[str]) -> None:
    if not _is_finite(content, size):
        raise LuzError(f"{os.fspath(path)} holds a nest of values that is larger than the file.")
    found = content.get("luzpy") if is_mapping(content) else None
    if found != kind:
        raise LuzError(
            f"{os.fspath(path)} must be a luzpy file with a {kind}, got one with a {found!r:.60}."
        )
    try:
        fields: Values = from_primitives(content)
        for name, types in FIELDS.get(kind, {}).items():
            value = fields.get(name)
            if not isinstance(value, types):
                raise TypeError(f"its {name!r} is {type(value).__name__}")
        if not is_records(fields.get("records", {})):
            raise TypeError("its 'records' have a different layout")
        if kind == CHECKPOINT:
            for optimizer in fields["optimizers"].values():
                [len(group["params"]) for group in optimizer["param_groups"]]
            [(name, state) for name, state in fields["callbacks"]]
    except Exception as err:  # whatever stands in the place of what is looked for
        raise LuzError(f"{os.fspath(path)} is not a {kind} that luzpy wrote: {err}.") from err


def _is_finite(content: object, limit: int) -> bool:
    """Whether walking through `content` ends: references can nest one list a billion times."""
    stack: list[tuple[object, int]] = [(content, 0)]
    seen = 0
    while stack:
        value, depth = stack.pop()
        seen += 1
        if seen + len(stack) > limit or depth > _DEPTH:
            return False
        if is_mapping(value):
            stack += [(item, depth + 1) for item in value.values()]
        elif is_plain_collection(value):
            stack += [(item, depth + 1) for item in value]
    return True
