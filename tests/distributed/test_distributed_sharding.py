"""Which batches each of several ranks takes: the logic alone, ranks being threads."""

from itertools import chain
from threading import Barrier, Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from luzpy.distributed.process_group import ProcessGroup, SingleProcess
from luzpy.distributed.sharding import ShardedLoader, n_groups


class Threads(ProcessGroup):
    """Ranks that are threads of this process, and hand one another what they have."""

    def __init__(self, rank, size, barrier, table):
        self.rank, self.size, self.barrier, self.table = rank, size, barrier, table

    def all_gather_object(self, obj):
        self.table[self.rank] = obj
        self.barrier.wait(120)
        found = [self.table[rank] for rank in range(self.size)]
        self.barrier.wait(120)
        return found

    def broadcast_object(self, obj):
        return self.all_gather_object(obj)[0]

    def scatter_object(self, objs):
        return self.all_gather_object(objs)[0][self.rank]

    def wrap(self, model, optimizers):
        raise NotImplementedError

    def all_reduce_mean(self, tensor):
        raise NotImplementedError

    def barrier(self):
        raise NotImplementedError

    def no_sync(self, model):
        raise NotImplementedError


def dealt(size, loaders, **options):
    """What each rank is given: (rows that count, batch, rows of its group, whether the last)."""
    barrier, table, found = Barrier(size), {}, [[] for _ in range(size)]

    def run(rank):
        ranks = SingleProcess() if size == 1 else Threads(rank, size, barrier, table)
        shard = ShardedLoader(loaders[rank], ranks, name="data", **options)
        for batch in shard:
            x = batch[0] if isinstance(batch, list) else batch
            found[rank].append((x[: shard.rows].tolist(), x, shard.group_rows, shard.is_last))

    threads = [Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return found


def gathered(n, b, drop_last):
    return DataLoader(TensorDataset(torch.arange(n)), b, drop_last=drop_last)


def by_row(n, b, drop_last):
    return DataLoader(range(n), b, drop_last=drop_last)


def already_batches(n, b, drop_last):
    parts = list(torch.arange(n).split(b))
    return DataLoader(parts[: n // b] if drop_last else parts, batch_size=None)


@pytest.mark.parametrize("make", [gathered, by_row, already_batches])
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), b=st.integers(1, 7), size=st.integers(2, 4))
def test_groups_are_the_batches_of_one_process(make, n, b, size):
    """Each row counts once, in the order of batches that are as many times as large."""
    found = dealt(size, [make(n, b, False) for _ in range(size)])
    assert len({len(parts) for parts in found}) == 1
    expected = torch.arange(n).split(size * b)
    for group, parts in zip(expected, zip(*found, strict=True), strict=True):
        assert list(chain.from_iterable(part[0] for part in parts)) == group.tolist()
        assert {part[2] for part in parts} == {len(group)}
        assert all(len(part[1]) for part in parts)  # padding has rows, of which none counts


@pytest.mark.parametrize("make", [gathered, by_row, already_batches])
@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), b=st.integers(1, 7), size=st.integers(2, 4))
def test_short_groups_are_left_out_if_asked(make, n, b, size):
    whole = n // (size * b)
    if whole == 0:
        with pytest.raises(ValueError, match="at least one batch"):
            ShardedLoader(
                make(n, b, True),
                Threads(0, size, Barrier(size), {}),
                whole_groups=True,
                name="data",
            )
        return
    found = dealt(size, [make(n, b, True) for _ in range(size)], whole_groups=True)
    assert {len(parts) for parts in found} == {whole}
    groups = chain.from_iterable(zip(*found, strict=True))
    assert list(chain.from_iterable(part[0] for part in groups)) == list(range(whole * size * b))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("make", [gathered, by_row, already_batches])
def test_the_last_batch_is_known_when_batches_are_accumulated(make, size):
    found = dealt(size, [make(11, 2, False) for _ in range(size)], accumulate=4)
    for parts in found:
        assert [part[3] for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_second_epoch_ends_as_the_first():
    shard = ShardedLoader(gathered(5, 2, False), SingleProcess(), accumulate=2, name="data")
    for _ in range(2):
        assert [(shard.rows, shard.is_last) for _ in shard] == [(2, False), (2, False), (1, True)]


@pytest.mark.parametrize(
    ("n_batches", "size", "whole", "groups"),
    [(7, 2, False, 4), (7, 2, True, 3), (6, 3, False, 2), (2, 3, False, 1), (2, 3, True, 0)],
)
def test_number_of_groups(n_batches, size, whole, groups):
    assert n_groups(n_batches, size, whole=whole) == groups


def test_a_rank_weighs_what_it_has_of_its_group():
    shard = ShardedLoader(gathered(5, 5, False), Threads(0, 2, Barrier(2), {}), name="data")
    shard.rows, shard.group_rows = 2, 8
    assert shard.weight == 0.5  # a quarter of the rows, times two ranks


@pytest.mark.parametrize("loader_of", [gathered, by_row])
def test_the_rows_of_a_step_are_counted_as_it_gathers_them(loader_of):
    # batches of 3, 3, 3 and 1 rows, three of which make a step, as the loop sees them
    shard = ShardedLoader(loader_of(10, 3, False), SingleProcess(), accumulate=3, name="data")
    for _ in range(2):  # an epoch begins with a new step, whatever the one before ended with
        seen = [
            (shard.starts_step, shard.ends_step, shard.step_rows, shard.expected_rows)
            for _ in shard
        ]
        assert seen == [
            (True, False, 3, 9),
            (False, False, 6, 9),
            (False, True, 9, 9),
            (True, True, 1, 3),
        ]
