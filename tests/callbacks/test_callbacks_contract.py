"""What every callback keeps to: one test each, run over all of them."""

import pickle

import pytest
import torch
from torch import nn

import luzpy as luz
from luzpy.files.checkpoint import read_checkpoint, restore_checkpoint, write_checkpoint
from luzpy.finder.arguments import REFUSED


def handed_over(values, step):
    """What a tracker would take."""


STEP_LR = torch.optim.lr_scheduler.StepLR

MAKERS = {
    "AutoResume": lambda folder: luz.callbacks.AutoResume(folder / "state.pt"),
    "CSVLogger": lambda folder: luz.callbacks.CSVLogger(folder / "log.csv"),
    "CutMix": lambda folder: luz.callbacks.CutMix(auto_loss=True),
    "EMA": lambda folder: luz.callbacks.EMA(decay=0.9),
    "EarlyStopping": lambda folder: luz.callbacks.EarlyStopping(patience=5),
    "GradientClip": lambda folder: luz.callbacks.GradientClip(max_norm=0.1),
    "Interrupt": lambda folder: luz.callbacks.Interrupt(),
    "KeepBestModel": lambda folder: luz.callbacks.KeepBestModel(),
    "LRScheduler": lambda folder: luz.callbacks.LRScheduler(STEP_LR, step_size=1),
    "Log": lambda folder: luz.callbacks.Log(handed_over),
    "Metrics": lambda folder: luz.callbacks.Metrics(),
    "MixedPrecision": lambda folder: luz.callbacks.MixedPrecision(),
    "Mixup": lambda folder: luz.callbacks.Mixup(auto_loss=True),
    "ModelCheckpoint": lambda folder: luz.callbacks.ModelCheckpoint(f"{folder}/best/"),
    "Profile": lambda folder: luz.callbacks.Profile(),
    "Progress": lambda folder: luz.callbacks.Progress(),
    "ResumeFromCheckpoint": lambda folder: luz.callbacks.ResumeFromCheckpoint(weights_in(folder)),
    "StopOnNaN": lambda folder: luz.callbacks.StopOnNaN(),
    "TFEvents": lambda folder: luz.callbacks.TFEvents(str(folder / "logs")),
    "TrainValid": lambda folder: luz.callbacks.TrainValid(),
    "Unfreeze": lambda folder: luz.callbacks.Unfreeze("*.bias", at_epoch=2),
}
EVERY = pytest.mark.parametrize("name", sorted(MAKERS))


class Net(nn.Module):
    """Images of 1 x 8 x 8 to three classes."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, x):
        return self.layers(x)


def data(n=48):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def model():
    metrics = luz.metrics.MetricSet(valid_metrics=luz.metrics.Accuracy())
    spec = luz.setup(Net, nn.CrossEntropyLoss(), torch.optim.SGD, metrics, seed=3)
    return spec.set_opt_hparams(lr=0.1)


def fit(*callbacks, epochs=2):
    torch.manual_seed(5)
    return model().fit(
        data(),
        epochs=epochs,
        valid_data=data(),
        callbacks=list(callbacks),
        verbose=False,
        dataloader_options={"batch_size": 16},
    )


def weights_in(folder):
    path = folder / "start.pt"
    fit(luz.callbacks.ModelCheckpoint(path), epochs=1)
    return path


def test_every_callback_is_here():
    assert sorted([*MAKERS, "Callback"]) == sorted(luz.callbacks.__all__)


@EVERY
def test_one_instance_serves_two_runs_that_end_alike(name, tmp_path):
    callback = MAKERS[name](tmp_path)
    first, second = fit(callback), fit(callback)
    assert first.records["metrics"] == second.records["metrics"]
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@EVERY
def test_a_new_instance_can_be_pickled(name, tmp_path):
    callback = MAKERS[name](tmp_path)
    assert type(pickle.loads(pickle.dumps(callback))) is type(callback)


@EVERY
def test_its_state_survives_a_checkpoint(name, tmp_path):
    path = tmp_path / "run.pt"
    states = []

    def write(ctx):
        write_checkpoint(ctx, path)
        states.append(comparable(read_checkpoint(path)["callbacks"]))

    def read_at_epoch_two(ctx):
        if ctx.epoch == 2:
            restore_checkpoint(ctx, read_checkpoint(path), path)
            write(ctx)

    last = float("inf")
    fit(
        MAKERS[name](tmp_path),
        luz.Callback.from_functions(weight=last, on_epoch_end=lambda c: c.epoch == 1 and write(c)),
        luz.Callback.from_functions(weight=last, on_epoch_begin=read_at_epoch_two),
    )
    written, restored = states
    assert written == restored
    assert (name in dict(written)) == hasattr(MAKERS[name](tmp_path), "state_dict")


def comparable(states):
    """Callbacks' states, with tensors as lists and without what changes from moment to moment."""
    plain = [[name, without_tensors(state)] for name, state in states]
    return [[name, None if name == "Profile" else state] for name, state in plain]


def without_tensors(state):
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {key: without_tensors(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [without_tensors(value) for value in state]
    return state


@EVERY
def test_the_finder_runs_with_it_or_says_why_not(name, tmp_path):
    callback = MAKERS[name](tmp_path)
    torch.manual_seed(5)
    options = {"batch_size": 16}
    run = {"steps": 7, "dataloader_options": options, "callbacks": [callback], "verbose": False}
    if isinstance(callback, tuple(REFUSED)):
        with pytest.raises(ValueError, match=f"`callbacks` must not hold {name} in lr_finder: it"):
            model().lr_finder(data(), **run)
    else:
        records = model().lr_finder(data(), **run)
        assert len(records) == 7
        assert records["loss"].notna().all()
