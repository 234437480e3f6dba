"""What a run does with an `nn.Module`: bind it, put it in eval mode, list its parts."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import nn

from luzpy.core.context import Context, internals, where
from luzpy.core.dtype_hints import dtype_hint
from luzpy.ground.errors import LuzError, add_note

_DDP: Any = nn.parallel.DistributedDataParallel  # whose attributes have no types
_LOCK = threading.Lock()
_MISSING = object()


@final
class _BoundContext:
    """The attribute `ctx` of a class of modules, while one of them is in a run.

    It lies in the class and not in the module, so that copies and pickles of the module know
    nothing of it. A run within a run, such as `predict` in a callback, is bound in between.
    """

    def __init__(self, replaced: object, found: object) -> None:
        self.replaced = replaced  # in the class itself
        self.found = found  # there, or in one that it derives from
        self.runs: dict[int, list[Context]] = {}

    def __get__(self, module: nn.Module | None, owner: type) -> object:
        runs = self.runs.get(id(module))
        if runs:
            return runs[-1]
        if module is not None and "ctx" in module.__dict__:
            return module.__dict__["ctx"]
        if self.found is not _MISSING:
            get = getattr(self.found, "__get__", None)
            return self.found if get is None else get(module, owner)
        raise AttributeError(f"{owner.__name__!r} object has no attribute 'ctx'")

    def __set__(self, module: nn.Module, value: object) -> None:
        module.__dict__["ctx"] = value

    def __delete__(self, module: nn.Module) -> None:
        del module.__dict__["ctx"]


def _bind(module: nn.Module, ctx: Context) -> type[nn.Module]:
    """Returns the class that was told: a run may give the module another one."""
    with _LOCK:
        kind = type(module)
        bound = vars(kind).get("ctx", _MISSING)
        if not isinstance(bound, _BoundContext):
            inherited = (vars(base)["ctx"] for base in kind.__mro__ if "ctx" in vars(base))
            bound = _BoundContext(bound, next(inherited, _MISSING))
            type.__setattr__(kind, "ctx", bound)
        bound.runs.setdefault(id(module), []).append(ctx)
        return kind


def _unbind(kind: type[nn.Module], module: nn.Module, ctx: Context) -> None:
    with _LOCK:
        bound: _BoundContext = vars(kind)["ctx"]
        runs = bound.runs[id(module)]
        runs.remove(ctx)
        if not runs:
            del bound.runs[id(module)]
        if bound.runs:
            return
        if bound.replaced is _MISSING:
            type.__delattr__(kind, "ctx")
        else:
            type.__setattr__(kind, "ctx", bound.replaced)


def has_own_context(module: nn.Module | type[nn.Module]) -> bool:
    """Whether a module, or a class of modules, has an attribute `ctx` of the user's."""
    kind = module if isinstance(module, type) else type(module)
    of_classes = [vars(base).get("ctx", _MISSING) for base in kind.__mro__]
    own = [c.replaced if isinstance(c, _BoundContext) else c for c in of_classes]
    held: dict[str, Any] = {} if isinstance(module, type) else vars(module)
    inner = ("_parameters", "_buffers", "_modules")
    names = {*held, *(name for part in inner for name in held.get(part, ()))}
    return "ctx" in names or any(found is not _MISSING for found in own)


@contextmanager
def bound(ctx: Context) -> Generator[None]:
    """Let the user's module read `self.ctx`, during the run and only then."""
    module = unwrapped(ctx.model)
    kind = _bind(module, ctx)
    try:
        yield
    except Exception as err:
        if not isinstance(err, LuzError):
            said = dtype_hint(err, module, ctx.input)
            add_note(err, f"in the module {type(module).__name__}, {where(ctx)}.{said}")
        raise
    finally:
        _unbind(kind, module, ctx)
        with ExitStack() as stack:  # all of them are called, also if one fails
            for function in internals(ctx).at_exit:  # the last one first
                stack.callback(function)


@contextmanager
def in_eval_mode(model: nn.Module) -> Generator[None]:
    """Put every part of `model` in eval mode, and back into the mode it had."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module, also when `torch.compile` or DistributedDataParallel wraps it."""
    while True:
        inner: nn.Module = unwrapped_from_ddp(model)
        inner = getattr(inner, "_orig_mod", inner)
        if inner is model:
            return model
        model = inner


def unwrapped_from_ddp(model: Any) -> nn.Module:
    """What DistributedDataParallel wraps; any other module as it is."""
    return model.module if isinstance(model, _DDP) else model


def named_parts(model: Any) -> list[tuple[str, nn.Module]]:
    """The module and every module within it, by name."""
    return list(model.named_modules())  # which torch gives no types


def optimized_parameters(optimizers: Iterable[torch.optim.Optimizer]) -> list[nn.Parameter]:
    """Every parameter of the optimizers, once."""
    groups: Iterable[dict[str, list[nn.Parameter]]]
    groups = (group for opt in optimizers for group in opt.param_groups)
    return list(dict.fromkeys(parameter for group in groups for parameter in group["params"]))


def learning_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate of each parameter group; none where the optimizer has no such thing."""
    return [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]


def trained_parameters(ctx: Context) -> list[nn.Parameter]:
    """Everything that accumulates gradients: the model's parameters, and any others."""
    optimized = optimized_parameters(ctx.optimizers.values())
    return list(dict.fromkeys([*ctx.model.parameters(), *optimized]))
