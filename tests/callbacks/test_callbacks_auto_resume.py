"""`AutoResume`: when its file is written, kept, deleted and refused, and what is in it.

That a run which goes on ends bit for bit as one that was never stopped is tested over a grid in
tests/reliability.
"""

import collections
import ctypes
import faulthandler
import gc
import os
import random
import signal
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
import torchmetrics
from models import Rows, TwoOptimizers, regression, unrelated
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, TensorDataset

import luzpy as luz
from luzpy import LuzError
from luzpy.files import container
from luzpy.files.checkpoint import read_checkpoint

X, Y = unrelated(100, 10)
BATCHES = 3  # of 32 rows, without the ragged rest


class Fails(luz.Callback):
    """An error at a hook of an epoch (and batch), once."""

    weight = float("inf")

    def __init__(self, hook="on_epoch_end", epoch=5, batch=None):
        self.failed = False

        def fail(ctx):
            if ctx.epoch == epoch and batch in (None, ctx.iter) and not self.failed:
                self.failed = True
                self.metrics = ctx.get_metrics_df()
                raise RuntimeError("Error on epoch 5")

        setattr(self, hook, fail)


class Presses(luz.Callback):
    """A signal to this process at a hook of an epoch and batch, once."""

    def __init__(self, hook="on_train_batch_begin", epoch=2, batch=2, number=signal.SIGINT):
        self.pressed = False

        def press(ctx):
            if (ctx.epoch, ctx.iter) == (epoch, batch) and not self.pressed:
                self.pressed = True
                os.kill(os.getpid(), number)

        setattr(self, hook, press)


class Tracks(luz.Callback):
    """Weights and optimizers' states at the start of each epoch; the last at the end."""

    def on_fit_begin(self, ctx):
        self.epochs, self.weights, self.states, self.rates = [], [], [], []

    def on_epoch_begin(self, ctx):
        self.epochs.append(ctx.epoch)
        self.weights.append([t.clone() for t in ctx.model.state_dict().values()])
        self.states.append({n: repr(opt.state_dict()) for n, opt in ctx.optimizers.items()})
        self.rates.append(next(iter(ctx.optimizers.values())).param_groups[0]["lr"])


def specification(module=10, **kwargs):
    return regression(module, **kwargs)


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fit(model, *callbacks, data=(X, Y), epochs=10, seed=None, **kwargs):
    if seed is not None:
        seed_all(seed)
    return model.fit(data, epochs, callbacks=list(callbacks), verbose=False, **kwargs)


def stopped(*args, **kwargs):
    with pytest.raises((RuntimeError, LuzError)):
        fit(*args, **kwargs)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def weights(fitted):
    return list(fitted.model.state_dict().values())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.pt"


@pytest.fixture
def resume(path):
    return luz.callbacks.AutoResume(path)


# As in R -------------------------------------------------------------------------------------


def test_a_simple_model_goes_on_and_then_starts_anew(resume, path):
    # R: test-callbacks-resume.R, "resume a simple model"
    model, fails, before, after = specification(), Fails(), Tracks(), Tracks()
    with pytest.raises(RuntimeError, match="Error on epoch 5"):
        fit(model, before, resume, fails)
    assert path.exists()
    fitted = fit(model, after, resume, fails)
    metrics = luz.get_metrics(fitted)
    assert len(metrics) == 10
    # the file is of epoch 4, as the callback that failed had not run in epoch 5
    assert metrics[:4].equals(fails.metrics[:4])
    assert after.epochs == [5, 6, 7, 8, 9, 10]
    assert same(after.weights[0], before.weights[4])
    assert after.states[0] == before.states[4]
    assert not path.exists()
    again = fit(model, resume)
    assert not luz.get_metrics(again).equals(metrics)


def test_several_optimizers_go_on(resume):
    # R: test-callbacks-resume.R, "resume a model with more than one optimizer"
    model = specification(lambda: TwoOptimizers(10, 1), optimizer=None)
    fails, before, after = Fails(), Tracks(), Tracks()
    stopped(model, before, resume, fails)
    fit(model, after, resume, fails)
    assert after.states[0] == before.states[4]
    assert "exp_avg" in after.states[0]["bias"]


def test_the_state_of_a_users_callback_goes_on(resume):
    # R: test-callbacks-resume.R, "resume a model with learning rate scheduler"
    class Counts(luz.Callback):
        weight = float("inf")

        def __init__(self):
            self.i = 1

        def on_epoch_end(self, ctx):
            self.i += 1

        def state_dict(self):
            return {"i": self.i}

        def load_state_dict(self, state):
            self.i = state["i"]

    first, second, fails = Counts(), Counts(), Fails()
    stopped(specification(), resume, first, fails)
    fit(specification(), resume, second, fails)
    assert first.i == 6
    assert second.i == 11  # ten epochs; R saves before this callback has counted its epoch


def test_a_run_that_stopped_early_is_over(resume, path):
    # R: test-callbacks-resume.R, "resume works when model has been explicitly interrupted"
    stopping = luz.callbacks.EarlyStopping(monitor="train_loss", patience=1)
    model = specification()
    first = fit(model, resume, stopping, epochs=300, seed=1)
    assert first.stopped == "early stopping"
    assert not path.exists()
    second = fit(model, resume, stopping, epochs=300, seed=2)
    assert luz.get_metrics(second)["value"][0] != luz.get_metrics(first)["value"][0]


def test_a_schedule_goes_on(resume):
    # R: test-callbacks-resume.R, "resuming a model with a lr scheduler callback is correct"
    def fail(epoch):
        return Fails("on_epoch_begin", epoch)

    def schedule():
        return luz.callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1)

    before, after = Tracks(), Tracks()
    stopped(specification(), resume, schedule(), before, fail(5))
    fit(specification(), resume, schedule(), after, fail(11))
    rates = [0.01 * 0.1**epoch for epoch in range(10)]
    assert before.rates == pytest.approx(rates[:5])
    assert after.rates == pytest.approx(rates[4:])


