"""From a dataset to batches on the device: DataLoaders, their options, and the fast way through."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    dataloader,
    default_collate,  # pyright: ignore[reportUnknownVariableType]  (torch's takes any list)
)

from luzpy.data import InMemoryDataset, Split, as_dataset, length_of, tensors_in

Options = Mapping[str, Any]

# Rows are gathered from memory in chunks of about this size and handed out as slices of the
# chunk: large enough that the gather's fixed cost vanishes, small enough to stay in the cache.
CHUNK_BYTES = 256 * 1024

_TORCHS_OWN: Any = dataloader  # its iterators have private names

_SAMPLING = ("sampler", "batch_sampler", "shuffle", "drop_last")

_SAMPLERS = (
    SequentialSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    DistributedSampler,
)


def as_dataloader(x: Any, **options: Any) -> DataLoader[Any]:
    """Make a `DataLoader` of a dataset or of in-memory data; a DataLoader passes through.

    Port of R luz's `as_dataloader()`; `batch_size` is 32 unless given.

    Args:
        x: Anything that `as_dataset` takes, or a `DataLoader`.
        **options: Arguments of `torch.utils.data.DataLoader`.

    Returns:
        A `DataLoader`.

    Raises:
        ValueError: If options come with a ready DataLoader, or there are no rows.
        TypeError: If `x` or an option is of a type that cannot be used.

    Examples:
        >>> import luzpy as luz, torch
        >>> loader = luz.as_dataloader(torch.zeros(5, 2), batch_size=2)
        >>> [batch[0].shape[0] for batch in loader]
        [2, 2, 1]
    """
    if isinstance(x, DataLoader):
        if options:
            raise ValueError(
                "`dataloader_options` must not be given with a ready DataLoader, got "
                f"{sorted(options)}: set them where the DataLoader is made."
            )
        return cast("DataLoader[Any]", x)
    dataset = as_dataset(x)
    if "batch_sampler" not in options:
        options = {"batch_size": 32, **options}
    try:
        return DataLoader(dataset, **options)
    except (TypeError, ValueError) as err:
        kind = TypeError if isinstance(err, TypeError) else ValueError
        raise kind(
            f"`dataloader_options` must be arguments of torch's DataLoader, got {options!r}: {err}"
        ) from err


def train_loader(data: Any, options: Options | None) -> DataLoader[Any]:
    """The DataLoader for training: shuffled and without a ragged last batch unless said otherwise.

    Raises:
        ValueError: If it would give no batch.
    """
    if isinstance(data, DataLoader):
        return _checked(as_dataloader(data, **(options or {})), "data")
    dataset = as_dataset(data)
    _check_rows(dataset, "data")
    chosen = dict(options or {})
    if "batch_sampler" not in chosen and chosen.get("batch_size", 32) is not None:
        chosen.setdefault("drop_last", True)
    if not isinstance(dataset, IterableDataset) and not chosen.keys() & {
        "sampler",
        "batch_sampler",
    }:
        chosen.setdefault("shuffle", True)
    return _checked(as_dataloader(dataset, **chosen), "data")


def eval_loader(
    data: Any, options: Options | None, *, name: str, beside_train: Any = None
) -> DataLoader[Any]:
    """The DataLoader for validation and prediction: every row, once, in order.

    Args:
        data: What the user gave.
        options: The user's `dataloader_options`. Those that choose or drop rows are for training
            and not used here.
        name: The argument's name, for messages.
        beside_train: The training data that `options` are meant for, when there is any.

    Raises:
        ValueError: If it would give no batch.
    """
    if isinstance(data, DataLoader):
        if beside_train is None:
            return _checked(as_dataloader(data, **(options or {})), name)
        if options:
            warnings.warn(
                "`dataloader_options` apply to `data` alone: `valid_data` is already a DataLoader.",
                UserWarning,
                stacklevel=2,
            )
        return _checked(cast("DataLoader[Any]", data), name)
    dataset = as_dataset(data, name=name)
    _check_rows(dataset, name)
    chosen = dict(options or {})
    if beside_train is None and chosen.get("shuffle"):
        warnings.warn(
            "`shuffle=True` is ignored here: rows are taken in their order.",
            UserWarning,
            stacklevel=2,
        )
    sampler = chosen.get("batch_sampler")
    if sampler is not None and isinstance(getattr(sampler, "batch_size", None), int):
        chosen.setdefault("batch_size", sampler.batch_size)
    for option in _SAMPLING:
        chosen.pop(option, None)
    return _checked(as_dataloader(dataset, **chosen), name)


def batch_count(loader: Iterable[Any]) -> int | None:
    """How many batches an epoch has, or None where that cannot be known."""
    return length_of(loader)


def generators_of(loader: Any) -> list[torch.Generator]:
    """The random generators that a user gave the loader or its samplers, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _check_rows(dataset: Dataset[Any], name: str) -> None:
    if length_of(dataset) == 0:
        raise ValueError(f"`{name}` must have at least one row, got none.")


