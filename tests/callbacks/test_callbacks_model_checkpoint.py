"""`ModelCheckpoint`: which epochs are written, and under which names."""

import math

import pytest
import torch
from models import regression, unrelated

import luzpy as luz
from luzpy import LuzError
from luzpy.files.checkpoint import read_checkpoint

X, Y = unrelated(100, 10)
SPECIFICATION = regression(10, torch.optim.Adam, seed=0)


def scripted(values):
    """A callback that logs the values of a script as `train_score`, one an epoch."""

    def log(ctx):
        ctx.log_metric("score", values[ctx.epoch - 1])

    return luz.Callback.from_functions(on_train_end=log)


def fit(*callbacks, epochs=5, lr=0.01, **kwargs):
    # One batch of all rows an epoch: the loss of this convex problem falls in every one.
    options = {"dataloader_options": {"batch_size": 100}, "verbose": False} | kwargs
    model = SPECIFICATION.set_opt_hparams(lr=lr)
    return model.fit((X, Y), epochs, callbacks=list(callbacks), **options)


def written(folder, values, **kwargs):
    """The epochs written where the monitored quantity follows `values`."""
    path, kwargs = folder / "{epoch}.pt", {"mode": "min"} | kwargs
    files = luz.callbacks.ModelCheckpoint(path, monitor="train_score", **kwargs)
    fit(scripted(values), files, epochs=len(values))
    return sorted(int(path.stem) for path in folder.iterdir())


def test_every_epoch_and_every_best_one_are_written(tmp_path):
    # R: test-callbacks-monitor-metrics.R, "model checkpoint callback works"
    checkpoint = luz.callbacks.ModelCheckpoint
    fit(checkpoint(f"{tmp_path}/a/", monitor="train_loss", save_best_only=False))
    assert len(list((tmp_path / "a").iterdir())) == 5
    fit(checkpoint(f"{tmp_path}/b/", monitor="train_loss", save_best_only=True), epochs=10)
    assert len(list((tmp_path / "b").iterdir())) == 10
    fitted = fit(checkpoint(f"{tmp_path}/c/", monitor="train_loss", save_best_only=True))
    files = sorted((tmp_path / "c").iterdir())
    assert len(files) == 5
    last = fitted.predict(X, verbose=False)
    luz.load_checkpoint(fitted, files[0])
    first = fitted.predict(X, verbose=False)
    luz.load_checkpoint(fitted, files[4])
    assert torch.equal(fitted.predict(X, verbose=False), last)
    assert not torch.allclose(first, last)


@pytest.mark.parametrize(
    ("values", "kwargs", "epochs"),
    [
        ([3, 2, 2, 1, 4], {}, [1, 2, 3, 4, 5]),
        ([3, 2, 2, 1, 4], {"save_best_only": True}, [1, 2, 4]),
        ([3, 2, 2, 1, 4], {"save_best_only": True, "mode": "max"}, [1, 5]),
        ([3, -2, 2, -1, 4], {"save_best_only": True, "mode": "zero"}, [1, 2, 4]),
        ([3, 2.5, 2, 1.9], {"save_best_only": True, "min_delta": 0.75}, [1, 3]),
        ([math.nan, 2, math.nan, 1], {"save_best_only": True}, [2, 4]),
        ([math.nan, math.inf], {"save_best_only": True}, [2]),
    ],
)
def test_which_epochs_are_written(tmp_path, values, kwargs, epochs):
    assert written(tmp_path, values, **kwargs) == epochs


def test_a_path_that_ends_in_a_slash_gets_names_of_epoch_and_value(tmp_path):
    files = luz.callbacks.ModelCheckpoint(f"{tmp_path}/models/", "train_score", mode="min")
    fit(scripted([0.12345, 2]), files, epochs=2)
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert names == ["epoch-01-train_score-0.123.pt", "epoch-02-train_score-2.000.pt"]


def test_one_name_is_one_file_of_the_last_epoch(tmp_path):
    files = luz.callbacks.ModelCheckpoint(tmp_path / "a.pt", monitor="train_loss")
    fit(files, epochs=3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert read_checkpoint(tmp_path / "a.pt")["epoch"] == 3


def test_a_checkpoint_has_the_weights_of_its_epoch(tmp_path):
    kept = []
    keep = luz.Callback.from_functions(
        on_epoch_end=lambda ctx: kept.append(ctx.model.weight.detach().clone())
    )
    files = luz.callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt", monitor="train_loss")
    fit(files, keep, epochs=3)
    for epoch, weight in enumerate(kept, start=1):
        assert torch.equal(read_checkpoint(tmp_path / f"{epoch}.pt")["model"]["weight"], weight)


def test_an_instance_starts_afresh_in_every_run(tmp_path):
    files = luz.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.pt", "train_score", save_best_only=True, mode="min"
    )
    fit(scripted([1, 2]), files, epochs=2)
    fit(scripted([9, 8, 7]), files, epochs=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pt", "2.pt", "3.pt"]


def test_the_best_so_far_is_kept_in_checkpoints(tmp_path):
    files = luz.callbacks.ModelCheckpoint(tmp_path / "a.pt", "train_score", mode="min")
    fit(scripted([3, 1, 2]), files, epochs=3)
    kept = read_checkpoint(tmp_path / "a.pt")["callbacks"]
    assert ["ModelCheckpoint", {"current_best": 1}] in kept


def test_valid_loss_without_validation_is_an_error_at_the_start(tmp_path):
    with pytest.raises(LuzError, match=r"`monitor` is 'valid_loss', but there is no `valid_data`"):
        fit(luz.callbacks.ModelCheckpoint(tmp_path / "a.pt"))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_quantity_is_an_error_after_the_first_epoch(tmp_path):
    with pytest.raises(LuzError, match="must be one of 'train_loss', got 'train_acc'"):
        fit(luz.callbacks.ModelCheckpoint(tmp_path / "a.pt", monitor="train_acc"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LuzError, match=r"file/a\.pt could not be written"):
        fit(luz.callbacks.ModelCheckpoint(tmp_path / "file" / "a.pt", monitor="train_loss"))


@pytest.mark.parametrize("path", ["{loss}.pt", "{epoch.real}.pt", "{}.pt", "{epoch:.2q}.pt", ""])
def test_other_fields_are_refused_at_once(path):
    with pytest.raises(ValueError, match="`path`"):
        luz.callbacks.ModelCheckpoint(path)


def test_repr():
    assert repr(luz.callbacks.ModelCheckpoint("a-{epoch}.pt")) == (
        "<luzpy.callbacks.ModelCheckpoint: a-{epoch}.pt>"
    )


@pytest.mark.parametrize("path", ["/proc/", "/proc/{epoch}/a.pt", "/proc/a-{epoch}.pt"])
def test_a_folder_that_takes_no_files_is_an_error_before_the_first_batch(path):
    seen = []
    counts = luz.Callback.from_functions(on_train_begin=lambda ctx: seen.append(1))
    x = torch.zeros(32, 3)
    files = luz.callbacks.ModelCheckpoint(path, "train_loss")
    with pytest.raises(luz.LuzError, match="`path` must be in a folder that can be written to"):
        regression(3).fit((x, x[:, :1]), 1, [files, counts], verbose=False)
    assert seen == []
