"""A look at a pickle before it is read: torch's restricted reader runs no code, but has no bounds.

A tuple that holds one tuple twice, sixty levels deep, takes a few hundred bytes and forever to
hash; `bytearray(10**12)` takes all memory; a set of a tensor with a stride of 0 never ends.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import Any

import attrs

_REFUSED = {
    "builtins bytearray",
    "collections Counter",
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._utils _rebuild_device_tensor_from_cpu_tensor",
}
_TYPES = {"torch Tensor", "torch.storage UntypedStorage", "torch.storage TypedStorage"}
# What these make of their arguments grows with them: they are called as luzpy's files do, or not.
_ARGUMENTS = {"collections OrderedDict": ((),), "builtins set": (("EMPTY_LIST",), ("EMPTY_TUPLE",))}
_OLD_NAMES = {"__builtin__": "builtins"}  # those of the protocol that torch writes


@attrs.frozen
class _Item:
    """What would stand on the reader's stack: the operation that made it, and its parts."""

    made_by: str
    weight: int = 1  # how many values are in it, each as often as it is met
    parts: tuple[str, ...] = ()


def check_pickle(data: bytes) -> None:
    """Raise unless torch's restricted reader gets through `data` in bounded time and memory.

    Raises:
        UnpicklingError: If something in it is called that luzpy's files do not call.
        ValueError: If it is no pickle, or holds more values than its size allows.
    """
    stack: list[_Item] = []
    marks: list[int] = []
    memo: dict[int, _Item] = {}
    left = 10_000 + 100 * len(data)
    argument: Any  # of the kind that the operation takes
    for operation, argument, _ in pickletools.genops(data):
        name, before = operation.name, operation.stack_before
        if name == "MARK":
            marks.append(len(stack))
            continue
        if "PUT" in name:
            memo[argument] = stack[-1]
            continue
        if "GET" in name:
            made = memo[argument]
        else:
            start = len(stack) - len(before)
            if pickletools.markobject in before:
                start = marks.pop() - before.index(pickletools.markobject)
            if start < 0:
                raise ValueError("it takes more values than it contains")
            taken = stack[start:]
            del stack[start:]
            made = _made(name, argument, taken)
        left -= made.weight
        if left < 0:
            raise ValueError("it holds a nest of values that is larger than the file")
        if operation.stack_after:
            stack.append(made)


def _made(name: str, argument: object, taken: list[_Item]) -> _Item:
    """What an operation makes of the values that it takes from the stack."""
    if name == "GLOBAL":
        module, _, attribute = str(argument).partition(" ")
        return _Item(f"{_OLD_NAMES.get(module, module)} {attribute}")
    if name in ("REDUCE", "NEWOBJ"):
        called, arguments = taken
        allowed = _ARGUMENTS.get(called.made_by, (arguments.parts,))
        if called.made_by in _REFUSED | _TYPES or arguments.parts not in allowed:
            raise pickle.UnpicklingError(f"it calls {called.made_by.replace(' ', '.')}")
        taken = [arguments]
    # Handed to something else, they could be called by it.
    for item in taken:
        if item.made_by in _ARGUMENTS or item.made_by in _REFUSED:
            raise pickle.UnpicklingError(f"it hands on {item.made_by.replace(' ', '.')}")
    if "TUPLE" in name:
        parts = tuple(item.made_by for item in taken)
        return _Item(name, 1 + sum(item.weight for item in taken), parts)
    if name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"):  # into the one below them
        return taken[0]
    return _Item(name, sum(item.weight for item in taken) if name == "REDUCE" else 1)
