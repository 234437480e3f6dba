"""What several ranks print, write, and go on from."""

import contextlib
import io
import os
import re
import shutil
import signal
import sys
import warnings

import pytest
import torch
from scenarios import (
    FOLDER,
    RANK,
    SIZE,
    B,
    by_row,
    fit,
    options,
    outcome,
    place,
    rows,
    scenario,
    setup,
    training,
    weights,
)
from torch import nn
from torch.utils.data import DataLoader

import luzpy as luz
from luzpy.files.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


@scenario("one two")
def printed():
    said = io.StringIO()
    folder = FOLDER / f"out-{SIZE}"
    csv = luz.callbacks.CSVLogger(folder / "log.csv")
    events = luz.callbacks.TFEvents(folder / "events", histograms=True)
    checkpoint = luz.callbacks.ModelCheckpoint(f"{folder}/models/", monitor="train_loss")
    torch.manual_seed(11)
    writes = []
    audit = {"on": True}

    def note(event, args):  # what this rank opens for writing, below the folder
        if (
            event == "open"
            and audit["on"]
            and (args[1] or "r")[0] in "wxa"
            and str(folder) in str(args[0])
        ):
            writes.append(str(args[0]))

    sys.addaudithook(note)
    with contextlib.redirect_stdout(said):
        fitted = setup().fit(
            rows(), 2, [csv, events, checkpoint], 0.2, place(), True, dataloader_options=options()
        )
        fitted.evaluate(rows(), accelerator=place(), verbose=True)
        fitted.predict(rows()[0], accelerator=place(), verbose=True)
        setup().lr_finder(rows(), 5, accelerator=place(), verbose=True)
        stop = luz.callbacks.EarlyStopping("train_loss", min_delta=100)
        setup().fit(rows(), 3, stop, None, place(), True, dataloader_options=options())
    audit["on"] = False
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return {"said": said.getvalue(), "files": files, "writes": writes}


def untimed(text):
    """What was printed, without how long it took."""
    return re.sub(r"\d+(\.\d+)?m?s\b", "...", text)


def test_only_the_main_rank_prints(ranks):
    main, other = (untimed(found["said"]) for found in ranks(printed, "two"))
    assert main == untimed(ranks(printed, "one")[0]["said"])
    assert main.count("Epoch 1/2 - Train metrics") == 1
    assert "Learning rate finder: 5 rungs" in main
    assert "Early stopping at epoch 2 of 3" in main
    assert other == ""


def test_only_the_main_rank_writes(ranks):
    main, other = ranks(printed, "two")
    assert main["writes"]
    assert other["writes"] == []


def test_files_are_written_once(ranks):
    folders = [file.split("/")[:2] for file in ranks(printed, "two")[0]["files"]]
    names = sorted("/".join(parts) for parts in folders)
    assert [name.partition("-train_loss")[0] for name in names] == [
        "events/train",
        "events/valid",
        "events/weights",
        "log.csv",
        "models/epoch-01",
        "models/epoch-02",
    ]


def test_the_log_has_every_epoch_once(launched):
    lines = (launched("two") / "out-2/log.csv").read_text().splitlines()
    assert [line.rsplit(",", 1)[0] for line in lines] == [
        "epoch,set",
        *("1,train", "1,valid", "2,train", "2,valid"),
    ]


@training("one two")
def resumed_from_checkpoint():
    folder = FOLDER / f"checkpoints-{SIZE}"
    checkpoint = luz.callbacks.ModelCheckpoint(f"{folder}/{{epoch}}.pt", monitor="train_loss")
    model = setup(optimizer=torch.optim.Adam, lr=0.01)
    loader = DataLoader(by_row(), B)
    fit(loader, model, 2, callbacks=checkpoint)
    resume = luz.callbacks.ResumeFromCheckpoint(
        folder, restore_records=True, restore_optimizer_state=True
    )
    fitted = fit(loader, model, 4, callbacks=resume)
    return outcome(fitted, unbroken=weights(fit(loader, model, 4)))


