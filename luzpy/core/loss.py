"""The loss of a run: whose it is, and what it must return."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from luzpy.core.context import Context, Loss, internals, where
from luzpy.core.loss_hints import MISSING, hint, is_torchs_own
from luzpy.core.loss_shapes import check_shapes
from luzpy.core.modules import unwrapped
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.ground.errors import add_note
from luzpy.ground.types import Batch

_TENSOR: Any = torch.Tensor  # untyped: a user's loss may return anything


def build_loss(spec: Spec[Result], model: nn.Module, device: torch.device) -> Loss:
    """The loss function of a run; a module's buffers are on the run's device.

    Raises:
        ValueError: If there is no loss.
    """
    if isinstance(spec.loss, nn.Module):
        return copy.deepcopy(spec.loss).to(device)
    loss = spec.loss or getattr(unwrapped(model), "loss", None)
    if loss is not None:
        return loss
    if hasattr(unwrapped(model), "step"):
        return _no_loss
    raise ValueError("`loss` must be given to `setup`, or be a method of the module, got None.")


def _no_loss(input: Batch, target: Batch) -> torch.Tensor:
    raise ValueError("`loss` must be given to `setup` for a `step` that calls ctx.loss_fn.")


def begin_losses(ctx: Context) -> None:
    """Have the first batch of the run's training, and of its validation, looked at."""
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
        TypeError: If it is no tensor.
        ValueError: If it is no scalar, or cannot be trained, or there is no target for it.
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
        raise TypeError(f"`loss` must return a scalar tensor, got {type(loss).__name__}.")
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
