"""State dicts whose tensors are sharded over processes (FSDP): gathered, and sharded again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

from luzpy.ground.nested import map_nested
from luzpy.ground.types import Values

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def full_state(state: Values) -> Values:
    """A state with every sharded tensor gathered. All processes call it, with the same keys."""
    kind = _sharded_kind()
    if kind is None:
        return state

    def full(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.full_tensor() if isinstance(tensor, kind) else tensor

    return map_nested(full, state)


def shard_like(state: Values, own: Values) -> Values:
    """`state` with each tensor sharded like the tensor of that name in `own`."""
    return {name: _sharded(tensor, own.get(name)) for name, tensor in state.items()}


def shard_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Shard what an optimizer has loaded in the way of its parameters."""
    if _sharded_kind() is None:
        return
    for parameter, state in getattr(optimizer, "state", {}).items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = _sharded(value, parameter)


def _sharded_kind() -> type[DTensor] | None:
    """The class of sharded tensors; None if none has been created yet."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def _sharded(tensor: torch.Tensor, like: object) -> torch.Tensor:
    kind = _sharded_kind()
    if kind is None or not isinstance(like, kind) or isinstance(tensor, kind):
        return tensor
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    return distribute(tensor.to(like.device), like.device_mesh, like.placements)
