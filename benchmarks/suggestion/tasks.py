"""The tasks of the suggestion benchmark: data, model, optimizer, batch size and budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import nn

import luzpy as luz
from benchmarks.suggestion import data, tables
from benchmarks.suggestion.data import Data

# ---------------------------------------------------------------- models


def linear(of: Data) -> nn.Module:
    return nn.Linear(of.x.shape[1], of.n_out)


def mlp(of: Data) -> nn.Module:
    return nn.Sequential(
        nn.Linear(of.x.shape[1], 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, of.n_out),
    )


def mlp_norm(of: Data) -> nn.Module:
    return nn.Sequential(
        nn.Linear(of.x.shape[1], 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, of.n_out),
    )


def lenet(of: Data) -> nn.Module:
    side = of.x.shape[-1] // 4
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 64),
        nn.ReLU(),
        nn.Linear(64, of.n_out),
    )


class Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1, stride=2, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.skip = nn.Conv2d(n_in, n_out, 1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet(of: Data) -> nn.Module:
    return nn.Sequential(
        Residual(1, 8),
        Residual(8, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, of.n_out),
    )


def mlp_tanh(of: Data) -> nn.Module:
    return nn.Sequential(
        nn.Linear(of.x.shape[1], 48),
        nn.Tanh(),
        nn.Linear(48, 48),
        nn.Tanh(),
        nn.Linear(48, of.n_out),
    )


def mlp_deep(of: Data) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(of.x.shape[1], 32), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, of.n_out))


def mlp_layernorm(of: Data) -> nn.Module:
    return nn.Sequential(
        nn.Linear(of.x.shape[1], 64),
        nn.LayerNorm(64),
        nn.GELU(),
        nn.Linear(64, 64),
        nn.LayerNorm(64),
        nn.GELU(),
        nn.Linear(64, of.n_out),
    )


class Skipping(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def mlp_residual(of: Data) -> nn.Module:
    return nn.Sequential(
        nn.Linear(of.x.shape[1], 32), Skipping(32), Skipping(32), nn.Linear(32, of.n_out)
    )


def group_norm(of: Data) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, stride=2),
        nn.GroupNorm(3, 12),
        nn.SiLU(),
        nn.Conv2d(12, 24, 3, padding=1, stride=2),
        nn.GroupNorm(3, 24),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, of.n_out),
    )


class Temporal(nn.Module):
    """Convolutions over time, for (rows, time, features)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(n_in, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 24, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(24, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x.transpose(1, 2)).mean(2))


def temporal(of: Data) -> nn.Module:
    return Temporal(of.x.shape[2], of.n_out)


class Recurrent(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_in, 24, batch_first=True)
        self.head = nn.Linear(24, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x)[0][:, -1])


def gru(of: Data) -> nn.Module:
    return Recurrent(of.x.shape[2], of.n_out)


class LongShort(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_in, 24, batch_first=True)
        self.head = nn.Linear(24, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def lstm(of: Data) -> nn.Module:
    return LongShort(of.x.shape[2], of.n_out)


class Attentive(nn.Module):
    def __init__(self, n_in: int, n_time: int, n_out: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_in, 24)
        self.place = nn.Parameter(0.1 * torch.randn(n_time, 24))
        self.block = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True)
        self.head = nn.Linear(24, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(x) + self.place).mean(1))


def transformer(of: Data) -> nn.Module:
    return Attentive(of.x.shape[2], of.x.shape[1], of.n_out)


# ---------------------------------------------------------------- optimizers


@attrs.frozen
class Optimizer:
    """An optimizer, and the rates between which its finder and its trainings are."""

    make: Callable[..., torch.optim.Optimizer]
    options: dict[str, Any]
    end_lr: float
    start_lr: float = 1e-6


SGD = Optimizer(torch.optim.SGD, {}, end_lr=10)
MOMENTUM = Optimizer(torch.optim.SGD, {"momentum": 0.9}, end_lr=10)
ADAM = Optimizer(torch.optim.Adam, {}, end_lr=1)
ADAMW = Optimizer(torch.optim.AdamW, {"weight_decay": 0.01}, end_lr=1)
RMSPROP = Optimizer(torch.optim.RMSprop, {}, end_lr=1)
NADAM = Optimizer(torch.optim.NAdam, {}, end_lr=1)
NESTEROV = Optimizer(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, end_lr=10)

