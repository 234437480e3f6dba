"""Putting a state dict into a model, or leaving the model as it is."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luzpy.core.modules import unwrapped
from luzpy.ground.errors import LuzError
from luzpy.ground.types import Values

Path = str | os.PathLike[str]


def load_state(model: nn.Module, state: Values, path: Path) -> None:
    """Load a state dict into `model`, or change nothing.

    Raises:
        LuzError: If names or shapes differ; it names the path and the first of them.
    """
    check_state(model, state, path)
    try:
        unwrapped(model).load_state_dict(state)
    except Exception as err:
        raise LuzError(f"{os.fspath(path)} does not fit the model: {err}") from err


def check_state(model: nn.Module, state: Values, path: Path) -> None:
    """Raise unless `state` has the names and shapes of the model's own.

    Raises:
        LuzError: If it has not; it names the path and the first difference.
    """
    own = unwrapped(model).state_dict()
    problems = [f"{name!r} is missing" for name in own if name not in state]
    problems += [f"{name!r} is not in the model" for name in state if name not in own]
    for name, value in own.items():
        if not isinstance(value, torch.Tensor) or name not in state:
            continue
        found = state[name]
        if not isinstance(found, torch.Tensor):
            problems.append(f"{name!r} is not a tensor")
        elif is_lazy(value):  # it takes any shape, but no more values than are there
            if found.nbytes > found.untyped_storage().nbytes():
                problems.append(f"{name!r} is larger than its stored data")
        elif (found.layout, found.is_quantized) != (value.layout, value.is_quantized):
            problems.append(f"{name!r} is stored differently")
        elif found.shape != value.shape:
            problems.append(
                f"{name!r} has the shape {tuple(found.shape)} instead of {tuple(value.shape)}"
            )
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise LuzError(f"{os.fspath(path)} does not fit the model: {problems[0]}{more}.")
