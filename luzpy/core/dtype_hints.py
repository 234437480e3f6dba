"""What to write if the input's dtype does not match the module's weights."""

from __future__ import annotations

import torch
from torch import nn

from luzpy.ground.nested import tensors_in
from luzpy.ground.types import Batch

# What torch's messages call a dtype.
_CALLED = {
    torch.int64: ("Long", "long"),
    torch.int32: ("Int", "int"),
    torch.uint8: ("Byte", "unsigned char"),
    torch.float64: ("Double", "double"),
    torch.float32: ("Float", "float"),
    torch.float16: ("Half", "c10::Half"),
}


def dtype_hint(err: Exception, module: nn.Module, input: Batch) -> str:
    """A sentence on what to write, if an error is due to the input's dtype; else nothing."""
    text = str(err)
    first = next(tensors_in(input), None)
    weights = (weight.dtype for weight in module.parameters() if weight.is_floating_point())
    wanted = next(weights, None)
    if not isinstance(err, RuntimeError) or "type" not in text or first is None or wanted is None:
        return ""
    if first.dtype == wanted or not any(name in text for name in _CALLED.get(first.dtype, ())):
        return ""
    if not first.is_floating_point() and _embeds(module):
        return ""  # token ids are whole numbers; the mistake is another one
    cast = "x.float()" if wanted is torch.float32 else f"x.to({wanted})"
    said = f" The input has {first.dtype}, and the module's weights {wanted}: give `{cast}`"
    if first.is_floating_point() or wanted is not torch.float32:
        return f"{said}."
    return f'{said}, or of a frame or an array `x.astype("float32")`.'


def _embeds(module: nn.Module) -> bool:
    return any(isinstance(part, (nn.Embedding, nn.EmbeddingBag)) for part in module.modules())
