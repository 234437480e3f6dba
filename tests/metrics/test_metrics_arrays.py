"""Metrics that compute an array: one line, the array itself, a plot that fits the page."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score

import luzpy as luz

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
Y = X[:, :3].argmax(1)
METRICS = {
    "confusion_matrix": MulticlassConfusionMatrix(num_classes=3),
    "f1": MulticlassF1Score(num_classes=3, average=None),
    "many": lambda preds, target: 1.0,
}


@pytest.fixture(scope="module")
def fitted():
    model = luz.setup(lambda: nn.Linear(4, 3), nn.CrossEntropyLoss(), torch.optim.SGD, METRICS)
    model = model.set_opt_hparams(lr=0.1)
    return model.fit((X, Y), 2, valid_data=(X, Y), verbose=False)


def confusion(fitted):
    found = np.zeros((3, 3), int)
    for target, pred in zip(Y, fitted.model(X).argmax(1), strict=True):
        found[target, pred] += 1
    return found


def test_the_array_is_an_item_of_the_evaluation(fitted):
    evaluation = fitted.evaluate((X, Y), verbose=False)
    matrix = evaluation["confusion_matrix"]
    assert matrix.dtype.kind == "i"
    assert matrix.tolist() == confusion(fitted).tolist()
    own = 2 * matrix.diagonal() / (matrix.sum(0) + matrix.sum(1))
    assert evaluation["f1"] == pytest.approx(own)
    assert evaluation["f1_0"] == pytest.approx(own[0])


def test_the_array_is_in_the_records(fitted):
    arrays = fitted.records["arrays"]["valid"][1]
    assert arrays["confusion_matrix"] == confusion(fitted).tolist()
    assert len(fitted.records["arrays"]["train"]) == 2


def test_it_is_printed_in_one_line(fitted):
    lines = repr(fitted.evaluate((X, Y), verbose=False)).splitlines()
    assert "confusion_matrix: 3 x 3" in lines
    (line,) = [line for line in lines if line.startswith("f1")]
    assert line.startswith("f1: [")
    assert line.count(",") == 2
    assert not [line for line in repr(fitted).splitlines() if "f1_" in line or "matrix_" in line]


def test_the_line_of_an_epoch_is_short(capfd, fitted):
    fitted.spec.fit((X, Y), 1, verbose=True)
    line = capfd.readouterr().out.splitlines()[0]
    assert "confusion_matrix: 3 x 3 - f1: [" in line


def test_the_plot_leaves_matrices_out_but_on_request(fitted):
    shown = set(fitted.plot().data["metric"])
    assert shown == {"loss", "f1_0", "f1_1", "f1_2", "many"}
    assert set(fitted.plot(metrics=["confusion_matrix_0_1"]).data["metric"]) == {
        "confusion_matrix_0_1"
    }


def test_all_entries_of_an_array_are_drawn_by_its_name(fitted):
    assert list(fitted.plot(metrics=["loss", "f1"]).data["metric"].unique()) == [
        *("loss", "f1_0", "f1_1", "f1_2")
    ]


def test_many_values_are_printed_as_their_range():
    from luzpy.metrics.values import named_values, shown

    array = [0.5, 0.1, 0.9, 0.3, 0.2, 0.4]
    assert shown(named_values("auc", array), {"auc": array}) == {"auc": "0.1 to 0.9 (6 values)"}
