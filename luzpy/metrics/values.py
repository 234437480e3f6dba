"""The value that a metric computes: its rows, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luzpy.ground.nested import is_mapping, is_sequence

# Arrays with more are printed as a range.
MOST_VALUES = 5


def named_values(abbrev: str, value: Any) -> dict[str, float]:
    """The rows of a metric's value: one for a number, one per entry for several.

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
        rows |= named_values("_".join(filter(None, (name, str(key)))), part)
    return rows


def arrays_in(abbrev: str, value: Any) -> dict[str, list[Any]]:
    """The arrays of several elements that a metric's value has, by name, as nested lists."""
    name = abbrev.lower()
    tolist = getattr(value, "tolist", None)
    value = value if tolist is None else tolist()
    if is_mapping(value):
        found: dict[str, list[Any]] = {}
        for key, part in value.items():
            found |= arrays_in(f"{name}_{key}" if name else str(key), part)
        return found
    return {name: list(value)} if is_sequence(value) and len(value) > 1 else {}


def shown(rows: Mapping[str, float], arrays: Mapping[str, list[Any]]) -> dict[str, str]:
    """Metrics as they are printed, by name: an array instead of its rows."""
    owners = {row: name for name, array in arrays.items() for row in named_values(name, array)}
    texts: dict[str, str] = {}
    for row, value in rows.items():
        name = owners.get(row)
        if name is None:
            texts[row] = format_value(value)
        elif name not in texts:
            texts[name] = _summary(arrays[name])
    return texts


def _summary(array: list[Any]) -> str:
    """A few values as they are, many by their range, and of a matrix how large it is."""
    if is_sequence(array[0]):
        sizes: list[int] = []
        inner: Any = array
        while is_sequence(inner) and inner:
            sizes.append(len(inner))
            inner = inner[0]
        return " x ".join(map(str, sizes))
    values = [*named_values("", array).values()]
    if len(values) <= MOST_VALUES:
        return f"[{', '.join(map(format_value, values))}]"
    least, largest = format_value(min(values)), format_value(max(values))
    return f"{least} to {largest} ({len(values)} values)"


def format_value(value: float) -> str:
    """A metric's value as it is printed: four decimals, as in R luz."""
    return f"{round(value, 4):g}" if abs(value) < 1e5 else f"{value:.6g}"
