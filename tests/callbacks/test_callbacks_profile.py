"""`Profile`: the seconds of a run and its parts."""

import time

import pytest
import torch
from models import regression

import luzpy as luz

DATA = (torch.ones(32, 2), torch.ones(32, 1))


def fit(epochs=2, **kwargs):
    return regression(2).fit(DATA, epochs, verbose=False, **kwargs)


@pytest.mark.parametrize(("valid_data", "n_valid"), [(DATA, 5), (None, 0)])
def test_one_entry_a_run_and_one_an_epoch(valid_data, n_valid):
    # R: test-callbacks-profile.R, "callback profile"
    profile = fit(5, valid_data=valid_data).records["profile"]
    assert {name: len(seconds) for name, seconds in profile.items()} == {
        "fit": 1,
        "epoch": 5,
        "train": 5,
        "valid": n_valid,
    }
    assert all(type(value) is float for seconds in profile.values() for value in seconds)


def test_seconds_hold_what_happens_within():
    # A pause before the loss is felt by every part around it, and the parts lie in one another.
    pause = luz.Callback.from_functions(
        on_train_batch_begin=lambda ctx: time.sleep(0.02),
        on_valid_batch_begin=lambda ctx: time.sleep(0.01),
    )
    profile = fit(2, valid_data=DATA, callbacks=pause).records["profile"]
    assert min(profile["train"]) >= 0.02
    assert min(profile["valid"]) >= 0.01
    for epoch, train, valid in zip(
        profile["epoch"], profile["train"], profile["valid"], strict=True
    ):
        assert epoch >= train + valid
    assert profile["fit"][0] >= sum(profile["epoch"])


def test_evaluate_is_timed():
    profile = fit(1).evaluate(DATA, verbose=False).records["profile"]
    assert [len(profile[name]) for name in ("fit", "epoch", "train", "valid")] == [0, 0, 0, 1]


def test_one_instance_serves_several_runs():
    profile = luz.callbacks.Profile()
    for _ in range(2):
        assert len(fit(2, callbacks=profile).records["profile"]["epoch"]) == 2


def test_an_unfinished_epoch_has_no_entry():
    def stop(ctx):
        if ctx.epoch == 2:
            raise KeyboardInterrupt

    fitted = fit(5, callbacks=luz.Callback.from_functions(on_train_end=stop), valid_data=DATA)
    profile = fitted.records["profile"]
    assert [len(profile[name]) for name in ("fit", "epoch", "train", "valid")] == [1, 1, 2, 1]
