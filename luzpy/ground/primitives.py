"""What a file may contain: tensors and primitive values."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeGuard

import numpy as np
import torch

from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Array, Primitive

_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_TENSORS = (torch.Tensor, torch.nn.Parameter, torch.Size)
_LIST: type = list
_LISTS = (list, tuple, set)
_FROZEN = (frozenset,)
# Names for what torch's restricted unpickler does not know.
_ARRAY = "numpy.ndarray"
_FROZENSET = "builtins.frozenset"
_EMPTY = "builtins.bytes"
_DEQUE = "collections.deque"
# Many tensors of one number, such as the losses of an epoch's batches: one of them all takes one
# download from an accelerator, and one entry of a file.
_NUMBERS = "torch.numbers"


def is_array(value: object) -> TypeGuard[Array]:
    """Whether `value` is a NumPy array."""
    return isinstance(value, np.ndarray)


def _is_numpy_scalar(value: object) -> TypeGuard[np.generic[Any]]:
    return isinstance(value, np.generic)


def _is_deque(value: object) -> TypeGuard[deque[Any]]:
    return type(value) is deque


def is_plain_collection(value: object) -> TypeGuard[list[Any]]:
    """Whether `value` is a list, a tuple or a set, and of no other class."""
    return type(value) in _LISTS


def _is_list_of_numbers(value: Any) -> TypeGuard[list[torch.Tensor]]:
    """Whether `value` is a list of tensors that can be stored as one tensor."""
    if type(value) is not _LIST or len(value) < 2:
        return False
    first = value[0]
    return type(first) is torch.Tensor and all(
        type(item) is torch.Tensor
        and not (item.ndim or item.requires_grad)
        and (item.dtype, item.device, item.layout) == (first.dtype, first.device, torch.strided)
        for item in value
    )


def to_primitives(value: Primitive) -> Primitive:
    """`value` with arrays, NumPy scalars, deques and so on turned into tensors and primitives."""
    if is_mapping(value):
        return {key: to_primitives(item) for key, item in value.items()}
    if _is_list_of_numbers(value):
        return {_NUMBERS: torch.stack(value)}
    if is_plain_collection(value):
        return type(value)(to_primitives(item) for item in value)
    if type(value) in _FROZEN:
        return {_FROZENSET: {to_primitives(item) for item in value}}
    if _is_deque(value):
        return {_DEQUE: ([to_primitives(item) for item in value], value.maxlen)}
    if type(value) is bytes and not value:
        return {_EMPTY: None}
    if is_array(value):
        return _array_to_primitives(value)
    if _is_numpy_scalar(value):
        return value.item()
    return value


def _array_to_primitives(array: Array) -> Primitive:
    if array.dtype.kind not in "biufc":
        return array
    own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    try:
        return {_ARRAY: torch.as_tensor(own)}
    except TypeError:  # torch has no such dtype
        return array


def from_primitives(value: Primitive) -> Primitive:
    """The inverse of `to_primitives`; mappings stay dicts."""
    if is_mapping(value):
        only = next(iter(value)) if len(value) == 1 else None
        if only == _ARRAY:
            return value[only].numpy()
        if only == _FROZENSET:
            return frozenset(from_primitives(item) for item in value[only])
        if only == _DEQUE:
            items, maxlen = value[only]
            return deque((from_primitives(item) for item in items), maxlen)
        if only == _EMPTY:
            return b""
        if only == _NUMBERS:
            return [*value[only].unbind()]
        return {key: from_primitives(item) for key, item in value.items()}
    if is_plain_collection(value):
        return type(value)(from_primitives(item) for item in value)
    return value


def find_unsupported(value: object, where: str = "") -> str | None:
    """The path in `value` to something neither tensor nor primitive; None if there is none."""
    kind = value.__class__
    if kind in _SCALARS or kind in _TENSORS:
        return None
    if is_mapping(value):
        items = [(where, key) for key in value]
        items += [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif is_plain_collection(value):
        items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return f"{where or 'the value'} ({kind.__name__})"
    return next((found for at, item in items if (found := find_unsupported(item, at))), None)


def if_primitive(value: Primitive) -> Primitive:
    """`value` as primitives; None if something in it cannot be kept."""
    made = to_primitives(value)
    return made if find_unsupported(made) is None else None
