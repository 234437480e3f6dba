"""The fast way through a DataLoader, held against the DataLoader itself."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Stream, numbered
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.dataloader import _BaseDataLoaderIter

import luzpy as luz
from luzpy.data.batches import batch_rows, batches
from luzpy.data.dataset import InMemoryDataset
from luzpy.data.loader import train_loader
from luzpy.ground.nested import tensors_in


class Tens(TensorDataset):
    def __getitem__(self, index):
        return tuple(10 * part for part in super().__getitem__(index))


class Backwards(SequentialSampler):
    def __iter__(self):
        return reversed(range(len(self.data_source)))


class Pairs(BatchSampler):
    def __iter__(self):
        yield from ([0, 1], [3, 2])


class OneBatch(DataLoader):
    def __iter__(self):
        return iter(["one batch"])


class Tagged(torch.Tensor):
    pass


def is_gathered(loader):
    """Whether `batches` gathers the rows itself, and does not ask the DataLoader for them."""
    return not isinstance(batches(loader), _BaseDataLoaderIter)


def rng_states(loader):
    """The states of every generator that iteration may draw from."""
    return [
        generator.get_state().numpy().tobytes()
        for generator in (torch.default_generator, loader.generator)
        if generator is not None
    ]


def snapshot(obj):
    """A copy of a batch as plain comparable values: types, keys, dtypes, layout and every bit."""
    if isinstance(obj, torch.Tensor):
        plain = obj.detach().as_subclass(torch.Tensor).contiguous().reshape(-1)
        bits = plain.view(torch.uint8).numpy().tobytes()
        return type(obj), obj.dtype, obj.shape, obj.stride(), obj.requires_grad, bits
    if isinstance(obj, dict):
        return type(obj), [(key, snapshot(item)) for key, item in obj.items()]
    return type(obj), [snapshot(item) for item in obj]


def trace(iterate, make_loader, stops):
    """What epochs through `iterate` give and draw, each left after `stop` batches (None: never)."""
    torch.manual_seed(11)
    loader = make_loader()
    seen = [rng_states(loader)]
    for stop in stops:
        iterator = iterate(loader)
        seen.append(rng_states(loader))
        for index, batch in enumerate(iterator):
            seen.append([snapshot(batch), rng_states(loader)])
            torch.rand(1)  # as dropout would
            if index + 1 == stop:
                break
        seen.append(rng_states(loader))
    return seen


def assert_as_the_dataloader(make_loader, stops=(None,)):
    assert trace(batches, make_loader, stops) == trace(iter, make_loader, stops)


# The options --------------------------------------------------------------------------------


COLUMNS = [
    lambda n, width: torch.randn(n, width),
    lambda n, width: torch.randn(n),
    lambda n, width: torch.randint(-9, 9, (n,)),
    lambda n, width: torch.randn(n, width, dtype=torch.float64) > 0,
    lambda n, width: torch.randn(n, 2, 3, dtype=torch.complex64),
    lambda n, width: torch.randn(width, n).T,
    lambda n, width: torch.randn(1, 3).expand(n, 3),
    lambda n, width: torch.randn(2 * n, 3).half()[::2],
    lambda n, width: torch.rand(n, 2, 3, 3).contiguous(memory_format=torch.channels_last),
]

# The width 6,000 makes a row so large that an epoch is gathered in several chunks.
WIDTHS = [0, 1, 3, 6000]


@st.composite
def datasets(draw):
    n_rows = draw(st.integers(1, 70))
    width = draw(st.sampled_from(WIDTHS))
    torch.manual_seed(n_rows)
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3))
    tensors = [column(n_rows, width) for column in columns]
    nest = {
        "flat": lambda: TensorDataset(*tensors),
        "dict": lambda: InMemoryDataset({str(i): t for i, t in enumerate(tensors)}),
        "nested": lambda: InMemoryDataset(({"x": (tensors[0],), 3: tensors[-1]}, (tensors[0],))),
        "from luz": lambda: luz.as_dataset(({"x": tensors[0]}, [tensors[-1]])),
    }
    dataset = nest[draw(st.sampled_from(sorted(nest)))]()
    rows = draw(st.none() | st.lists(st.integers(0, n_rows - 1), min_size=1, max_size=40))
    if rows is None:
        return dataset
    kind = draw(st.sampled_from([list, tuple, np.array, torch.tensor]))
    return Subset(dataset, kind(rows))


@settings(deadline=None, max_examples=150)
@given(
    dataset=datasets(),
    batch_size=st.integers(1, 80),
    drop_last=st.booleans(),
    order=st.sampled_from(["in order", "in order, generator", "shuffled"]),
    stops=st.lists(st.none() | st.integers(1, 4), min_size=1, max_size=3),
)
def test_batches_and_draws_are_those_of_the_dataloader(
    dataset, batch_size, drop_last, order, stops
):
    def make():
        generator = torch.Generator().manual_seed(5) if "generator" in order else None
        return DataLoader(
            dataset, batch_size, order == "shuffled", drop_last=drop_last, generator=generator
        )

    assert is_gathered(make())
    assert_as_the_dataloader(make, stops)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32,
        torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex128,
    ],
)  # fmt: skip
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_dtype_of_torch(dtype, shuffle):
    dataset = TensorDataset(torch.arange(20).reshape(10, 2).to(dtype))
    assert_as_the_dataloader(lambda: DataLoader(dataset, 4, shuffle))


def test_samplers_given_but_as_torch_makes_them_are_gathered():
    dataset = TensorDataset(torch.arange(20))
    for sampler in (RandomSampler(dataset), SequentialSampler(dataset)):
        assert is_gathered(DataLoader(dataset, 4, sampler=sampler))
        assert_as_the_dataloader(lambda s=sampler: DataLoader(dataset, 4, sampler=s))


def test_an_epoch_that_is_never_begun_draws_as_the_dataloader_does():
    loader = DataLoader(TensorDataset(torch.zeros(9)), 2, shuffle=True)
    states = []
    for iterate in (iter, batches):
        torch.manual_seed(1)
        iterate(loader)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_two_epochs_at_once_draw_as_the_dataloader_does():
    def interleaved(iterate):
        torch.manual_seed(1)
        loader = DataLoader(TensorDataset(torch.arange(9)), 2, shuffle=True)
        return [snapshot(pair) for pair in zip(iterate(loader), iterate(loader), strict=True)]

    assert interleaved(batches) == interleaved(iter)


def test_data_changed_between_epochs_is_seen():
    x = torch.zeros(6)
    loader = DataLoader(TensorDataset(x), 3)
    list(batches(loader))
    x += 1
    assert [batch.tolist() for (batch,) in batches(loader)] == [[1, 1, 1]] * 2


@pytest.mark.parametrize("rows", [range(7, 2, -2), np.array([3, 1], np.uint16), "read-only"])
def test_subset_rows_in_other_forms(rows):
    if isinstance(rows, str):
        rows = np.array([3, 1, 2])
        rows.flags.writeable = False
    dataset = Subset(TensorDataset(torch.arange(9)), rows)
    assert is_gathered(DataLoader(dataset, 2))
    assert_as_the_dataloader(lambda: DataLoader(dataset, 2, shuffle=True))


@pytest.mark.parametrize("rows", [[0.0, 1.0], [99], ["a"]])
def test_subset_rows_that_are_not_there_fail_as_in_the_dataloader(rows):
    loader = DataLoader(Subset(TensorDataset(torch.arange(9)), rows), 2)
    with pytest.raises(Exception) as expected:  # noqa: PT011  (whatever torch raises)
        list(loader)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        list(batches(loader))


def test_subset_with_a_mask_for_rows_is_what_the_dataloader_makes_of_it():
    dataset = Subset(TensorDataset(torch.arange(2)), [True, True])
    assert_as_the_dataloader(lambda: DataLoader(dataset, 2))


def test_an_empty_subset_has_no_batches():
    assert list(batches(DataLoader(Subset(TensorDataset(torch.arange(9)), []), 2))) == []


# The fast way: batches are copies -----------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    dataset=datasets(),
    batch_size=st.integers(1, 30),
    shuffle=st.booleans(),
)
def test_changes_of_a_batch_reach_neither_the_data_nor_other_batches(dataset, batch_size, shuffle):
    loader = DataLoader(dataset, batch_size, shuffle)
    source = dataset.dataset if isinstance(dataset, Subset) else dataset
    held = getattr(source, "tensors", None) or source.structure
    before = snapshot(held)
    torch.manual_seed(1)
    expected = [snapshot(batch) for batch in loader]
    torch.manual_seed(1)
    kept = []
    for batch, values in zip(batches(loader), expected, strict=True):
        assert snapshot(batch) == values
        for tensor in tensors_in(batch):
            tensor.zero_()
        kept.append(batch)
    assert snapshot(held) == before
    for tensor in tensors_in(kept):
        tensor.fill_(True)
    assert snapshot(held) == before


@pytest.mark.parametrize(
    "x",
    [np.ones(8, np.float32), np.ones(8, np.int64), pd.Series([1, 1], dtype="f4"), torch.ones(8)],
)
def test_changes_of_a_batch_never_reach_the_users_arrays(x):
    for (batch,) in batches(train_loader(x, {"batch_size": 2})):
        batch.zero_()
    assert (x == 1).all()


@pytest.mark.parametrize("iterate", [iter, batches])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_change_of_one_batch_does_not_spoil_the_gradient_of_another(iterate, shuffle):
    # Two views of one tensor would share autograd's count of in-place changes.
    iterator = iterate(DataLoader(TensorDataset(torch.ones(4, 2)), 2, shuffle))
    weight = torch.ones(2, requires_grad=True)
    (first,) = next(iterator)
    loss = (first @ weight).sum()
    (second,) = next(iterator)
    second.mul_(2)
    (loss + (second @ weight).sum()).backward()
    assert weight.grad.tolist() == [6, 6]


def test_batches_may_require_grad():
    for (batch,) in batches(DataLoader(TensorDataset(torch.ones(4, 2)), 2)):
        batch.requires_grad_().sum().backward()
        assert batch.grad.tolist() == [[1, 1], [1, 1]]


# The slow way: whatever is not torch's default is iterated itself ---------------------------

DATA = TensorDataset(torch.arange(6.0), torch.arange(6))


def seeded():
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(numbered(6), 4, shuffle=True),
        lambda: DataLoader(Stream(torch.arange(6.0)), 4),
        lambda: DataLoader(Tens(torch.arange(6)), 4),
        lambda: DataLoader(Subset(Tens(torch.arange(6)), [1, 2]), 4),
        lambda: DataLoader(Subset(DATA, pd.Series([5, 4], index=[1, 0])), 4),
        lambda: DataLoader(Subset(DATA, [-1, 2]), 4),
        lambda: DataLoader(Subset(Subset(DATA, [1, 2, 4]), [2, 0]), 4),
        lambda: DataLoader(DATA, None),
        lambda: DataLoader(DATA, 4, sampler=Backwards(DATA)),
        lambda: DataLoader(DATA, 4, sampler=[5, 5, 0]),
        lambda: DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0] * 6, 9)),
        lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True)),
        lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, num_samples=3)),
        lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, num_samples=15)),
        lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, generator=seeded())),
        lambda: DataLoader(DATA, 4, sampler=RandomSampler(range(3))),
        lambda: DataLoader(DATA, 4, sampler=SequentialSampler(range(3))),
        lambda: DataLoader(DATA, 4, shuffle=True, generator=seeded()),
        lambda: DataLoader(DATA, batch_sampler=Pairs(range(6), 2, False)),
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 4, False)),
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 4, True)),
        lambda: DataLoader(DATA, 4, collate_fn=lambda rows: default_collate(rows)[:1]),
        lambda: DataLoader(TensorDataset(nn.Parameter(torch.ones(6))), 4),
        lambda: DataLoader(TensorDataset(torch.ones(6, requires_grad=True)), 4, shuffle=True),
        lambda: DataLoader(TensorDataset(torch.ones(6, 2).as_subclass(Tagged)), 4),
    ],
)
def test_what_is_not_torchs_default_is_iterated_itself(make):
    assert not is_gathered(make())
    assert_as_the_dataloader(make, [None, 1, None])


@pytest.mark.parametrize(
    ("attribute", "value"), [("batch_size", 2), ("drop_last", True), ("sampler", [5, 4, 3])]
)
def test_a_batch_sampler_that_was_changed_is_iterated_itself(attribute, value):
    loader = DataLoader(DATA, 4)
    setattr(loader.batch_sampler, attribute, value)
    assert snapshot(list(batches(loader))) == snapshot(list(loader))


def test_a_collate_function_set_later_is_used():
    loader = DataLoader(DATA, 4)
    loader.collate_fn = len
    assert list(batches(loader)) == [4, 2]


def test_a_subclass_of_dataloader_is_iterated_itself():
    assert list(batches(OneBatch(DATA, 4))) == ["one batch"]


def test_sparse_tensors_are_left_to_the_users_collate_function():
    loader = luz.as_dataloader(torch.eye(4).to_sparse(), batch_size=2, collate_fn=stacked)
    dense = torch.cat([batch.to_dense() for batch in batches(loader)])
    assert torch.equal(dense, torch.eye(4))
    assert not is_gathered(luz.as_dataloader(torch.eye(4).to_sparse()))


def stacked(rows):
    return torch.stack([row for (row,) in rows])


def test_a_graph_through_the_data_reaches_it():
    x = torch.ones(4, requires_grad=True)
    for (batch,) in batches(DataLoader(TensorDataset(x), 2)):
        batch.mul_(3).sum().backward()
    assert x.grad.tolist() == [3, 3, 3, 3]


def worker_rows(rows):
    """Collates, and says which process it runs in."""
    info = torch.utils.data.get_worker_info()
    return [None if info is None else info.id, *(row.item() for row, _ in rows)]


def test_workers_fetch_the_batches():
    with warnings.catch_warnings():  # a fork beside torch's threads, from Python 3.12 on
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = DataLoader(DATA, 3, num_workers=1, collate_fn=worker_rows)
        assert list(batches(loader)) == [[0, 0, 1, 2], [0, 3, 4, 5]]
        assert not is_gathered(DataLoader(DATA, 3, num_workers=1))


def test_any_iterable_of_batches_will_do():
    assert list(batches([1, 2])) == [1, 2]


# Rows of a batch ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "parts", "n_rows"),
    [
        ([torch.zeros(3, 2), torch.zeros(3)], (0, 1), 3),
        ([{"x": torch.zeros(4)}, torch.zeros(5)], (0, 1), 5),
        ([{"x": torch.zeros(4)}, ["a", "b"]], (0, 1), 4),
        ([torch.tensor(1.0), torch.zeros(2)], (0, 1), 2),
        ([torch.tensor(1.0), "a"], (0, 1), 1),
        ([torch.zeros(0, 2), torch.zeros(0)], (0, 1), 0),
    ],
)
def test_the_rows_of_a_batch(batch, parts, n_rows):
    assert batch_rows(batch, *(batch[part] for part in parts)) == n_rows
