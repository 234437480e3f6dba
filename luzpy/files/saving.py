"""Saving a fitted model, and loading weights into one."""

from __future__ import annotations

import os
import sys
import warnings

from torch import nn

from luzpy.core.loss import loss_parameters
from luzpy.core.modules import unwrapped
from luzpy.core.optimizer_state import States
from luzpy.core.result import Result, check_fitted
from luzpy.files import container
from luzpy.files.state import load_state
from luzpy.ground.arguments import check_flag
from luzpy.ground.primitives import find_unsupported, from_primitives, if_primitive, to_primitives
from luzpy.ground.types import Values

Path = str | os.PathLike[str]

_VALUES = ("records", "hparams", "opt_hparams")


def save(fitted: Result, path: Path, *, optimizer: bool = True) -> None:
    """Save a fitted model: weights, records, hyperparameters, and the state of its optimizers.

    Port of R luz's `luz_save()`.

    The module's code is not in the file: `load` finds its class by name, or takes it as an
    argument.

    Args:
        fitted: A fitted model.
        path: The file; an existing one is replaced once the new one is complete.
        optimizer: Whether to save the state of the optimizers, with which the loaded model can be
            trained further like this one. For Adam it is twice as large as the weights; for
            prediction it is not needed.

    Raises:
        TypeError: If `fitted` is something else, or `optimizer` neither True nor False.
        LuzError: If the file cannot be written.
    """
    check_fitted(fitted)
    check_flag("optimizer", optimizer)
    model = unwrapped(fitted.model)
    content: Values = {
        "module": _import_path(fitted.spec.module),
        "state": to_primitives(model.state_dict()),
        "records": to_primitives(fitted.records),
        "hparams": to_primitives(fitted.hparams),
        "opt_hparams": to_primitives(fitted.opt_hparams),
        "stopped": fitted.stopped,
        "opt_names": list(fitted.opt_names),
        "valid_rows": fitted.valid_rows,
        "columns": if_primitive(fitted.columns),
    }
    loss = fitted.spec.loss
    if isinstance(loss, nn.Module) and loss_parameters(fitted.spec, loss):
        content["loss"] = to_primitives(loss.state_dict())
    container.check_primitive({"state": content["state"]}, path)
    if optimizer and fitted.optimizer_states is not None:
        content["optimizers"] = _kept_states(fitted.optimizer_states)
    found = (find_unsupported(content[key], key) for key in _VALUES)
    unsupported = next(filter(None, found), None)
    if unsupported:
        warnings.warn(
            f"The file will hold more than tensors and plain values, at {unsupported}: it can only "
            "be loaded with trusted=True.",
            UserWarning,
            stacklevel=2,
        )
    container.write(path, container.FITTED, content)


def _kept_states(states: States) -> States | None:
    """The states as they may stand in a file; None, with a warning, if they cannot."""
    kept: States = to_primitives(states)
    unsupported = find_unsupported(kept, "optimizers")
    if unsupported is None:
        return kept
    warnings.warn(
        "The file is without the state of the optimizers, which holds more than tensors and plain "
        f"values, at {unsupported}: a loaded model that is trained further starts with a new one.",
        UserWarning,
        stacklevel=3,
    )
    return None


def save_model_weights(fitted: Result, path: Path) -> None:
    """Save only the weights of a fitted model. Port of R luz's `luz_save_model_weights()`.

    Args:
        fitted: A fitted model.
        path: The file; an existing one is replaced once the new one is complete.

    Raises:
        TypeError: If `fitted` is something else.
        LuzError: If the file cannot be written.
    """
    check_fitted(fitted)
    content = {"state": to_primitives(unwrapped(fitted.model).state_dict())}
    container.check_primitive(content, path)
    container.write(path, container.WEIGHTS, content)


def load_model_weights(fitted: Result, path: Path) -> None:
    """Load the weights of a file into a fitted model, in place.

    Port of R luz's `luz_load_model_weights()`.

    Args:
        fitted: A fitted model with the same parameters.
        path: A file written by `save_model_weights`.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If the file cannot be used, or does not fit the model, which then stays unchanged.
    """
    check_fitted(fitted)
    content = container.read(path, container.WEIGHTS)
    load_state(fitted.model, from_primitives(content["state"]), path)


def load_checkpoint(fitted: Result, path: Path) -> None:
    """Load the weights of a checkpoint into a fitted model, in place.

    Port of R luz's `luz_load_checkpoint()`.

    Args:
        fitted: A fitted model with the same parameters.
        path: A file written by `ModelCheckpoint` or `AutoResume`.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If the file cannot be used, or does not fit the model, which then stays unchanged.
    """
    check_fitted(fitted)
    content = container.read(path, container.CHECKPOINT)
    load_state(fitted.model, from_primitives(content["model"]), path)


def _import_path(module: object) -> str | None:
    """`package.module:Class` of a class that is found there, else None."""
    if not isinstance(module, type):
        return None
    found: object = sys.modules.get(module.__module__)
    for part in module.__qualname__.split("."):
        found = getattr(found, part, None)
    return f"{module.__module__}:{module.__qualname__}" if found is module else None
