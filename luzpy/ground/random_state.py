"""The global random state of Python, NumPy and torch: read, set, seed and preserve it."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import final

import attrs
import numpy as np
import torch

from luzpy.ground.devices import random_states, set_random_states
from luzpy.ground.primitives import from_primitives, to_primitives
from luzpy.ground.reachable import reachable
from luzpy.ground.types import Array, Primitive, Values

_PythonState = tuple[int, tuple[int, ...], float | None]
GENERATORS = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    random.Random,
)
# `RandomState` has them.
_GLOBAL = {
    id(torch.default_generator),
    *(id(getattr(draw, "__self__", None)) for draw in (random.random, np.random.random)),
}
AnyGenerator = (
    torch.Generator
    | np.random.Generator
    | np.random.RandomState
    | np.random.BitGenerator
    | random.Random
)


@attrs.frozen
class RandomState:
    """A copy of every global random generator's state."""

    python: _PythonState
    numpy: Values
    torch_cpu: torch.Tensor
    torch_devices: dict[str, list[torch.Tensor]]

    @classmethod
    def current(cls) -> RandomState:
        """Read the state as it is now."""
        return cls(
            python=random.getstate(),
            numpy=dict(np.random.get_state(legacy=False)),
            torch_cpu=torch.get_rng_state(),
            torch_devices=random_states(),
        )

    def restore(self) -> None:
        """Restore every global generator to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        set_random_states(self.torch_devices)  # a file may come from a machine with others

    def to_primitives(self) -> Values:
        """Tensors and primitive values, for a file."""
        state = attrs.asdict(self, recurse=False)
        return to_primitives({**state, "python": _packed(self.python)})

    @classmethod
    def from_primitives(cls, state: Values) -> RandomState:
        """The inverse of `to_primitives`."""
        fields: Values = from_primitives(state)
        fields["python"] = _unpacked(fields["python"])
        if "torch_devices" not in fields:  # luzpy 0.1.0 knew CUDA and MPS
            of_cuda, of_mps = fields.pop("torch_cuda"), fields.pop("torch_mps")
            fields["torch_devices"] = {"cuda": of_cuda} if of_cuda else {}
            if of_mps is not None:
                fields["torch_devices"]["mps"] = [of_mps]
        return cls(**fields)


def generators_in(
    roots: Mapping[str, object], without: tuple[type, ...] = ()
) -> dict[str, AnyGenerator]:
    """Every random generator of torch, NumPy and Python that objects refer to, however deep.

    Args:
        roots: Name → object.
        without: Classes of objects that are not looked into.

    Returns:
        Where it was found → generator, each once.
    """
    return {
        where: item
        for where, item in reachable(roots, (*GENERATORS, *without))
        if issubclass(type(item), GENERATORS) and not isinstance(item, random.SystemRandom)
        if id(item) not in _GLOBAL
    }


def generator_state(generator: AnyGenerator) -> Primitive:
    """The state of a generator, as tensors and primitive values."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return to_primitives(generator.bit_generator.state)
    if isinstance(generator, np.random.BitGenerator):
        return to_primitives(dict(generator.state))
    if isinstance(generator, np.random.RandomState):
        return to_primitives(generator.get_state(legacy=False))
    return to_primitives(_packed(generator.getstate()))


def set_generator_state(generator: AnyGenerator, state: Primitive) -> None:
    """Set a generator to a state from `generator_state`."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = from_primitives(state)
    elif isinstance(generator, np.random.BitGenerator):
        generator.state = from_primitives(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(from_primitives(state))
    else:
        generator.setstate(_unpacked(from_primitives(state)))


def _packed(state: _PythonState) -> tuple[int, Array, float | None]:
    """A state of Python's generator with its 625 numbers in an array."""
    version, numbers, gauss = state
    return version, np.array(numbers, dtype=np.int64), gauss


def _unpacked(state: tuple[int, Array, float | None]) -> _PythonState:
    version, numbers, gauss = state
    return version, tuple(numbers.tolist()), gauss


@contextmanager
def preserved_random_state() -> Generator[RandomState]:
    """Restore the global random state afterwards, even after an exception."""
    state = RandomState.current()
    try:
        yield state
    finally:
        state.restore()


@contextmanager
def seeded(seed: int | None) -> Generator[None]:
    """Draw from a seed without changing the global random state; None draws from that state."""
    if seed is None:
        yield
        return
    with preserved_random_state():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]  (untyped in torch)


@final
class InterleavedRandom:
    """Keeps the draws of two sides apart that take turns, so that one can be run again alone.

    One side draws within `first()`, from the global random state as it finds it. The other draws
    outside, from a stream of its own.
    """

    def __init__(self) -> None:
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
        self._first = RandomState.current()
        with preserved_random_state():
            seed_all(int(torch.randint(2**63 - 1, (), generator=generator)))
            self._second = RandomState.current()

    @contextmanager
    def first(self) -> Generator[None]:
        """Draw independently of the other side."""
        self._second = RandomState.current()
        self._first.restore()
        try:
            yield
        finally:
            self._first = RandomState.current()
            self._second.restore()

    def end(self) -> None:
        """Continue with the global random state as the first side left it."""
        self._first.restore()
