"""From the specification to a module with its initial weights."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from luzpy.core.arguments import check_arguments
from luzpy.core.compiled import compile_alike
from luzpy.core.fresh import unshared_tensors
from luzpy.core.modules import named_parts
from luzpy.core.own_methods import check_own_names
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.ground.random_state import preserved_random_state, seed_all

_BUILDING = threading.RLock()


def build_model(spec: Spec[Result], hparams: Mapping[str, object], run: int = 0) -> nn.Module:
    """A new module with the specification's initial weights.

    Args:
        spec: The specification.
        hparams: Arguments of the module.
        run: 0 for the specification's own weights, k for those of `seed + k`.

    Returns:
        The module. The global random state is as it was before.

    Raises:
        TypeError: If `module` makes something else than an `nn.Module`, or one that luzpy cannot
            use.
        ValueError: If other weights are asked of a module instance that cannot be re-initialised.
    """
    # One at a time: all threads draw from the same generators.
    with _BUILDING, preserved_random_state():
        seed_all(spec.seed + run)
        if isinstance(spec.module, nn.Module):
            model = copied(spec.module)
            if spec.reinitialize or run:
                reset_parameters(model)
            return model
        check_arguments("hparams", spec.module, (), hparams)
        # A module among the arguments becomes a part of the model, and would be trained in place.
        made: list[Any] = [spec.module(**copy.deepcopy(dict(hparams)))]
        if not isinstance(made[0], nn.Module):
            raise TypeError(f"`module` must make an nn.Module, got {type(made[0]).__name__}.")
        check_own_names(made[0])
        if isinstance(spec.module, type):
            return made[0]
        # A function may hand out one and the same module, or give it tensors of others.
        own = unshared_tensors(made)
        return copied(made[0], own)


def copied(module: nn.Module, own: Sequence[torch.Tensor] = ()) -> nn.Module:
    """A copy of `module`; warns if torch does not copy all of it.

    Args:
        module: What is copied.
        own: Tensors that the copy takes over, since nothing else needs them.
    """
    copy_of_it = copy.deepcopy(module, {id(tensor): tensor for tensor in own})
    if not compile_alike(module, copy_of_it):
        warnings.warn(
            "`module` runs uncompiled: it was compiled in place, by its method `compile()`, which "
            "copies do not keep. Give torch.compile(module) instead.",
            UserWarning,
            stacklevel=2,
        )
    return copy_of_it


def reset_parameters(model: nn.Module) -> None:
    """Draw new initial weights for every part of `model` through its `reset_parameters`.

    Raises:
        ValueError: If a part has its own parameters but no such method.
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
