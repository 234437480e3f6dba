"""The trainings of the tasks, at the rates of a grid and at those that the rules suggest."""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any

import numpy as np
import torch

import luzpy as luz
from benchmarks.files import CACHE
from benchmarks.suggestion.rules import RULES
from benchmarks.suggestion.tasks import TASKS, Task, loss_of

SEEDS = (0, 1, 2)
RATES = 17
LOWEST_RATE = 1e-5


class Results:
    """The trainings and records of one task, kept in a file between runs."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.path = CACHE / "suggestion" / f"{task.name}.json"
        self.state: dict[str, Any] = {"definition": task.definition, "losses": {}, "records": {}}
        if self.path.exists():
            kept = json.loads(self.path.read_text())
            if kept["definition"] == task.definition:
                self.state = kept
        for seed in SEEDS:
            self.state["losses"].setdefault(str(seed), {})

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = self.path.with_suffix(f".{os.getpid()}")
        partial_path.write_text(json.dumps(self.state))
        partial_path.replace(self.path)

    def loss(self, seed: int, lr: float) -> float:
        """The validation loss after a training at `lr`; at 0 that of the initial weights."""
        key = f"{lr:.3g}"
        losses = self.state["losses"][str(seed)]
        if key not in losses:
            losses[key] = trained_loss(self.task, seed, float(key))
        return losses[key]

    def records(self, seed: int) -> dict[str, list[float]]:
        """The finder's records; see `swept`."""
        if str(seed) not in self.state["records"]:
            self.state["records"][str(seed)] = swept(self.task, seed)
        return self.state["records"][str(seed)]


def grid(task: Task) -> list[float]:
    """The rates among which the best one is."""
    return [float(f"{lr:.3g}") for lr in np.geomspace(LOWEST_RATE, task.optimizer.end_lr, RATES)]


def trained_loss(task: Task, seed: int, lr: float) -> float:
    """The validation loss after `luz.fit` at `lr`."""
    data, model = task.load(), task.model(seed)
    if lr == 0:
        net = model().eval()
    else:
        torch.manual_seed(seed)
        net = (
            model.set_opt_hparams(lr=lr)
            .fit(
                (data.x, data.y),
                epochs=task.epochs(),
                verbose=False,
                dataloader_options={"batch_size": task.batch_size},
            )
            .model
        )
    with torch.no_grad():
        return float(loss_of(data)(net(data.valid_x), data.valid_y))


def swept(task: Task, seed: int) -> dict[str, list[float]]:
    """The finder's records, 100 rungs; the rungs after a loss that is not finite are NaN."""
    data, steps = task.load(), 100
    torch.manual_seed(seed)
    records = task.model(seed).lr_finder(
        (data.x, data.y),
        steps=steps,
        start_lr=task.optimizer.start_lr,
        end_lr=task.optimizer.end_lr,
        verbose=False,
        dataloader_options={"batch_size": task.batch_size},
    )
    ratio = task.optimizer.end_lr / task.optimizer.start_lr
    rates = [task.optimizer.start_lr * ratio ** (t / steps) for t in range(1, steps + 1)]
    losses = records["loss"].tolist()
    return {"lr": rates, "loss": losses + [math.nan] * (steps - len(losses))}


def measure(name: str, *, suggested: bool) -> str:
    """Do a task's missing trainings, with `suggested` at every rule's rate too."""
    torch.set_num_threads(1)
    task = next(task for task in TASKS if task.name == name)
    results = Results(task)
    began = time.process_time()
    for seed in SEEDS:
        for lr in [0.0, *grid(task)]:
            results.loss(seed, lr)
        results.records(seed)
    if suggested:
        for seed in SEEDS:
            for lr in suggestions(results, seed).values():
                if lr is not None:
                    results.loss(seed, lr)
    results.save()
    return f"{name}: {time.process_time() - began:.0f} s"


def suggestions(results: Results, seed: int) -> dict[str, float | None]:
    """What each rule suggests from one run of the finder; None where it refuses."""
    records = results.records(seed)
    lr, loss = np.array(records["lr"]), np.array(records["loss"])
    found: dict[str, float | None] = {}
    for rule, function in RULES.items():
        try:
            found[rule] = float(function(lr, loss))
        except luz.NoSuggestionError:
            found[rule] = None
    return found
