"""Averages of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import nn
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,  # pyright: ignore[reportUnknownVariableType]
    update_bn,
)

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit, internals
from luzpy.core.modules import unwrapped
from luzpy.data.batches import batches
from luzpy.ground.arguments import check_choice, check_count, check_flag, check_number
from luzpy.ground.types import Batch, Values

CUT_SHORT = ("interrupted", "terminated")


@final
class EMA(Callback):
    """Averages the weights during training, and uses the average for everything else.

    After every step, `average = decay * average + (1 - decay) * weights`, using torch's
    `AveragedModel`. From the end of an epoch's training until the next one begins, the model has
    the average: this is what is validated, written to files, and returned. Buffers, such as the
    batch norm statistics, are those of the trained model. `AutoResume` keeps both.

    `EMA(decay=None, update_on="epoch", from_epoch=6, update_bn=True)` is stochastic weight
    averaging: the plain mean of the weights at the end of the epochs from the sixth on.

    Args:
        decay: The weight of the average so far; None for a plain mean.
        from_epoch: The first epoch, counted from 1, that is averaged. Before that, the model has
            the trained weights.
        update_on: `"batch"`, after each step, or `"epoch"`, at the end of each.
        update_bn: Whether to recompute the batch norm statistics for the average at the end, in one
            pass through the training data, as `torch.optim.swa_utils.update_bn` does. Not if the
            fit was interrupted.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `decay` is not in [0, 1), or another argument is out of bounds.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.EMA(decay=0.99)
        <luzpy.callbacks.EMA: decay 0.99>
    """

    weight: float = float("-inf")  # others see the average at the end of training

    def __init__(
        self,
        decay: float | None = 0.999,
        *,
        from_epoch: int = 1,
        update_on: str = "batch",
        update_bn: bool = False,
    ) -> None:
        if decay is not None:
            check_number("decay", decay, minimum=0)
            if decay >= 1:
                raise ValueError(f"`decay` must be in [0, 1), or None, got {decay!r}.")
        check_count("from_epoch", from_epoch)
        check_choice("update_on", update_on, ("batch", "epoch"))
        check_flag("update_bn", update_bn)
        self.decay = decay
        self.from_epoch = from_epoch
        self.update_on = update_on
        self.update_bn = update_bn
        self._begin()

    def _begin(self) -> None:
        self._own: nn.ParameterList | None = None  # the model's parameters
        self._averaged: Any = None  # of an equal list: in it is what the model has not
        self._is_swapped = False

    def on_fit_begin(self, ctx: Context) -> None:
        if ctx.accelerator.is_sharded:
            raise ValueError("`callbacks` must not hold EMA with FSDP, which shards the weights.")
        self._begin()
        self._own = nn.ParameterList(unwrapped(ctx.model).parameters())
        make: Any = get_ema_multi_avg_fn
        average = None if self.decay is None else make(self.decay)
        self._averaged = AveragedModel(self._own, multi_avg_fn=average)
        at_exit(ctx, self._begin)

    def on_epoch_begin(self, ctx: Context) -> None:
        self._swap(averaged=False)

    def on_train_batch_end(self, ctx: Context) -> None:
        if self.update_on == "batch" and internals(ctx).ends_step:
            self._update(ctx)

    def on_train_end(self, ctx: Context) -> None:
        if self.update_on == "epoch":
            self._update(ctx)
        self._swap(averaged=True)

    def on_fit_end(self, ctx: Context) -> None:
        self._swap(averaged=True)
        is_cut_short = internals(ctx).stop.reason in CUT_SHORT
        if self.update_bn and self._is_swapped and not is_cut_short:
            update_bn(_inputs(ctx), _Called(ctx))

    def state_dict(self) -> Values:
        if self._averaged is None:
            return {}
        return {
            "n_averaged": self._averaged.n_averaged,
            "other": [parameter.detach() for parameter in self._averaged.parameters()],
            "is_swapped": self._is_swapped,
        }

    def load_state_dict(self, state: Values) -> None:
        if not state or self._averaged is None:
            return
        self._averaged.n_averaged.copy_(state["n_averaged"])
        with torch.no_grad():
            for own, saved in zip(self._averaged.parameters(), state["other"], strict=True):
                own.copy_(saved)
        self._is_swapped = state["is_swapped"]

    def __repr__(self) -> str:
        shown = "mean" if self.decay is None else f"decay {self.decay:g}"
        return f"<luzpy.callbacks.EMA: {shown}>"

    def _update(self, ctx: Context) -> None:
        if ctx.epoch >= self.from_epoch:
            self._averaged.update_parameters(self._own)

    def _swap(self, *, averaged: bool) -> None:
        """Let the model have the average, or what is trained, and keep the other one."""
        if self._own is None or averaged is self._is_swapped:
            return
        if averaged and not self._averaged.n_averaged:
            return
        with torch.no_grad():
            for own, other in zip(self._own, self._averaged.parameters(), strict=True):
                held = own.clone()
                own.copy_(other)
                other.copy_(held)
        self._is_swapped = averaged


@final
class _Called(nn.Module):
    """A run's model, called with an input as in a step."""

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        self.model = ctx.model
        unpacking = internals(ctx).unpacking
        self.by_keyword = unpacking is not None and unpacking.by_keyword

    def forward(self, input: Batch) -> Batch:
        """Call it."""
        return self.model(**input) if self.by_keyword else self.model(input)


def _inputs(ctx: Context) -> Iterator[Batch]:
    """The inputs of the training data, on the device."""
    assert ctx.train_data is not None
    for batch in batches(ctx.train_data):
        ctx.batch = ctx.accelerator.prepare_batch(batch, ctx.device)
        yield [ctx.input]
