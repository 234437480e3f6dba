"""Conversion of in-memory data to datasets, and the split for validation."""

from collections import namedtuple
from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import SizedStream, Stream
from torch import nn
from torch.utils.data import ChainDataset, TensorDataset

import luzpy as luz
from luzpy.data.batches import batches
from luzpy.data.dataset import InMemoryDataset, is_in_memory, split_dataset
from luzpy.ground.nested import map_nested, tensors_in

STREAM = Stream(range(5))


def tensor_of(x):
    """The one tensor that `x` becomes."""
    dataset = luz.as_dataset(x)
    assert type(dataset) is TensorDataset
    (tensor,) = dataset.tensors
    return tensor


def assert_tensor(tensor, values, dtype):
    assert tensor.dtype is dtype
    assert torch.equal(tensor, torch.tensor(values, dtype=dtype))


@pytest.fixture
def default_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Dtypes -------------------------------------------------------------------------------------

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, torch.uint32, torch.uint64, torch.bool])
def test_tensors_keep_their_dtype(dtype):
    x = torch.tensor([[1], [0], [3]]).to(dtype)
    assert tensor_of(x) is x
    loader = luz.as_dataloader(x, batch_size=2, sampler=[2, 0])
    assert_tensor(next(batches(loader))[0], x.tolist()[::-2], dtype)


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.uint32, torch.uint64])
def test_tensors_of_every_dtype_are_gathered(dtype):
    x = torch.arange(9).to(dtype)
    for shuffle in (False, True):
        torch.manual_seed(0)
        found = list(batches(luz.as_dataloader(x, batch_size=4, shuffle=shuffle)))
        torch.manual_seed(0)
        expected = list(luz.as_dataloader(x, batch_size=4, shuffle=shuffle))
        assert all(torch.equal(a, b) for (a,), (b,) in zip(found, expected, strict=True))
        assert found[0][0].dtype is dtype


def test_float_arrays_become_the_default_dtype():
    for dtype in (np.float16, np.float32, np.float64):
        assert_tensor(tensor_of(np.array([1, 2], dtype)), [1, 2], torch.float32)


@pytest.mark.usefixtures("default_float64")
@pytest.mark.parametrize("x", [np.float32([1, 2]), pd.Series([1.0, 2]), pl.Series([1.0, 2])])
def test_floats_follow_a_changed_default_dtype(x):
    assert_tensor(tensor_of(x), [1, 2], torch.float64)


def test_integer_arrays_become_int64():
    for dtype in (np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16):
        assert_tensor(tensor_of(np.array([1, 2], dtype)), [1, 2], torch.int64)


@pytest.mark.parametrize("dtype", [np.bool_, np.complex64, np.complex128])
def test_booleans_and_complex_numbers_stay(dtype):
    kept = torch.from_numpy(np.zeros(1, dtype)).dtype
    assert_tensor(tensor_of(np.array([1, 0], dtype)), [1, 0], kept)


@settings(deadline=None, max_examples=80)
@given(
    hnp.arrays(
        st.one_of(
            hnp.boolean_dtypes(),
            hnp.integer_dtypes(endianness="?"),
            hnp.unsigned_integer_dtypes(endianness="?", sizes=(8, 16, 32)),
            hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
        ),
        hnp.array_shapes(max_dims=3, max_side=4),
        elements={"allow_nan": False},
        fill=st.nothing(),
    ),
    st.sampled_from(["as it is", "reversed", "transposed", "every other", "read-only"]),
)
def test_numpy_arrays_keep_their_values_in_any_layout(array, layout):
    x = {
        "as it is": array,
        "reversed": array[::-1, ...],
        "transposed": array.T,
        "every other": array[::2],
        "read-only": array,
    }[layout]
    if layout == "read-only":
        x.flags.writeable = False
    kind = array.dtype.kind
    expected = np.float32 if kind == "f" else np.int64 if kind in "iu" else np.bool_
    with np.errstate(over="ignore"):  # a float64 beyond float32 is inf in both
        values = x.astype(expected)
    tensor = tensor_of(x)
    assert tensor.numpy().dtype == expected
    np.testing.assert_array_equal(tensor.numpy(), values)


