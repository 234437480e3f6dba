"""Epochs that end after so many batches."""

import pytest
import torch
from models import MSE, Net, Rows, line
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import luzpy as luz

X, Y = line(40, 4)


class Endless(IterableDataset):
    """Rows without an end, drawn in the process that asks."""

    def __iter__(self):
        while True:
            x = torch.randn(4)
            yield x, x.sum().reshape(1)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


MODEL = luz.setup(Net, MSE, torch.optim.Adam, seed=3).set_opt_hparams(lr=0.02)


def fit(data, *callbacks, epochs=5, batches_per_epoch=3, valid_data=None, **options):
    torch.manual_seed(11)
    return MODEL.fit(
        data,
        epochs=epochs,
        callbacks=list(callbacks),
        valid_data=valid_data,
        verbose=False,
        batches_per_epoch=batches_per_epoch,
        **options,
    )


DATA = {
    "in memory": ((X, Y), {"batch_size": 8}),
    "a dataset": (Rows(X, Y), {"batch_size": 8}),
    "a stream": (Stream(), {"batch_size": 8}),
    "an endless stream": (Endless(), {"batch_size": 8}),
    "workers": (Rows(X, Y), {"batch_size": 8, "dataloader_options": {"num_workers": 2}}),
    "a ready loader": (DataLoader(Rows(X, Y), batch_size=8, shuffle=True), {}),
}
EVERY = pytest.mark.parametrize("name", DATA)


def seen_in(name, **options):
    """The inputs of each epoch, in the order in which they came."""
    data, more = DATA[name]
    epochs = {}

    def note(ctx):
        epochs.setdefault(ctx.epoch, []).append(ctx.input.clone())

    fitted = fit(data, luz.Callback.from_functions(on_train_batch_end=note), **more, **options)
    return fitted, epochs


@EVERY
def test_an_epoch_has_so_many_batches(name):
    fitted, epochs = seen_in(name)
    assert [len(inputs) for inputs in epochs.values()] == [3, 3, 3, 3, 3]
    assert len(fitted.get_metrics()) == 5


@pytest.mark.parametrize(
    "name", ["in memory", "a dataset", "a stream", "a ready loader", "workers"]
)
def test_the_next_epoch_goes_on_in_the_data(name):
    _, epochs = seen_in(name)
    rows = torch.cat([x for inputs in epochs.values() for x in inputs])
    for start in range(0, 120, 40):  # three passes of 40 rows, each row once
        found = {tuple(row.tolist()) for row in rows[start : start + 40]}
        assert found == {tuple(row.tolist()) for row in X}


@pytest.mark.parametrize("name", ["in memory", "a stream", "a ready loader"])
def test_epochs_of_all_batches_are_those_of_a_fit_without(name):
    data, more = DATA[name]
    portions = fit(data, batches_per_epoch=5, epochs=3, **more)
    plain = fit(data, batches_per_epoch=None, epochs=3, **more)
    for one, other in zip(portions.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert portions.get_metrics().equals(plain.get_metrics())


def test_an_epoch_may_be_longer_than_the_data():
    _, epochs = seen_in("in memory", batches_per_epoch=12, epochs=2)
    assert [len(inputs) for inputs in epochs.values()] == [12, 12]


class Killed(Exception):
    pass


@EVERY
@pytest.mark.parametrize("every_n_batches", [None, 1])
@pytest.mark.parametrize(
    ("hook", "epoch", "batch"),
    [
        ("on_train_batch_begin", 3, 1),
        ("on_train_batch_begin", 2, 3),
        ("on_valid_batch_begin", 2, 1),
        ("on_epoch_begin", 5, 0),
    ],
)
def test_a_run_that_was_killed_ends_bit_for_bit(
    tmp_path, name, every_n_batches, hook, epoch, batch
):
    data, more = DATA[name]
    options = {**more, "valid_data": (X, Y)}

    def kill(ctx):
        if ctx.epoch == epoch and ctx.iter == batch:
            raise Killed

    def resume(folder):
        return luz.callbacks.AutoResume(tmp_path / folder, every_n_batches)

    whole = fit(data, resume("other.pt"), **options)
    with pytest.raises(Killed):
        fit(data, resume("s.pt"), luz.Callback.from_functions(**{hook: kill}), **options)
    again = fit(data, resume("s.pt"), **options)
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.get_metrics().equals(whole.get_metrics())


def test_a_run_that_is_stopped_within_an_epoch_goes_on_bit_for_bit(tmp_path):
    def stop(ctx):
        if ctx.epoch == 3 and ctx.iter == 2:
            ctx.stop("enough")

    whole = fit((X, Y), batch_size=8)
    resume = luz.callbacks.AutoResume(tmp_path / "s.pt")
    fit((X, Y), resume, luz.Callback.from_functions(on_train_batch_end=stop), batch_size=8)
    again = fit((X, Y), resume, batch_size=8)
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_number_of_batches_is_another_run(tmp_path):
    resume = luz.callbacks.AutoResume(tmp_path / "s.pt")
    stop = luz.Callback.from_functions(on_train_batch_end=lambda ctx: ctx.stop("enough"))
    fit((X, Y), resume, stop, batch_size=8)
    with pytest.raises(luz.LuzError, match="batches"):
        fit((X, Y), resume, batch_size=8, batches_per_epoch=4)


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_bad_values(value, kind):
    with pytest.raises(kind, match="`batches_per_epoch` must be"):
        fit((X, Y), batches_per_epoch=value)


def test_batches_that_are_accumulated_across_epochs_make_steps_of_the_data():
    line_model = luz.setup(lambda: nn.Linear(4, 1), MSE, torch.optim.SGD, seed=1)
    line_model = line_model.set_opt_hparams(lr=0.1)
    options = {
        "verbose": False,
        "accelerator": luz.Accelerator(cpu=True, accumulate=2),
        "dataloader_options": {"batch_size": 8, "shuffle": False},
    }
    by_three = line_model.fit((X, Y), epochs=5, batches_per_epoch=3, **options)
    plain = line_model.fit((X, Y), epochs=3, **options)
    for one, other in zip(by_three.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
