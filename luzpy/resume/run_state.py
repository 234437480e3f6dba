"""The state of a run in the middle of an epoch, beyond what a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from luzpy.core.context import Context, internals
from luzpy.core.loss import losses
from luzpy.core.modules import named_parts, optimized_parameters, unwrapped
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import to_device
from luzpy.ground.primitives import find_unsupported, from_primitives, if_primitive, to_primitives
from luzpy.ground.types import Values
from luzpy.resume.attributes import Kept, restore_attributes


def run_state(ctx: Context, attributes: Kept) -> Values:
    """The state of a run outside of every `state_dict`, as tensors and plain values.

    Args:
        ctx: The run.
        attributes: What `Attributes.state` gave.

    Raises:
        LuzError: If the loss has a state that cannot be kept.
    """
    model = unwrapped(ctx.model)
    loss = _loss_module(ctx)
    return {
        **attributes,
        "modes": {name: part.training for name, part in named_parts(model)},
        "buffers": dict(_hidden_buffers(model)),
        "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": _gradients(ctx, model),
        "extra_params": [p.detach() for p in _extra_params(ctx)],
        "loss_module": None if loss is None else _loss_state(loss),
        "loss_buffers": {} if loss is None else dict(_hidden_buffers(loss)),
        "loss": if_primitive(ctx.loss),
        "stepped": [n for n, o in ctx.optimizers.items() if getattr(o, "_opt_called", False)],
        "shared": _kept(ctx.buffers),
    }


def restore_run_state(ctx: Context, state: Values) -> None:
    """Restore what `run_state` returned."""
    model = unwrapped(ctx.model)
    restore_attributes(ctx, state)
    for name, part in named_parts(model):
        part.training = state["modes"].get(name, part.training)
    _restore_buffers(model, state["buffers"])
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
        _restore_buffers(loss, state.get("loss_buffers", {}))
    if state["loss"] is not None:
        ctx.loss = to_device(from_primitives(state["loss"]), ctx.device)
    for name in state["stepped"]:
        # torch's schedulers warn of an optimizer that has not stepped in this process.
        optimizer: Any = ctx.optimizers[name]
        optimizer._opt_called = True
    ctx.buffers.update(from_primitives(state["shared"]))


def _kept(values: Mapping[str, object]) -> Values:
    """The values that a file can hold, in the form in which it holds them."""
    kept = {name: if_primitive(value) for name, value in values.items()}
    return {name: v for name, v in kept.items() if v is not None or values[name] is None}


def _hidden_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that are not in the model's `state_dict`."""
    known = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name not in known)


def _restore_buffers(module: nn.Module, saved: Values) -> None:
    for name, buffer in _hidden_buffers(module):
        if name in saved:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, saved[name].to(buffer.device))


def _gradients(ctx: Context, model: nn.Module) -> dict[str, torch.Tensor]:
    """What a step has accumulated over several batches."""
    if internals(ctx).ends_step and getattr(model, "step", None) is None:
        return {}
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def _extra_params(ctx: Context) -> list[torch.Tensor]:
    """Tensors that are optimized but do not belong to the model."""
    model = set(ctx.model.parameters())
    return [p for p in optimized_parameters(ctx.optimizers.values()) if p not in model]


def _loss_module(ctx: Context) -> nn.Module | None:
    """The loss, if it is a module, possibly wrapped by a callback."""
    found = [loss for loss in losses(ctx) if isinstance(loss, nn.Module)]
    return None if not found or found[0] is unwrapped(ctx.model) else found[0]


def _loss_state(loss: nn.Module) -> Values:
    state: Values = to_primitives(loss.state_dict())
    unsupported = find_unsupported(state, "state_dict()")
    if unsupported is not None:
        raise LuzError(
            f"The loss must have a state of tensors and primitive values, got {unsupported}."
        )
    return state
