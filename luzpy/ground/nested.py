"""Batches are nests of tuples, lists and mappings: the one walk over them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch.nn.utils.rnn import PackedSequence

from luzpy.ground.types import Batch


def is_mapping(obj: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether `obj` is a mapping."""
    return isinstance(obj, Mapping)


def is_sequence(obj: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether `obj` is a list or a tuple, named ones included."""
    return isinstance(obj, (list, tuple))


def tensors_in(obj: object) -> Iterator[torch.Tensor]:
    """Every tensor in `obj`, in order."""
    if isinstance(obj, torch.Tensor):
        yield obj
    elif is_mapping(obj):
        for item in obj.values():
            yield from tensors_in(item)
    elif is_sequence(obj):
        for item in obj:
            yield from tensors_in(item)


def map_nested(
    function: Callable[[torch.Tensor], object],
    obj: Batch,
    others: Callable[[Batch], object] | None = None,
) -> Batch:
    """`obj` with `function` applied to every tensor; containers keep their types.

    What is neither a tensor nor a container passes through, or is given to `others`.
    """
    if isinstance(obj, torch.Tensor):
        return function(obj)
    if isinstance(obj, PackedSequence):  # its batch sizes stay on the CPU
        return obj._replace(
            data=function(obj.data),
            sorted_indices=map_nested(function, obj.sorted_indices),
            unsorted_indices=map_nested(function, obj.unsorted_indices),
        )
    if is_sequence(obj):
        items = [map_nested(function, item, others) for item in obj]
        kind: Callable[..., Batch] = type(obj)
        return kind(*items) if hasattr(obj, "_fields") else kind(items)
    if is_mapping(obj):
        return mapping_like(
            obj, {key: map_nested(function, item, others) for key, item in obj.items()}
        )
    return obj if others is None else others(obj)


def mapping_like(mapping: Mapping[object, object], items: dict[object, object]) -> Batch:
    """`items` in a mapping of the same type, if that can be copied and written to."""
    if type(mapping) is dict:
        return items
    before = dict(mapping)
    try:
        copied: Batch = copy.copy(mapping)
        for key, item in items.items():
            copied[key] = item
    except TypeError:
        return items
    if all(mapping[key] is item for key, item in before.items()):
        return copied
    for key, item in before.items():  # the copy shares its items with the mapping: put them back
        copied[key] = item
    return items


def to_device(obj: Batch, device: torch.device, *, pin: bool = False) -> Batch:
    """`obj` with every tensor in it on `device`, and every object that has a method `to`.

    Args:
        obj: A tensor, or a nest of them; anything else in it passes through.
        device: Where to.
        pin: Whether to copy from pinned memory, for which a GPU does not wait.
    """

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device == device:
            return tensor
        if pin and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        # To the CPU a copy must have ended before anybody reads it.
        return tensor.to(device, non_blocking=device.type != "cpu")

    def moved_object(item: Batch) -> Batch:  # such as a batch of graphs
        to = None if isinstance(item, type) else getattr(item, "to", None)
        return to(device) if callable(to) else item

    return map_nested(moved, obj, moved_object)


def to_cpu_copy(obj: Batch) -> Batch:
    """A copy on the CPU that later training does not change."""
    return map_nested(lambda tensor: tensor.detach().to("cpu", copy=True), obj)


def detached(obj: Batch) -> Batch:
    """`obj` with every tensor cut off from its graph."""
    if isinstance(obj, torch.Tensor):
        return obj.detach() if obj.requires_grad else obj
    return map_nested(torch.Tensor.detach, obj)