# When the file is written --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "batch", "place"),
    [
        (None, 1, ("epoch", 1, None)),
        (None, 3, ("epoch", 1, None)),
        (1, 1, ("epoch", 1, None)),
        (1, 2, ("train", 2, 1)),
        (1, 3, ("train", 2, 2)),
        (2, 2, ("epoch", 1, None)),
        (2, 3, ("train", 2, 2)),
        (5, 3, ("epoch", 1, None)),
    ],
)
def test_every_epoch_and_every_so_many_batches(path, every, batch, place):
    resume = luz.callbacks.AutoResume(path, every_n_batches=every)
    stopped(specification(), resume, Fails("on_train_batch_begin", 2, batch))
    found = read_checkpoint(path)
    part, epoch, batches = place
    assert (found["resume"]["part"], found["epoch"]) == (part, epoch)
    assert batches in (None, found["resume"]["batches"])


@pytest.mark.parametrize(
    ("hook", "batch", "place"),
    [
        ("on_train_batch_begin", 2, ("train", 2)),
        ("on_train_batch_end", 2, ("train", 2)),
        ("on_valid_batch_begin", 1, ("valid", 1)),
    ],
)
def test_ctrl_c_writes_after_the_batch_and_keeps_the_file(resume, path, hook, batch, place):
    fitted = fit(specification(), resume, Presses(hook, batch=batch), valid_data=0.1, epochs=3)
    assert fitted.stopped == "interrupted"
    found = read_checkpoint(path)["resume"]
    assert (found["part"], found["batches"]) == place


def test_ctrl_c_keeps_the_file_and_the_run_goes_on_exactly(resume, path):
    # R luz deletes it
    expected = fit(specification(optimizer=torch.optim.Adam), epochs=3, seed=1)
    model = specification(optimizer=torch.optim.Adam)
    fit(expected.spec, resume, Presses(), epochs=3, seed=1)
    found = fit(model, resume, Presses(epoch=9), epochs=3, seed=2)
    assert same(weights(found), weights(expected))
    assert luz.get_metrics(found).equals(luz.get_metrics(expected))
    assert not path.exists()


def test_ctrl_c_while_the_run_finds_its_place_loses_nothing(path):
    class Slow(Dataset):
        def __len__(self):
            return 96

        def __getitem__(self, index):
            press_at(index)
            return X[index], Y[index]

    class Rows(Sampler):  # not one of torch's: rows are fetched while it goes
        def __iter__(self):
            for index in range(96):
                press_at(index)
                yield index

        def __len__(self):
            return 96

    def press_at(index):
        if index == press["at"]:
            press["at"] = None  # once: a second one raises
            os.kill(os.getpid(), signal.SIGINT)

    press = {"at": None}
    resume = luz.callbacks.AutoResume(path)
    options = {"data": DataLoader(Slow(), 32, sampler=Rows()), "epochs": 2}
    expected = fit(specification(), **options)
    first = fit(expected.spec, resume, Presses(epoch=1, batch=3), **options)
    assert first.stopped == "interrupted"
    saved = path.read_bytes()
    press["at"] = 40
    second = fit(expected.spec, resume, Presses(epoch=9), **options)
    assert second.stopped == "interrupted"
    assert same(weights(second), weights(first))  # not those that the run began with
    assert path.read_bytes() == saved
    third = fit(expected.spec, resume, Presses(epoch=9), **options)
    assert same(weights(third), weights(expected))


def test_an_error_at_the_very_end_keeps_the_file(resume, path):
    # also of a callback that comes after this one
    model = specification()
    stopped(model, resume, Fails("on_fit_end", epoch=3), epochs=3)
    assert read_checkpoint(path)["epoch"] == 3
    fitted = fit(model, resume, Fails("on_epoch_begin", epoch=3), epochs=3)
    assert len(fitted.records["metrics"]["train"]) == 3  # and no epoch was run again
    assert not path.exists()


def test_the_file_goes_where_it_was_meant_to_also_after_a_change_of_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    move = luz.Callback.from_functions(on_epoch_begin=lambda ctx: os.chdir(tmp_path / "other"))
    stopped(specification(), luz.callbacks.AutoResume("state.pt"), move, Fails())
    assert (tmp_path / "state.pt").exists()
    assert list((tmp_path / "other").iterdir()) == []


def test_a_link_leads_to_the_file(tmp_path):
    link, target = tmp_path / "link.pt", tmp_path / "far" / "state.pt"
    link.symlink_to(target)
    resume, fails = luz.callbacks.AutoResume(link), Fails()
    stopped(specification(), resume, fails)
    assert read_checkpoint(target)["epoch"] == 4
    fit(specification(), resume, fails)
    assert link.is_symlink()
    assert not target.exists()


def test_a_run_prints_where_it_goes_on(resume, path, capsys):
    model, press = specification(), Presses()
    fit(model, resume, press, epochs=3)
    model.fit((X, Y), 3, callbacks=[resume, press], verbose=True)
    assert f"Resuming after training batch 2 of epoch 2, from {path}" in capsys.readouterr().out


# What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: b"something else altogether",
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_and_left_alone(resume, path, damage):
    stopped(specification(), resume, Fails())
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(LuzError, match=r"state\.pt is (truncated|damaged)"):
        fit(specification(), resume, Fails())
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


class OtherLoss(nn.Linear):
    pass


