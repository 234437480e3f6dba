"""What may stand in a file: tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
# Names for what torch's restricted unpickler has no word for.
_ARRAY = "numpy.ndarray"
_FROZENSET = "builtins.frozenset"
_EMPTY = "builtins.bytes"


def plain(value: Any) -> Any:
    """`value` with NumPy's arrays and scalars, frozen sets and mappings of all kinds made plain."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if type(value) in (list, tuple, set):
        return type(value)(plain(item) for item in value)
    if type(value) is frozenset:
        return {_FROZENSET: {plain(item) for item in cast("frozenset[Any]", value)}}
    if type(value) is bytes and not value:
        return {_EMPTY: None}
    if isinstance(value, np.ndarray):
        return _plain_array(cast("np.ndarray[Any, Any]", value))
    if isinstance(value, np.generic):
        return cast(Any, value).item()
    return value


def _plain_array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind not in "biufc":
        return array
    own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    try:
        return {_ARRAY: cast(Any, torch).from_numpy(own)}
    except TypeError:  # torch has no such dtype
        return array


def unplain(value: Any) -> Any:
    """What `plain` was given, with its arrays and frozen sets again; mappings stay dicts."""
    if isinstance(value, dict):
        mapping = cast("dict[Any, Any]", value)
        if mapping.keys() == {_ARRAY}:
            return mapping[_ARRAY].numpy()
        if mapping.keys() == {_FROZENSET}:
            return frozenset(unplain(item) for item in mapping[_FROZENSET])
        if mapping.keys() == {_EMPTY}:
            return b""
        return {key: unplain(item) for key, item in mapping.items()}
    if type(value) in (list, tuple, set):
        return type(value)(unplain(item) for item in value)
    return value


def first_foreign(value: Any, where: str = "") -> str | None:
    """Where in `value` something stands that is neither a tensor nor plain; None if nowhere."""
    kind = cast("type[Any]", type(value))
    if kind in _SCALARS or kind in (torch.Tensor, torch.nn.Parameter, torch.Size):
        return None
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            found = first_foreign(key, where) or first_foreign(item, f"{where}[{key!r}]")
            if found:
                return found
        return None
    if kind in (list, tuple, set):
        for index, item in enumerate(value):
            found = first_foreign(item, f"{where}[{index}]")
            if found:
                return found
        return None
    return f"{where or 'the value'} ({kind.__name__})"
