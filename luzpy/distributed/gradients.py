"""The gradients of several batches and processes, as if of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, cast, final

import torch
from torch import nn

from luzpy.callback import Callback
from luzpy.context import Context, StopFit
from luzpy.distributed.ranks import Ranks
from luzpy.distributed.sharding import ShardedLoader
from luzpy.errors import LuzError
from luzpy.loop import trained_parameters, unwrapped
from luzpy.random_state import seed_all

# How many batches may pass before all ranks know that one of them was told to stop: fewer where
# they take longer than this many seconds together, for a launcher does not wait for long.
AGREE_EVERY = 10
AGREE_SECONDS = 1.0


@final
class Gradients(Callback):
    """Makes one step of the batches of all ranks and of several in a row.

    Every row counts alike: N ranks with batches of b rows, k of which make a step, take the steps
    of one process with batches of N·k·b rows, the short ones at the end of an epoch included.

    Args:
        ranks: The processes.
        accumulate: How many batches in a row make a step.
    """

    weight: float = float("-inf")  # before every callback that looks at gradients
    checkpointed = False  # a run may go on with another number of processes

    def __init__(self, ranks: Ranks, accumulate: int) -> None:
        self.ranks = ranks
        self.accumulate = accumulate

    def on_fit_begin(self, ctx: Context) -> None:
        """Take over the backward pass."""
        parallel = isinstance(ctx.model, nn.parallel.DistributedDataParallel)
        self._wrapped = parallel or self.ranks.spread
        self._averaged = self._scaled = False
        self._sync: AbstractContextManager[Any] | None = None
        self._agree_every, self._passed, self._since = 1, 0, perf_counter()
        self._backward: Callable[[torch.Tensor], Any] = ctx.backward
        self._loader = cast(ShardedLoader, ctx.train_data)
        wrapped = ctx.model.parameters() if self._wrapped else ()
        self._averages_itself = {id(p) for p in wrapped if p.requires_grad}
        ctx.backward = self._weighted_backward
        if self.ranks.size == 1:
            return
        ctx.at_safe_point.append(self._agree)
        seed = self.ranks.from_main(_next_seed())
        if self.ranks.rank:  # dropout is not to fall on the same units on every rank
            seed_all(seed + self.ranks.rank)
        if not self._wrapped:
            self.ranks.share_weights(unwrapped(ctx.model))
            for optimizer in ctx.optimizers.values():
                optimizer.register_step_pre_hook(self._before_own_step)
                optimizer.register_step_post_hook(self._after_step)

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Say where in a step the batch is."""
        loader = self._loader
        position = (ctx.iter - 1) % self.accumulate
        ctx.step_begins = position == 0
        ctx.step_ends = position == self.accumulate - 1 or loader.is_last
        gathered = 0 if ctx.step_begins else ctx.buffers["rows_of_step"]
        ctx.buffers["rows_of_step"] = gathered + loader.group_rows
        if ctx.step_begins:
            # A mean over a step's rows, if all its batches are as long as the first.
            ctx.buffers["rows_expected"] = self.accumulate * loader.group_rows
        self._gradient_scale = ctx.buffers["rows_expected"] / ctx.buffers["rows_of_step"]
        self._loss_scale = loader.rows * self.ranks.size / ctx.buffers["rows_expected"]
        self._averaged = self._scaled = False
        if self._wrapped and not ctx.step_ends:
            self._sync = self.ranks.unsynchronized(ctx.model)
            self._sync.__enter__()

    def on_train_batch_before_step(self, ctx: Context) -> None:
        """Average the gradients over ranks, where they are not yet."""
        if self.ranks.size > 1:
            self._averaged = False  # also if a step was skipped
            self._average(trained_parameters(ctx))
        if self._gradient_scale != 1:
            for parameter in trained_parameters(ctx):
                if parameter.grad is not None:
                    parameter.grad.mul_(self._gradient_scale)

    def on_train_batch_end(self, ctx: Context) -> None:
        """Synchronize again."""
        if self._sync is not None:
            self._sync.__exit__(None, None, None)
            self._sync = None

    def on_train_end(self, ctx: Context) -> None:
        """Go on with the same buffers on every rank, such as the statistics of batch norm."""
        if self.ranks.size > 1:
            _load_buffers_from_main(self.ranks, unwrapped(ctx.model))

    def _weighted_backward(self, loss: torch.Tensor) -> None:
        self._scaled = True
        if self._loss_scale != 1:
            with torch.enable_grad():
                loss = loss * self._loss_scale
        self._backward(loss)

    def _before_own_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """A module's own step may call the hook above, or not."""
        if any(argument is not None for argument in (*args[1:], *kwargs.values())):
            raise LuzError(
                "`step` must call the optimizer's `step()` without a closure in a distributed run: "
                "each process would evaluate it as often as its own rows ask for."
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        by_itself = not self._averaged and not self._scaled  # it called `loss.backward()`
        if by_itself and self._loss_scale != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self._loss_scale)
        self._average(parameters)

    def _after_step(self, *_: Any) -> None:
        self._averaged = self._scaled = False

    def _average(self, parameters: Iterable[nn.Parameter]) -> None:
        if self._averaged:
            return
        self._averaged = True
        # DistributedDataParallel knows what could be trained when it was made, and nothing else.
        left = [p for p in parameters if p.requires_grad and id(p) not in self._averages_itself]
        _average_gradients(self.ranks, left)

    def _agree(self, ctx: Context, part: str) -> None:
        """Stop all ranks if one was told to, at the same place."""
        self._passed += part != "fit"
        if part == "fit" or (part != "epoch" and self._passed < self._agree_every):
            return
        seconds = (perf_counter() - self._since) / self._passed
        requests, paces = zip(*self.ranks.gather((_packed(ctx.stop_wanted), seconds)), strict=True)
        self._passed, self._since = 0, perf_counter()
        self._agree_every = max(1, min(AGREE_EVERY, int(AGREE_SECONDS / max(paces))))
        told = [request for request in requests if request]
        if told:
            _load_buffers_from_main(self.ranks, unwrapped(ctx.model))
            ctx.stop_request = _unpacked(told[0])


