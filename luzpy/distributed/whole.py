"""Tensors that are spread over processes, as whole ones and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, cast

import torch


def whole(state: Any) -> Any:
    """A state with every tensor that is spread over processes (FSDP) gathered into one.

    All processes call it, with states of the same structure.
    """
    kind = _spread_kind()
    return state if kind is None else _whole(state, kind)


def spread_like(own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` with each tensor spread over processes as the one of its name in `own` is."""
    return {name: _spread(tensor, own.get(name)) for name, tensor in state.items()}


def spread_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Spread over processes what an optimizer has loaded, as its parameters are."""
    if _spread_kind() is None:
        return
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = _spread(value, parameter)


def _spread_kind() -> Any:
    """The class of tensors that are spread; None while nobody has made one."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def _whole(state: Any, kind: Any) -> Any:
    if isinstance(state, kind):
        return state.full_tensor()
    if isinstance(state, dict):
        return {k: _whole(item, kind) for k, item in cast("dict[Any, Any]", state).items()}
    return state


def _spread(tensor: Any, like: Any) -> Any:
    kind = _spread_kind()
    if kind is None or not isinstance(like, kind) or isinstance(tensor, kind):
        return tensor
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    return distribute(tensor.to(like.device), like.device_mesh, like.placements)
