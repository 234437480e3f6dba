"""Train and evaluation mode."""

from __future__ import annotations

from typing import final

from luzpy.callback import Callback
from luzpy.context import Context


@final
class TrainValid(Callback):
    """Puts the model in train mode for training and in eval mode for validation (a default)."""

    def on_train_begin(self, ctx: Context) -> None:
        """Train mode."""
        ctx.model.train()
        ctx.training = True
        ctx.loss = {}

    def on_valid_begin(self, ctx: Context) -> None:
        """Eval mode."""
        ctx.model.eval()
        ctx.training = False
        ctx.loss = {}
