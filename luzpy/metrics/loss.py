"""The mean loss of an epoch, over samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self, final

import torch

from luzpy.ground.devices import stacked, widest_float
from luzpy.ground.nested import is_mapping
from luzpy.ground.types import Batch
from luzpy.metrics.metric import Metric

# To add in double precision takes longer than all else here: many losses are added at once.
LOSSES_AT_ONCE = 256
NEVER = 2**62
OF = "\n"  # between an optimizer's name and that of a part of its loss


def with_parts(losses: Batch, parts: Mapping[str, Mapping[str, Batch]]) -> Batch:
    """The losses by name, each with the parts that it is the sum of."""
    named = {f"{name}{OF}{part}": x for name, own in parts.items() for part, x in own.items()}
    return {**losses, **named}


@final
class LossAverage(Metric):
    """The loss of each optimizer, averaged over samples.

    Batches are weighted by their rows (R luz weighs every batch alike, which a ragged last batch
    makes wrong). Sums are kept on the device, in double precision where it has it.

    Args:
        own_step: Whether a step of the user's own gives the losses: one may be overwritten by a
            later batch's, and one that is alone keeps its name.
        summed: Whether they are sums over a batch's rows, not means.
    """

    abbrev = "Loss"
    higher_is_better = False

    def __init__(self, *, own_step: bool = False, summed: bool = False) -> None:
        self.own_step = self.reused = own_step
        self.summed = summed
        self.reset()

    def reset(self) -> None:
        # By name: the sum of all rows' losses and how many rows, and the batches not in it yet:
        # their losses, rows and numbers.
        self.totals: dict[str, tuple[torch.Tensor, int]] = {}
        self.recent: dict[str, tuple[list[torch.Tensor], list[int], list[int]]] = {}
        self.count: int = 0  # of batches
        # By name: the first batch in the totals whose loss is not finite, from 0; on the device.
        self.first: dict[str, torch.Tensor] = {}

    def update(self, preds: Batch, target: int) -> None:
        """Take in one batch's loss.

        Args:
            preds: `ctx.loss`: a scalar tensor, or a dict optimizer name → scalar tensor, with the
                parts of a loss beside it, as `with_parts` names them.
            target: The batch's number of rows.
        """
        if not target:  # the mean over no rows is NaN
            return
        self.count += 1
        losses: Mapping[str, Batch] = preds
        if type(preds) is not dict and not is_mapping(preds):
            losses = {"opt": preds}
        for name, loss in losses.items():
            if not isinstance(loss, torch.Tensor) or loss.ndim or loss.requires_grad:
                loss = torch.as_tensor(loss).detach().reshape(())
            recent = self.recent.get(name)
            if recent is None:
                recent = self.recent[name] = ([], [], [])
                # torch's own may lie in the memory of the losses of all items.
                self.reused |= loss.untyped_storage().nbytes() > loss.element_size()
            parts, rows, numbers = recent
            parts.append(loss.clone() if self.reused else loss)
            rows.append(target)
            numbers.append(self.count)
            if len(rows) == LOSSES_AT_ONCE:
                self.first[name] = self._first(name)
                self.totals[name] = self._total(name)
                self.recent[name] = ([], [], [])

    def compute(self) -> float | dict[str, float]:
        """The mean loss; one per name where there are several; nothing where there is none."""
        totals = {name: self._total(name) for name in self.recent}
        means = {name: float(total) / rows for name, (total, rows) in totals.items()}
        owners = {name for name in means if OF not in name}
        if len(owners) == 1 and (not self.own_step or owners == {"opt"}):
            (owner,) = owners
            means = {name.removeprefix(owner).removeprefix(OF): x for name, x in means.items()}
            return means[""] if len(means) == 1 else means
        return {name.replace(OF, "_"): mean for name, mean in means.items()}

    def first_not_finite(self) -> dict[str, int]:
        """The first batch, from 1, whose loss was NaN or infinite, of each optimizer that has one.

        It is read from the device: ask when the mean is not finite.
        """
        found = {name: int(self._first(name)) for name in self.recent}
        return {name: batch + 1 for name, batch in found.items() if batch < NEVER}

    def merge(self, others: Sequence[Self]) -> None:
        metrics = (self, *others)
        for name in dict.fromkeys(name for metric in metrics for name in metric.recent):
            parts = [metric._total(name) for metric in metrics if name in metric.recent]
            totals, rows = zip(*parts, strict=True)
            self.totals[name] = stacked(totals).sum(), sum(rows)
            self.recent[name] = ([], [], [])

    def _first(self, name: str) -> torch.Tensor:
        """The first batch so far whose loss is not finite, from 0; NEVER if there is none."""
        parts, rows, numbers = self.recent[name]
        before = self.first.get(name)
        if not rows:
            return torch.tensor(NEVER) if before is None else before
        wrong = ~stacked(parts).isfinite()
        at = torch.tensor(numbers, device=wrong.device) - 1
        found = torch.where(wrong, at, NEVER).min()
        return found if before is None else torch.minimum(before, found)

    def _total(self, name: str) -> tuple[torch.Tensor, int]:
        """The sum of all rows' losses, and how many rows."""
        parts, rows, _ = self.recent[name]
        if not rows:
            return self.totals[name]
        losses = stacked(parts)
        dtype = widest_float(losses.device)
        if self.summed:
            total = losses.sum(dtype=dtype)
        elif rows.count(rows[0]) == len(rows):  # all but an epoch's last: nothing goes to a GPU
            total = losses.sum(dtype=dtype) * rows[0]
        else:
            total = losses.to(dtype) @ torch.tensor(rows, dtype=dtype, device=losses.device)
        before, rows_before = self.totals.get(name, (0, 0))
        return before + total, rows_before + sum(rows)
