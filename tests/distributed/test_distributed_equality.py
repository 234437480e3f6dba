"""Runs on several ranks, of batches that are as many rows together, against one process."""

import pytest
import torch
from runs import CALLBACKS, DATA, FINDER, METRICS, MODELS, RUNS, STEPS

pytestmark = pytest.mark.slow
LAUNCHED = ("two", "three", "accelerate")


def on_ranks(names):
    return [(run, name) for run in LAUNCHED for name in names if name in RUNS[run]]


def check_same(found, expected, **tolerance):
    """Everything that `expected` holds, a nest of dicts and lists."""
    torch.testing.assert_close(
        _plain(found), _plain(expected), equal_nan=True, check_dtype=False, **tolerance
    )


def _plain(item):
    """Text and sizes as they are would not be compared."""
    if isinstance(item, dict):
        return {key: _plain(part) for key, part in sorted(item.items())}
    if isinstance(item, (list, tuple)):
        return [_plain(part) for part in item]
    if isinstance(item, str):
        return torch.tensor(list(item.encode()))
    return item


def compared(result):
    # The batches in a list of predictions, and the statements of errors, are of each size's own.
    return {key: item for key, item in result.items() if key not in ("listed", "said")}


@pytest.mark.parametrize(("run", "name"), on_ranks([*DATA, *STEPS, *MODELS, *CALLBACKS]))
def test_training_is_that_of_one_process(ranks, run, name):
    expected = compared(ranks("one")[0][name])
    for result in ranks(run):
        check_same(compared(result[name]), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("run", "name"), on_ranks(METRICS))
def test_metrics_are_those_of_one_process(ranks, run, name):
    for result in ranks(run):
        check_same(result[name], ranks("one")[0][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("run", "name"), on_ranks(FINDER))
def test_finder_records_are_those_of_one_process(ranks, run, name):
    for result in ranks(run):
        check_same(result[name], ranks("one")[0][name], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(("run", "name"), on_ranks(FINDER))
def test_finder_records_are_the_same_on_all_ranks(ranks, run, name):
    first, *others = ranks(run)
    for other in others:
        check_same(other[name], first[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("run", "name"),
    on_ranks(
        [
            *DATA,
            *STEPS,
            *MODELS,
            "dropout",
            "batch_norm",
            "batch_norm_own_loss",
            "one_rank_interrupted",
        ]
    ),
)
def test_all_ranks_end_with_the_same_weights(ranks, run, name):
    first, *others = ranks(run)
    for other in others:
        assert torch.equal(other[name]["weights"], first[name]["weights"])


def test_several_batches_make_the_step_of_one_large_batch(ranks):
    for run in ("one", "two"):
        result = ranks(run)[0]
        check_same(result["accumulated"], result["large_batch"], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("run", ["two", "three", "accelerate"])
def test_without_a_seed_ranks_have_one_split_and_no_row_twice(ranks, run):
    results = [result["seedless"] for result in ranks(run)]
    seen = torch.cat([result["seen"] for result in results]).tolist()
    assert len(seen) == len(set(seen)) == 72
    for result in results:
        assert torch.equal(result["weights"], results[0]["weights"])
        assert torch.equal(result["metrics"], results[0]["metrics"])


@pytest.mark.parametrize("run", ["two", "three"])
def test_dropout_falls_on_other_units_on_each_rank(ranks, run):
    first, second = (result["dropout"]["masks"] for result in ranks(run)[:2])
    assert 0.4 < first.float().mean() < 0.6
    assert not torch.equal(first, second)


def test_sync_batch_norm_is_that_of_one_process(ranks):
    expected = ranks("one")[0]["sync_batch_norm"]
    for result in ranks("two"):
        if "refused" in result["sync_batch_norm"]:
            pytest.skip(f"torch: {result['sync_batch_norm']['refused']}")
        check_same(result["sync_batch_norm"], expected, rtol=1e-4, atol=1e-5)


def test_the_main_rank_may_go_on_alone(ranks):
    """Its metrics of torchmetrics do not wait for the others."""
    assert ranks("two")[0]["main_rank_alone"] == ranks("one")[0]["main_rank_alone"]


def test_each_rank_may_train_alone(ranks):
    first, second = (result["each_alone"] for result in ranks("two"))
    check_same(first, ranks("one")[0]["each_alone"], rtol=0, atol=0)
    assert not torch.equal(first["weights"], second["weights"])