@pytest.mark.parametrize("x", [np.ones((1, 3))[::-1], np.ones((3, 1))[:, ::-1], np.ones(1)[::-1]])
def test_a_reversed_axis_of_length_one(x):
    # NumPy calls such an array contiguous, though a stride is negative, which torch refuses.
    assert x.flags.c_contiguous
    assert_tensor(tensor_of(x), x.tolist(), torch.float32)


def test_long_doubles_become_the_default_dtype():
    assert_tensor(tensor_of(np.array([1, 2], np.longdouble)), [1, 2], torch.float32)


def test_unsigned_integers_keep_values_beyond_half_their_range():
    assert_tensor(tensor_of(np.array([65535], np.uint16)), [65535], torch.int64)
    assert_tensor(tensor_of(np.array([2**63 - 1], np.uint64)), [2**63 - 1], torch.int64)


@pytest.mark.parametrize(
    "x",
    [
        np.array([3, 2**63], np.uint64),
        pd.Series([3, 2**63], dtype="uint64"),
        pd.DataFrame({"a": [-1, 2], "b": np.array([3, 2**63], np.uint64)}),
        pl.Series([3, 2**63], dtype=pl.UInt64),
    ],
    ids=["numpy", "series", "frame", "polars"],
)
def test_integers_beyond_int64_are_an_error_and_never_negative(x):
    with pytest.raises(ValueError, match=r"`data` must hold integers below 2\*\*63"):
        luz.as_dataset(x)


def test_masked_numbers_become_nan():
    x = np.ma.array([1, 2, 3], mask=[False, True, False])
    np.testing.assert_array_equal(tensor_of(x).numpy(), [1, np.nan, 3])
    assert_tensor(tensor_of(np.ma.array([1, 2])), [1, 2], torch.int64)


# pandas and polars --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "values", "dtype"),
    [
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), [[1, 3], [2, 4]], torch.int64),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, 4]}), [[1, 0.5], [2, 4]], torch.float32),
        (pd.DataFrame({"a": [True, False]}), [[True], [False]], torch.bool),
        (pd.DataFrame({"a": [True, False], "b": [3, 4]}), [[1, 3], [0, 4]], torch.int64),
        (pd.DataFrame({"a": [True, False], "b": [3, 0.5]}), [[1, 3], [0, 0.5]], torch.float32),
        (pd.DataFrame({"a": np.uint8([200])}), [[200]], torch.int64),
        (pd.DataFrame({"a": pd.arrays.SparseArray([0.0, 1.0])}), [[0], [1]], torch.float32),
        (pd.DataFrame([[1, 2.5]], columns=["a", "a"]), [[1, 2.5]], torch.float32),
        (pd.DataFrame([[1, 2]], index=[7], columns=[0, 1]), [[1, 2]], torch.int64),
        (pd.DataFrame({("a", "x"): [1], ("a", "y"): [2]}), [[1, 2]], torch.int64),
        (pd.Series([1, 2]), [1, 2], torch.int64),
        (pd.Series([1.5, 2], index=[9, 3]), [1.5, 2], torch.float32),
        (pd.Series([True, False]), [True, False], torch.bool),
        (pd.Series([1, 2], dtype="Int8"), [1, 2], torch.int64),
        (pd.Series([1, 2], dtype="UInt16"), [1, 2], torch.int64),
        (pd.Series([1, 2], dtype="Float32"), [1, 2], torch.float32),
        (pd.Series([True, False], dtype="boolean"), [True, False], torch.bool),
        (pl.DataFrame({"a": [1, 2], "b": [3, 4]}), [[1, 3], [2, 4]], torch.int64),
        (pl.DataFrame({"a": [1, 2], "b": [0.5, 4]}), [[1, 0.5], [2, 4]], torch.float32),
        (pl.DataFrame({"a": [True, False]}), [[True], [False]], torch.bool),
        (pl.DataFrame({"a": [True, False], "b": [3, 4]}), [[1, 3], [0, 4]], torch.int64),
        (pl.DataFrame({"a": pl.Series([200], dtype=pl.UInt8)}), [[200]], torch.int64),
        (pl.Series("s", [1, 2]), [1, 2], torch.int64),
        (pl.Series("s", [1.5, 2]), [1.5, 2], torch.float32),
        (pl.Series("s", [True, False]), [True, False], torch.bool),
    ],
)
def test_frames_and_series(frame, values, dtype):
    assert_tensor(tensor_of(frame), values, dtype)


