"""What is trained in the speed benchmark: models, data, losses. Nothing of luzpy's is imported."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

BATCH_SIZE = 32
SWEEP = {"start_lr": 1e-6, "end_lr": 1.0}
SWEEP_STEPS = 100
Data = tuple[torch.Tensor, torch.Tensor]


class LeNet(nn.Module):
    """The network of the learning rate finder's vignette."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.1),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(1600, 128),
            nn.Dropout(0.1),
            nn.Linear(128, 10),
        )
        self.seeded = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Frameworks draw from torch's generator before the first batch, each in its own way;
        # dropout must not depend on it.
        if self.training and not self.seeded:
            torch.manual_seed(1)
            self.seeded = True
        return self.classifier(self.features(x))


@dataclass(frozen=True)
class Workload:
    """A model to train on rows in memory.

    The rows are in random order already: nobody shuffles, so that all see the same batches.
    """

    make_model: Callable[[], nn.Module]
    make_loss: Callable[[], nn.Module]
    make_optimizer: Callable[..., torch.optim.Optimizer]
    lr: float
    data: Callable[[], Data]
    epochs: int

    def model(self) -> nn.Module:
        """A new model, always with the same weights."""
        torch.manual_seed(0)
        return self.make_model()

    def judge(self, model: nn.Module) -> float:
        """The loss of a trained model on the first rows."""
        x, y = self.data()
        with torch.no_grad():
            return float(self.make_loss()(model.eval()(x[:1024]), y[:1024]))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))


def random_rows() -> Data:
    """50,000 rows of ten columns, and a target that a small network can learn."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 10, generator=generator)
    y = x[:, :5].sin().sum(1, keepdim=True) + 0.1 * torch.randn(50_000, 1, generator=generator)
    return x, y


def fashion_mnist() -> Data:
    """6,400 images of Fashion-MNIST, at random; noise of that shape where its files are missing."""
    generator = torch.Generator().manual_seed(0)
    try:
        images = _read_idx("train-images-idx3-ubyte")
        labels = _read_idx("train-labels-idx1-ubyte")
    except FileNotFoundError:
        x = torch.rand(6400, 1, 28, 28, generator=generator)
        return x, torch.randint(10, (6400,), generator=generator)
    rows = torch.randperm(len(images), generator=generator)[:6400].numpy()
    x = torch.from_numpy(images[rows]).unsqueeze(1).float().div(255)
    return x, torch.from_numpy(labels[rows].astype(np.int64))


def _read_idx(name: str) -> np.ndarray[Any, Any]:
    """A file in the format of MNIST: a header that says the shape, then bytes."""
    root = Path(os.environ.get("LUZPY_DATA", Path.home() / ".cache" / "luzpy"))
    path = root / "FashionMNIST" / "raw" / name
    packed = Path("/usr/share/datasets/fashion-mnist") / f"{name}.gz"
    raw = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    n_dims = raw[3]
    shape = np.frombuffer(raw, dtype=">i4", count=n_dims, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * n_dims).reshape(shape)


W1 = Workload(mlp, nn.MSELoss, torch.optim.SGD, 0.01, random_rows, epochs=3)
W2 = Workload(LeNet, nn.CrossEntropyLoss, torch.optim.Adam, 1e-3, fashion_mnist, epochs=1)
