"""Accelerators of any kind that torch supports: CUDA, ROCm, MPS, XPU and others."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, final

import torch

from luzpy.ground.nested import tensors_in, to_device

CPU = torch.device("cpu")


def default_device() -> torch.device:
    """The current accelerator of this process; the CPU if there is none."""
    accelerator = _accelerator()
    # As tensors report it: `torch.accelerator` itself leaves out the index.
    return CPU if accelerator is None else torch.empty(0, device=accelerator).device


def known_devices() -> list[torch.device]:
    """The devices of this machine."""
    accelerator = _accelerator()
    if accelerator is None:
        return [CPU]
    kind = accelerator.type
    return [*(torch.device(kind, index) for index in range(device_count(kind))), CPU]


def find_device(given: object) -> torch.device:
    """The device of that name.

    Raises:
        TypeError: If it is no name of a device.
        ValueError: If it is not here.
    """
    if not isinstance(given, (str, torch.device)):
        raise TypeError(f"`device` must be a torch.device, its name or None, got {given!r}.")
    known = known_devices()
    try:
        device = torch.device(given)
    except RuntimeError:  # torch knows no such kind
        device = torch.device("meta")
    if device.type == "cpu":
        return CPU
    if str(device) == known[0].type:
        return default_device()
    if device not in known:
        raise ValueError(
            f"`device` must be one of {', '.join(map(str, known))}, got {str(given)!r}."
        )
    return device


def device_count(kind: str) -> int:
    """How many devices of a kind there are."""
    module: Any = torch.get_device_module(kind)
    return module.device_count() if module.is_available() else 0


def random_states() -> dict[str, list[torch.Tensor]]:
    """The states of the accelerators' random generators, by kind of device."""
    accelerator = _accelerator()
    if accelerator is None:
        return {}
    module: Any = torch.get_device_module(accelerator)
    count = device_count(accelerator.type)
    if count == 1:  # MPS, of which there is never more than one, takes no index
        return {accelerator.type: [module.get_rng_state()]}
    return {accelerator.type: [module.get_rng_state(index) for index in range(count)]}


def set_random_states(states: dict[str, list[torch.Tensor]]) -> None:
    """Restore the generators of the devices that are present; others are skipped."""
    accelerator = _accelerator()
    if accelerator is None:
        return
    module: Any = torch.get_device_module(accelerator)
    count = device_count(accelerator.type)
    for index, state in enumerate(states.get(accelerator.type, [])[:count]):
        if count == 1:
            module.set_rng_state(state)
        else:
            module.set_rng_state(state, index)


@functools.cache
def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices without it, such as MPS."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.float32
    return torch.float64


@functools.cache
def has_streams(device: torch.device) -> bool:
    """Whether a device is an accelerator with several streams; MPS has only one."""
    accelerator = _accelerator()
    if accelerator is None or device.type != accelerator.type:
        return False
    try:
        torch.Stream(device)
    except RuntimeError:
        return False
    return True


def free_memory(device: torch.device) -> int:
    """Free bytes of an accelerator; 0 if it does not report them."""
    if device.type in ("cpu", "meta"):
        return 0
    module: Any = torch.get_device_module(device)
    info = getattr(module, "mem_get_info", None)
    return 0 if info is None else info(device)[0]


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors of one shape as one tensor: on the accelerator, if any of them is there."""
    try:
        return torch.stack(list(tensors))
    except RuntimeError:  # some of them are on the host, as losses that a user has set may be
        device = next((t.device for t in tensors if not t.is_cpu), CPU)
        return torch.stack([tensor.to(device) for tensor in tensors])


@final
class CopyStream:
    """Copies batches to a device on a stream of their own.

    They are copied from pinned memory: while the device computes one batch, the next is on its way.

    Args:
        device: A device that has streams.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.Stream(device)

    def to_device(self, batch: Any) -> Any:
        """The batch on the device, ready for the next work on its current stream."""
        if all(t.device == self.device for t in tensors_in(batch)):
            return to_device(batch, self.device)
        # To set a stream chooses its device, too: the current one may be another.
        before = torch.accelerator.current_stream()
        now = torch.accelerator.current_stream(self.device)
        torch.accelerator.set_stream(self._stream)
        try:
            moved = to_device(batch, self.device, pin=True)
        finally:
            torch.accelerator.set_stream(now)
            torch.accelerator.set_stream(before)
        now.wait_stream(self._stream)
        for tensor in tensors_in(moved):
            if tensor.device == self.device:  # must not be reused before this batch is done
                tensor.record_stream(now)
        return moved


def _accelerator() -> torch.device | None:
    """The kind of accelerator that this process has."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
