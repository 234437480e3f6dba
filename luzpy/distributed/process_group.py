"""The processes of a run: one, or several that `torchrun` or `accelerate launch` has started."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast, final

import torch
from torch import nn

from luzpy.distributed.launch import Accelerate, shards

T = TypeVar("T")

_KEPT = ("_models", "_optimizers")

PATIENCE = timedelta(seconds=20)


class ProcessGroup(ABC):
    """What the processes of a run do together. Every method must be called by all of them.

    Attributes:
        rank: The number of this process, from 0.
        size: How many processes there are.
        is_sharded: Whether each holds a part of the model only (FSDP).
    """

    rank: int = 0
    size: int = 1
    is_sharded: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @abstractmethod
    def wrap(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        """The model with its gradients averaged over ranks in every backward pass."""

    @abstractmethod
    def all_gather_object(self, obj: T) -> list[T]:
        """Every rank's `obj`, on every rank, by rank."""

    @abstractmethod
    def broadcast_object(self, obj: T) -> T:
        """The main rank's `obj`, on every rank."""

    @abstractmethod
    def scatter_object(self, objs: list[T] | None) -> T:
        """This rank's entry of the main rank's list, which has one entry per rank."""

    @abstractmethod
    def all_reduce_mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of every rank's `tensor`."""

    @abstractmethod
    def barrier(self) -> bool:
        """Wait for all ranks; returns whether they came within `PATIENCE`."""

    @abstractmethod
    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        """Within it, backward passes through what `wrap` gave add to this rank's gradients only."""

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """What `function` returns on the main rank, the only one that calls it."""
        return self.broadcast_object(cast(T, function() if self.is_main else None))

    def broadcast_weights(self, model: nn.Module) -> None:
        """Give `model` the main rank's weights and buffers."""
        model.load_state_dict(self.broadcast_from_main(model.state_dict))


@final
class SingleProcess(ProcessGroup):
    """A single process: there is nothing to gather."""

    def wrap(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        return model

    def all_gather_object(self, obj: T) -> list[T]:
        return [obj]

    def broadcast_object(self, obj: T) -> T:
        return obj

    def scatter_object(self, objs: list[T] | None) -> T:
        assert objs is not None
        return objs[0]

    def all_reduce_mean(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def barrier(self) -> bool:
        return True

    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        return nullcontext()


@final
class MultiProcess(ProcessGroup):
    """Several processes, through Hugging Face Accelerate.

    Args:
        accelerate: An `accelerate.Accelerator`.
    """

    def __init__(self, accelerate: Accelerate) -> None:
        self.accelerate = accelerate
        self.rank = accelerate.process_index
        self.size = accelerate.num_processes
        self.is_sharded = shards(accelerate)
        self._group = _cpu_group(torch.distributed.group.WORLD)

    def wrap(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        accelerate = self.accelerate
        # MixedPrecision sees to that.
        autocast, accelerate.native_amp = accelerate.native_amp, False
        # What it keeps for checkpoints of its own.
        kept: list[list[object]] = [getattr(accelerate, name) for name in _KEPT]
        counts = [len(items) for items in kept]
        try:
            if self.is_sharded:  # the optimizers are given its parameters
                self.broadcast_weights(model)
                return accelerate.prepare(model, *optimizers.values())[0]
            return accelerate.prepare_model(model, device_placement=False)
        finally:
            accelerate.native_amp = autocast
            for items, count in zip(kept, counts, strict=True):
                del items[count:]

    def all_gather_object(self, obj: T) -> list[T]:
        gathered = [b""] * self.size
        torch.distributed.all_gather_object(gathered, _as_bytes(obj), group=self._group)
        return [_from_bytes(packed) for packed in gathered]

    def broadcast_object(self, obj: T) -> T:
        held = [_as_bytes(obj) if self.is_main else None]
        torch.distributed.broadcast_object_list(held, src=0, group=self._group)
        return _from_bytes(held[0])

    def scatter_object(self, objs: list[T] | None) -> T:
        held: list[bytes | None] = [None]
        packed = None if objs is None else [_as_bytes(obj) for obj in objs]
        torch.distributed.scatter_object_list(held, packed, src=0, group=self._group)
        return _from_bytes(held[0])

    def all_reduce_mean(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerate.reduce(tensor.to(self.accelerate.device), reduction="mean")

    def barrier(self) -> bool:
        try:
            torch.distributed.monitored_barrier(self._group, PATIENCE)
        except RuntimeError:
            return False
        return True

    def no_sync(self, model: nn.Module) -> AbstractContextManager[object]:
        return self.accelerate.no_sync(model)


@cache
def _cpu_group(world: object) -> Any:
    """The group that sends objects: it waits for no GPU, and stays open until the process ends."""
    return torch.distributed.new_group(backend="gloo")


def _as_bytes(obj: object) -> bytes:
    """An object as a file of torch's: not all tensors survive the pickles of `distributed`."""
    file = io.BytesIO()
    torch.save(obj, file)
    return file.getvalue()


def _from_bytes(packed: bytes | None) -> Any:
    # What the other processes of the run send is the user's own.
    assert packed is not None
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)
