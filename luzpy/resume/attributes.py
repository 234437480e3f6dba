"""Attributes of modules, losses and optimizers, which are in no `state_dict`.

Tensors, plain values and containers of them are kept. Anything else must be the same at each save
as when the run began: a checksum of its pickle tells.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any, final

import attrs
import torch
from torch import nn

from luzpy.core.context import Context
from luzpy.core.loss import losses
from luzpy.core.modules import named_parts, unwrapped
from luzpy.ground.errors import LuzError
from luzpy.ground.primitives import find_unsupported, from_primitives, to_primitives
from luzpy.ground.reachable import slots_of
from luzpy.ground.types import Values
from luzpy.resume.digests import OF_ONE_BATCH, Digests

_OPTIMIZER: Any = torch.optim.Optimizer
_OF_MODULES = frozenset(vars(nn.Module()))
_MAPPINGS: tuple[Any, ...] = (OrderedDict, defaultdict, Counter)
_UNKEPT = object()
_DICT: type[Any] = dict

Kept = dict[str, dict[str, Values]]
"""Kind of owner → its name → attribute → value."""


@functools.cache
def _of_optimizers() -> frozenset[str]:
    """What all optimizers have; `step` is what torch's schedulers put in the method's place.

    Not when luzpy is imported: with the first optimizer of a process torch imports for seconds.
    """
    return frozenset({"step", *vars(torch.optim.SGD([torch.zeros(1)], 1.0))})


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
        """The attributes that its class adds."""
        inherited = _OF_MODULES if isinstance(self.item, nn.Module) else frozenset[str]()
        if isinstance(self.item, _OPTIMIZER):
            inherited = _of_optimizers()
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
        digests = Digests(ctx)
        for owner in _owners(ctx):
            for name, item in owner.attributes().items():
                at = (owner.kind, owner.name, name)
                self._classes[at] = type(item)
                if owner.is_checked and self._primitive(at, item, digests) is _UNKEPT:
                    self._began[at] = digests.of(item)

    def state(self, ctx: Context, *, check: bool = True) -> Kept:
        """The attributes that can be kept.

        Args:
            ctx: The run.
            check: Whether to see that the others have not changed.

        Raises:
            LuzError: If one has changed that cannot be kept.
        """
        digests, found = Digests(ctx), Kept()
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

    def _primitive(self, at: tuple[str, str, str], item: Any, digests: Digests) -> Any:
        if isinstance(item, _MAPPINGS) and type(item) is self._classes.get(at):
            item = dict(item)  # it is put back into that which the run begins with
        if not digests.comes_back(item):
            return _UNKEPT
        made = to_primitives(item)
        return made if find_unsupported(made) is None else _UNKEPT

    def _has_changed(self, at: tuple[str, str, str], digest: str | None) -> bool:
        """Whether it has changed since the run began, and is not a value of one batch only."""
        if digest == OF_ONE_BATCH:
            self._of_one_batch.add(at)
        is_told = digest is not None and at not in self._of_one_batch
        return is_told and digest != self._began.get(at, "")


def restore_attributes(ctx: Context, state: Mapping[str, Mapping[str, Values]]) -> None:
    """Restore what `Attributes.state` returned."""
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
            continue  # its own `state_dict` says what is kept
        keeps = "its `state`, or in a `state_dict` of its own"
        title = f"the optimizer {name!r}"
        yield _Owner("optimizer_attributes", name, optimizer, title, keeps, True)


def _module(kind: str, name: str, part: nn.Module, title: str) -> _Owner:
    is_plain = type(part).get_extra_state is nn.Module.get_extra_state
    return _Owner(kind, name, part, title, "a buffer, or in its `get_extra_state`", is_plain)
