"""One batch of validation before the first epoch: mistakes come at once, and nothing else does."""

import random
import threading

import numpy as np
import pytest
import torch
from models import MSE, Rows, Stream, line
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

import luzpy as luz

BEFORE = "in the validation before the first epoch"
# A hook in validation may change what it sees: then nothing is tried before.
UNCHECKED = luz.Callback.from_functions(on_valid_begin=lambda ctx: None)


class Norm(nn.Sequential):
    """Everything that makes a run depend on order, mode and random state."""

    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, len(x)))
        return super().forward(x)


class Noisy(Rows):
    """Rows with noise, from a generator of their own and from all global ones."""

    def __init__(self, x, y):
        super().__init__(x, y)
        self.own = np.random.default_rng(1)
        self.torchs = torch.Generator()

    def __getitem__(self, index):
        noise = self.own.normal() + random.random() + np.random.rand() + torch.rand(())
        return (self.x[index] + torch.rand(3, generator=self.torchs) + noise).float(), self.y[index]


class OwnLoss(nn.Module):
    """A loss that counts, and has a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input, target):
        self.calls += 1
        return (self.scale * input - target).square().mean()


class Kept(luz.Metric):
    """A metric that never forgets."""

    def __init__(self):
        self.rows = 0

    def reset(self):
        pass

    def update(self, preds, target):
        self.rows += len(target)

    def compute(self):
        return float(self.rows)


class OwnStep(Norm):
    def __init__(self):
        super().__init__()
        self.steps = []

    def step(self):
        ctx = self.ctx
        ctx.log("steps", "train" if ctx.training else "valid", ctx.iter)
        ctx.buffers.setdefault("steps", []).append(ctx.iter)
        self.steps.append(len(ctx.input))
        loss = MSE(self(ctx.input), ctx.target)
        if ctx.training:
            ctx.opt.zero_grad()
            loss.backward()
            ctx.opt.step()
        ctx.loss = loss.detach()


def fit(model=None, callbacks=(), *, valid_data=None, epochs=1, **setup):
    setup = {"loss": MSE, "seed": 1} | setup
    spec = luz.setup(model or Norm, optimizer=torch.optim.SGD, **setup).set_opt_hparams(lr=0.01)
    valid_data = line(20, seed=2) if valid_data is None else valid_data
    return spec.fit(line(32), epochs, list(callbacks), valid_data, verbose=False)


def failure(model=None, **kwargs):
    """The error of a fit, how many batches had been trained then, and its notes."""
    batches = []
    count = luz.Callback.from_functions(on_train_batch_end=lambda ctx: batches.append(ctx.iter))
    with pytest.raises(Exception) as caught:  # noqa: PT011 (the caller looks at it)
        fit(model, [count, *kwargs.pop("callbacks", ())], **kwargs)
    return caught.value, len(batches), "".join(caught.value.__notes__)


class FailsInValidation(Norm):
    def step(self):
        if not self.ctx.training:
            raise KeyError("step")
        self.ctx.loss = MSE(self(self.ctx.input), self.ctx.target).detach()


def fails(preds, target):
    raise KeyError("metric")


class Unreadable(Rows):
    def __getitem__(self, index):
        raise KeyError("dataset")


@pytest.mark.parametrize(
    ("kwargs", "kind", "note"),
    [
        ({"valid_data": line(20, 5)}, RuntimeError, f"in the module Norm, {BEFORE}"),
        (
            {"metrics": luz.metrics.MetricSet(valid_metrics=[fails])},
            KeyError,
            f"of the metric 'fails', {BEFORE}",
        ),
        ({"model": FailsInValidation}, KeyError, f"in the module FailsInValidation, {BEFORE}"),
        ({"valid_data": Unreadable(*line(20))}, KeyError, "in `valid_data`, batch 1"),
        ({"valid_data": (line(20)[0], torch.zeros(20, 2, 2))}, RuntimeError, f"loss, {BEFORE}"),
    ],
)
def test_what_would_fail_after_an_epoch_fails_before_it(kwargs, kind, note):
    error, n_batches, notes = failure(**kwargs)
    assert type(error) is kind
    assert n_batches == 0
    assert note in notes


@pytest.mark.parametrize("model", [Norm, OwnStep])
@pytest.mark.parametrize(
    "loader",
    [
        lambda rows: rows,
        lambda rows: DataLoader(rows, batch_size=8, shuffle=True),
        lambda rows: DataLoader(rows, batch_size=8, generator=torch.Generator().manual_seed(3)),
    ],
)
def test_the_run_is_bit_for_bit_the_one_without_it(model, loader):
    runs = []
    for callbacks in ([], [UNCHECKED]):
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        loss = OwnLoss() if model is Norm else None
        rows = loader(Noisy(*line(20, seed=2)))
        fitted = fit(model, callbacks, valid_data=rows, epochs=2, loss=loss, metrics=[Kept()])
        drawn = torch.rand(()), np.random.rand(), random.random()
        records = {name: rows for name, rows in fitted.records.items() if name != "profile"}
        loss_state = {} if loss is None else fitted.spec.loss.state_dict()
        runs.append((fitted.model.state_dict() | loss_state, fitted.model.seen, records, drawn))
    (weights, seen, records, drawn), (unchecked, *others) = runs
    assert weights.keys() == unchecked.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, unchecked[name]), name
    assert [seen, records, drawn] == others
    assert records["metrics"]["valid"][0]["kept"] == 20


def test_no_hook_is_called_and_the_mode_is_as_a_hook_has_left_it():
    calls, modes = [], []

    def freeze(ctx):
        ctx.model[1].eval()

    watch = luz.Callback.from_functions(
        on_train_begin=freeze,
        on_train_batch_begin=lambda ctx: modes.append([p.training for p in ctx.model.modules()]),
        on_valid_end=lambda ctx: calls.append(ctx.epoch),
    )
    fitted = fit(callbacks=[watch], epochs=2)
    assert calls == [1, 2]
    assert modes == [[True, True, False, True, True]] * 2
    assert torch.equal(fitted.model[1].running_mean, torch.zeros(8))


class Locked(Norm):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def hooked():
    module = Norm()
    module[0].register_forward_hook(lambda module, args, output: None)
    return module


class OwnSampler(SequentialSampler):
    pass


WRONG = TensorDataset(*line(20, 5))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"valid_data": Stream(list(WRONG))},
        {"valid_data": DataLoader(WRONG, 8, num_workers=1)},
        {"valid_data": DataLoader(WRONG, 8, sampler=OwnSampler(WRONG))},
        {"valid_data": DataLoader(WRONG, batch_size=None)},
        {"model": Locked},
        {"model": hooked},
        {"callbacks": [UNCHECKED]},
        {"callbacks": [luz.callbacks.Mixup(run_valid=True, auto_loss=True)]},
    ],
    ids=["stream", "workers", "sampler", "rows", "lock", "hooks", "callback", "mixed"],
)
def test_it_is_left_out_where_it_would_leave_a_trace_or_might_be_wrong(kwargs):
    error, n_batches, notes = failure(**{"valid_data": WRONG, **kwargs})
    assert isinstance(error, (RuntimeError, ValueError))
    assert n_batches == 1
    assert "before the first epoch" not in notes


def test_a_stream_is_read_once_an_epoch():
    passes = []

    class Counted(Stream):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    fit(valid_data=Counted(list(TensorDataset(*line(20)))), epochs=3)
    assert len(passes) == 3


def test_luzpys_own_callbacks_do_not_prevent_it():
    callbacks = [
        luz.callbacks.MixedPrecision(),
        luz.callbacks.Mixup(auto_loss=True),
        luz.callbacks.EMA(0.9),
        luz.callbacks.StopOnNaN(),
        luz.callbacks.EarlyStopping(),
        luz.callbacks.KeepBestModel(),
    ]
    _, n_batches, notes = failure(valid_data=WRONG, callbacks=callbacks)
    assert n_batches == 0
    assert BEFORE in notes


def test_autoresume_does_not_prevent_it(tmp_path):
    resume = luz.callbacks.AutoResume(tmp_path / "state.pt")
    _, n_batches, notes = failure(valid_data=WRONG, callbacks=[resume])
    assert n_batches == 0
    assert BEFORE in notes
