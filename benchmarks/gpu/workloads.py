"""What is trained, and in which ways."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.speed.workloads import LeNet, fashion_mnist

Data = tuple[torch.Tensor, torch.Tensor]
VOCABULARY, LENGTH, CLASSES = 1000, 64, 10
VARIANTS = ("fp32", "compiled", "CUDA graphs", "bf16", "fp16", "channels last")
# Of `torch.compile`; the second one replays forward and backward passes as CUDA graphs.
MODES = {"compiled": "default", "CUDA graphs": "reduce-overhead"}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LR = 1e-3
SWEEP = (1e-6, 1e-1)


class Transformer(nn.Module):
    """Two layers over short texts; no dropout, so that all end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def texts() -> Data:
    """Rows of random words; the class is the most frequent tenth of the vocabulary."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(VOCABULARY, (6400, LENGTH), generator=generator)
    return x, nn.functional.one_hot(x % CLASSES, CLASSES).sum(1).argmax(1)


@functools.cache
def _data(name: str) -> Data:
    return {"LeNet": fashion_mnist, "transformer": texts}[name]()


MAKERS: dict[str, Callable[[], nn.Module]] = {"LeNet": LeNet, "transformer": Transformer}


@dataclass(frozen=True)
class Work:
    """One model on one set of rows, in one way.

    Attributes:
        name: Of the model.
        variant: One of `VARIANTS`; with CUDA graphs the optimizer is fused.
        workers: How many processes load batches; None for data in memory.
        rows: How many rows of the data.
        epochs: How often they are gone through.
        steps: Of the finder.
        backend: Of `torch.compile`.
    """

    name: str
    variant: str = "fp32"
    workers: int | None = None
    rows: int = 6400
    epochs: int = 5
    batch_size: int = 64
    steps: int = 100
    backend: str = "inductor"

    @property
    def data(self) -> Data:
        x, y = _data(self.name)
        return x[: self.rows], y[: self.rows]

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the forward passes, if it is not the weights'."""
        return DTYPES.get(self.variant)

    @property
    def is_fused(self) -> bool:
        """Whether the optimizer steps in one kernel."""
        return self.variant == "CUDA graphs"

    def model(self) -> nn.Module:
        """A new model, always with the same weights."""
        torch.manual_seed(0)
        model = MAKERS[self.name]()
        if self.variant == "channels last":
            return model.to(memory_format=torch.channels_last)
        if not self.is_compiled:
            return model
        mode = MODES[self.variant] if self.backend == "inductor" else None
        return torch.compile(model, backend=self.backend, mode=mode)

    @property
    def is_compiled(self) -> bool:
        """Whether the first batches compile the model."""
        return self.variant in MODES

    @property
    def title(self) -> str:
        loaded = "in memory" if self.workers is None else f"DataLoader, {self.workers} workers"
        return f"{self.name}, {self.variant}, {loaded}"