def test_the_checkpoint_holds_the_plain_module(launched):
    for epoch in (1, 2):
        content = read_checkpoint(launched("two") / f"checkpoints-2/{epoch}.pt")
        assert list(content["model"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert content["epoch"] == epoch


@pytest.mark.parametrize("run", ["one", "two"])
def test_a_run_from_a_checkpoint_is_the_unbroken_one(ranks, run):
    for found in ranks(resumed_from_checkpoint, run):
        torch.testing.assert_close(found["weights"], found["unbroken"], rtol=1e-6, atol=1e-7)


@scenario("two")
def no_checkpoint():
    resume = luz.callbacks.ResumeFromCheckpoint(FOLDER / "nothing.pt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(rows(), callbacks=resume, loader=options())
    said = [str(w.message) for w in caught if "no checkpoint" in str(w.message)]
    return outcome(fitted, said=said)


def test_a_missing_checkpoint_is_said_once(ranks):
    main, other = ranks(no_checkpoint, "two")
    assert len(main["said"]) == 1
    assert other["said"] == []
    assert main["stopped"] == other["stopped"] == "completed"


@training("one two")
def schedules():
    rates = []
    note = luz.Callback.from_functions(
        on_epoch_end=lambda ctx: rates.append(ctx.optimizers["opt"].param_groups[0]["lr"])
    )
    schedulers = torch.optim.lr_scheduler
    callbacks = [
        luz.callbacks.LRScheduler(schedulers.StepLR, 3, call_on="on_train_batch_end"),
        luz.callbacks.LRScheduler(schedulers.ReduceLROnPlateau, patience=0, threshold=0.5),
        note,
    ]
    return outcome(fit(rows(), None, 4, callbacks=callbacks, valid=0.2, loader=options()), lr=rates)


@training("one two")
def stopped_by_a_number_of_each_rank():
    """One of which says that it grows better, and all others that it grows worse."""
    own = luz.Callback.from_functions(
        on_train_end=lambda ctx: ctx.log_metric("gap", ctx.epoch if RANK else -ctx.epoch)
    )
    stop = luz.callbacks.EarlyStopping("train_gap", mode="min")
    fitted = fit(rows(), None, 4, callbacks=[own, stop], loader=options())
    return {"weights": weights(fitted), "stopped": fitted.stopped}


@training("one two three")
def stopped_early():
    callbacks = [
        luz.callbacks.EarlyStopping(min_delta=0.05),
        luz.callbacks.KeepBestModel(),
    ]
    fitted = fit(rows(), setup(lr=0.3), 50, callbacks=callbacks, valid=0.2, loader=options())
    return outcome(fitted)


class EndsHere(Exception):
    pass


@scenario("one two")
def killed_after_stopping_early():
    path = FOLDER / f"after-early-{SIZE}.pt"

    def end(ctx):
        raise EndsHere

    def run(*callbacks):
        stopping = luz.callbacks.EarlyStopping("train_loss", baseline=0)
        kept = [stopping, luz.callbacks.AutoResume(path), *callbacks]
        return fit(rows(), None, 5, callbacks=kept, loader=options())

    torch.manual_seed(5)
    unbroken = run()
    torch.manual_seed(5)
    with contextlib.suppress(EndsHere):
        run(luz.Callback.from_functions(on_fit_end=end))
    resumed = run()
    return {
        "stopped": resumed.stopped,
        "epochs": len(resumed.records["metrics"]["train"]),
        "same": torch.equal(weights(resumed), weights(unbroken)),
    }


@pytest.mark.parametrize("run", ["one", "two"])
def test_a_run_killed_after_stopping_early_trains_no_more(ranks, run):
    for found in ranks(killed_after_stopping_early, run):
        assert found == {"stopped": "early stopping", "epochs": 1, "same": True}


def trained(path, on_epoch_begin=None, batch_size=6):
    """Six rows a batch and rank on any number of ranks: it is one and the same script."""

    def noisy():
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1))

    begun = {}

    def note(ctx):
        inner = getattr(ctx.model, "module", ctx.model)
        begun[ctx.epoch] = {k: v.clone() for k, v in inner.state_dict().items()}

    callbacks = [
        luz.callbacks.AutoResume(path),
        luz.callbacks.LRScheduler(torch.optim.lr_scheduler.ExponentialLR, 0.9),
        luz.Callback.from_functions(on_epoch_begin=on_epoch_begin or note),
    ]
    model = setup(noisy, optimizer=torch.optim.Adam, lr=0.01)
    fitted = fit(
        rows(), model, 4, callbacks=callbacks, valid=0.2, loader={"batch_size": batch_size}
    )
    return outcome(fitted, begun=begun, kept=path.exists())


@scenario()
def one_rank_dies():
    def kill(ctx):
        if ctx.epoch == 3 and RANK == SIZE - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(FOLDER / "state.pt", kill)


@scenario("one")
def goes_on_with_larger_batches():
    """After `one_rank_dies`: one process takes the batches of two."""
    shutil.copy(FOLDER / "state.pt", FOLDER / "larger.pt")
    return trained(FOLDER / "larger.pt", batch_size=12)


def test_one_process_goes_on_with_the_batches_of_two(ranks):
    found = ranks(goes_on_with_larger_batches, "one")[0]
    assert list(found["begun"]) == [3, 4]
    assert found["stopped"] == "completed"


@scenario("one two three")
def goes_on():
    """After `one_rank_dies`."""
    return trained(FOLDER / "state.pt")


@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_a_killed_run_goes_on_on_any_number_of_ranks(ranks, killed, run):
    """It was killed on two ranks when the third of four epochs began."""
    kept = read_checkpoint(killed / "state.pt")
    assert kept["epoch"] == 2
    for found in ranks(goes_on, run):
        assert list(found["begun"]) == [3, 4]
        assert found["stopped"] == "completed"
        for name, weight in found["begun"][3].items():
            assert torch.equal(weight, kept["model"][name])
        assert torch.equal(found["weights"], ranks(goes_on, run)[0]["weights"])


@scenario("one two")
def unbroken():
    return trained(FOLDER / "fresh.pt")


def test_on_as_many_ranks_it_ends_bit_for_bit_as_the_unbroken_run(ranks):
    for found, expected in zip(ranks(goes_on, "two"), ranks(unbroken, "two"), strict=True):
        assert list(expected["begun"]) == [1, 2, 3, 4]
        assert torch.equal(found["weights"], expected["weights"])
        assert torch.equal(found["metrics"], expected["metrics"])


@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_the_file_is_gone_when_the_run_is_complete(launched, run):
    assert not (launched(run) / "state.pt").exists()
    assert not (launched(run) / "fresh.pt").exists()
