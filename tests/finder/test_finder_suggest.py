import math

import numpy as np
import pytest

import luzpy as luz
from luzpy.finder.suggest import suggest_lr

METHODS = ["descent", "valley", "minimum", "steepest", "slide"]
N = 100
EXPONENT = np.linspace(-6, 0, N + 1)[1:]
LR = 10**EXPONENT


def averaged(loss):
    """The bias-corrected exponential average, from its definition."""
    weights = 0.9 ** np.arange(len(loss))
    return np.array(
        [weights[:n] @ loss[:n][::-1] / weights[:n].sum() for n in range(1, len(loss) + 1)]
    )


def hinge(down, up, slope=1.0, rise=3.0):
    """Flat at 2 up to 10**down, straight down to 10**up, then up again."""
    falling = np.clip(EXPONENT - down, 0, up - down)
    return 2 - slope / (up - down) * falling + rise * np.clip(EXPONENT - up, 0, None)


def drop(center, rng=None):
    """A step down around 10**center, then a rise, with noise of 10 %."""
    loss = 1 - 0.8 / (1 + np.exp(-6 * (EXPONENT - center)))
    loss = loss + 2 * np.clip(EXPONENT - center - 1.5, 0, None) ** 2
    return loss if rng is None else loss * (1 + 0.1 * rng.normal(size=N))


# ---------------------------------------------------------------- curves with a known answer


@pytest.mark.parametrize("down", [-5, -4, -3.5])
def test_minimum_is_a_tenth_of_the_rate_at_the_smoothed_minimum(down):
    loss = hinge(down, down + 2)
    assert suggest_lr(LR, loss, "minimum") == LR[np.argmin(averaged(loss))] / 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("down", [-5, -4, -3])
def test_the_suggestion_lies_on_the_descent(method, down):
    suggestion = math.log10(suggest_lr(LR, hinge(down, down + 2), method))
    assert down < suggestion < down + 2.5  # the average lags by about half a decade


@pytest.mark.parametrize("center", [-4, -3, -2])
def test_steepest_is_at_the_drop(center):
    suggestion = suggest_lr(LR, drop(center), "steepest")
    assert abs(math.log10(suggestion) - center) < math.log10(3)


def test_steepest_is_at_the_drop_through_noise_in_95_percent():
    suggestions = [
        suggest_lr(LR, drop(-3, np.random.default_rng(s)), "steepest") for s in range(200)
    ]
    near = [1e-3 / 3 < suggestion < 3e-3 for suggestion in suggestions]
    assert np.mean(near) >= 0.95


@pytest.mark.parametrize("method", ["steepest", "slide"])
def test_the_descent_is_left_behind_where_the_curve_is_shallow(method):
    steep_then_shallow = hinge(-5, -4, slope=2) + hinge(-4, -1, slope=0.1)
    assert suggest_lr(LR, steep_then_shallow, method) < 10**-3


def test_slide_is_never_before_the_steepest_point():
    for loss in (hinge(-5, -3), hinge(-4, -1), drop(-3), drop(-4)):
        assert suggest_lr(LR, loss, "slide") >= suggest_lr(LR, loss, "steepest")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shift", "scale"), [(-50, 1), (0, 1e-6), (0, 1e6), (3, 10)])
def test_the_losses_scale_and_zero_do_not_matter(method, shift, scale):
    loss = drop(-3, np.random.default_rng(1))
    assert suggest_lr(LR, scale * loss + shift, method) == suggest_lr(LR, loss, method)


@pytest.mark.parametrize("method", METHODS)
def test_the_learning_rates_unit_does_not_matter(method):
    loss = hinge(-4, -2)
    expected = 100 * suggest_lr(LR, loss, method)
    assert suggest_lr(100 * LR, loss, method) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tail", [math.nan, math.inf, -math.inf])
def test_what_comes_after_a_loss_that_is_not_finite_does_not_count(method, tail):
    loss = drop(-3)
    cut = loss.copy()
    cut[90] = tail
    cut[91:] = -1e9
    assert suggest_lr(LR, cut, method) == suggest_lr(LR[:90], loss[:90], method)


@pytest.mark.parametrize("method", METHODS)
def test_a_curve_that_only_falls_has_a_suggestion_within_it(method):
    suggestion = suggest_lr(LR, 2 - (EXPONENT + 6) / 6, method)
    assert LR[0] <= suggestion <= LR[-1]


@pytest.mark.parametrize("method", METHODS)
def test_the_suggestion_does_not_lie_beyond_the_minimum(method):
    for seed in range(50):
        loss = drop(-3, np.random.default_rng(seed))
        assert suggest_lr(LR, loss, method) <= LR[np.argmin(averaged(loss))]


# ---------------------------------------------------------------- curves without one

RISING = 1 + (EXPONENT + 6) ** 2
FIRST_RUNGS = np.array([5.0, 1.0, 0.5, *np.geomspace(20, 1e6, N - 3)])
EARLY = hinge(-5.8, -5.3, rise=5.0)

REFUSED = {
    "constant": (np.full(N, 0.7), "never falls"),
    "constant zero": (np.zeros(N), "never falls"),
    "rising": (RISING, "never falls"),
    "rising, negative": (RISING - 100, "never falls"),
    "falling by less than its noise": (
        2 + 0.1 * np.random.default_rng(3).standard_normal(N) - LR / 100,
        "noise",
    ),
    "all NaN": (np.full(N, math.nan), "diverges immediately"),
    "all infinite": (np.full(N, math.inf), "diverges immediately"),
    "NaN after 4": (np.array([4.0, 3.0, 2.0, 1.0, *[math.nan] * (N - 4)]), "diverges immediately"),
    "diverges at once": (np.geomspace(1, 1e20, N), "never falls"),
    "minimum in the first rungs": (FIRST_RUNGS, "minimum in the first rungs"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", REFUSED)
def test_no_suggestion_from_a_curve_that_is(case, method):
    loss, reason = REFUSED[case]
    with pytest.raises(luz.NoSuggestionError, match=reason):
        suggest_lr(LR, loss, method)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_no_suggestion_from_fewer_than_5_rungs(n):
    with pytest.raises(luz.NoSuggestionError, match=f"at least 5 rungs, got {n}"):
        suggest_lr(LR[:n], np.linspace(5, 1, n), "steepest")


def test_no_suggestion_below_the_tested_range():
    assert LR[np.argmin(averaged(EARLY))] / 10 < LR[0]
    with pytest.raises(luz.NoSuggestionError, match=r"below the tested range, .* at 1\.1e-06"):
        suggest_lr(LR, EARLY, "minimum")


@pytest.mark.parametrize("method", METHODS)
def test_a_long_explosion_does_not_hide_the_descent_before_it(method):
    descent = np.linspace(2, 1, 40)
    suggestion = suggest_lr(LR, np.array([*descent, *1.6 ** np.arange(1, 61)]), method)
    assert LR[0] <= suggestion <= LR[39]


def test_no_suggestion_error_is_a_luz_error():
    assert issubclass(luz.NoSuggestionError, luz.LuzError)
