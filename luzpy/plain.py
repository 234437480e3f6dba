"""What may stand in a file: tensors and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_ARRAY = "numpy.ndarray"


def plain(value: Any) -> Any:
    """`value` with NumPy's arrays and scalars, and mappings of all kinds, made plain."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if type(value) in (list, tuple, set):
        return type(value)(plain(item) for item in value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {_ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic):
        return value.item()
    return value


def unplain(value: Any) -> Any:
    """What `plain` was given, with its arrays as arrays again."""
    if isinstance(value, dict):
        mapping = cast("dict[Any, Any]", value)
        if mapping.keys() == {_ARRAY}:
            return mapping[_ARRAY].numpy()
        return {key: unplain(item) for key, item in mapping.items()}
    if type(value) in (list, tuple, set):
        return type(value)(unplain(item) for item in value)
    return value


def first_foreign(value: Any, where: str = "") -> str | None:
    """Where in `value` something stands that is neither a tensor nor plain; None if nowhere."""
    kind = type(value)
    if kind in _SCALARS or kind in (torch.Tensor, torch.nn.Parameter, torch.Size):
        return None
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            found = first_foreign(key, where) or first_foreign(item, f"{where}[{key!r}]")
            if found:
                return found
        return None
    if kind in (list, tuple, set, frozenset):
        for index, item in enumerate(value):
            found = first_foreign(item, f"{where}[{index}]")
            if found:
                return found
        return None
    return f"{where or 'the value'} ({kind.__name__})"
