"""The value that a metric computes: its rows, and how it is printed."""

from __future__ import annotations

from typing import Any

from luzpy.ground.nested import is_mapping, is_sequence


def named_values(abbrev: str, value: Any) -> dict[str, float]:
    """The rows that a metric's value makes: one for a number, one an entry for several.

    Args:
        abbrev: The metric's name; rows are named in lower case.
        value: A number, a tensor or array of one or several elements, or a dict or list of these.

    Raises:
        TypeError: If it is none of these.
    """
    name = abbrev.lower()
    tolist = getattr(value, "tolist", None)
    if tolist is not None:
        value = tolist()
    if is_sequence(value):
        if len(value) == 1:
            return named_values(abbrev, value[0])
        value = dict(enumerate(value))
    if not is_mapping(value):
        try:
            return {name: float(value)}
        except (TypeError, ValueError):
            raise TypeError(
                f"the metric {abbrev!r} must compute a number, a tensor, or a dict of these, got "
                f"{value!r}."
            ) from None
    rows: dict[str, float] = {}
    for key, part in value.items():
        rows |= named_values(f"{name}_{key}" if name else str(key), part)
    return rows


def format_value(value: float) -> str:
    """A metric's value as it is printed: four decimals, as in R luz."""
    return f"{round(value, 4):g}" if abs(value) < 1e5 else f"{value:.6g}"
