"""From a DataLoader to its batches, on the fast way through where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
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

from luzpy.data.dataset import InMemoryDataset, Split
from luzpy.ground.arguments import is_whole
from luzpy.ground.nested import is_mapping, is_sequence, tensors_in
from luzpy.ground.types import Batch, Data, Loader, Rows

# Rows are gathered from memory in chunks of about this size and handed out as slices of the
# chunk: large enough that the gather's fixed cost vanishes, small enough to stay in the cache.
CHUNK_BYTES = 256 * 1024

_TORCHS_OWN: Any = dataloader  # its iterators have private names

_SAMPLERS = (
    SequentialSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    DistributedSampler,
)


def batches(loader: Iterable[Batch]) -> Iterator[Batch]:
    """One epoch of `loader`.

    A plain in-process DataLoader over tensors in memory is not asked for its batches: they are
    gathered from the tensors at once instead of row by row. Batches and their order, and what is
    drawn from random generators, are bit for bit what the DataLoader gives; batches are copies,
    so a user may change them in place.
    """
    gathered = _gather_plan(loader)
    return iter(loader) if gathered is None else gathered()


def gathers(loader: Iterable[Batch]) -> bool:
    """Whether `batches` gathers the batches of `loader` from tensors in memory."""
    return _gather_plan(loader) is not None


def skip_batch(source: Iterator[Batch]) -> bool:
    """Pass over a batch of what `batches` gave; whether there was one.

    A DataLoader without workers only draws the batch's row numbers. With workers, and for an
    iterable, the batch is made: otherwise their random states would not advance.
    """
    if type(source) is _TORCHS_OWN._SingleProcessDataLoaderIter:
        iterator = cast(Any, source)
        if iterator._dataset_kind == _TORCHS_OWN._DatasetKind.Map:
            return next(iterator._sampler_iter, None) is not None
    return next(source, None) is not None


def draws_as_it_goes(loader: Data) -> bool:
    """Whether the order of the rows may be drawn in this process during the epoch.

    torch's own samplers draw it at the start of the epoch, or from a generator of their own.
    """
    if hasattr(loader, "draws_as_it_goes"):  # a loader around a loader
        return loader.draws_as_it_goes
    if not isinstance(loader, DataLoader):
        return True
    loader = cast(Loader, loader)
    if isinstance(loader.dataset, IterableDataset):
        return loader.num_workers == 0
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    known = (*_SAMPLERS, type(None))
    return type(loader.batch_sampler) not in (BatchSampler, type(None)) or any(
        type(sampler) not in known for sampler in samplers
    )


def _gather_plan(loader: Iterable[Batch]) -> Callable[[], Iterator[Batch]] | None:
    """The fast way through `loader`, or None where only the loader itself will do."""
    if type(loader) is not DataLoader:
        return None
    loader = cast(Data, loader)
    own = loader.batch_sampler  # as the DataLoader made it?
    if (
        loader.num_workers
        or loader.collate_fn is not default_collate
        or type(own) is not BatchSampler
        or (own.sampler, own.batch_size, own.drop_last)
        != (loader.sampler, loader.batch_size, loader.drop_last)
        or (loader.pin_memory and torch.accelerator.is_available())
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
    if getattr(sampler, "data_source", None) is not loader.dataset:
        return None
    shuffled = (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)
        and sampler.generator is None
    )
    if not shuffled and type(sampler) is not SequentialSampler:
        return None
    return partial(_gather, loader, structure, rows, shuffled=shuffled)


def _is_plain(tensor: torch.Tensor) -> bool:
    strided = type(tensor) is torch.Tensor and tensor.layout is torch.strided
    return strided and not tensor.requires_grad


def _tensors_of(dataset: Rows) -> tuple[Batch, torch.Tensor | None] | None:
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
    loader: Loader, structure: Batch, rows: torch.Tensor | None, *, shuffled: bool
) -> Iterator[Batch]:
    # The DataLoader draws a seed for workers at every epoch, also when it has none.
    torch.empty((), dtype=torch.int64).random_(generator=cast(Any, loader).generator)
    return _chunks(loader, structure, rows, shuffled)


def _chunks(
    loader: Loader, structure: Batch, rows: torch.Tensor | None, shuffled: bool
) -> Iterator[Batch]:
    tensors = list(tensors_in(structure))
    n_rows = len(tensors[0]) if rows is None else len(rows)
    batch_size = cast(int, loader.batch_size)
    row_bytes = max(1, sum(t.element_size() * (t[:1].numel()) for t in tensors))
    chunk = batch_size * max(1, CHUNK_BYTES // (row_bytes * batch_size))
    end = n_rows - n_rows % batch_size if loader.drop_last else n_rows
    if shuffled:
        # As RandomSampler does: a generator of its own, seeded from the global one.
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
        order = torch.randperm(n_rows, generator=generator)
        rows = order if rows is None else rows[order]
    if rows is not None:  # once, not chunk by chunk; nearly always all tensors are on one device
        rows = rows.to(tensors[0].device)
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


def _rebuild(structure: Batch, columns: tuple[torch.Tensor, ...]) -> Batch:
    """The batch in the dataset's structure; tuples become lists, as with `default_collate`."""
    remaining = iter(columns)

    def collated(item: Batch) -> Batch:
        if is_sequence(item):
            return [collated(part) for part in item]
        if is_mapping(item):
            return {key: collated(part) for key, part in item.items()}
        return next(remaining)

    return collated(structure)


