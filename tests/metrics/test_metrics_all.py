"""What holds for every metric that `setup` takes."""

import copy
import math

import pytest
import torch
import torchmetrics
from torch import nn

import luzpy as luz
from luzpy.metrics import (
    MAE,
    MSE,
    RMSE,
    Accuracy,
    BinaryAccuracy,
    BinaryAccuracyWithLogits,
    BinaryAUROC,
    MulticlassAUROC,
)
from luzpy.metrics.adapters import as_metric


def bias(preds, target):
    return (preds.flatten() - target.flatten()).mean()


METRICS = [
    Accuracy(),
    BinaryAccuracy(),
    BinaryAccuracyWithLogits(),
    MAE(),
    MSE(),
    RMSE(),
    bias,
    torchmetrics.MeanSquaredError(),
    torchmetrics.classification.BinaryAccuracy(),
]
every_metric = pytest.mark.parametrize(
    "given", METRICS, ids=lambda m: getattr(m, "__name__", type(m).__name__)
)


def batch(given, seed, rows=6):
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (rows,), generator=g)
    shape = (rows, 2) if isinstance(given, Accuracy) else (rows,)
    return torch.rand(shape, generator=g), target


def value_of(metric, batches):
    for preds, target in batches:
        metric.update(preds, target)
    return float(metric.compute())


@every_metric
def test_reset_forgets_all_batches(given):
    metric = as_metric(copy.deepcopy(given))
    one, two = batch(given, 1), batch(given, 2)
    fresh = value_of(metric, [two])
    metric.reset()
    assert value_of(metric, [one, two]) == pytest.approx(value_of(metric, []))
    metric.reset()
    assert value_of(metric, [two]) == fresh


@every_metric
def test_the_order_of_batches_does_not_matter(given):
    batches = [batch(given, seed, rows=seed + 1) for seed in range(4)]
    forth = value_of(as_metric(copy.deepcopy(given)), batches)
    back = value_of(as_metric(copy.deepcopy(given)), batches[::-1])
    assert forth == pytest.approx(back, rel=1e-6)


@every_metric
def test_how_rows_are_batched_does_not_matter(given):
    preds, target = batch(given, 3, rows=11)
    whole = value_of(as_metric(copy.deepcopy(given)), [(preds, target)])
    ragged = value_of(
        as_metric(copy.deepcopy(given)), zip(preds.split(4), target.split(4), strict=True)
    )
    assert ragged == pytest.approx(whole, rel=1e-5)


@every_metric
def test_batches_are_not_changed(given):
    preds, target = batch(given, 4)
    before = preds.clone(), target.clone()
    as_metric(copy.deepcopy(given)).update(preds, target)
    assert torch.equal(preds, before[0])
    assert torch.equal(target, before[1])


@pytest.mark.parametrize(
    "metric",
    [
        *METRICS[:6],
        BinaryAUROC(),
        BinaryAUROC(200),
        MulticlassAUROC(),
        MulticlassAUROC(200, average="none"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_an_update_waits_for_no_device(metric):
    metric = copy.deepcopy(metric)
    several = isinstance(metric, (Accuracy, MulticlassAUROC))
    preds = torch.empty((6, 2) if several else (6,), device="meta")
    for _ in range(2):  # such tensors have no values that could be read
        metric.update(preds, torch.empty(6, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize("given", METRICS[:7])
def test_without_a_batch_it_is_not_a_number(given):
    metric = as_metric(given)
    metric.reset()
    assert math.isnan(metric.compute())


@every_metric
def test_a_run_never_changes_the_template(given):
    given = copy.deepcopy(given)
    state = {k: copy.deepcopy(v) for k, v in vars(as_metric(given)).items() if k != "metric"}
    out = 2 if isinstance(given, Accuracy) else 1
    loss = nn.CrossEntropyLoss() if out == 2 else nn.BCEWithLogitsLoss()
    target = torch.randint(2, (40,)) if out == 2 else torch.randint(2, (40, 1)).float()

    def make():
        return nn.Sequential(nn.Linear(3, out), nn.Identity() if out == 2 else nn.Sigmoid())

    model = luz.setup(make, loss, torch.optim.SGD, given)
    data, options = (torch.randn(40, 3), target), {"batch_size": 8}
    fitted = model.fit(data, 2, valid_data=0.3, verbose=False, dataloader_options=options)
    fitted.evaluate(data, verbose=False)
    (template,) = model.metrics.train
    assert {k: v for k, v in vars(template).items() if k != "metric"} == state
    if isinstance(given, torchmetrics.Metric):
        assert template.metric is given
        assert not given.update_called


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        (Accuracy(), True),
        (BinaryAccuracy(), True),
        (BinaryAccuracyWithLogits(), True),
        (BinaryAUROC(), True),
        (MulticlassAUROC(), True),
        (MAE(), False),
        (MSE(), False),
        (RMSE(), False),
        (torchmetrics.R2Score(), True),
        (torchmetrics.MeanSquaredError(), False),
        (torchmetrics.SumMetric(), None),
        (bias, None),
    ],
)
def test_a_metric_says_whether_higher_is_better(metric, higher):
    assert as_metric(metric).higher_is_better is higher


def test_a_users_metric_says_nothing_unless_it_is_told_to():
    class Mine(luz.Metric):
        def reset(self): ...
        def update(self, preds, target): ...
        def compute(self): ...

    def gain(preds, target):
        return 0.0

    gain.higher_is_better = True
    assert luz.Metric.higher_is_better is None
    assert Mine().higher_is_better is None
    assert as_metric(gain).higher_is_better is True
