"""What a run holds in the middle of an epoch beyond what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from luzpy.core.context import Context, internals
from luzpy.core.modules import named_parts, optimized_parameters, unwrapped
from luzpy.ground.nested import tensors_in, to_device
from luzpy.ground.primitives import from_primitives, if_primitive
from luzpy.ground.types import Values

# What every module has; the rest are a user's attributes, such as a count of steps.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_LIST: type = list
_DICT: type = dict


def run_state(ctx: Context) -> Values:
    """The state of a run outside of every `state_dict`, as tensors and plain values."""
    model = unwrapped(ctx.model)
    loss = _loss_module(ctx)
    return {
        "attributes": {name: _attributes(part) for name, part in named_parts(model)},
        "modes": {name: part.training for name, part in named_parts(model)},
        "buffers": dict(_hidden_buffers(model)),
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": _gradients(ctx, model),
        "extra_params": [p.detach() for p in _extra_params(ctx)],
        "loss_module": None if loss is None else if_primitive(loss.state_dict()),
        "loss": if_primitive(ctx.loss),
        "stepped": [n for n, o in ctx.optimizers.items() if getattr(o, "_opt_called", False)],
        "shared": _kept(ctx.buffers),
    }


def restore_run_state(ctx: Context, state: Values) -> None:
    """Put back what `run_state` gave."""
    model = unwrapped(ctx.model)
    for name, part in named_parts(model):
        for attribute, value in from_primitives(state["attributes"].get(name, {})).items():
            _put_back(part, attribute, value)
        part.training = state["modes"].get(name, part.training)
    for name, buffer in _hidden_buffers(model):
        if name in state["buffers"]:
            owner, _, attribute = name.rpartition(".")
            value = state["buffers"][name].to(buffer.device)
            setattr(model.get_submodule(owner), attribute, value)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(state["trainable"].get(name, parameter.requires_grad))
        gradient = state["gradients"].get(name)
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    extra = state["strangers"] if "strangers" in state else state["extra_params"]  # luzpy 0.1.0
    for parameter, value in zip(_extra_params(ctx), extra, strict=True):
        parameter.detach().copy_(value)
    loss = _loss_module(ctx)
    if loss is not None and state["loss_module"] is not None:
        loss.load_state_dict(from_primitives(state["loss_module"]))
    if state["loss"] is not None:
        ctx.loss = to_device(from_primitives(state["loss"]), ctx.device)
    for name in state["stepped"]:
        # torch's schedulers warn of an optimizer that has not stepped in this process.
        optimizer: Any = ctx.optimizers[name]
        optimizer._opt_called = True
    ctx.buffers.update(from_primitives(state["shared"]))


def _attributes(part: nn.Module) -> Values:
    """The attributes that the user's class has added, where they can be kept."""
    added = {name: item for name, item in vars(part).items() if name not in _MODULE_ATTRIBUTES}
    return _kept(
        {
            name: item
            for name, item in added.items()
            if not any(tensor.requires_grad for tensor in tensors_in(item))
        }
    )


def _kept(values: Mapping[str, object]) -> Values:
    """Those that can stand in a file, as they stand there."""
    kept = {name: if_primitive(value) for name, value in values.items()}
    return {name: v for name, v in kept.items() if v is not None or values[name] is None}


def _put_back(part: nn.Module, name: str, value: Any) -> None:
    """Give an attribute its value, in place where it can be: others may hold the same object."""
    current: Any = vars(part).get(name)
    if type(current) is type(value) is _LIST:
        current[:] = value
    elif type(current) is type(value) is _DICT:
        current.clear()
        current.update(value)
    else:
        vars(part)[name] = value


def _hidden_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that are not in the model's `state_dict`."""
    known = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name not in known)


def _gradients(ctx: Context, model: nn.Module) -> dict[str, torch.Tensor]:
    """What a step is gathering over several batches."""
    if internals(ctx).ends_step and getattr(model, "step", None) is None:
        return {}
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def _extra_params(ctx: Context) -> list[torch.Tensor]:
    """Tensors that are optimized but are not the model's."""
    model = set(ctx.model.parameters())
    return [p for p in optimized_parameters(ctx.optimizers.values()) if p not in model]


def _loss_module(ctx: Context) -> nn.Module | None:
    """The loss, if it is a module, perhaps within what a callback has made of it."""
    loss: Any = ctx.loss_fn
    while loss is not None and not isinstance(loss, nn.Module):
        loss = getattr(loss, "loss", None)
    return loss
