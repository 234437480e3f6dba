import copy
import functools

import numpy as np
import pandas as pd
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

import luzpy as luz
from luzpy.metrics.base import FunctionMetric, as_metric, format_value, named_values

X = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


def model(metrics):
    made = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, metrics, seed=1)
    return made.set_hparams(in_features=3, out_features=1).set_opt_hparams(lr=0.0)


def fit(metrics, epochs=1, **options):
    """Two columns of metrics at the initial weights: the learning rate is zero."""
    return model(metrics).fit((X, Y), epochs, verbose=False, dataloader_options=options or None)


class Constant(luz.Metric):
    """Computes whatever it was given."""

    abbrev = "Const"

    def __init__(self, value):
        self.value = value

    def reset(self):
        pass

    def update(self, preds, target):
        pass

    def compute(self):
        return self.value


# R: test-metrics.R, "Can create a simple metric"
def test_a_metric_of_ones_own_sees_every_batch():
    class Steps(luz.Metric):
        def __init__(self, y):
            self.y = y

        def reset(self):
            self.z = 0

        def update(self, preds, target):
            self.z += self.y

        def compute(self):
            return self.z

    fitted = fit(Steps(y=2), epochs=3)
    assert [epoch["steps"] for epoch in fitted.records["metrics"]["train"]] == [6, 6, 6]


# R: test-metrics.R, "metrics run in the environments they are created"
def test_a_metric_sees_the_names_of_where_it_was_written():
    answer = 2

    def hello(preds, target):
        return answer

    assert fit(hello).records["metrics"]["train"][0]["hello"] == 2


def test_metrics_get_what_the_model_said_without_its_graph():
    seen = []

    def watched(preds, target):
        seen.append((preds.requires_grad, torch.is_grad_enabled()))
        return 0.0

    fit(watched)
    assert set(seen) == {(False, False)}


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (3, {"const": 3.0}),
        (np.float32(0.5), {"const": 0.5}),
        (torch.tensor(0.25), {"const": 0.25}),
        (torch.tensor([0.25]), {"const": 0.25}),
        (torch.tensor([0.25, 0.75]), {"const_0": 0.25, "const_1": 0.75}),
        (
            torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
            {"const_0_0": 1.0, "const_0_1": 2.0, "const_1_0": 3.0, "const_1_1": 4.0},
        ),
        ({"Up": 1.0, "Down": torch.tensor(2.0)}, {"const_up": 1.0, "const_down": 2.0}),
        ({"a": [1, 2]}, {"const_a_0": 1.0, "const_a_1": 2.0}),
        ((1.0, 2.0), {"const_0": 1.0, "const_1": 2.0}),
    ],
)
def test_a_value_of_several_parts_has_a_row_for_each(value, rows):
    assert named_values("Const", value) == rows
    fitted = fit([Constant(value)])
    assert fitted.records["metrics"]["train"] == [
        {"loss": pytest.approx(((model(None)()(X) - Y) ** 2).mean().item(), rel=0.5), **rows}
    ]


@pytest.mark.parametrize("value", [None, "good", object()])
def test_a_value_that_is_no_number_is_refused(value):
    with pytest.raises(luz.LuzError, match=r"`compute` of the metric 'Const'|metric 'Const' must"):
        fit(Constant(value))


def test_names_are_lower_cased():
    assert list(fit(luz.metrics.RMSE()).get_metrics()["metric"]) == ["loss", "rmse"]


def test_a_class_without_an_abbrev_is_called_by_its_name():
    class Bias(Constant):
        pass

    class Other(luz.Metric):
        def reset(self): ...
        def update(self, preds, target): ...
        def compute(self): ...

    assert Bias(1).abbrev == "Const"  # inherited
    assert Other().abbrev == "Other"


def test_a_metric_without_compute_cannot_be_made():
    class Half(luz.Metric):
        def reset(self): ...
        def update(self, preds, target): ...

    with pytest.raises(TypeError, match="compute"):
        Half()


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


# What is not a metric


@pytest.mark.parametrize("given", [luz.metrics.MAE, torchmetrics.MeanSquaredError, nn.L1Loss])
def test_a_class_instead_of_an_instance_is_refused(given):
    with pytest.raises(TypeError, match=rf"got the class {given.__name__}: write {given.__name__}"):
        as_metric(given)


@pytest.mark.parametrize("given", ["accuracy", 1, nn.L1Loss(), luz.metrics.MetricSet(), [absolute]])
def test_what_is_not_a_metric_is_refused(given):
    with pytest.raises(TypeError, match="`metrics` must hold luzpy metrics, torchmetrics metrics"):
        as_metric(given)


# Failures


class Failing(Constant):
    abbrev = "h"

    def __init__(self, where):
        self.where = where

    def update(self, preds, target):
        if self.where == "update":
            raise RuntimeError("error in metric!")

    def compute(self):
        raise RuntimeError("error in metric!")


# R: test-metrics.R, "get a nice error message when metric fails updating", "error gracefully on
# failed `compute`."
@pytest.mark.parametrize(("where", "iteration"), [("update", 1), ("compute", 31)])
def test_a_failure_says_which_metric_and_where(where, iteration):
    x = torch.randn(1000, 3)
    pattern = (
        f"`{where}` of the metric 'h' failed at epoch 1, iteration {iteration} \\(training\\): "
        "RuntimeError: error in metric!"
    )
    with pytest.raises(luz.LuzError, match=pattern) as caught:
        model(Failing(where)).fit((x, x[:, :1]), epochs=5, verbose=False)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_failing_function_is_named():
    def broken(preds, target):
        raise KeyError("lost")

    with pytest.raises(luz.LuzError, match="`update` of the metric 'broken' failed at epoch 1"):
        fit(broken)


# Printing


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (0.5, "0.5"),
        (1.0, "1"),
        (1.00004, "1"),
        (1234.5, "1234.5"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (-0.25, "-0.25"),
        (1234567.0, "1.23457e+06"),
    ],
)
def test_values_are_printed_with_four_decimals(value, text):
    assert format_value(value) == text


def test_metrics_can_be_copied_with_what_they_hold():
    metric = as_metric(absolute)
    metric.update(torch.ones(2), torch.zeros(2))
    copied = copy.deepcopy(metric)
    copied.update(torch.zeros(2), torch.zeros(2))
    assert (metric.compute(), copied.compute()) == (1.0, 0.5)


def test_frames_hold_floats():
    frame = fit([Constant(3), absolute]).get_metrics()
    assert pd.api.types.is_float_dtype(frame["value"])
