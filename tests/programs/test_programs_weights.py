"""A weight for every row, and identifiers that nobody trains on."""

import torch
from beside import CPU, Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 3
X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
WEIGHT = torch.linspace(0.1, 2, 50).unsqueeze(1)


def weighted(pred, target):
    y, weight = target
    return (weight * (pred - y) ** 2).mean()


def unpack(batch):
    _, x, y, weight = batch
    return x, (y, weight)


def test_weights():
    data = DataLoader(TensorDataset(torch.arange(50), X, Y, WEIGHT), 8, shuffle=True)
    model = luz.setup(nn.Linear, weighted, torch.optim.SGD, unpack=unpack)
    model = model.set_hparams(in_features=4, out_features=1).set_opt_hparams(lr=0.05)

    module = by_hand(model)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for _, x, y, weight in data:
            optimizer.zero_grad()
            loss = (weight * (module(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            mean.add(loss, len(x))
        losses.append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    found = fitted.predict(X, verbose=False, accelerator=CPU, batch_size=50)
    assert torch.equal(found, module(X).detach())
