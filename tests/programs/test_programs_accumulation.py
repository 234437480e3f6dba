"""Steps over more rows than a batch has."""

import torch
from beside import Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 3


def test_accumulation():
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 8, shuffle=True)
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD)
    model = model.set_hparams(in_features=4, out_features=1).set_opt_hparams(lr=0.1)

    module = by_hand(model)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for index, (x, y) in enumerate(data, start=1):
            loss = F.mse_loss(module(x), y)
            (loss / 2).backward()
            mean.add(loss, len(x))
            if index % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
        losses.append(mean.value)

    fitted = fit(model, data, EPOCHS, accelerator=luz.Accelerator(cpu=True, accumulate=2))
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
