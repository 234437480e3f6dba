"""Optimizers that are more than a `step`: schedule-free, several on one loss, and with closures."""

import pytest
import torch
from scenarios import (
    FOLDER,
    ROWS,
    N,
    fit,
    net,
    options,
    outcome,
    place,
    rows,
    scenario,
    setup,
    training,
)
from torch import nn

import luzpy as luz

pytestmark = pytest.mark.slow


def schedule_free(**more):
    import schedulefree

    model = setup(optimizer=schedulefree.AdamWScheduleFree, lr=0.05)
    return fit(rows(), model, 3, valid=0.2, loader=options(drop_last=False), **more)


@training("one two three")
def schedule_free_alone():
    return outcome(schedule_free())


@training("one two")
def schedule_free_with_files():
    """The weights in files are those for evaluation: the main process goes to and fro."""
    callbacks = [
        luz.callbacks.AutoResume(FOLDER / "free.pt"),
        luz.callbacks.ModelCheckpoint(FOLDER / "free" / "last.pt", "train_loss"),
    ]
    return outcome(schedule_free(callbacks=callbacks))


@training("one two")
def schedule_free_accumulated():
    return outcome(schedule_free(accelerator=place(accumulate=2)))


def test_files_do_not_change_schedule_free_training(ranks):
    for run in ("one", "two"):
        (expected, *_) = ranks(schedule_free_alone, run)
        for found in ranks(schedule_free_with_files, run):
            assert torch.equal(found["weights"], expected["weights"])


class TwoOptimizers(nn.Module):
    """A tuple: one loss, on which both step."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def set_optimizers(self, lr):
        return (
            torch.optim.SGD(self.net[0].parameters(), lr, momentum=0.9),
            torch.optim.Adam(self.net[2].parameters(), lr),
        )

    def forward(self, x):
        return self.net(x)


@training("one two three")
def tuple_of_optimizers():
    model = setup(TwoOptimizers, None, lr=0.05)
    return outcome(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


@training("one two")
def tuple_accumulated():
    accelerator = place(accumulate=3)
    model = setup(TwoOptimizers, None, lr=0.05)
    loader = options(drop_last=False, shuffle=False)
    return outcome(fit(rows(), model, accelerator=accelerator, loader=loader))


@pytest.mark.parametrize("run", ["one", "two"])
def test_both_optimizers_step_when_all_batches_are_in(ranks, run):
    model = setup(TwoOptimizers, None, lr=0.05)()
    optimizers = model.set_optimizers(0.05)
    for _ in range(2):
        for x, y in zip(*(part.split(3 * ROWS) for part in rows()), strict=True):
            for optimizer in optimizers:
                optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert N % (3 * ROWS)  # the last step is one of fewer batches
    expected = torch.cat([p.detach().flatten() for p in model.parameters()])
    for found in ranks(tuple_accumulated, run):
        torch.testing.assert_close(found["weights"].float(), expected, rtol=1e-4, atol=1e-6)


class SAM(torch.optim.SGD):
    """It refuses a step without a closure; that says its name."""


@scenario("one two")
def closures():
    said = {}
    for optimizer, more in ((torch.optim.LBFGS, {"max_iter": 4}), (SAM, {})):
        for verb in ("fit", "lr_finder"):
            model = setup(optimizer=optimizer).set_opt_hparams(**more)
            try:
                if verb == "fit":
                    fit(rows(), model, 1, loader=options())
                else:
                    model.lr_finder(rows(), accelerator=place(), steps=5, verbose=False)
                said[f"{optimizer.__name__} {verb}"] = ""
            except ValueError as err:
                said[f"{optimizer.__name__} {verb}"] = str(err)
    return said


def test_an_optimizer_with_a_closure_is_refused_on_several_ranks(ranks):
    names = ("LBFGS", "SAM")
    (alone,) = ranks(closures, "one")
    assert alone == {f"{name} {verb}": "" for name in names for verb in ("fit", "lr_finder")}
    for found in ranks(closures, "two"):
        for name in names:
            for verb in ("fit", "lr_finder"):
                said = found[f"{name} {verb}"]
                assert said.startswith("`accelerator` must be that of one process, got ")
                assert said.endswith(f": {name} recomputes its batch within its step.")
