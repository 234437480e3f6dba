import copy
import functools

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from models import regression
from torch import nn
from torchmetrics.classification import (
    BinaryPrecision,
    BinaryRecall,
    MulticlassAccuracy,
    MulticlassF1Score,
)

import luzpy as luz
from luzpy.metrics.adapters import FunctionMetric, as_metric

X = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


def model(metrics):
    return regression(metrics=metrics, lr=0.0, seed=1)


def fit(metrics, epochs=1, **options):
    """Two columns of metrics at the initial weights: the learning rate is zero."""
    return model(metrics).fit((X, Y), epochs, verbose=False, dataloader_options=options or None)


# FunctionMetric


def absolute(preds, target):
    return (preds - target).abs().mean()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_a_function_is_averaged_over_samples(n, batch_size, seed):
    g = torch.Generator().manual_seed(seed)
    preds, target = torch.randn(n, generator=g), torch.randn(n, generator=g)
    metric = as_metric(absolute)
    for p, t in zip(preds.split(batch_size), target.split(batch_size), strict=True):
        metric.update(p, t)
    expected = np.abs(preds.numpy() - target.numpy()).mean()
    assert metric.compute() == pytest.approx(float(expected), rel=1e-4)


def test_a_function_is_called_by_its_name():
    fitted = fit([absolute, lambda preds, target: 1.0, functools.partial(absolute)])
    assert list(fitted.get_metrics()["metric"]) == ["loss", "absolute", "<lambda>", "partial"]


@pytest.mark.parametrize("value", [2, 2.0, np.float64(2), torch.tensor(2.0), torch.tensor([2])])
def test_a_function_may_return_any_kind_of_number(value):
    metric = FunctionMetric(lambda preds, target: value)
    metric.update(torch.zeros(3), torch.zeros(3))
    metric.update(torch.zeros(1), torch.zeros(1))
    assert metric.compute() == 2


@pytest.mark.parametrize(
    "batch",
    [
        lambda x: (x, None),
        lambda x: ((x, x, x), None),
        lambda x: ({"a": x}, None),
        lambda x: (x, {"y": x}),
        lambda x: ((x, x), (x, x, x)),
        lambda x: (x, ["text"] * len(x)),
    ],
)
def test_rows_are_counted_in_nested_batches_too(batch):
    # The values 1 and 4 over 3 rows and 1: (3 * 1 + 1 * 4) / 4.
    values = iter([1.0, 4.0])
    metric = FunctionMetric(lambda preds, target: next(values))
    for rows in (3, 1):
        metric.update(*batch(torch.zeros(rows, 5)))
    assert metric.compute() == 7 / 4


# TorchMetric


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 60), batch_size=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_a_torchmetric_is_computed_over_all_rows(n, batch_size, seed):
    g = torch.Generator().manual_seed(seed)
    scores, target = torch.randn(n, 3, generator=g), torch.randint(3, (n,), generator=g)
    metric = as_metric(MulticlassF1Score(3, average="macro"))
    for p, t in zip(scores.split(batch_size), target.split(batch_size), strict=True):
        metric.update(p, t)
    expected = torchmetrics.functional.f1_score(
        scores, target, task="multiclass", num_classes=3, average="macro"
    )
    assert metric.compute().item() == pytest.approx(expected.item())


def test_a_torchmetric_starts_afresh_in_every_epoch():
    fitted = fit(torchmetrics.MeanSquaredError(), epochs=3, batch_size=50, shuffle=False)
    values = [epoch["meansquarederror"] for epoch in fitted.records["metrics"]["train"]]
    expected = ((model(None)()(X) - Y) ** 2).mean().item()
    assert values == pytest.approx([expected] * 3, rel=1e-5)


def test_a_vector_of_torchmetrics_has_a_row_for_each_class():
    torch.manual_seed(0)
    scores, target = torch.randn(64, 3), torch.randint(3, (64,))
    metric = MulticlassAccuracy(3, average=None)
    made = luz.setup(lambda: nn.Linear(3, 3), nn.CrossEntropyLoss(), torch.optim.SGD, metric)
    found = made.fit((scores, target), 1, verbose=False).evaluate((scores, target), verbose=False)
    rows = found.records["metrics"]["valid"][0]
    assert [name for name in rows if name != "loss"] == [
        f"multiclassaccuracy_{i}" for i in range(3)
    ]


def test_a_collection_has_a_row_for_each_of_its_metrics():
    collection = torchmetrics.MetricCollection(
        [torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()]
    )
    fitted = model(collection).fit((X, Y), 1, verbose=False)
    error = (fitted.model(X) - Y).detach()
    expected = {
        "loss": (error**2).mean().item(),
        "meansquarederror": (error**2).mean().item(),
        "meanabsoluteerror": error.abs().mean().item(),
    }
    assert fitted.evaluate((X, Y), verbose=False).records["metrics"]["valid"][0] == pytest.approx(
        expected, rel=1e-5
    )


def test_metrics_of_a_collection_that_have_one_state_go_on_sharing_it():
    metric = as_metric(torchmetrics.MetricCollection([BinaryPrecision(), BinaryRecall()]))
    for _ in range(2):
        metric.update(torch.rand(8), torch.arange(8) % 2)
    precision, recall = metric.metric.values(copy_state=False)
    assert precision.tp is recall.tp


def test_metrics_can_be_copied_with_what_they_hold():
    metric = as_metric(absolute)
    metric.update(torch.ones(2), torch.zeros(2))
    copied = copy.deepcopy(metric)
    copied.update(torch.zeros(2), torch.zeros(2))
    assert (metric.compute(), copied.compute()) == (1.0, 0.5)


def test_a_failing_function_is_named():
    def broken(preds, target):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="`update` of the metric 'broken', at epoch 1"):
        fit(broken)


# What is not a metric


@pytest.mark.parametrize("given", [luz.metrics.MAE, torchmetrics.MeanSquaredError, nn.L1Loss])
def test_a_class_instead_of_an_instance_is_refused(given):
    with pytest.raises(TypeError, match=rf"got the class {given.__name__}: write {given.__name__}"):
        as_metric(given)


@pytest.mark.parametrize("given", ["accuracy", 1, nn.L1Loss(), luz.metrics.MetricSet(), [absolute]])
def test_what_is_not_a_metric_is_refused(given):
    with pytest.raises(TypeError, match="`metrics` must hold luzpy metrics, torchmetrics metrics"):
        as_metric(given)
