"""Where a run takes place: a device for each process, and what the run needs on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, zip_longest
from typing import TypeVar

import torch
from torch import nn

from luzpy.core.callback import Callback
from luzpy.core.modules import unwrapped, unwrapped_from_ddp
from luzpy.distributed.gradient_sync import GradientSync
from luzpy.distributed.launch import (
    Accelerate,
    check_accelerate,
    is_accelerate,
    launched_size,
    new_accelerate,
    require_launch_is_meant,
)
from luzpy.distributed.process_group import MultiProcess, ProcessGroup, SingleProcess
from luzpy.distributed.sharded_state import full_state, shard_like, shard_optimizer
from luzpy.distributed.sharding import ShardedLoader
from luzpy.distributed.shared_metric import SharedMetric
from luzpy.distributed.stop_sync import StopSync
from luzpy.ground.arguments import check_count, check_flag, is_whole
from luzpy.ground.devices import CPU, CopyStream, default_device, find_device, has_streams
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import to_device
from luzpy.ground.random_state import RandomState
from luzpy.ground.types import Batch, Loader
from luzpy.metrics.metric import Metric

T = TypeVar("T")
L = TypeVar("L", bound=Loader | None)
_MISSING = object()

PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Accelerator:
    """Where a run takes place: on the device that torch finds, or else the CPU.

    CUDA, ROCm, Apple's MPS, Intel's XPU or another one: anything that `torch.accelerator` supports.
    Port of R luz's `accelerator()`. Several processes, each with its own device, train one model
    together if `torchrun` or `accelerate launch` has started them, through Hugging Face Accelerate
    and `DistributedDataParallel`. Wherever luzpy takes an `Accelerator`, it takes an
    `accelerate.Accelerator` as well.

    Args:
        device_placement: Whether the model is moved to the device. With `False` it stays where the
            user put it, and batches are moved to the device of its first parameter.
        cpu: `True` to use the CPU whatever else is available.
        cuda_index: Which CUDA device, counted from 0; the current one if `None`.
        device: Which device, as torch names it, such as `"xpu:1"`.
        distributed: `True` to train together with the other processes that were launched; if there
            are none, nothing changes. `False` to train alone even if there are others.
        mixed_precision: `"fp16"` or `"bf16"`: like the callback `MixedPrecision` with that dtype.
        accumulate: How many consecutive batches make one optimizer step. `batch_size` is per batch
            and process: a step sees `accumulate` times as many rows, times the number of processes.
            The batches left over at the end of an epoch make a step too.

    Attributes:
        is_main: Whether this is the process that prints and writes.

    Raises:
        TypeError: If `cuda_index` or `accumulate` is not an integer.
        ValueError: If an argument is out of bounds, arguments exclude each other, or the launcher
            has set an option of Accelerate that luzpy handles differently or does not support.
        ImportError: If `distributed=True` and Accelerate is not installed.
        LuzError: If several processes were launched and `distributed` is not given.

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
        *,
        device: torch.device | str | None = None,
        distributed: bool | None = None,
        mixed_precision: str | None = None,
        accumulate: int = 1,
    ) -> None:
        _check_placement(device_placement)
        check_flag("cpu", cpu)
        if cuda_index is not None and not is_whole(cuda_index):
            raise TypeError(f"`cuda_index` must be an integer or None, got {cuda_index!r}.")
        check_flag("distributed", distributed, optional=True)
        check_count("accumulate", accumulate)
        if cuda_index is not None and not 0 <= cuda_index < torch.cuda.device_count():
            raise ValueError(
                f"`cuda_index` must be the index of one of the {torch.cuda.device_count()} CUDA "
                f"devices here, or None, got {cuda_index!r}."
            )
        for name, given in (("cuda_index", cuda_index), ("device", device)):
            if given is not None and distributed:
                raise ValueError(
                    f"`{name}` must be None with distributed=True, got {given!r}: each process has "
                    "the device that its launcher gives it."
                )
        if device is not None and (cpu or cuda_index is not None):
            other = "cpu=True" if cpu else f"cuda_index={cuda_index}"
            raise ValueError(f"`device` must be None with {other}, got {device!r}.")
        if mixed_precision is not None and mixed_precision not in PRECISIONS:
            raise ValueError(
                f"`mixed_precision` must be 'fp16', 'bf16', 'no' or None, got {mixed_precision!r}."
            )
        self.device_placement = device_placement
        self.accumulate = accumulate
        self.dtype: torch.dtype | None = PRECISIONS[mixed_precision or "no"]
        self._copies: CopyStream | None = None
        self._group: ProcessGroup = SingleProcess()
        if distributed is None:
            require_launch_is_meant()
        accelerate = new_accelerate(cpu) if distributed else None
        if accelerate is None or launched_size() == 1:
            self.device: torch.device = _choose_device(cpu, cuda_index, device)
            return
        check_accelerate(accelerate)
        if accelerate.num_processes != launched_size():
            raise LuzError(
                f"{launched_size()} processes were launched, but Accelerate knows of "
                f"{accelerate.num_processes}: make luzpy's Accelerator before any of Accelerate's "
                "own, or with the same `cpu`."
            )
        self.device = accelerate.device
        self._group = MultiProcess(accelerate)
        if self.is_sharded and mixed_precision not in (None, accelerate.mixed_precision):
            raise ValueError(
                "`mixed_precision` must be passed to the launcher for FSDP, got "
                f"{mixed_precision!r}, and from the launcher {accelerate.mixed_precision!r}."
            )
        # `accelerate launch --mixed_precision bf16`. The setting of `accelerate` may be that of
        # another one of the program: Accelerate has one state for all.
        if mixed_precision is None:
            self.dtype = PRECISIONS[os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"]

    @classmethod
    def from_accelerate(cls, accelerate: Accelerate) -> Accelerator:
        """The processes, device, precision and accumulation of an `accelerate.Accelerator`.

        Raises:
            ValueError: If it has an option set that luzpy handles differently or does not support.
        """
        check_accelerate(accelerate)
        made = cls(
            device_placement=accelerate.device_placement,
            distributed=False,
            mixed_precision=accelerate.mixed_precision,
            accumulate=accelerate.gradient_accumulation_steps,
        )
        made.device = accelerate.device
        if accelerate.num_processes > 1:
            made._group = MultiProcess(accelerate)
        return made

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self._group.is_main

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the model only (FSDP)."""
        return self._group.is_sharded

    @property
    def num_processes(self) -> int:
        """How many processes there are."""
        return self._group.size

    @property
    def process_index(self) -> int:
        """The rank of this one, from 0."""
        return self._group.rank

    @property
    def is_distributed(self) -> bool:
        """Whether there are several processes."""
        return self._group.size > 1

    def device_of(self, model: nn.Module) -> torch.device:
        """Where a run of `model` computes: with `device_placement` off, where the model is."""
        first = None if self.device_placement else next(model.parameters(), None)
        return self.device if first is None else first.device

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, unless `device_placement` is off."""
        return model.to(self.device) if self.device_placement else model

    def prepare_training(
        self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], *, n_losses: int
    ) -> nn.Module:
        """The model as it is trained: with several processes, its gradients are averaged.

        A step that is one forward and one backward pass of the module is all that
        `DistributedDataParallel` and FSDP see. Of a module with a step or a loss of its own, or
        with several optimizers, `GradientSync` averages the gradients before each step instead.

        Raises:
            ValueError: If several batches cannot make a step: if the module has a step of its own,
                or several optimizers; or if FSDP is to train what it cannot.
        """
        has_step = hasattr(unwrapped(model), "step")
        if self.accumulate > 1 and (has_step or n_losses > 1):
            reason = (
                "the module's own `step` decides when to step"
                if has_step
                else f"there are {n_losses} optimizers, each with its own gradients"
            )
            raise ValueError(f"`accumulate` must be 1, got {self.accumulate}: {reason}.")
        if n_losses == 1 and not has_step and not hasattr(unwrapped(model), "loss"):
            return self._group.wrap(model, optimizers)
        if self.is_sharded:
            raise ValueError(
                "`accelerator` must not use FSDP for a module with its own `step` or `loss`, or "
                "with several optimizers."
            )
        return model

    # What `prepare_training` was given; a module that torch.compile has made stays one.
    unwrap = staticmethod(unwrapped_from_ddp)

    def prepare_train_loader(
        self, loader: Loader, *, count: Callable[[Batch], int] | None = None
    ) -> Loader | ShardedLoader:
        """This process's batches for training; the loader itself where nothing is shared.

        `count` counts the rows of a batch, where that is not told by its first dimension.
        """
        if not self.is_distributed and self.accumulate == 1:
            return loader
        return ShardedLoader(
            loader,
            self._group,
            accumulate=self.accumulate,
            whole_groups=self.is_distributed and loader.drop_last,
            count=count,
            name="data",
        )

    def prepare_loader(
        self, loader: L, *, name: str, count: Callable[[Batch], int] | None = None
    ) -> L | ShardedLoader:
        """This process's batches; all processes together have every row once."""
        if loader is None or not self.is_distributed:
            return loader
        return ShardedLoader(loader, self._group, count=count, name=name)

    def prepare_metric(self, metric: Metric, loader: Iterable[Batch] | None) -> Metric:
        """`metric` computed over the batches of all processes."""
        if not self.is_distributed:
            return metric
        return SharedMetric(metric, self._group, loader, self.device)

    def prepare_callbacks(self, callbacks: list[Callback]) -> list[Callback]:
        """The callbacks of a training run, plus those for several processes or batches."""
        if not self.is_distributed and self.accumulate == 1:
            return callbacks
        callbacks = [GradientSync(self._group), *callbacks]
        return [*callbacks, StopSync(self._group)] if self.is_distributed else callbacks

    def prepare_batch(self, batch: Batch, device: torch.device | None = None) -> Batch:
        """Move every tensor of `batch`, however nested, to the device.

        Tensors are copied to an accelerator from pinned memory, on a separate stream: while it
        computes one batch, the next is being copied.
        """
        device = device or self.device
        if not has_streams(device):
            return to_device(batch, device)
        if self._copies is None or self._copies.device != device:
            self._copies = CopyStream(device)
        return self._copies.to_device(batch)

    def share_random_state(self) -> None:
        """Give every process the main one's random state: for the held-out rows and the weights."""
        if self.is_distributed:
            state = self.broadcast_from_main(lambda: RandomState.current().to_primitives())
            RandomState.from_primitives(state).restore()

    def broadcast(self, obj: T) -> T:
        """The main process's `obj`. All of them call it, as all that follow."""
        return self._group.broadcast_object(obj)

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """What `function` returns in the main process, the only one that calls it.

        It may read a file that other machines do not see.
        """
        return self._group.broadcast_from_main(function)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return any(self.gather(flag))

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of every process's `tensor`."""
        return self._group.all_reduce_mean(tensor)

    def gather(self, obj: T) -> list[T]:
        """Every process's `obj`."""
        return self._group.all_gather_object(obj)

    def local_entry(self, gathered: list[T]) -> T | None:
        """This process's entry in what `gather` returned; None if that run had fewer processes."""
        return gathered[self._group.rank] if self._group.rank < len(gathered) else None

    def is_gathered_here(self, gathered: list[T]) -> bool:
        """Whether `gather` returned it with the same number of processes as now."""
        return len(gathered) == self._group.size

    def gather_batches(self, predictions: list[Batch], loader: Iterable[Batch]) -> list[Batch]:
        """The results of every process's batches, in the order of the batches."""
        if not isinstance(loader, ShardedLoader):
            return predictions
        counted = predictions[:-1] if loader.is_padding else predictions
        groups = zip_longest(*self.gather(counted), fillvalue=_MISSING)
        return [item for item in chain.from_iterable(groups) if item is not _MISSING]

    def barrier(self) -> bool:
        """Wait for all processes, not forever; returns whether they came."""
        return self._group.barrier()

    full_state = staticmethod(full_state)
    shard_like = staticmethod(shard_like)
    shard_optimizer = staticmethod(shard_optimizer)

    def __repr__(self) -> str:
        group = self._group
        ranks = f", rank {group.rank} of {group.size}" if group.size > 1 else ""
        return f"<luzpy.Accelerator on {self.device}{ranks}>"


def check_accelerator(accelerator: object) -> Accelerator:
    """The accelerator, or a new one for None.

    Raises:
        TypeError: If it is neither luzpy's nor Hugging Face Accelerate's.
    """
    if accelerator is None:
        return Accelerator()
    if is_accelerate(accelerator):
        return Accelerator.from_accelerate(accelerator)
    if not isinstance(accelerator, Accelerator):
        raise TypeError(
            "`accelerator` must be a luzpy Accelerator, or Hugging Face Accelerate's, got "
            f"{accelerator!r}."
        )
    return accelerator


def _check_placement(given: object) -> None:
    """Raise unless `given` is True or False; a device here is meant for `device`."""
    if isinstance(given, (str, torch.device)):
        raise TypeError(
            f"`device_placement` must be True or False, got {given!r}: write "
            f'luz.Accelerator(device="{given}").'
        )
    check_flag("device_placement", given)


def _choose_device(
    cpu: bool, cuda_index: int | None, device: torch.device | str | None
) -> torch.device:
    if cpu:
        return CPU
    if cuda_index is not None:
        return torch.device("cuda", cuda_index)
    return default_device() if device is None else find_device(device)
