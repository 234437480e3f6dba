"""Train and evaluation mode."""

from __future__ import annotations

from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context


@final
class TrainValid(Callback):
    """Puts the model in train mode for training and in eval mode for validation (a default)."""

    def on_train_begin(self, ctx: Context) -> None:
        ctx.model.train()
        ctx.training = True
        ctx.loss = {}

    def on_valid_begin(self, ctx: Context) -> None:
        ctx.model.eval()
        ctx.training = False
        ctx.loss = {}
