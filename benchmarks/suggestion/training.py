"""Trainings of one task from one seed at many rates: small models at once, others one by one.

It is a loop of its own, which knows nothing of luzpy: all rates see the same batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.suggestion.data import Data
from benchmarks.suggestion.tasks import Task, loss_of

Maker = Callable[..., torch.optim.Optimizer]


def batches(data: Data, size: int, seed: int, steps: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Shuffled anew in each epoch, the last incomplete batch left out."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(data.x))
    done = 0
    while True:
        for rows in torch.randperm(len(data.x), generator=generator).split(size):
            if len(rows) < size:
                continue
            if done == steps:
                return
            done += 1
            yield data.x[rows], data.y[rows]


def trained_losses(
    task: Task,
    seed: int,
    rates: Sequence[float],
    steps: int | None = None,
    make: Maker | None = None,
) -> list[float]:
    """The validation loss after a training at each rate; at 0 that of the initial weights.

    Args:
        task: What is trained.
        seed: Of the initial weights and of the order of the batches.
        rates: The learning rates.
        steps: How many steps; by default the task's.
        make: An optimizer in the place of the task's own.
    """
    nets = [task.model(seed)() for _ in rates]
    trained = [(net, lr) for net, lr in zip(nets, rates, strict=True) if lr > 0]
    groups = [{"params": list(net.parameters()), "lr": lr} for net, lr in trained]
    steps = task.steps if steps is None else steps
    if len(trained) > 1 and make is None and _can_be_stacked(nets[0]):
        _train_together(task, seed, [net for net, _ in trained], groups, steps)
    else:
        for (net, _), group in zip(trained, groups, strict=True):
            _train(task, seed, net, group, steps, make)
    return [_valid_loss(task, net) for net in nets]


def _valid_loss(task: Task, net: nn.Module) -> float:
    data = task.load()
    with torch.no_grad():
        return float(loss_of(data)(net.eval()(data.valid_x), data.valid_y))


def _train(
    task: Task, seed: int, net: nn.Module, group: dict, steps: int, make: Maker | None
) -> None:
    data = task.load()
    own = task.optimizer
    optimizer = make([group]) if make else own.make([group], lr=group["lr"], **own.options)
    for x, y in batches(data, task.batch_size, seed, steps):
        optimizer.zero_grad()
        loss = loss_of(data)(net(x), y)
        if not math.isfinite(loss.item()):
            group["params"][0].data.fill_(math.nan)
            return
        loss.backward()
        optimizer.step()


def _train_together(
    task: Task, seed: int, nets: list[nn.Module], groups: list[dict], steps: int
) -> None:
    """One optimizer with a group, and so a rate, for each model; one forward pass for all."""
    data = task.load()
    base = copy.deepcopy(nets[0]).requires_grad_(False)
    names = [name for name, _ in base.named_parameters()]
    _, buffers = stack_module_state(nets)
    buffers = {name: buffer.clone() for name, buffer in buffers.items()}
    optimizer = task.optimizer.make(groups, lr=1e-3, **task.optimizer.options)
    loss_fn = loss_of(data)

    def one(weights: dict, state: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss_fn(functional_call(base, (weights, state), (x,)), y)

    every = vmap(one, in_dims=(0, 0, None, None))
    for x, y in batches(data, task.batch_size, seed, steps):
        optimizer.zero_grad()
        parameters = [dict(net.named_parameters()) for net in nets]
        weights = {name: torch.stack([own[name] for own in parameters]) for name in names}
        every(weights, buffers, x, y).sum().backward()
        optimizer.step()
    for index, net in enumerate(nets):
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name][index])


def _can_be_stacked(net: nn.Module) -> bool:
    """Whether `torch.func.vmap` runs the model: recurrent layers it does not."""
    return not any(isinstance(part, nn.RNNBase) for part in net.modules())
