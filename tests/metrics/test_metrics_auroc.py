"""Areas under the ROC curve against scikit-learn, over batches with a ragged last one."""

import copy
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn
from torchmetrics.functional import classification as functional

import luzpy as luz
from luzpy.metrics.auroc import BinaryAUROC, MulticlassAUROC

ACTUAL = [1, 1, 1, 0, 0, 0]
PREDICTED = [0.9, 0.8, 0.4, 0.5, 0.3, 0.2]


def run(metric, preds, target, batch_size=32):
    for rows in range(0, len(preds), batch_size):
        metric.update(preds[rows : rows + batch_size], target[rows : rows + batch_size])
    return metric.compute()


def binary(rows=101, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (rows,), generator=generator)
    return torch.randn(rows, generator=generator) + target, target


def multiclass(rows=101, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shares = torch.arange(1.0, classes + 1)
    target = torch.multinomial(shares, rows, replacement=True, generator=generator)
    logits = torch.randn(rows, classes, generator=generator)
    logits[torch.arange(rows), target] += 1
    return logits, target


def two_columns(predicted):
    p = torch.tensor(predicted)
    return torch.stack((1 - p, p), 1)


# R: test-metrics-auc.R, "binary auc works"
def test_binary():
    metric = BinaryAUROC(thresholds=PREDICTED)
    area = run(metric, torch.tensor(PREDICTED), torch.tensor(ACTUAL), batch_size=2)
    assert area == pytest.approx(roc_auc_score(ACTUAL, PREDICTED), abs=1e-6)


# R: test-metrics-auc.R, "multiclass auc works with method = micro"
def test_micro():
    preds = two_columns(PREDICTED)
    metric = MulticlassAUROC(thresholds=preds.flatten().tolist(), average="micro")
    area = run(metric, preds, torch.tensor(ACTUAL), batch_size=2)
    one_hot = np.eye(2)[ACTUAL]
    assert area == pytest.approx(roc_auc_score(one_hot.ravel(), preds.numpy().ravel()), abs=1e-6)


# R: test-metrics-auc.R, "multiclass auc works with method = macro" and "... with `none`"
@pytest.mark.parametrize("average", ["macro", "none"])
def test_macro_and_none(average):
    metric = MulticlassAUROC(num_thresholds=100_000, average=average)
    areas = run(metric, two_columns(PREDICTED), torch.tensor(ACTUAL), batch_size=2)
    each = [
        roc_auc_score(np.array(ACTUAL) == c, two_columns(PREDICTED).numpy()[:, c]) for c in (0, 1)
    ]
    assert areas == pytest.approx(each if average == "none" else np.mean(each), abs=1e-6)


# R: test-metrics-auc.R, "multiclass auc works with method = weighted"
def test_weighted():
    actual, predicted = np.array([*ACTUAL, 1, 1]), [*PREDICTED, 0.4, 0.3]
    preds = torch.tensor([predicted, predicted]).T
    metric = MulticlassAUROC(num_thresholds=100_000, average="weighted")
    area = run(metric, preds, torch.tensor(actual), batch_size=2)
    expected = sum(np.mean(actual == c) * roc_auc_score(actual == c, predicted) for c in (0, 1))
    assert area == pytest.approx(expected, abs=1e-6)


# Of equal scores a sigmoid may make two: what ends a batch is not computed by vectors.
@example(rows=60, batch_size=16, seed=21)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(3, 90), batch_size=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_exact_binary_area_is_scikit_learns(rows, batch_size, seed):
    scores, target = binary(rows, seed)
    scores = (scores * 4).round() / 4  # ties
    target[:2] = torch.tensor([0, 1])
    area = run(BinaryAUROC(None, from_logits=True), scores, target, batch_size)
    assert area == pytest.approx(roc_auc_score(target, scores), abs=1e-5)


@pytest.mark.parametrize("scores", [[20.0, 30.0], [-math.inf, math.inf], [30.0, math.inf]])
def test_logits_are_told_apart_where_their_probabilities_are_not(scores):
    scores, target = torch.tensor(scores).repeat(3), torch.tensor([0, 1]).repeat(3)
    assert run(BinaryAUROC(None, from_logits=True), scores, target) == 1
    assert run(BinaryAUROC(None, from_logits=True), scores[1].expand(6), target) == 0.5


@pytest.mark.parametrize("average", ["macro", "weighted", "none", "micro"])
@pytest.mark.parametrize(("num_thresholds", "tolerance"), [(None, 1e-5), (200, 0.005)])
def test_multiclass_areas_are_scikit_learns(average, num_thresholds, tolerance):
    logits, target = multiclass()
    area = run(MulticlassAUROC(num_thresholds, None, True, average), logits, target)
    p = logits.softmax(1).double().numpy()
    p /= p.sum(1, keepdims=True)
    if average == "micro":
        expected = roc_auc_score(np.eye(4)[target].ravel(), p.ravel())
    else:
        chosen = None if average == "none" else average
        expected = roc_auc_score(target, p, multi_class="ovr", average=chosen)
    assert area == pytest.approx(expected, abs=tolerance)


# 0.33 % of the rows are positive, and nearly all scores lie between two of 200 thresholds.
@pytest.mark.parametrize("several", [False, True])
def test_areas_are_exact_unless_thresholds_are_given(several):
    generator = torch.Generator().manual_seed(3)
    target = (torch.arange(6000) % 300 == 0).long()
    scores = (torch.randn(6000, generator=generator) + 1.2 * target - 6).sigmoid()
    expected = roc_auc_score(target, scores)
    metric = MulticlassAUROC(average="macro") if several else BinaryAUROC()
    preds = torch.stack((1 - scores.double(), scores.double()), 1) if several else scores
    assert run(metric, preds, target) == pytest.approx(expected, abs=1e-4)
    binned = BinaryAUROC(num_thresholds=200)
    assert abs(run(binned, scores, target) - expected) > 0.01


def test_thresholds_make_a_curve_of_straight_lines():
    scores, target = binary(1001)
    coarse = run(BinaryAUROC(num_thresholds=3), scores.sigmoid(), target)
    # Two corners and the point at 0.5, by hand.
    hit = (scores.sigmoid() >= 0.5).numpy()
    tpr, fpr = hit[target == 1].mean(), hit[target == 0].mean()
    assert coarse == pytest.approx(fpr * tpr / 2 + (1 - fpr) * (tpr + 1) / 2, abs=1e-6)


@pytest.mark.parametrize("num_thresholds", [None, 2, 3, 200])
@pytest.mark.parametrize("average", ["macro", "weighted", "none"])
def test_areas_are_those_of_torchmetrics(average, num_thresholds):
    logits, target = multiclass(301)
    p = (logits.softmax(1) * 20).round() / 20  # some on a threshold
    found = run(MulticlassAUROC(num_thresholds, average=average), p, target)
    # Its curve ends at the outermost thresholds: they have to be beyond all scores.
    inner = torch.linspace(0, 1, num_thresholds or 2)[1:-1]
    ends = torch.tensor([-1e-7]), torch.tensor([1 + 1e-6])
    thresholds = None if num_thresholds is None else torch.cat((ends[0], inner, ends[1]))
    expected = functional.multiclass_auroc(p, target, 4, average, thresholds)
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("num_thresholds", [None, 5])
@pytest.mark.parametrize("average", [None, "micro", "none"])
def test_processes_together_have_the_area_of_all_rows(average, num_thresholds):
    preds, target = multiclass()
    if average is None:
        preds, target = preds[:, 0], target % 2

    def made():
        if average is None:
            return BinaryAUROC(num_thresholds, from_logits=True)
        return MulticlassAUROC(num_thresholds, from_logits=True, average=average)

    idle, one, two = made(), made(), made()
    one.update(preds[:30], target[:30])
    two.update(preds[30:], target[30:])
    idle.merge([one, two])
    assert idle.compute() == run(made(), preds, target)
    bad = made()
    bad.update(preds, target - 9)
    idle.merge([bad])
    with pytest.raises(ValueError, match="`target` must be classes"):
        idle.compute()


def test_batches_of_other_classes_are_refused():
    metric = MulticlassAUROC()
    metric.update(torch.full((2, 3), 1 / 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="`preds` must have the same classes in every batch, 3"):
        metric.update(torch.full((2, 1), 1.0), torch.tensor([0, 0]))


def test_reset_forgets():
    metric, (scores, target) = BinaryAUROC(None, from_logits=True), binary()
    run(metric, scores, 1 - target)
    metric.reset()
    assert run(metric, scores, target) == pytest.approx(roc_auc_score(target, scores), abs=1e-5)


@pytest.mark.parametrize("from_logits", [False, True])
def test_a_batch_may_be_overwritten_later(from_logits):
    scores, target = binary()
    scores = scores if from_logits else scores.sigmoid()
    expected = roc_auc_score(target, scores)
    metric = BinaryAUROC(None, from_logits=from_logits)
    metric.update(scores, target)
    scores.zero_()
    target.zero_()
    assert metric.compute() == pytest.approx(expected, abs=1e-5)


def test_the_area_so_far_may_be_asked_for():
    metric, (scores, target) = BinaryAUROC(None, from_logits=True), binary()
    for begin, end in ((0, 40), (40, 101)):
        metric.update(scores[begin:end], target[begin:end])
        assert metric.compute() == pytest.approx(
            roc_auc_score(target[:end], scores[:end]), abs=1e-5
        )


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.int32])
def test_shapes_and_types_of_binary_targets(kind):
    scores, target = binary()
    area = run(BinaryAUROC(None, from_logits=True), scores[:, None], target.to(kind))
    assert area == pytest.approx(roc_auc_score(target, scores), abs=1e-5)


