"""Modules that are compiled in place, by their method `compile()`."""

from __future__ import annotations

from typing import Any

from torch import nn

from luzpy.core.modules import named_parts


def compile_alike(original: nn.Module, copied: nn.Module) -> bool:
    """Compile in a copy what is compiled in place in the original, with the same options.

    Copies do not keep it, and torch has the options in the closure of the compiled call alone.

    Returns:
        Whether the options were found; what has none runs uncompiled.
    """
    parts = dict(named_parts(copied))
    found = True
    for name, part in named_parts(original):
        call: Any = getattr(part, "_compiled_call_impl", None)
        if call is None:
            continue
        compiler = _compiler_of(call)
        if compiler is None:
            found = False
        else:
            own: Any = parts[name]
            own._compiled_call_impl = compiler(own._call_impl)
    return found


def _compiler_of(call: Any) -> Any:
    """What has compiled a function; None where it is not found."""
    from torch._dynamo import eval_frame  # takes a second, and is there if anything is compiled

    kind: Any = getattr(eval_frame, "_TorchDynamoContext", ())
    cells = (cell.cell_contents for cell in call.__closure__ or ())
    return next((item for item in cells if isinstance(item, kind)), None)
