"""Times the programs of `tests/programs`, each beside its plain loop, while pytest runs them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.files import ROOT

PROGRAMS = ROOT / "tests" / "programs"


@dataclass
class Took:
    """What a program took, round by round, in seconds of the processor.

    Attributes:
        what: The first line of its file.
    """

    what: str
    loop: list[float] = field(default_factory=list)
    luzpy: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """How many times as long luzpy took, round by round."""
        return [ours / its for ours, its in zip(self.luzpy, self.loop, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)


class Timer:
    """A plugin of pytest: every test runs several times, with more epochs, on the clock.

    A test makes its module with `by_hand`, trains it in the plain loop and then calls `fit`: what
    is between is the loop's time. It still asserts that both end with the same weights.
    """

    def __init__(self, rounds: int, epochs: int) -> None:
        self.rounds, self.epochs = rounds, epochs
        self.took: dict[str, Took] = {}

    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool:
        name = pyfuncitem.name.removeprefix("test_")
        module = pyfuncitem.module
        took = Took(str(module.__doc__).splitlines()[0])
        names = inspect.signature(pyfuncitem.obj).parameters
        arguments = {argument: pyfuncitem.funcargs[argument] for argument in names}
        for _ in range(self.rounds + 1):
            with clock(module, self.epochs, took):
                pyfuncitem.obj(**arguments)
        del took.loop[0], took.luzpy[0]  # which warmed up
        self.took[name] = took
        print(f"  {name:20s} {took.ratio:5.2f}", flush=True)
        return True


@contextmanager
def clock(module: ModuleType, epochs: int, took: Took) -> Iterator[None]:
    """`by_hand` and `fit` of the tests of a file say when they begin and end."""
    original: dict[str, Any] = {
        name: getattr(module, name) for name in ("EPOCHS", "by_hand", "fit")
    }
    begun = 0.0

    def by_hand(model: Any) -> torch.nn.Module:
        nonlocal begun
        made = original["by_hand"](model)
        begun = time.process_time()
        return made

    def fit(*arguments: Any, **options: Any) -> Any:
        took.loop.append(time.process_time() - begun)
        start = time.process_time()
        fitted = original["fit"](*arguments, **options)
        took.luzpy.append(time.process_time() - start)
        return fitted

    vars(module).update(EPOCHS=epochs, by_hand=by_hand, fit=fit)
    try:
        yield
    finally:
        vars(module).update(original)


def measure(rounds: int, epochs: int, some: str = "") -> dict[str, Took]:
    """Name of the program → what it took.

    Raises:
        RuntimeError: If a program does not end as its loop does.
    """
    torch.set_num_threads(1)
    timer = Timer(rounds, epochs)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-s", "-W", "ignore", "-k", some]
    code = pytest.main([*options, str(PROGRAMS)], plugins=[timer])
    if code:
        raise RuntimeError(f"pytest ended with {code!r}; what failed is above")
    return timer.took
