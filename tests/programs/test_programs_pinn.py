"""A differential equation: u'' = -u, u(0) = 0, u'(0) = 1, by derivatives of the network."""

import torch
from beside import Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 4


def derivative(y, x):
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


class Pinn(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss(self, u, _):
        return self.residual(self.ctx.input)

    def residual(self, t):
        t = t.clone().requires_grad_()
        slope = derivative(self(t), t)
        start = torch.zeros(1, 1, requires_grad=True)
        at_start = self(start)
        equation = (derivative(slope, t) + self(t)) ** 2
        return equation.mean() + at_start.square().sum() + (
            derivative(at_start, start) - 1
        ).square().sum()  # fmt: skip


def test_pinn():
    t = torch.linspace(0, 3, 30).unsqueeze(1)
    data = DataLoader(TensorDataset(t), 10, shuffle=True)
    model = luz.setup(Pinn, optimizer=torch.optim.Adam).set_opt_hparams(lr=0.01)

    module = by_hand(model)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for (t,) in data:
            optimizer.zero_grad()
            loss = module.residual(t)
            loss.backward()
            optimizer.step()
            mean.add(loss, len(t))
        losses.append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
