"""The default suggestion through noise, on a drop whose place is known.

The curve is a plateau, a drop that is a sigmoid of log lr centred at 1e-3, and an explosion two
decades later. Its right answer is the centre of the drop: there the loss falls fastest and half of
the way down is done, by construction, whatever the drop's height and width. A suggestion within a
factor of 3 of it is on the drop, past its foot and well before the explosion.
"""

import numpy as np
import pytest

import luzpy as luz
from luzpy.finder.suggest import DEFAULT_METHOD, suggest_lr

CENTRE = 1e-3
SEEDS = range(200)


def curve(per_decade, *, start=-6, end=0, n=100, drop=2.0):
    """The rates, and the loss without noise: down from 2.3 by `drop`."""
    exponent = start + (end - start) * np.arange(1, n + 1) / n
    x = exponent - np.log10(CENTRE)
    explosion = np.expm1(3 * np.clip(x - 2, 0, 5))
    return 10**exponent, 2.3 - drop / (1 + np.exp(-per_decade * x)) + explosion


def share_within(factor, lr, loss, noise, method=DEFAULT_METHOD):
    """The share of the seeds whose suggestion is within `factor` of the centre."""
    near = 0
    for seed in SEEDS:
        z = np.random.default_rng(seed).normal(size=len(loss))
        suggestion = suggest_lr(lr, loss + noise * z, method)
        near += CENTRE / factor <= suggestion <= CENTRE * factor
    return near / len(SEEDS)


@pytest.mark.parametrize("per_decade", [3, 4, 6, 10], ids=lambda k: f"steepness {k}")
@pytest.mark.parametrize("of", ["the drop", "the loss"])
def test_the_default_is_at_the_drop_through_noise_of_10_percent(per_decade, of):
    lr, loss = curve(per_decade)
    noise = 0.1 * (2.0 if of == "the drop" else loss)
    assert share_within(3, lr, loss, noise) >= 0.95


@pytest.mark.parametrize(("start", "end"), [(-7, -1), (-6, 1), (-5, 0), (-8, 1)])
def test_the_tested_range_does_not_matter(start, end):
    lr, loss = curve(5, start=start, end=end)
    assert share_within(3, lr, loss, 0.2) >= 0.95


@pytest.mark.parametrize("n", [50, 200, 400])
def test_the_number_of_rungs_does_not_matter(n):
    lr, loss = curve(5, n=n)
    assert share_within(3, lr, loss, 0.2) >= 0.95


def test_steepest_is_not_fooled_by_noise_in_the_first_rungs():
    lr, loss = curve(6)
    noise = np.where(np.arange(100) < 5, 0.5, 0.1)
    assert share_within(3, lr, loss, noise, "steepest") >= 0.95


def test_the_suggestion_moves_with_the_drop():
    lr, loss = curve(5, start=-7, end=1)
    z = 0.2 * np.random.default_rng(0).normal(size=100)
    moved = suggest_lr(100 * lr, loss + z, DEFAULT_METHOD)
    assert moved == pytest.approx(100 * suggest_lr(lr, loss + z, DEFAULT_METHOD))


def test_a_drop_that_is_over_in_the_first_rungs_is_refused():
    lr, loss = curve(20, start=-3.2, end=0)
    with pytest.raises(luz.NoSuggestionError, match="lower `start_lr`"):
        suggest_lr(lr, loss, DEFAULT_METHOD)


def test_a_descent_after_an_explosion_is_not_taken_for_the_first():
    lr, loss = curve(6)
    back = loss.copy()
    back[90:] = 0.2  # below the first minimum, after the explosion
    suggestion = suggest_lr(lr, back, DEFAULT_METHOD)
    assert CENTRE / 3 <= suggestion <= CENTRE * 3
