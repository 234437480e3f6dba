import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, root_mean_squared_error

from luzpy.metrics import MAE, MSE, RMSE

quick = settings(max_examples=40, deadline=None)
SKLEARN = [
    (MAE, mean_absolute_error),
    (MSE, mean_squared_error),
    (RMSE, root_mean_squared_error),
]


def measured(metric, preds, target, batch_size):
    """The metric over batches, the last one ragged."""
    for p, t in zip(preds.split(batch_size), target.split(batch_size), strict=True):
        metric.update(p, t)
    return metric.compute()


# R: test-metrics.R, "mae works", "mse works", "rmse works"
@pytest.mark.parametrize(("metric", "reference"), SKLEARN)
@quick
@given(
    n=st.integers(1, 70),
    batch_size=st.integers(1, 40),
    as_column=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_it_is_scikit_learns(metric, reference, n, batch_size, as_column, seed):
    g = torch.Generator().manual_seed(seed)
    preds, target = torch.randn(n, generator=g), torch.randn(n, generator=g) * 3 + 1
    expected = reference(target.double().numpy(), preds.double().numpy())
    if as_column:  # (N, 1) beside (N) is a comparison row by row
        preds = preds[:, None]
    assert measured(metric(), preds, target, batch_size) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "formula"),
    [
        (MAE, lambda e: np.abs(e).mean()),
        (MSE, lambda e: (e**2).mean()),
        (RMSE, lambda e: math.sqrt((e**2).mean())),
    ],
)
@quick
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    n=st.integers(1, 30),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)
def test_targets_may_have_many_dimensions(metric, formula, shape, n, batch_size, seed):
    g = torch.Generator().manual_seed(seed)
    preds, target = torch.randn(n, *shape, generator=g), torch.randn(n, *shape, generator=g)
    expected = formula((preds - target).double().numpy())
    assert measured(metric(), preds, target, batch_size) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", [MAE, MSE, RMSE])
@pytest.mark.parametrize("target", [(4, 3), (5,), (2, 2), (1,)])
def test_it_refuses_shapes_that_do_not_fit(metric, target):
    with pytest.raises(ValueError, match=r"`target` must have the shape of preds, \(4,\), got"):
        metric().update(torch.zeros(4), torch.zeros(target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    # 300 squared is more than the 65,504 that a float16 can hold.
    metric = MSE()
    metric.update(torch.full((400,), 300.0, dtype=dtype), torch.zeros(400, dtype=dtype))
    assert metric.compute() == 300.0**2


def test_a_long_sum_keeps_its_digits():
    # In single precision, 2**24 + 1 is 2**24: the sum would stand still.
    metric = MAE()
    metric.update(torch.tensor([2.0**24]), torch.zeros(1))
    for _ in range(100):
        metric.update(torch.ones(1), torch.zeros(1))
    assert metric.compute() == (2**24 + 100) / 101


def test_whole_numbers_are_measured_too():
    metric = RMSE()
    metric.update(torch.tensor([1, 2]), torch.tensor([4, 6]))
    assert metric.compute() == pytest.approx(math.sqrt((9 + 16) / 2))


@pytest.mark.parametrize("metric", [MAE, MSE, RMSE])
def test_it_is_called_as_in_r(metric):
    assert metric().abbrev == metric.__name__
