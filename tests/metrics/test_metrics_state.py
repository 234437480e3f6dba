"""A metric in the middle of an epoch survives a checkpoint, whatever it keeps."""

import pytest
import torch
import torchmetrics
from torchmetrics.classification import BinaryPrecision, BinaryRecall
from torchmetrics.wrappers import BootStrapper, MinMaxMetric, Running

from luzpy import metrics
from luzpy.ground.primitives import find_unsupported, from_primitives, to_primitives
from luzpy.metrics.adapters import FunctionMetric, TorchMetric
from luzpy.metrics.loss import LossAverage

MANY = torch.softmax(torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1)), -1)
CLASSES = torch.arange(40) % 3


class LastRow(metrics.Metric):
    """A user's metric, with a NumPy array and a function among its attributes."""

    def __init__(self):
        self.function = abs
        self.reset()

    def reset(self):
        self.row = None

    def update(self, preds, target):
        self.row = preds[-1].numpy()

    def compute(self):
        return float(self.function(self.row.sum()))


def collected():
    """Precision and recall are of one compute group: they have one state."""
    return torchmetrics.MetricCollection(
        [BinaryPrecision(), BinaryRecall(), torchmetrics.MeanSquaredError()]
    )


class Holder(metrics.Metric):
    """A user's metric, on one of torchmetrics."""

    def __init__(self, held):
        self.held = held

    def reset(self):
        self.held.reset()

    def update(self, preds, target):
        self.held.update(preds, target)

    def compute(self):
        return self.held.compute()


KINDS = {
    "accuracy": (metrics.Accuracy, MANY, CLASSES),
    "binary accuracy": (metrics.BinaryAccuracy, MANY[..., 0], CLASSES % 2),
    "mae": (metrics.MAE, MANY, MANY[0] + 1),
    "rmse": (metrics.RMSE, MANY, MANY[0] + 1),
    "binary auroc": (metrics.BinaryAUROC, MANY[..., 0], CLASSES % 2),
    "auroc by thresholds": (lambda: metrics.BinaryAUROC(50), MANY[..., 0], CLASSES % 2),
    "micro auroc": (metrics.MulticlassAUROC, MANY, CLASSES),
    "auroc of each": (lambda: metrics.MulticlassAUROC(average="none"), MANY, CLASSES),
    "function": (lambda: FunctionMetric(lambda p, t: (p - t).mean()), MANY, MANY[0] + 1),
    "torchmetrics": (lambda: TorchMetric(torchmetrics.MeanSquaredError()), MANY, MANY[0] + 1),
    "collection": (
        lambda: TorchMetric(
            torchmetrics.MetricCollection(
                [torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()]
            )
        ),
        MANY,
        MANY[0] + 1,
    ),
    "groups": (lambda: TorchMetric(collected()), MANY[..., 0], CLASSES % 2),
    "groups within": (lambda: Holder(collected()), MANY[..., 0], CLASSES % 2),
    "list states": (lambda: TorchMetric(torchmetrics.AUROC("binary")), MANY[..., 0], CLASSES % 2),
    "extremes": (lambda: TorchMetric(MinMaxMetric(torchmetrics.R2Score())), MANY[..., 0], CLASSES),
    "extremes within": (
        lambda: Holder(MinMaxMetric(torchmetrics.R2Score())),
        MANY[..., 0],
        CLASSES,
    ),
    "window": (lambda: TorchMetric(Running(torchmetrics.R2Score(), 2)), MANY[..., 0], CLASSES),
    "bootstrap": (
        lambda: TorchMetric(BootStrapper(torchmetrics.MeanSquaredError(), 3)),
        MANY,
        MANY[0] + 1,
    ),
    "a user's": (LastRow, MANY, CLASSES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_half_way_through_a_checkpoint_is_all_the_way(kind):
    make, preds, target = KINDS[kind]
    unbroken, first, second = make(), make(), make()
    for metric in (unbroken, first, second):
        metric.reset()
    for metric in (unbroken, first):
        update(metric, preds[0], target)
        half_way = metric.compute()  # as the progress bar does
    state = to_primitives(first.state_dict())
    assert find_unsupported(state) is None
    second.load_state_dict(from_primitives(state))
    assert second.compute() == half_way
    for metric in (unbroken, second):
        update(metric, preds[1], target)
    assert second.compute() == unbroken.compute()


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_after_the_last_batch_has_all(kind):
    make, preds, target = KINDS[kind]
    first, second = make(), make()
    for metric in (first, second):
        metric.reset()
    for batch in preds:
        update(metric=first, preds=batch, target=target)
    second.load_state_dict(from_primitives(to_primitives(first.state_dict())))
    assert second.compute() == first.compute()


def update(metric, preds, target):
    torch.manual_seed(int(preds.sum() * 1000))  # a bootstrap draws
    metric.update(preds, target)


def test_the_mean_loss():
    losses = [torch.tensor(1.0), torch.tensor(4.0)]
    first, second = LossAverage(), LossAverage()
    first.update({"opt": losses[0]}, 3)
    second.load_state_dict(from_primitives(to_primitives(first.state_dict())))
    second.update({"opt": losses[1]}, 1)
    assert second.compute() == (3 * 1.0 + 1 * 4.0) / 4
