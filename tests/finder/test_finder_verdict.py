"""What short trainings come to: which rates are as good as the best, and which one to take."""

import math

import numpy as np
import pytest

from luzpy.finder.verdict import (
    Trial,
    judge,
    mean_loss,
    rates_around,
    standard_error,
    survivors,
)

ROWS = np.full(16, 32.0)


def trial(lr, loss, seed=1, steps=100):
    return Trial(lr, steps, seed, np.full(len(ROWS), loss), ROWS)


def of(losses, **options):
    return [trial(lr, loss, **options) for lr, loss in losses.items()]


def test_rates_are_thirds_of_a_decade_apart_more_of_them_above():
    rates = rates_around(1e-3, 3)
    assert np.log10(rates) == pytest.approx(-3 + np.arange(-3, 5) / 3)
    assert rates[3] == 1e-3
    assert rates_around(0.1, 1) == pytest.approx([0.1, 0.1 * 10 ** (1 / 3)])


def test_the_better_half_survives_and_the_suggestion_of_the_curve_with_it():
    trials = of({0.1: 4.0, 0.2: 3.0, 0.4: 1.0, 0.8: 2.0})
    assert survivors(trials, 0.4) == [0.4, 0.8]
    assert survivors(trials, 0.1) == [0.1, 0.4, 0.8]
    assert survivors(trials, None) == [0.4, 0.8]


def test_a_rate_of_a_training_that_diverged_does_not_survive():
    diverged = Trial(0.8, 100, 1, np.array([1.0, math.nan]), np.array([32.0, 32.0]))
    assert diverged.loss == math.inf
    assert survivors([*of({0.1: 4.0}), diverged], None) == [0.1]


def test_the_loss_weighs_rows():
    uneven = Trial(0.1, 10, 1, np.array([1.0, 3.0]), np.array([30.0, 10.0]))
    assert uneven.loss == 1.5
    assert mean_loss([uneven, trial(0.1, 2.5, seed=2)], 0.1) == 2.0


def test_what_is_clearly_better_is_taken_the_nearest_of_it():
    verdict = judge([of({0.1: 1.5, 0.2: 0.51, 0.4: 0.5, 0.8: 0.9})], 2.0, 0.1)
    assert (verdict.lr, verdict.low, verdict.high) == (0.2, 0.2, 0.4)
    assert verdict.doubt is None


def test_what_is_as_good_stays():
    verdict = judge([of({0.1: 0.55, 0.2: 0.5, 0.4: 0.52, 0.8: 0.9})], 2.0, 0.1)
    assert (verdict.lr, verdict.low, verdict.high) == (0.1, 0.1, 0.4)
    assert verdict.doubt is None


def test_a_difference_within_its_noise_changes_nothing_and_is_said():
    swing = np.tile([1.0, -1.0], 8)
    trials = [
        Trial(0.1, 100, 1, 1.0 + swing, ROWS),
        Trial(0.2, 100, 1, 0.8 - swing, ROWS),
    ]
    error = standard_error(trials, 0.1, 0.2)
    difference = trials[0].losses - trials[1].losses
    assert error == pytest.approx(difference.std(ddof=1) / 4)
    assert 0.05 < mean_loss(trials, 0.1) - mean_loss(trials, 0.2) < 2 * error
    verdict = judge([trials], 3.0, 0.1)
    assert verdict.lr == 0.1
    assert "differ by less than their noise" in verdict.doubt


def test_initial_weights_that_disagree_are_noise():
    disagreeing = [
        *of({0.1: 1.0, 0.2: 0.5}, seed=1),
        *of({0.1: 0.8, 0.2: 1.0}, seed=2),
    ]
    # The differences are 0.5 and -0.2: their standard error is 0.35.
    assert standard_error(disagreeing, 0.1, 0.2) == pytest.approx(0.35)
    assert judge([disagreeing], 2.0, 0.1).lr == 0.1
    agreeing = [*of({0.1: 1.0, 0.2: 0.5}, seed=1), *of({0.1: 1.1, 0.2: 0.55}, seed=2)]
    assert judge([agreeing], 2.0, 0.1).lr == 0.2


def test_where_nothing_is_gained_nothing_is_confirmed():
    verdict = judge([of({0.1: 2.0, 0.2: 2.1})], 2.0, 0.1)
    assert math.isnan(verdict.lr)
    assert "No short training run gains more than its noise" in verdict.doubt


def test_a_curve_without_a_suggestion_leaves_it_to_the_trainings():
    verdict = judge([of({0.1: 1.9, 0.2: 0.5, 0.4: 0.51, 0.8: 1.9})], 2.0, None)
    assert (verdict.lr, verdict.low, verdict.high) == (0.2, 0.2, 0.4)


def test_rates_that_left_early_count_by_their_last_round():
    first = of({0.1: 1.0, 0.2: 0.5, 0.4: 0.5, 0.8: 0.52}, steps=50)
    last = of({0.2: 0.3, 0.4: 0.31}, steps=100)
    verdict = judge([first, last], 2.0, 0.2)
    assert (verdict.lr, verdict.low, verdict.high) == (0.2, 0.2, 0.8)


def test_what_diverged_is_never_as_good():
    diverged = Trial(0.4, 100, 1, np.full(16, math.nan), ROWS)
    verdict = judge([[*of({0.1: 1.0, 0.2: 0.5}), diverged]], 2.0, 0.1)
    assert (verdict.lr, verdict.low, verdict.high) == (0.2, 0.2, 0.2)
    everything = judge([[diverged]], 2.0, 0.4)
    assert math.isnan(everything.lr)
