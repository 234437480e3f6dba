"""Metrics of rows that are spread over the ranks."""

import numpy as np
import pytest
import torch
from models import MSE, Scale
from scenarios import RANK, B, N, fit, metric, options, place, rows, scenario, setup
from torch import nn

import luzpy as luz

pytestmark = pytest.mark.slow


class Largest(luz.metrics.Metric):
    """Without `merge`."""

    abbrev = "Largest"

    def reset(self):
        self.value, self.count = float("-inf"), 0

    def update(self, preds, target):
        self.value = max(self.value, float(preds.max()))
        self.count += len(preds)

    def compute(self):
        return {"value": self.value, "rows": self.count}


class Distinct(luz.metrics.Metric):
    """With `merge`, and things that are neither tensors nor plain values."""

    abbrev = "Distinct"

    def __init__(self):
        self.bag = Bag()
        self.squared = lambda x: x.square()

    def reset(self):
        self.bag.clear()
        vars(self).pop("rows", None)
        self.longest = None
        self.squares = np.zeros(2)

    def update(self, preds, target):
        for value in preds.flatten().tolist():
            self.bag.add(value)
        self.rows = getattr(self, "rows", 0) + len(target)
        self.longest = max(self.longest or 0, len(target))
        self.squares += [float(self.squared(preds).sum()), len(target)]

    def merge(self, others):
        for other in others:
            if hasattr(other, "rows"):  # it has seen a batch
                self.bag.values |= other.bag.values
                self.rows = getattr(self, "rows", 0) + other.rows
                self.longest = max(self.longest or 0, other.longest)
                self.squares += other.squares

    def compute(self):
        total, n = self.squares
        return {"seen": len(self.bag.values), "rows": self.rows, "square": total / n}


class Bag:
    """Something of a user's own, emptied in place."""

    def __init__(self):
        self.values = set()

    def add(self, value):
        self.values.add(value)

    def clear(self):
        self.values.clear()


class Within(luz.metrics.Metric):
    """Without `merge`, on a metric of torchmetrics."""

    abbrev = "Within"

    def __init__(self):
        import torchmetrics  # which takes long: only where it is needed

        self.parts = [torchmetrics.SumMetric()]

    def reset(self):
        self.parts[0].reset()

    def update(self, preds, target):
        self.parts[0].update(target.float())

    def compute(self):
        return self.parts[0].compute()


def absolute(preds, target):
    return (preds.flatten() - target.flatten()).abs().mean()


def binary_rows():
    """Sorted by class: a rank may have one class only."""
    generator = torch.Generator().manual_seed(8)
    target = torch.arange(N) >= 60
    return (0.25 * target + 0.7 * torch.rand(N, generator=generator)), target.float()


def class_rows():
    generator = torch.Generator().manual_seed(9)
    target = torch.arange(N) // 34
    logits = torch.randn(N, 3, generator=generator) + nn.functional.one_hot(target, 3)
    return logits.softmax(1), target


def evaluated(data, metrics, loss, n=N):
    model = setup(Scale, loss=loss, lr=0.0)
    fitted = fit(data, model, 1, loader=options(drop_last=False))
    part = tuple(tensor[:n] for tensor in data)
    evaluation = fitted.evaluate(
        part,
        metrics,
        accelerator=place(),
        verbose=False,
        dataloader_options={"batch_size": B},
    )
    return evaluation.records["metrics"]["valid"][0]


@metric("one two three accelerate")
def binary_metrics():
    import torchmetrics

    exact = luz.metrics.BinaryAUROC(num_thresholds=None)
    exact.abbrev = "exact"
    metrics = [
        luz.metrics.BinaryAUROC(),
        exact,
        luz.metrics.MAE(),
        luz.metrics.RMSE(),
        luz.metrics.BinaryAccuracy(),
        absolute,
        Largest(),
        Distinct(),
        Within(),
        torchmetrics.MeanAbsoluteError(),
        torchmetrics.MetricCollection(
            {
                "tm_auc": torchmetrics.AUROC(task="binary"),
                "tm_mse": torchmetrics.MeanSquaredError(),
            }
        ),
    ]
    return evaluated(binary_rows(), metrics, MSE)


