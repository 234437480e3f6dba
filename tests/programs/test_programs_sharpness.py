"""Optimizers that evaluate a batch more than once: in a step of the module's own, by closures."""

from functools import partial

import pytest
import torch
from beside import Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 3
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = X.prod(1, keepdim=True)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def step(self):
        ctx = self.ctx
        ctx.loss = self.stepped(ctx.opt, ctx.input, ctx.target)


class Sam(Net):
    """Sharpness-aware minimization (Foret et al. 2021): the gradient at the worst near point."""

    def stepped(self, optimizer, x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(self(x), y)
        loss.backward()
        parameters = list(self.parameters())
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in parameters]).norm()
            moves = [0.05 * p.grad / norm for p in parameters]
            torch._foreach_add_(parameters, moves)
        optimizer.zero_grad()
        F.mse_loss(self(x), y).backward()
        with torch.no_grad():
            torch._foreach_sub_(parameters, moves)
        optimizer.step()
        return loss.detach()


class Lbfgs(Net):
    def stepped(self, optimizer, x, y):
        def closure():
            optimizer.zero_grad()
            loss = F.mse_loss(self(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure).detach()


class Regression(nn.Sequential):
    """Without a step of its own: luzpy gives the optimizer its closure."""

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def check(kind, maker, loss=None, **options):
    data = DataLoader(TensorDataset(X, Y), 16, shuffle=True)
    model = luz.setup(kind, loss, maker).set_opt_hparams(**options)

    module = by_hand(model)
    optimizer = maker(module.parameters(), **options)
    stepped = getattr(module, "stepped", partial(Lbfgs.stepped, module))
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for x, y in data:
            mean.add(stepped(optimizer, x, y), len(x))
        losses.append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)


def test_sam():
    check(Sam, torch.optim.SGD, lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("kind", "loss"), [(Lbfgs, None), (Regression, nn.MSELoss())], ids=["step", "closure"]
)
def test_lbfgs(kind, loss):
    check(kind, torch.optim.LBFGS, loss, lr=0.5, max_iter=4, history_size=5)
