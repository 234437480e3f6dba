"""What a fitted model keeps of its optimizers, from which training goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch

from luzpy.core.context import Optimizers
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Values

States = dict[str, Values]
"""Optimizer name → its class's name, how many parameters each group has, and their states."""

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
    return {
        name: {
            "type": type(optimizer).__name__,
            "sizes": _sizes(optimizer),
            "state": {key: full(own) for key, own in optimizer.state_dict()["state"].items()},
        }
        for name, optimizer in optimizers.items()
    }


def is_states(value: object) -> TypeGuard[States]:
    """Whether `value` has the layout of states, of any optimizers."""
    return is_mapping(value) and all(
        is_mapping(state)
        and all(isinstance(state.get(key), kind) for key, kind in _KINDS.items())
        and all(is_mapping(own) for own in state["state"].values())
        for state in value.values()
    )


def misfit(optimizers: Optimizers, states: States) -> str | None:
    """Why these optimizers cannot go on from the states; None if they can."""
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
    """Put copies of the states into optimizers; hyperparameters stay what they are there.

    Raises:
        LuzError: If one does not fit.
    """
    for name, optimizer in optimizers.items():
        state = copy.deepcopy(states[name]["state"])
        try:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            _keep_dtypes(optimizer, state)
        except (ValueError, KeyError, IndexError, RuntimeError, TypeError) as err:
            raise LuzError(f"The state of the optimizer {name!r} does not fit it: {err}") from err


def _keep_dtypes(optimizer: torch.optim.Optimizer, state: Mapping[int, Values]) -> None:
    """Undo torch's casts to the parameters' dtype: a bfloat16 weight may have a float32 state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        own = optimizer.state[parameters[index]]
        for name, value in values.items():
            loaded = own[name]
            if isinstance(value, torch.Tensor) and value.dtype != loaded.dtype:
                own[name] = value.to(loaded.device)


def _sizes(optimizer: torch.optim.Optimizer) -> list[int]:
    return [len(group["params"]) for group in optimizer.param_groups]
