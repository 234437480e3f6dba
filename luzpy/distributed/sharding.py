"""Which batches each process takes, and which of them make a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar, cast, final

import attrs
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    default_collate,  # pyright: ignore[reportUnknownVariableType]  (torch's takes any list)
)

from luzpy.data.batches import batch_rows, batches, draws_as_it_goes, gathers, input_of, target_of
from luzpy.data.dataset import length_of
from luzpy.distributed.process_group import ProcessGroup
from luzpy.ground.types import Batch, Loader

T = TypeVar("T")

GROUPS_AT_ONCE = 64  # of which the main rank tells the others the rows


@attrs.frozen
class Part:
    """A rank's part of a group: of as many batches in a row as there are ranks, one each.

    Args:
        batch: The batch.
        rows: How many rows it has. 0: it is padding, as the group had none left for this rank.
        group_rows: How many rows the whole group has.
    """

    batch: Batch
    rows: int
    group_rows: int


@final
class ShardedLoader:
    """One process's batches of a DataLoader.

    Of every group of as many batches as there are ranks, rank r takes the r-th: N ranks with
    batches of b rows see in each step what one process with batches of N·b rows sees. Every rank
    is given as many batches; the last group may be short.

    Args:
        loader: Where the batches come from.
        processes: The processes.
        accumulate: How many groups make a step.
        whole_groups: Whether a last group with fewer batches than ranks is left out.
        count: What counts the rows of a batch, if the user's `unpack` does.

    Attributes:
        rows: How many rows the batch at hand has; 0 for padding.
        group_rows: How many its group has.
        is_last: Whether it is the last.
        starts_step: Whether it is the first of its step.
        ends_step: Whether it is the last of its step.
        step_rows: How many rows the step has had so far.
        expected_rows: How many it has in all if all its groups are as long as the first.

    Raises:
        ValueError: If it would give no batch, or its sampler is already one rank's.
    """

    def __init__(
        self,
        loader: Loader,
        processes: ProcessGroup,
        *,
        accumulate: int = 1,
        whole_groups: bool = False,
        count: Callable[[Batch], int] | None = None,
        name: str,
    ) -> None:
        if processes.size > 1 and isinstance(cast(Any, loader).sampler, DistributedSampler):
            raise ValueError(
                f"`{name}` must be a DataLoader over all rows, got one with a DistributedSampler: "
                "luzpy deals the batches out itself."
            )
        self.loader = loader
        self.processes = processes
        self.accumulate = accumulate
        self.whole_groups = whole_groups
        self._count, self._counts = count or _rows, count is not None
        self.rows = self.group_rows = self.step_rows = self.expected_rows = 0
        self.is_last = self.starts_step = self.ends_step = False
        if length_of(self) == 0:
            raise ValueError(
                f"`{name}` must give each of the {processes.size} ranks at least one batch, got "
                f"{length_of(loader)} in all."
            )

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not yet set
            raise AttributeError(name)
        return getattr(self.loader, name)  # the dataset, the sampler: what callbacks look at

    def __len__(self) -> int:
        return n_groups(len(self.loader), self.processes.size, whole=self.whole_groups)

    def __iter__(self) -> Iterator[Batch]:
        for index, (part, is_last) in enumerate(self._parts_and_whether_last()):
            self.rows, self.group_rows, self.is_last = part.rows, part.group_rows, is_last
            self.starts_step = index % self.accumulate == 0
            self.ends_step = is_last or (index + 1) % self.accumulate == 0
            if self.starts_step:
                self.step_rows, self.expected_rows = 0, self.accumulate * part.group_rows
            self.step_rows += part.group_rows
            yield part.batch

    def _parts_and_whether_last(self) -> Iterator[tuple[Part, bool]]:
        parts = self._parts()
        if self.accumulate == 1 or not self._reads_ahead():
            n_parts = length_of(self)
            for index, part in enumerate(parts, start=1):
                yield part, index == n_parts
            return
        current = next(parts, None)
        while current is not None:
            following = next(parts, None)
            yield current, following is None
            current = following

    @property
    def draws_as_it_goes(self) -> bool:
        """Whether the order of the rows may be drawn during the epoch."""
        return draws_as_it_goes(self.loader)

    def _reads_ahead(self) -> bool:
        """Whether the last batch can only be recognised by the lack of a next one."""
        loader = self.loader
        is_stream = isinstance(loader.dataset, IterableDataset)
        return self.draws_as_it_goes or is_stream or _overrides_iter(loader)

    @property
    def resumable(self) -> bool:
        """Whether a run can resume in the middle of an epoch: not if others share its batches."""
        return self.processes.size == 1

    @property
    def is_padding(self) -> bool:
        """Whether the current batch only keeps this process in step with the others.

        No loss, metric, gradient or prediction of it counts.
        """
        return self.rows == 0

    @property
    def n_steps(self) -> int:
        """How many optimizer steps an epoch has."""
        return n_groups(len(self), self.accumulate, whole=False)

    @property
    def weight(self) -> float:
        """The weight of this rank's mean loss in the mean over ranks."""
        return self.rows * self.processes.size / self.group_rows

    def _parts(self) -> Iterator[Part]:
        if self.processes.size == 1 or gathers(self.loader):
            return self._from_all_batches()
        loader: Any = self.loader
        if (
            isinstance(loader.dataset, IterableDataset)
            or loader.batch_sampler is None
            or _overrides_iter(loader)
        ):
            return self._scattered_by_main()
        return self._from_own_rows()

    def _from_all_batches(self) -> Iterator[Part]:
        """This rank's share of the batches, all of which every rank reads."""
        for group in _grouped(self._shuffled_as_on_main(), self.processes.size):
            if not self.is_left_out(group):
                yield _part(group, [self._count(batch) for batch in group], self.processes.rank)

    def _scattered_by_main(self) -> Iterator[Part]:
        """Batches that only the main rank reads."""
        size = self.processes.size
        groups = _grouped(batches(self.loader), size) if self.processes.is_main else None
        while True:
            parts: list[Part | None] | None = None
            if groups is not None:
                group = next(groups, None) or []
                rows = [self._count(batch) for batch in group]
                is_end = not group or self.is_left_out(group)
                parts = [None if is_end else _part(group, rows, rank) for rank in range(size)]
            part = self.processes.scatter_object(parts)
            if part is None:
                return
            yield part

    def _from_own_rows(self) -> Iterator[Part]:
        """The batches of this rank's own rows: no rank reads another's."""
        sampler = _RowsOfRank(self)
        collates_all = cast(Any, self.loader).collate_fn is default_collate
        for batch in _with_batch_sampler(self.loader, sampler):
            rows, group_rows = sampler.sizes.popleft()
            if (
                self._counts or not collates_all
            ):  # a user's function may drop rows, or put their parts together
                everyones = self.processes.all_gather_object(self._count(batch) if rows else 0)
                rows, group_rows = everyones[self.processes.rank], sum(everyones)
            yield Part(batch, rows, group_rows)

    def is_left_out(self, group: list[Batch]) -> bool:
        """Whether a group is incomplete and has to be dropped."""
        return self.whole_groups and len(group) < self.processes.size

    def _shuffled_as_on_main(self) -> Iterator[Batch]:
        if self.processes.size == 1:
            return batches(self.loader)
        main = self.processes.broadcast_object(torch.get_rng_state())
        local = torch.get_rng_state()
        torch.set_rng_state(main)
        source = batches(self.loader)
        first = list(islice(source, 1))  # the order is drawn with it
        if not self.processes.is_main:
            torch.set_rng_state(local)
        return chain(first, source)


