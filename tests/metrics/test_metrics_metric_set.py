import attrs
import pytest
import torch
from torch import nn

import luzpy as luz
from luzpy.metrics import MAE, MSE, RMSE, Accuracy, BinaryAccuracy, MetricSet
from luzpy.metrics.metric_set import as_metric_set


def names(metrics):
    return [metric.abbrev for metric in metrics]


# R: test-metrics.R, "can specify metrics for training and validation"
def test_sets_may_have_metrics_of_their_own():
    torch.manual_seed(0)
    x, y = torch.randn(100, 10), torch.randn(100, 1)
    metrics = MetricSet([MAE()], valid_metrics=[RMSE()], train_metrics=[MSE()])
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, metrics)
    model = model.set_hparams(in_features=10, out_features=1).set_opt_hparams(lr=0.001)
    fitted = model.fit((x, y), epochs=2, valid_data=(x, y), verbose=False)
    frame = fitted.get_metrics()
    assert list(frame[frame["set"] == "valid"]["metric"]) == ["loss", "mae", "rmse"] * 2
    assert list(frame[frame["set"] == "train"]["metric"]) == ["loss", "mae", "mse"] * 2
    assert list(fitted.evaluate((x, y)).get_metrics()["metric"]) == ["loss", "mae", "rmse"]
    fitted.plot().draw()


def test_one_metric_may_be_given_without_a_list():
    metrics = MetricSet(MAE(), train_metrics=MSE(), valid_metrics=RMSE())
    assert names(metrics.train) == ["MAE", "MSE"]
    assert names(metrics.valid) == ["MAE", "RMSE"]


@pytest.mark.parametrize("given", [[MAE(), RMSE()], (MAE(), RMSE())])
def test_it_is_made_of_a_sequence(given):
    assert names(as_metric_set(given).train) == names(as_metric_set(given).valid) == ["MAE", "RMSE"]


@pytest.mark.parametrize("nothing", [None, []])
def test_there_may_be_none(nothing):
    assert as_metric_set(nothing).train == ()


def test_a_ready_set_passes_through():
    ready = MetricSet(MAE())
    assert as_metric_set(ready) is ready


# R: test-metrics.R, "Get a nice error message if you pass the wrong metric type"
@pytest.mark.parametrize("place", ["metrics", "train_metrics", "valid_metrics"])
def test_a_class_instead_of_an_instance_is_refused(place):
    with pytest.raises(TypeError, match=r"got the class MAE: write MAE\(\)"):
        MetricSet(**{place: [MAE]})


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"metrics": [MAE(), MAE()]}, "'mae' twice in the train set"),
        ({"metrics": [Accuracy(), BinaryAccuracy()]}, "'acc' twice in the train set"),
        ({"metrics": MAE(), "train_metrics": MAE()}, "'mae' twice in the train set"),
        ({"metrics": MAE(), "valid_metrics": MAE()}, "'mae' twice in the valid set"),
        ({"metrics": [lambda p, t: 0, lambda p, t: 1]}, "'<lambda>' twice in the train set"),
    ],
)
def test_two_metrics_of_one_set_with_one_name_are_refused(metrics, name):
    with pytest.raises(ValueError, match=name):
        MetricSet(**metrics)


def test_names_are_compared_without_case():
    def mae(preds, target):
        return 0.0

    with pytest.raises(ValueError, match="'mae' twice"):
        MetricSet([MAE(), mae])


def test_the_name_of_the_loss_is_taken():
    def loss(preds, target):
        return 0.0

    with pytest.raises(ValueError, match="'loss' twice"):
        MetricSet(loss)


def test_train_and_valid_may_share_a_name():
    assert names(MetricSet(train_metrics=MAE(), valid_metrics=MAE()).valid) == ["MAE"]


def test_an_abbrev_of_its_own_tells_two_metrics_apart():
    other = BinaryAccuracy(0.9)
    other.abbrev = "Acc90"
    assert names(MetricSet([BinaryAccuracy(), other]).train) == ["Acc", "Acc90"]


def test_it_cannot_be_changed():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        MetricSet().train = (MAE(),)