def input_of(batch: Batch) -> Batch:
    """The first part of a batch (the batch itself, if it has no parts)."""
    if is_mapping(batch):
        return next(iter(batch.values()), None)
    if is_sequence(batch):
        return next(iter(batch), None)
    return batch


def target_of(batch: Batch) -> Batch:
    """The second part of a batch, or None."""
    parts: Iterable[Batch] = ()
    if is_mapping(batch):
        parts = batch.values()
    elif is_sequence(batch):
        parts = batch
    return next(islice(parts, 1, None), None)


def with_part(batch: Batch, index: int, value: Batch) -> Batch:
    """A batch like `batch` with a different input (index 0) or target (index 1)."""
    if is_mapping(batch):
        keys = list(batch)
        key = keys[index] if index < len(keys) else "target"
        return {**batch, key: value}
    parts: list[Batch] = list(batch) if is_sequence(batch) else [batch]
    parts[index : index + 1] = [value]
    return parts


def batch_rows(batch: Batch, input: Batch, target: Batch) -> int:
    """How many rows a batch has: the target's, else the input's, else those of any tensor.

    The target goes first: in an input the first dimension may be that of time.
    """
    for part in (target, input):
        rows = _rows_of(part)
        if rows is not None:
            return rows
    first = next((tensor for tensor in tensors_in(batch) if tensor.ndim), None)
    return 1 if first is None else first.shape[0]


def has_rows_of(input: Batch, target: Batch) -> bool:
    """Whether the input is a tensor that has the rows of its batch."""
    rows = _rows_of(target)
    return isinstance(input, torch.Tensor) and rows in (None, _rows_of(input))


def _rows_of(part: Batch) -> int | None:
    if isinstance(part, torch.Tensor):
        return part.size(0) if part.ndim else None
    if isinstance(part, PackedSequence):
        return int(part.batch_sizes[0])
    if is_sequence(part):  # one mapping a row, as detections are; else columns of any kind
        return len(part) if part and all(map(is_mapping, part)) else None
    if is_mapping(part) or part is None or isinstance(part, (str, bytes)):
        return None
    return _rows_of_object(part)


def _rows_of_object(part: Batch) -> int | None:
    """What an object says, such as a batch of graphs."""
    for name in ("num_graphs", "batch_size"):
        found = getattr(part, name, None)
        if is_sequence(found) and found:  # a shape
            found = found[0]
        if is_whole(found):
            return int(found)
    return len(part) if hasattr(part, "__len__") else None
