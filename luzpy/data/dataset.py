"""From users' data (tensors, arrays, frames) to a torch `Dataset`."""

from __future__ import annotations

import sys
from collections.abc import Sized
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from luzpy.ground.nested import is_mapping, is_sequence, map_nested, tensors_in
from luzpy.ground.primitives import is_array
from luzpy.ground.types import Array, Batch, Data, Loader, Rows


class InMemoryDataset(Rows):
    """Rows of tensors that are nested in tuples and dicts, all of the same length.

    Args:
        structure: A tensor, or a tuple or dict (nested at will) of tensors.
    """

    def __init__(self, structure: Batch) -> None:
        self.structure = structure
        self._length = len(next(tensors_in(structure)))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return map_nested(lambda tensor: tensor[index], self.structure)


def is_in_memory(obj: object) -> bool:
    """Whether `obj` is data that `as_dataset` converts, rather than a `Dataset`."""
    known = (torch.Tensor, np.ndarray, tuple, list, dict)
    return isinstance(obj, known) or is_mapping(obj) or is_pandas(obj) or is_polars(obj)


def _has_rows(obj: object) -> bool:
    """Whether `obj` returns rows by index, like a dataset of another library."""
    others = (str, bytes, bytearray, torch.nn.Module)
    library = type(obj).__module__.partition(".")[0]
    if isinstance(obj, (type, *others)) or library in ("pandas", "polars"):
        return False
    return hasattr(obj, "__len__") and hasattr(obj, "__getitem__")


def as_dataset(x: Data, *, name: str = "data") -> Rows:
    """Make a torch dataset from in-memory data; a dataset is returned as it is.

    A torch tensor is used as it is, without a copy, whatever its dtype. In arrays, frames and
    series, floats become the default float dtype and integers int64; booleans and complex numbers
    stay. Port of R luz's `as_dataset()`.

    Args:
        x: A `Dataset`, or anything else with `__len__` and `__getitem__`; a tensor or a NumPy
            array, rows first; a pandas or polars frame (one row per row) or series; or a tuple,
            list or dict of these, (input, target) in this order.
        name: The argument's name in error messages.

    Returns:
        A `TensorDataset` for one array or a flat tuple of them; for dicts and nested tuples, a
        dataset whose items have the same structure.

    Raises:
        TypeError: If `x` is of another type, or contains text, objects or dates; the message names
            the columns.
        ValueError: If there are no rows, or the parts differ in their number of rows.

    Examples:
        >>> import luzpy as luz, numpy as np
        >>> dataset = luz.as_dataset((np.eye(3), np.array([0, 1, 2])))
        >>> dataset[1]
        (tensor([0., 1., 0.]), tensor(1))
    """
    if isinstance(x, Dataset):
        return cast(Rows, x)
    if not is_in_memory(x):
        if _has_rows(x):
            return x
        raise TypeError(
            f"`{name}` must be a DataLoader, a Dataset, a tensor, a NumPy array, a pandas or "
            f"polars frame or series, or a tuple, list or dict of these, got {type(x).__name__}."
        )
    structure = _as_tensors(x, name)
    lengths = [len(tensor) for tensor in tensors_in(structure)]
    if len(set(lengths)) > 1:
        listed = " and ".join(map(str, lengths))
        raise ValueError(f"`{name}` must have parts of equal length, got {listed} rows.")
    if lengths[0] == 0:
        raise ValueError(f"`{name}` must have at least one row, got none.")
    if isinstance(structure, torch.Tensor):
        return TensorDataset(structure)
    if is_sequence(structure) and all(isinstance(part, torch.Tensor) for part in structure):
        return TensorDataset(*structure)
    return InMemoryDataset(structure)


def length_of(obj: object) -> int | None:
    """`len(obj)`, or None where that cannot be known."""
    try:
        return len(cast(Sized, obj))
    except TypeError:
        return None


class Split(Subset[Any]):
    """Rows that luzpy chose at random: a resumed run takes those that it started with."""


def split_dataset(
    data: Data, fraction: float, seed: int, before: torch.Tensor | None = None
) -> tuple[Split, Split]:
    """Split off a random `fraction` of the rows for validation.

    Args:
        data: What the user gave.
        fraction: How many rows, as a share of all.
        seed: Says which.
        before: The rows that a run before this one has validated on: the same again, if they are
            as many, so that none is trained on that a metric has been chosen by.
    """
    dataset = as_dataset(data)
    n_rows = None if isinstance(dataset, IterableDataset) else length_of(dataset)
    if n_rows is None:
        raise ValueError(
            f"`valid_data` can only be a fraction (got {fraction}) of data with a known length "
            f"and rows by number, got {type(dataset).__name__}. Give a dataset for validation."
        )
    n_valid = int(n_rows * fraction)
    if n_valid == 0:
        raise ValueError(
            f"`valid_data` must leave at least one row for validation, got {fraction} of "
            f"{n_rows} rows."
        )
    if before is not None and len(before) == n_valid and int(before.max()) < n_rows:
        held = cast("list[int]", cast(Any, before).tolist())
        left = set(held)
        return Split(dataset, [row for row in range(n_rows) if row not in left]), Split(
            dataset, held
        )
    # A generator of its own: the rows do not depend on what else the program has drawn.
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    numbers = cast("list[int]", cast(Any, order).tolist())
    return Split(dataset, sorted(numbers[n_valid:])), Split(dataset, sorted(numbers[:n_valid]))


