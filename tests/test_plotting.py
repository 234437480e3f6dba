import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from models import TwoParts, line, regression
from plotnine import coord_cartesian, ggplot
from torch import nn

import luzpy as luz
from luzpy.verbs.plot import plot_history, whole_breaks

X, Y = line(100, 10)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def fit(epochs=10, metrics=None, valid_data=(X, Y)):
    model = regression(10, torch.optim.Adam, metrics, lr=0.001)
    return model.fit((X, Y), epochs, valid_data=valid_data, verbose=False)


def geoms(p):
    return [type(layer.geom).__name__ for layer in p.layers]


def strips(figure):
    return [text.get_text() for text in figure.findobj(lambda a: type(a).__name__ == "StripText")]


def points(axes):
    """The points that were drawn, colour by colour."""
    found = {}
    for collection in axes.collections:
        if type(collection).__name__ != "PathCollection":
            continue
        for (x, y), colour in zip(
            collection.get_offsets(), collection.get_edgecolors(), strict=False
        ):
            found.setdefault(to_hex(colour), []).append((x, y))
    return found


# R: test-module-plot.R, "plot works"
def test_it_shows_every_value_of_every_epoch():
    fitted = fit(metrics=[luz.metrics.RMSE()])
    p = fitted.plot()
    assert isinstance(p, ggplot)
    assert geoms(p) == ["geom_line", "geom_point"]
    assert p.data.equals(fitted.get_metrics())
    assert (p.mapping["x"], p.mapping["y"], p.mapping["color"]) == ("epoch", "value", "set")


def test_a_metric_has_a_panel():
    p = fit(epochs=2, metrics=[luz.metrics.RMSE(), luz.metrics.MAE()]).plot()
    figure = p.draw()
    assert sorted(strips(figure)) == ["loss", "mae", "rmse"]
    assert len(figure.axes) == 3


def test_points_are_drawn_where_the_values_are():
    frame = pd.DataFrame(
        [("train", 1, 3.0), ("train", 2, 2.0), ("valid", 1, 4.0), ("valid", 2, 1.0)],
        columns=["set", "epoch", "value"],
    ).assign(metric="loss")
    figure = plot_history(frame).draw()
    (axes,) = figure.axes
    drawn = [np.asarray(xy) for xy in points(axes).values()]
    assert [xy.tolist() for xy in drawn] == [[[1, 3], [2, 2]], [[1, 4], [2, 1]]]


def test_each_panel_has_a_scale_of_its_own():
    frame = pd.DataFrame(
        {
            "set": "train",
            "metric": ["acc", "acc", "loss", "loss"],
            "epoch": [1, 2, 1, 2],
            "value": [0.1, 0.9, 100.0, 50.0],
        }
    )
    low, high = (axes.get_ylim() for axes in plot_history(frame).draw().axes)
    assert low[1] < 2
    assert high[0] > 40


def test_it_is_labelled():
    p = fit(epochs=2).plot()
    assert p.labels.x == "Epoch"
    figure = p.draw()
    texts = {text.get_text() for text in figure.findobj(plt.Text)}
    assert {"Epoch", "loss", "train", "valid"} <= texts


def test_a_set_alone_is_enough():
    p = fit(epochs=2, valid_data=None).plot()
    assert set(p.data["set"]) == {"train"}
    p.draw()


def test_one_epoch_is_points_only():
    # plotnine warns of a line through one point, and warnings are errors here.
    p = fit(epochs=1).plot()
    assert geoms(p) == ["geom_point"]
    p.draw()


def test_it_can_be_added_to():
    p = luz.plot(fit(epochs=2)) + coord_cartesian(ylim=(0, 5))
    low, high = p.draw().axes[0].get_ylim()
    assert low < 0.5
    assert 4.5 < high < 6


def test_not_one_epoch_is_an_error():
    def interrupt(ctx):
        raise KeyboardInterrupt

    model = regression(10)
    callback = luz.Callback.from_functions(on_train_batch_begin=interrupt)
    fitted = model.fit((X, Y), callbacks=callback, verbose=False)
    with pytest.raises(ValueError, match="`x` must have metrics to plot, got none"):
        fitted.plot()


@pytest.mark.parametrize("x", [3, None, "loss", {"a": 1}])
def test_what_cannot_be_plotted_is_refused(x):
    with pytest.raises(TypeError, match=f"`x` must be a FittedModule, .* got {type(x).__name__}"):
        luz.plot(x)


@pytest.mark.parametrize("draw", [luz.plot, luz.FittedModule.plot])
def test_a_history_has_no_options(draw):
    with pytest.raises(TypeError, match=r"plot\(\) got an unexpected keyword .*'beta'"):
        draw(fit(epochs=1), beta=0.5)


def test_metrics_are_drawn_as_they_are_chosen():
    fitted = fit(epochs=2, metrics=[luz.metrics.RMSE(), luz.metrics.MAE()])
    figure = luz.plot(fitted, metrics=["rmse", "loss"]).draw()
    assert strips(figure) == ["rmse", "loss"]


