"""A run as several processes share it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import nn

from luzpy.core.modules import unwrapped
from luzpy.distributed.process_group import ProcessGroup
from luzpy.ground.random_state import RandomState

_MISSING = object()


def share_random_state(group: ProcessGroup) -> None:
    """Let every process draw what the main one draws: the rows held out, the weights."""
    if group.size > 1:
        own = RandomState.current().to_primitives() if group.is_main else None
        RandomState.from_primitives(group.broadcast_object(own)).restore()


def wrap_distributed(
    module: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], group: ProcessGroup
) -> nn.Module:
    """The module as the processes train it together.

    A step that is one forward pass of the module and one backward pass is all that
    `DistributedDataParallel` and FSDP see. Gradients of a module with a step or a loss of its own,
    or with several optimizers, are averaged before each step instead.

    Raises:
        ValueError: If FSDP is to train such a module.
    """
    own = unwrapped(module)
    if len(optimizers) == 1 and not hasattr(own, "step") and not hasattr(own, "loss"):
        return group.wrap(module, optimizers)
    if group.is_sharded:
        raise ValueError(
            "`accelerator` must not use FSDP for a module with a `step` or a `loss` of its own, or "
            "with several optimizers."
        )
    return module


def in_order(group: ProcessGroup, own: list[Any]) -> list[Any]:
    """What each process made of its batches, in the order of the batches, on all of them."""
    groups = zip_longest(*group.all_gather_object(own), fillvalue=_MISSING)
    return [item for item in chain.from_iterable(groups) if item is not _MISSING]
