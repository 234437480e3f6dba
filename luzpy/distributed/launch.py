"""What the launcher has started, and how Hugging Face Accelerate is configured."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeGuard

import torch
from torch import nn

from luzpy.ground.errors import LuzError

INSTALL = "pip install 'luzpy[distributed]'"
KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_HPU")


def launched_size() -> int:
    """How many processes the launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


class Accelerate(Protocol):
    """What luzpy uses of an `accelerate.Accelerator`."""

    num_processes: int
    process_index: int
    device: torch.device
    device_placement: bool
    mixed_precision: str
    gradient_accumulation_steps: int
    split_batches: bool
    native_amp: bool
    distributed_type: Any
    state: object

    def prepare(self, *args: object) -> tuple[nn.Module, ...]: ...
    def prepare_model(self, model: nn.Module, *, device_placement: bool) -> nn.Module: ...
    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor: ...
    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]: ...


def new_accelerate(cpu: bool) -> Accelerate:
    """An `accelerate.Accelerator` over the processes that were launched.

    Raises:
        ImportError: If Accelerate is not installed.
    """
    try:
        package: Any = importlib.import_module("accelerate")
    except ImportError as err:
        raise ImportError(f"`distributed=True` needs Hugging Face Accelerate: {INSTALL}.") from err
    return package.Accelerator(cpu=cpu)


def is_accelerate(accelerator: object) -> TypeGuard[Accelerate]:
    """Whether this is an `accelerate.Accelerator`."""
    package: Any = sys.modules.get("accelerate")  # whoever has one has imported it
    return package is not None and isinstance(accelerator, package.Accelerator)


def check_accelerate(accelerate: Accelerate) -> None:
    """Raise unless luzpy can run on this `accelerate.Accelerator`.

    Raises:
        ValueError: If it has an option set that luzpy handles differently or does not support.
    """
    kind = accelerate.distributed_type.value
    if not shards(accelerate) and kind not in KINDS:
        raise ValueError(
            "`accelerator` must train in one process, with DistributedDataParallel or with FSDP of "
            f"version 2, got an accelerate.Accelerator for {kind}."
        )
    if shards(accelerate) and accelerate.mixed_precision == "fp16":
        raise ValueError("`accelerator` must have mixed_precision 'bf16' or 'no' for FSDP.")
    if accelerate.split_batches:
        raise ValueError(
            "`accelerator` must have split_batches=False: `batch_size` is that of each rank, got "
            "split_batches=True."
        )
    if accelerate.mixed_precision == "fp8":
        raise ValueError(
            "`accelerator` must have mixed_precision 'no', 'fp16' or 'bf16', got 'fp8'."
        )


def shards(accelerate: Accelerate) -> bool:
    """Whether it is configured for FSDP version 2."""
    plugin = getattr(accelerate.state, "fsdp_plugin", None)
    return accelerate.distributed_type.value == "FSDP" and getattr(plugin, "fsdp_version", 1) == 2


def require_launch_is_meant() -> None:
    """Raise if several processes were launched without being told to work together.

    Raises:
        LuzError: If the launcher has started several.
    """
    size = launched_size()
    if size > 1:
        raise LuzError(
            f"This is one of {size} processes, each of which would do all of the work: pass "
            "accelerator=luz.Accelerator(distributed=True) to share it, or distributed=False if "
            "each is to work on its own."
        )
