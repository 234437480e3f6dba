"""Metrics under names of the user's own: `metrics={"f1": ...}`."""

import pytest
import torch
from models import line, regression
from torchmetrics import MeanAbsoluteError, MetricCollection

import luzpy as luz

X, Y = line()


def fit(metrics):
    return regression(3, metrics=metrics).fit((X, Y), 1, valid_data=(X, Y), verbose=False)


def test_every_kind_of_metric_may_have_a_name():
    own = luz.metrics.MAE()
    named = {
        "First": own,
        "second": MeanAbsoluteError(),
        "third": lambda preds, target: (preds - target).abs().mean(),
    }
    fitted = fit(named)
    row = fitted.records["metrics"]["valid"][0]
    assert list(row) == ["loss", "first", "second", "third"]
    error = (fitted.model(X) - Y).abs().mean().item()
    assert [row[name] for name in ("first", "second", "third")] == pytest.approx([error] * 3)
    assert own.abbrev == "MAE"


def test_two_metrics_of_a_kind_differ_by_name():
    row = fit({"a": luz.metrics.MAE(), "b": luz.metrics.MAE()}).records["metrics"]["train"][0]
    assert row["a"] == row["b"]


def test_a_set_and_evaluate_take_names_too():
    metrics = luz.metrics.MetricSet(
        {"a": luz.metrics.MAE()}, valid_metrics={"b": luz.metrics.RMSE()}
    )
    fitted = fit(metrics)
    assert list(fitted.records["metrics"]["train"][0]) == ["loss", "a"]
    assert list(fitted.records["metrics"]["valid"][0]) == ["loss", "a", "b"]
    evaluation = fitted.evaluate((X, Y), metrics={"c": luz.metrics.MAE()}, verbose=False)
    assert evaluation["c"] == pytest.approx((fitted.model(X) - Y).abs().mean().item())


def test_a_collection_is_a_metric_and_no_dict():
    fitted = fit(MetricCollection({"mine": MeanAbsoluteError()}))
    assert list(fitted.records["metrics"]["train"][0]) == ["loss", "mine"]


def test_a_monitor_finds_a_metric_by_its_name():
    keep = luz.callbacks.KeepBestModel("valid_f1")
    fitted = regression(3, metrics={"F1": luz.metrics.MAE()}).fit(
        (X, Y), 2, keep, (X, Y), verbose=False
    )
    assert fitted.best_epoch == 2


@pytest.mark.parametrize(
    ("metrics", "kind", "text"),
    [
        ({"a": luz.metrics.MAE(), "A": luz.metrics.MAE()}, ValueError, "got 'a' twice"),
        ({"loss": luz.metrics.MAE()}, ValueError, "got 'loss' twice"),
        ({1: luz.metrics.MAE()}, TypeError, "`metrics` must have names that are strings, got 1"),
        ({"": luz.metrics.MAE()}, TypeError, "`metrics` must have names that are strings"),
        ({"a": luz.metrics.MAE}, TypeError, "`metrics` must hold instances"),
        ({"a": torch.nn.Linear(1, 1)}, TypeError, "`metrics` must hold luzpy metrics"),
    ],
)
def test_wrong_names_and_metrics_are_refused(metrics, kind, text):
    with pytest.raises(kind, match=text):
        luz.metrics.MetricSet(metrics)
