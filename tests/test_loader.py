"""DataLoaders: their options, and the fast way through them, held against the DataLoader itself."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.dataloader import _BaseDataLoaderIter

import luzpy as luz
from luzpy.batches import batch_rows, batches
from luzpy.data import InMemoryDataset, tensors_in
from luzpy.loader import batch_count, eval_loader, train_loader


class Rows(Dataset):
    """A map-style dataset of a user's own."""

    def __init__(self, n_rows):
        self.n_rows = n_rows

    def __len__(self):
        return self.n_rows

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index


class Stream(IterableDataset):
    def __init__(self, n_rows=5):
        self.n_rows = n_rows

    def __iter__(self):
        return iter(torch.arange(float(self.n_rows)))


class SizedStream(Stream):
    def __len__(self):
        return self.n_rows


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


def test_training_shuffles_and_drops_the_last_batch():
    loader = train_loader(torch.zeros(70, 2), None)
    assert (loader.batch_size, loader.drop_last, type(loader.sampler)) == (32, True, RandomSampler)
    assert len(loader) == 2


def test_evaluation_takes_every_row_in_order():
    loader = eval_loader(torch.arange(70), None, name="newdata")
    assert (loader.batch_size, loader.drop_last) == (32, False)
    assert torch.cat([batch for (batch,) in batches(loader)]).tolist() == list(range(70))


@pytest.mark.parametrize(
    ("options", "batch_size", "drop_last", "sampler"),
    [
        ({}, 32, True, RandomSampler),
        ({"batch_size": 5}, 5, True, RandomSampler),
        ({"shuffle": False}, 32, True, SequentialSampler),
        ({"drop_last": False}, 32, False, RandomSampler),
        ({"sampler": SequentialSampler(range(40))}, 32, True, SequentialSampler),
        ({"batch_size": None}, None, False, RandomSampler),
    ],
)
def test_training_options_mean_what_they_mean_in_torch(options, batch_size, drop_last, sampler):
    loader = train_loader(torch.zeros(40), options)
    assert (loader.batch_size, loader.drop_last) == (batch_size, drop_last)
    assert type(loader.sampler) is sampler


def test_options_are_not_changed():
    options = {"batch_size": 5}
    train_loader(torch.zeros(40), options)
    eval_loader(torch.zeros(40), options, name="data")
    assert options == {"batch_size": 5}


def test_training_with_a_batch_sampler():
    loader = train_loader(torch.arange(9), {"batch_sampler": [[1, 2], [5]]})
    assert [batch.tolist() for (batch,) in batches(loader)] == [[1, 2], [5]]


def test_other_options_reach_the_dataloader():
    generator = torch.Generator()
    options = {"num_workers": 2, "prefetch_factor": 3, "generator": generator, "collate_fn": len}
    for loader in (
        train_loader(torch.zeros(40), options),
        eval_loader(torch.zeros(40), options, name="data"),
    ):
        assert (loader.num_workers, loader.prefetch_factor) == (2, 3)
        assert loader.generator is generator
        assert loader.collate_fn is len


def test_iterable_datasets_are_not_shuffled():
    (batch,) = batches(train_loader(Stream(6), {"batch_size": 4}))
    assert batch.tolist() == [0, 1, 2, 3]  # the other two are dropped
    loader = eval_loader(Stream(6), {"batch_size": 4}, name="data")
    assert [batch.tolist() for batch in batches(loader)] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("make", [lambda x: train_loader(x, None), luz.as_dataloader])
def test_chained_streams_without_a_length(make):
    loader = make(ChainDataset([Stream(40)]))
    assert batch_count(loader) is None
    assert next(batches(loader)).tolist() == list(range(32))


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True, "sampler": [0]},
        {"batch_size": 3, "batch_sampler": [[0]]},
        {"shuffle": True, "batch_sampler": [[0]]},
        {"drop_last": True, "batch_sampler": [[0]]},
        {"drop_last": True, "batch_size": None},
        {"batch_size": 0},
        {"prefetch_factor": 2},
    ],
)
def test_options_that_torch_refuses_are_refused(options):
    with pytest.raises(ValueError, match=r"exclusive|batch_size|prefetch_factor"):
        train_loader(torch.zeros(40), options)


def test_an_iterable_dataset_cannot_be_shuffled():
    with pytest.raises(ValueError, match="shuffle"):
        train_loader(Stream(), {"shuffle": True})


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="batchsize"):
        train_loader(torch.zeros(40), {"batchsize": 3})


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": [3, 1], "batch_size": 2},
        {"batch_sampler": BatchSampler([3, 1], 2, True)},
        {"shuffle": True, "drop_last": True, "batch_size": 2},
    ],
)
def test_validation_leaves_out_what_chooses_rows_for_training(options):
    loader = eval_loader(torch.arange(5), options, name="valid_data", beside_train=torch.zeros(5))
    assert [batch.tolist() for (batch,) in batches(loader)] == [[0, 1], [2, 3], [4]]


def test_a_batch_sampler_without_a_size_leaves_the_default():
    loader = eval_loader(torch.arange(5), {"batch_sampler": [[3]]}, name="valid_data")
    assert loader.batch_size == 32


def test_prediction_ignores_drop_last():
    # R: test-module.R, "we can pass dataloader_options"
    loader = eval_loader(torch.arange(5), {"batch_size": 2, "drop_last": True}, name="newdata")
    assert len(loader) == 3


def test_prediction_warns_of_shuffle():
    # R: test-module.R, "we can pass dataloader_options"
    with pytest.warns(UserWarning, match="`shuffle=True` is ignored here"):
        loader = eval_loader(torch.arange(5), {"shuffle": True}, name="newdata")
    assert type(loader.sampler) is SequentialSampler


