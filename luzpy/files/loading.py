"""Loading a fitted model."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luzpy.core.build import build_model
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.files import container
from luzpy.files.state import check_state, load_state
from luzpy.ground.arguments import check_flag
from luzpy.ground.errors import LuzError
from luzpy.ground.primitives import from_primitives
from luzpy.ground.records import loss_names
from luzpy.ground.types import Values

R = TypeVar("R", bound=Result)
_SPEC: Any = Spec


def load_result(
    kind: type[R],
    path: str | os.PathLike[str],
    *,
    module: Any,
    trusted: bool,
    map_location: Any,
) -> R:
    """A fitted model of a file, of the class `kind`; see `luzpy.load`."""
    _check_options(module, trusted, map_location)
    content = container.read(
        path,
        container.FITTED,
        trusted=trusted,
        # The model is made on the CPU, wherever the file was written.
        map_location="cpu" if map_location is None else map_location,
    )
    values = {name: from_primitives(item) for name, item in content.items()}
    hparams, state, records = values["hparams"], values["state"], values["records"]
    if isinstance(module, _SPEC):
        spec: Spec[Any] = module
        hparams_of_model = {**spec.hparams, **hparams}
    else:
        maker = _imported(values["module"], path) if module is None else module
        spec = Spec[Any](module=maker, hparams=hparams, opt_hparams=values["opt_hparams"])
        hparams_of_model = hparams
    try:
        model = build_model(spec, hparams_of_model)
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
    return kind(
        model=model.eval(),
        records=records,
        hparams=hparams,
        opt_hparams=values["opt_hparams"],
        stopped=values["stopped"],
        spec=spec,
        # luzpy 0.1.0 did not write the names.
        opt_names=tuple(values.get("opt_names") or loss_names(records) or ("opt",)),
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
    check_flag("trusted", trusted)
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


def _cast(model: nn.Module, state: Values) -> None:
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
