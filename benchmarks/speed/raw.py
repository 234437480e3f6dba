"""The loops one would write by hand: the floor over slices, and the one over a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.speed.workloads import BATCH_SIZE, SWEEP, SWEEP_STEPS, Data, Workload

Go = Callable[[], Any]


class Rows(Dataset[Data]):
    """A Dataset as a user writes it."""

    def __init__(self, data: Data) -> None:
        self.x, self.y = data

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Data:
        return self.x[index], self.y[index]


def slices(data: Data) -> Iterator[Data]:
    """Every whole batch, as slices."""
    x, y = data
    for start in range(0, len(x) - BATCH_SIZE + 1, BATCH_SIZE):
        yield x[start : start + BATCH_SIZE], y[start : start + BATCH_SIZE]


def loader_of(data: Data) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data), batch_size=BATCH_SIZE, drop_last=True)


def own_loader_of(data: Data) -> DataLoader[Any]:
    return DataLoader(Rows(data), batch_size=BATCH_SIZE, drop_last=True)


def _training(
    work: Workload, data: Data, batches: Callable[[Data], Iterable[Data]], wrap: Any = None
) -> Go:
    model = work.model()
    called = model if wrap is None else wrap(model)
    optimizer = work.make_optimizer(model.parameters(), lr=work.lr)
    loss_fn = work.make_loss()

    def go() -> nn.Module:
        for _ in range(work.epochs):
            for x, y in batches(data):
                optimizer.zero_grad()
                loss = loss_fn(called(x), y)
                loss.backward()
                optimizer.step()
        return model

    return go


def floor(work: Workload, data: Data) -> Go:
    return _training(work, data, slices)


def dataloader(work: Workload, data: Data) -> Go:
    return _training(work, data, loader_of)


def own(work: Workload, data: Data) -> Go:
    return _training(work, data, own_loader_of)


def compiled_floor(work: Workload, data: Data) -> Go:
    return _training(work, data, slices, torch.compile)


def hundred_steps(work: Workload, data: Data) -> Go:
    """A bare learning rate finder without records: 100 steps at rising rates."""
    start, end = SWEEP.values()
    model = work.model()
    optimizer = work.make_optimizer(model.parameters(), lr=work.lr)
    loss_fn = work.make_loss()

    n_rows = SWEEP_STEPS * BATCH_SIZE
    first_rows = (data[0][:n_rows], data[1][:n_rows])

    def go() -> float:
        loss = torch.tensor(0.0)
        for step, (x, y) in enumerate(slices(first_rows), start=1):
            optimizer.param_groups[0]["lr"] = start * (end / start) ** (step / SWEEP_STEPS)
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss)

    return go


def evaluate(work: Workload, data: Data) -> Go:
    model, loss_fn = work.model().eval(), work.make_loss()
    loader = DataLoader(TensorDataset(*data), batch_size=BATCH_SIZE)

    def go() -> float:
        total, rows = torch.zeros(()), 0
        with torch.no_grad():
            for x, y in loader:
                total += loss_fn(model(x), y) * len(y)
                rows += len(y)
        return float(total) / rows

    return go


def evaluate_with_metric(work: Workload, data: Data) -> Go:
    model, loss_fn = work.model().eval(), work.make_loss()
    loader = DataLoader(TensorDataset(*data), batch_size=BATCH_SIZE)

    def go() -> float:
        total, error, rows = torch.zeros(()), torch.zeros(()), 0
        with torch.no_grad():
            for x, y in loader:
                pred = model(x)
                total += loss_fn(pred, y) * len(y)
                error += (pred - y).abs().sum()
                rows += len(y)
        return float(total) / rows

    return go


def predict(work: Workload, data: Data) -> Go:
    model = work.model().eval()
    loader = DataLoader(TensorDataset(data[0]), batch_size=BATCH_SIZE)

    def go() -> float:
        with torch.no_grad():
            preds = torch.cat([model(x) for (x,) in loader])
        return float(preds.abs().mean())

    return go