CHANGES = {
    "callbacks": (
        {"callbacks": [luz.callbacks.EarlyStopping("train_loss")]},
        "callbacks .*this run has .*EarlyStopping",
    ),
    "optimizer": ({"optimizer": torch.optim.Adam}, r"the optimizer SGD, this run has Adam"),
    "model": ({"module": lambda: nn.Linear(10, 1, bias=False)}, "the model: 'bias' is not in"),
    "batches": ({"dataloader_options": {"batch_size": 16}}, "data batch_size 32, this run has 16"),
    "validation": ({"valid_data": (X, Y)}, "the valid_data None, this run has .*rows 100"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("place", ["epoch", "train"])
def test_what_has_changed_is_named_at_once(path, name, place):
    resume = luz.callbacks.AutoResume(path, every_n_batches=None if place == "epoch" else 1)
    fails = Fails("on_train_batch_begin", 2, 1 if place == "epoch" else 3)
    stopped(specification(), resume, fails)
    before = path.read_bytes()
    change, match = CHANGES[name]
    model = specification(**{k: v for k, v in change.items() if k in ("optimizer", "module")})
    options = {k: v for k, v in change.items() if k in ("dataloader_options", "valid_data")}
    with pytest.raises(LuzError, match=rf"state\.pt does not fit .*{match}"):
        fit(model, resume, *change.get("callbacks", []), Fails("on_fit_end", 99), **options)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_callback_is_refused(path):
    files = luz.callbacks.ModelCheckpoint(path, monitor="train_loss")
    fit(specification(), files, epochs=1)
    before = path.read_bytes()
    with pytest.raises(LuzError, match="not written by AutoResume"):
        fit(specification(), luz.callbacks.AutoResume(path))
    assert path.read_bytes() == before


def test_data_that_have_become_shorter_are_named(path):
    class Shrinks(torch.utils.data.IterableDataset):
        rows = 96

        def __iter__(self):
            return ((X[i], Y[i]) for i in range(self.rows))

    resume = luz.callbacks.AutoResume(path)
    data = DataLoader(Shrinks(), 32)
    fit(specification(), resume, Presses(epoch=1, batch=3), data=data, epochs=2)
    Shrinks.rows = 40
    with pytest.raises(
        LuzError, match=r"`data` must give at least the 3 batches that the interrupted epoch.*got 2"
    ):
        fit(specification(), resume, Presses(epoch=9), data=data, epochs=2)
    assert path.exists()


def test_a_state_that_cannot_be_kept_is_an_error_after_the_first_batch(resume, path):
    class Odd(luz.Callback):
        def state_dict(self):
            return {"thing": object()}

        def load_state_dict(self, state):
            pass

    seen = []
    counts = luz.Callback.from_functions(on_train_batch_end=lambda ctx: seen.append(ctx.iter))
    with pytest.raises(LuzError, match=r"The callback Odd .*\['thing'\] \(object\)"):
        fit(specification(), resume, Odd(), counts)
    assert seen == [1]
    assert not path.exists()


@pytest.mark.parametrize("place", ["a file in the way", "a folder"])
def test_a_place_that_cannot_be_written_is_an_error_before_the_first_batch(tmp_path, place):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "state.pt" if place == "a file in the way" else tmp_path
    seen = []
    counts = luz.Callback.from_functions(on_train_batch_begin=lambda ctx: seen.append(ctx.iter))
    with pytest.raises(LuzError, match=r"`path` must be in a folder|it is not a file"):
        fit(specification(), luz.callbacks.AutoResume(path), counts)
    assert seen == []


def test_a_folder_that_takes_no_files_is_an_error_before_the_first_batch():
    seen = []
    counts = luz.Callback.from_functions(on_train_batch_begin=lambda ctx: seen.append(ctx.iter))
    for options in ({"path": "/proc/state.pt"}, {"result": "/proc/net.luz"}):
        with pytest.raises(LuzError, match="`path` must be in a folder that can be written to"):
            fit(specification(), luz.callbacks.AutoResume(**options), counts)
    assert seen == []


@pytest.mark.parametrize(
    ("every", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_every_n_batches_is_checked(every, error):
    with pytest.raises(error, match=f"`every_n_batches` must be a positive .*got {every}"):
        luz.callbacks.AutoResume("a.pt", every)


@pytest.mark.parametrize("argument", ["data", "valid_data"])
def test_persistent_workers_are_refused_before_training(resume, argument):
    options = {"num_workers": 1, "persistent_workers": True}
    data = {argument: DataLoader(TensorDataset(X, Y), 50, **options)}
    seen = []
    counts = luz.Callback.from_functions(on_train_begin=lambda ctx: seen.append(1))
    with pytest.raises(LuzError, match=rf"`{argument}` must have persistent_workers=False"):
        fit(specification(), resume, counts, epochs=1, **data)
    assert seen == []


# What goes on that is in no `state_dict` -----------------------------------------------------


def interrupted(make, path, moment=(2, 2), epochs=3, **kwargs):
    """(what the unbroken run ends with, the run that was stopped and went on).

    `make` gives a model and its callbacks. The second run is seeded anew after its stop.
    """
    resume = luz.callbacks.AutoResume(path)
    unbroken = [luz.callbacks.AutoResume(path.with_name("unbroken.pt"))]
    found = []
    for seed, extra in (
        (1, unbroken),
        (1, [resume, Presses(epoch=moment[0], batch=moment[1])]),
        (99, [resume, Presses(epoch=99)]),
    ):
        seed_all(seed)
        model, callbacks = make()
        found.append(fit(model, *callbacks, *extra, epochs=epochs, **kwargs))
    assert [fitted.stopped for fitted in found] == ["completed", "interrupted", "completed"]
    return found[0], found[2]


def assert_same_run(expected, found):
    assert same(weights(found), weights(expected))
    assert luz.get_metrics(found).equals(luz.get_metrics(expected))


@pytest.mark.parametrize("call_on", ["on_epoch_end", "on_train_end"])
def test_a_scheduler_that_has_not_stepped_yet(path, call_on):
    # torch warns of schedulers that step before their optimizer has, in this process
    def make():
        schedule = torch.optim.lr_scheduler.StepLR
        return specification(), [luz.callbacks.LRScheduler(schedule, 1, call_on=call_on)]

    assert_same_run(*interrupted(make, path, moment=(1, 3)))


def test_rows_that_a_fraction_has_chosen(path):
    # a script without a seed splits anew: rows of validation would be trained on
    expected, found = interrupted(lambda: (specification(), []), path, valid_data=0.2)
    assert_same_run(expected, found)


def test_plain_attributes_of_a_module(path):
    class Decays(nn.Linear):
        def __init__(self):
            super().__init__(10, 1)
            self.calls, self.history = 0, []

        def forward(self, x):
            if self.training:
                self.calls += 1
                self.history.append(self.calls % 3)
            return super().forward(x) * (1 + 0.01 * (self.calls + sum(self.history)))

    assert_same_run(*interrupted(lambda: (specification(Decays), []), path))


class Remembers(nn.Linear):
    """Its output depends on the last inputs, which it keeps in a container."""

    def __init__(self, container):
        super().__init__(10, 1)
        self.seen = MEMORIES[container]()

    def forward(self, x):
        if self.training:
            add(self.seen, x.detach().mean())
        values = self.seen.values() if hasattr(self.seen, "values") else self.seen
        return super().forward(x) * (1 + sum(values))


def add(seen, value):
    if isinstance(seen, collections.deque):
        seen.append(value)
    elif isinstance(seen, collections.OrderedDict):
        seen[len(seen) % 3] = value
        seen.move_to_end(next(iter(seen)))
    else:  # the other two count
        seen[float(value) > 0] += 1 / 128


MEMORIES = {
    "deque": lambda: collections.deque(maxlen=2),
    "OrderedDict": collections.OrderedDict,
    "defaultdict": lambda: collections.defaultdict(float),
    "Counter": collections.Counter,
}


@pytest.mark.parametrize("container", MEMORIES)
@pytest.mark.parametrize("moment", [(1, 2), (2, 3)])
def test_containers_of_plain_values_that_a_module_holds(path, container, moment):
    def make():
        return specification(Remembers).set_hparams(container=container), []

    expected, found = interrupted(make, path, moment)
    assert_same_run(expected, found)
    assert type(found.model.seen) is type(expected.model.seen)
    assert list(found.model.seen) == list(expected.model.seen)


def test_a_deque_that_a_module_makes_on_the_way(path):
    class Later(nn.Linear):
        def __init__(self):
            super().__init__(10, 1)
            self.seen = None

        def forward(self, x):
            if self.seen is None:
                self.seen = collections.deque(maxlen=2)
            self.seen.append(x.detach().mean())
            return super().forward(x) * (1 + sum(self.seen))

    expected, found = interrupted(lambda: (specification(Later), []), path)
    assert_same_run(expected, found)
    assert found.model.seen.maxlen == 2


def test_weights_that_a_module_lists_once_more(path):
    # an LSTM does: it was trained on beside its own weights, once they were no longer frozen
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 1)
            self.rnn.requires_grad_(False)

        def forward(self, x):
            return self.fc(self.rnn(x[..., None])[0][:, -1])

    def make():
        def thaw(ctx):
            ctx.model.rnn.requires_grad_(ctx.epoch > 2)

        return specification(Recurrent), [luz.Callback.from_functions(on_epoch_begin=thaw)]

    assert_same_run(*interrupted(make, path, epochs=4))


class SlottedLoss:
    """Weighs the loss by what it has seen, in attributes of every kind."""

    __slots__ = ("calls", "last")

    def __init__(self):
        self.calls, self.last = 0, collections.deque([1.0], 2)

    def __call__(self, input, target):
        loss = (input - target).square().mean()
        if input.requires_grad:
            self.calls += 1
            self.last.append(float(loss.detach()))
        return loss * (1 + self.calls / 64) / max(self.last)


class LossModule(nn.Module):
    """The same as a module, with a buffer that is not persistent."""

    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.ones(1), persistent=False)
        self.calls, self.last = 0, collections.deque([1.0], 2)

    def forward(self, input, target):
        self.hidden *= 0.9
        return SlottedLoss.__call__(self, input, target) * self.hidden


def loss_function(input, target):
    loss_function.calls += input.requires_grad
    return (input - target).square().mean() * (1 + loss_function.calls / 64)


@pytest.mark.parametrize("kind", [SlottedLoss, LossModule, "function", "method"])
@pytest.mark.parametrize("moment", [(1, 2), (2, 3)])
def test_attributes_of_a_loss(path, kind, moment):
    def make():
        loss_function.calls = 0
        if kind == "function":
            return specification(loss=loss_function), []
        loss = SlottedLoss() if kind == "method" else kind()
        return specification(loss=loss.__call__ if kind == "method" else loss), []

    assert_same_run(*interrupted(make, path, moment))


class Warming(torch.optim.SGD):
    """Counts its steps in attributes."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.steps, self.rates = 0, collections.deque([1.0], 3)

    def step(self, closure=None):
        self.steps += 1
        self.rates.append(1 / self.steps)
        self.param_groups[0]["lr"] = 0.01 * sum(self.rates)
        return super().step(closure)


@pytest.mark.parametrize("moment", [(1, 2), (2, 3)])
def test_attributes_of_an_optimizer(path, moment):
    assert_same_run(*interrupted(lambda: (specification(optimizer=Warming), []), path, moment))


# What cannot be kept must not change ---------------------------------------------------------


class Meter:
    """An object: no plain value."""

    def __init__(self):
        self.count, self.noise = 0, torch.zeros(2)


class Counts(nn.Linear):
    """Holds a meter, which a test changes."""

    def __init__(self, change=None):
        super().__init__(10, 1)
        self.meter, self.change = Meter(), change

    def forward(self, x):
        if self.training and self.change:
            self.change(self)
        return super().forward(x)


def count(module):
    module.meter.count += 1


def count_in_a_tensor(module):
    module.meter.noise.data.add_(1)


def replace(module):
    module.meter = Meter()
    module.meter.count = 3


def add_another(module):
    module.other = Meter()


def hold(module):
    module.change_of = count


@pytest.mark.parametrize(
    ("change", "name", "kind"),
    [
        (count, "meter", "Meter"),
        (count_in_a_tensor, "meter", "Meter"),
        (replace, "meter", "Meter"),
        (add_another, "other", "Meter"),
        (hold, "change_of", "function"),
    ],
)
def test_an_object_of_a_module_that_changes_is_named_after_the_first_batch(
    resume, path, change, name, kind
):
    model = specification(Counts).set_hparams(change=change)
    seen = []
    counts = luz.Callback.from_functions(on_train_batch_end=lambda ctx: seen.append(ctx.iter))
    told = rf"attribute '{name}' of the module 'Counts' must not change .* another {kind}: .*buffer"
    with pytest.raises(LuzError, match=told):
        fit(model, resume, counts)
    assert seen == [1]
    assert not path.exists()


def test_an_object_that_changes_later_is_named_at_the_first_save_after_it(resume, path):
    change = luz.Callback.from_functions(
        on_epoch_begin=lambda ctx: ctx.epoch == 2 and count(ctx.model)
    )
    with pytest.raises(LuzError, match="'meter' of the module 'Counts'"):
        fit(specification(Counts), resume, change)
    assert read_checkpoint(path)["epoch"] == 1


def test_objects_of_a_loss_and_an_optimizer_are_named(resume):
    class Metered(nn.MSELoss):
        def __init__(self):
            super().__init__()
            self.meter = Meter()

        def forward(self, input, target):
            self.meter.count += 1
            return super().forward(input, target)

    class Stepped(torch.optim.SGD):
        def step(self, closure=None):
            self.meter = Meter()
            return super().step(closure)

    with pytest.raises(LuzError, match=r"'meter' of the loss 'Metered' .* in a buffer"):
        fit(specification(loss=Metered()), resume)
    with pytest.raises(LuzError, match=r"'meter' of the optimizer 'opt' .* in its `state`"):
        fit(specification(optimizer=Stepped), resume)


def test_a_teacher_that_is_hidden_in_a_list_must_not_learn(resume):
    class Student(nn.Linear):
        def __init__(self, learns=False):
            super().__init__(10, 1)
            self.teacher, self.learns = [nn.Linear(10, 1).requires_grad_(False)], learns

        def forward(self, x):
            if self.learns:
                self.teacher[0].weight.data.lerp_(self.weight.data, 0.1)
            return super().forward(x) + self.teacher[0](x)

    fit(specification(Student), resume, epochs=1)
    with pytest.raises(LuzError, match="'teacher' of the module 'Student'"):
        fit(specification(Student).set_hparams(learns=True), resume)


def test_what_a_module_keeps_in_extra_state_is_its_own_concern(path):
    class Own(Counts):
        def get_extra_state(self):
            return {"count": self.meter.count}

        def set_extra_state(self, state):
            self.meter.count = state["count"]

        def forward(self, x):
            return super().forward(x) * (1 + self.meter.count / 64)

    def make():
        return specification(Own).set_hparams(change=count), []

    expected, found = interrupted(make, path)
    assert torch.equal(found.model.weight, expected.model.weight)
    assert found.model.meter.count == expected.model.meter.count == 9


def test_an_extra_state_of_a_loss_that_cannot_be_kept_is_an_error(resume, path):
    class Own(nn.MSELoss):
        def get_extra_state(self):
            return Meter()

        def set_extra_state(self, state):
            pass

    with pytest.raises(LuzError, match=r"The loss must have a state of tensors .* got state_dict"):
        fit(specification(loss=Own()), resume)
    assert not path.exists()


class Everything(nn.Module):
    """Attributes of many kinds, none of which changes; and one that belongs to each batch."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(10, 1)
        self.meter, self.function, self.local = Meter(), count, lambda: 3
        self.again, self.same = [self.fc], {"weight": self.fc.weight}
        self.drawn = [random.Random(3), np.random.default_rng(3)]
        self.file, self.lock = sys.__stdout__, threading.Lock()
        self.counted = torchmetrics.MeanMetric()
        self.array = np.array([Meter()], dtype=object)
        self.posterior = None

    def forward(self, x):
        mean = self.fc(x)
        self.posterior = torch.distributions.Normal(mean, 1.0)
        self.drawn[0].random(), self.drawn[1].random()
        self.counted.update(mean.detach())
        self.again[0].bias.data.add_(0)
        return mean + 0.01 * self.drawn[0].random()


@pytest.mark.parametrize("moment", [(1, 1), (2, 2)])
def test_what_does_not_change_or_is_of_one_batch_may_be_anything(path, moment):
    expected, found = interrupted(
        lambda: (specification(Everything), []), path, moment, valid_data=0.2
    )
    assert_same_run(expected, found)
    assert torch.equal(found.model.counted.compute(), expected.model.counted.compute())


def test_the_configuration_of_hugging_faces_models(path):
    transformers = pytest.importorskip("transformers")

    def make():
        config = transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2, n_positions=4)
        model = luz.setup(lambda: transformers.GPT2LMHeadModel(config), None, torch.optim.AdamW)
        return model.set_opt_hparams(lr=0.01), []

    ids = torch.arange(96).reshape(24, 4) % 9
    data = {"input_ids": ids, "labels": ids}
    options = {"data": data, "batch_size": 8}
    assert_same_run(*interrupted(make, path, **options))


def test_buffers_that_are_not_persistent(path):
    class Running(nn.Linear):
        def __init__(self):
            super().__init__(10, 1)
            self.register_buffer("mean", torch.zeros(10), persistent=False)

        def forward(self, x):
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return super().forward(x - self.mean)

    expected, found = interrupted(lambda: (specification(Running), []), path)
    assert_same_run(expected, found)
    assert torch.equal(found.model.mean, expected.model.mean)


def test_a_loss_with_a_state_of_its_own(path):
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, input, target):
            loss = (input - target).square().mean()
            self.scale.mul_(0.9).add_(0.1 * loss.detach())
            return loss / self.scale

    assert_same_run(*interrupted(lambda: (specification(loss=Running()), []), path))


