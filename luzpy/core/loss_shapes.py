"""A prediction and a target that a loss would broadcast: (N, 1) against (N,)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from luzpy.ground.random_state import preserved_random_state
from luzpy.ground.types import Batch
from luzpy.nn.mixup import is_mixed

_Loss = Callable[[Any, Any], Any]

_ELEMENTWISE: Any = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss, nn.SoftMarginLoss, nn.HingeEmbeddingLoss, nn.KLDivLoss,
    functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss,
    functional.binary_cross_entropy, functional.binary_cross_entropy_with_logits,
    functional.poisson_nll_loss, functional.soft_margin_loss, functional.hinge_embedding_loss,
    functional.kl_div,
)  # fmt: skip
"""torch's losses that compare element by element."""


def check_shapes(loss_fn: _Loss, pred: Batch, target: Batch) -> None:
    """Raise if a loss would compare each row's prediction with every row's target.

    torch makes N x N elements of (N, 1) and (N,): a model with such a loss does not learn.

    Raises:
        ValueError: If it would; the message gives both shapes and what to write.
    """
    if not is_crossed(loss_fn, pred, target):
        return
    shapes = [tuple(part.shape) for part in (pred, _plain(target))]
    if len(shapes[0]) == 2:
        advice = 'write the target as a column, `y.unsqueeze(1)` or of a frame `df[["price"]]`'
    else:
        advice = (
            "let the module's `forward` return `output.unsqueeze(1)`, or write the target without "
            'the column, `y.squeeze(1)` or of a frame `df["price"]`'
        )
    raise ValueError(
        f"`loss` must get a prediction and a target of one shape, got {shapes[0]} and {shapes[1]}, "
        f"and would compare each row with all {shapes[0][0]}: {advice}."
    )


def is_crossed(loss_fn: _Loss, pred: Batch, target: Batch) -> bool:
    """Whether the loss takes (N, 1) against (N,), or the reverse, as N x N elements."""
    target = _plain(target)
    if not isinstance(pred, torch.Tensor) or not isinstance(target, torch.Tensor):
        return False
    column, vector = (pred, target) if pred.ndim == 2 else (target, pred)
    if vector.ndim != 1 or len(vector) < 2 or column.shape != (len(vector), 1):
        return False
    if loss_fn in _ELEMENTWISE or type(loss_fn) in _ELEMENTWISE:
        return True
    return _depends_on_the_shape(loss_fn, pred, target)


def _plain(target: Batch) -> Any:
    """The target; of mixed ones the first."""
    return target[0][0] if is_mixed(target) else target


def _depends_on_the_shape(loss_fn: _Loss, pred: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether two columns and two vectors give one loss, and a column and a vector another one.

    One that wants a column and a vector, as a cross entropy of classes may, cannot take two of a
    kind, or takes them for other things; one that reshapes what it gets gives always the same.
    """
    with torch.no_grad():
        # Not the batch's own: a model that gives the same number for all rows would hide it.
        values = torch.linspace(0.1, 0.9, len(pred), dtype=pred.dtype, device=pred.device)
        pred = values.reshape(pred.shape)
        if target.is_floating_point():
            target = values.flip(0).square().reshape(target.shape).to(target.dtype)
        try:
            given = _value(loss_fn, pred, target)
            alike = [
                _value(loss_fn, pred.reshape(target.shape), target),
                _value(loss_fn, pred, target.reshape(pred.shape)),
            ]
        except Exception:  # whatever a loss says of shapes that it does not want
            return False
    return math.isclose(*alike, rel_tol=1e-4) and not math.isclose(given, alike[0], rel_tol=1e-3)


def _value(loss_fn: _Loss, pred: torch.Tensor, target: torch.Tensor) -> float:
    """What a copy of the loss returns; calling it has no side effects."""
    if isinstance(loss_fn, nn.Module):
        loss_fn = copy.deepcopy(loss_fn)
    with preserved_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of such shapes itself
        return float(loss_fn(pred, target))
