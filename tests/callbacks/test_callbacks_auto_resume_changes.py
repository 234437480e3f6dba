"""`AutoResume`: a file of another run, or of one with other settings, is told; and `on_change`."""

import functools

import numpy as np
import pytest
import torch
import torchmetrics
from models import Rows, regression, unrelated
from torch import nn
from torch.utils.data import DataLoader

import luzpy as luz
from luzpy import LuzError
from luzpy.files import container
from luzpy.files.checkpoint import read_checkpoint

X, Y = unrelated(100, 10)


class Killed(Exception):
    pass


class Kill(luz.Callback):
    """Ends the run when a batch begins, as a kill does."""

    def __init__(self, epoch=2, batch=1):
        self.epoch, self.batch = epoch, batch

    def on_train_batch_begin(self, ctx):
        if (ctx.epoch, ctx.iter) == (self.epoch, self.batch):
            raise Killed


def fit(model, *callbacks, data=(X, Y), epochs=3, **kwargs):
    return model.fit(data, epochs, callbacks=list(callbacks), verbose=False, **kwargs)


def killed(path, model, *callbacks, mid=False, **kwargs):
    resume = luz.callbacks.AutoResume(path, every_n_batches=1 if mid else None)
    with pytest.raises(Killed):
        fit(model, resume, *callbacks, Kill(batch=2 if mid else 1), **kwargs)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.pt"


def halved(preds, target):
    return (preds - target).abs().mean() / 2


class Sized(nn.Linear):
    def __init__(self, p=0.1):
        super().__init__(10, 1)


