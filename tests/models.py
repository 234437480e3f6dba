"""The data, modules and specifications that many tests use; what is odd stays with its test."""

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import luzpy as luz

MSE = nn.MSELoss()


# Data ----------------------------------------------------------------------------------------


def line(rows=64, columns=3, *, seed=1, noise=0.0):
    """Rows of random numbers, and their sums."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    y = x.sum(1, keepdim=True)
    return x, y + noise * torch.randn(rows, 1, generator=generator) if noise else y


def unrelated(rows, columns, seed=0):
    """Rows of random numbers, and targets that have nothing to do with them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    return x, torch.randn(rows, 1, generator=generator)


class Rows(Dataset):
    """A dataset of a user's own, which is asked row by row."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def numbered(rows):
    """A dataset in which a row's two columns, and its target, are its number."""
    return Rows(torch.arange(float(rows)).repeat(2, 1).T, range(rows))


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class SizedStream(Stream):
    def __len__(self):
        return len(self.items)


# Modules -------------------------------------------------------------------------------------


class Net(nn.Sequential):
    """Everything that makes a run depend on order, mode and random state."""

    def __init__(self, inputs=4, width=8):
        super().__init__(
            nn.Linear(inputs, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(width, 1),
        )


class Scale(nn.Module):
    """Its input times a number; it cannot be reset."""

    def __init__(self, start=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, x):
        return x * self.scale


class Raw(nn.Module):
    """A linear model that cannot be reset."""

    def __init__(self, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, 1))

    def forward(self, x):
        return x @ self.weight


class OwnLoss(nn.Linear):
    def __init__(self, in_features=3, out_features=1):
        super().__init__(in_features, out_features)

    def loss(self, input, target):
        return ((input - target) ** 2).mean()


class TwoOptimizers(nn.Linear):
    """One for the weights, and one for the bias."""

    def set_optimizers(self, lr=2e-4, betas=(0.5, 0.999)):
        return {
            name: torch.optim.Adam([getattr(self, name)], lr=lr, betas=betas)
            for name in ("weight", "bias")
        }


class TwoParts(nn.Module):
    """Two lines that are added up, each with an optimizer of its own."""

    def __init__(self, inputs):
        super().__init__()
        self.one, self.two = nn.Linear(inputs, 1), nn.Linear(inputs, 1)

    def forward(self, x):
        return self.one(x) + self.two(x)

    def set_optimizers(self, lr=0.01):
        return {
            name: torch.optim.SGD(getattr(self, name).parameters(), lr) for name in ("one", "two")
        }


class CountingLoss(nn.MSELoss):
    """A loss with a state: how often it was called."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input, target):
        self.calls += 1
        return super().forward(input, target)


# Specifications ------------------------------------------------------------------------------


def regression(module=3, optimizer=torch.optim.SGD, metrics=None, *, loss=MSE, lr=0.01, **options):
    """A specification; `module` is what makes one, or how many inputs a linear one has."""
    maker = (lambda: nn.Linear(module, 1)) if isinstance(module, int) else module
    return luz.setup(maker, loss, optimizer, metrics, **options).set_opt_hparams(lr=lr)