def test_more_dimensions_are_more_rows():
    logits, target = multiclass(96)
    metric = MulticlassAUROC(None, from_logits=True, average="none")
    shaped = logits.reshape(16, 6, 4).movedim(2, 1)
    areas = run(metric, shaped, target.reshape(16, 6), batch_size=5)
    each = [roc_auc_score(target == c, logits.softmax(1)[:, c]) for c in range(4)]
    assert areas == pytest.approx(each, abs=1e-5)


def test_half_precision():
    scores, target = binary()
    half = scores.sigmoid().bfloat16()
    area = run(BinaryAUROC(None), half, target)
    assert area == pytest.approx(roc_auc_score(target, half.float()), abs=1e-5)


@pytest.mark.parametrize("num_thresholds", [None, 200])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_has_no_area(num_thresholds, label):
    area = run(BinaryAUROC(num_thresholds), torch.rand(9), torch.full((9,), label))
    assert math.isnan(area)


@pytest.mark.parametrize("num_thresholds", [None, 200])
def test_a_class_without_rows_has_no_area(num_thresholds):
    logits, target = multiclass()
    target = torch.where(target == 2, 3, target)
    p = logits.softmax(1)
    each = [roc_auc_score(target == c, p[:, c]) for c in (0, 1, 3)]
    counts = [int((target == c).sum()) for c in (0, 1, 3)]
    found = {
        average: run(MulticlassAUROC(num_thresholds, None, True, average), logits, target)
        for average in ("none", "macro", "weighted")
    }
    none = found["none"]
    assert [none[0], none[1], none[3]] == pytest.approx(each, abs=0.005)
    assert math.isnan(none[2])
    assert math.isnan(found["macro"])
    assert found["weighted"] == pytest.approx(np.average(each, weights=counts), abs=0.005)


