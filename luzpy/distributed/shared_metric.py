"""Metrics over the batches of all processes."""

from __future__ import annotations

import copy
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, final

import torch

from luzpy.distributed.process_group import ProcessGroup
from luzpy.ground.nested import to_device
from luzpy.ground.primitives import from_primitives
from luzpy.ground.types import Batch, Values
from luzpy.metrics.adapters import TorchMetric
from luzpy.metrics.metric import Metric, disable_sync

CPU = torch.device("cpu")
# What of a metric's attributes says how it computes: alike on all ranks.
NOT_STATE = (FunctionType, BuiltinFunctionType, MethodType, type, torch.nn.Module)


@final
class SharedMetric(Metric):
    """A metric that every rank computes over all ranks' rows.

    It is not computed before the epoch's end, since all ranks have to take part.

    One that has `merge` accumulates its own rank's rows, and is merged when it is computed; one
    that is torchmetrics' gathers its states itself; any other is given all ranks' rows, batch by
    batch.

    Args:
        metric: The run's own copy of it.
        group: The processes.
        loader: Whose batches it is given.
        device: Where they are.
    """

    is_shared = True

    def __init__(
        self, metric: Metric, group: ProcessGroup, loader: object, device: torch.device
    ) -> None:
        self.metric = metric
        self.group = group
        self.loader = loader
        self.device = device
        self.abbrev: str = metric.abbrev
        if isinstance(metric, TorchMetric):  # its states are gathered where they are
            metric.to(device)
        self._merges = type(metric).merge is not Metric.merge
        self._takes_all = not self._merges and not metric.syncs_itself

    def reset(self) -> None:
        self.metric.reset()

    def update(self, preds: Batch, target: Batch) -> None:
        is_padding = getattr(self.loader, "is_padding", False)
        if self._takes_all:
            self._update_from_all(None if is_padding else (preds, target))
        elif not is_padding:
            self.metric.update(preds, target)

    def compute(self) -> Any:
        """The value over all ranks' rows. All of them call it."""
        if self.metric.syncs_itself:
            return self.metric.compute()
        if not self._merges:
            disable_sync(self.metric)
            return self.metric.compute()
        states = self.group.all_gather_object(self._local_state())
        copies = [copy.deepcopy(self.metric) for _ in states]
        for metric, state in zip(copies, states, strict=True):
            metric.load_state_dict(from_primitives(state))
        copies[0].merge(copies[1:])
        disable_sync(copies[0])
        return copies[0].compute()

    def state_dict(self) -> Values:
        return self.metric.state_dict()

    def load_state_dict(self, state: Values) -> None:
        self.metric.load_state_dict(state)

    def _local_state(self) -> Values:
        """Everything accumulated, including what a checkpoint cannot keep, such as an object."""
        state: Values = to_device(self.metric.state_dict(), CPU)
        if type(self.metric).state_dict is not Metric.state_dict:
            return state
        rest = {n: x for n, x in vars(self.metric).items() if n not in state}
        return state | {n: x for n, x in rest.items() if not isinstance(x, NOT_STATE)}

    def _update_from_all(self, local: tuple[Batch, Batch] | None) -> None:
        for batch in self.group.all_gather_object(to_device(local, CPU)):
            if batch is not None:
                self.metric.update(*to_device(batch, self.device))
