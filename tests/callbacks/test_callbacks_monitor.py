"""`Monitor`: which quantity, and whether it improved."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import luzpy as luz
from luzpy.callbacks.monitor import Monitor

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def context(train=(), valid=(), valid_data=None):
    ctx = luz.Context(
        verbose=False,
        accelerator=luz.Accelerator(cpu=True),
        model=nn.Linear(1, 1),
        valid_data=valid_data,
        epoch=len(train),
    )
    ctx.records["metrics"] |= {"train": list(train), "valid": list(valid)}
    return ctx


@pytest.mark.parametrize(
    ("name", "split", "metric"),
    [
        ("valid_loss", "valid", "loss"),
        ("train_Acc", "train", "acc"),
        ("valid_top_5_acc", "valid", "top_5_acc"),  # R luz splits on every `_`
        ("train_loss_Generator", "train", "loss_generator"),
    ],
)
def test_set_ends_at_the_first_underscore(name, split, metric):
    monitor = Monitor(name)
    assert (monitor.set, monitor.metric) == (split, metric)


@pytest.mark.parametrize(
    "name", ["loss", "test_loss", "valid_", "_loss", "", "Valid_loss", None, 3]
)
def test_name_without_a_set_is_an_error(name):
    with pytest.raises(ValueError, match=f"`monitor` must be .*got {name!r}"):
        Monitor(name)


@pytest.mark.parametrize("mode", ["MIN", "auto", "", None])
def test_unknown_mode_is_an_error(mode):
    with pytest.raises(
        ValueError, match=f"`mode` must be one of 'min', 'max', 'zero', got {mode!r}"
    ):
        Monitor("valid_loss", mode)


@pytest.mark.parametrize(
    ("min_delta", "error"),
    [
        (-0.1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_min_delta_out_of_bounds_is_an_error(min_delta, error):
    with pytest.raises(error, match="`min_delta` must be"):
        Monitor("valid_loss", "min", min_delta)


@given(new=NUMBERS, best=NUMBERS, delta=st.floats(0, 1e6, width=32))
def test_improvement_is_larger_than_min_delta_the_way_of_the_mode(new, best, delta):
    assert Monitor("train_x", "min", delta).improved(new, best) == (new < best - delta)
    assert Monitor("train_x", "max", delta).improved(new, best) == (new > best + delta)
    assert Monitor("train_x", "zero", delta).improved(new, best) == (abs(new) < abs(best) - delta)


@pytest.mark.parametrize("mode", ["min", "max", "zero"])
def test_nan_never_improves_and_anything_else_improves_on_nothing(mode):
    monitor = Monitor("train_x", mode, min_delta=5)
    assert not monitor.improved(math.nan, None)
    assert not monitor.improved(math.nan, 3.0)
    assert monitor.improved(1e9, None)
    assert monitor.improved(-1e9, None)


def test_zero_looks_at_the_new_value():
    # R luz compares min_delta with itself here
    monitor = Monitor("train_x", "zero")
    assert monitor.improved(-0.5, 1.0)
    assert not monitor.improved(-2.0, 1.0)


def test_value_is_the_current_epochs():
    ctx = context(train=[{"loss": 3.0}, {"loss": 2.0}], valid=[{"mae": 5.0}, {"mae": 4.0}])
    assert Monitor("train_loss").value(ctx) == 2.0
    assert Monitor("valid_MAE").value(ctx) == 4.0


def test_metric_logged_under_a_name_with_capitals_is_found():
    ctx = context(train=[{"loss": 3.0, "Speed": 8.0}])
    for name in ("train_Speed", "train_speed"):
        assert Monitor(name).value(ctx) == 8.0


def test_unknown_metric_is_an_error_that_lists_the_known_ones():
    ctx = context(train=[{"loss_one": 1.0, "loss_two": 2.0}])
    with pytest.raises(
        luz.LuzError, match="one of 'train_loss_one', 'train_loss_two', got 'train_loss'"
    ):
        Monitor("train_loss").value(ctx)


def test_valid_metric_without_valid_data_is_an_error_at_the_start():
    monitor = Monitor("valid_loss")
    with pytest.raises(luz.LuzError, match="no `valid_data`; give some, or monitor 'train_loss'"):
        monitor.check(context())
    monitor.check(context(valid_data=[torch.zeros(1)]))
    Monitor("train_loss").check(context())
