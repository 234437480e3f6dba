"""What a run holds in the middle of an epoch beyond what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from luzpy.context import Context
from luzpy.data import tensors_in
from luzpy.device import to_device
from luzpy.loop import named_parts, unwrapped
from luzpy.plain import first_foreign, plain, unplain

# What every module has; the rest are a user's own attributes, such as a count of steps.
_OWN_ATTRIBUTES = frozenset(vars(nn.Module())) | {"ctx"}


def run_state(ctx: Context) -> dict[str, Any]:
    """The state of a run outside of every `state_dict`, as tensors and plain values."""
    model = unwrapped(ctx.model)
    loss = _loss_module(ctx)
    return {
        "attributes": {name: _attributes(part) for name, part in named_parts(model)},
        "modes": {name: part.training for name, part in named_parts(model)},
        "buffers": dict(_hidden_buffers(model)),
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": _gradients(ctx, model),
        "strangers": [p.detach() for p in _strangers(ctx)],
        "loss_module": None if loss is None else _if_plain(loss.state_dict()),
        "loss": _if_plain(ctx.loss),
        "opt_name": ctx.opt_name,
        "stepped": [n for n, o in ctx.optimizers.items() if getattr(o, "_opt_called", False)],
        "shared": {k: v for k, v in plain(ctx.buffers).items() if first_foreign(v) is None},
    }


def restore_run_state(ctx: Context, state: dict[str, Any]) -> None:
    """Put back what `run_state` gave."""
    model = unwrapped(ctx.model)
    for name, part in named_parts(model):
        for attribute, value in unplain(state["attributes"].get(name, {})).items():
            _put_back(part, attribute, value)
        part.training = state["modes"].get(name, part.training)
    for name, buffer in _hidden_buffers(model):
        if name in state["buffers"]:
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, state["buffers"][name].to(buffer.device))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(state["trainable"].get(name, parameter.requires_grad))
        gradient = state["gradients"].get(name)
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    for parameter, value in zip(_strangers(ctx), state["strangers"], strict=True):
        parameter.detach().copy_(value)
    loss = _loss_module(ctx)
    if loss is not None and state["loss_module"] is not None:
        loss.load_state_dict(unplain(state["loss_module"]))
    if state["loss"] is not None:
        ctx.loss = to_device(unplain(state["loss"]), ctx.device)
    for name in state["stepped"]:
        # torch's schedulers warn of an optimizer that has not stepped in this process.
        cast(Any, ctx.optimizers[name])._opt_called = True
    ctx.opt_name = state["opt_name"]
    ctx.opt = ctx.optimizers.get(ctx.opt_name or "")
    ctx.buffers.update(unplain(state["shared"]))


def _attributes(part: nn.Module) -> dict[str, Any]:
    """A module's own plain attributes."""
    own = {name: item for name, item in vars(part).items() if name not in _OWN_ATTRIBUTES}
    kept = {
        name: _if_plain(item)
        for name, item in own.items()
        if not any(tensor.requires_grad for tensor in tensors_in(item))
    }
    return {name: item for name, item in kept.items() if item is not None or own[name] is None}


def _put_back(part: nn.Module, name: str, value: Any) -> None:
    """Give an attribute its value, in place where it can be: others may hold the same object."""
    own = vars(part).get(name)
    if isinstance(own, list) and isinstance(value, list):
        own[:] = value
    elif isinstance(own, dict) and isinstance(value, dict):
        cast("dict[Any, Any]", own).clear()
        cast("dict[Any, Any]", own).update(cast("dict[Any, Any]", value))
    else:
        vars(part)[name] = value


def _if_plain(value: Any) -> Any:
    made = plain(value)
    return made if first_foreign(made) is None else None


def _hidden_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that are not in the model's `state_dict`."""
    known = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name not in known)


def _gradients(ctx: Context, model: nn.Module) -> dict[str, torch.Tensor]:
    """What a step is gathering over several batches."""
    if ctx.step_ends and getattr(model, "step", None) is None:
        return {}
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def _strangers(ctx: Context) -> list[torch.Tensor]:
    """Tensors that are optimized but are not the model's."""
    own = {id(parameter) for parameter in ctx.model.parameters()}
    groups = [group for opt in ctx.optimizers.values() for group in opt.param_groups]
    found: list[torch.Tensor] = [p for group in groups for p in group["params"]]
    return [p for p in dict.fromkeys(found) if id(p) not in own]


def _loss_module(ctx: Context) -> nn.Module | None:
    """The loss, if it is a module, perhaps within what a callback has made of it."""
    loss = cast(Any, ctx.loss_fn)
    while loss is not None and not isinstance(loss, nn.Module):
        loss = getattr(loss, "loss", None)
    return loss