@pytest.mark.parametrize(
    "make",
    [
        lambda loader, options: train_loader(loader, options),
        lambda loader, options: eval_loader(loader, options, name="newdata"),
        lambda loader, options: luz.as_dataloader(loader, **options),
    ],
)
def test_options_with_a_ready_dataloader_are_an_error(make):
    # R: test-module.R, "we can pass dataloader_options"
    message = (
        "`dataloader_options` must not be given with a ready DataLoader, got "
        "['batch_size', 'shuffle']: set them where the DataLoader is made."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make(DataLoader(Rows(5)), {"shuffle": True, "batch_size": 2})


def test_a_ready_dataloader_is_used_as_it_is():
    loader = DataLoader(Rows(5), batch_size=2)
    assert train_loader(loader, None) is loader
    assert train_loader(loader, {}) is loader
    assert eval_loader(loader, None, name="data") is loader
    assert luz.as_dataloader(loader) is loader


def test_a_ready_dataloader_for_validation_beside_options_warns():
    # R: test-module.R, "we can pass dataloader_options"
    loader = DataLoader(Rows(5))
    with pytest.warns(UserWarning, match="`dataloader_options` apply to `data` alone"):
        same = eval_loader(loader, {"batch_size": 2}, name="valid_data", beside_train=Rows(5))
    assert same is loader


def test_a_ready_dataloader_for_validation_without_options_is_silent():
    loader = DataLoader(Rows(5))
    assert eval_loader(loader, None, name="valid_data", beside_train=Rows(5)) is loader


@pytest.mark.parametrize("options", [{}, {"batch_size": 10}])
def test_as_dataloader_of_a_dataset(options):
    # R: test-as_dataloader.R, "works for datasets"
    loader = luz.as_dataloader(Rows(100), **options)
    sizes = [len(index) for _, index in loader]
    assert sizes == ([10] * 10 if options else [32, 32, 32, 4])


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(100),
        np.zeros((100, 10)),
        np.zeros((100, 10, 10)),
        torch.zeros(100, 10),
        pd.DataFrame({"a": range(100)}),
        [torch.zeros(100, 10), np.ones((100, 5))],
        {"x": torch.zeros(100)},
    ],
)
def test_as_dataloader_of_data_in_memory(x):
    # R: test-as_dataloader.R, "works for nuemrics", "works for lists of tensors"
    loader = luz.as_dataloader(x)
    assert [batch_rows(batch, None, None) for batch in loader] == [32, 32, 32, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: luz.as_dataloader(x),
        lambda x: train_loader(x, None),
        lambda x: eval_loader(x, None, name="data"),
    ],
)
def test_what_is_no_data_is_a_type_error(make):
    # R: test-as_dataloader.R, "as_dataloader fails"
    with pytest.raises(TypeError, match=r"`data` must be a DataLoader, .*, got object\."):
        make(object())


# Nothing to iterate over --------------------------------------------------------------------


@pytest.mark.parametrize(
    "x", [torch.zeros(0, 3), Rows(0), TensorDataset(torch.zeros(0)), SizedStream(0)]
)
def test_data_without_rows(x):
    with pytest.raises(ValueError, match=r"`data` must have at least one row, got none\."):
        train_loader(x, None)
    with pytest.raises(ValueError, match=r"`newdata` must have at least one row, got none\."):
        eval_loader(x, None, name="newdata")


def test_as_dataloader_without_rows():
    with pytest.raises(ValueError, match=r"`data` must have at least one row, got none\."):
        luz.as_dataloader(np.zeros((0, 3)))


@pytest.mark.parametrize(("options", "size"), [(None, 32), ({"batch_size": 8}, 8)])
def test_fewer_rows_than_a_batch_is_an_error_that_says_what_to_do(options, size):
    message = (
        "`data` must give at least one batch, got none: `drop_last` drops the only batch, of fewer "
        f"than {size} rows. Set a smaller `batch_size`, or `drop_last=False`, in "
        "`dataloader_options`."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        train_loader(torch.zeros(7, 2), options)


def test_fewer_rows_than_a_batch_train_without_drop_last():
    assert len(train_loader(torch.zeros(7, 2), {"drop_last": False})) == 1


def test_a_ready_dataloader_without_batches():
    empty = DataLoader(TensorDataset(torch.zeros(0, 2)))
    with pytest.raises(ValueError, match=r"`data` must give at least one batch, got none\."):
        train_loader(empty, None)
    with pytest.raises(ValueError, match=r"`valid_data` must give at least one batch, got none\."):
        eval_loader(empty, None, name="valid_data", beside_train=Rows(5))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("text", TypeError, r"`valid_data` must be a DataLoader"),
        ((torch.zeros(3), None), TypeError, r"`valid_data\[1\]` must be a tensor"),
        ((torch.zeros(3), torch.zeros(2)), ValueError, "`valid_data` must have parts of equal"),
        (pd.Series(["a"]), TypeError, "`valid_data` must hold numbers only"),
    ],
)
def test_messages_call_the_data_by_the_argument(x, error, message):
    with pytest.raises(error, match=message):
        eval_loader(x, None, name="valid_data")


def test_the_count_of_batches():
    assert batch_count(DataLoader(Rows(5), batch_size=2)) == 3
    assert batch_count(DataLoader(SizedStream(5), batch_size=2)) == 3
    assert batch_count(DataLoader(Stream(5), batch_size=2)) is None
    assert batch_count([1, 2]) == 2


# The fast way: the same batches, the same draws ---------------------------------------------

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
    with pytest.raises(Exception) as expected:  # noqa: PT011
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
        lambda: DataLoader(Rows(6), 4, shuffle=True),
        lambda: DataLoader(Stream(6), 4),
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
