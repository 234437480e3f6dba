"""Loading a fitted model."""

from __future__ import annotations

import copy
import importlib
import os
from typing import Any

import torch
from torch import nn

from luzpy.build import build_model
from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.files.saving import load_state
from luzpy.fitted import FittedModule
from luzpy.module import LuzModule


def load(
    path: str | os.PathLike[str],
    *,
    module: Any = None,
    trusted: bool = False,
    map_location: Any = None,
) -> FittedModule:
    """Load a fitted model. Port of R luz's `luz_load()`.

    No code in the file is run: it holds tensors and plain values, and the name of the module's
    class, which is imported from where it is installed.

    Args:
        path: What `save` wrote.
        module: The module's class or a function that makes it, for a file whose class cannot be
            imported by name; or a `LuzModule`, which also brings the loss, the optimizer and the
            metrics that `evaluate` needs.
        trusted: Whether to unpickle a file that holds more than tensors and plain values. It can
            run any code: use it only for files of your own.
        map_location: Where tensors go, as in `torch.load`.

    Returns:
        The fitted model.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If the file is truncated, altered, foreign, or its class cannot be found, or it
            does not fit the module.
        TypeError: If `module` is of another type.
    """
    content = container.read(path, "fitted model", trusted=trusted, map_location=map_location)
    hparams: dict[str, Any] = content["hparams"]
    spec = module if isinstance(module, LuzModule) else None
    if spec is not None:
        model = build_model(spec, {**spec.hparams, **hparams})
    else:
        model = _made(_imported(content["module"], path) if module is None else module, hparams)
    load_state(model, content["state"], path)
    if isinstance(map_location, (str, torch.device)):
        model = model.to(map_location)
    return FittedModule(
        model=model.eval(),
        records=content["records"],
        hparams=hparams,
        opt_hparams=content["opt_hparams"],
        stopped=content["stopped"],
        spec=spec,
    )


def _made(maker: Any, hparams: dict[str, Any]) -> nn.Module:
    if isinstance(maker, nn.Module):
        return copy.deepcopy(maker)
    if not callable(maker):
        raise TypeError(
            "`module` must be an nn.Module class, a function that returns a module, a module or a "
            f"LuzModule, got {maker!r}."
        )
    model = maker(**hparams)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`module` must make an nn.Module, got {type(model).__name__}.")
    return model


def _imported(name: str | None, path: Any) -> type[nn.Module]:
    """The class of the name `package.module:Class`, if it is an `nn.Module`."""
    if name is None:
        raise LuzError(
            f"{path} does not say where its module comes from (it was an instance, or made by a "
            "function): give the class or the LuzModule as `module`."
        )
    package, _, qualname = name.partition(":")
    parts = package.split(".") + qualname.split(".")
    if not all(part.isidentifier() for part in parts):
        raise LuzError(f"{path} names {name!r} as its module, which is no class's import path.")
    try:
        found: Any = importlib.import_module(package)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as err:
        raise LuzError(
            f"{path} needs the class {name!r}, which cannot be imported here ({err}): give it as "
            "`module`."
        ) from err
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise LuzError(f"{path} names {name!r} as its module, which is no nn.Module class.")
    return found
