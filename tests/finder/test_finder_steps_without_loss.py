"""The finder, where a step of the user's own sets no loss in some batches."""

import math

import pytest
import torch
from models import line
from torch import nn

import luzpy as luz

X, Y = line(40)
EVERY = 5
SWEEP = {"start_lr": 1e-4, "end_lr": 1e-2, "verbose": False, "batch_size": 4}


class Adversaries(nn.Module):
    """A generator that steps in every fifth batch, as in WGAN."""

    def __init__(self):
        super().__init__()
        self.d, self.g = nn.Linear(3, 1), nn.Linear(3, 3)
        self.n = 0
        self.losses = {"d": [], "g": []}

    def set_optimizers(self, lr=0.01):
        return {name: torch.optim.SGD(getattr(self, name).parameters(), lr) for name in "dg"}

    def losses_in_turn(self, x):
        yield "d", (self.d(self.g(x).detach()) - self.d(x)).mean() + self.d(x).square().mean()
        if self.n % EVERY == 0:
            yield "g", -self.d(self.g(x)).mean()

    def step(self):
        self.n += 1
        for name, loss in self.losses_in_turn(self.ctx.input):
            self.losses[name].append(loss.item())
            self.ctx.optimizers[name].zero_grad()
            loss.backward()
            self.ctx.optimizers[name].step()
            self.ctx.loss[name] = loss.detach()


class Sparing(nn.Linear):
    """It steps in every batch, and says its loss in every third."""

    def __init__(self):
        super().__init__(3, 1)
        self.n = 0
        self.said = []

    def step(self):
        ctx, self.n = self.ctx, self.n + 1
        loss = nn.functional.mse_loss(self(ctx.input), ctx.target)
        ctx.opt.zero_grad()
        loss.backward()
        ctx.opt.step()
        if self.n % 3 == 0:
            ctx.loss = loss.detach()
            self.said.append(loss.item())


def sweep(kind, rungs=4, optimizer=None, **options):
    models = []
    keep = luz.Callback.from_functions(on_fit_begin=lambda ctx: models.append(ctx.model))
    model = luz.setup(kind, optimizer=optimizer, seed=1)
    records = model.lr_finder((X, Y), rungs, callbacks=keep, **{**SWEEP, **options})
    return records, models[0]


def test_each_loss_is_averaged_over_the_batches_that_have_it():
    records, net = sweep(Adversaries)
    d = torch.tensor(net.losses["d"][: 4 * EVERY]).reshape(4, EVERY).mean(1)
    expected = (d + torch.tensor(net.losses["g"][:4])) / 2
    assert records["loss"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_loss_of_the_varied_optimizer_is_its_own():
    records, net = sweep(Adversaries, opt_name="g")
    assert records["loss"].tolist() == pytest.approx(net.losses["g"][:4])


def test_a_rung_goes_on_until_there_is_a_loss():
    records, net = sweep(Sparing, optimizer=torch.optim.SGD)
    assert records["loss"].tolist() == pytest.approx(net.said[:4])
    assert net.n >= 12
    assert all(map(math.isfinite, records["loss"]))


def test_a_step_that_never_sets_a_loss_is_an_error():
    class Silent(Sparing):
        def step(self):
            super().step()
            self.ctx.loss = {}

    with pytest.raises(luz.LuzError, match=r"`step` must set `ctx.loss`.*not in 100 batches"):
        sweep(Silent, optimizer=torch.optim.SGD)


def test_validation_without_a_loss_in_some_batches():
    """In validation the rows of the batches that have a loss count."""

    class Half(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def step(self):
            ctx = self.ctx
            loss = nn.functional.mse_loss(self(ctx.input), ctx.target)
            if ctx.training:
                ctx.opt.zero_grad()
                loss.backward()
                ctx.opt.step()
            if ctx.training or ctx.iter == 1:
                ctx.loss = loss.detach()

    model = luz.setup(Half, optimizer=torch.optim.SGD, seed=1)
    records = model.lr_finder((X, Y), 4, valid_data=(X, Y), **SWEEP)
    first = nn.functional.mse_loss(model()(X[:4]), Y[:4]).item()
    assert records["valid_loss"][0] == pytest.approx(first)
    assert all(map(math.isfinite, records["valid_loss"]))