@pytest.mark.parametrize(
    "metric", [BinaryAUROC(), MulticlassAUROC(), MulticlassAUROC(average="none")]
)
def test_before_the_first_batch_there_is_none(metric):
    assert math.isnan(metric.compute())


def test_a_diverged_model_has_no_area():
    assert math.isnan(run(BinaryAUROC(), torch.tensor([0.1, math.nan]), torch.tensor([0, 1])))
    areas = run(MulticlassAUROC(average="none"), torch.full((4, 2), math.nan), torch.arange(4) % 2)
    assert all(map(math.isnan, areas))


# torchmetrics would take a sigmoid of some batches and not of others.
@pytest.mark.parametrize("average", [None, "micro", "macro"])
def test_logits_unannounced_are_refused(average):
    logits, target = multiclass(classes=2)
    metric = BinaryAUROC() if average is None else MulticlassAUROC(average=average)
    with pytest.raises(ValueError, match="`preds` must be probabilities"):
        run(metric, logits[:, 1] if average is None else logits, target)


@pytest.mark.parametrize("average", [None, "micro", "macro"])
@pytest.mark.parametrize("wrong", [-1, 2])
def test_unknown_targets_are_refused(average, wrong):
    metric = BinaryAUROC() if average is None else MulticlassAUROC(average=average)
    preds = torch.rand(3) if average is None else torch.full((3, 2), 0.5)
    with pytest.raises(ValueError, match="`target` must be classes"):
        run(metric, preds, torch.tensor([0, 1, wrong]))


