import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luzpy.finder.smoothing import exponential_average

losses = st.lists(st.floats(-1e6, 1e6), max_size=60)


@given(losses, st.floats(0, 0.99))
def test_it_is_the_weighted_mean_with_weights_beta_to_the_age(values, beta):
    expected = []
    for n in range(1, len(values) + 1):
        weights = [beta**age for age in reversed(range(n))]
        total = math.fsum(w * v for w, v in zip(weights, values[:n], strict=True))
        expected.append(total / math.fsum(weights))
    assert exponential_average(values, beta) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_r_plots_smoothed_loss():
    # R: plot.lr_records(): avg = beta avg + (1 - beta) loss; avg / (1 - beta^i)
    assert exponential_average([1.0, 2.0, 4.0], 0.9) == pytest.approx(
        [1.0, 0.29 / 0.19, 0.661 / 0.271]
    )


def test_beta_0_gives_the_values_themselves():
    assert exponential_average([3.0, -1.0, 2.5], 0) == [3.0, -1.0, 2.5]


def test_nothing_gives_nothing():
    assert exponential_average([]) == []


def test_from_a_nan_on_everything_is_nan():
    smoothed = exponential_average([1.0, math.nan, 1.0])
    assert smoothed[0] == 1.0
    assert all(math.isnan(value) for value in smoothed[1:])