def _checked(loader: DataLoader[Any], name: str) -> DataLoader[Any]:
    if batch_count(loader) == 0:
        dropped = ""
        if loader.drop_last:
            dropped = (
                f": `drop_last` drops the only batch, of fewer than {loader.batch_size} rows. Set "
                "a smaller `batch_size`, or `drop_last=False`, in `dataloader_options`"
            )
        raise ValueError(f"`{name}` must give at least one batch, got none{dropped}.")
    return loader


# --------------------------------------------------------------------------------------------
# Iteration
# --------------------------------------------------------------------------------------------


def batches(loader: Iterable[Any]) -> Iterator[Any]:
    """One epoch of `loader`.

    A plain in-process DataLoader over tensors in memory is not asked for its batches: they are
    gathered from the tensors at once instead of row by row. Batches and their order, and what is
    drawn from random generators, are bit for bit what the DataLoader gives; batches are copies,
    so a user may change them in place.
    """
    plan = _gather_plan(loader)
    return iter(loader) if plan is None else plan


def skip_batch(source: Iterator[Any]) -> bool:
    """Pass over a batch of what `batches` gave; whether there was one.

    A DataLoader without workers only names the batch's rows. With workers the batch is made, as
    their random states come to where they were in this way alone; so do an iterable's rows.
    """
    if type(source) is _TORCHS_OWN._SingleProcessDataLoaderIter:
        iterator = cast(Any, source)
        if iterator._dataset_kind == _TORCHS_OWN._DatasetKind.Map:
            return next(iterator._sampler_iter, None) is not None
    return next(source, None) is not None


def draws_as_it_goes(loader: Any) -> bool:
    """Whether the order of the rows may be drawn in this process while the epoch is under way.

    torch's own samplers draw it at the start of the epoch, or from a generator of their own.
    """
    if not isinstance(loader, DataLoader):
        return True
    loader = cast("DataLoader[Any]", loader)
    if isinstance(loader.dataset, IterableDataset):
        return loader.num_workers == 0
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    known = (*_SAMPLERS, type(None))
    return type(loader.batch_sampler) not in (BatchSampler, type(None)) or any(
        type(sampler) not in known for sampler in samplers
    )


def _gather_plan(loader: Iterable[Any]) -> Iterator[Any] | None:
    """The fast way through `loader`, or None where only the loader itself will do."""
    if type(loader) is not DataLoader:
        return None
    loader = cast("DataLoader[Any]", loader)
    if (
        loader.num_workers
        or loader.collate_fn is not default_collate
        or type(loader.batch_sampler) is not BatchSampler
        or not _is_torchs_own(loader)
        or (loader.pin_memory and torch.cuda.is_available())
    ):
        return None
    source = _tensors_of(loader.dataset)
    if source is None:
        return None
    structure, rows = source
    tensors = list(tensors_in(structure))
    if not all(_is_plain(tensor) for tensor in tensors):
        return None
    sampler = loader.sampler
    plain = getattr(sampler, "data_source", None) is loader.dataset
    if type(sampler) is SequentialSampler and plain:
        order = None
    elif (
        type(sampler) is RandomSampler
        and plain
        and not sampler.replacement
        and sampler.num_samples == len(cast("Any", loader.dataset))
        and sampler.generator is None
    ):
        order = sampler
    else:
        return None
    return _gather(loader, structure, rows, shuffled=order is not None)


