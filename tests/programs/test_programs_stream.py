"""Rows that come one after another, without a length, and a model of two inputs by name."""

import torch
from beside import CPU, Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import luzpy as luz

EPOCHS = 3


class Ratings(IterableDataset):
    def __init__(self, seed):
        self.seed = seed

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(61):
            user, film = torch.randint(6, (2,), generator=generator)
            yield {"user": user, "film": film}, ((user - film) % 3).float()


class Factors(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.films = nn.Embedding(6, 4), nn.Embedding(6, 4)

    def forward(self, film, user):
        return (self.users(user) * self.films(film)).sum(1)


def test_stream():
    train, valid = DataLoader(Ratings(1), 8), DataLoader(Ratings(2), 8)
    model = luz.setup(Factors, nn.MSELoss(), torch.optim.Adagrad).set_opt_hparams(lr=0.5)

    module = by_hand(model)
    optimizer = torch.optim.Adagrad(module.parameters(), lr=0.5)
    losses, valid_losses = [], []
    for _ in range(EPOCHS):
        mean = Mean()
        for who, y in train:
            optimizer.zero_grad()
            loss = F.mse_loss(module(who["film"], who["user"]), y)
            loss.backward()
            optimizer.step()
            mean.add(loss, len(y))
        losses.append(mean.value)
        mean = Mean()
        with torch.no_grad():
            for who, y in valid:
                mean.add(F.mse_loss(module(who["film"], who["user"]), y), len(y))
        valid_losses.append(mean.value)

    fitted = fit(model, train, EPOCHS, valid_data=valid)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    assert_reported(fitted, valid_losses, split="valid")
    with torch.no_grad():
        expected = torch.cat([module(who["film"], who["user"]) for who, _ in valid])
    assert torch.equal(fitted.predict(valid, verbose=False, accelerator=CPU), expected)
