"""The processes of a run: one, or several that `torchrun` or `accelerate launch` has started."""

from __future__ import annotations

import importlib
import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any, cast, final

import torch
from torch import nn

from luzpy.errors import LuzError

INSTALL = "pip install 'luzpy[distributed]'"
PATIENCE = timedelta(seconds=20)
KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_HPU")


class Ranks(ABC):
    """What the processes of a run do together.

    Attributes:
        rank: The number of this process, from 0.
        size: How many processes there are.
        spread: Whether each holds a part of the model only (FSDP).
    """

    rank: int = 0
    size: int = 1
    spread: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @abstractmethod
    def wrap(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        """The model with its gradients averaged over ranks in every backward pass."""

    @abstractmethod
    def share_weights(self, model: nn.Module) -> None:
        """Give `model` the main rank's weights and buffers. All of them call it."""

    @abstractmethod
    def gather(self, obj: Any) -> list[Any]:
        """Every rank's `obj`, on every rank, by rank. All of them call it."""

    @abstractmethod
    def from_main(self, obj: Any) -> Any:
        """The main rank's `obj`, on every rank. All of them call it."""

    @abstractmethod
    def scatter(self, objs: list[Any] | None) -> Any:
        """Of the main rank's list, one entry a rank, this rank's. All of them call it."""

    @abstractmethod
    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of every rank's `tensor`. All of them call it."""

    @abstractmethod
    def all_come(self) -> bool:
        """Whether all of them call it, within `PATIENCE`: nobody is waited for any longer."""

    @abstractmethod
    def unsynchronized(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Within it, backward passes through what `wrap` gave add to this rank's gradients only."""


@final
class Alone(Ranks):
    """One process."""

    def wrap(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        """The model itself."""
        return model

    def share_weights(self, model: nn.Module) -> None:
        """Nothing: there is nobody else."""

    def gather(self, obj: Any) -> list[Any]:
        """The one there is."""
        return [obj]

    def from_main(self, obj: Any) -> Any:
        """The object itself."""
        return obj

    def scatter(self, objs: list[Any] | None) -> Any:
        """The one there is."""
        assert objs is not None
        return objs[0]

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def all_come(self) -> bool:
        """There is nobody else."""
        return True

    def unsynchronized(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Nothing."""
        return nullcontext()


@final
class Launched(Ranks):
    """Several processes, held together by Hugging Face Accelerate.

    Args:
        engine: An `accelerate.Accelerator`.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.rank = engine.process_index
        self.size = engine.num_processes
        self.spread = _spreads(engine)
        self._group = _cpu_group(torch.distributed.group.WORLD)

    def wrap(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        """The model in `DistributedDataParallel`, or spread over the ranks by FSDP."""
        engine = self.engine
        autocast, engine.native_amp = engine.native_amp, False  # MixedPrecision sees to that
        kept = (engine._models, engine._optimizers)  # for checkpoints of Accelerate's own
        counts = [len(items) for items in kept]
        try:
            if self.spread:  # the optimizers are given its parameters
                self.share_weights(model)
                return engine.prepare(model, *optimizers.values())[0]
            return engine.prepare_model(model, device_placement=False)
        finally:
            engine.native_amp = autocast
            for items, count in zip(kept, counts, strict=True):
                del items[count:]

    def share_weights(self, model: nn.Module) -> None:
        """Load the main rank's state."""
        model.load_state_dict(self.from_main(model.state_dict() if self.is_main else None))

    def gather(self, obj: Any) -> list[Any]:
        """Every rank's `obj`."""
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, _as_bytes(obj), group=self._group)
        return [_from_bytes(packed) for packed in gathered]

    def from_main(self, obj: Any) -> Any:
        """The main rank's `obj`."""
        held = [_as_bytes(obj) if self.is_main else None]
        torch.distributed.broadcast_object_list(held, src=0, group=self._group)
        return _from_bytes(held[0])

    def scatter(self, objs: list[Any] | None) -> Any:
        """This rank's entry."""
        held: list[Any] = [None]
        packed = None if objs is None else [_as_bytes(obj) for obj in objs]
        torch.distributed.scatter_object_list(held, packed, src=0, group=self._group)
        return _from_bytes(held[0])

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over ranks."""
        return self.engine.reduce(tensor.to(self.engine.device), reduction="mean")

    def all_come(self) -> bool:
        """Whether all of them are here."""
        try:
            torch.distributed.monitored_barrier(self._group, PATIENCE)
        except RuntimeError:
            return False
        return True

    def unsynchronized(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Accelerate's `no_sync`."""
        return self.engine.no_sync(model)


@cache
def _cpu_group(world: Any) -> Any:
    """The group by which objects go: a GPU is not waited for. It is open till the process ends."""
    return torch.distributed.new_group(backend="gloo")


def _as_bytes(obj: Any) -> bytes:
    """An object as a file of torch's: not all tensors survive the pickles of `distributed`."""
    file = io.BytesIO()
    torch.save(obj, file)
    return file.getvalue()


def _from_bytes(packed: Any) -> Any:
    # What comes from the other processes of the run is the user's own.
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)


def launched_size() -> int:
    """How many processes the launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def new_engine(cpu: bool) -> Any:
    """An `accelerate.Accelerator` over the processes that were launched.

    Raises:
        ImportError: If Accelerate is not installed.
    """
    try:
        engines: Any = importlib.import_module("accelerate")
    except ImportError as err:
        raise ImportError(f"`distributed=True` needs Hugging Face Accelerate: {INSTALL}.") from err
    return engines.Accelerator(cpu=cpu)


def is_engine(accelerator: Any) -> bool:
    """Whether this is an `accelerate.Accelerator`."""
    accelerate: Any = sys.modules.get("accelerate")  # whoever has one has imported it
    return accelerate is not None and isinstance(accelerator, accelerate.Accelerator)


def check_engine(engine: Any) -> None:
    """Raise unless luzpy can run on this engine.

    Raises:
        ValueError: If it is set to something that luzpy does otherwise, or not at all.
    """
    kind = engine.distributed_type.value
    if not _spreads(engine) and kind not in KINDS:
        raise ValueError(
            "`accelerator` must train in one process, with DistributedDataParallel or with FSDP of "
            f"version 2, got an accelerate.Accelerator for {kind}."
        )
    if _spreads(engine) and engine.mixed_precision == "fp16":
        raise ValueError("`accelerator` must have mixed_precision 'bf16' or 'no' for FSDP.")
    if engine.split_batches:
        raise ValueError(
            "`accelerator` must have split_batches=False: `batch_size` is that of each rank, got "
            "split_batches=True."
        )
    if engine.mixed_precision == "fp8":
        raise ValueError(
            "`accelerator` must have mixed_precision 'no', 'fp16' or 'bf16', got 'fp8'."
        )


def _spreads(engine: Any) -> bool:
    """Whether it is set to FSDP of version 2."""
    plugin = getattr(engine.state, "fsdp_plugin", None)
    return engine.distributed_type.value == "FSDP" and getattr(plugin, "fsdp_version", 1) == 2


def require_launch_is_meant() -> None:
    """Raise in one of several processes that nobody has told to work together.

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


def one_process(model: nn.Module) -> nn.Module:
    """The module that `Ranks.wrap` was given."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return cast(nn.Module, cast(Any, model).module)
    return model