def _is_torchs_own(loader: Any) -> bool:
    """Whether the batch sampler is the one that the DataLoader made, as it made it."""
    own = loader.batch_sampler
    return (
        own.sampler is loader.sampler
        and own.batch_size == loader.batch_size
        and own.drop_last == loader.drop_last
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    strided = type(tensor) is torch.Tensor and tensor.layout is torch.strided
    return strided and not tensor.requires_grad


def _tensors_of(dataset: Any) -> tuple[Any, torch.Tensor | None] | None:
    """The tensors behind a dataset and which of their rows it has (None: all)."""
    if type(dataset) is TensorDataset:
        return list(dataset.tensors), None
    if type(dataset) is InMemoryDataset:
        return dataset.structure, None
    if type(dataset) in (Subset, Split):
        subset = cast("Subset[Any]", dataset)
        if type(subset.dataset) in (TensorDataset, InMemoryDataset):
            structure, _ = cast("tuple[Any, None]", _tensors_of(subset.dataset))
            rows = _row_numbers(subset.indices, len(cast("Any", subset.dataset)))
            return None if rows is None else (structure, rows)
    return None


def _row_numbers(indices: Any, n_rows: int) -> torch.Tensor | None:
    """A subset's rows, or None if they are not plain numbers from 0 to `n_rows - 1`."""
    if type(indices) is torch.Tensor:
        indices = indices.numpy(force=True)
    if not isinstance(indices, (list, tuple, range, np.ndarray)):
        return None  # a pandas Series, say, is indexed by its labels
    rows = np.asarray(cast("Any", indices))
    if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
        return None
    if rows.min() < 0 or rows.max() >= n_rows:
        return None
    return torch.tensor(rows, dtype=torch.int64)


def _gather(
    loader: DataLoader[Any], structure: Any, rows: torch.Tensor | None, *, shuffled: bool
) -> Iterator[Any]:
    # The DataLoader draws a seed for workers at every epoch, also when it has none.
    torch.empty((), dtype=torch.int64).random_(generator=cast(Any, loader).generator)
    tensors = list(tensors_in(structure))
    n_rows = len(tensors[0]) if rows is None else len(rows)
    batch_size = cast(int, loader.batch_size)
    row_bytes = max(1, sum(t.element_size() * (t[:1].numel()) for t in tensors))
    chunk = batch_size * max(1, CHUNK_BYTES // (row_bytes * batch_size))
    end = n_rows - n_rows % batch_size if loader.drop_last else n_rows
    return _chunks(structure, tensors, rows, n_rows, end, batch_size, chunk, shuffled)


def _chunks(
    structure: Any,
    tensors: list[torch.Tensor],
    rows: torch.Tensor | None,
    n_rows: int,
    end: int,
    batch_size: int,
    chunk: int,
    shuffled: bool,
) -> Iterator[Any]:
    if shuffled:
        # As RandomSampler does: a generator of its own, seeded from the global one.
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
        order = torch.randperm(n_rows, generator=generator)
        rows = order if rows is None else rows[order]
    flat = isinstance(structure, list)
    for start in range(0, end, chunk):
        stop = min(start + chunk, end)
        if rows is None:
            form = torch.contiguous_format
            parts = [tensor[start:stop].clone(memory_format=form) for tensor in tensors]
        else:
            index = rows[start:stop]
            parts = [tensor.index_select(0, index.to(tensor.device)) for tensor in tensors]
        # Slices by `split` share autograd's count of in-place changes: a change of one batch would
        # invalidate the graphs of its neighbours. Those by `unsafe_split` count for themselves.
        for columns in zip(*(part.unsafe_split(batch_size) for part in parts), strict=True):
            yield list(columns) if flat else _rebuild(structure, columns)


def _rebuild(structure: Any, columns: tuple[torch.Tensor, ...]) -> Any:
    """The batch in the dataset's structure; tuples become lists, as with `default_collate`."""
    remaining = iter(columns)

    def collated(item: Any) -> Any:
        if isinstance(item, tuple):
            return [collated(part) for part in cast("tuple[Any, ...]", item)]
        if isinstance(item, dict):
            mapping = cast("dict[Any, Any]", item)
            return {key: collated(part) for key, part in mapping.items()}
        return next(remaining)

    return collated(structure)


def batch_rows(batch: Any, input: Any, target: Any) -> int:
    """How many rows a batch has: those of the input, else of the target, else of any tensor."""
    for part in (input, target):
        if isinstance(part, torch.Tensor) and part.ndim:
            return part.shape[0]
    first = next((tensor for tensor in tensors_in(batch) if tensor.ndim), None)
    return 1 if first is None else first.shape[0]
