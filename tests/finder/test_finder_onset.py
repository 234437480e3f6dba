"""Where the loss begins to rise for good, and what a suggestion takes from it."""

import math

import numpy as np
import pytest

import luzpy as luz
from luzpy.finder.onset import is_lasting, onset
from luzpy.finder.suggest import suggest_lr

N = 100
LR = np.geomspace(1e-6, 1, N)


def noise(seed, scale=0.05):
    return scale * np.random.default_rng(seed).normal(size=N)


def plateau_then_rise(rung):
    return 2 + np.where(np.arange(N) >= rung, 0.3 * (np.arange(N) - rung + 1), 0.0)


@pytest.mark.parametrize("rung", [30, 60, 90])
def test_it_is_the_rung_at_which_the_rise_begins(rung):
    assert onset(plateau_then_rise(rung)) == rung
    found = [onset(plateau_then_rise(rung) + noise(seed)) for seed in range(100)]
    # The running median needs two rungs above the noise, or is carried by two that chance raised.
    assert np.quantile(found, [0.05, 0.95]) == pytest.approx([rung, rung + 1], abs=1)


def test_without_a_rise_there_is_none():
    assert onset(np.full(N, 0.7)) is None
    assert onset(np.linspace(3, 1, N)) is None
    assert np.mean([onset(2 + noise(seed)) is None for seed in range(200)]) >= 0.98


def test_what_comes_down_again_is_not_it():
    loss = plateau_then_rise(90)
    loss[40:60] = 5.0
    assert onset(loss) == 90


@pytest.mark.parametrize("rungs", [1, 2])
def test_an_explosion_in_the_last_rungs_is_one(rungs):
    loss = 2 + noise(0)
    loss[-rungs:] = 50.0
    assert onset(loss) == N - rungs
    loss[-rungs:] = 2.2  # four standard deviations
    assert onset(loss) is None


def test_a_rise_is_lasting_if_it_has_five_rungs_and_nine_tenths_are_above_the_start():
    loss = np.r_[np.full(50, 1.0), np.full(10, 2.0)]
    assert is_lasting(loss, 50)
    loss[55] = 0.5
    assert is_lasting(loss, 50)
    loss[56] = 0.5
    assert not is_lasting(loss, 50)
    assert is_lasting(np.r_[np.full(50, 1.0), np.full(5, 2.0)], 50)
    assert not is_lasting(np.r_[np.full(50, 1.0), np.full(4, 2.0)], 50)


def test_where_the_descent_is_clear_the_rise_does_not_matter():
    x = np.log10(LR)
    loss = 2 - np.clip(x + 4, 0, 1)
    expected = suggest_lr(LR, loss, "descent")
    assert suggest_lr(LR, loss + 4 * np.clip(x + 1, 0, None), "descent") == expected


def hidden(seed):
    """Noise as large as the descent; the rise is clear."""
    x = np.log10(LR)
    return 2 - 0.1 * np.clip(x + 4, 0, 1) + 3 * np.clip(x + 1, 0, None) + noise(seed, 0.3)


def test_where_noise_hides_the_descent_the_rise_is_enough_and_the_doubt_is_said():
    rates = []
    for seed in range(100):
        records = luz.LRRecords({"lr": LR, "loss": hidden(seed)})
        rates.append(records.suggest())
        with pytest.raises(luz.NoSuggestionError):
            suggest_lr(LR, 2 + noise(seed, 0.3), "descent")
        others = records.suggestions().set_index("method")["lr"]
        if math.isnan(others["steepest"]):
            assert any("Noise hides the descent" in text for text in records.warnings)
            assert "Noise hides the descent" in repr(records)
            assert rates[-1] == pytest.approx(LR[onset(hidden(seed))] / 30)
    # It rises from 0.1 on: well below that, and not so low that it would train nothing.
    low, high = np.quantile(rates, [0.05, 0.95])
    assert 1e-3 < low < high < 2e-2


def test_where_it_is_too_near_to_the_first_rungs_the_refusal_says_so():
    with pytest.raises(luz.NoSuggestionError, match=r"before it rises, at .*lower `start_lr`"):
        suggest_lr(LR, plateau_then_rise(12) + noise(1), "descent")


@pytest.mark.parametrize("method", ["valley", "minimum", "steepest", "slide"])
def test_the_other_rules_need_a_descent(method):
    with pytest.raises(luz.NoSuggestionError):
        suggest_lr(LR, plateau_then_rise(80) + noise(1), method)
    assert suggest_lr(LR, plateau_then_rise(80) + noise(1), "descent") == pytest.approx(
        LR[80] / 30, rel=0.5
    )
