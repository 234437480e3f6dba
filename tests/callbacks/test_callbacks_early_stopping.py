"""`EarlyStopping` against its rule written down in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import regression
from torch import nn

import luzpy as luz

X, Y = torch.zeros(4, 1), torch.zeros(4, 1)
SPECIFICATION = regression(1, seed=0)


def scripted(values, name="score", split="train"):
    """A callback that logs the values of a script, one an epoch."""

    def log(ctx):
        ctx.log_metric(name, values[ctx.epoch - 1])

    return luz.Callback.from_functions(**{f"on_{split}_end": log})


def fit(callbacks, epochs, **kwargs):
    options = {"verbose": False, "dataloader_options": {"batch_size": 4}} | kwargs
    return SPECIFICATION.fit((X, Y), epochs, callbacks=callbacks, **options)


def epochs_of(fitted):
    return len(fitted.records["metrics"]["train"])


def run(values, epochs=None, split="train", **kwargs):
    """(epochs trained, fitted.stopped) where the monitored quantity follows `values`."""
    stopping = luz.callbacks.EarlyStopping(monitor=f"{split}_score", **{"mode": "min"} | kwargs)
    valid_data = (X, Y) if split == "valid" else None
    fitted = fit(
        [scripted(values, split=split), stopping], epochs or len(values), valid_data=valid_data
    )
    return epochs_of(fitted), fitted.stopped


def reference(values, min_epochs=0, min_delta=0, patience=0, mode="min", baseline=None):
    """The epoch at which the rule of the documentation stops, or None."""
    better = {
        "min": lambda new, old: old - new > min_delta,
        "max": lambda new, old: new - old > min_delta,
        "zero": lambda new, old: abs(old) - abs(new) > min_delta,
    }[mode]
    best, without = baseline, 0
    for epoch, value in enumerate(values, start=1):
        if not math.isnan(value) and (best is None or better(value, best)):
            best, without = value, 0
        else:
            without += 1
        if without >= max(patience, 1) and epoch >= min_epochs:
            return epoch
    return None


# Halves of whole numbers, so that no difference is rounded.
SCRIPTS = st.lists(
    st.integers(-6, 6).map(lambda n: n / 2) | st.just(math.nan), min_size=1, max_size=12
)


@settings(max_examples=300, deadline=None)
@given(
    values=SCRIPTS,
    min_epochs=st.integers(0, 12),
    min_delta=st.sampled_from([0, 0.5, 1]),
    patience=st.integers(0, 4),
    mode=st.sampled_from(["min", "max", "zero"]),
    baseline=st.none() | st.integers(-3, 3),
)
def test_decisions_are_those_of_the_rule(values, min_epochs, **kwargs):
    epochs, reason = run(values, (min(min_epochs, len(values)), len(values)), **kwargs)
    stopped = epochs if reason == "early stopping" else None
    assert stopped == reference(values, min(min_epochs, len(values)), **kwargs)


@pytest.mark.parametrize(
    ("values", "kwargs", "epochs"),
    [
        ([3, 2, 1, 1, 0], {}, 4),  # patience 0: the first epoch without improvement
        ([3, 2, 1, 1, 0], {"patience": 1}, 4),
        ([3, 3, 2, 2, 2, 1], {"patience": 2}, 5),
        ([5, 4, 3, 2, 1], {}, 5),  # R luz's patience 0 stops while improving
        ([5, 4, 3.5, 3, 2], {"min_delta": 0.5}, 3),  # 4 - 3.5 is not larger
        ([1, 2, 3, 3, 9], {"mode": "max"}, 4),
        ([-4, 2, -1, 0.5, -0.5, 0], {"mode": "zero"}, 5),
        ([5, 4, 3], {"baseline": 2.5}, 1),
        ([5, 4, 2, 3], {"baseline": 4.5, "patience": 2}, 4),
        ([3, math.nan, math.nan, 1], {"patience": 2}, 3),
        ([math.nan, math.nan], {}, 1),
        ([math.nan, 3, 2, math.inf], {"patience": 2}, 4),
    ],
)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_fit_stops_after_the_epochs_counted_by_hand(values, kwargs, epochs, split):
    trained, stopped = run(values, split=split, **kwargs)
    assert trained == epochs
    assert stopped == ("early stopping" if trained == reference(values, **kwargs) else "completed")


@pytest.mark.parametrize(
    ("kwargs", "epochs", "expected"),
    [
        ({"patience": 1, "min_delta": 100}, 25, 2),
        ({"patience": 2, "min_delta": 100}, 25, 3),
        ({"patience": 2, "min_delta": 100}, (5, 25), 5),
        ({"patience": 1, "baseline": 0}, (1, 25), 1),
    ],
)
def test_patience_min_epochs_and_baseline_as_in_r(kwargs, epochs, expected):
    # R: test-callbacks-monitor-metrics.R, "early stopping with patience = 1"
    stopping = luz.callbacks.EarlyStopping(monitor="train_loss", **kwargs)
    fitted = fit(stopping, epochs)
    assert (epochs_of(fitted), fitted.stopped) == (expected, "early stopping")


def test_published_losses_of_r_stop_at_the_same_epoch():
    # R: test-callbacks-monitor-metrics.R, "early stopping"; the losses are those of its snapshot
    losses = [1.6053, 1.5625, 1.5222, 1.4836, 1.4466, 1.4113, 1.3775, 1.3452, 1.3144, 1.285]
    losses += [1.257, 1.2303, 1.2049, 1.1807, 1.1576, 1.1357, 1.1149, 1.0951, 1.0]
    assert run(losses, patience=1, min_delta=0.02) == (18, "early stopping")
    losses = [1.279, 1.2552, 1.2335, 1.2127, 1.1927, 1.0]
    assert run(losses, patience=5, baseline=0.001) == (5, "early stopping")


def test_a_metric_may_be_monitored():
    # R: test-callbacks-monitor-metrics.R, "early stopping", its last part
    model = luz.setup(
        lambda: nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD, metrics=luz.metrics.MAE()
    ).set_opt_hparams(lr=0.0)
    stopping = luz.callbacks.EarlyStopping(monitor="train_MAE", patience=3)
    fitted = model.fit(
        (torch.ones(32, 1), torch.ones(32, 1)), 25, callbacks=stopping, verbose=False
    )
    assert epochs_of(fitted) == 4  # the mae never changes


def test_on_early_stopping_is_called():
    # R: test-callbacks-monitor-metrics.R, "early stopping": its breakpoint
    seen = []
    listener = luz.Callback.from_functions(on_early_stopping=lambda ctx: seen.append(ctx.epoch))
    fit([luz.callbacks.EarlyStopping("train_loss", baseline=0, patience=3), listener], 9)
    assert seen == [3]


def test_other_callbacks_of_the_last_epoch_come_first():
    seen = []
    log = luz.Callback.from_functions(on_epoch_end=lambda ctx: seen.append(ctx.epoch))
    fit([luz.callbacks.EarlyStopping("train_loss", baseline=0), log], 9)
    assert seen == [1]


def test_it_says_so_if_verbose(capsys):
    stopping = luz.callbacks.EarlyStopping("train_loss", baseline=0, patience=2)
    fit(stopping, 9, verbose=True)
    assert "Early stopping at epoch 2 of 9" in capsys.readouterr().out.splitlines()
    fit(stopping, 9)
    assert capsys.readouterr().out == ""


def test_one_instance_starts_afresh_in_every_run():
    stopping = luz.callbacks.EarlyStopping("train_score", patience=2, mode="min")
    for values, expected in [([3, 1, 2, 2], 4), ([9, 8, 8, 8], 4), ([9, 9, 8, 8, 8], 5)]:
        assert epochs_of(fit([scripted(values), stopping], len(values))) == expected


def test_state_carries_over_to_another_instance():
    first = luz.callbacks.EarlyStopping("train_score", patience=3, mode="min")
    fit([scripted([2.0, 3.0, 3.0]), first], 3)
    second = luz.callbacks.EarlyStopping("train_score", patience=3, mode="min")
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"current_best": 2.0, "patience_counter": 2}


def test_valid_loss_without_valid_data_is_an_error_before_training():
    seen = []
    spy = luz.Callback.from_functions(on_epoch_begin=lambda ctx: seen.append(ctx.epoch))
    with pytest.raises(
        luz.LuzError, match="`monitor` is 'valid_loss', but there is no `valid_data`"
    ):
        fit([luz.callbacks.EarlyStopping(), spy], 3)
    assert seen == []


def test_unknown_metric_is_an_error_after_the_first_epoch():
    seen = []
    spy = luz.Callback.from_functions(on_epoch_end=lambda ctx: seen.append(ctx.epoch))
    with pytest.raises(
        luz.LuzError, match="`monitor` must be one of 'train_loss', got 'train_acc'"
    ):
        fit([luz.callbacks.EarlyStopping("train_acc"), spy], 3)
    assert seen == [1]


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"patience": -1}, ValueError, "`patience` must be"),
        ({"patience": "2"}, TypeError, "`patience` must be an integer .*got '2'"),
        ({"patience": 1.5}, TypeError, "`patience` must be an integer .*got 1.5"),
        ({"baseline": "low"}, TypeError, "`baseline` must be a number, got 'low'"),
        ({"baseline": math.nan}, ValueError, "`baseline` must be .*got nan"),
        ({"mode": "best"}, ValueError, "`mode` must be"),
        ({"min_delta": -1}, ValueError, "`min_delta` must be at least 0, got -1"),
        ({"monitor": "loss"}, ValueError, "`monitor` must be"),
    ],
)
def test_arguments_out_of_bounds_are_errors(kwargs, error, text):
    with pytest.raises(error, match=text):
        luz.callbacks.EarlyStopping(**kwargs)


@pytest.mark.parametrize(
    ("values", "kwargs", "epochs"),
    [
        ([5, 4, 3, 2, 1], {"stopping_threshold": 3}, 3),
        ([5, 4, 3, 2, 1], {"stopping_threshold": 2.5}, 4),
        ([1, 2, 3, 4], {"stopping_threshold": 3, "mode": "max"}, 3),
        ([9, -6, 4, -1], {"stopping_threshold": 5, "mode": "zero"}, 3),
        ([5, 6, 7, 8], {"divergence_threshold": 6.5}, 3),
        ([5, 6, 7, 8], {"divergence_threshold": 7}, 4),
        ([9, 8, 7, 6], {"divergence_threshold": 7.5, "mode": "max"}, 3),
        ([1, -2, 3, -4], {"divergence_threshold": 2.5, "mode": "zero"}, 3),
        ([5, 1, 1, 1], {"stopping_threshold": 2, "epochs": (3, 4)}, 3),
        ([5, math.nan, 4, 3], {"stopping_threshold": 4, "divergence_threshold": 6}, 3),
    ],
)
def test_thresholds_end_the_run_whatever_the_patience(values, kwargs, epochs):
    assert run(values, **{"patience": 9} | kwargs) == (epochs, "early stopping")


@pytest.mark.parametrize("name", ["stopping_threshold", "divergence_threshold"])
def test_a_value_that_is_not_a_number_is_beyond_no_threshold(name):
    assert run([math.nan, math.nan], patience=9, **{name: 1}) == (2, "completed")


@pytest.mark.parametrize("name", ["stopping_threshold", "divergence_threshold"])
def test_thresholds_are_numbers(name):
    with pytest.raises(TypeError, match=f"`{name}` must be"):
        luz.callbacks.EarlyStopping(**{name: "low"})
