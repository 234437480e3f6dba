import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

import luzpy as luz
from luzpy.metrics import Accuracy, BinaryAccuracy, BinaryAccuracyWithLogits

quick = settings(max_examples=40, deadline=None)
rows = st.integers(1, 70)
batch_sizes = st.integers(1, 40)
seeds = st.integers(0, 10_000)


def measured(metric, preds, target, batch_size):
    """The metric over batches, the last one ragged."""
    for p, t in zip(preds.split(batch_size), target.split(batch_size), strict=True):
        metric.update(p, t)
    return metric.compute()


@quick
@given(rows, batch_sizes, st.integers(2, 6), seeds)
def test_accuracy_is_scikit_learns(n, batch_size, n_classes, seed):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, n_classes, generator=g)
    target = torch.randint(n_classes, (n,), generator=g)
    expected = accuracy_score(target.numpy(), scores.numpy().argmax(1))
    assert measured(Accuracy(), scores, target, batch_size) == pytest.approx(expected)


@quick
@given(rows, batch_sizes, seeds)
def test_accuracy_takes_a_class_for_every_pixel(n, batch_size, seed):
    g = torch.Generator().manual_seed(seed)
    scores, target = torch.randn(n, 3, 2, 5, generator=g), torch.randint(3, (n, 2, 5), generator=g)
    expected = (scores.numpy().argmax(1) == target.numpy()).mean()
    assert measured(Accuracy(), scores, target, batch_size) == pytest.approx(expected)


def test_accuracy_takes_a_column_of_classes():
    scores = torch.eye(3)
    assert measured(Accuracy(), scores, torch.tensor([[0], [1], [1]]), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("preds", "target"),
    [((4,), (4,)), ((4, 1), (4,)), ((4, 3), (5,)), ((4, 3), (4, 3)), ((4, 3, 2), (4,))],
)
def test_accuracy_refuses_shapes_that_do_not_fit(preds, target):
    with pytest.raises(ValueError, match="must have the shape"):
        Accuracy().update(torch.zeros(preds), torch.zeros(target))


# R: test-metrics.R, "binary accuracy with logits"
@quick
@given(rows, batch_sizes, st.floats(0.05, 0.95), st.booleans(), seeds)
def test_binary_accuracies_are_scikit_learns(n, batch_size, threshold, as_column, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, generator=g)
    target = torch.randint(2, (n,), generator=g).float()
    probabilities = logits.sigmoid()
    expected = accuracy_score(target.numpy(), probabilities.numpy() > np.float32(threshold))
    if as_column:
        logits, probabilities = logits[:, None], probabilities[:, None]
    plain = measured(BinaryAccuracy(threshold), probabilities, target, batch_size)
    from_logits = measured(BinaryAccuracyWithLogits(threshold), logits, target, batch_size)
    assert plain == pytest.approx(expected)
    assert from_logits == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.uint8])
def test_binary_accuracy_takes_targets_of_any_kind(dtype):
    metric = BinaryAccuracy()
    metric.update(torch.tensor([0.9, 0.2, 0.7]), torch.tensor([1, 0, 0], dtype=dtype))
    assert metric.compute() == pytest.approx(2 / 3)


def test_binary_accuracy_does_not_compare_every_row_with_every_other():
    # Broadcast, (4, 1) beside (4) would be 16 comparisons, half of them right.
    metric = BinaryAccuracy()
    metric.update(torch.tensor([[1.0], [1.0], [0.0], [0.0]]), torch.tensor([1, 1, 0, 0]))
    assert metric.compute() == 1
    assert metric.total == 4


def test_binary_accuracy_counts_labels_of_many_dimensions():
    metric = BinaryAccuracyWithLogits()
    metric.update(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[1, 0, 0]]))
    assert metric.compute() == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", [BinaryAccuracy(), BinaryAccuracyWithLogits()])
@pytest.mark.parametrize("target", [(3,), (4, 2), (2, 2)])
def test_binary_accuracy_refuses_shapes_that_do_not_fit(metric, target):
    with pytest.raises(ValueError, match=r"`target` must have the shape of preds, \(4, 1\), got"):
        metric.update(torch.zeros(4, 1), torch.zeros(target))


@pytest.mark.parametrize("metric", [Accuracy(), BinaryAccuracy(), BinaryAccuracyWithLogits()])
def test_it_prints_as_in_r(metric):
    assert metric.abbrev == "Acc"


# R: test-metrics.R, "metrics works within models"
def test_they_work_within_a_model():
    torch.manual_seed(0)
    x, y = torch.randn(50, 3), torch.randint(2, (50, 1)).float()

    class Probability(BinaryAccuracyWithLogits):
        abbrev = "Prob"

    model = luz.setup(
        torch.nn.Linear,
        torch.nn.BCEWithLogitsLoss(),
        torch.optim.Adam,
        [BinaryAccuracyWithLogits(), Probability()],
    ).set_hparams(in_features=3, out_features=1)
    fitted = model.fit((x, y), epochs=1, verbose=False)
    assert list(fitted.records["metrics"]["train"][0]) == ["loss", "acc", "prob"]


@pytest.mark.parametrize("wrong", [-0.5, 1.5, 30.0, -float("inf")])
def test_binary_accuracy_refuses_logits(wrong):
    metric = BinaryAccuracy()
    metric.update(torch.tensor([0.9, wrong]), torch.tensor([1, 0]))
    metric.update(torch.tensor([0.9, 0.2]), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\].*BinaryAccuracyWithLogits"):
        metric.compute()
    other = BinaryAccuracy()
    other.merge([metric])
    with pytest.raises(ValueError, match="BinaryAccuracyWithLogits"):
        other.compute()
    metric.reset()
    metric.update(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]))
    assert metric.compute() == 1


def test_binary_accuracy_forgives_rounding_and_takes_classes():
    metric = BinaryAccuracy()
    metric.update(torch.tensor([1 + 1e-6, -1e-7]), torch.tensor([1, 1]))
    metric.update(torch.tensor([True, False]), torch.tensor([1, 0]))
    assert metric.compute() == 3 / 4