# ---------------------------------------------------------------- tasks


@attrs.frozen
class Task:
    """A training whose learning rate is looked for; `steps` is how many it has."""

    name: str
    load: Callable[[], Data]
    net: Callable[[Data], nn.Module]
    optimizer: Optimizer
    batch_size: int
    steps: int

    @property
    def definition(self) -> str:
        """What a cached result holds for."""
        return (
            f"{self.load.__name__}, {self.net.__name__}, {self.optimizer.make.__name__} "
            f"{self.optimizer.options} to {self.optimizer.end_lr}, batch {self.batch_size}, "
            f"{self.steps} steps"
        )

    def model(self, seed: int) -> luz.LuzModule:
        """The specification without a learning rate."""
        loaded = self.load()
        return luz.setup(
            lambda: self.net(loaded), loss_of(loaded), self.optimizer.make, seed=seed
        ).set_opt_hparams(**self.optimizer.options)


def loss_of(of: Data) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return nn.functional.cross_entropy if of.is_classes else _squared_error


def _squared_error(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(input.squeeze(1), target)


def _tasks(*rows: tuple[Any, ...]) -> list[Task]:
    return [
        Task(f"{net.__name__}-{load.__name__}-{kind}-{batch}", load, net, optimizer, batch, steps)
        for load, net, kind, optimizer, batch, steps in rows
    ]


# Written by hand, for luzpy's first rules.
_FIRST = _tasks(
    (data.diamonds, linear, "sgd", SGD, 64, 500),
    (data.digits, linear, "adam", ADAM, 64, 400),
    (data.wine, linear, "momentum", MOMENTUM, 16, 240),
    (data.fashion_flat, mlp, "sgd", SGD, 128, 384),
    (data.classification, mlp, "momentum", MOMENTUM, 64, 368),
    (data.friedman, mlp, "adam", ADAM, 64, 496),
    (data.moons, mlp, "adamw", ADAMW, 32, 512),
    (data.digits, mlp, "rmsprop", RMSPROP, 16, 648),
    (data.digits, mlp_norm, "sgd", SGD, 64, 400),
    (data.diamonds, mlp_norm, "momentum", MOMENTUM, 512, 300),
    (data.breast_cancer, mlp_norm, "adam", ADAM, 32, 260),
    (data.fashion, lenet, "momentum", MOMENTUM, 64, 128),
    (data.digit_images, lenet, "adam", ADAM, 64, 120),
    (data.digit_images, resnet, "momentum", MOMENTUM, 64, 120),
    (data.fashion, resnet, "adamw", ADAMW, 128, 96),
    (data.waves, gru, "adam", ADAM, 64, 124),
    (data.digit_rows, gru, "rmsprop", RMSPROP, 64, 140),
    (data.most_frequent, transformer, "adamw", ADAMW, 64, 92),
    (data.fashion_rows, transformer, "adam", ADAM, 64, 128),
    (data.diabetes, linear, "sgd", SGD, 16, 400),
    (data.breast_cancer, linear, "adam", ADAM, 32, 260),
    (data.penguins, linear, "momentum", MOMENTUM, 16, 300),
    (data.digits, mlp, "sgd", SGD, 32, 480),
    (data.mpg, mlp, "momentum", MOMENTUM, 16, 330),
    (data.diamonds, mlp, "adam", ADAM, 256, 372),
    (data.txhousing, mlp, "adamw", ADAMW, 128, 372),
    (data.blocks, mlp, "rmsprop", RMSPROP, 128, 390),
    (data.wine, mlp_norm, "sgd", SGD, 32, 240),
    (data.fashion_flat, mlp_norm, "momentum", MOMENTUM, 256, 256),
    (data.classification, mlp_norm, "adam", ADAM, 128, 368),
    (data.digit_images, lenet, "momentum", MOMENTUM, 32, 120),
    (data.fashion, lenet, "adam", ADAM, 128, 96),
    (data.fashion, resnet, "momentum", MOMENTUM, 64, 128),
    (data.digit_images, resnet, "adamw", ADAMW, 32, 120),
    (data.house_sales, gru, "adam", ADAM, 32, 140),
    (data.waves, gru, "rmsprop", RMSPROP, 128, 105),
    (data.digit_rows, transformer, "adamw", ADAMW, 64, 140),
    (data.most_frequent, transformer, "adam", ADAM, 128, 115),
)

# Each kind of data with each of its models and with optimizers, batch sizes and budgets that go
# round: on these the rules that were chosen on the first ones were reported.
_TABLES = (
    data.iris, data.circles, data.hastie, data.quantiles, data.sparse, data.friedman2,
    data.swiss_roll, data.midwest, data.msleep, data.faithful, data.fair, data.anes96,
    data.randhie, data.star98, data.which_module,
)  # fmt: skip
_SERIES = (data.sunspots, data.co2, data.elnino, data.economics, data.next_letter)
_KINDS = (
    (_TABLES, (mlp, mlp_tanh, mlp_norm, mlp_deep)),
    (_SERIES, (temporal, transformer)),
    ((data.sunspots, data.next_letter), (gru,)),
    ((data.fashion_columns,), (temporal, transformer)),
    ((data.fashion,), (lenet,)),
)
_OPTIMIZERS = {
    "adam": ADAM, "momentum": MOMENTUM, "adamw": ADAMW, "sgd": SGD, "rmsprop": RMSPROP,
    "nadam": NADAM, "nesterov": NESTEROV,
}  # fmt: skip
_BATCHES = (16, 64, 32, 128, 8)
_BUDGETS = (300, 100, 1_000, 300, 200, 500, 100, 2_000, 300, 500, 200)
_LONG = (
    ("mlp", "hastie"),
    ("mlp_norm", "fair"),
    ("mlp_tanh", "friedman2"),
    ("mlp_deep", "randhie"),
)


def _second() -> list[Task]:
    rows: list[tuple[Any, ...]] = []
    for loads, nets in _KINDS:
        for load in loads:
            for net in nets:
                kind = list(_OPTIMIZERS)[len(rows) % len(_OPTIMIZERS)]
                batch = _BATCHES[(len(rows) // 2) % len(_BATCHES)]
                steps = _BUDGETS[len(rows) % len(_BUDGETS)]
                if (net.__name__, load.__name__) in _LONG:
                    steps = 5_000
                rows.append((load, net, kind, _OPTIMIZERS[kind], batch, steps))
    return _tasks(*rows)


# Drawn later: tables drawn by chance, each with one model, and other series, letters and models of
# images. On the first draw a default that looked at the rise of the loss as well was reported, and
# lost to the one without.
_NETS = (mlp_tanh, mlp_layernorm, mlp, mlp_residual, mlp_norm, mlp_deep, linear)
_WITH_FIRST_DRAW = (
    (data.tree_rings, temporal), (data.electricity, lstm), (data.prose, transformer),
    (data.fashion, group_norm), (data.electricity, temporal), (data.prose, lstm),
    (data.tree_rings, transformer), (data.digit_images, group_norm),
    (data.electricity, transformer), (data.tree_rings, lstm),
)  # fmt: skip
_WITH_SECOND_DRAW = (
    (data.stocks, gru), (data.monthly_sunspots, temporal), (data.manual, lstm),
    (data.fashion_columns, lstm), (data.stocks, transformer), (data.manual, temporal),
)  # fmt: skip


def _drawn(seed: int, others: tuple[Any, ...]) -> list[Task]:
    loads = [tables.loader(table) for table in tables.kept(seed)]
    pairs = [(load, _NETS[row % len(_NETS)]) for row, load in enumerate(loads)]
    rows: list[tuple[Any, ...]] = []
    for load, net in (*pairs, *others):
        row = len(rows)
        # A step further after each round, so that a model does not meet one optimizer alone.
        kind = list(_OPTIMIZERS)[(row + row // len(_OPTIMIZERS)) % len(_OPTIMIZERS)]
        steps = 5_000 if row in (10, 30) else _BUDGETS[row % len(_BUDGETS)]
        batch = _BATCHES[row % len(_BATCHES)]
        rows.append((load, net, kind, _OPTIMIZERS[kind], batch, steps))
    return _tasks(*rows)


# Those that have been seen, and those on which no rule was chosen.
TUNING = _FIRST + _second() + _drawn(tables.SEEDS[0], _WITH_FIRST_DRAW)
REPORTED = _drawn(tables.SEEDS[1], _WITH_SECOND_DRAW)
TASKS = TUNING + REPORTED
