"""Limits on the model that hyperparameters ask for: a small file gets no big one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

_ELEMENTS = 2**26
_PARTS = 20_000
_FACTORIES: frozenset[object] = frozenset(
    getattr(torch, name)
    for name in (
        "arange", "empty", "empty_permuted", "empty_strided", "eye", "full", "hann_window",
        "linspace", "logspace", "normal", "ones", "rand", "randint", "randn", "randperm",
        "tril_indices", "triu_indices", "zeros",
    )
)  # fmt: skip
_NOT_ON_META = ("device", "generator", "pin_memory", "out")


@attrs.define
class _Left:
    """What may still be made: elements of tensors, and parts (modules, parameters, buffers)."""

    elements: int
    parts: int

    def take(self, elements: int) -> None:
        self.elements -= elements
        self.parts -= 1
        if self.elements < 0 or self.parts < 0:
            raise ValueError(
                "that makes a module much larger than the file. If it is right, give the module "
                "itself as `module`, or load it with trusted=True"
            )


class _BoundedFactories(TorchFunctionMode):
    """Asks every function that makes a tensor for its size, before the tensor is made."""

    def __init__(self, left: _Left) -> None:
        super().__init__()
        self._left = left

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FACTORIES:
            plain = {name: item for name, item in options.items() if name not in _NOT_ON_META}
            try:
                elements = func(*args, **plain, device="meta").numel()
            except Exception:  # the function itself says what is wrong
                elements = 0
            self._left.take(elements)
        return func(*args, **options)


@contextmanager
def bounded(size: int) -> Generator[None]:
    """Raise a ValueError as soon as modules are made that no file of so many bytes can fill.

    A model may make more than its weights (masks, tables, parts that it replaces): the bound is
    several times what the file can hold, and never small.
    """
    left = _Left(elements=_ELEMENTS + 8 * size, parts=_PARTS + size)
    thread = threading.get_ident()

    def registered(module: nn.Module, name: str, part: object) -> None:
        if threading.get_ident() == thread:  # the hooks are those of all modules
            left.take(part.numel() if isinstance(part, torch.Tensor) else 0)

    handles = [
        hooks.register_module_parameter_registration_hook(registered),
        hooks.register_module_buffer_registration_hook(registered),
        hooks.register_module_module_registration_hook(registered),
    ]
    try:
        with _BoundedFactories(left):
            yield
    finally:
        for handle in handles:
            handle.remove()
