"""The columns of frames: named as they were at fit, and with values that are finite."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import TensorDataset

from luzpy.data.dataset import InMemoryDataset, Split, is_in_memory, is_pandas, is_polars
from luzpy.ground.nested import is_mapping, is_sequence, tensors_in
from luzpy.ground.types import Data, Loader

Columns = Any
"""The names of a frame's columns, in the nest that the data are; None where there are none."""

_MOST_NAMED = 10


def columns_of(data: Data) -> Columns:
    """The names of the columns of every frame in `data`."""
    if is_mapping(data):
        by_key = {key: columns_of(item) for key, item in data.items()}
        return by_key if any(by_key.values()) else None
    if is_sequence(data):
        by_place = [columns_of(item) for item in data]
        return by_place if any(by_place) else None
    names = _names(data)
    # Numbers name no columns: a frame made of an array has them too.
    known = names is not None and all(isinstance(name, str) for name in names)
    return tuple(names or ()) if known and len(set(names or ())) == len(names or ()) else None


def is_columns(value: object) -> bool:
    """Whether `value` is of the form that `columns_of` gives."""
    if value is None:
        return True
    if isinstance(value, tuple):
        return all(isinstance(name, str) for name in cast("tuple[object, ...]", value))
    if is_mapping(value):
        return all(map(is_columns, value.values()))
    return isinstance(value, list) and all(map(is_columns, cast("list[object]", value)))


def with_columns(data: Data, columns: Columns, name: str) -> Data:
    """`data` with the columns of every frame in the order that they had at fit.

    Args:
        data: What the user gave.
        columns: What `columns_of` gave for the data of the fit.
        name: What error messages call `data`.

    Raises:
        ValueError: If columns are missing or unknown, or an array has another number of them.
    """
    if columns is None:
        return data
    if is_mapping(data) or is_sequence(data):
        is_named = is_mapping(data)
        items: list[tuple[Any, Any]] = list(data.items() if is_named else enumerate(data))
        made = [
            with_columns(item, _part(columns, place, key), f"{name}[{key!r}]")
            for place, (key, item) in enumerate(items)
        ]
        if all(new is old for new, (_, old) in zip(made, items, strict=True)):
            return data
        return dict(zip(data, made, strict=True)) if is_named else tuple(made)
    while not isinstance(columns, tuple):  # of (input, target) the input alone
        if columns is None:
            return data
        columns = _part(columns, 0, None)
    wanted = cast("tuple[str, ...]", columns)
    found = columns_of(data)
    if found is None:
        shape = getattr(data, "shape", ())
        if len(shape) == 2 and shape[1] != len(wanted):
            raise ValueError(
                f"`{name}` must have the {len(wanted)} columns of the fit, {_listed(wanted)}, got "
                f"{shape[1]}."
            )
        return data
    missing = [column for column in wanted if column not in found]
    unknown = [column for column in found if column not in wanted]
    if missing or unknown:
        said = [f"{_listed(missing)} missing"] * bool(missing)
        said += [f"{_listed(unknown)} unknown"] * bool(unknown)
        raise ValueError(f"`{name}` must have the columns of the fit, got {' and '.join(said)}.")
    return data if found == wanted else data[list(wanted)]


def with_input_columns(data: Data, columns: Columns, name: str) -> Data:
    """As `with_columns`, for prediction: of (input, target) the target is not looked at."""
    if is_sequence(data) and len(data) == 2:
        return (with_columns(data[0], _part(columns, 0, 0), f"{name}[0]"), data[1])
    return with_columns(data, columns, name)


def warn_if_not_finite(loader: Loader, data: Data, name: str) -> None:
    """Warn about NaN and inf if `loader` was made from in-memory data."""
    if not is_in_memory(data):
        return
    dataset = loader.dataset.dataset if isinstance(loader.dataset, Split) else loader.dataset
    if isinstance(dataset, TensorDataset):
        tensors = list(dataset.tensors)
    elif isinstance(dataset, InMemoryDataset):
        tensors = list(tensors_in(dataset.structure))
    else:
        return
    found = [
        f"`{where}` holds values that are not finite: {counts}."
        for tensor, (where, leaf) in zip(tensors, _leaves(data, name), strict=True)
        if (counts := _not_finite(leaf if isinstance(leaf, torch.Tensor) else tensor, leaf))
    ]
    if found:
        warnings.warn(" ".join(found), UserWarning, stacklevel=4)


def _not_finite(tensor: torch.Tensor, leaf: Data) -> str:
    """How many values of each column are not finite; empty if all of them are.

    The user's own data are asked first: what has been moved to a device would be waited for.
    """
    if isinstance(leaf, np.ndarray):
        array = cast(Any, leaf)
        with np.errstate(all="ignore"):
            if array.dtype.kind == "f" and bool(np.isfinite(array.sum())):
                return ""
    names = _names(leaf)
    if tensor.layout is not torch.strided or not tensor.is_floating_point():
        return ""
    values = tensor.detach()
    # One pass without a copy: NaN and inf do not leave a sum.
    if bool(values.sum().isfinite()):
        return ""
    bad = ~values.isfinite()
    if values.ndim != 2 or values.shape[1] == 1:
        count = int(bad.sum())
        label = repr(str(names[0])) if names else "values"
        return f"{label} ({count})" if count else ""
    counts = cast("list[int]", cast(Any, bad.sum(0)).tolist())
    labels = [repr(str(n)) for n in names] if names else [f"column {i}" for i in range(len(counts))]
    listed = [f"{label} ({n})" for label, n in zip(labels, counts, strict=True) if n]
    more = len(listed) - _MOST_NAMED
    return ", ".join(listed[:_MOST_NAMED]) + (f" and {more} more columns" if more > 0 else "")


def _leaves(data: Data, name: str) -> Iterator[tuple[str, Data]]:
    if is_mapping(data):
        for key, item in data.items():
            yield from _leaves(item, f"{name}[{key!r}]")
    elif is_sequence(data):
        for index, item in enumerate(data):
            yield from _leaves(item, f"{name}[{index}]")
    else:
        yield name, data


def _names(leaf: Data) -> list[Any] | None:
    if not (is_pandas(leaf) or is_polars(leaf)):
        return None
    if hasattr(leaf, "columns"):
        return list(leaf.columns)
    return None if leaf.name in (None, "") else [leaf.name]


def _part(columns: Columns, place: int, key: Any) -> Columns:
    """The names of one part of the data, by its key or its place; of a frame alone the first."""
    if is_mapping(columns):
        return columns[key] if key in columns else next(islice(columns.values(), place, None), None)
    if columns is not None and not isinstance(columns, tuple):
        return columns[place] if place < len(columns) else None
    return cast(Columns, columns) if place == 0 else None


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))
