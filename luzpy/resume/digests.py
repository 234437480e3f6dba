"""Checksums of the user's objects, which show whether they have changed."""

from __future__ import annotations

import hashlib
import pickle
from collections import deque
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, final

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from luzpy.core.context import Context
from luzpy.core.loss import losses
from luzpy.core.modules import named_parts, optimized_parameters, unwrapped
from luzpy.ground.nested import is_mapping
from luzpy.ground.primitives import is_plain_collection
from luzpy.ground.random_state import GENERATORS
from luzpy.resume.fingerprint import checksum

_NAMED = (type, FunctionType, BuiltinFunctionType, ModuleType)
_ELSEWHERE: tuple[Any, ...] = (*GENERATORS, Dataset, DataLoader, Context)  # not their concern
_DICT: type[Any] = dict
OF_ONE_BATCH = "has a graph"


@final
class Digests:
    """Checksums of objects, each made once. What is kept elsewhere counts by its name."""

    def __init__(self, ctx: Context) -> None:
        self._made: dict[int, str | None] = {}
        self._known: dict[int, str] = {}
        modules = [unwrapped(ctx.model)]
        modules += [loss for loss in losses(ctx) if isinstance(loss, nn.Module)]
        for index, module in enumerate(modules):
            for named in (named_parts(module), module.named_parameters(), module.named_buffers()):
                for name, item in named:
                    self._known.setdefault(id(item), f"{index} {name}")
        for index, item in enumerate(optimized_parameters(ctx.optimizers.values())):
            self._known.setdefault(id(item), f"parameter {index}")
        for name, optimizer in ctx.optimizers.items():
            self._known[id(optimizer)] = f"optimizer {name}"
        for callback in ctx.callbacks:
            self._known[id(callback)] = f"callback {type(callback).__name__}"

    def comes_back(self, item: Any) -> bool:
        """Whether a file could restore it: it refers only to objects of known classes."""
        if isinstance(item, torch.Tensor):
            return not item.requires_grad and id(item) not in self._known
        if is_mapping(item):
            return type(item) is _DICT and all(map(self.comes_back, item.values()))
        if is_plain_collection(item) or type(item) in (frozenset, deque):
            return all(map(self.comes_back, item))
        return True

    def of(self, item: object) -> str | None:
        """The checksum of an object; None if it cannot be pickled."""
        if id(item) not in self._made:
            self._made[id(item)] = self._make(item)
        return self._made[id(item)]

    def _make(self, item: object) -> str | None:
        into = _Hashing()
        pickler = _Pickler(into, self._known)
        try:
            pickler.dump(item)
        except Exception:  # whatever an object of the user's own raises
            return None
        return OF_ONE_BATCH if pickler.has_graph else into.sha256.hexdigest()


@final
class _Hashing:
    """A file that keeps only the checksum of what is written."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> None:
        self.sha256.update(data)


@final
class _Pickler(pickle.Pickler):
    """Pickles an object without what is kept elsewhere."""

    def __init__(self, into: _Hashing, known: Mapping[int, str]) -> None:
        self.has_graph = False
        self._known = known
        super().__init__(into, 5, buffer_callback=lambda buffer: into.write(buffer.raw()))

    def persistent_id(self, obj: Any) -> str | None:
        if id(obj) in self._known:
            return self._known[id(obj)]
        if isinstance(obj, _NAMED):
            return f"{getattr(obj, '__module__', '')}.{getattr(obj, '__qualname__', obj.__name__)}"
        if isinstance(obj, torch.Tensor):
            self.has_graph |= obj.grad_fn is not None
            return "" if self.has_graph else checksum([obj])
        return type(obj).__name__ if isinstance(obj, _ELSEWHERE) else None
