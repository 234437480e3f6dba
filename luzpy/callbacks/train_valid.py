"""Train and evaluation mode."""

from __future__ import annotations

from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.core.optimizers import set_modes


@final
class TrainValid(Callback):
    """Puts the model in train mode for training and in eval mode for validation (a default).

    It does the same for optimizers that have modes, the schedule-free ones: the weights at the end
    of an epoch, in validation, in files and in the fitted model are the evaluation weights.
    """

    def on_train_begin(self, ctx: Context) -> None:
        ctx.model.train()
        set_modes(ctx.optimizers.values(), training=True)
        ctx.training = True
        ctx.loss = {}

    def on_train_end(self, ctx: Context) -> None:
        set_modes(ctx.optimizers.values(), training=False)

    def on_valid_begin(self, ctx: Context) -> None:
        ctx.model.eval()
        ctx.training = False
        ctx.loss = {}

    def on_fit_end(self, ctx: Context) -> None:
        set_modes(ctx.optimizers.values(), training=False)  # the epoch may have been broken off
