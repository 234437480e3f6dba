"""`lr_finder` on several ranks."""

import pytest
import torch
from scenarios import (
    RANK,
    ROWS,
    B,
    by_row,
    finder,
    options,
    place,
    rows,
    scenario,
    setup,
    stream,
    sweep,
)
from torch import nn
from torch.utils.data import DataLoader

pytestmark = pytest.mark.slow


@sweep("one two three accelerate")
def finder_plain():
    return finder(rows())


@sweep("one two")
def finder_one_epoch():
    return finder(rows(), steps=None)


@sweep("one two three")
def finder_ragged():
    return finder(rows(), dataloader_options=options(drop_last=False))


@sweep("one two")
def finder_validated():
    return finder(rows(), valid_data=0.3, valid_batches=None)


@sweep("one two")
def finder_several_runs():
    return finder(rows(), runs=2)


@sweep("one two")
def finder_accumulated():
    return finder(rows(), accelerator=place(accumulate=2), steps=None)


@sweep("one two")
def finder_looks_twice():
    """A sweep that is too noisy to judge."""
    return finder(rows(), steps=40, start_lr=1e-6, end_lr=1e-2)


@sweep("one two")
def finder_confirmed():
    torch.manual_seed(11)
    records = setup().lr_finder(
        rows(),
        40,
        1e-5,
        1.0,
        confirm=2,
        confirm_steps=6,
        accelerator=place(),
        verbose=False,
        dataloader_options=options(),
    )
    trials = records.confirmed
    kept = {name: torch.tensor(trials[name].tolist()) for name in ("lr", "loss", "seed")}
    return kept | {"suggested": torch.tensor(records.suggest()), "stopped": records.stopped}


def test_a_second_look_and_short_trainings_are_alike_on_all_ranks(ranks):
    for found in ranks(finder_looks_twice, "one", "two"):
        assert len(found["initial_loss"]) == 40
        assert found["initial_loss"][0] == found["loss"][0]
    for found in ranks(finder_confirmed, "one", "two"):
        assert len(found["loss"]) >= 8
        assert found["loss"].isfinite().all()


def test_a_rung_is_a_step(ranks):
    """101 rows: eight batches of twelve, four steps of two batches."""
    for swept, rungs in (
        (finder_one_epoch, 8),
        (finder_accumulated, 4),
        (finder_several_runs, 50),
    ):
        for found in ranks(swept, "one", "two"):
            assert len(found["loss"]) == rungs


@sweep("one two")
def finder_iterable():
    return finder(stream())


@sweep("one two three")
def finder_one_rank_diverges():
    """A value that is not a number among the last rank's rows of the seventh rung."""
    data = by_row()
    data.x[6 * ROWS + ROWS - 1] = float("nan")
    return finder(DataLoader(data, B))


@sweep("one two three")
def finder_loss_raises_on_one_rank():
    """A value among the last rank's rows of the seventh rung that the loss cannot bear."""

    def loss(preds, target):
        if not preds.isfinite().all():
            raise RuntimeError("no numbers")
        return (preds - target).square().mean()

    data = by_row()
    data.x[6 * ROWS + ROWS - 1] = float("inf")
    return finder(DataLoader(data, B), setup(loss=loss))


@pytest.mark.parametrize("scenario", [finder_one_rank_diverges, finder_loss_raises_on_one_rank])
@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_the_loss_of_one_rank_stops_the_finder_on_all(ranks, run, scenario):
    """The last rank's rows of the seventh rung hold a value that is not a number."""
    for found in ranks(scenario, run):
        assert found["stopped"] == "not finite"
        assert len(found["loss"]) == 7
        assert found["loss"].isnan().tolist() == [False] * 6 + [True]


@sweep("one two")
def finder_diverges():
    model = setup(lambda: nn.Linear(3, 1))
    return finder(rows(), model, steps=60, start_lr=1e-2, end_lr=1e2, stop_div=2.0)


@sweep("one two")
def finder_loss_raises():
    """A loss that cannot be computed once the predictions are no numbers."""

    def loss(preds, target):
        if not preds.isfinite().all():
            raise RuntimeError("no numbers")
        return (preds - target).square().mean()

    model = setup(lambda: nn.Linear(3, 1), loss=loss)
    return finder(rows(), model, steps=60, start_lr=10.0, end_lr=1e6)


def test_the_finder_ends_where_a_diverged_models_loss_fails(ranks):
    for found in ranks(finder_loss_raises, "one", "two"):
        assert found["stopped"] == "not finite"
        assert not found["loss"][-1].isfinite()
        assert found["loss"][:-1].isfinite().all()


@scenario("one two")
def finder_leaves_no_trace():
    torch.manual_seed(40 + RANK)
    before = torch.get_rng_state()
    setup().lr_finder(rows(), 5, accelerator=place(), dataloader_options=options())
    return {"same": torch.equal(before, torch.get_rng_state())}


@pytest.mark.parametrize("run", ["one", "two"])
def test_the_finder_leaves_the_random_state(ranks, run):
    assert all(found["same"] for found in ranks(finder_leaves_no_trace, run))
