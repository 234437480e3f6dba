"""What a user's module has by names that luzpy uses."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from torch import nn

from luzpy.core.modules import has_own_context


def check_own_names(module: nn.Module | type[nn.Module]) -> None:
    """Raise unless luzpy can use what a module, or a class of modules, has by luzpy's names.

    Raises:
        TypeError: If it has an attribute `ctx`, or a `step` that takes arguments.
    """
    kind = module if isinstance(module, type) else type(module)
    if has_own_context(module):
        raise TypeError(
            f"`module` must not have an attribute `ctx` of its own, got one of {kind.__name__}: "
            "during a run `self.ctx` is luzpy's context. Rename the attribute."
        )
    own: Any = getattr(module, "step", None)
    if own is None:
        return
    needs_self = module is kind and isinstance(inspect.getattr_static(kind, "step"), FunctionType)
    err = binding_error(own, *([None] if needs_self else []))
    if err is not None:
        raise TypeError(
            f"`step` of {kind.__name__} must be a method without arguments, got {shown_call(own)}: "
            "luzpy calls `step()` for each batch. Write `def step(self):`, which reads "
            "`self.ctx.input` and `self.ctx.target` and sets `self.ctx.loss`, or rename it if it "
            "is something else."
        ) from err


def binding_error(function: Any, *args: object, **kwargs: object) -> TypeError | None:
    """Why a function cannot be called with these arguments; None where it can, or may."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except ValueError:  # some that are written in C have no signature
        return None
    except TypeError as err:
        return err
    return None


def shown_call(own: Any) -> str:
    """What messages show of an attribute that luzpy cannot call as it does."""
    return f"{own.__name__}{inspect.signature(own)}" if inspect.isroutine(own) else f"{own!r:.60}"
