"""From the specification to what a run needs: weights and optimizers."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from luzpy.core.context import Optimizers
from luzpy.core.modules import named_parts, unwrapped
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.ground.nested import is_mapping
from luzpy.ground.random_state import preserved_random_state, seed_all

Maker = Callable[..., object]


def build_model(spec: Spec[Result], hparams: Mapping[str, object], run: int = 0) -> nn.Module:
    """A new module with the specification's initial weights.

    Args:
        spec: The specification.
        hparams: Arguments of the module.
        run: 0 for the specification's own weights, k for those of `seed + k`.

    Returns:
        The module. The global random state is as it was before.

    Raises:
        TypeError: If `module` makes something else than an `nn.Module`.
        ValueError: If other weights are asked of a module instance that cannot be re-initialised.
    """
    with preserved_random_state():
        seed_all(spec.seed + run)
        if isinstance(spec.module, nn.Module):
            model = copied(spec.module)
            if spec.reinitialize or run:
                reset_parameters(model)
            return model
        _check_arguments("hparams", spec.module, (), hparams)
        # A module among the arguments becomes a part of the model, and would be trained in place.
        model: Any = spec.module(**copy.deepcopy(dict(hparams)))
        if not isinstance(model, nn.Module):
            raise TypeError(f"`module` must make an nn.Module, got {type(model).__name__}.")
        # A function may hand out one and the same module; a class cannot.
        return model if isinstance(spec.module, type) else copied(model)


def copied(module: nn.Module) -> nn.Module:
    """A copy of `module`; where torch copies less than all, a warning says so."""
    if any(getattr(part, "_compiled_call_impl", None) for _, part in named_parts(module)):
        warnings.warn(
            "`module` runs uncompiled: it was compiled in place, by its method `compile()`, which "
            "copies do not keep. Give torch.compile(module) instead.",
            UserWarning,
            stacklevel=2,
        )
    return copy.deepcopy(module)


def _check_arguments(
    name: str, function: Maker, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> None:
    """Raise unless `function` can be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as err:
        raise TypeError(
            f"`{name}` must be arguments of {_name(function)}, got {dict(kwargs)!r}: {err}."
        ) from err


def _name(function: Maker) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def reset_parameters(model: nn.Module) -> None:
    """Draw new initial weights for every part of `model` through its `reset_parameters`.

    Raises:
        ValueError: If a part has parameters of its own and no such method.
    """
    # Parts before what they are part of, which may have its own way to draw their weights.
    for name, part in reversed(named_parts(model)):
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            raise ValueError(
                "`module` must be a class, or each of its parts have a `reset_parameters` method, "
                f"to draw new initial weights; {name or 'the module'!r} "
                f"({type(part).__name__}) has none."
            )


def build_optimizers(
    spec: Spec[Result], model: nn.Module, opt_hparams: Mapping[str, object]
) -> Optimizers:
    """The optimizers over `model`, by name; a single one is called `"opt"`.

    Raises:
        TypeError: If what is made is not an optimizer or a dict of them, or an argument is
            unknown to it.
        ValueError: If a dict of optimizers is empty.
    """
    if spec.optimizer is None:
        maker: Any = unwrapped(model).set_optimizers
        _check_arguments("opt_hparams", maker, (), opt_hparams)
        made, maker_name = maker(**opt_hparams), "`set_optimizers`"
    else:
        maker, maker_name = spec.optimizer, "`optimizer`"
        parameters = model.parameters()
        _check_arguments("opt_hparams", maker, (parameters,), opt_hparams)
        try:
            made = maker(parameters, **opt_hparams)
        # As torch's optimizers say that something is out of bounds, or no number.
        except (TypeError, ValueError) as err:
            given = ", ".join(f"{name}={value!r}" for name, value in opt_hparams.items())
            raise (TypeError if isinstance(err, TypeError) else ValueError)(
                f"`opt_hparams` must be arguments of {_name(maker)}, got {given}: {err}"
            ) from err
    optimizers: Optimizers = {}
    for name, optimizer in made.items() if is_mapping(made) else [("opt", made)]:
        if not isinstance(optimizer, torch.optim.Optimizer) or not isinstance(name, str):
            raise TypeError(
                f"{maker_name} must make a torch optimizer, or a dict name -> optimizer, got "
                f"{name!r}: {type(optimizer).__name__}."
            )
        for group in optimizer.param_groups:
            if isinstance(group.get("lr"), torch.Tensor):
                # Whoever changes it in the run changes it in place: not the user's own.
                group["lr"] = group["lr"].clone()
        optimizers[name] = optimizer
    if not optimizers:
        raise ValueError(f"{maker_name} must make at least one optimizer, got an empty dict.")
    return optimizers