def test_rounding_beyond_one_is_no_fault():
    preds, target = torch.tensor([1 + 1e-6, -1e-7, 0.4, 0.6]), torch.tensor([1, 0, 1, 0])
    assert run(BinaryAUROC(None), preds, target) == roc_auc_score(target, preds)


@pytest.mark.parametrize(
    ("metric", "preds", "target"),
    [
        (BinaryAUROC(), torch.rand(4), torch.ones(3)),
        (MulticlassAUROC(), torch.rand(4), torch.ones(4)),
        (MulticlassAUROC(), torch.rand(4, 3), torch.ones(3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(metric, preds, target):
    with pytest.raises(ValueError, match="must have the shape"):
        metric.update(preds, target)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_thresholds": 1}, ValueError),
        ({"num_thresholds": 2.5}, TypeError),
        ({"thresholds": []}, ValueError),
        ({"thresholds": [2.0]}, ValueError),
        ({"from_logits": 1}, TypeError),
        ({"average": "mean"}, ValueError),
    ],
)
def test_arguments_are_checked(arguments, error):
    with pytest.raises(error, match=f"`{next(iter(arguments))}` must be"):
        MulticlassAUROC(**arguments)


def test_copies_are_independent():
    metric, (scores, target) = BinaryAUROC(None, from_logits=True), binary()
    metric.update(scores, target)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        other.update(-scores, target)
        both = torch.cat((scores, -scores)), torch.cat((target, target))
        assert other.compute() == pytest.approx(roc_auc_score(both[1], both[0]), abs=1e-5)
    assert metric.compute() == pytest.approx(roc_auc_score(target, scores), abs=1e-5)


def test_a_fit_records_one_row_for_each_class():
    logits, target = multiclass(64)
    metrics = [MulticlassAUROC(None, from_logits=True, average="none")]
    model = luz.setup(nn.Linear, nn.CrossEntropyLoss(), torch.optim.SGD, metrics)
    model = model.set_hparams(in_features=4, out_features=4).set_opt_hparams(lr=0.1)
    fitted = model.fit((logits, target), 1, valid_data=(logits, target), verbose=False)
    p = fitted.predict(logits).softmax(1).detach().numpy()
    rows = fitted.records["metrics"]["valid"][0]
    assert [rows[f"auc_{c}"] for c in range(4)] == pytest.approx(
        [roc_auc_score(target == c, p[:, c]) for c in range(4)], abs=1e-5
    )


def test_torchmetrics_is_imported_only_when_used():
    code = (
        "import luzpy.metrics.auroc as auroc, sys; auroc.BinaryAUROC(); "
        "print('torchmetrics' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
