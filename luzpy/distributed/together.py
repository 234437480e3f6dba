"""What a run needs so that several processes, or several batches a step, are as one."""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from luzpy.callback import Callback
from luzpy.callbacks.mixed_precision import MixedPrecision
from luzpy.context import Optimizers
from luzpy.device import Accelerator
from luzpy.distributed.gradients import Gradients
from luzpy.distributed.ranks import Ranks
from luzpy.distributed.sharding import ShardedLoader
from luzpy.distributed.stand_ins import StandIns
from luzpy.loop import unwrapped
from luzpy.random_state import RandomState

_MISSING = object()


def share_random_state(ranks: Ranks) -> None:
    """Let every process draw what the main one draws: the rows held out, the weights."""
    if ranks.size > 1:
        state = ranks.from_main(RandomState.current().to_plain() if ranks.is_main else None)
        RandomState.from_plain(state).restore()


def together(module: nn.Module, optimizers: Optimizers, ranks: Ranks) -> nn.Module:
    """The module as the processes train it together.

    A step that is one forward pass of the module and one backward pass is all that
    `DistributedDataParallel` and FSDP see. Gradients of a module with a step or a loss of its own,
    or with several optimizers, are averaged before each step instead.

    Raises:
        ValueError: If FSDP is to train such a module.
    """
    own = unwrapped(module)
    if len(optimizers) == 1 and not hasattr(own, "step") and not hasattr(own, "loss"):
        return ranks.wrap(module, optimizers)
    if ranks.spread:
        raise ValueError(
            "`accelerator` must not use FSDP for a module with a `step` or a `loss` of its own, or "
            "with several optimizers."
        )
    return module


def train_shard(loader: DataLoader[Any], accelerator: Accelerator) -> Any:
    """This process's batches for training; the loader itself where there is nothing to share."""
    if accelerator.ranks.size == 1 and accelerator.accumulate == 1:
        return loader
    return ShardedLoader(
        loader,
        accelerator.ranks,
        accumulate=accelerator.accumulate,
        whole_groups=accelerator.ranks.size > 1 and loader.drop_last,
        name="data",
    )


def eval_shard(loader: Any, accelerator: Accelerator, *, name: str) -> Any:
    """This process's batches, all ranks' together every row once."""
    if loader is None or accelerator.ranks.size == 1:
        return loader
    return ShardedLoader(loader, accelerator.ranks, name=name)


def with_engine_callbacks(
    accelerator: Accelerator, callbacks: list[Callback], *, training: bool
) -> list[Callback]:
    """The callbacks, behind those that do what the accelerator is set to.

    Raises:
        ValueError: If the accelerator and a callback ask for different precisions.
    """
    engine: list[Callback] = []
    if accelerator.ranks.size > 1:
        engine.append(StandIns())
    if training and (accelerator.ranks.size > 1 or accelerator.accumulate > 1):
        engine.append(Gradients(accelerator.ranks, accelerator.accumulate))
    given = next((c for c in callbacks if isinstance(c, MixedPrecision)), None)
    if accelerator.ranks.spread and training:  # FSDP computes in its own precision
        if given is not None:
            raise ValueError(
                "`callbacks` must not hold MixedPrecision with FSDP: set the `mixed_precision` of "
                "the accelerate.Accelerator."
            )
        return [*engine, *callbacks]
    if accelerator.dtype is not None:
        if given is None:
            engine.append(MixedPrecision(dtype=accelerator.dtype))
        elif given.dtype not in (None, accelerator.dtype):
            raise ValueError(
                f"`mixed_precision` of the accelerator is {accelerator.dtype}, and MixedPrecision "
                f"of the callbacks {given.dtype}: give one of them."
            )
    return [*engine, *callbacks]


def check_accumulation(accelerator: Accelerator, module: nn.Module, optimizers: Optimizers) -> None:
    """Raise if several batches cannot make a step.

    Raises:
        ValueError: If the module has a step of its own, or several optimizers.
    """
    if accelerator.accumulate == 1:
        return
    reason = None
    if hasattr(unwrapped(module), "step"):
        reason = "the module's own `step` decides when to step"
    elif len(optimizers) > 1:
        reason = f"there are {len(optimizers)} optimizers, each with gradients of its own"
    if reason:
        raise ValueError(f"`accumulate` must be 1, got {accelerator.accumulate}: {reason}.")


def in_order(ranks: Ranks, own: list[Any]) -> list[Any]:
    """What each process made of its batches, in the order of the batches, on all of them."""
    if ranks.size == 1:
        return own
    groups = zip_longest(*ranks.gather(own), fillvalue=_MISSING)
    return [item for item in chain.from_iterable(groups) if item is not _MISSING]
