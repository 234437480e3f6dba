"""State files and checkpoints whose checksum is right and whose content is not: read, or refused.

A run that refuses one says which file it is, and has changed nothing: not its weights, not its
optimizer, not the random state, not the file.
"""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from models import unrelated
from mutations import changed
from torch import nn

import luzpy as luz
from luzpy.files import container
from luzpy.files.checkpoint import read_checkpoint

pytestmark = pytest.mark.reliability

X, Y = unrelated(32, 3)
EXAMPLES = 2500 if "LUZPY_SOAK" in os.environ else 40
KINDS = ["end of an epoch", "in training", "in validation", "checkpoint"]
PARTS = ["", "resume", "resume run", "resume now", "resume data", "optimizers opt", "callbacks"]
CB = luz.callbacks


class Begins(Exception):
    """The run has found its place: its first batch begins."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1)
        self.register_buffer("hidden", torch.ones(1), persistent=False)
        self.calls, self.seen = 0, [1.0]

    def forward(self, x):
        self.calls += 1
        return self.fc(x) * self.hidden


class Watch(luz.Callback):
    """Looks at the run before its file is read, and ends it when a batch begins."""

    weight = 1e9  # after all that prepare the run

    def __init__(self, at=(0, 0)):
        self.at = at

    def on_fit_begin(self, ctx):
        self.ctx, self.before = ctx, state(ctx)

    def end(self, ctx):
        if ctx.epoch >= self.at[0] and ctx.iter >= self.at[1]:
            raise Begins

    on_train_batch_begin = end


class WatchValidation(Watch):
    def on_train_batch_begin(self, ctx):
        pass

    def on_valid_batch_begin(self, ctx):
        self.end(ctx)


def state(ctx):
    model = ctx.model
    return repr((
        model.state_dict(), model.hidden, model.calls, model.seen,
        [opt.state_dict() for opt in ctx.optimizers.values()],
        ctx.records["metrics"], random.getstate(), np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    ))  # fmt: skip


def fit(*callbacks):
    model = luz.setup(Net, nn.MSELoss(), torch.optim.Adam, [luz.metrics.MAE()], seed=3)
    schedule = CB.LRScheduler(torch.optim.lr_scheduler.StepLR, 1)
    every = [schedule, CB.EarlyStopping(patience=9), *callbacks]
    options = {"valid_data": 0.5, "verbose": False, "dataloader_options": {"batch_size": 8}}
    return model.set_opt_hparams(lr=0.01).fit((X, Y), 4, callbacks=every, **options)


def interrupted(folder, kind):
    """The content of a file of this kind."""
    path = folder / "whole.pt"
    if kind == "checkpoint":
        with pytest.raises(Begins):
            fit(CB.ModelCheckpoint(path), Watch((3, 1)))
        return read_checkpoint(path)
    at, watch = {
        "end of an epoch": ((2, 1), Watch),
        "in training": ((2, 1), Watch),
        "in validation": ((2, 1), WatchValidation),
    }[kind]

    def stop(ctx):
        if (ctx.epoch, ctx.iter) == at:
            ctx.stop("enough")

    hook = "on_valid_batch_end" if watch is WatchValidation else "on_train_batch_end"
    if kind == "end of an epoch":
        with pytest.raises(Begins):
            fit(CB.AutoResume(path), Watch(at))
    else:
        fit(CB.AutoResume(path), luz.Callback.from_functions(**{hook: stop}))
    return read_checkpoint(path)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return {kind: interrupted(tmp_path_factory.mktemp("whole"), kind) for kind in KINDS}


def resumed(path, kind):
    """Whether a run takes the file."""
    watch = (WatchValidation if kind == "in validation" else Watch)()
    flags = {f"restore_{part}": True for part in ("records", "optimizer_state", "callbacks_state")}
    resume = [CB.AutoResume(path)]
    if kind == "checkpoint":
        files = CB.ModelCheckpoint(path.with_name("other.pt"))
        resume = [CB.ResumeFromCheckpoint(path, **flags), files]
    written = path.read_bytes()
    try:
        fit(*resume, watch)
    except Begins:
        assert path.read_bytes() == written
        return True
    except luz.LuzError as err:
        assert str(path) in str(err)  # noqa: PT017  (it may also be taken)
        assert state(watch.ctx) == watch.before
        assert path.read_bytes() == written
        return False
    return True  # nothing was left to train


fuzzed = settings(
    max_examples=EXAMPLES,
    phases=set(Phase) - {Phase.explain},
    deadline=None,
    derandomize="LUZPY_SOAK" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_changed_is_taken(contents, tmp_path, kind):
    container.write(tmp_path / "same.pt", container.CHECKPOINT, without_kind(contents[kind]))
    assert resumed(tmp_path / "same.pt", kind)


@pytest.mark.filterwarnings("ignore:There is nothing left to train")
@pytest.mark.parametrize("kind", KINDS)
@fuzzed
@given(part=st.sampled_from(PARTS), seed=st.integers(0, 2**32 - 1))
def test_content(contents, tmp_path_factory, kind, part, seed):
    dice = random.Random(seed)
    content = without_kind(contents[kind])
    names = part.split()
    if not names or names[0] not in content:
        names = []
    content = mutated(content, names, lambda most: dice.randint(0, most))
    path = tmp_path_factory.mktemp("f") / "state.pt"
    container.write(path, container.CHECKPOINT, {str(k): v for k, v in content.items()})
    resumed(path, kind)


def mutated(nest, names, number):
    """A copy of it that is changed within what the names lead to."""
    if not names:
        return changed(nest, number)
    return nest | {names[0]: mutated(nest[names[0]], names[1:], number)}


def without_kind(content):
    return {name: item for name, item in content.items() if name != "luzpy"}
