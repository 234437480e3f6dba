"""Random generators are found wherever an object refers to them."""

import collections
import dataclasses
import functools
import itertools
import random
import typing

import attrs
import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from luzpy.ground.random_state import generator_state, generators_in, set_generator_state

GLOBAL = np.random.default_rng(1)


class Plain:
    def __init__(self, held):
        self.held = held


class Slots:
    __slots__ = ("__hidden", "empty")

    def __init__(self, held):
        self.__hidden = held


class Below(Slots):
    __slots__ = ("other",)


@attrs.define
class Attrs:
    held: object


@dataclasses.dataclass(slots=True)
class Data:
    held: object


class Rows:
    """A dataset."""

    def __init__(self, *held):
        self.names = [f"{i}.jpg" for i in range(1000)]
        self.held = held

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return index


def closing_over(held):
    return lambda x: held.random() + x


def with_default(held):
    def draw(x, *, rng=held):
        return rng.random()

    return draw


class OfClass:
    rng = random.Random(7)


class OfModule:
    def draw(self):
        return GLOBAL.random()


def iterating(held):
    yield 1
    yield held.random()


def begun(held):
    iterator = iterating(held)
    next(iterator)
    return iterator


class Mapping(dict):
    pass


HOLDERS = {
    "an object": Plain,
    "slots": Slots,
    "slots of a base class": Below,
    "attrs": Attrs,
    "a dataclass with slots": Data,
    "a list": lambda g: [1, "a", g],
    "nested collections": lambda g: {"a": ({"b": collections.deque([g])},)},
    "a set": lambda g: {g},
    "a class of dicts": lambda g: Mapping(a=g),
    "a default dict": lambda g: collections.defaultdict(list, a=[g]),
    "a partial": lambda g: functools.partial(print, file=g),
    "a method": lambda g: g.random if isinstance(g, random.Random) else Plain(g).__init__,
    "a closure": closing_over,
    "a default": with_default,
    "a generator function": begun,
    "an iterator": lambda g: itertools.cycle([g]),
    "a loader": lambda g: DataLoader(Subset(Rows(Plain([Slots(g)])), range(8)), 2),
    "the last of many": lambda g: ConcatDataset([*(Rows() for _ in range(200)), Rows(g)]),
    "an array of objects": lambda g: np.array([None, g], dtype=object),
    "very deep": lambda g: functools.reduce(lambda held, _: Plain([held]), range(5000), g),
}
MAKERS = {
    "torch": torch.Generator,
    "numpy": np.random.default_rng,
    "older numpy": np.random.RandomState,
    "bits": np.random.PCG64,
    "python": random.Random,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", HOLDERS)
def test_a_generator_is_found_in(name, kind):
    generator = MAKERS[kind]()
    if name == "a method" and not isinstance(generator, random.Random):
        pytest.skip("its methods are functions of C")
    found = generators_in({"root": HOLDERS[name](generator)})
    assert [id(own) for own in found.values()] == [id(generator)]


def test_those_of_a_class_and_of_a_module():
    assert list(generators_in({"a": OfClass()}).values()) == [OfClass.rng]
    assert list(generators_in({"a": [OfModule()]}).values()) == [GLOBAL]


def test_each_once_in_the_same_order_and_by_the_same_names():
    def made():
        own, shared = np.random.default_rng(1), random.Random(2)
        return {"a": Rows(own, {"x": shared}), "b": [shared, Attrs(torch.Generator())]}

    first, second = (list(generators_in(made())) for _ in range(2))
    assert first == second == ["a.held.0", "a.held.1.x", "b.1.held"]


def test_what_cannot_be_repeated_is_left_out():
    assert generators_in({"a": random.SystemRandom()}) == {}


def test_objects_that_refer_to_each_other_have_an_end():
    one, other = Plain(None), Plain(None)
    one.held, other.held = other, [one, np.random.default_rng()]
    assert list(generators_in({"a": one})) == ["a.held.held.1"]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_state_is_read_and_put_back(kind):
    def drawn(generator):
        if isinstance(generator, torch.Generator):
            return torch.rand(3, generator=generator).tolist()
        if isinstance(generator, np.random.BitGenerator):
            return np.random.Generator(generator).random(3).tolist()
        if isinstance(generator, random.Random):
            return [generator.random() for _ in range(3)]
        return generator.random(3).tolist()

    generator = MAKERS[kind]()
    drawn(generator)
    state = generator_state(generator)
    first = drawn(generator)
    set_generator_state(generator, state)
    assert drawn(generator) == first


def test_objects_that_do_not_let_themselves_be_looked_at_are_passed_over():
    class Far:
        def __getattribute__(self, name):
            raise RuntimeError("no connection")

    class Odd:
        @property
        def __module__(self):
            return "odd"

    rng = random.Random(1)
    assert list(generators_in({"a": [Far(), Odd(), rng]}).values()) == [rng]


def test_what_has_no_dict_of_its_own_is_passed_over():
    """A type variable of Python 3.12 says that it has one."""
    held = np.random.default_rng(0)
    assert list(generators_in({"it": Plain([typing.TypeVar("T"), held])}).values()) == [held]
