"""A rank that fails, dies, or is told to end: all processes end, in time."""

import os
import signal
import time

import pytest
import torch
from runs import end, start, torchrun

pytest.importorskip("accelerate", reason="luzpy[distributed] is not installed")
pytestmark = pytest.mark.slow
SECONDS = 180


@pytest.mark.parametrize(
    ("name", "said"),
    [("fails_in_dataset", "the disk is gone"), ("fails_in_callback", "no space")],
)
def test_a_rank_that_fails_ends_the_others(tmp_path, name, said):
    process = start(torchrun(2), tmp_path, [name])
    assert end(process, tmp_path, SECONDS) != 0
    assert said in (tmp_path / "said").read_text()
    assert not list(tmp_path.glob("rank-*.pt"))


def test_a_rank_that_is_killed_ends_the_others(killed):
    assert int((killed / "status").read_text()) != 0
    assert not list(killed.glob("rank-*.pt"))


def running(folder):
    """A run on two ranks that has begun its second epoch, and would never end."""
    process = start(torchrun(2), folder, ["endless"])
    until = time.monotonic() + SECONDS
    while len(list(folder.glob("running-*"))) < 2:
        assert process.poll() is None, (folder / "said").read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    return process


def test_sigterm_ends_all_ranks_in_an_orderly_way_and_keeps_the_file(tmp_path):
    process = running(tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process, tmp_path, SECONDS) != 0
    statuses = [(tmp_path / f"ended-{rank}").read_text() for rank in (0, 1)]
    assert statuses == ["SystemExit(143)"] * 2
    assert (tmp_path / "endless.pt").exists()


def test_ctrl_c_returns_the_fitted_model_on_all_ranks_and_keeps_the_file(tmp_path):
    process = running(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert end(process, tmp_path, SECONDS) != 0
    results = [torch.load(tmp_path / f"rank-{rank}.pt")["endless"] for rank in (0, 1)]
    assert [result["stopped"] for result in results] == ["interrupted"] * 2
    assert torch.equal(results[0]["weights"], results[1]["weights"])
    assert (tmp_path / "endless.pt").exists()


@pytest.mark.parametrize("run", ["two", "three"])
def test_ctrl_c_to_one_rank_stops_all_at_the_same_place(ranks, run):
    results = [result["one_rank_interrupted"] for result in ranks(run)]
    for result in results:
        assert result["stopped"] == "interrupted"
        assert result["at"] == results[0]["at"]
        assert result["at"][0][0] == 2
        assert torch.equal(result["weights"], results[0]["weights"])


def test_ctrl_c_to_one_rank_stops_the_finder_on_all(ranks):
    results = [result["one_rank_interrupted_in_finder"] for result in ranks("two")]
    for result in results:
        assert result["stopped"] == "interrupted"
        assert 3 <= len(result["loss"]) < 100
        assert torch.equal(result["loss"], results[0]["loss"])
