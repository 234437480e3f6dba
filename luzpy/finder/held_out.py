"""The callback that computes the held-out loss of a short training."""

from __future__ import annotations

from typing import final

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.finder.record_loss import RecordLoss
from luzpy.finder.validation import validation_losses
from luzpy.ground.types import Batch, Data


@final
class HeldOutLoss(Callback):
    """Computes the loss of each held-out batch when a training is over.

    Attributes:
        losses: The loss of each batch.
        rows: How many rows each of these has.
    """

    runs_last = True

    def __init__(self, data: Data, record: RecordLoss) -> None:
        self.data = data
        self.record = record
        self.losses: list[float] = []
        self.rows: list[int] = []

    def on_fit_end(self, ctx: Context) -> None:
        others = [callback for callback in ctx.callbacks if not callback.runs_last]
        seen = validation_losses(ctx, self.data, others, self.record.loss_of)
        if seen:
            means: Batch = ctx.accelerator.mean(torch.stack([loss.reshape(()) for loss, _ in seen]))
            self.losses = means.tolist()
            self.rows = [rows for _, rows in seen]
