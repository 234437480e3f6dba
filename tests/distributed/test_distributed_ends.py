"""A rank that fails, dies, or is told to end: all processes end, in time."""

import os
import signal
import time

import models
import pytest
import torch
from launch import end, start, torchrun
from scenarios import FOLDER, RANK, ROWS, SIZE, finder, fit, options, outcome, rows, scenario

import luzpy as luz

pytest.importorskip("accelerate", reason="luzpy[distributed] is not installed")
SECONDS = 180

pytestmark = pytest.mark.slow


class Failing(models.Rows):
    def __getitem__(self, index):
        if RANK == SIZE - 1 and index > 60:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@scenario()
def fails_in_dataset():
    fit(Failing(*rows()), None, 50, loader=options())


@scenario()
def fails_in_callback():
    def fail(ctx):
        if RANK == SIZE - 1 and ctx.epoch == 2 and ctx.iter == 2:
            raise OSError("no space")

    callback = luz.Callback.from_functions(on_train_batch_end=fail)
    fit(rows(), None, 50, callbacks=callback, loader=options())


@pytest.mark.parametrize(
    ("scenario", "said"),
    [(fails_in_dataset, "the disk is gone"), (fails_in_callback, "no space")],
)
def test_a_rank_that_fails_ends_the_others(tmp_path, scenario, said):
    process = start(torchrun(2), tmp_path, scenario)
    assert end(process, tmp_path, SECONDS) != 0
    assert said in (tmp_path / "said").read_text()
    assert not list(tmp_path.glob("rank-*.pt"))


def test_a_rank_that_is_killed_ends_the_others(killed):
    assert int((killed / "status").read_text()) != 0
    assert not list(killed.glob("rank-*.pt"))


@scenario()
def endless():
    """Until a signal comes."""

    def say(ctx):
        if ctx.epoch == 2:
            (FOLDER / f"running-{RANK}").touch()

    callbacks = [luz.Callback.from_functions(on_epoch_begin=say)]
    callbacks.append(luz.callbacks.AutoResume(FOLDER / "endless.pt"))
    try:
        return outcome(fit(rows(), None, 10**6, callbacks=callbacks, loader=options()))
    except SystemExit as err:
        (FOLDER / f"ended-{RANK}").write_text(repr(err))
        raise


def running(folder):
    """A run on two ranks that has begun its second epoch, and would never end."""
    process = start(torchrun(2), folder, endless)
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


@scenario("two three", agree="weights")
def one_rank_interrupted():
    """Ctrl-C reaches the last rank only."""
    at = []

    def press(ctx):
        if ctx.epoch == 2 and ctx.iter == 3 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGINT)

    callbacks = luz.Callback.from_functions(
        on_train_batch_begin=press, on_interrupt=lambda ctx: at.append((ctx.epoch, ctx.iter))
    )
    fitted = fit(rows(24 * ROWS), None, 5, callbacks=callbacks, loader=options())
    return outcome(fitted, at=at)


@pytest.mark.parametrize("run", ["two", "three"])
def test_ctrl_c_to_one_rank_stops_all_at_the_same_place(ranks, run):
    results = ranks(one_rank_interrupted, run)
    for result in results:
        assert result["stopped"] == "interrupted"
        assert result["at"] == results[0]["at"]
        assert result["at"][0][0] == 2
        assert torch.equal(result["weights"], results[0]["weights"])


@scenario("two")
def one_rank_interrupted_in_finder():
    def press(ctx):
        if ctx.epoch == 1 and ctx.iter == 3 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGINT)

    callback = luz.Callback.from_functions(on_train_batch_begin=press)
    return finder(rows(24 * ROWS), steps=100, callbacks=callback)


def test_ctrl_c_to_one_rank_stops_the_finder_on_all(ranks):
    results = ranks(one_rank_interrupted_in_finder, "two")
    for result in results:
        assert result["stopped"] == "interrupted"
        assert 3 <= len(result["loss"]) < 100
        assert torch.equal(result["loss"], results[0]["loss"])
