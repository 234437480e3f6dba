"""`Metrics`: what is accumulated, when, and where it is logged."""

import pytest
import torch
import torchmetrics
from models import Scale, regression
from torch import nn

import luzpy as luz

X = torch.arange(10.0).reshape(10, 1)
Y = torch.zeros(10, 1)
RAGGED = {"batch_size": 4, "shuffle": False, "drop_last": False}


def fit(metrics, epochs=1, valid_data=None, callbacks=None, module=Scale):
    return regression(module, metrics=metrics, lr=0.0).fit(
        (X, Y),
        epochs,
        valid_data=valid_data,
        callbacks=callbacks,
        verbose=False,
        dataloader_options=RAGGED,
    )


def mean_error(preds, target):
    return (preds - target).mean()


def test_metrics_of_every_kind_are_means_over_samples_of_ragged_batches():
    fitted = fit([luz.metrics.MAE(), torchmetrics.MeanAbsoluteError(), mean_error])
    # the mean of 0..9 is 4.5, of their squares 28.5; the mean over the batches would be 5.17
    assert fitted.records["metrics"]["train"] == [
        {
            "loss": pytest.approx(28.5),
            "mae": pytest.approx(4.5),
            "meanabsoluteerror": pytest.approx(4.5),
            "mean_error": pytest.approx(4.5),
        }
    ]


def test_every_epoch_starts_afresh():
    fitted = fit(luz.metrics.MAE(), epochs=3, valid_data=(X + 1, Y))
    rows = fitted.records["metrics"]
    assert [row["mae"] for row in rows["train"]] == pytest.approx([4.5] * 3)
    assert [row["mae"] for row in rows["valid"]] == pytest.approx([5.5] * 3)


def test_metric_set_separates_train_and_valid():
    metrics = luz.metrics.MetricSet(
        luz.metrics.MAE(), train_metrics=luz.metrics.MSE(), valid_metrics=luz.metrics.RMSE()
    )
    fitted = fit(metrics, valid_data=(X, Y))
    rows = fitted.records["metrics"]
    assert rows["train"] == [{"loss": 28.5, "mae": pytest.approx(4.5), "mse": pytest.approx(28.5)}]
    assert rows["valid"] == [
        {"loss": 28.5, "mae": pytest.approx(4.5), "rmse": pytest.approx(28.5**0.5)}
    ]


class Seen(luz.Metric):
    abbrev = "Seen"

    def reset(self):
        self.log = []

    def update(self, preds, target):
        self.log.append((preds, target))

    def compute(self):
        return len(self.log)


def test_metrics_given_to_setup_are_templates():
    own, foreign = Seen(), torchmetrics.MeanAbsoluteError()
    runs = []
    spy = luz.Callback.from_functions(on_train_end=lambda ctx: runs.append(ctx.metrics["train"]))
    for _ in range(2):
        fit([own, foreign], callbacks=spy)
    assert not hasattr(own, "log")
    assert not foreign.update_called
    assert len(runs) == 2
    assert not {id(metric) for metric in runs[0]} & {id(metric) for metric in runs[1]}


def test_predictions_are_detached_also_in_containers():
    class Several(Scale):
        def forward(self, x):
            y = super().forward(x)
            return {"out": y, "parts": (y, [y])}

    kept = []

    class Look(Seen):
        def update(self, preds, target):
            kept.extend([preds["out"], preds["parts"][0], preds["parts"][1][0]])
            super().update(preds, target)

    model = luz.setup(
        Several, lambda p, t: nn.functional.mse_loss(p["out"], t), torch.optim.SGD, Look()
    )
    model.fit((X, Y), 1, verbose=False, dataloader_options=RAGGED)
    assert len(kept) == 9
    assert not any(tensor.requires_grad for tensor in kept)


def test_metric_may_compute_several_values():
    class Ends(Seen):
        def compute(self):
            preds = torch.cat([preds for preds, _ in self.log])
            return {"Low": preds.min(), "high": float(preds.max())}

    assert fit(Ends()).records["metrics"]["train"] == [
        {"loss": 28.5, "seen_low": 0.0, "seen_high": 9.0}
    ]


def test_metric_that_computes_no_number_is_an_error_that_names_it():
    class Wordy(Seen):
        def compute(self):
            return "high"

    with pytest.raises(TypeError, match="`compute` of the metric 'Seen', at epoch 1"):
        fit(Wordy())


def test_live_metrics_can_be_read_in_the_middle_of_an_epoch():
    means = []

    def look(ctx):
        loss, mae = ctx.metrics["train"]
        means.append((loss.compute(), mae.compute()))

    fit(luz.metrics.MAE(), callbacks=luz.Callback.from_functions(on_train_batch_end=look))
    assert means == [pytest.approx(pair) for pair in [(3.5, 1.5), (17.5, 3.5), (28.5, 4.5)]]