def _next_seed() -> int:
    """A number from torch's generator, which stays as it is."""
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())
    return int(torch.randint(2**31, (), generator=generator).item())


def _load_buffers_from_main(ranks: Ranks, model: nn.Module) -> None:
    own = dict(model.named_buffers())
    if not own:
        return
    state = {name: buffer.cpu() for name, buffer in own.items()}
    for name, buffer in ranks.from_main(state if ranks.is_main else None).items():
        own[name].copy_(buffer)


def _average_gradients(ranks: Ranks, parameters: list[nn.Parameter]) -> None:
    """The mean over ranks; a gradient that one of them has not counts as zero there."""
    if not parameters:
        return
    present = [float(parameter.grad is not None) for parameter in parameters]
    flat = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters
    ]
    flags = flat[0].new_tensor(present)
    mean = ranks.mean(torch.cat([flags, *flat]))
    found = cast("list[float]", cast(Any, mean[: len(parameters)]).tolist())
    sizes = [p.numel() for p in parameters]
    parts: tuple[torch.Tensor, ...] = cast(Any, mean[len(parameters) :]).split(sizes)
    for parameter, part, some in zip(parameters, parts, found, strict=True):
        parameter.grad = part.reshape(parameter.shape).to(parameter.dtype) if some else None


def _packed(request: StopFit | SystemExit | None) -> tuple[Any, ...] | None:
    """A request to stop, to be sent to other ranks."""
    if request is None:
        return None
    if isinstance(request, StopFit):
        return ("stop", request.reason, request.hook)
    return ("exit", request.code)


def _unpacked(request: tuple[Any, ...]) -> StopFit | SystemExit:
    kind, *arguments = request
    return StopFit(*arguments) if kind == "stop" else SystemExit(*arguments)
