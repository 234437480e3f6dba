"""What a fitted model keeps of its optimizers, to continue training."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeGuard

import torch

from luzpy.core.context import Optimizers
from luzpy.ground.arguments import is_whole
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping, map_nested
from luzpy.ground.types import Values

States = dict[str, Values]
"""Optimizer name → its class's name, how many parameters each group has, and their states."""

_OPTIMIZER: Any = torch.optim.Optimizer
_KINDS: Mapping[str, Any] = {"type": str, "sizes": list, "state": dict}


def _as_it_is(state: Values) -> Values:
    return state


def optimizer_states(
    optimizers: Optimizers, full: Callable[[Values], Values] = _as_it_is
) -> States:
    """The states of optimizers; their tensors are the optimizers' own, not copies.

    Args:
        optimizers: The optimizers, by name.
        full: Gathers what is sharded of one parameter's state.
    """
    return {name: _state(optimizer, full) for name, optimizer in optimizers.items()}


def _state(optimizer: Any, full: Callable[[Values], Values]) -> Values:
    found: Values = {"type": type(optimizer).__name__, "sizes": _sizes(optimizer)}
    if not isinstance(optimizer, _OPTIMIZER):  # only itself knows what that holds
        return {**found, "state": {}, "whole": copy.deepcopy(optimizer.state_dict())}
    states: Values = optimizer.state_dict()["state"]
    found["state"] = {key: full(own) for key, own in states.items()}
    if callable(getattr(optimizer, "eval", None)):
        found["counts"] = _counts(optimizer)
    return found


def _counts(optimizer: torch.optim.Optimizer) -> list[Values]:
    """What schedule-free optimizers count in their groups: no hyperparameters."""
    known = inspect.signature(type(optimizer)).parameters
    groups: list[Values] = optimizer.param_groups
    return [
        {name: value for name, value in group.items() if name not in ("params", *known)}
        for group in groups
    ]


def is_states(value: object) -> TypeGuard[States]:
    """Whether `value` has the layout of states, of any optimizers."""
    return is_mapping(value) and all(
        is_mapping(state)
        and all(isinstance(state.get(key), kind) for key, kind in _KINDS.items())
        and all(is_mapping(own) for own in state["state"].values())
        for state in value.values()
    )


def misfit(optimizers: Optimizers, states: States) -> str | None:
    """Why these optimizers cannot continue from the states; None if they can."""
    if optimizers.keys() != states.keys():
        return f"it has one of {', '.join(states) or 'none'}, not of {', '.join(optimizers)}"
    for name, optimizer in optimizers.items():
        found, own = states[name]["type"], type(optimizer).__name__
        if found != own:
            return f"it has one of {found}, not of {own}"
        found, own = states[name]["sizes"], _sizes(optimizer)
        if found != own:
            return f"it has one of groups of {found} parameters, not of {own}"
    return None


def load_optimizer_states(optimizers: Optimizers, states: States) -> None:
    """Load copies of the states into optimizers, whose hyperparameters do not change.

    Raises:
        LuzError: If one does not fit.
    """
    for name, optimizer in optimizers.items():
        state = copy.deepcopy(states[name]["state"])
        try:
            if "whole" in states[name]:
                optimizer.load_state_dict(copy.deepcopy(states[name]["whole"]))
                continue
            load_optimizer_state(optimizer, {**optimizer.state_dict(), "state": state})
            counts: list[Values] = states[name].get("counts", [])
            for group, counted in zip(optimizer.param_groups, counts, strict=bool(counts)):
                group.update(counted)
        except (ValueError, KeyError, IndexError, RuntimeError, TypeError) as err:
            raise LuzError(f"The state of the optimizer {name!r} does not fit it: {err}") from err


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Values) -> None:
    """Load a state into an optimizer, in the dtypes in which it was saved.

    torch's `load_state_dict` casts tensors to the dtype of their parameter, and makes other text of
    text. A bfloat16 weight may have a float32 state, and that a boolean.
    """
    optimizer.load_state_dict(state)
    if not isinstance(optimizer, _OPTIMIZER):
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, saved in state["state"].items():
        if not is_whole(index) or not is_mapping(saved):
            continue  # not a parameter's
        loaded: Values = optimizer.state[parameters[index]]
        for key, value in saved.items():
            own = loaded.get(key)
            device = (own if isinstance(own, torch.Tensor) else parameters[index]).device
            loaded[key] = map_nested(partial(_copied_to, device), value)


def _copied_to(device: torch.device, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(device, copy=True)


def _sizes(optimizer: torch.optim.Optimizer) -> list[int]:
    return [len(group["params"]) for group in optimizer.param_groups]
