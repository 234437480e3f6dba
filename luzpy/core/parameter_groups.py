"""Parameter groups by the names of parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from luzpy.core.arguments import Maker, maker_name
from luzpy.ground.arguments import is_number, shown
from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Values

SCALE = "lr_scale"


def default_lr(maker: Callable[..., object] | None) -> float | None:
    """A function's default learning rate; None if it has none."""
    try:
        parameter = inspect.signature(maker).parameters.get("lr") if maker else None
    except (TypeError, ValueError):  # some that are written in C have none
        return None
    default = None if parameter is None else parameter.default
    return float(default) if is_number(default) else None


def matching(model: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters whose names match, by name; as in a shell `*` stands for anything."""
    return {n: p for n, p in model.named_parameters() if fnmatchcase(n, pattern)}


def parameter_groups(
    model: nn.Module,
    groups: object,
    maker: Maker,
    lr: float | None,
    others: Sequence[nn.Parameter] = (),
) -> list[Values]:
    """The groups for an optimizer: one for each pattern, and one of what is left over, if any.

    Args:
        model: The module.
        groups: Pattern → the group's options. A parameter belongs to the first that matches.
        maker: What makes the optimizer.
        lr: The common learning rate, which a group may scale.
        others: What to add to the last group: a loss's parameters.

    Raises:
        TypeError: If `groups` is not a dict of dicts, or an option is unknown to the optimizer.
        ValueError: If a pattern matches nothing, or a share cannot be taken.
    """
    rule = "`groups` must be a dict pattern -> options of the group"
    if not is_mapping(groups):
        raise TypeError(f"{rule}, got {shown(groups)}.")
    left = dict(model.named_parameters())
    made: list[Values] = []
    for pattern, options in groups.items():
        if not isinstance(pattern, str) or not is_mapping(options):
            raise TypeError(f"{rule}, got {shown(pattern)}: {shown(options)}.")
        found = {name: p for name, p in left.items() if fnmatchcase(name, pattern)}
        if not found:
            taken = " that an earlier pattern has left" if matching(model, pattern) else ""
            names = [name for name, _ in model.named_parameters()]
            raise ValueError(
                f"`groups` must have patterns of parameters' names, got {pattern!r}, which matches "
                f"no parameter{taken}: they are {shown(names)}."
            )
        left = {name: p for name, p in left.items() if name not in found}
        made.append({"params": list(found.values()), **_options(pattern, options, maker, lr)})
    rest = [*left.values(), *others]
    return [*made, {"params": rest}] if rest else made


def _options(pattern: str, options: Mapping[Any, Any], maker: Maker, lr: float | None) -> Values:
    """A group's options, with the learning rate that its share makes."""
    known = _arguments(maker)
    for name in options if known else ():
        if name != SCALE and name not in known:
            raise TypeError(
                f"`groups` must have options that are arguments of {maker_name(maker)}, or "
                f"`{SCALE}`, got {name!r} for {pattern!r}."
            )
    if SCALE not in options:
        return dict(options)
    scale = options[SCALE]
    if "lr" in options:
        raise ValueError(f"`groups` must have `lr` or `{SCALE}`, got both for {pattern!r}.")
    if not is_number(scale) or not scale > 0:
        raise ValueError(f"`{SCALE}` must be a positive number, got {shown(scale)}.")
    if lr is None:
        raise ValueError(f"`{SCALE}` of {pattern!r} needs an `lr` that it multiplies, got none.")
    return {**{k: v for k, v in options.items() if k != SCALE}, "lr": lr * float(scale)}


def _arguments(maker: Maker) -> set[str]:
    """The names of a function's arguments; none if it takes any, or does not say."""
    try:
        parameters = inspect.signature(maker).parameters
    except (TypeError, ValueError):
        return set()
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set()
    return set(parameters)


def own_rates(groups: object) -> set[int]:
    """The indices of the groups that have their own learning rate."""
    options = list(groups.values()) if is_mapping(groups) else []
    return {i for i, given in enumerate(options) if is_mapping(given) and "lr" in given}
