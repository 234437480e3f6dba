"""State dicts whose tensors are sharded over processes (FSDP): gathered, and sharded again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from luzpy.ground.nested import map_nested
from luzpy.ground.types import Values


def full_state(state: Any) -> Any:
    """A state with every sharded tensor gathered. All processes call it, with the same keys."""
    kind = _sharded_kind()
    if kind is None:
        return state

    def full(tensor: Any) -> Any:
        return tensor.full_tensor() if isinstance(tensor, kind) else tensor

    return map_nested(full, state)


def shard_like(state: Mapping[str, Any], own: Mapping[str, Any]) -> Values:
    """`state` with each tensor sharded as the one of its name in `own` is."""
    return {name: _sharded(tensor, own.get(name)) for name, tensor in state.items()}


def shard_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Shard what an optimizer has loaded, as its parameters are."""
    if _sharded_kind() is None:
        return
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = _sharded(value, parameter)


def _sharded_kind() -> Any:
    """The class of sharded tensors; None while nobody has made one."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def _sharded(tensor: Any, like: Any) -> Any:
    kind = _sharded_kind()
    if kind is None or not isinstance(like, kind) or isinstance(tensor, kind):
        return tensor
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    return distribute(tensor.to(like.device), like.device_mesh, like.placements)
