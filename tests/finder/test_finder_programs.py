"""The finder in real programs: compiled models, batches that are mappings, several optimizers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import luzpy as luz

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(320, 4, generator=GENERATOR)
Y = X.sum(1, keepdim=True)
SWEEP = {"steps": 30, "start_lr": 1e-4, "end_lr": 1, "verbose": False}


def by_hand(net, loss_of, steps=30):
    """The sweep in a loop of its own."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    losses = []
    for t in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * 1e4 ** (t / steps)
        rows = slice(16 * ((t - 1) % 20), 16 * ((t - 1) % 20) + 16)
        loss = loss_of(net, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def squared_error(net, rows):
    return nn.functional.mse_loss(net(X[rows]), Y[rows])


class Mappings(Dataset):
    """As tokenizers make them: a mapping, one of whose entries is the labels."""

    def __len__(self):
        return 320

    def __getitem__(self, index):
        return {"features": X[index], "labels": Y[index]}


class WithLoss(nn.Module):
    """As models of the Transformers library: they take the batch by keyword and give the loss."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, features, labels=None):
        logits = self.layer(features)
        loss = None if labels is None else nn.functional.mse_loss(logits, labels)
        return Output(loss, logits)


class Output:
    def __init__(self, loss, logits):
        self.loss, self.logits = loss, logits


@pytest.mark.parametrize("confirm", [None, 2])
def test_a_batch_that_is_a_mapping(confirm):
    model = luz.setup(WithLoss, optimizer=torch.optim.SGD, seed=2)
    loader = DataLoader(Mappings(), batch_size=16)
    options = SWEEP if confirm is None else SWEEP | {"confirm": confirm, "confirm_steps": 8}
    valid = None if confirm is None else DataLoader(Mappings(), batch_size=64)
    records = model.lr_finder(loader, valid_data=valid, **options)
    expected = by_hand(model(), lambda net, r: net(features=X[r], labels=Y[r]).loss)
    assert records["loss"].to_numpy() == pytest.approx(expected, rel=1e-4)
    if confirm:
        assert np.isfinite(records["valid_loss"]).all()
        assert len(records.confirmed) >= 8


def test_a_compiled_model():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    plain, compiled = (
        luz.setup(module, nn.MSELoss(), torch.optim.SGD)
        for module in (net, torch.compile(net, backend="eager"))
    )
    data = torch.utils.data.TensorDataset(X, Y)
    found = [
        model.lr_finder(DataLoader(data, batch_size=16), **SWEEP)["loss"].tolist()
        for model in (plain, compiled)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(by_hand(plain(), squared_error), rel=1e-4)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.b(self.a(x))

    def set_optimizers(self, lr_a=0.0, lr_b=0.002):
        return {
            "a": torch.optim.SGD(self.a.parameters(), lr=lr_a),
            "b": torch.optim.SGD(self.b.parameters(), lr=lr_b),
        }


def test_of_several_optimizers_the_second_look_lets_none_step():
    # `b` is not varied: in the sweep it steps at its own rate, and in the second look it must not.
    noisy = 2 * Y + 4 * torch.randn(320, 1, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(torch.utils.data.TensorDataset(X, noisy), batch_size=4)
    model = luz.setup(Two, nn.MSELoss(), seed=3).set_opt_hparams(lr_a=0.01)
    records = model.lr_finder(loader, opt_name="a", **SWEEP | {"steps": 60, "end_lr": 0.1})
    assert "initial_loss" in records
    net = model()
    with torch.no_grad():
        losses = [
            nn.functional.mse_loss(net(X[i : i + 4]), noisy[i : i + 4]).item()
            for i in range(0, 240, 4)
        ]
    assert records["initial_loss"].to_numpy() == pytest.approx(losses, rel=1e-5)
    assert records["loss"].iloc[-1] != pytest.approx(losses[-1])
