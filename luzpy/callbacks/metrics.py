"""The metrics of every epoch."""

from __future__ import annotations

import copy
from typing import Any, cast, final

import torch

from luzpy.callback import Callback
from luzpy.context import Context
from luzpy.data import map_tensors
from luzpy.device import to_device
from luzpy.distributed.shared_metric import SharedMetric
from luzpy.errors import LuzError
from luzpy.loop import unwrapped
from luzpy.metrics.base import Metric, keep_to_itself, named_values
from luzpy.metrics.loss import LossAverage


@final
class Metrics(Callback):
    """Accumulates the loss and the metrics, and logs them at the end of every epoch (a default).

    `ctx.metrics` holds the run's own copies of the metrics, the loss first.
    Port of R luz's `luz_callback_metrics()`.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, list[Metric]] = {}
        self._device = torch.device("cpu")
        self._accumulated: dict[int, set[str]] = {}
        self._under_way: str | None = None

    def on_fit_begin(self, ctx: Context) -> None:
        """The run's own copies."""
        self._metrics, self._device = ctx.metrics, ctx.device
        self._accumulated, self._under_way = {}, None
        for split in ctx.metrics:
            _copy_templates(ctx, split)

    def on_train_begin(self, ctx: Context) -> None:
        """Fresh metrics for the epoch."""
        self._begin(ctx, "train")

    def on_train_batch_end(self, ctx: Context) -> None:
        """Take in a batch."""
        _update(ctx, "train")

    def on_train_end(self, ctx: Context) -> None:
        """Log the epoch's values."""
        _log(ctx, "train")
        self._under_way = None

    def on_valid_begin(self, ctx: Context) -> None:
        """Fresh metrics for the epoch."""
        self._begin(ctx, "valid")

    def on_valid_batch_end(self, ctx: Context) -> None:
        """Take in a batch."""
        _update(ctx, "valid")

    def on_valid_end(self, ctx: Context) -> None:
        """Log the epoch's values."""
        _log(ctx, "valid")
        self._under_way = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint in the middle of an epoch keeps: all that was accumulated so far.

        Raises:
            LuzError: If a metric has accumulated something that a checkpoint cannot keep.
        """
        kept = {
            split: [metric.state_dict() for metric in metrics]
            for split, metrics in self._metrics.items()
        }
        if self._under_way is not None:
            for metric, state in zip(
                self._metrics[self._under_way], kept[self._under_way], strict=True
            ):
                lost = self._accumulated.get(id(metric), set()) - state.keys()
                if lost and type(metric).state_dict is Metric.state_dict:
                    raise LuzError(
                        f"The metric {metric.abbrev!r} must accumulate tensors and plain values to "
                        f"be resumed in the middle of an epoch, got {', '.join(sorted(lost))}: "
                        "write its `state_dict` and `load_state_dict`."
                    )
        return kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for split, states in state.items():
            for metric, saved in zip(self._metrics[split], states, strict=True):
                metric.load_state_dict(to_device(saved, self._device))

    def _begin(self, ctx: Context, split: str) -> None:
        if not ctx.metrics[split]:  # `evaluate` has no on_fit_begin
            _copy_templates(ctx, split)
        for metric in ctx.metrics[split]:
            before = dict(metric.__dict__)
            metric.reset()
            anew = {name for name, item in metric.__dict__.items() if before.get(name) is not item}
            self._accumulated[id(metric)] = anew
        self._under_way = split


def _copy_templates(ctx: Context, split: str) -> None:
    loss = LossAverage(reused=hasattr(unwrapped(ctx.model), "step"))
    metrics: list[Metric] = [loss, *copy.deepcopy(getattr(ctx.metric_set, split))]
    ranks = ctx.accelerator.ranks
    if ranks.size > 1:
        metrics = [SharedMetric(metric, ranks, ctx.device) for metric in metrics]
    ctx.metrics[split] = metrics


def _update(ctx: Context, split: str) -> None:
    loss, *others = ctx.metrics[split]
    if ctx.stands_in:
        for metric in others:
            cast(SharedMetric, metric).skip()
        return
    loss.update(ctx.loss, ctx.batch_size)
    if not others:
        return
    preds, target = detached(ctx.pred), ctx.target
    for metric in others:
        try:
            metric.update(preds, target)
        except Exception as err:
            raise _failure(ctx, metric, "update", err) from err


def _log(ctx: Context, split: str) -> None:
    for metric in ctx.metrics[split]:
        for name, value in computed(ctx, metric).items():
            ctx.log_metric(name, value)


def computed(ctx: Context, metric: Metric) -> dict[str, float]:
    """The rows that `metric` makes of the batches so far."""
    if ctx.accelerator.ranks.size == 1:  # though there may be other processes
        keep_to_itself(metric)
    try:
        return named_values(metric.abbrev, metric.compute())
    except Exception as err:
        raise _failure(ctx, metric, "compute", err) from err


def detached(pred: Any) -> Any:
    """A prediction without its graph."""
    if isinstance(pred, torch.Tensor):
        return pred.detach() if pred.requires_grad else pred
    if isinstance(pred, (tuple, list, dict)):
        try:
            return map_tensors(torch.Tensor.detach, pred)
        except TypeError:  # something in it is neither a tensor nor a container
            return cast(Any, pred)
    return pred


def _failure(ctx: Context, metric: Metric, method: str, err: Exception) -> LuzError:
    failure = ctx.failure(f"`{method}` of the metric {metric.abbrev!r}", err)
    if isinstance(ctx.target, tuple):
        failure.add_note(
            "The target is a tuple, as Mixup and CutMix make it: give metrics that want a tensor "
            "to `setup` as MetricSet(valid_metrics=...)."
        )
    return failure