class Weighted:
    """A loss that is an object."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, input, target):
        return self.weight * (input - target).square().mean()


BASE = {"module": Sized, "optimizer": torch.optim.SGD, "loss": nn.SmoothL1Loss(), "seed": 4}
# what is changed: (before, then, what the message must hold)
CHANGES = {
    "module": ({}, {"module": type("Other", (Sized,), {})}, ["module Sized, this run has Other"]),
    "hparams": ({"hparams": {"p": 0.1}}, {"hparams": {"p": 0.2}}, ["hparams p 0.1", "has 0.2"]),
    "optimizer": ({}, {"optimizer": torch.optim.RMSprop}, ["optimizer SGD", "has RMSprop"]),
    "a partial": (
        {"optimizer": functools.partial(torch.optim.SGD, momentum=0.9)},
        {"optimizer": functools.partial(torch.optim.SGD, momentum=0.8)},
        ["optimizer momentum 0.9", "has 0.8"],
    ),
    "lr": ({"lr": 0.01}, {"lr": 0.5}, ["opt_hparams lr 0.01, this run has 0.5"]),
    "an option more": ({}, {"opt_hparams": {"momentum": 0.9}}, ["momentum nothing", "has 0.9"]),
    "loss": ({}, {"loss": nn.L1Loss()}, ["loss", "SmoothL1Loss", "has L1Loss"]),
    "of the loss": ({}, {"loss": nn.SmoothL1Loss(beta=2.0)}, ["loss beta 1.0", "has 2.0"]),
    "weights of the loss": (
        {"loss": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 1.0])[:1])},
        {"loss": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))},
        ["loss pos_weight 2.0", "has 3.0"],
    ),
    "an object": ({"loss": Weighted(2)}, {"loss": Weighted(3)}, ["loss weight 2", "has 3"]),
    "metrics": (
        {"metrics": [luz.metrics.MAE()]},
        {"metrics": [luz.metrics.MAE(), halved]},
        ["train metrics MAE, this run has MAE, halved"],
    ),
    "of a metric": (
        {"metrics": [torchmetrics.MinkowskiDistance(p=3.0)]},
        {"metrics": [torchmetrics.MinkowskiDistance(p=4.0)]},
        ["p 3.0", "has 4.0"],
    ),
    "seed": ({}, {"seed": 5}, ["seed 4, this run has 5"]),
    "batch size": (
        {},
        {"options": {"batch_size": 16}},
        ["data batch_size 32, this run has 16"],
    ),
    "drop_last": ({}, {"options": {"drop_last": False}}, ["drop_last True", "has False"]),
    "shuffle": ({}, {"options": {"shuffle": False}}, ["RandomSampler", "has SequentialSampler"]),
    "rows": ({}, {"data": (X[:96], Y[:96])}, ["data rows 100, this run has 96"]),
    "first rows": ({}, {"data": (torch.cat([-X[:1], X[1:]]), Y)}, ["data first rows"]),
    "last rows": ({}, {"data": (X, torch.cat([Y[:-1], -Y[-1:]]))}, ["data last rows"]),
    "rows of a split": (
        {"valid_data": 0.2},
        {"valid_data": 0.2, "data": (torch.cat([-X[:1], X[1:]]), Y)},
        ["data first rows"],
    ),
}


def spec_and_data(module, optimizer, loss, seed, hparams=None, lr=0.01, **rest):
    opt_hparams, metrics = rest.pop("opt_hparams", {}), rest.pop("metrics", None)
    model = luz.setup(module, loss, optimizer, metrics, seed=seed)
    model = model.set_hparams(**(hparams or {})).set_opt_hparams(lr=lr, **opt_hparams)
    return model, {"dataloader_options": rest.pop("options", None), **rest}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("mid", [False, True])
def test_what_differs_is_named_old_and_new(path, name, mid):
    before, then, told = CHANGES[name]
    model, options = spec_and_data(**(BASE | before))
    killed(path, model, mid=mid, **options)
    content = path.read_bytes()
    model, options = spec_and_data(**(BASE | before | then))
    with pytest.raises(LuzError) as caught:
        fit(model, luz.callbacks.AutoResume(path), **options)
    message = str(caught.value)
    for part in ["state.pt does not fit the run", *told, "AutoResume(path)", "on_change"]:
        assert part in message
    assert message.count("it was written with") == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_not_changed_goes_on(path, name):
    before, _, _ = CHANGES[name]
    for run in (killed, lambda path, model, **o: fit(model, luz.callbacks.AutoResume(path), **o)):
        # a script that is started again makes everything anew
        model, options = spec_and_data(**(BASE | before))
        run(path, model, **options)
    assert not path.exists()


def test_the_loop_over_learning_rates_that_was_killed_in_the_third(path):
    def loop(*callbacks):
        for lr in (0.1, 0.01, 0.001):
            yield fit(regression(10, lr=lr), luz.callbacks.AutoResume(path), *callbacks)

    class KillThird(luz.Callback):
        def on_epoch_begin(self, ctx):
            if ctx.epoch == 2 and ctx.opt_hparams["lr"] == 0.001:
                raise Killed

    runs = loop(KillThird())
    next(runs)
    next(runs)
    with pytest.raises(Killed):
        next(runs)
    with pytest.raises(LuzError, match=r"lr 0\.001, this run has 0\.1"):
        next(loop())
    assert read_checkpoint(path)["epoch"] == 1


def test_what_is_drawn_at_every_start_is_no_change(path):
    killed(path, regression(10))
    assert fit(regression(10), luz.callbacks.AutoResume(path)).stopped == "completed"


def test_more_epochs_and_other_callbacks_without_a_state_are_no_change(path):
    killed(path, regression(10))
    quiet = luz.Callback.from_functions(on_epoch_end=lambda ctx: None)
    fitted = fit(regression(10), luz.callbacks.AutoResume(path), quiet, epochs=5)
    assert len(fitted.records["metrics"]["train"]) == 5


def test_data_that_are_asked_row_by_row_are_known_by_class_and_length(path):
    def loader(rows):
        return DataLoader(Rows(X[:rows], Y[:rows]), 32, shuffle=True)

    killed(path, regression(10), data=loader(100))
    with pytest.raises(LuzError, match="data rows 100, this run has 97"):
        fit(regression(10), luz.callbacks.AutoResume(path), data=loader(97))


def test_frames_and_arrays_have_a_checksum_too(path):
    data = {"x": X.numpy(), "y": Y.numpy()}
    killed(path, regression(10), data=data)
    other = data | {"y": np.roll(data["y"], 1)}
    with pytest.raises(LuzError, match="last rows"):
        fit(regression(10), luz.callbacks.AutoResume(path), data=other)


def test_a_file_without_a_fingerprint_is_taken_as_before(path):
    killed(path, regression(10))
    content = read_checkpoint(path)
    del content["luzpy"], content["resume"]["fingerprint"]
    container.write(path, container.CHECKPOINT, content)
    assert fit(regression(10, lr=0.5), luz.callbacks.AutoResume(path)).stopped == "completed"


def test_another_version_alone_is_no_change(path):
    killed(path, regression(10))
    content = read_checkpoint(path)
    del content["luzpy"]
    assert content["resume"]["fingerprint"]["luzpy"] == luz.__version__
    content["resume"]["fingerprint"]["luzpy"] = "0.0.1"
    container.write(path, container.CHECKPOINT, content)
    assert fit(regression(10), luz.callbacks.AutoResume(path)).stopped == "completed"


# `on_change` ---------------------------------------------------------------------------------


class Rates(luz.Callback):
    def on_fit_begin(self, ctx):
        self.seen = []

    def on_train_batch_end(self, ctx):
        group = ctx.optimizers["opt"].param_groups[0]
        self.seen.append((group["lr"], group["momentum"]))


def go_on(path, on_change, model, *callbacks, **kwargs):
    rates = Rates()
    resume = luz.callbacks.AutoResume(path, on_change=on_change)
    fitted = fit(model, resume, rates, *callbacks, **kwargs)
    assert not path.exists()
    return fitted, rates.seen


@pytest.mark.parametrize("mid", [False, True])
def test_keep_goes_on_with_the_files_settings_and_says_so(path, mid):
    data = DataLoader(Rows(X, Y), 25)
    expected = fit(regression(10, lr=0.01, seed=1), data=data)
    killed(path, regression(10, lr=0.01, seed=1), mid=mid, data=data)
    fitted, rates = go_on(path, "keep", regression(10, lr=0.5, seed=2), data=data)
    assert set(rates) == {(0.01, 0)}
    assert fitted.opt_hparams == {"lr": 0.01}
    assert torch.equal(fitted.model.weight, expected.model.weight)


@pytest.mark.parametrize("mid", [False, True])
def test_use_goes_on_with_the_runs_settings(path, mid):
    killed(path, regression(10, lr=0.01), mid=mid)
    model = regression(10, lr=0.5).set_opt_hparams(momentum=0.9)
    fitted, rates = go_on(path, "use", model)
    assert set(rates) == {(0.5, 0.9)}
    assert fitted.opt_hparams == {"lr": 0.5, "momentum": 0.9}


def test_use_leaves_what_has_not_changed_as_the_run_has_made_it(path):
    halve = luz.Callback.from_functions(
        on_fit_begin=lambda ctx: None,
        on_epoch_end=lambda ctx: ctx.opt.param_groups[0].update(lr=0.005),
    )
    killed(path, regression(10, lr=0.01), halve)
    _, rates = go_on(path, "use", regression(10, lr=0.01).set_opt_hparams(momentum=0.5))
    assert set(rates) == {(0.005, 0.5)}


@pytest.mark.parametrize(
    ("then", "mid"),
    [
        ({"loss": nn.L1Loss()}, False),
        ({"loss": nn.L1Loss()}, True),
        ({"metrics": [luz.metrics.MAE(), luz.metrics.RMSE()]}, False),
        ({"metrics": []}, False),
        ({"options": {"batch_size": 25}}, False),
        ({"data": (X[:90], Y[:90]), "valid_data": 0.5}, False),
    ],
)
def test_use_takes_what_can_be_put_into_the_state(path, then, mid):
    base = BASE | {"metrics": [luz.metrics.MAE()], "valid_data": 0.2}
    model, options = spec_and_data(**base)
    killed(path, model, mid=mid, **options)
    model, options = spec_and_data(**(base | then))
    fitted, _ = go_on(path, "use", model, **options)
    last = fitted.records["metrics"]["train"][-1]
    names = {"loss", *(m.abbrev.lower() for m in model.metrics.train)}
    assert last.keys() == names
    assert len(fitted.records["metrics"]["train"]) == 3


@pytest.mark.parametrize(
    ("on_change", "then", "mid", "why"),
    [
        ("keep", {"loss": nn.L1Loss()}, False, "not in the file"),
        ("keep", {"options": {"batch_size": 16}}, False, "not in the file"),
        ("keep", {"hparams": {"p": 0.7}}, False, "not in the file"),
        ("use", {"hparams": {"p": 0.7}}, False, "depend on it"),
        ("use", {"seed": 9}, False, "depend on it"),
        ("use", {"optimizer": torch.optim.Adam}, False, "depend on it"),
        ("use", {"metrics": [luz.metrics.MAE()]}, True, "in the middle of an epoch"),
        ("use", {"options": {"batch_size": 16}}, True, "in the middle of an epoch"),
    ],
)
def test_what_can_be_neither_kept_nor_used_is_an_error(path, on_change, then, mid, why):
    model, options = spec_and_data(**BASE)
    killed(path, model, mid=mid, **options)
    content = path.read_bytes()
    model, options = spec_and_data(**(BASE | then))
    with pytest.raises(LuzError, match=rf"on_change='{on_change}'.*{why}"):
        fit(model, luz.callbacks.AutoResume(path, on_change=on_change), **options)
    assert path.read_bytes() == content


def test_a_rate_that_a_scheduler_sets_cannot_be_used(path):
    def schedule():
        return luz.callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, 1)

    killed(path, regression(10, lr=0.01), schedule())
    with pytest.raises(LuzError, match="a scheduler sets it"):
        go_on(path, "use", regression(10, lr=0.1), schedule())
    _, rates = go_on(path, "keep", regression(10, lr=0.1), schedule())
    assert rates[0][0] == pytest.approx(0.001)


def test_on_change_is_checked(path):
    with pytest.raises(ValueError, match="`on_change` must be one of None, 'keep', 'use', got 1"):
        luz.callbacks.AutoResume(path, on_change=1)


def test_the_seed_of_fit_and_the_epochs_before_count(path):
    killed(path, regression(10), seed=3)
    with pytest.raises(LuzError, match="seed of fit 3, this run has 5"):
        fit(regression(10), luz.callbacks.AutoResume(path), seed=5)
    first = fit(regression(10), epochs=1)
    with pytest.raises(LuzError, match="epochs before 0, this run has 1"):
        fit(first, luz.callbacks.AutoResume(path), seed=3)
    assert fit(regression(10), luz.callbacks.AutoResume(path), seed=3).stopped == "completed"
