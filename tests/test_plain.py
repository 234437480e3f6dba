"""Tensors and plain values: what can be written, what comes back, and what is named."""

import collections
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luzpy.files import container
from luzpy.ground.primitives import find_unsupported, from_primitives, to_primitives

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([torch.float16, torch.device("cpu"), torch.Size([1, 2])])
)
VALUES = st.recursive(
    SCALARS,
    lambda part: (
        st.lists(part, max_size=4)
        | st.lists(part, max_size=4).map(tuple)
        | st.builds(collections.deque, st.lists(part, max_size=4), st.none() | st.integers(0, 5))
        | st.dictionaries(st.text(max_size=4) | st.integers(), part, max_size=4)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
        | st.sets(st.integers() | st.text(max_size=3), max_size=4)
    ),
    max_leaves=12,
)


def equal(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, collections.deque) and a.maxlen != b.maxlen:
        return False
    if isinstance(a, (list, tuple, collections.deque)) and not isinstance(a, torch.Size):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b


@settings(max_examples=300, deadline=None)
@given(value=VALUES)
def test_plain_values_come_back_from_a_file(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("plain") / "a.pt"
    made = to_primitives(value)
    assert find_unsupported(made) is None
    container.write(path, "thing", {"x": made})
    assert equal(from_primitives(container.read(path, "thing")["x"]), value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(3, dtype=">i4"),
        np.array([True, False]),
        np.zeros((0, 2), np.float16),
        np.array(3),
        np.arange(6)[::-2],
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array([1 + 2j]),
        np.arange(3, dtype=np.uint16),
    ],
)
def test_arrays_come_back_as_arrays(tmp_path, array):
    container.write(tmp_path / "a.pt", "thing", {"x": to_primitives({"deep": [array]})})
    found = from_primitives(container.read(tmp_path / "a.pt", "thing")["x"])["deep"][0]
    assert isinstance(found, np.ndarray)
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("value", [np.float32(2), np.int64(3), np.bool_(True), np.str_("a")])
def test_numpys_scalars_become_pythons(value):
    assert type(to_primitives(value)) in (float, int, bool, str)
    assert to_primitives(value) == value


@pytest.mark.parametrize(
    "mapping",
    [
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        collections.defaultdict(list, a=[1]),
        collections.ChainMap({"a": 1}),
    ],
)
def test_mappings_of_all_kinds_become_dicts(mapping):
    assert type(to_primitives(mapping)) is dict
    assert to_primitives(mapping) == dict(mapping)


def test_many_numbers_become_one_tensor_and_come_back(tmp_path):
    numbers = [torch.tensor(number) for number in (1.5, float("nan"), -2.0)]
    made = to_primitives({"losses": [numbers]})
    ((tensor,),) = (inner.values() for inner in made["losses"])
    torch.testing.assert_close(tensor, torch.stack(numbers), rtol=0, atol=0, equal_nan=True)
    container.write(tmp_path / "a.pt", "thing", {"x": made})
    (found,) = from_primitives(container.read(tmp_path / "a.pt", "thing")["x"])["losses"]
    assert type(found) is list
    assert [number.shape for number in found] == [()] * 3
    found.append(torch.tensor(0.0))  # a list that goes on
    assert torch.stack(found).nan_to_num(7).tolist() == [1.5, 7, -2, 0]


@pytest.mark.parametrize(
    "others",
    [
        [torch.tensor(1.0), torch.tensor(1)],
        [torch.tensor(1.0), torch.ones(1)],
        [torch.tensor(1.0), 1.0],
        [torch.tensor(1.0), torch.nn.Parameter(torch.tensor(1.0))],
        (torch.tensor(1.0), torch.tensor(2.0)),
    ],
)
def test_other_tensors_stay_apart(others):
    assert all(a is b for a, b in zip(to_primitives(others), others, strict=True))


def test_a_copy_is_made_of_containers_and_arrays():
    array, inner = np.zeros(2), [1]
    made = to_primitives({"a": array, "b": inner})
    array[0] = 1
    inner.append(2)
    assert from_primitives(made)["a"].tolist() == [0, 0]
    assert made["b"] == [1]


class Custom:
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": [1, {"b": Custom()}]}, r"x['a'][1]['b'] (Custom)"),
        ([len], "x[0] (builtin_function_or_method)"),
        ({Custom(): 1}, "x (Custom)"),
        ((1, range(3)), "x[1] (range)"),
        (np.array(["a"]), "x (ndarray)"),
        (np.array([None]), "x (ndarray)"),
        (np.longdouble(1), "x (longdouble)"),
        (collections.namedtuple("P", "a")(1), "x (P)"),
        (torch.nn.ReLU(), "x (ReLU)"),
        (type("Sub", (torch.Tensor,), {})(), "x (Sub)"),
        (type("Text", (str,), {})("a"), "x (Text)"),
    ],
)
def test_what_is_foreign_is_named_with_its_place(value, named):
    assert find_unsupported(to_primitives(value), "x") == named