def test_parameters_that_are_frozen_for_some_epochs(path):
    def make():
        def freeze(ctx):
            ctx.model.weight.requires_grad_(False)

        def thaw(ctx):
            if ctx.epoch == 2:
                ctx.model.weight.requires_grad_(True)

        hooks = luz.Callback.from_functions(on_fit_begin=freeze, on_epoch_begin=thaw)
        return specification(), [hooks]

    assert_same_run(*interrupted(make, path, moment=(3, 1), epochs=4))


@pytest.mark.parametrize("moment", [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_gradients_and_losses_that_a_step_is_gathering(path, moment):
    class Seldom(nn.Linear):
        """Two optimizers, of which one steps and gives its loss at every third batch."""

        def __init__(self):
            super().__init__(10, 1)

        def set_optimizers(self, lr):
            sgd = torch.optim.SGD
            return {"often": sgd([self.weight], lr), "seldom": sgd([self.bias], lr)}

        def step(self):
            ctx = self.ctx
            ctx.pred = self(ctx.input)
            loss = ctx.loss_fn(ctx.pred, ctx.target)
            names = ["often", "seldom"] if ctx.iter % 3 == 1 else ["often"]
            for name in names:
                ctx.loss[name] = loss.detach() * len(name)
            if ctx.training:
                loss.backward()
                for name in names:
                    ctx.optimizers[name].step()
                    ctx.optimizers[name].zero_grad()

    assert_same_run(*interrupted(lambda: (specification(Seldom, optimizer=None), []), path, moment))


def test_tensors_that_are_optimized_but_not_the_models(path):
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(10, 1)
            self.extra = [torch.ones(1, requires_grad=True)]

        def set_optimizers(self, lr):
            return torch.optim.Adam([*self.parameters(), *self.extra], lr)

        def forward(self, x):
            return super().forward(x) * self.extra[0]

    assert_same_run(*interrupted(lambda: (specification(Scaled, optimizer=None), []), path))


def change_groups(change, epoch=2):
    """A callback that changes the optimizer's groups when an epoch begins."""

    class Changes(luz.Callback):
        def on_epoch_begin(self, ctx):
            if ctx.epoch == epoch:
                change(ctx.model, ctx.optimizers["opt"])

    return Changes()


class BiasLater(nn.Linear):
    def __init__(self):
        super().__init__(10, 1)

    def set_optimizers(self, lr):
        return torch.optim.Adam([self.weight], lr)


def add_bias(model, optimizer):
    optimizer.add_param_group({"params": [model.bias], "lr": 0.05})


def drop_bias(model, optimizer):
    del optimizer.param_groups[0]["params"][1]
    optimizer.state.pop(model.bias, None)


@pytest.mark.parametrize("moment", [(1, 2), (2, 2), (3, 1), (3, 3)])
@pytest.mark.parametrize(("module", "change"), [(BiasLater, add_bias), (nn.Linear, drop_bias)])
def test_groups_of_parameters_that_change_in_the_run(path, module, change, moment):
    def make():
        options = {"optimizer": None} if module is BiasLater else {"optimizer": torch.optim.Adam}
        model = specification(module, **options)
        if module is nn.Linear:
            model = model.set_hparams(in_features=10, out_features=1)
        return model, [change_groups(change)]

    assert_same_run(*interrupted(make, path, moment, epochs=4))


def test_what_the_run_could_not_make_again_is_said_at_the_first_save(path):
    extra = nn.Parameter(torch.zeros(1))
    resume = luz.callbacks.AutoResume(path)
    add = change_groups(lambda model, opt: opt.add_param_group({"params": [extra]}))
    with pytest.raises(LuzError, match="The optimizer 'opt' must have parameters of the model"):
        fit(specification(), resume, add)
    assert read_checkpoint(path)["epoch"] == 1
    path.unlink()
    add = change_groups(lambda model, opt: model.register_buffer("more", torch.zeros(1)))
    with pytest.raises(LuzError, match=r"must have the parameters and buffers .* another 'more'"):
        fit(specification(), resume, add)


class Odd(torch.optim.SGD):
    """An optimizer with states of many kinds, on all of which its steps depend."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter, dtype=torch.float64)
                    state["up"] = torch.zeros_like(parameter, dtype=torch.bool)
                    state["phase"] = "first"
                    state["counts"] = [0, torch.zeros(2, dtype=torch.int32)]
                state["mean"].mul_(0.9).add_(parameter.grad, alpha=1 / 3)
                state["up"] ^= parameter.grad > 0
                state["phase"] = "second" if state["phase"] == "first" else "first"
                state["counts"][0] += 1
                state["counts"][1] += 2
                scale = 0.01 if state["phase"] == "first" else 0.02
                scale /= state["counts"][0] + int(state["counts"][1].sum())
                move = state["mean"] + state["up"].double()
                parameter.sub_((scale * move).to(parameter.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "optimizer", [torch.optim.NAdam, torch.optim.ASGD, torch.optim.Adam, torch.optim.RMSprop, Odd]
)
def test_the_state_of_an_optimizer_keeps_its_dtypes(path, optimizer, dtype):
    # torch's load_state_dict casts it to those of the parameters
    class Cast(nn.Linear):
        def __init__(self):
            super().__init__(10, 1, dtype=dtype)

        def forward(self, x):
            return super().forward(x.to(dtype)).float()

    states = []

    class Look(luz.Callback):
        def on_fit_end(self, ctx):
            states.append(ctx.optimizers["opt"].state_dict()["state"][0])

    def make():
        return specification(Cast, optimizer=optimizer), [Look()]

    assert_same_run(*interrupted(make, path))
    assert states[0].keys() == states[2].keys()
    for key, value in states[0].items():
        found = states[2][key]
        assert type(found) is type(value)
        if isinstance(value, torch.Tensor):
            assert found.dtype is value.dtype
            assert torch.equal(found, value)
        elif not isinstance(value, list):
            assert found == value


MAKERS = {
    "numpy": lambda: np.random.default_rng(5),
    "numpy, older": lambda: np.random.RandomState(5),
    "numpy, another": lambda: np.random.Generator(np.random.MT19937(5)),
    "python": lambda: random.Random(5),
    "torch": lambda: torch.Generator().manual_seed(5),
}


class Noisy(Dataset):
    """Rows with noise from a generator of the dataset's own."""

    def __init__(self, kind):
        self.nested = {"transforms": [MAKERS[kind]()]}

    def __len__(self):
        return 96

    def __getitem__(self, index):
        generator = self.nested["transforms"][0]
        if isinstance(generator, torch.Generator):
            noise = torch.rand((), generator=generator)
        elif isinstance(generator, np.random.Generator):
            noise = generator.normal()
        else:
            noise = generator.uniform(0, 1)
        return X[index] + float(noise), Y[index]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("moment", [(1, 1), (2, 3)])
def test_generators_that_a_dataset_holds(path, kind, moment):
    expected = fit(
        specification(), data=DataLoader(Noisy(kind), 32, shuffle=True), seed=1, epochs=3
    )
    resume = luz.callbacks.AutoResume(path)
    for press, seed in ((Presses(epoch=moment[0], batch=moment[1]), 1), (Presses(epoch=9), 2)):
        # a fresh script makes a fresh dataset
        data = DataLoader(Noisy(kind), 32, shuffle=True)
        found = fit(expected.spec, resume, press, data=data, seed=seed, epochs=3)
    assert_same_run(expected, found)


def test_generators_that_a_callback_and_a_module_hold(path):
    class Jitter(luz.Callback):
        def __init__(self):
            self.rng = np.random.default_rng(1)

        def on_train_batch_begin(self, ctx):
            ctx.input = ctx.input + float(self.rng.normal())

    class Drops(nn.Linear):
        def __init__(self):
            super().__init__(10, 1)
            self.generator = torch.Generator().manual_seed(3)

        def forward(self, x):
            keep = torch.rand(x.shape, generator=self.generator) > 0.3
            return super().forward(x * keep)

        def __deepcopy__(self, memo):
            raise AssertionError("classes are not copied")

    assert_same_run(*interrupted(lambda: (specification(Drops), [Jitter()]), path))


def test_generators_that_a_loss_and_an_optimizer_hold(path):
    class Smoothed:
        def __init__(self):
            self.rng = random.Random(3)

        def __call__(self, input, target):
            return (input - target - 0.1 * self.rng.random()).square().mean()

    class Noise(torch.optim.SGD):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.generator = torch.Generator().manual_seed(3)

        @torch.no_grad()
        def step(self, closure=None):
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                parameter += 0.01 * torch.randn(parameter.shape, generator=self.generator)

    assert_same_run(
        *interrupted(lambda: (specification(loss=Smoothed(), optimizer=Noise), []), path)
    )


class Stateful(Rows):
    """A dataset that draws on what it has given so far, and says so."""

    def __init__(self):
        super().__init__(X, Y)
        self.given = 0

    def __getitem__(self, index):
        self.given += 1
        return self.x[index] + 0.01 * self.given, self.y[index]

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


@pytest.mark.parametrize("moment", [(1, 2), (2, 3)])
def test_a_dataset_with_a_state_dict_is_asked_for_it(path, moment):
    def run(*callbacks, seed):
        data = DataLoader(Subset(Stateful(), range(96)), 32, shuffle=True)
        return fit(specification(seed=1), *callbacks, data=data, epochs=3, seed=seed)

    expected = run(seed=1)
    resume = luz.callbacks.AutoResume(path)
    run(resume, Presses(epoch=moment[0], batch=moment[1]), seed=1)
    assert_same_run(expected, run(resume, Presses(epoch=9), seed=2))


class LazyOrder(Sampler):
    """Draws the rows one by one, from the generator that the model's dropout draws from."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __iter__(self):
        left = list(range(self.n))
        while left:
            yield left.pop(int(torch.randint(len(left), ())))


@pytest.mark.parametrize("moment", [(1, 1), (1, 3), (2, 2)])
def test_an_order_that_is_drawn_while_the_model_draws_too(path, moment):
    def make():
        return specification(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(10, 1))), []

    data = DataLoader(TensorDataset(X, Y), 32, sampler=LazyOrder(96))
    assert_same_run(*interrupted(make, path, moment, data=data))


# Metrics in flight ---------------------------------------------------------------------------


class Wrapped(luz.Metric):
    """A metric out of another one, a queue and a counter."""

    def __init__(self):
        self.inner = torchmetrics.MeanSquaredError()
        self.reset()

    def reset(self):
        self.inner.reset()
        self.last = collections.deque(maxlen=4)
        self.signs = collections.Counter()

    def update(self, preds, target):
        self.inner.update(preds, target)
        self.last.append(float(preds.sum()))
        self.signs.update((preds > 0).flatten().tolist())

    def compute(self):
        signs = self.signs[True] - self.signs[False]
        return float(self.inner.compute()) + sum(self.last) + signs


@pytest.mark.parametrize(
    "metric",
    [
        Wrapped,
        lambda: luz.metrics.MAE(),
        lambda: torchmetrics.MinMaxMetric(torchmetrics.MeanAbsoluteError()),
        lambda: torchmetrics.MeanSquaredError(),
        lambda: torchmetrics.SpearmanCorrCoef(),
        lambda: torchmetrics.MetricCollection(
            {"r2": torchmetrics.R2Score(), "mse": torchmetrics.MeanSquaredError()}
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Metric `Spearman")
@pytest.mark.parametrize("moment", [(1, 1), (2, 2)])
def test_metrics_in_flight(path, metric, moment):
    def made():
        several = isinstance(metric(), torchmetrics.MinMaxMetric)  # which has to be one row
        return specification(metrics=[Row(metric()) if several else metric()]), []

    expected, found = interrupted(made, path, moment)
    assert_same_run(expected, found)
    assert len(luz.get_metrics(found)) > 3


class Row(luz.Metric):
    """Any metric of torchmetrics, within one of luzpy's."""

    def __init__(self, metric):
        self.metric = metric

    def reset(self):
        self.metric.reset()

    def update(self, preds, target):
        self.metric.update(preds, target)

    def compute(self):
        return self.metric.compute()


def test_a_metric_that_cannot_be_kept_is_named_after_the_first_batch(resume, path):
    class Odd(luz.Metric):
        abbrev = "odd"

        def reset(self):
            self.seen = memoryview(bytearray(8))

        def update(self, preds, target):
            self.seen[0] = 1

        def compute(self):
            return 1.0

    with pytest.raises(LuzError, match=r"The metric 'odd' must accumulate .*got seen: write"):
        fit(specification(metrics=[Odd()]), resume)
    fit(specification(metrics=[Odd()]), epochs=1)


# SIGTERM -------------------------------------------------------------------------------------


def test_after_a_run_sigterm_is_what_it_was_before(resume):
    def own(signum, frame):
        raise AssertionError("nobody sends one")

    before = signal.signal(signal.SIGTERM, own)
    try:
        fit(specification(), resume, epochs=1)
        stopped(specification(), resume, Fails(epoch=1))
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_that_python_does_not_know_of_are_what_they_were(resume, path, tmp_path):
    # as faulthandler.register and libraries in C install them
    with (tmp_path / "traceback").open("w+") as file:
        faulthandler.register(signal.SIGTERM, file=file)
        try:
            fit(specification(), resume, epochs=1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert "most recent call first" in (tmp_path / "traceback").read_text()
        finally:
            faulthandler.unregister(signal.SIGTERM)


def system_handler(number):
    """The address of the handler that the system calls, Python's or another one's."""
    record = ctypes.create_string_buffer(1024)
    assert ctypes.CDLL(None).sigaction(number, None, record) == 0
    return record.raw[:8]


def test_sigchlds_handler_is_as_before_also_one_that_c_has_set(resume, tmp_path):
    during = []
    look = luz.Callback.from_functions(
        on_train_batch_end=lambda ctx: during.append(system_handler(signal.SIGCHLD))
    )
    with (tmp_path / "traceback").open("w+") as file:
        faulthandler.register(signal.SIGCHLD, file=file)
        try:
            before = system_handler(signal.SIGCHLD)
            own = signal.getsignal(signal.SIGCHLD)
            with pytest.raises(SystemExit):
                fit(specification(), resume, Presses(number=signal.SIGTERM), look)
            assert during[0] == before
            assert during[-1] != before  # from SIGTERM on nothing comes of a worker's end
            assert system_handler(signal.SIGCHLD) == before
            assert signal.getsignal(signal.SIGCHLD) == own
            os.kill(os.getpid(), signal.SIGCHLD)
            assert "most recent call first" in (tmp_path / "traceback").read_text()
        finally:
            faulthandler.unregister(signal.SIGCHLD)


def test_the_users_own_handler_is_called_after_the_save(resume, path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(path.exists()))
    try:
        with pytest.raises(SystemExit) as caught:
            fit(specification(), resume, Presses(number=signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (caught.value.code, seen) == (143, [True])


def test_sigterm_and_an_error_in_the_same_batch_end_with_143(resume, path):
    callbacks = [
        Presses(number=signal.SIGTERM),
        Fails("on_train_batch_end", 2, 2),
    ]
    with pytest.raises(SystemExit) as caught:
        fit(specification(), resume, *callbacks)
    assert caught.value.code == 143
    assert read_checkpoint(path)["epoch"] == 1


# Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["completed", "error", "interrupted", "resumed", "refused"])
def test_the_context_of_a_run_is_let_go(resume, path, end):
    kept = []
    watch = luz.Callback.from_functions(on_fit_begin=lambda ctx: kept.append(weakref.ref(ctx)))
    watch.weight = float("-inf")
    model = specification()
    if end == "error":
        stopped(model, watch, resume, Fails(), epochs=6)
    elif end == "refused":
        path.write_bytes(b"")
        stopped(model, watch, resume)
    else:
        presses = [] if end == "completed" else [Presses()]
        for _ in range(2 if end == "resumed" else 1):
            fit(model, watch, resume, *presses, epochs=3)
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)
    assert len(kept) == (2 if end == "resumed" else 1)


def test_a_thread_that_is_not_the_main_one_may_fit(resume, path):
    import threading

    results = []
    thread = threading.Thread(target=lambda: results.append(fit(specification(), resume, epochs=2)))
    thread.start()
    thread.join()
    assert results[0].stopped == "completed"
    assert not path.exists()


def test_a_file_of_a_larger_machine_is_read_on_a_smaller_one(resume, path):
    # with random states of GPUs that are not here
    stopped(specification(), resume, Fails())
    content = read_checkpoint(path)
    del content["luzpy"]
    states = content["resume"]["now"]["global"]["torch_devices"]
    own = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states["cuda"] = (own or [torch.zeros(16, dtype=torch.uint8)]) * 99
    container.write(path, "checkpoint", content)
    assert fit(specification(), resume, Fails(epoch=99)).stopped == "completed"


# `result` ------------------------------------------------------------------------------------


def test_the_result_is_what_fit_returns(path, tmp_path):
    best = luz.callbacks.KeepBestModel("train_loss")
    resume = luz.callbacks.AutoResume(path, result=tmp_path / "net.luz")
    fitted = fit(specification(nn.Linear).set_hparams(in_features=10, out_features=1), resume, best)
    found = luz.load(tmp_path / "net.luz")
    assert same(weights(found), weights(fitted))
    assert found.records == fitted.records
    assert found.opt_hparams == fitted.opt_hparams
    assert not path.exists()


def test_a_result_that_cannot_be_written_keeps_the_state(path, tmp_path):
    (tmp_path / "folder").mkdir()
    resume = luz.callbacks.AutoResume(path, result=tmp_path / "folder")
    with pytest.raises(LuzError, match="folder"):
        fit(specification(), resume, epochs=2)
    assert read_checkpoint(path)["epoch"] == 2


def test_result_is_checked(path):
    with pytest.raises(TypeError, match="`result` must be a path, got 1"):
        luz.callbacks.AutoResume(path, result=1)
