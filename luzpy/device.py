"""Where a run takes place: a device for each process, and the moves to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from luzpy.data import tensors_in
from luzpy.distributed.ranks import (
    Alone,
    Launched,
    Ranks,
    check_engine,
    launched_size,
    new_engine,
    require_launch_is_meant,
)

PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Accelerator:
    """Where a run takes place: CUDA when there is one, else Apple's MPS, else the CPU.

    Port of R luz's `accelerator()`. Several processes, each with a device of its own, train one
    model together when `torchrun` or `accelerate launch` has started them: by Hugging Face
    Accelerate, on `DistributedDataParallel`. Wherever luzpy takes an `Accelerator`, it takes an
    `accelerate.Accelerator` as well.

    Args:
        device_placement: Whether the model is moved to the device. With `False` it stays where
            the user put it, and batches are moved to where its first parameter lies.
        cpu: `True` to stay on the CPU whatever else is there.
        cuda_index: Which CUDA device, counted from 0; the current one if `None`.
        distributed: `True` to train together with the other processes that were launched; where
            there are none, nothing changes. `False` to train alone though there are others.
        mixed_precision: `"fp16"` or `"bf16"`: as the callback `MixedPrecision` of that dtype.
        accumulate: How many batches in a row make one optimizer step. `batch_size` is that of one
            batch in one process: a step sees `accumulate` times as many rows, times the number of
            processes. The batches left at the end of an epoch make a step too.

    Attributes:
        is_main: Whether this is the process that prints and writes.

    Raises:
        TypeError: If `cuda_index` or `accumulate` is not a whole number.
        ValueError: If an argument is out of bounds, or they exclude each other, or the launcher
            has set Accelerate to something that luzpy does otherwise, or not at all.
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
        distributed: bool | None = None,
        mixed_precision: str | None = None,
        accumulate: int = 1,
    ) -> None:
        self.device_placement = device_placement
        if cuda_index is not None and type(cuda_index) is not int:
            raise TypeError(f"`cuda_index` must be a whole number or None, got {cuda_index!r}.")
        if cuda_index is not None and not 0 <= cuda_index < torch.cuda.device_count():
            raise ValueError(
                f"`cuda_index` must be the index of one of the {torch.cuda.device_count()} CUDA "
                f"devices here, or None, got {cuda_index!r}."
            )
        if cuda_index is not None and distributed:
            raise ValueError(
                f"`cuda_index` must be None with distributed=True, got {cuda_index!r}: each "
                "process has the device that its launcher gives it."
            )
        if distributed not in (True, False, None):
            raise TypeError(f"`distributed` must be True, False or None, got {distributed!r}.")
        if mixed_precision is not None and mixed_precision not in PRECISIONS:
            raise ValueError(
                f"`mixed_precision` must be 'fp16', 'bf16', 'no' or None, got {mixed_precision!r}."
            )
        if type(accumulate) is not int:
            raise TypeError(f"`accumulate` must be a whole number, got {accumulate!r}.")
        if accumulate < 1:
            raise ValueError(f"`accumulate` must be at least 1, got {accumulate!r}.")
        self._copies: torch.cuda.Stream | None = None
        self.dtype: torch.dtype | None = PRECISIONS[mixed_precision or "no"]
        self.accumulate = accumulate
        self.ranks: Ranks = Alone()
        if distributed is None:
            require_launch_is_meant()
        engine = new_engine(cpu) if distributed else None
        if engine is not None and launched_size() > 1:
            check_engine(engine)
            self.ranks = Launched(engine)
            if self.ranks.spread and mixed_precision not in (None, engine.mixed_precision):
                raise ValueError(
                    "`mixed_precision` must be told to the launcher for FSDP, got "
                    f"{mixed_precision!r}, and from the launcher {engine.mixed_precision!r}."
                )
            # `accelerate launch --mixed_precision bf16`. The engine's own setting may be that of
            # another engine of the program: Accelerate has one state for all.
            if mixed_precision is None:
                self.dtype = PRECISIONS[os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"]
            self.device: torch.device = engine.device
        else:
            self.device = _choose_device(cpu, cuda_index)

    @classmethod
    def of_engine(cls, engine: Any) -> Accelerator:
        """The processes, device, precision and accumulation of an `accelerate.Accelerator`.

        Raises:
            ValueError: If it is set to something that luzpy does otherwise, or not at all.
        """
        check_engine(engine)
        made = cls(
            device_placement=engine.device_placement,
            distributed=False,
            mixed_precision=engine.mixed_precision,
            accumulate=engine.gradient_accumulation_steps,
        )
        made.device = engine.device
        if engine.num_processes > 1:
            made.ranks = Launched(engine)
        return made

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.ranks.is_main

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, unless `device_placement` is off."""
        if self.device_placement:
            return model.to(self.device)
        first = next(model.parameters(), None)
        if first is not None:
            self.device = first.device
        return model

    def prepare_batch(self, batch: Any) -> Any:
        """Move every tensor of `batch` (tuples, lists and dicts nested at will) to the device.

        To a CUDA device they are copied from pinned memory on a stream of their own: while the
        device computes one batch, the next is on its way.
        """
        if self.device.type != "cuda" or all(tensor.is_cuda for tensor in tensors_in(batch)):
            return to_device(batch, self.device)
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._copies):
            moved = to_device(batch, self.device, pin=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self._copies)
        for tensor in tensors_in(moved):
            if tensor.is_cuda:  # its memory is not to be used again before this batch is done
                tensor.record_stream(now)
        return moved

    def __repr__(self) -> str:
        ranks = f", rank {self.ranks.rank} of {self.ranks.size}" if self.ranks.size > 1 else ""
        return f"<luzpy.Accelerator on {self.device}{ranks}>"


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


def to_device(obj: Any, device: torch.device, *, pin: bool = False) -> Any:
    """`obj` with every tensor in it on `device`; what is not a tensor passes through.

    Args:
        obj: A tensor, or tuples, lists and dicts of them.
        device: Where to.
        pin: Whether to copy from pinned memory, for which a GPU does not wait.
    """
    if isinstance(obj, torch.Tensor):
        if obj.device == device:
            return obj
        if pin and obj.device.type == "cpu":
            obj = obj.pin_memory()
        # To the CPU a copy must have ended before anybody reads it.
        return obj.to(device, non_blocking=device.type != "cpu")
    if isinstance(obj, PackedSequence):  # a named tuple with a part that stays on the CPU
        return cast(Any, obj).to(device)
    if isinstance(obj, (list, tuple)):
        sequence = cast("list[Any]", obj)
        items = (to_device(item, device, pin=pin) for item in sequence)
        return type(sequence)(*items) if hasattr(sequence, "_fields") else type(sequence)(items)
    if isinstance(obj, Mapping):
        mapping = cast("Mapping[Any, Any]", obj)
        return {key: to_device(item, device, pin=pin) for key, item in mapping.items()}
    return obj