@pytest.mark.parametrize(
    ("x", "values"),
    [
        (pd.Series([1, None], dtype="Int64"), [1, np.nan]),
        (pd.Series([True, None], dtype="boolean"), [1, np.nan]),
        (pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [3, 4]}), [[1, 3], [np.nan, 4]]),
        (pd.DataFrame({"a": [0.5, np.nan]}), [[0.5], [np.nan]]),
        (pl.Series([1, None]), [1, np.nan]),
        (pl.Series([True, None]), [1, np.nan]),
        (pl.DataFrame({"a": [True, None], "b": [3, 4]}), [[1, 3], [np.nan, 4]]),
    ],
)  # fmt: skip
def test_missing_numbers_become_nan(x, values):
    tensor = tensor_of(x)
    assert tensor.dtype is torch.float32
    np.testing.assert_array_equal(tensor.numpy(), np.float32(values))


def test_polars_frames_in_several_chunks():
    frame = pl.concat([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]})], rechunk=False)
    assert_tensor(tensor_of(frame), [[1], [2]], torch.int64)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            pd.DataFrame(
                {
                    "n": [1.0],
                    "o": pd.Series(["x"], dtype=object),
                    "s": pd.Series(["x"], dtype="string"),
                    "c": pd.Categorical([1]),
                    "d": pd.Series(["2020-01-01"], dtype="datetime64[ns]"),
                    "t": pd.Series([1], dtype="timedelta64[ns]"),
                }
            ),
            r"`data` must hold numbers only; these columns do not: 'o' \(object\), 's' \(string\), "
            r"'c' \(category\), 'd' \(datetime64\[ns\]\), 't' \(timedelta64\[ns\]\)\. "
            r"Encode them first, for example with pandas\.get_dummies\(\)\.",
        ),
        (
            pl.DataFrame(
                {
                    "n": [1.0],
                    "s": ["x"],
                    "c": pl.Series(["q"], dtype=pl.Categorical),
                    "d": [date(2020, 1, 1)],
                    "l": [[1]],
                    "z": [None],
                }
            ),
            r"`data` must hold numbers only; these columns do not: 's' \(String\), "
            r"'c' \(Categorical.*\), 'd' \(Date\), 'l' \(List\(Int64\)\), 'z' \(Null\)\. "
            r"Encode them first, for example with polars' to_dummies\(\)\.",
        ),
        (pd.Series(["x"], name="s", dtype=object), r"these columns do not: 's' \(object\)"),
        (pd.Series(["x"], name=0, dtype=object), r"these columns do not: '0' \(object\)"),
        (pd.Series(["x"], dtype=object), r"these columns do not: 'data' \(object\)"),
        (pd.Series(pd.Categorical([1, 2]), name="c"), r"these columns do not: 'c' \(category\)"),
        (pl.Series("s", ["x"]), r"these columns do not: 's' \(String\)"),
        (pd.DataFrame([["u", 2.0]], columns=["a", "a"]), r"do not: 'a' \((object|str)\)\."),
        (pd.DataFrame([["u", 2.0]], columns=[1, "1"]), r"do not: '1' \((object|str)\)\."),
    ],
)
def test_columns_that_hold_no_numbers_are_named(frame, message):
    with pytest.raises(TypeError, match=message):
        luz.as_dataset(frame)


@pytest.mark.parametrize("frame", [pd.DataFrame(index=[1, 2]), pl.DataFrame()])
def test_frames_without_columns(frame):
    with pytest.raises(ValueError, match=r"`data` must have at least one column, got none\."):
        luz.as_dataset(frame)


