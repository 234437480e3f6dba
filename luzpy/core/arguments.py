"""Whether a user's function takes the arguments that the user has set for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

Maker = Callable[..., object]


def check_arguments(
    name: str, function: Maker, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> None:
    """Raise a TypeError unless `function` can be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as err:
        raise TypeError(
            f"`{name}` must be arguments of {maker_name(function)}, got {dict(kwargs)!r}: {err}."
        ) from err


def maker_name(function: Maker) -> str:
    """What messages call the function."""
    return getattr(function, "__qualname__", type(function).__name__)