@pytest.mark.parametrize("run", ["one", "two", "three", "accelerate"])
def test_binary_metrics_are_sklearns(ranks, run):
    from sklearn.metrics import (
        accuracy_score,
        mean_absolute_error,
        mean_squared_error,
        roc_auc_score,
    )

    scores, target = (part.double().numpy() for part in binary_rows())
    area = roc_auc_score(target, scores)
    squared = mean_squared_error(target, scores)
    absolute = mean_absolute_error(target, scores)
    expected = {
        "loss": squared,
        "exact": area,
        "mae": absolute,
        "rmse": squared**0.5,
        "acc": accuracy_score(target, scores > 0.5),
        "absolute": absolute,
        "largest_value": scores.max(),
        "largest_rows": 101,
        "distinct_seen": len(set(scores)),
        "distinct_rows": 101,
        "distinct_square": (scores**2).mean(),
        "within": target.sum(),
        "tm_auc": area,
        "tm_mse": squared,
        "meanabsoluteerror": absolute,
    }
    for result in ranks(binary_metrics, run):
        found = dict(result)
        assert found.pop("auc") == pytest.approx(area, abs=5e-3)  # at 200 thresholds
        assert found == pytest.approx(expected, rel=1e-5)


@metric("one two")
def one_class_a_rank():
    """Six rows of one class, then six of the other."""
    scores, _ = binary_rows()
    data = scores, (torch.arange(N) // 6 % 2).float()
    exact = luz.metrics.BinaryAUROC(num_thresholds=None)
    exact.abbrev = "exact"
    return evaluated(data, [luz.metrics.BinaryAUROC(), exact], MSE, 96)


@pytest.mark.parametrize("run", ["one", "two"])
def test_a_rank_with_one_class_only_is_not_judged_by_itself(ranks, run):
    from sklearn.metrics import roc_auc_score

    scores, _ = binary_rows()
    target = torch.arange(96) // 6 % 2
    area = roc_auc_score(target, scores[:96])
    for found in ranks(one_class_a_rank, run):
        assert found["exact"] == pytest.approx(area, rel=1e-5)
        assert found["auc"] == pytest.approx(area, abs=5e-3)


@metric("one two")
def class_metrics(n=N):
    import torchmetrics

    metrics = [luz.metrics.Accuracy()]
    metrics.append(torchmetrics.classification.MulticlassAccuracy(3, average="micro"))
    for average in ("micro", "macro", "weighted", "none"):
        for thresholds in (200, None):
            metric = luz.metrics.MulticlassAUROC(num_thresholds=thresholds, average=average)
            metric.abbrev = f"{average}_{thresholds}"
            metrics.append(metric)
    return evaluated(class_rows(), metrics, nn.functional.nll_loss, n)


@pytest.mark.parametrize("run", ["one", "two"])
def test_multiclass_metrics_are_sklearns(ranks, run):
    from sklearn.metrics import accuracy_score, roc_auc_score

    scores, target = (part.numpy() for part in class_rows())
    share = accuracy_score(target, scores.argmax(1))
    one_hot = torch.eye(3)[target]
    for found in ranks(class_metrics, run):
        assert found["acc"] == pytest.approx(share)
        assert found["multiclassaccuracy"] == pytest.approx(share)
        for average in ("micro", "macro", "weighted"):
            area = roc_auc_score(one_hot, scores, average=average)
            assert found[f"{average}_none"] == pytest.approx(area, rel=1e-5)
            assert found[f"{average}_200"] == pytest.approx(area, abs=5e-3)


@metric("one two three")
def class_metrics_of_few():
    """Most ranks have not one row."""
    return class_metrics(2)


@metric("one two")
def metrics_in_training():
    model = setup(Scale, lr=0.0, metrics=[Largest(), Distinct(), Within(), absolute])
    fitted = fit(binary_rows(), model, 2, loader=options(drop_last=False))
    return {"epochs": fitted.records["metrics"]["train"]}


@scenario("one two")
def main_rank_alone():
    """After a run of all ranks the main one goes on by itself; nobody waits for anybody."""
    fit(rows(), loader=options())
    if RANK:
        return {}
    import torchmetrics

    alone = luz.Accelerator(cpu=True, distributed=False)
    model = setup(Scale, lr=0.0)
    x, y = binary_rows()
    fitted = fit((x, y), model, 1, accelerator=alone)
    metrics = [luz.metrics.BinaryAUROC(), torchmetrics.MeanSquaredError(), Within()]
    evaluation = fitted.evaluate((x, y), metrics, accelerator=alone, verbose=False)
    return evaluation.records["metrics"]["valid"][0]


def test_the_main_rank_may_go_on_alone(ranks):
    """Its metrics of torchmetrics do not wait for the others."""
    assert ranks(main_rank_alone, "two")[0] == ranks(main_rank_alone, "one")[0]