def chosen_rows(loader: Loader | None) -> torch.Tensor | None:
    """The rows that luzpy chose for a loader, if it did."""
    dataset = getattr(loader, "dataset", None)
    return torch.tensor(dataset.indices) if isinstance(dataset, Split) else None


def is_pandas(obj: object) -> bool:
    """Whether `obj` is a pandas frame or series."""
    pandas = sys.modules.get("pandas")  # only who has a frame has imported it
    return pandas is not None and isinstance(obj, (pandas.DataFrame, pandas.Series))


def is_polars(obj: object) -> bool:
    """Whether `obj` is a polars frame or series."""
    return type(obj).__module__.partition(".")[0] == "polars" and hasattr(obj, "to_numpy")


def _as_tensors(x: Data, name: str) -> Batch:
    """`x` with every array in it as a tensor; `name` says where we are, for error messages."""
    if is_mapping(x):
        if not x:
            raise ValueError(f"`{name}` must not be empty, got {{}}.")
        return {key: _as_tensors(item, f"{name}[{key!r}]") for key, item in x.items()}
    if is_sequence(x):
        if not x:
            raise ValueError(f"`{name}` must not be empty, got {x!r}.")
        return tuple(_as_tensors(item, f"{name}[{i}]") for i, item in enumerate(x))
    tensor = _as_tensor(x, name)
    if tensor.ndim == 0:
        raise ValueError(f"`{name}` must have rows, got a single value, {tensor.item()}.")
    return tensor


def _as_tensor(x: Data, name: str) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x
    if is_array(x):
        array = x
        if np.ma.is_masked(array):
            array: Array = np.ma.filled(array.astype(np.float64), np.nan)
    elif is_pandas(x):
        array = _pandas_array(x, name)
    elif is_polars(x):
        array = _polars_array(x, name)
    else:
        raise TypeError(
            f"`{name}` must be a tensor, a NumPy array, or a pandas or polars frame or series, "
            f"got {type(x).__name__}."
        )
    if array.dtype.kind not in "biufc":
        raise TypeError(f"`{name}` must hold numbers, got an array of dtype {array.dtype}.")
    if array.dtype.kind == "u":
        _check_int64(array, name)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # torch has no long double
        array = array.astype(np.float64)
    plain = array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative
    if not plain or any(stride < 0 for stride in array.strides):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return _standard_dtype(cast(Any, torch).from_numpy(array))


def _standard_dtype(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point():
        return tensor.to(torch.get_default_dtype())
    if tensor.is_complex() or tensor.dtype is torch.bool:
        return tensor
    return tensor.to(torch.int64)


def _pandas_array(frame: Data, name: str) -> Array:
    columns: list[tuple[Any, Any]]
    if frame.ndim == 2:
        columns = list(zip(frame.columns, frame.dtypes, strict=True))
    else:
        columns = [(name if frame.name is None else frame.name, frame.dtype)]
    kinds = {_kind(dtype) for _, dtype in columns}
    if not kinds:
        raise ValueError(f"`{name}` must have at least one column, got none.")
    unusable = [(column, dtype) for column, dtype in columns if _kind(dtype) not in "biuf"]
    if unusable:
        raise TypeError(
            f"`{name}` must hold numbers only; these columns do not: "
            + ", ".join(f"{str(column)!r} ({dtype})" for column, dtype in unusable)
            + ". Encode them first, for example with pandas.get_dummies()."
        )
    missing = bool(np.any(np.asarray(frame.isna())))
    if missing or "f" in kinds:
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    if "u" in kinds:
        _check_int64(frame.to_numpy(dtype=np.float64), name)
    return frame.to_numpy(dtype=np.bool_ if kinds == {"b"} else np.int64)


def _check_int64(values: Array, name: str) -> None:
    if values.size and values.max() >= 2**63:
        raise ValueError(f"`{name}` must hold integers below 2**63, got {int(values.max())}.")


def _kind(dtype: object) -> str:
    """NumPy's one-letter kind, for pandas' own dtypes also."""
    import pandas as pd

    if isinstance(dtype, pd.CategoricalDtype):
        return "O"
    return str(getattr(dtype, "kind", "O"))


def _polars_array(x: Data, name: str) -> Array:
    columns: list[Any] = list(x.get_columns()) if hasattr(x, "get_columns") else [x]
    if not columns:
        raise ValueError(f"`{name}` must have at least one column, got none.")
    unusable = [c for c in columns if not (c.dtype.is_numeric() or str(c.dtype) == "Boolean")]
    if unusable:
        raise TypeError(
            f"`{name}` must hold numbers only; these columns do not: "
            + ", ".join(f"{column.name!r} ({column.dtype})" for column in unusable)
            + ". Encode them first, for example with polars' to_dummies()."
        )
    array: Array = x.to_numpy()
    if array.dtype == object:  # booleans beside nulls
        array = array.astype(np.float64)
    return array