def test_learning_rates_are_a_panel_on_request():
    schedule = luz.callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, 1, gamma=0.5)
    model = regression(10, lr=0.8)
    fitted = model.fit((X, Y), 3, schedule, verbose=False)
    p = fitted.plot(metrics=["loss", "lr"])
    loss, rates = p.draw().axes
    (drawn,) = points(rates).values()
    assert np.asarray(drawn).tolist() == [[1, 0.8], [2, 0.4], [3, 0.2]]
    assert len(points(loss)) == 1
    assert "lr" not in strips(fitted.plot().draw())


def test_learning_rates_of_batches_lie_within_the_epochs():
    schedule = luz.callbacks.LRScheduler(
        torch.optim.lr_scheduler.ExponentialLR, 0.5, call_on="on_train_batch_end"
    )
    options = {"batch_size": 25}
    fitted = regression(10, lr=1.0).fit(
        (X, Y), 2, schedule, verbose=False, dataloader_options=options
    )
    (axes,) = fitted.plot(metrics=["lr"]).draw().axes
    (drawn,) = points(axes).values()
    expected = [[(batch + 1) / 4, 0.5**batch] for batch in range(8)]
    assert np.asarray(drawn) == pytest.approx(np.asarray(expected))


def test_each_optimizer_has_a_line_of_learning_rates():
    fitted = regression(TwoParts(10), None).fit((X, Y), 2, verbose=False)
    p = fitted.plot(metrics=["lr"])
    assert set(p.data["set"]) == {"one", "two"}
    assert len(points(p.draw().axes[0])) == 2


@pytest.mark.parametrize(
    ("metrics", "kind", "text"),
    [
        (["acc"], ValueError, "`metrics` must be some of loss, lr, got"),
        ([], ValueError, "`metrics` must be some of loss, lr, got"),
        ("loss", TypeError, "`metrics` must be a list of metrics' names, got 'loss'"),
        ([1], TypeError, "`metrics` must be a list of metrics' names, got"),
    ],
)
def test_metrics_that_are_not_there_are_refused(metrics, kind, text):
    with pytest.raises(kind, match=text):
        fit(epochs=1).plot(metrics=metrics)


@pytest.mark.parametrize(
    ("limits", "breaks"),
    [
        ((1, 1), [1]),
        ((1, 2), [1, 2]),
        ((0.6, 5.4), [1, 2, 3, 4, 5]),
        ((1, 6), [1, 2, 3, 4, 5, 6]),
        ((1, 10), [2, 4, 6, 8, 10]),
        ((1, 20), [4, 8, 12, 16, 20]),
        ((1, 100), [20, 40, 60, 80, 100]),
    ],
)
def test_epochs_are_marked_with_whole_numbers(limits, breaks):
    assert whole_breaks(limits) == breaks


def test_no_epoch_is_marked_that_was_not_run():
    frame = pd.DataFrame(
        {"set": "train", "metric": "loss", "epoch": range(1, 101), "value": np.arange(100.0)}
    )
    axes = plot_history(frame).draw().axes[0]
    assert [round(tick) for tick in axes.get_xticks()] == [20, 40, 60, 80, 100]


# Several fits ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_fits():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    spec = luz.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD, luz.metrics.MAE())
    data = (x, x.sum(1, keepdim=True))
    return [
        spec.set_opt_hparams(lr=lr).fit(data, 3, valid_data=data, verbose=False)
        for lr in (0.1, 0.01)
    ]


def test_fits_are_compared_by_colour_and_sets_by_dashes(two_fits, tmp_path):
    figure = luz.plot(two_fits, labels=["fast", "slow"], metrics=["loss"])
    frame = figure.data
    assert list(frame["fit"].cat.categories) == ["fast", "slow"]
    assert set(frame["metric"]) == {"loss"}
    for label, fitted in zip(["fast", "slow"], two_fits, strict=True):
        own = fitted.get_metrics().query("metric == 'loss'")
        assert frame[frame["fit"] == label]["value"].tolist() == own["value"].tolist()
    figure.save(tmp_path / "fits.png", verbose=False)


def test_fits_are_numbered_without_labels(two_fits):
    assert list(luz.plot(two_fits).data["fit"].cat.categories) == ["1", "2"]


def test_the_axis_of_values_may_be_logarithmic(two_fits):
    built = two_fits[0].plot(metrics=["loss"], log_y=True)
    ax = built.draw().axes[0]
    values = two_fits[0].get_metrics().query("metric == 'loss' and set == 'train'")["value"]
    drawn = sorted(y for line in ax.lines for y in line.get_ydata())
    assert any(abs(y - math.log10(values.iloc[0])) < 1e-6 for y in drawn)
    luz.plot(two_fits, log_y=True).draw()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": ["one"]}, "`labels` must be as many as the 2 fits, got 1"),
        ({"log_y": 1}, "`log_y` must be True or False"),
        ({"beta": 0.5}, "options of records"),
        ({"metrics": ["acc"]}, "`metrics` must be some of loss, mae, lr"),
    ],
)
def test_options_of_a_comparison_are_checked(two_fits, options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        luz.plot(two_fits, **options)


def test_fits_and_records_are_not_mixed(two_fits):
    records = two_fits[0].spec.lr_finder((torch.zeros(64, 3), torch.zeros(64, 1)), verbose=False)
    with pytest.raises(TypeError, match="either LRRecords or FittedModules"):
        luz.plot([two_fits[0], records])
    with pytest.raises(TypeError, match="options of fits"):
        luz.plot([records, records], log_y=True)
