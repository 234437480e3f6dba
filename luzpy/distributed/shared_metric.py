"""Metrics over the batches of all processes."""

from __future__ import annotations

import copy
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, final

import torch

from luzpy.device import to_device
from luzpy.distributed.ranks import Ranks
from luzpy.metrics.base import Metric, TorchMetric, keep_to_itself
from luzpy.plain import unplain

CPU = torch.device("cpu")
# What of a metric's attributes says how it computes: alike on all ranks.
NOT_STATE = (FunctionType, BuiltinFunctionType, MethodType, type, torch.nn.Module)


@final
class SharedMetric(Metric):
    """A metric that every rank computes over all ranks' rows.

    One that has `merge` accumulates its own rank's rows, and is merged when it is computed; one
    that is torchmetrics' gathers its states itself; any other is given all ranks' rows, batch by
    batch.

    Args:
        metric: The run's own copy of it.
        ranks: The processes.
        device: Where this one's batches are.
    """

    def __init__(self, metric: Metric, ranks: Ranks, device: torch.device) -> None:
        self.metric = metric
        self.ranks = ranks
        self.device = device
        self.abbrev: str = metric.abbrev
        if isinstance(metric, TorchMetric):  # its states are gathered where they are
            metric.to(device)
        self._merges = type(metric).merge is not Metric.merge
        self._gathers = not self._merges and not metric.gathers_itself

    def reset(self) -> None:
        """Forget all batches."""
        self.metric.reset()

    def update(self, preds: Any, target: Any) -> None:
        """Take in a batch."""
        if self._gathers:
            self._take_in((preds, target))
        else:
            self.metric.update(preds, target)

    def skip(self) -> None:
        """Take in what the other ranks have: this one has no batch left."""
        if self._gathers:
            self._take_in(None)

    def compute(self) -> Any:
        """The value over all ranks' rows. All of them call it."""
        if self.metric.gathers_itself:
            return self.metric.compute()
        if not self._merges:
            keep_to_itself(self.metric)
            return self.metric.compute()
        states = self.ranks.gather(self._own_state())
        copies = [copy.deepcopy(self.metric) for _ in states]
        for own, state in zip(copies, states, strict=True):
            own.load_state_dict(unplain(state))
        copies[0].merge(copies[1:])
        keep_to_itself(copies[0])
        return copies[0].compute()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self.metric.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.metric.load_state_dict(state)

    def _own_state(self) -> dict[str, Any]:
        """All that was accumulated, also what a checkpoint cannot keep, such as an object."""
        state: dict[str, Any] = to_device(self.metric.state_dict(), CPU)
        if type(self.metric).state_dict is not Metric.state_dict:
            return state
        own = vars(self.metric).items()
        return state | {n: x for n, x in own if n not in state and not isinstance(x, NOT_STATE)}

    def _take_in(self, own: Any) -> None:
        for batch in self.ranks.gather(to_device(own, CPU)):
            if batch is not None:
                self.metric.update(*to_device(batch, self.device))
