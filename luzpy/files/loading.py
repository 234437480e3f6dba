"""Loading a fitted model."""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from typing import Any, TypeGuard, TypeVar

import attrs
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luzpy.core.build import build_model
from luzpy.core.optimizer_state import States, is_states
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.data.columns import is_columns
from luzpy.files import container
from luzpy.files.bounds import bounded
from luzpy.files.state import check_state, load_state
from luzpy.ground.arguments import check_flag
from luzpy.ground.errors import LuzError
from luzpy.ground.primitives import from_primitives
from luzpy.ground.records import loss_names
from luzpy.ground.types import Values, Where

R = TypeVar("R", bound=Result)


def load_result(
    kind: type[R],
    path: str | os.PathLike[str],
    *,
    module: object,
    trusted: bool,
    map_location: Where,
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
    try:
        return _result(kind, content, path, module, trusted, map_location)
    except LuzError:
        raise
    except Exception as err:  # whatever stands in the place of what is looked for
        raise LuzError(
            f"{os.fspath(path)} could not be loaded: {type(err).__name__}: {err}."
        ) from err


def _result(
    kind: type[R],
    content: Values,
    path: str | os.PathLike[str],
    module: object,
    trusted: bool,
    map_location: object,
) -> R:
    values: Values = from_primitives(content)
    hparams, state, records = values["hparams"], values["state"], values["records"]
    if _is_spec(module):
        spec, hparams_of_model = module, {**module.hparams, **hparams}
    else:
        maker: Any = module
        if module is None:
            maker = _known_class(values["module"], path, trusted=trusted)
        spec = Spec[Any](module=maker, hparams=hparams, opt_hparams=values["opt_hparams"])
        hparams_of_model = hparams
    try:
        # What the file has no say in may be of any size.
        with nullcontext() if trusted or not hparams else bounded(os.path.getsize(path)):
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
    if isinstance(spec.loss, nn.Module) and values.get("loss"):  # one that was trained
        loss = copy.deepcopy(spec.loss)
        load_state(loss, values["loss"], path)
        spec = attrs.evolve(spec, loss=loss)
    columns, rows = values.get("columns"), values.get("valid_rows")
    if not is_columns(columns) or not isinstance(rows, (torch.Tensor, type(None))):
        raise LuzError(
            f"{os.fspath(path)} is not a fitted model that luzpy wrote: its columns or rows."
        )
    return kind(
        model=model.eval(),
        records=records,
        hparams=hparams,
        opt_hparams=values["opt_hparams"],
        stopped=values["stopped"],
        spec=spec,
        # luzpy 0.1.0 did not write the names.
        opt_names=tuple(values.get("opt_names") or loss_names(records) or ("opt",)),
        optimizer_states=_states(values.get("optimizers"), path),
        valid_rows=rows,
        columns=columns,
    )


def _states(states: object, path: str | os.PathLike[str]) -> States | None:
    """The states of the optimizers, which luzpy 0.1.0 did not write."""
    if states is None or is_states(states):
        return states
    raise LuzError(
        f"{os.fspath(path)} is not a fitted model that luzpy wrote: see its 'optimizers'."
    )


def _is_spec(module: object) -> TypeGuard[Spec[Any]]:
    return isinstance(module, Spec)


def _check_options(module: object, trusted: object, map_location: object) -> None:
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


def _known_class(
    name: str | None, path: str | os.PathLike[str], *, trusted: bool
) -> type[nn.Module]:
    """The class of the name `package.module:Class`, where it is here already; see `luzpy.load`."""
    if name is None:
        raise LuzError(
            f"{os.fspath(path)} does not say where its module comes from (it was an instance, made "
            "by a function, or a class without an import path): give the class or the LuzModule "
            "as `module`."
        )
    package, _, qualname = name.partition(":")
    parts = qualname.split(".")
    if not all(part.isidentifier() for part in [*package.split("."), *parts]):
        raise LuzError(
            f"{os.fspath(path)} names {name!r} as its module, which is not the import path of a "
            "class."
        )
    # luzpy imports torch, whoever runs it: only its layers are there to be made by name.
    if package.partition(".")[0] == "torch" and package.split(".")[:2] != ["torch", "nn"]:
        found = None
    else:
        try:
            found: object = import_module(package) if trusted else sys.modules.get(package)
        except Exception as err:
            raise LuzError(
                f"{os.fspath(path)} needs the class {name!r}, which cannot be imported here: "
                f"{type(err).__name__}: {err}."
            ) from err
    for part in parts:
        found = inspect.getattr_static(found, part, None)
        if not isinstance(found, type):  # a module that a module has imported is no way through
            break
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    raise LuzError(
        f"{os.fspath(path)} needs the class {name!r}, which is not an nn.Module class that this "
        "program has imported, and nothing is imported for a file. If it is the one you expect:\n"
        f"    from {package} import {parts[0]}\n"
        f"    luz.load({os.fspath(path)!r}, module={qualname})"
    )
