"""From a dataset to DataLoaders: their options, for training and for evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from luzpy.data.dataset import InMemoryDataset, as_dataset, is_in_memory, length_of
from luzpy.ground.devices import free_memory
from luzpy.ground.nested import is_sequence, tensors_in, to_device
from luzpy.ground.types import Data, Loader, Rows

Options = Mapping[str, Any]

BATCH_SIZE = 32
_SAMPLING = ("sampler", "batch_sampler", "shuffle", "drop_last")


def as_dataloader(x: Data, **options: Any) -> Loader:
    """Make a `DataLoader` for a dataset or in-memory data; a DataLoader is returned as it is.

    Port of R luz's `as_dataloader()`; `batch_size` is 32 unless given.

    Args:
        x: Anything that `as_dataset` takes, or a `DataLoader`.
        **options: Arguments of `torch.utils.data.DataLoader`.

    Returns:
        A `DataLoader`.

    Raises:
        ValueError: If options are passed with a DataLoader, or there are no rows.
        TypeError: If `x` or an option is of a type that cannot be used.

    Examples:
        >>> import luzpy as luz, torch
        >>> loader = luz.as_dataloader(torch.zeros(5, 2), batch_size=2)
        >>> [batch[0].shape[0] for batch in loader]
        [2, 2, 1]
    """
    x = _with_batches(x)
    if isinstance(x, DataLoader):
        if options:
            raise ValueError(
                "`dataloader_options` must not be given with a DataLoader, got "
                f"{sorted(options)}: set them where the DataLoader is made."
            )
        return cast(Loader, x)
    dataset = as_dataset(x)
    if "batch_sampler" not in options:
        options = {"batch_size": BATCH_SIZE, **options}
    try:
        return DataLoader(dataset, **options)
    except (TypeError, ValueError) as err:
        kind = TypeError if isinstance(err, TypeError) else ValueError
        raise kind(f"`dataloader_options` must be arguments of torch's DataLoader: {err}") from err


# Data that takes at most this share of an accelerator's free memory are moved there once.
RESIDENT_SHARE = 0.5
# With these options a batch is slices of the tensors, wherever they are.
_PLAIN_OPTIONS = {"batch_size", "shuffle", "drop_last"}


def resident(data: Data, device: torch.device, options: Options | None, *, name: str) -> Data:
    """In-memory data on a run's accelerator, if it fits there: then no batch needs to be copied.

    Args:
        data: What the user gave.
        device: The run's device.
        options: The user's `dataloader_options`: worker processes, say, want data on the CPU.
        name: The argument's name, for messages.

    Returns:
        A dataset on the device; `data` itself where they stay.
    """
    if device.type == "cpu" or not is_in_memory(data) or not {*(options or {})} <= _PLAIN_OPTIONS:
        return data
    share = RESIDENT_SHARE * free_memory(device)
    return moved_if_small(as_dataset(data, name=name), device, share)


def moved_if_small(dataset: Rows, device: torch.device, most_bytes: float) -> Rows:
    """A copy on `device` of a dataset of tensors that take at most this many bytes."""
    assert isinstance(dataset, (TensorDataset, InMemoryDataset))
    flat = isinstance(dataset, TensorDataset)
    held = dataset.tensors if flat else dataset.structure
    if sum(tensor.nbytes for tensor in tensors_in(held)) > most_bytes:
        return dataset
    moved = to_device(held, device)
    return TensorDataset(*moved) if flat else InMemoryDataset(moved)


def train_loader(data: Data, options: Options | None) -> Loader:
    """The DataLoader for training: shuffled and without a ragged last batch unless said otherwise.

    Raises:
        ValueError: If it would give no batch.
    """
    data = _with_batches(data)
    if isinstance(data, DataLoader):
        return _checked(as_dataloader(data, **(options or {})), "data")
    dataset = as_dataset(data)
    _check_rows(dataset, "data")
    chosen = dict(options or {})
    if "batch_sampler" not in chosen and chosen.get("batch_size", BATCH_SIZE) is not None:
        chosen.setdefault("drop_last", True)
    if not isinstance(dataset, IterableDataset) and not chosen.keys() & {
        "sampler",
        "batch_sampler",
    }:
        chosen.setdefault("shuffle", True)
    return _checked(as_dataloader(dataset, **chosen), "data")


def eval_loader(
    data: Data, options: Options | None, *, name: str, beside_train: Data = None
) -> Loader:
    """The DataLoader for validation and prediction: by default every row, once, in order.

    Args:
        data: What the user gave.
        options: The user's `dataloader_options`. Beside training data those that choose, order or
            drop rows are for them, and not used here.
        name: The argument's name, for messages.
        beside_train: The training data that `options` are meant for, when there is any.

    Raises:
        ValueError: If it would give no batch.
    """
    data = _with_batches(data)
    if isinstance(data, DataLoader):
        if beside_train is None:
            return _checked(as_dataloader(data, **(options or {})), name)
        if options:
            warnings.warn(
                "`dataloader_options` apply to `data` alone: `valid_data` is already a DataLoader.",
                UserWarning,
                stacklevel=2,
            )
        return _checked(cast(Loader, data), name)
    dataset = as_dataset(data, name=name)
    _check_rows(dataset, name)
    chosen = dict(options or {})
    if beside_train is None:
        return _checked(as_dataloader(dataset, **chosen), name)
    sampler = chosen.get("batch_sampler")
    if sampler is not None and isinstance(getattr(sampler, "batch_size", None), int):
        chosen.setdefault("batch_size", sampler.batch_size)
    for option in _SAMPLING:
        chosen.pop(option, None)
    return _checked(as_dataloader(dataset, **chosen), name)


def _with_batches(data: Data) -> Data:
    """A DataLoader of what gives batches already, as webdataset's WebLoader does.

    It is an iterable dataset with a DataLoader at the start of its pipeline.
    """
    stages = getattr(data, "pipeline", None)
    gives_batches = is_sequence(stages) and stages and isinstance(stages[0], DataLoader)
    is_stream = isinstance(data, IterableDataset)
    return DataLoader(cast(Rows, data), batch_size=None) if gives_batches and is_stream else data


def _check_rows(dataset: Rows, name: str) -> None:
    if length_of(dataset) == 0:
        raise ValueError(f"`{name}` must have at least one row, got none.")


def _checked(loader: Loader, name: str) -> Loader:
    if length_of(loader) == 0:
        dropped = ""
        if loader.drop_last:
            dropped = (
                f": `drop_last` drops the only batch, of fewer than {loader.batch_size} rows. Set "
                "a smaller `batch_size`, or `drop_last=False`, in `dataloader_options`"
            )
        raise ValueError(f"`{name}` must give at least one batch, got none{dropped}.")
    return loader
