"""What to write if a loss cannot take its target; torch only says what it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from luzpy.ground.types import Batch

_TORCHS_OWN = ("torch.nn.modules.loss", "torch.nn.functional", "torch._C._nn")

MISSING = "give (x, y), or a Dataset whose items are (x, y)"


def is_torchs_own(loss_fn: Any) -> bool:
    """Whether the loss is one of torch's, which all want a target."""
    owner = type(loss_fn) if isinstance(loss_fn, nn.Module) else loss_fn
    return getattr(owner, "__module__", None) in _TORCHS_OWN


def hint(err: Exception, pred: Batch, target: Batch) -> str:
    """A sentence on what to write, if the error is a common one; else nothing."""
    text = str(err)
    if target is None:
        return f" The batches have no target: {MISSING}." if "None" in text else ""
    if not isinstance(target, torch.Tensor) or not isinstance(err, (RuntimeError, ValueError)):
        return ""
    if "multi-target not supported" in text and target.ndim > 1:
        if target.shape[1] == 1 and target.ndim == 2:
            return (
                f" The target has the shape {list(target.shape)}: class indices are a vector, "
                '`y.squeeze(1)`, or of a frame `df["class"]`.'
            )
        return ""
    if target.is_floating_point():
        wants_classes = "expected target dtype to be Long" in text or "scalar type Long" in text
        if wants_classes or "not implemented for 'Float'" in text:
            return f" The target has {target.dtype}: class indices are integers, `y.long()`."
        return ""
    if "output type Long" in text or "expected Float" in text or "output type Bool" in text:
        return f" The target has {target.dtype}: this loss needs floats, `y.float()`."
    if "expected target dtype to be Long" in text or '"nll_loss' in text:
        return f" The target has {target.dtype}: class indices are torch.int64, `y.long()`."
    return ""
