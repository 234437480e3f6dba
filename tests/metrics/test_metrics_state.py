"""A metric in the middle of an epoch survives a checkpoint, whatever it keeps."""

import pytest
import torch
import torchmetrics

from luzpy import metrics
from luzpy.metrics.base import FunctionMetric, TorchMetric
from luzpy.metrics.loss import LossAverage
from luzpy.plain import first_foreign, plain, unplain

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


KINDS = {
    "accuracy": (metrics.Accuracy, MANY, CLASSES),
    "binary accuracy": (metrics.BinaryAccuracy, MANY[..., 0], CLASSES % 2),
    "mae": (metrics.MAE, MANY, MANY[0] + 1),
    "rmse": (metrics.RMSE, MANY, MANY[0] + 1),
    "binary auroc": (metrics.BinaryAUROC, MANY[..., 0], CLASSES % 2),
    "exact auroc": (lambda: metrics.BinaryAUROC(num_thresholds=None), MANY[..., 0], CLASSES % 2),
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
    "a user's": (LastRow, MANY, CLASSES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_half_way_through_a_checkpoint_is_all_the_way(kind):
    make, preds, target = KINDS[kind]
    unbroken, first, second = make(), make(), make()
    for metric in (unbroken, first, second):
        metric.reset()
    for batch in preds:
        unbroken.update(batch, target)
    first.update(preds[0], target)
    state = plain(first.state_dict())
    assert first_foreign(state) is None
    second.load_state_dict(unplain(state))
    second.update(preds[1], target)
    assert second.compute() == unbroken.compute()


def test_the_mean_loss():
    losses = [torch.tensor(1.0), torch.tensor(4.0)]
    first, second = LossAverage(), LossAverage()
    first.update({"opt": losses[0]}, 3)
    second.load_state_dict(unplain(plain(first.state_dict())))
    second.update({"opt": losses[1]}, 1)
    assert second.compute() == (3 * 1.0 + 1 * 4.0) / 4
