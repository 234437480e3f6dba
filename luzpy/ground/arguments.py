"""Checks of arguments: each says the argument, the rule and what it got."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

_LONGEST = 120


def shown(value: object) -> str:
    """`value` as messages show it: never a dump of data."""
    shape = getattr(value, "shape", ())
    if shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def is_whole(value: object) -> TypeGuard[int]:
    """Whether `value` is an integer (True and False are not)."""
    return isinstance(value, Integral) and value is not True and value is not False


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number (True and False are not)."""
    return isinstance(value, Real) and value is not True and value is not False


def check_flag(name: str, value: object, *, optional: bool = False) -> None:
    """Raise a TypeError unless `value` is True or False (or None, if optional)."""
    if not isinstance(value, bool) and not (optional and value is None):
        rule = "True, False or None" if optional else "True or False"
        raise TypeError(f"`{name}` must be {rule}, got {shown(value)}.")


def check_count(name: str, value: object, *, minimum: int = 1, optional: bool = False) -> None:
    """Raise unless `value` is an integer of at least `minimum` (or None, if optional)."""
    if optional and value is None:
        return
    positive = "a positive integer"
    rule = positive if minimum == 1 else f"an integer of at least {minimum}"
    message = f"`{name}` must be {rule}{' or None' if optional else ''}, got {shown(value)}."
    if not is_whole(value):
        raise TypeError(message)
    if value < minimum:
        raise ValueError(message)


def check_seed(seed: object, *, optional: bool = False) -> None:
    """Raise unless `seed` is one that torch takes (or None, if optional)."""
    if optional and seed is None:
        return
    if not is_whole(seed):
        raise TypeError(f"`seed` must be an integer{' or None' if optional else ''}, got {seed!r}.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be between 0 and 2**63, got {seed!r}.")


def check_number(
    name: str, value: object, *, minimum: float = -math.inf, above: float | None = None
) -> None:
    """Raise unless `value` is a finite number, at least `minimum` and greater than `above`."""
    if not is_number(value):
        raise TypeError(f"`{name}` must be a number, got {shown(value)}.")
    if above is not None and not (math.isfinite(value) and value > above):
        bound = "positive" if above == 0 else f"greater than {above}"
        raise ValueError(f"`{name}` must be {bound} and finite, got {shown(value)}.")
    if not (math.isfinite(value) and value >= minimum):
        bound = "finite" if minimum == -math.inf else f"at least {minimum}"
        raise ValueError(f"`{name}` must be {bound}, got {shown(value)}.")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"`{name}` must be one of {known}, got {shown(value)}.")
