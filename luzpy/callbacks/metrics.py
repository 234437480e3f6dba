"""The metrics of every epoch."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any, final

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context, internals, where
from luzpy.core.loss import scores_of
from luzpy.core.modules import learning_rates, unwrapped
from luzpy.ground.devices import widest_float
from luzpy.ground.errors import LuzError, add_note
from luzpy.ground.nested import detached, map_nested
from luzpy.ground.records import (
    epochs_done,
    forget_rates,
    set_array,
    set_best,
    set_epoch_rates,
    set_partial,
)
from luzpy.ground.types import Values
from luzpy.metrics.loss import LossAverage, with_parts
from luzpy.metrics.metric import Metric, disable_sync
from luzpy.metrics.values import arrays_in, named_values


@final
class Metrics(Callback):
    """Accumulates the loss and the metrics, and logs them at the end of every epoch (a default).

    `records["lr"][optimizer][epoch - 1]` are the learning rates, one for each parameter group; if
    an `LRScheduler` steps per batch, each is a list with the rates of the epoch's batches.

    An epoch cut short by Ctrl-C or `ctx.stop` is logged too, for the batches that it had.
    `ctx.metrics` has the run's own copies of the metrics, the loss first.
    Port of R luz's `luz_callback_metrics()`.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, list[Metric]] = {}
        self._device = torch.device("cpu")
        self._accumulated: dict[int, set[str]] = {}
        self._under_way: str | None = None
        self._is_open = False

    def on_fit_begin(self, ctx: Context) -> None:
        self._metrics, self._device = ctx.metrics, ctx.device
        self._accumulated, self._under_way, self._is_open = {}, None, False
        for split in ctx.metrics:
            _copy_templates(ctx, split)

    def on_epoch_begin(self, ctx: Context) -> None:
        self._is_open = True

    def on_train_begin(self, ctx: Context) -> None:
        self._begin(ctx, "train")
        for name in ctx.optimizers:
            forget_rates(ctx.records, name, ctx.epoch)

    def on_train_batch_end(self, ctx: Context) -> None:
        _update(ctx, "train")

    def on_train_end(self, ctx: Context) -> None:
        _log(ctx, "train")
        _log_rates(ctx)
        self._under_way = None

    def on_valid_begin(self, ctx: Context) -> None:
        self._begin(ctx, "valid")

    def on_valid_batch_end(self, ctx: Context) -> None:
        _update(ctx, "valid")

    def on_valid_end(self, ctx: Context) -> None:
        _log(ctx, "valid")
        self._under_way = None

    def on_epoch_end(self, ctx: Context) -> None:
        self._is_open = False

    def on_fit_end(self, ctx: Context) -> None:
        set_best(ctx.records, None)
        if self._is_open:
            _log_partial(ctx, self._under_way)
        self._is_open = False

    def state_dict(self) -> Values:
        """The state for a checkpoint in the middle of an epoch: everything accumulated so far.

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

    def load_state_dict(self, state: Values) -> None:
        device = self._device
        dtypes = {torch.float64: widest_float(device)}  # the file may be of another device

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, dtypes.get(tensor.dtype, tensor.dtype))

        for split, states in state.items():
            for metric, saved in zip(self._metrics[split], states, strict=True):
                metric.load_state_dict(map_nested(moved, saved))

    def _begin(self, ctx: Context, split: str) -> None:
        if not ctx.metrics[split]:  # `evaluate` has no on_fit_begin
            _copy_templates(ctx, split)
        for metric in ctx.metrics[split]:
            before = dict(metric.__dict__)
            metric.reset()
            anew = {name for name, item in metric.__dict__.items() if before.get(name) is not item}
            self._accumulated[id(metric)] = anew
        self._under_way = split
        internals(ctx).loss_parts.clear()


def _copy_templates(ctx: Context, split: str) -> None:
    loss = LossAverage(
        own_step=hasattr(unwrapped(ctx.model), "step"), summed=internals(ctx).is_loss_summed
    )
    metrics: list[Metric] = [loss, *copy.deepcopy(getattr(internals(ctx).metric_set, split))]
    loader = ctx.train_data if split == "train" else ctx.valid_data
    ctx.metrics[split] = [ctx.accelerator.prepare_metric(metric, loader) for metric in metrics]


def _update(ctx: Context, split: str) -> None:
    loss, *others = ctx.metrics[split]
    run = internals(ctx)
    parts = run.loss_parts
    loss.update(with_parts(ctx.loss, parts) if parts else ctx.loss, run.n_rows)
    if not others:
        return
    preds = detached(scores_of(ctx.pred) if run.loss_is_outputs else ctx.pred)
    target = ctx.target
    for metric in others:
        try:
            metric.update(preds, target)
        except Exception as err:
            _annotate(err, ctx, metric, "update")
            raise


def _log(ctx: Context, split: str) -> None:
    for metric in ctx.metrics[split]:
        _log_metric(ctx, split, metric)


def _log_metric(ctx: Context, split: str, metric: Metric) -> None:
    rows, arrays = computed(ctx, metric)
    for name, value in rows.items():
        ctx.log_metric(name, value)
    for name, array in arrays.items():
        set_array(ctx.records, split, max(ctx.epoch, 1), name, array)


def _log_rates(ctx: Context) -> None:
    for name, optimizer in ctx.optimizers.items():
        set_epoch_rates(ctx.records, name, ctx.epoch, learning_rates(optimizer))


def _log_partial(ctx: Context, under_way: str | None) -> None:
    """Log an epoch that was cut short, for the batches that it had."""
    batch = 0 if under_way else ctx.iter
    metrics = [] if under_way is None else ctx.metrics[under_way]
    shared = any(metric.is_shared for metric in metrics)
    if metrics and not (shared and internals(ctx).is_cut_short):  # in one process alone
        loss: Any = metrics[0]
        batch = getattr(loss, "metric", loss).count
        for metric in metrics if batch else ():
            with suppress(Exception):  # a fit that was interrupted is not lost for a metric
                _log_metric(ctx, under_way or "train", metric)
    if epochs_done(ctx.records) == ctx.epoch:
        _log_rates(ctx)
        split = under_way or ("train" if ctx.training else "valid")
        set_partial(ctx.records, ctx.epoch, split, batch)


def computed(ctx: Context, metric: Metric) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """The rows, and any arrays, that `metric` computes from the batches so far."""
    if not metric.is_shared:  # though several processes may have been launched
        disable_sync(metric)
    try:
        value = metric.compute()
        return named_values(metric.abbrev, value), arrays_in(metric.abbrev, value)
    except Exception as err:
        _annotate(err, ctx, metric, "compute")
        raise


def _annotate(err: Exception, ctx: Context, metric: Metric, method: str) -> None:
    note = f"in `{method}` of the metric {metric.abbrev!r}, {where(ctx)}."
    if isinstance(ctx.target, tuple):
        note += (
            " The target is a tuple, as Mixup and CutMix make it: give metrics that want a tensor "
            "to `setup` as MetricSet(valid_metrics=...)."
        )
    add_note(err, note)
