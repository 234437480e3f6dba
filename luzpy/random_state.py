"""The global random state of Python, NumPy and torch: read, set, seed and preserve it."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch

from luzpy.plain import plain, unplain


@attrs.frozen
class RandomState:
    """A copy of every global random generator's state."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch_cpu: torch.Tensor
    torch_cuda: list[torch.Tensor]
    torch_mps: torch.Tensor | None

    @classmethod
    def current(cls) -> RandomState:
        """Read the state as it is now."""
        return cls(
            python=random.getstate(),
            numpy=dict(np.random.get_state(legacy=False)),
            torch_cpu=torch.get_rng_state(),
            torch_cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            torch_mps=torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        )

    def restore(self) -> None:
        """Set every global generator back to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(self.torch_cuda)
        if self.torch_mps is not None:
            torch.mps.set_rng_state(self.torch_mps)

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values, for a file."""
        return plain(attrs.asdict(self, recurse=False))

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> RandomState:
        """What `to_plain` gave."""
        return cls(**unplain(state))


@contextmanager
def preserved_random_state() -> Generator[RandomState]:
    """Leave the global random state as it was, also after an exception."""
    state = RandomState.current()
    try:
        yield state
    finally:
        state.restore()


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
