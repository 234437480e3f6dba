"""Attributes of modules, losses and optimizers, which are in no `state_dict`.

Tensors, plain values and containers of them are kept. Anything else must be the same at each save
as when the run began: a checksum of its pickle tells.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, final

import attrs
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from luzpy.core.context import Context
from luzpy.core.modules import named_parts, optimized_parameters, unwrapped
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.primitives import (
    find_unsupported,
    from_primitives,
    is_plain_collection,
    to_primitives,
)
from luzpy.ground.random_state import GENERATORS
from luzpy.ground.reachable import slots_of
from luzpy.ground.types import Values
from luzpy.resume.fingerprint import checksum

_OPTIMIZER: Any = torch.optim.Optimizer
# What all of them have; `step` is what torch's schedulers put in the place of the method.
_OF_MODULES = frozenset(vars(nn.Module()))
_OF_OPTIMIZERS = frozenset({"step", *vars(torch.optim.SGD([torch.zeros(1)], 1.0))})
_MAPPINGS: tuple[Any, ...] = (OrderedDict, defaultdict, Counter)
_NAMED = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_ELSEWHERE: tuple[Any, ...] = (
    *GENERATORS,
    Dataset,
    DataLoader,
    Context,
)  # not the attribute's concern
_OF_ONE_BATCH = "has a graph"
_UNKEPT = object()
_DICT: type[Any] = dict

Kept = dict[str, dict[str, Values]]
"""Kind of owner → its name → attribute → value."""


@attrs.frozen
class _Owner:
    """Something with attributes.

    Attributes:
        kind: Under which name a state has it.
        name: What it is called there.
        item: The object.
        title: What messages call it.
        keeps: Where it can keep what is no tensor and no plain value.
        is_checked: Whether its other attributes must not change: it has no such place of its own.
    """

    kind: str
    name: str
    item: Any
    title: str
    keeps: str
    is_checked: bool

    def attributes(self) -> Values:
        """Those that its class has added."""
        inherited = _OF_MODULES if isinstance(self.item, nn.Module) else frozenset[str]()
        if isinstance(self.item, _OPTIMIZER):
            inherited = _OF_OPTIMIZERS
        found = {**dict(slots_of(self.item)), **getattr(self.item, "__dict__", {})}
        return {name: item for name, item in found.items() if name not in inherited}


@final
class Attributes:
    """What the run's modules, losses and optimizers have as attributes.

    Args:
        ctx: The run, as it begins.
    """

    def __init__(self, ctx: Context) -> None:
        self._of_one_batch: set[tuple[str, str, str]] = set()
        self._classes: dict[tuple[str, str, str], type] = {}
        self._began: dict[tuple[str, str, str], str | None] = {}
        digests = _Digests(ctx)
        for owner in _owners(ctx):
            for name, item in owner.attributes().items():
                at = (owner.kind, owner.name, name)
                self._classes[at] = type(item)
                if owner.is_checked and self._primitive(at, item, digests) is _UNKEPT:
                    self._began[at] = digests.of(item)

    def state(self, ctx: Context, *, check: bool = True) -> Kept:
        """Those that can be kept.

        Args:
            ctx: The run.
            check: Whether to see that the others have not changed.

        Raises:
            LuzError: If one has changed that cannot be kept.
        """
        digests, found = _Digests(ctx), Kept()
        for owner in _owners(ctx):
            kept = found.setdefault(owner.kind, {}).setdefault(owner.name, {})
            for name, item in owner.attributes().items():
                at = (owner.kind, owner.name, name)
                made = self._primitive(at, item, digests)
                if made is not _UNKEPT:
                    kept[name] = made
                elif check and owner.is_checked and self._has_changed(at, digests.of(item)):
                    raise LuzError(
                        f"The attribute {name!r} of {owner.title} must not change in the run, to "
                        f"be resumed, got another {type(item).__name__}: a state file holds "
                        f"tensors, plain values and containers of them. Keep it in {owner.keeps}."
                    )
        return found

    def _primitive(self, at: tuple[str, str, str], item: Any, digests: _Digests) -> Any:
        if isinstance(item, _MAPPINGS) and type(item) is self._classes.get(at):
            item = dict(item)  # it is put back into that which the run begins with
        if not digests.comes_back(item):
            return _UNKEPT
        made = to_primitives(item)
        return made if find_unsupported(made) is None else _UNKEPT

    def _has_changed(self, at: tuple[str, str, str], digest: str | None) -> bool:
        """Whether it is another one than at the begin, and not of one batch alone."""
        if digest == _OF_ONE_BATCH:
            self._of_one_batch.add(at)
        is_told = digest is not None and at not in self._of_one_batch
        return is_told and digest != self._began.get(at, "")


def restore_attributes(ctx: Context, state: Mapping[str, Mapping[str, Values]]) -> None:
    """Put back what `Attributes.state` gave."""
    for owner in _owners(ctx):
        values = state.get(owner.kind, {}).get(owner.name, {})
        for name, value in from_primitives(values).items():
            _put_back(owner, name, value)


def _put_back(owner: _Owner, name: str, value: Any) -> None:
    """Give an attribute its value, in place where it can be: others may hold the same object."""
    current: Any = owner.attributes().get(name)
    kind = value.__class__
    if kind is _DICT and type(current) in (_DICT, *_MAPPINGS):
        current.clear()
        current.update(value)
    elif kind is type(current) is list:
        current[:] = value
    elif kind is type(current) is deque and value.maxlen == current.maxlen:
        current.clear()
        current.extend(value)
    elif name in dict(slots_of(owner.item)):
        object.__setattr__(owner.item, name, value)
    else:
        vars(owner.item)[name] = value


def _owners(ctx: Context) -> Iterator[_Owner]:
    model = unwrapped(ctx.model)
    seen: set[int] = set()
    for name, part in named_parts(model):
        seen.add(id(part))
        yield _module("attributes", name, part, f"the module {name or type(part).__name__!r}")
    for index, loss in enumerate(losses(ctx)):
        title = f"the loss {getattr(loss, '__name__', type(loss).__name__)!r}"
        if not isinstance(loss, nn.Module):
            keeps = "a loss that is a module, in a buffer or in its `get_extra_state`"
            yield _Owner("loss_attributes", str(index), loss, title, keeps, True)
            continue
        for name, part in named_parts(loss):
            if id(part) not in seen:
                yield _module("loss_attributes", f"{index}.{name}", part, title)
    for name, optimizer in ctx.optimizers.items():
        if getattr(type(optimizer), "state_dict", None) is not _OPTIMIZER.state_dict:
            continue  # it says itself what is kept
        keeps = "its `state`, or in a `state_dict` of its own"
        title = f"the optimizer {name!r}"
        yield _Owner("optimizer_attributes", name, optimizer, title, keeps, True)


def _module(kind: str, name: str, part: nn.Module, title: str) -> _Owner:
    is_plain = type(part).get_extra_state is nn.Module.get_extra_state
    return _Owner(kind, name, part, title, "a buffer, or in its `get_extra_state`", is_plain)


def losses(ctx: Context) -> Iterator[Any]:
    """The loss, and what it is made of: what a callback has made of it, and the user's own."""
    loss: Any = ctx.loss_fn
    while loss is not None:
        loss = loss.__self__ if isinstance(loss, MethodType) else loss
        yield loss
        loss = None if isinstance(loss, nn.Module) else getattr(loss, "loss", None)


@final
class _Digests:
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
        """Whether a file could give it back, of the same classes: it refers to nothing else."""
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
        return _OF_ONE_BATCH if pickler.has_graph else into.sha256.hexdigest()


@final
class _Hashing:
    """A file of which only the checksum is kept."""

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
