"""The callback that computes the held-out loss of a short training run."""

from __future__ import annotations

from typing import final

import attrs
import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.finder.record_loss import RecordLoss
from luzpy.finder.validation import validation_losses
from luzpy.ground.types import Batch, Data


@attrs.frozen
class HeldOut:
    """What a training comes to.

    Attributes:
        losses: The loss of each held-out batch after it; not a number where it diverged.
        rows: How many rows each of these has.
    """

    losses: list[float]
    rows: list[int]


@final
class HeldOutLoss(Callback):
    """Computes the loss of each held-out batch at the end of a training run.

    Attributes:
        found: What it is in each model that was trained; empty if there was nothing to judge on.
    """

    runs_last = True

    def __init__(self, data: Data, record: RecordLoss) -> None:
        self.data = data
        self.record = record
        self.found: list[HeldOut] = []

    def on_fit_end(self, ctx: Context) -> None:
        others = [callback for callback in ctx.callbacks if not callback.runs_last]
        seen = validation_losses(ctx, self.data, others, self.record.loss_of)
        if seen:
            means: Batch = ctx.accelerator.mean(torch.stack([loss.reshape(-1) for loss, _ in seen]))
            rows = [rows for _, rows in seen]
            self.found = [HeldOut(losses, rows) for losses in means.T.tolist()]
