"""The mean loss of an epoch, over samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch

from luzpy.metrics.base import Metric

# To add in double precision takes longer than all else here: many losses are added at once.
LOSSES_AT_ONCE = 256
_NAMED: Any = (dict, Mapping)  # a dict is known at once, another Mapping is not


@final
class LossAverage(Metric):
    """The loss of each optimizer, averaged over samples.

    Batches are weighted by their rows (R luz weighs every batch alike, which a ragged last batch
    makes wrong). Sums are kept on the device, in double precision where it has it.

    Args:
        reused: Whether a loss may be overwritten by a later batch's: a step of the user's own may
            keep them all in one tensor.
    """

    abbrev = "Loss"

    def __init__(self, *, reused: bool = False) -> None:
        self.reused = reused
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.totals: dict[str, torch.Tensor] = {}
        self.rows: int = 0
        # Of the batches that are not in the totals yet: the losses, and how many rows they are of.
        self.recent: dict[str, list[torch.Tensor]] = {}
        self.recent_rows: dict[str, list[int]] = {}

    def update(self, preds: Any, target: Any) -> None:
        """Take in one batch's loss.

        Args:
            preds: `ctx.loss`: a scalar tensor, or a dict optimizer name → scalar tensor.
            target: The batch's number of rows.
        """
        losses = preds if isinstance(preds, _NAMED) else {"opt": preds}
        self.rows += target
        for name, loss in losses.items():
            if not isinstance(loss, torch.Tensor) or loss.ndim or loss.requires_grad:
                loss = torch.as_tensor(loss).detach().reshape(())
            recent = self.recent.get(name)
            if recent is None:
                recent, self.recent_rows[name] = self.recent.setdefault(name, []), []
            recent.append(loss.clone() if self.reused else loss)
            self.recent_rows[name].append(target)
            if len(recent) == LOSSES_AT_ONCE:
                self.totals[name] = self._total(name)
                self.recent[name], self.recent_rows[name] = [], []

    def merge(self, others: Sequence[Any]) -> None:
        """Add the other processes' totals."""
        names = [name for metric in (self, *others) for name in metric.recent]
        for name in dict.fromkeys(names):
            parts = [m._total(name) for m in (self, *others) if name in m.recent]
            self.totals[name] = torch.stack(parts).sum()
            self.recent[name], self.recent_rows[name] = [], []
        self.rows += sum(other.rows for other in others)

    def compute(self) -> float | dict[str, float]:
        """The mean loss, or one per optimizer where there are several."""
        means = {name: float(self._total(name)) / self.rows for name in self.recent}
        if not means:
            return float("nan")
        return next(iter(means.values())) if len(means) == 1 else means

    def _total(self, name: str) -> torch.Tensor:
        """All batches' losses, weighted by their rows."""
        before = self.totals.get(name)
        if not self.recent[name]:
            assert before is not None
            return before
        losses = torch.stack(self.recent[name])
        dtype = torch.float32 if losses.is_mps else torch.float64
        rows = self.recent_rows[name]
        if rows.count(rows[0]) == len(rows):  # all but an epoch's last: nothing goes to a GPU
            recent = losses.sum(dtype=dtype) * rows[0]
        else:
            recent = losses.to(dtype) @ torch.tensor(rows, dtype=dtype, device=losses.device)
        return recent if before is None else before + recent
