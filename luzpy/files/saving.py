"""Saving a fitted model, and loading weights into one."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.loop import unwrapped
from luzpy.plain import first_foreign, plain

if TYPE_CHECKING:
    from luzpy.fitted import FittedModule

Path = str | os.PathLike[str]


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
    _check_fitted(fitted)
    content = {
        "module": None if fitted.spec is None else _import_path(fitted.spec.module),
        "state": unwrapped(fitted.model).state_dict(),
        "records": plain(fitted.records),
        "hparams": plain(fitted.hparams),
        "opt_hparams": plain(fitted.opt_hparams),
        "stopped": fitted.stopped,
    }
    foreign = first_foreign({key: content[key] for key in ("hparams", "opt_hparams")})
    if foreign:
        warnings.warn(
            f"The file will hold more than tensors and plain values, at {foreign}: it can only be "
            "loaded with trusted=True.",
            UserWarning,
            stacklevel=2,
        )
    container.write(path, "fitted model", content)


def save_model_weights(fitted: FittedModule, path: Path) -> None:
    """Save a fitted model's weights alone. Port of R luz's `luz_save_model_weights()`.

    Args:
        fitted: A fitted model.
        path: The file; one that is there is replaced once the new one is whole.

    Raises:
        TypeError: If `fitted` is something else.
        LuzError: If the file cannot be written.
    """
    _check_fitted(fitted)
    container.write(path, "model's weights", {"state": unwrapped(fitted.model).state_dict()})


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
    _check_fitted(fitted)
    content = container.read(path, "model's weights", map_location="cpu")
    load_state(fitted.model, content["state"], path)


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
    _check_fitted(fitted)
    content = container.read(path, "checkpoint", map_location="cpu")
    load_state(fitted.model, content["model"], path)


def load_state(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a state dict into `model`, or change nothing.

    Raises:
        LuzError: If names or shapes differ; it names the path and the first of them.
    """
    own = unwrapped(model).state_dict()
    problems = [f"{name!r} is missing" for name in own if name not in state]
    problems += [f"{name!r} is not in the model" for name in state if name not in own]
    problems += [
        f"{name!r} has the shape {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
        and isinstance(own.get(name), torch.Tensor)
        and value.shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise LuzError(f"{path} does not fit the model: {problems[0]}{more}.")
    unwrapped(model).load_state_dict(state)


def _import_path(module: Any) -> str | None:
    """`package.module:Class` of an importable class, else None."""
    if not isinstance(module, type) or "<" in module.__qualname__:
        return None
    return f"{module.__module__}:{module.__qualname__}"


def _check_fitted(fitted: Any) -> None:
    if not isinstance(getattr(fitted, "model", None), nn.Module):
        raise TypeError(f"`fitted` must be a FittedModule, got {type(fitted).__name__}.")