# Structures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tuple, list])
def test_flat_tuples_and_lists_become_a_tensor_dataset(kind):
    # R: test-as_dataloader.R, "works for lists of tensors"
    dataset = luz.as_dataset(kind([torch.zeros(3, 2), np.arange(3)]))
    assert type(dataset) is TensorDataset
    x, y = dataset[2]
    assert_tensor(x, [0, 0], torch.float32)
    assert_tensor(y, 2, torch.int64)


def test_nests_keep_their_structure():
    inputs = {"num": pd.DataFrame({"a": [0.5, 1.5]}), "cat": [np.array([3, 4])]}
    dataset = luz.as_dataset((inputs, torch.tensor([1, 0])))
    assert len(dataset) == 2
    inputs, target = dataset[1]
    assert list(inputs) == ["num", "cat"]
    assert_tensor(inputs["num"], [1.5], torch.float32)
    assert_tensor(inputs["cat"][0], 4, torch.int64)
    assert_tensor(target, 0, torch.int64)


def test_a_dict_becomes_a_dataset_of_dicts():
    dataset = luz.as_dataset({"x": torch.tensor([1.0, 2.0]), "y": pl.Series([3, 4])})
    item = dataset[0]
    assert list(item) == ["x", "y"]
    assert (item["x"].item(), item["y"].item()) == (1.0, 3)


@pytest.mark.parametrize("index", [2, -3])
def test_an_index_out_of_range_ends_iteration(index):
    with pytest.raises(IndexError):
        luz.as_dataset({"x": torch.zeros(2)})[index]


@pytest.mark.parametrize("dataset", [TensorDataset(torch.zeros(2)), STREAM, ChainDataset([STREAM])])
def test_datasets_pass_through(dataset):
    assert luz.as_dataset(dataset) is dataset


def test_tensors_that_require_grad_keep_their_graph():
    x = torch.ones(3, requires_grad=True)
    (row,) = luz.as_dataset(x)[0]
    row.backward()
    assert torch.equal(x.grad, torch.tensor([1.0, 0.0, 0.0]))


def test_tensor_subclasses_stay_what_they_are():
    x = nn.Parameter(torch.ones(3))
    assert tensor_of(x) is x


def test_sparse_tensors_stay_sparse():
    tensor = tensor_of(torch.eye(3, dtype=torch.float64).to_sparse())
    assert tensor.is_sparse
    assert_tensor(tensor.to_dense(), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], torch.float64)


@pytest.mark.parametrize(
    "x", [torch.zeros(1), np.zeros(1), pd.Series([1]), pl.Series([1]), (), [], {}, pd.DataFrame()]
)
def test_what_counts_as_in_memory(x):
    assert is_in_memory(x)


