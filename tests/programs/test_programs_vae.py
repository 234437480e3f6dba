"""A variational autoencoder: a loss of two parts, both reported."""

import torch
from beside import Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 3


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), mean, log_variance


def loss(pred, target):
    output, mean, log_variance = pred
    return {
        "image": F.mse_loss(output, target, reduction="sum") / len(target),
        "kl": -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / len(target),
    }


def test_vae():
    x = torch.randn(45, 6, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(x, x), 8, shuffle=True)
    model = luz.setup(Vae, loss, torch.optim.Adam).set_opt_hparams(lr=0.01)

    module = by_hand(model)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    means = {"loss": [], "loss_image": [], "loss_kl": []}
    for _ in range(EPOCHS):
        epoch = {name: Mean() for name in means}
        for x, _ in data:
            optimizer.zero_grad()
            parts = loss(module(x), x)
            total = parts["image"] + parts["kl"]
            total.backward()
            optimizer.step()
            for name, value in zip(epoch, (total, *parts.values()), strict=True):
                epoch[name].add(value, len(x))
        for name, mean in epoch.items():
            means[name].append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    for name, losses in means.items():
        assert_reported(fitted, losses, name)
