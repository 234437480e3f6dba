"""Saving a fitted model, and loading weights into one."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luzpy.checks import check_fitted
from luzpy.distributed.whole import spread_like
from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.loop import unwrapped
from luzpy.plain import first_foreign, plain, unplain

if TYPE_CHECKING:
    from luzpy.fitted import FittedModule

Path = str | os.PathLike[str]

_VALUES = ("records", "hparams", "opt_hparams")


def save(fitted: FittedModule, path: Path) -> None:
    """Save a fitted model: weights, records and hyperparameters. Port of R luz's `luz_save()`.

    The module's code is not in the file: `load` finds its class by name, or takes it as an
    argument.

    Args:
        fitted: A fitted model.
        path: The file; one that is there is replaced once the new one is whole.

    Raises:
        TypeError: If `fitted` is something else.
        LuzError: If the file cannot be written.
    """
    check_fitted(fitted)
    model = unwrapped(fitted.model)
    content: dict[str, Any] = {
        # Without a specification the model was loaded, from a file that had this.
        "module": _import_path(type(model) if fitted.spec is None else fitted.spec.module),
        "state": plain(model.state_dict()),
        "records": plain(fitted.records),
        "hparams": plain(fitted.hparams),
        "opt_hparams": plain(fitted.opt_hparams),
        "stopped": fitted.stopped,
    }
    container.check_plain({"state": content["state"]}, path)
    foreign = next(filter(None, (first_foreign(content[key], key) for key in _VALUES)), None)
    if foreign:
        warnings.warn(
            f"The file will hold more than tensors and plain values, at {foreign}: it can only be "
            "loaded with trusted=True.",
            UserWarning,
            stacklevel=2,
        )
    container.write(path, container.FITTED, content)


def save_model_weights(fitted: FittedModule, path: Path) -> None:
    """Save a fitted model's weights alone. Port of R luz's `luz_save_model_weights()`.

    Args:
        fitted: A fitted model.
        path: The file; one that is there is replaced once the new one is whole.

    Raises:
        TypeError: If `fitted` is something else.
        LuzError: If the file cannot be written.
    """
    check_fitted(fitted)
    content = {"state": plain(unwrapped(fitted.model).state_dict())}
    container.check_plain(content, path)
    container.write(path, container.WEIGHTS, content)


def load_model_weights(fitted: FittedModule, path: Path) -> None:
    """Put the weights of a file into a fitted model, in place.

    Port of R luz's `luz_load_model_weights()`.

    Args:
        fitted: A fitted model of the same shape.
        path: What `save_model_weights` wrote.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If the file cannot be used, or does not fit the model; nothing is changed then.
    """
    check_fitted(fitted)
    content = container.read(path, container.WEIGHTS)
    load_state(fitted.model, unplain(content["state"]), path)


def load_checkpoint(fitted: FittedModule, path: Path) -> None:
    """Put the weights of a checkpoint into a fitted model, in place.

    Port of R luz's `luz_load_checkpoint()`.

    Args:
        fitted: A fitted model of the same shape.
        path: What `ModelCheckpoint` or `AutoResume` wrote.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If the file cannot be used, or does not fit the model; nothing is changed then.
    """
    check_fitted(fitted)
    content = container.read(path, container.CHECKPOINT)
    load_state(fitted.model, unplain(content["model"]), path)


def load_state(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a state dict into `model`, or change nothing.

    Raises:
        LuzError: If names or shapes differ; it names the path and the first of them.
    """
    check_state(model, state, path)
    try:
        module = unwrapped(model)
        module.load_state_dict(spread_like(module.state_dict(), state))
    except Exception as err:
        raise LuzError(f"{os.fspath(path)} does not fit the model: {err}") from err


def check_state(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Raise unless `state` has the names and shapes of the model's own.

    Raises:
        LuzError: If it has not; it names the path and the first difference.
    """
    own = unwrapped(model).state_dict()
    problems = [f"{name!r} is missing" for name in own if name not in state]
    problems += [f"{name!r} is not in the model" for name in state if name not in own]
    for name, value in own.items():
        if not isinstance(value, torch.Tensor) or name not in state or is_lazy(value):
            continue
        found = state[name]
        if not isinstance(found, torch.Tensor):
            problems.append(f"{name!r} is no tensor")
        elif found.shape != value.shape:
            problems.append(
                f"{name!r} has the shape {tuple(found.shape)} instead of {tuple(value.shape)}"
            )
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise LuzError(f"{os.fspath(path)} does not fit the model: {problems[0]}{more}.")


def _import_path(module: Any) -> str | None:
    """`package.module:Class` of a class that is found there, else None."""
    if not isinstance(module, type):
        return None
    found: Any = sys.modules.get(module.__module__)
    for part in module.__qualname__.split("."):
        found = getattr(found, part, None)
    return f"{module.__module__}:{module.__qualname__}" if found is module else None
