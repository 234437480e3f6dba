import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import luzpy as luz
from luzpy.metrics.values import named_values

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
        (np.array([0.25, 0.75]), {"const_0": 0.25, "const_1": 0.75}),
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
    with pytest.raises(TypeError, match="the metric 'Const' must compute a number"):
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
    with pytest.raises(RuntimeError, match="error in metric!") as caught:
        model(Failing(where)).fit((x, x[:, :1]), epochs=5, verbose=False)
    assert caught.value.__notes__ == [
        f"luzpy: in `{where}` of the metric 'h', at epoch 1, iteration {iteration} (training)."
    ]


def test_frames_hold_floats():
    frame = fit([Constant(3), lambda preds, target: 1.0]).get_metrics()
    assert pd.api.types.is_float_dtype(frame["value"])
