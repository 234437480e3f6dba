"""Where a run takes place: one device, and the moves to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence


class Accelerator:
    """One device for a run: CUDA when there is one, else Apple's MPS, else the CPU.

    Port of R luz's `accelerator()`.

    Args:
        device_placement: Whether the model is moved to the device. With `False` it stays where
            the user put it, and batches are moved to where its first parameter lies.
        cpu: `True` to stay on the CPU whatever else is there.
        cuda_index: Which CUDA device, counted from 0; the current one if `None`.

    Raises:
        TypeError: If `cuda_index` is not a whole number.
        ValueError: If `cuda_index` is not the index of a CUDA device.

    Examples:
        >>> import luzpy as luz
        >>> luz.Accelerator(cpu=True).device
        device(type='cpu')
    """

    def __init__(
        self,
        device_placement: bool = True,
        cpu: bool = False,
        cuda_index: int | None = None,
    ) -> None:
        self.device_placement = device_placement
        if cuda_index is not None and type(cuda_index) is not int:
            raise TypeError(f"`cuda_index` must be a whole number or None, got {cuda_index!r}.")
        if cuda_index is not None and not 0 <= cuda_index < torch.cuda.device_count():
            raise ValueError(
                f"`cuda_index` must be the index of one of the {torch.cuda.device_count()} CUDA "
                f"devices here, or None, got {cuda_index!r}."
            )
        self.device: torch.device = _choose_device(cpu, cuda_index)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, unless `device_placement` is off."""
        if self.device_placement:
            return model.to(self.device)
        first = next(model.parameters(), None)
        if first is not None:
            self.device = first.device
        return model

    def prepare_batch(self, batch: Any) -> Any:
        """Move every tensor of `batch` (tuples, lists and dicts nested at will) to the device."""
        return to_device(batch, self.device)

    def __repr__(self) -> str:
        return f"<luzpy.Accelerator on {self.device}>"


def _choose_device(cpu: bool, cuda_index: int | None) -> torch.device:
    if cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device(
            "cuda", torch.cuda.current_device() if cuda_index is None else cuda_index
        )
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def to_device(obj: Any, device: torch.device) -> Any:
    """`obj` with every tensor in it on `device`; what is not a tensor passes through."""
    if isinstance(obj, torch.Tensor):
        if obj.device == device:
            return obj
        # To the CPU a copy must have ended before anybody reads it.
        return obj.to(device, non_blocking=device.type != "cpu")
    if isinstance(obj, PackedSequence):  # a named tuple with a part that stays on the CPU
        return cast(Any, obj).to(device)
    if isinstance(obj, (list, tuple)):
        sequence = cast("list[Any]", obj)
        if hasattr(sequence, "_fields"):
            return type(sequence)(*(to_device(item, device) for item in sequence))
        return type(sequence)(to_device(item, device) for item in sequence)
    if isinstance(obj, Mapping):
        mapping = cast("Mapping[Any, Any]", obj)
        return {key: to_device(item, device) for key, item in mapping.items()}
    return obj
