"""The tensors of a new object that nobody else holds."""

from __future__ import annotations

import gc
import sys
import weakref
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

_OPAQUE = (type, ModuleType, FunctionType, BuiltinFunctionType)  # not looked into: seen as others'
_TORCHS_OWN: Any = torch._C  # pyright: ignore[reportPrivateUsage]  (which counts references)


def unshared_tensors(holder: list[object]) -> list[torch.Tensor]:
    """The tensors within a new object that nothing outside of it can reach; in doubt none.

    As Python's garbage collector finds out: an object that has more references than those that lie
    within the new object is held by others too, and so is all that it refers to.

    Args:
        holder: A list that holds the new object, to which there is no other reference.
    """
    counts = hasattr(torch.Tensor, "_use_count") and hasattr(_TORCHS_OWN, "_storage_Use_Count")
    if sys.implementation.name != "cpython" or not counts:  # references are not counted
        return []
    holder.append(object())
    within: dict[int, int] = {}
    found = _reachable(gc.get_referents(holder), within)
    # Beside the references within there is that of `found`, and what looking at it takes.
    own = sys.getrefcount(found[id(holder[-1])])
    held = [
        found[key]
        for key, count in within.items()
        if key in found and sys.getrefcount(found[key]) - count + 1 != own
    ]
    # Of the rest only the tensors live on: what refers weakly to a module sees it end. Torch refers
    # so to every new module, once it has compiled one.
    held += [
        item
        for item in found.values()
        if isinstance(item, torch.Tensor)
        and any(id(reference) not in found for reference in weakref.getweakrefs(item))
    ]
    shared = _reachable(held, {})
    tensors = (item for key, item in found.items() if key not in shared)
    return [item for item in tensors if isinstance(item, torch.Tensor) and _has_own_memory(item)]


def _reachable(pending: list[Any], within: dict[int, int]) -> dict[int, Any]:
    """All that these refer to, however deep; `within` gets how often each was referred to."""
    found: dict[int, Any] = {}
    while pending:
        item = pending.pop()
        within[id(item)] = within.get(id(item), 0) + 1
        if id(item) not in found and not isinstance(item, _OPAQUE):
            found[id(item)] = item
            pending += gc.get_referents(item)
    return found


def _has_own_memory(tensor: torch.Tensor) -> bool:
    """Whether no graph, array, file, process or other tensor knows of it."""
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return False
    storage: Any = tensor.untyped_storage()
    counted: Any = tensor
    return (
        tensor.is_leaf
        and tensor.grad is None
        and counted._use_count() == 1
        and _TORCHS_OWN._storage_Use_Count(storage._cdata) == 2  # the tensor and `storage`
        and storage.resizable()
        and (tensor.device.type != "cpu" or not tensor.is_shared())
    )
