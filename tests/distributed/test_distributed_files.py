"""What several ranks print, write, and go on from."""

import pytest
import torch

from luzpy.files.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


def test_only_the_main_rank_prints(ranks):
    main, other = (result["printed"]["said"] for result in ranks("two"))
    assert main == ranks("one")[0]["printed"]["said"]
    assert main.count("Epoch 1/2 - Train metrics") == 1
    assert "Learning rate finder: 5 rungs" in main
    assert "Early stopping at epoch 2 of 3" in main
    assert other == ""


def test_only_the_main_rank_writes(ranks):
    main, other = (result["printed"] for result in ranks("two"))
    assert main["writes"]
    assert other["writes"] == []


def test_files_are_written_once(ranks):
    folders = [file.split("/")[:2] for file in ranks("two")[0]["printed"]["files"]]
    names = sorted("/".join(parts) for parts in folders)
    assert [name.partition("-train_loss")[0] for name in names] == [
        "events/train",
        "events/valid",
        "events/weights",
        "log.csv",
        "models/epoch-01",
        "models/epoch-02",
    ]


def test_the_log_has_every_epoch_once(ranks, shared):
    ranks("two")
    lines = (shared / "two/out-2/log.csv").read_text().splitlines()
    assert [line.rsplit(",", 1)[0] for line in lines] == [
        "epoch,set",
        *("1,train", "1,valid", "2,train", "2,valid"),
    ]


def test_the_checkpoint_holds_the_plain_module(ranks, shared):
    ranks("two")
    for epoch in (1, 2):
        content = read_checkpoint(shared / f"two/checkpoints-2/{epoch}.pt")
        assert list(content["model"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert content["epoch"] == epoch


@pytest.mark.parametrize("run", ["one", "two"])
def test_a_run_from_a_checkpoint_is_the_unbroken_one(ranks, run):
    for result in ranks(run):
        found = result["resumed_from_checkpoint"]
        torch.testing.assert_close(found["weights"], found["unbroken"], rtol=1e-6, atol=1e-7)


def test_a_missing_checkpoint_is_said_once(ranks):
    main, other = (result["no_checkpoint"] for result in ranks("two"))
    assert len(main["said"]) == 1
    assert other["said"] == []
    assert main["stopped"] == other["stopped"] == "completed"


@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_a_killed_run_goes_on_on_any_number_of_ranks(ranks, killed, run):
    """It was killed on two ranks when the third of four epochs began."""
    kept = read_checkpoint(killed / "state.pt")
    assert kept["epoch"] == 2
    for result in ranks(run):
        found = result["goes_on"]
        assert list(found["begun"]) == [3, 4]
        assert found["stopped"] == "completed"
        for name, weight in found["begun"][3].items():
            assert torch.equal(weight, kept["model"][name])
        assert torch.equal(found["weights"], ranks(run)[0]["goes_on"]["weights"])


def test_one_process_goes_on_with_the_batches_of_two(ranks):
    found = ranks("one")[0]["goes_on_with_larger_batches"]
    assert list(found["begun"]) == [3, 4]
    assert found["stopped"] == "completed"


def test_on_as_many_ranks_it_ends_bit_for_bit_as_the_unbroken_run(ranks):
    for result in ranks("two"):
        assert list(result["unbroken"]["begun"]) == [1, 2, 3, 4]
        assert torch.equal(result["goes_on"]["weights"], result["unbroken"]["weights"])
        assert torch.equal(result["goes_on"]["metrics"], result["unbroken"]["metrics"])


@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_the_file_is_gone_when_the_run_is_complete(ranks, shared, run):
    ranks(run)
    assert not (shared / run / "state.pt").exists()
    assert not (shared / run / "fresh.pt").exists()
