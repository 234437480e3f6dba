"""Every metric on the accelerator, with and without float64."""

import copy

import pytest
import simulated
import torch
import torchmetrics
from comparison import assert_same, on_both
from models import regression, unrelated

import luzpy as luz
from luzpy.metrics.adapters import as_metric
from luzpy.metrics.loss import LossAverage


def bias(preds, target):
    return (preds.flatten() - target.flatten()).mean()


OF_CLASSES = {"Accuracy", "MulticlassAUROC"}
NAMES = [name for name in luz.metrics.__all__ if name not in ("Metric", "MetricSet")]
METRICS = [
    *(getattr(luz.metrics, name)() for name in NAMES),
    luz.metrics.BinaryAUROC(50),
    luz.metrics.MulticlassAUROC(50, average="none"),
    luz.metrics.MulticlassAUROC(average="none"),
    bias,
    torchmetrics.MeanSquaredError(),
]  # fmt: skip
every_metric = pytest.mark.parametrize(
    "given", METRICS, ids=lambda m: getattr(m, "__name__", type(m).__name__)
)


def batches(given, count=5):
    generator = torch.Generator().manual_seed(3)
    shape = (30, 3) if type(given).__name__ in OF_CLASSES else (30,)
    for rows in [30] * (count - 1) + [7]:
        preds = torch.rand((rows, *shape[1:]), generator=generator)
        yield preds, torch.randint(2, (rows,), generator=generator)


def value_of(given, device):
    metric = as_metric(copy.deepcopy(given))
    metric.reset()
    for preds, target in batches(given):
        metric.update(preds.to(device), target.to(device))
    value = metric.compute()
    return value.tolist() if isinstance(value, torch.Tensor) else value


@every_metric
def test_it_computes_what_it_does_on_the_cpu(given, device):
    assert_same(value_of(given, "cpu"), value_of(given, device), device)


@every_metric
def test_it_can_do_without_float64(given, no_float64, device):
    expected = value_of(given, "cpu")
    assert value_of(given, device) == pytest.approx(expected, rel=1e-5, nan_ok=True)


@every_metric
def test_an_update_does_not_wait(given, counted, device):
    if isinstance(given, torchmetrics.Metric):
        pytest.skip("torchmetrics' own affair")
    metric = as_metric(copy.deepcopy(given))
    metric.reset()
    moved = [(preds.to(device), target.to(device)) for preds, target in batches(given)]
    simulated.reset()
    for preds, target in moved:
        metric.update(preds, target)
    assert counted()["reads"] == counted()["downloads"] == 0


@pytest.mark.parametrize("rows", [[32] * 300, [32] * 299 + [5]], ids=["even", "ragged"])
def test_the_loss_average_can_do_without_float64(rows, no_float64, device):
    losses = torch.rand(len(rows), generator=torch.Generator().manual_seed(1))
    average = LossAverage()
    for loss, count in zip(losses.to(device), rows, strict=True):
        average.update(loss, count)
    expected = (losses.double() * torch.tensor(rows)).sum() / sum(rows)
    assert average.compute() == pytest.approx(float(expected), rel=1e-5)


def test_a_run_can_do_without_float64(no_float64, device):
    data, valid = unrelated(200, 4), unrelated(70, 4, seed=2)
    spec = regression(4, metrics=[luz.metrics.MAE(), luz.metrics.RMSE()], seed=1)

    def run(accelerator):
        fitted = spec.fit(data, 2, valid_data=valid, accelerator=accelerator, verbose=False)
        found = spec.lr_finder(data, 10, valid_data=valid, accelerator=accelerator, verbose=False)
        evaluation = fitted.evaluate(valid, accelerator=accelerator, verbose=False)
        seen = [of.records["metrics"] for of in (fitted, evaluation)]
        return seen, found["valid_loss"].tolist()

    cpu, there = on_both(run)
    assert_same(cpu, there, device, 1e-5)
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(1, dtype=torch.float64, device=device)
