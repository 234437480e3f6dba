"""The mean loss of an epoch, over samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

import torch

from luzpy.metrics.base import Metric


@final
class LossAverage(Metric):
    """The loss of each optimizer, averaged over samples.

    Batches are weighted by their rows (R luz weighs every batch alike, which a ragged last batch
    makes wrong). Sums are kept on the device, in double precision where it has it.
    """

    abbrev = "Loss"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.totals: dict[str, torch.Tensor] = {}
        self.rows: int = 0

    def update(self, preds: Any, target: Any) -> None:
        """Take in one batch's loss.

        Args:
            preds: `ctx.loss`: a scalar tensor, or a dict optimizer name → scalar tensor.
            target: The batch's number of rows.
        """
        losses = cast("Mapping[str, Any]", preds if isinstance(preds, Mapping) else {"opt": preds})
        self.rows += target
        for name, loss in losses.items():
            total = self.totals.get(name)
            if total is None:
                loss = torch.as_tensor(loss)
                dtype = torch.float32 if loss.device.type == "mps" else torch.float64
                total = torch.zeros((), dtype=dtype, device=loss.device)
                self.totals[name] = total
            if isinstance(loss, torch.Tensor) and loss.ndim:
                loss = loss.reshape(())
            total.add_(loss, alpha=target)

    def compute(self) -> float | dict[str, float]:
        """The mean loss, or one per optimizer where there are several."""
        means = {name: float(total) / self.rows for name, total in self.totals.items()}
        if not means:
            return float("nan")
        return next(iter(means.values())) if len(means) == 1 else means
