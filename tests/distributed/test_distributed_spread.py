"""A model of which each rank holds a part, against one process that holds it whole."""

import pytest
import torch

from luzpy.files.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def expected(ranks):
    return ranks("one")[0]["spread"]


@pytest.fixture(params=[0, 1])
def found(ranks, request):
    return ranks("spread")[request.param]["spread"]


def test_each_rank_holds_a_part(found):
    assert set(found["kinds"]) == {"DTensor"}


@pytest.mark.parametrize("what", ["metrics", "weights", "losses", "preds"])
def test_training_is_that_of_one_process(found, expected, what):
    torch.testing.assert_close(found[what], expected[what], rtol=1e-4, atol=1e-5)


def test_the_fitted_model_is_whole_and_plain(found):
    assert found["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_run_that_fails_goes_on_as_the_unbroken_one(found):
    assert torch.equal(found["resumed"], found["weights"])


def test_checkpoints_hold_whole_tensors(ranks, shared, expected):
    ranks("spread")
    spread, alone = (read_checkpoint(shared / run / "spread" / "4.pt") for run in ("spread", "one"))
    assert list(spread["model"]) == list(alone["model"])
    for name, tensor in alone["model"].items():
        torch.testing.assert_close(spread["model"][name], tensor, rtol=1e-4, atol=1e-5)


def test_what_it_cannot_train_is_refused(ranks):
    for result in ranks("spread"):
        own_loss, precision, histograms, other = result["spread_refused"]["said"]
        assert "must not use FSDP for a module with a `step` or a `loss` of its own" in own_loss
        assert "must not hold MixedPrecision with FSDP" in precision
        assert "`histograms` must be False with FSDP" in histograms
        assert "`mixed_precision` must be told to the launcher for FSDP, got 'bf16'" in other
