"""The options of DataLoaders: for training, for evaluation, and what is refused."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from models import SizedStream, Stream, numbered, regression
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

import luzpy as luz
from luzpy.data.batches import batch_rows, batches
from luzpy.data.dataset import as_dataset, length_of
from luzpy.data.loader import eval_loader, moved_if_small, resident, train_loader
from luzpy.ground.nested import tensors_in


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


@pytest.mark.parametrize("batch_size", [20, np.int64(20)])
def test_the_size_of_batches_is_an_argument_of_every_verb(batch_size):
    sizes = []

    def look(ctx):
        sizes.append(len(ctx.input))

    spy = luz.Callback.from_functions(
        on_train_batch_end=look, on_valid_batch_end=look, on_predict_batch_end=look
    )
    options = {"callbacks": spy, "verbose": False, "batch_size": batch_size}
    data = torch.zeros(50, 3), torch.zeros(50, 1)
    shuffled = {"shuffle": False}
    fitted = regression().fit(data, 1, valid_data=data, dataloader_options=shuffled, **options)
    fitted.evaluate(data, **options)
    fitted.predict(data, **options)
    regression().lr_finder(data, 3, **options)
    assert sizes == [20, 20, 20, 20, 10, 20, 20, 10, 20, 20, 10, 20, 20, 20]


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
    (batch,) = batches(train_loader(Stream(torch.arange(6.0)), {"batch_size": 4}))
    assert batch.tolist() == [0, 1, 2, 3]  # the other two are dropped
    loader = eval_loader(Stream(torch.arange(6.0)), {"batch_size": 4}, name="data")
    assert [batch.tolist() for batch in batches(loader)] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("make", [lambda x: train_loader(x, None), luz.as_dataloader])
def test_chained_streams_without_a_length(make):
    loader = make(ChainDataset([Stream(torch.arange(40.0))]))
    assert length_of(loader) is None
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
        train_loader(Stream(torch.arange(5.0)), {"shuffle": True})


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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampler": [3, 1, 4], "batch_size": 2}, [[3, 1], [4]]),
        ({"batch_sampler": [[3], [0, 2]]}, [[3], [0, 2]]),
        ({"batch_sampler": BatchSampler([3, 1, 4], 2, True)}, [[3, 1]]),
        ({"drop_last": True, "batch_size": 2}, [[0, 1], [2, 3]]),  # R: "dataloader_options"
    ],
)
def test_without_training_data_beside_it_every_option_is_used(options, expected):
    loader = eval_loader(torch.arange(5), options, name="newdata")
    assert [batch.tolist() for (batch,) in batches(loader)] == expected


def test_a_batch_sampler_without_a_size_leaves_the_default_for_validation():
    options = {"batch_sampler": [[3]]}
    loader = eval_loader(torch.arange(5), options, name="valid_data", beside_train=torch.zeros(5))
    assert loader.batch_size == 32


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
        "`dataloader_options` must not be given with a DataLoader, got "
        "['batch_size', 'shuffle']: set them where the DataLoader is made."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        make(DataLoader(numbered(5)), {"shuffle": True, "batch_size": 2})


def test_a_ready_dataloader_is_used_as_it_is():
    loader = DataLoader(numbered(5), batch_size=2)
    assert train_loader(loader, None) is loader
    assert train_loader(loader, {}) is loader
    assert eval_loader(loader, None, name="data") is loader
    assert luz.as_dataloader(loader) is loader


def test_a_ready_dataloader_for_validation_beside_options_warns():
    # R: test-module.R, "we can pass dataloader_options"
    loader = DataLoader(numbered(5))
    with pytest.warns(UserWarning, match="`dataloader_options` apply to `data` alone"):
        same = eval_loader(loader, {"batch_size": 2}, name="valid_data", beside_train=numbered(5))
    assert same is loader


def test_a_ready_dataloader_for_validation_without_options_is_silent():
    loader = DataLoader(numbered(5))
    assert eval_loader(loader, None, name="valid_data", beside_train=numbered(5)) is loader


@pytest.mark.parametrize("options", [{}, {"batch_size": 10}])
def test_as_dataloader_of_a_dataset(options):
    # R: test-as_dataloader.R, "works for datasets"
    loader = luz.as_dataloader(numbered(100), **options)
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
    "x",
    [torch.zeros(0, 3), numbered(0), TensorDataset(torch.zeros(0)), SizedStream(())],
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
        eval_loader(empty, None, name="valid_data", beside_train=numbered(5))


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
    assert length_of(DataLoader(numbered(5), batch_size=2)) == 3
    assert length_of(DataLoader(SizedStream(torch.arange(5.0)), batch_size=2)) == 3
    assert length_of(DataLoader(Stream(torch.arange(5.0)), batch_size=2)) is None
    assert length_of([1, 2]) == 2


# The fast way: the same batches, the same draws ---------------------------------------------

# ---------------------------------------------------------------- data on the device


META = torch.device("meta")  # a device that every machine has
X, Y = torch.zeros(6, 3), torch.zeros(6, 1)


@pytest.mark.parametrize(
    "data", [X, (X, Y), {"a": X, "b": {"c": Y}}], ids=["tensor", "pair", "nested"]
)
def test_small_data_are_moved_to_the_device_whole(data):
    dataset = as_dataset(data)
    moved = moved_if_small(dataset, META, most_bytes=X.nbytes + Y.nbytes)
    assert len(moved) == len(dataset)
    assert type(moved) is type(dataset)
    assert {tensor.device for tensor in tensors_in(moved[0])} == {META}
    assert [t.shape for t in tensors_in(moved[0])] == [t.shape for t in tensors_in(dataset[0])]


def test_large_data_stay_where_they_are():
    dataset = as_dataset((X, Y))
    assert moved_if_small(dataset, META, most_bytes=X.nbytes) is dataset


@pytest.mark.parametrize("data", [X, DataLoader(TensorDataset(X)), TensorDataset(X)])
def test_on_the_cpu_nothing_is_moved(data):
    assert resident(data, torch.device("cpu"), None, name="data") is data


@pytest.mark.gpu
def test_on_a_gpu_batches_come_from_its_memory():
    options = {"batch_size": 2}
    dataset = resident((X, Y), torch.device("cuda"), options, name="data")
    assert dataset.tensors[0].is_cuda
    with_workers = {"num_workers": 1}
    assert resident((X, Y), torch.device("cuda"), with_workers, name="data") == (X, Y)
