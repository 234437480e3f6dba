"""The gradients of several batches and processes, as those of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, final

import torch
from torch import nn

from luzpy.core.callback import Callback
from luzpy.core.context import Context, internals
from luzpy.core.modules import trained_parameters, unwrapped
from luzpy.data.portions import Portions
from luzpy.distributed.process_group import ProcessGroup
from luzpy.distributed.sharding import ShardedLoader
from luzpy.ground.errors import LuzError
from luzpy.ground.random_state import seed_all

OPTIMIZER: Any = torch.optim.Optimizer


@final
class GradientSync(Callback):
    """Makes one step from the batches of all ranks, and from several consecutive ones.

    Every row counts alike: N ranks with batches of b rows, k of which make a step, take the steps
    of one process with batches of N·k·b rows, the short ones at the end of an epoch included.
    """

    weight: float = float("-inf")  # before every callback that looks at gradients

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def on_fit_begin(self, ctx: Context) -> None:
        parallel = isinstance(ctx.model, nn.parallel.DistributedDataParallel)
        self._wrapped = parallel or self.group.is_sharded
        self._averaged = self._scaled = False
        self._sync: AbstractContextManager[object] | None = None
        self._backward: Callable[[torch.Tensor], object] = ctx.backward
        data = ctx.train_data
        loader = data.loader if isinstance(data, Portions) else data
        assert isinstance(loader, ShardedLoader)
        self._loader = loader
        wrapped = ctx.model.parameters() if self._wrapped else ()
        self._averages_itself = {id(p) for p in wrapped if p.requires_grad}
        ctx.backward = self._weighted_backward
        if self.group.size == 1:
            return
        seed = self.group.broadcast_object(_next_seed())
        if self.group.rank:  # dropout must not drop the same units on every rank
            seed_all(seed + self.group.rank)
        if not self._wrapped:
            self.group.broadcast_weights(unwrapped(ctx.model))
            if not hasattr(unwrapped(ctx.model), "step"):
                return  # luzpy's own step calls the hook below
            for name, optimizer in ctx.optimizers.items():
                if not isinstance(optimizer, OPTIMIZER):
                    raise LuzError(
                        f"The optimizer {name!r} must be a torch.optim.Optimizer, in several "
                        f"processes and with a `step` of the module's own, got "
                        f"{type(optimizer).__name__}."
                    )
                optimizer.register_step_pre_hook(self._before_step)
                optimizer.register_step_post_hook(self._after_step)

    def on_train_batch_begin(self, ctx: Context) -> None:
        loader, run = self._loader, internals(ctx)
        run.starts_step, run.ends_step = loader.starts_step, loader.ends_step
        # Batches as long as the step's first one give the mean over its rows.
        self._gradient_scale = loader.expected_rows / loader.step_rows
        self._loss_scale = loader.rows * self.group.size / loader.expected_rows
        self._averaged = self._scaled = False
        if self._wrapped and not run.ends_step:
            self._sync = self.group.no_sync(ctx.model)
            self._sync.__enter__()

    def on_train_batch_before_step(self, ctx: Context) -> None:
        if self.group.size > 1:
            self._averaged = False  # also if a step was skipped
            self._average(trained_parameters(ctx))
        _scale_gradients(trained_parameters(ctx), self._gradient_scale)

    def on_train_batch_end(self, ctx: Context) -> None:
        if self._sync is not None:
            self._sync.__exit__(None, None, None)
            self._sync = None

    def on_train_end(self, ctx: Context) -> None:
        # For example batch norm's statistics.
        broadcast_buffers(self.group, unwrapped(ctx.model))

    def _weighted_backward(self, loss: torch.Tensor) -> None:
        self._scaled = True
        if self._loss_scale != 1:
            with torch.enable_grad():
                loss = loss * self._loss_scale
        self._backward(loss)

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """For a module with a `step`, which may call the hook `before_step`, or not."""
        if any(argument is not None for argument in (*args[1:], *kwargs.values())):
            raise LuzError(
                "`step` must call the optimizer's `step()` without a closure in a distributed run: "
                "each process would evaluate it a different number of times."
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not self._averaged and not self._scaled:  # it called `loss.backward()` itself
            _scale_gradients(parameters, self._loss_scale)
        self._average(parameters)

    def _after_step(self, *_: object) -> None:
        self._averaged = self._scaled = False

    def _average(self, parameters: Iterable[nn.Parameter]) -> None:
        if self._averaged:
            return
        self._averaged = True
        # DistributedDataParallel knows what could be trained when it was made, and nothing else.
        left = [p for p in parameters if p.requires_grad and id(p) not in self._averages_itself]
        _average_gradients(self.group, left)


def _next_seed() -> int:
    """A number from torch's generator, whose state is left unchanged."""
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    return int(torch.randint(2**31, (), generator=generator).item())


def broadcast_buffers(group: ProcessGroup, model: nn.Module) -> None:
    """Give `model` the main rank's buffers."""
    buffers = dict(model.named_buffers())
    if buffers and group.size > 1:
        for name, buffer in group.broadcast_object(buffers).items():
            buffers[name].copy_(buffer)


def _scale_gradients(parameters: list[nn.Parameter], scale: float) -> None:
    for parameter in parameters if scale != 1 else ():
        if parameter.grad is not None:
            parameter.grad.mul_(scale)


def _average_gradients(group: ProcessGroup, parameters: list[nn.Parameter]) -> None:
    """The mean over ranks; a missing gradient counts as zero."""
    if not parameters:
        return
    present = [float(parameter.grad is not None) for parameter in parameters]
    flat = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters
    ]
    flags = flat[0].new_tensor(present)
    mean = group.all_reduce_mean(torch.cat([flags, *flat]))
    found = (mean[: len(parameters)] != 0).cpu()
    parts = torch.split(mean[len(parameters) :], [p.numel() for p in parameters])
    for parameter, part, some in zip(parameters, parts, found, strict=True):
        parameter.grad = part.reshape(parameter.shape).to(parameter.dtype) if some else None