class _RowsOfRank:
    """The batch sampler of a rank: the main rank draws all rows, and tells the others."""

    def __init__(self, shard: ShardedLoader) -> None:
        self.shard = shard
        self.sizes: deque[tuple[int, int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        shard, processes = self.shard, self.shard.processes
        self.sizes.clear()
        sampler: Any = cast(Any, shard.loader).batch_sampler
        drawn = _grouped(iter(sampler), processes.size) if processes.is_main else iter(())
        while groups := processes.broadcast_object(list(islice(drawn, GROUPS_AT_ONCE))):
            for group in groups:
                if shard.is_left_out(group):
                    return
                part = _part(group, [len(rows) for rows in group], processes.rank)
                self.sizes.append((part.rows, part.group_rows))
                yield part.batch

    def __len__(self) -> int:
        return len(self.shard)


def _overrides_iter(loader: Loader) -> bool:
    """Whether the DataLoader's class is a user's that makes the batches itself."""
    return cast(Any, type(loader)).__iter__ is not cast(Any, DataLoader).__iter__


def n_groups(n_batches: int, size: int, *, whole: bool) -> int:
    """The number of groups of `size` batches, with or without an incomplete last one."""
    return n_batches // size if whole else -(-n_batches // size)


def _grouped(source: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(islice(source, size)):
        yield group


def _part(group: list[Batch], rows: list[int], rank: int) -> Part:
    if rank < len(group):
        return Part(group[rank], rows[rank], sum(rows))
    return Part(group[0], 0, sum(rows))


def _rows(batch: Batch) -> int:
    return batch_rows(batch, input_of(batch), target_of(batch))


def _with_batch_sampler(loader: Any, sampler: _RowsOfRank) -> Loader:
    """A DataLoader like `loader` over other batches."""
    return DataLoader(
        loader.dataset,
        batch_sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
