"""Loading a fitted model."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luzpy.build import build_model
from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.files.saving import check_state, load_state
from luzpy.fitted import FittedModule
from luzpy.module import LuzModule
from luzpy.plain import unplain
from luzpy.random_state import preserved_random_state


def load(
    path: str | os.PathLike[str],
    *,
    module: Any = None,
    trusted: bool = False,
    map_location: Any = None,
) -> FittedModule:
    """Load a fitted model. Port of R luz's `luz_load()`.

    No code in the file is run: it holds tensors and plain values, and the name of the module's
    class, which is imported from where it is installed (once its source has been seen to define
    such a class) and made with the hyperparameters that are in the file.

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
        TypeError: If an argument is of the wrong type.
        ValueError: If `map_location` is no device.
    """
    _check_options(module, trusted, map_location)
    content = container.read(
        path,
        container.FITTED,
        trusted=trusted,
        # The model is made on the CPU, wherever the file was written.
        map_location="cpu" if map_location is None else map_location,
    )
    hparams: dict[str, Any] = unplain(content["hparams"])
    state: dict[str, Any] = unplain(content["state"])
    maker = _imported(content["module"], path) if module is None else module
    spec = maker if isinstance(maker, LuzModule) else None
    try:
        with preserved_random_state():
            if spec is not None:
                model = build_model(spec, {**spec.hparams, **hparams})
            else:
                model = _made(maker, hparams)
    except Exception as err:
        raise LuzError(
            f"{os.fspath(path)} could not be loaded: its module could not be made with the "
            f"hyperparameters {hparams!r}: {type(err).__name__}: {err}. Give what makes it as "
            "`module`."
        ) from err
    check_state(model, state, path)
    _cast(model, state)
    if map_location is not None:
        first = next((value for value in state.values() if isinstance(value, torch.Tensor)), None)
        model = model if first is None else model.to(first.device)
    load_state(model, state, path)
    return FittedModule(
        model=model.eval(),
        records=unplain(content["records"]),
        hparams=hparams,
        opt_hparams=unplain(content["opt_hparams"]),
        stopped=content["stopped"],
        spec=spec,
    )


def _check_options(module: Any, trusted: Any, map_location: Any) -> None:
    is_class = isinstance(module, type)
    if module is not None and (
        not callable(module) or (is_class and not issubclass(module, nn.Module))
    ):
        raise TypeError(
            "`module` must be an nn.Module class, a function that returns a module, a module or a "
            f"LuzModule, got {module!r}."
        )
    if not isinstance(trusted, bool):
        raise TypeError(f"`trusted` must be True or False, got {trusted!r}.")
    if isinstance(map_location, str):
        try:
            torch.device(map_location)
        except RuntimeError as err:
            raise ValueError(f"`map_location` must be a device, got {map_location!r}.") from err
    elif not (
        map_location is None
        or isinstance(map_location, (torch.device, Mapping))
        or callable(map_location)
    ):
        raise TypeError(
            f"`map_location` must be a device, a mapping or a function, got {map_location!r}."
        )


def _made(maker: Any, hparams: dict[str, Any]) -> nn.Module:
    if isinstance(maker, nn.Module):
        return copy.deepcopy(maker)
    model = maker(**hparams)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`module` must make an nn.Module, got {type(model).__name__}")
    # A function may hand out one and the same module; a class cannot.
    return model if isinstance(maker, type) else copy.deepcopy(model)


def _cast(model: nn.Module, state: dict[str, Any]) -> None:
    """Give parameters and buffers the dtypes they were saved with: copying would round."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        saved = state.get(name)
        if isinstance(saved, torch.Tensor) and not is_lazy(tensor) and saved.dtype != tensor.dtype:
            tensor.data = tensor.data.to(saved.dtype)


def _imported(name: str | None, path: Any) -> type[nn.Module]:
    """The class of the name `package.module:Class`, if it is an `nn.Module`."""
    if name is None:
        raise LuzError(
            f"{os.fspath(path)} does not say where its module comes from (it was an instance, made "
            "by a function, or a class without an import path): give the class or the LuzModule "
            "as `module`."
        )
    package, _, qualname = name.partition(":")
    parts = package.split(".") + qualname.split(".")
    if not all(part.isidentifier() for part in parts):
        raise LuzError(
            f"{os.fspath(path)} names {name!r} as its module, which is no class's import path."
        )
    try:
        if package not in sys.modules and not _defines(package, qualname):
            raise ImportError(f"no module {package} that defines such a class")
        found: Any = importlib.import_module(package)
        for part in qualname.split("."):
            found = inspect.getattr_static(found, part)
    except Exception as err:
        raise LuzError(
            f"{os.fspath(path)} needs the class {name!r}, which cannot be imported here "
            f"({err}): give it as `module`."
        ) from err
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise LuzError(
            f"{os.fspath(path)} names {name!r} as its module, which is no nn.Module class."
        )
    return found


def _defines(module: str, qualname: str) -> bool:
    """Whether the source of a module has a class of that name. Nothing is imported to see.

    Importing runs the module's code, and any installed one may be named in a file.
    """
    source = _source(module)
    body = [] if source is None else ast.parse(source).body
    for part in qualname.split("."):
        classes = [node for node in _statements(body) if isinstance(node, ast.ClassDef)]
        bodies = [node.body for node in classes if node.name == part and node.bases]
        if not bodies:
            return False
        body = bodies[-1]
    return True


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements of a body, and of the `if` and `try` blocks in it."""
    found: list[ast.stmt] = []
    for node in body:
        found.append(node)
        for block in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                found += _statements(getattr(node, block, []))
        for handler in getattr(node, "handlers", []):
            found += _statements(handler.body)
    return found


def _source(module: str) -> str | None:
    """The source of a module that has not been imported, without importing its packages."""
    where: Any = None
    spec: ModuleSpec | None = None
    for depth in range(module.count(".") + 1):
        name = ".".join(module.split(".")[: depth + 1])
        finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
        specs = (finder(name, where) for finder in finders if finder is not None)
        spec = next((found for found in specs if found is not None), None)
        if spec is None:
            return None
        where = spec.submodule_search_locations
        if where is None and name != module:
            return None
    get_source = getattr(spec and spec.loader, "get_source", None)
    return None if get_source is None else get_source(module)