@pytest.mark.parametrize("x", ["text", None, 3, pd.Index([1]), pl.DataFrame({"a": [1]}).lazy()])
def test_what_is_no_data(x):
    assert not is_in_memory(x)
    with pytest.raises(
        TypeError,
        match=r"`data` must be a DataLoader, a Dataset, a tensor, a NumPy array, a pandas or "
        rf"polars frame or series, or a tuple, list or dict of these, got {type(x).__name__}\.",
    ):
        luz.as_dataset(x)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ((torch.zeros(3), [1, 2, 3]), TypeError, r"`data\[1\]\[0\]` must be a tensor.*, got int\."),
        ({"x": "text"}, TypeError, r"`data\['x'\]` must be a tensor.*, got str\."),
        ((torch.zeros(3), None), TypeError, r"`data\[1\]` must be a tensor.*, got NoneType\."),
        ({"x": np.array(["a"])}, TypeError, r"`data\['x'\]` must hold numbers, got .*U1"),
        (np.array([object()]), TypeError, r"must hold numbers, got an array of dtype object"),
        (np.array(["2020-01-01"], "M8[D]"), TypeError, r"got an array of dtype datetime64\[D\]"),
        (np.zeros(2, [("a", "f4")]), TypeError, r"must hold numbers, got an array of dtype \["),
        ((torch.zeros(3), {"y": pd.Series(["a"])}), TypeError, r"`data\[1\]\['y'\]` must hold"),
        (torch.tensor(3.0), ValueError, r"`data` must have rows, got a single value, 3\.0\."),
        (np.array(3), ValueError, r"`data` must have rows, got a single value, 3\."),
        ({"y": torch.tensor(3)}, ValueError, r"`data\['y'\]` must have rows, got a single"),
        ((), ValueError, r"`data` must not be empty, got \(\)\."),
        ([], ValueError, r"`data` must not be empty, got \[\]\."),
        ({}, ValueError, r"`data` must not be empty, got \{\}\."),
        ((torch.zeros(2), []), ValueError, r"`data\[1\]` must not be empty, got \[\]\."),
        ((torch.zeros(3), torch.zeros(2)), ValueError, r"of equal length, got 3 and 2 rows\."),
        ({"x": np.zeros(3), "y": (np.zeros(3), np.zeros(4))}, ValueError, "got 3 and 3 and 4 rows"),
        (torch.zeros(0, 3), ValueError, r"`data` must have at least one row, got none\."),
        (np.zeros((0, 3)), ValueError, r"`data` must have at least one row, got none\."),
        (pd.DataFrame({"a": []}, dtype=float), ValueError, "`data` must have at least one row"),
        (pl.DataFrame(schema={"a": pl.Float64}), ValueError, "`data` must have at least one row"),
        ({"x": torch.zeros(0)}, ValueError, r"`data` must have at least one row, got none\."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_says_why(x, error, message):
    with pytest.raises(error, match=message):
        luz.as_dataset(x)


def test_tensors_in_looks_everywhere_in_order():
    a, b, c, d = (torch.tensor(i) for i in range(4))
    pair = namedtuple("pair", "p q")
    nest = [a, {"k": (b, "text", None)}, pair(3, c), {"z": [d]}]
    assert [t.item() for t in tensors_in(nest)] == [0, 1, 2, 3]


def test_map_nested_keeps_the_types_of_containers():
    doubled = map_nested(lambda t: 2 * t, {"a": [torch.tensor(1)], "b": torch.tensor(2)})
    assert doubled == {"a": [torch.tensor(2)], "b": torch.tensor(4)}


# Splitting ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 200), st.floats(0.01, 0.99))
def test_a_split_takes_every_row_once(n_rows, fraction):
    n_valid = int(n_rows * fraction)
    if n_valid == 0:
        return
    train, valid = split_dataset(torch.arange(n_rows), fraction, 0)
    assert len(valid) == n_valid
    rows = [row.item() for part in (train, valid) for (row,) in part]
    assert sorted(rows) == list(range(n_rows))


def test_the_rows_of_a_split_are_those_of_its_seed():
    torch.manual_seed(5)
    order = torch.randperm(100).tolist()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    train, valid = split_dataset(torch.arange(100), 0.3, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert (sorted(order[30:]), sorted(order[:30])) == (train.indices, valid.indices)
    assert split_dataset(torch.arange(100), 0.3, 6)[1].indices != valid.indices


def test_a_split_works_for_any_dataset_with_a_length():
    train, valid = split_dataset(InMemoryDataset({"x": torch.arange(10)}), 0.2, 0)
    assert (len(train), len(valid)) == (8, 2)
    assert list(train[0]) == ["x"]


@pytest.mark.parametrize(
    ("data", "fraction", "message"),
    [
        (torch.zeros(9), 0.1, r"must leave at least one row for validation, got 0\.1 of 9"),
        (torch.zeros(1), 0.9, r"must leave at least one row for validation, got 0\.9 of 1"),
        (STREAM, 0.1, r"`valid_data` can only be a fraction \(got 0\.1\) of .*, got Stream"),
        (SizedStream(range(5)), 0.5, r"`valid_data` can only be a fraction \(got 0\.5\)"),
        (ChainDataset([STREAM]), 0.5, r"`valid_data` can only be a fraction \(got 0\.5\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_says_why(data, fraction, message):
    with pytest.raises(ValueError, match=message):
        split_dataset(data, fraction, 0)
