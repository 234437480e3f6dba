"""The loss of a run: whose it is, and what it must return."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from luzpy.core.context import Context, Loss, internals, where
from luzpy.core.loss_hints import MISSING, hint, is_torchs_own
from luzpy.core.loss_shapes import check_shapes
from luzpy.core.modules import optimized_parameters, unwrapped
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.ground.errors import add_note
from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Batch, Values

_TENSOR: Any = torch.Tensor  # untyped: a user's loss may return anything


def build_loss(spec: Spec[Result], model: nn.Module, device: torch.device) -> Loss:
    """The loss function of a run; a module's parameters and buffers are on the run's device."""
    if isinstance(spec.loss, nn.Module):
        return copy.deepcopy(spec.loss).to(device)
    loss = spec.loss or getattr(unwrapped(model), "loss", None)
    if loss is not None:
        return loss
    return _no_loss if hasattr(unwrapped(model), "step") else _loss_of_output


def loss_internals(spec: Spec[Result], model: nn.Module) -> Values:
    """What a run keeps about its loss besides the function, as arguments of `Internals`."""
    own = [hasattr(unwrapped(model), name) for name in ("loss", "step")]
    return {
        "loss_is_outputs": spec.loss is None and not any(own),
        "is_loss_summed": not own[1] and _reduction(spec.loss) == "sum",
    }


def _reduction(loss: object) -> object:
    if isinstance(loss, functools.partial):
        return cast("functools.partial[Any]", loss).keywords.get("reduction")
    return getattr(loss, "reduction", None)


def loss_parameters(spec: Spec[Result], loss: object) -> list[nn.Parameter]:
    """The trainable parameters of a loss that is not part of the module."""
    if not isinstance(spec.loss, nn.Module) or not isinstance(loss, nn.Module):
        return []
    return [parameter for parameter in loss.parameters() if parameter.requires_grad]


def trained_loss(ctx: Context) -> nn.Module | None:
    """The loss of a run, if it is a module whose parameters are trained."""
    loss: Any = ctx.loss_fn
    while loss is not None and not isinstance(loss, nn.Module):
        loss = getattr(loss, "loss", None)  # a callback may have wrapped it
    if loss is None:
        return None
    trained = {id(p) for p in optimized_parameters(ctx.optimizers.values())}
    trained -= {id(p) for p in ctx.model.parameters()}
    return loss if any(id(p) in trained for p in loss.parameters()) else None


def _loss_of_output(output: Batch, target: Batch) -> torch.Tensor:
    loss = _part(output, "loss")
    if loss is None:
        raise ValueError(
            "`loss` must be given to `setup`, or be a method of the module, or `.loss` of what its "
            f"`forward` returns, got None, and from `forward` {type(output).__name__}."
        )
    return loss


def scores_of(output: Batch) -> Batch:
    """What metrics and `predict` get from an output that has a loss: its `.logits`."""
    logits = _part(output, "logits")
    return output if logits is None else logits


def _part(output: Batch, name: str) -> Batch:
    found = getattr(output, name, None)
    return output.get(name) if found is None and is_mapping(output) else found


def _no_loss(input: Batch, target: Batch) -> torch.Tensor:
    raise ValueError("`loss` must be given to `setup` for a `step` that calls ctx.loss_fn.")


def begin_losses(ctx: Context) -> None:
    """Mark the first batch of the run's training, and of its validation, to be checked."""
    run = internals(ctx)
    run.loss_of = compute_loss if ctx.training in run.checked_losses else _first_loss


def _first_loss(ctx: Context) -> torch.Tensor:
    run = internals(ctx)
    if run.opt_name == run.opt_names[-1]:
        run.checked_losses.add(ctx.training)
        run.loss_of = compute_loss  # what is checked once costs nothing later
    assert ctx.loss_fn is not None  # `fit` and `evaluate` check it before they begin
    check_shapes(ctx.loss_fn, ctx.pred, ctx.target)
    return compute_loss(ctx)


def compute_loss(ctx: Context) -> torch.Tensor:
    """The loss of `ctx.pred`.

    Raises:
        TypeError: If it is no tensor, nor a dict of them.
        ValueError: If it is not a scalar, or cannot be trained, or there is no target for it.
    """
    loss_fn = ctx.loss_fn
    assert loss_fn is not None  # `fit` and `evaluate` check it before they begin
    try:
        loss = loss_fn(ctx.pred, ctx.target)
    except Exception as err:
        if ctx.target is None and is_torchs_own(loss_fn):
            name = "data" if ctx.training or ctx.train_data is None else "valid_data"
            raise ValueError(
                f"`{name}` must give a target for the loss, got an input alone: {MISSING}."
            ) from err
        add_note(err, f"in the loss, {where(ctx)}.{hint(err, ctx.pred, ctx.target)}")
        raise
    if not isinstance(loss, _TENSOR):
        loss = _summed(ctx, loss)
    if loss.numel() != 1:
        raise ValueError(
            f"`loss` must return a scalar tensor, got one of shape {tuple(loss.shape)}."
        )
    if ctx.training and not loss.requires_grad:
        raise ValueError(
            "`loss` must return a tensor that depends on the model's parameters, got one without "
            "a graph: was it detached, or is every parameter frozen?"
        )
    return loss


def _summed(ctx: Context, parts: Batch) -> torch.Tensor:
    """The sum of the parts of a loss; the parts are kept for reporting."""
    if not is_mapping(parts) or not parts:
        raise TypeError(f"`loss` must return a scalar tensor, got {type(parts).__name__}.")
    for name, part in parts.items():
        if not isinstance(part, _TENSOR) or part.numel() != 1:
            raise TypeError(f"`loss` must return a dict of scalar tensors, got {name!r}: {part!r}.")
    internals(ctx).loss_parts[ctx.opt_name] = {
        str(name): part.detach().reshape(()) for name, part in parts.items()
    }
    return functools.reduce(torch.add, parts.values())


def losses(ctx: Context) -> Iterator[Any]:
    """The loss, and what it is made of: what a callback has made of it, and the user's own."""
    loss: Any = ctx.loss_fn
    while loss is not None:
        loss = loss.__self__ if isinstance(loss, MethodType) else loss
        yield loss
        loss = None if isinstance(loss, nn.Module) else getattr(loss, "loss", None)
