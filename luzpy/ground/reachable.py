"""Everything that an object refers to, by name."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, TypeGuard, final

import numpy as np
import torch

from luzpy.ground.nested import is_mapping
from luzpy.ground.primitives import is_array

_VALUES = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray, range, slice))
_COLLECTIONS = (tuple, list, set, frozenset, deque)
_PLAIN_COLLECTIONS = frozenset(_COLLECTIONS)
_IS_OF_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_OPAQUE = (type, ModuleType, CodeType, FrameType, torch.Tensor, torch.dtype, torch.device)


def reachable(
    roots: Mapping[str, object], ends: tuple[type, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Every object that the roots refer to, however deep, each once and with its name.

    Objects of the classes in `ends` are given, and not looked into. What an object refers to: its
    attributes, also those in slots and of the class; items of containers; what a function has
    closed over, what its code finds in its module, and its defaults; what partials and methods are
    bound to. Not the insides of tensors, arrays of numbers, classes, modules and plain values.
    """
    seen: set[int] = set()
    classes = _Classes(ends)
    held: list[object] = []  # what was made on the way must not give its number to another
    stack: list[tuple[str, Any]] = list(reversed(list(roots.items())))
    while stack:
        where, item = stack.pop()
        if id(item) in seen or _is_opaque(item):
            continue
        seen.add(id(item))
        yield where, item
        if issubclass(_class_of(item), ends):
            continue  # its contents are its own concern
        parts = [(name, part) for name, part in _parts(item) if not classes.is_value(part)]
        classes.is_simple(_class_of(item))
        while classes.new:
            of_class = _of_class(classes.new.pop())
            parts += [(name, part) for name, part in of_class if not classes.is_value(part)]
        held += [part for _, part in parts]
        stack += [(f"{where}.{name}", part) for name, part in reversed(parts)]


@final
class _Classes:
    """What is known of the classes that were met.

    Attributes:
        new: Those that nobody has looked into yet.
    """

    def __init__(self, ends: tuple[type, ...]) -> None:
        self.new: list[type] = []
        self._ends = ends
        self._simple: dict[type, bool] = {}

    def is_simple(self, kind: type[Any]) -> bool:
        """Whether objects of a class hold what is in their `__dict__`, and nothing else."""
        known = self._simple.get(kind)
        if known is None:
            if not issubclass(kind, self._ends):
                self.new.append(kind)
            known = self._simple[kind] = (
                kind.__flags__ & _IS_OF_PYTHON != 0
                and any("__dict__" in vars(base) for base in kind.__mro__)
                and kind.__getattribute__ is object.__getattribute__
                and not issubclass(kind, (*_COLLECTIONS, *_OPAQUE, *self._ends, Mapping))
                and not any(vars(base).get("__slots__") for base in kind.__mro__)
                and not hasattr(kind, "state_dict")
            )
        return known

    def is_value(self, item: Any) -> bool:
        """Whether it is a plain value, or holds only plain values, such as a million file names."""
        kind = _class_of(item)
        if kind in _VALUES:
            return True
        if kind in _PLAIN_COLLECTIONS:
            return _VALUES.issuperset(map(type, item))
        if kind is dict:
            return _VALUES.issuperset(map(type, item.values()))
        return self.is_simple(kind) and _VALUES.issuperset(map(type, item.__dict__.values()))


def _class_of(item: object) -> type[Any]:
    return type(item)


def _is_opaque(item: Any) -> bool:
    kind = _class_of(item)
    return item.dtype.kind != "O" if issubclass(kind, np.ndarray) else issubclass(kind, _OPAQUE)


def _parts(item: Any) -> Iterable[tuple[Any, Any]]:
    """What an object holds, by name; nothing, where it does not let itself be looked at."""
    try:
        return _held_by(item)
    except Exception:  # of a user's own, which may stand for something far away
        return []


def _held_by(item: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(item, FunctionType):
        return [*_parts_of_function(item), *_globals_of(item)]
    if isinstance(item, MethodType | BuiltinFunctionType):
        return [("self", item.__self__)]
    if isinstance(item, partial):
        return [("func", item.func), *enumerate(item.args), *item.keywords.items()]
    if isinstance(item, GeneratorType):
        return [] if item.gi_frame is None else list(item.gi_frame.f_locals.items())
    parts: list[tuple[Any, Any]] = list(slots_of(item))
    if is_mapping(item):
        parts += item.items()
    elif _is_collection(item):
        parts += enumerate(item)
    elif is_array(item):
        parts += enumerate(item.ravel().tolist())
    attributes: dict[str, object] | None = getattr(item, "__dict__", None)
    if attributes is not None:
        parts += attributes.items()
    elif not parts:  # written in C: an iterator, say
        parts += enumerate(gc.get_referents(item))
    return parts


def _is_collection(item: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(item, _COLLECTIONS)


def slots_of(item: Any) -> list[tuple[str, Any]]:
    """What an object holds in the slots of its classes."""
    found: list[tuple[str, Any]] = []
    for kind in type(item).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            own = f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") else name
            try:
                found.append((name, object.__getattribute__(item, own)))
            except AttributeError:
                continue  # not set
    return found


def _parts_of_function(function: FunctionType) -> list[tuple[Any, Any]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found: list[tuple[Any, Any]] = []
    for name, cell in cells:
        try:
            found.append((name, cell.cell_contents))
        except ValueError:
            continue  # not set
    found += enumerate(function.__defaults__ or ())
    return [*found, *(function.__kwdefaults__ or {}).items(), *vars(function).items()]


def _of_class(kind: type) -> list[tuple[str, Any]]:
    """What a class of the user's own has as attributes, and its methods find in their module."""
    found: list[tuple[str, Any]] = []
    for base in kind.__mro__:
        module: object = base.__module__  # which a class may have made something else
        if str(module).partition(".")[0] in ("builtins", "torch", "numpy", "luzpy"):
            continue
        for name, item in vars(base).items():
            function = getattr(item, "__func__", getattr(item, "fget", item))
            if isinstance(function, FunctionType):
                found += _globals_of(function) + _parts_of_function(function)
            elif not name.startswith("__"):
                found.append((name, item))
    return found


def _globals_of(function: FunctionType) -> list[tuple[str, Any]]:
    """What a function's code may find in its module, apart from functions and classes."""
    names = function.__code__.co_names
    found = ((name, function.__globals__.get(name)) for name in names)
    return [
        (name, item)
        for name, item in found
        if not isinstance(item, (FunctionType, BuiltinFunctionType))
    ]
