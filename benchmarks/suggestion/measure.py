"""The trainings of the tasks, at the rates of a grid and at those that are suggested."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

import luzpy as luz
from benchmarks.files import CACHE
from benchmarks.suggestion.rules import RULES
from benchmarks.suggestion.tasks import REPORTED, TASKS, Task
from benchmarks.suggestion.training import trained_losses

SEEDS = (0, 1, 2)
RATES = 17
LOWEST_RATE = 1e-5
SWEEP = 100
# A last round of so many steps makes about so many sweeps in all, the sweep included.
CONFIRMED = {"4 sweeps": 30, "12 sweeps": 110}
# Random search at the same cost: eight rates, so many steps each.
RANDOM = {"4 sweeps": 50, "12 sweeps": 150}
# Where the best rate is looked for at shorter horizons too, from the first seed.
HORIZONS = (100, 300, 1_000, 2_000)


class Results:
    """The trainings and records of one task, kept in a file between runs."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.path = CACHE / "suggestion" / f"{task.name}.json"
        empty = {"losses": {}, "records": {}, "confirmed": {}, "others": {}}
        self.state: dict[str, Any] = {"definition": task.definition, **empty}
        if self.path.exists():
            kept = json.loads(self.path.read_text())
            if kept["definition"] == task.definition:
                self.state = {**self.state, **kept}

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = self.path.with_suffix(f".{os.getpid()}")
        partial_path.write_text(json.dumps(self.state))
        partial_path.replace(self.path)

    def train(self, seed: int, rates: Iterable[float], steps: int | None = None) -> None:
        """Do the trainings at these rates that have not been done, all at once."""
        known = self.state["losses"]
        keys = {_key(seed, lr, steps): float(f"{lr:.3g}") for lr in rates}
        missing = {key: lr for key, lr in keys.items() if key not in known}
        if missing:
            losses = trained_losses(self.task, seed, list(missing.values()), steps)
            known.update(zip(missing, losses, strict=True))
            self.save()

    def loss(self, seed: int, lr: float, steps: int | None = None) -> float:
        """The validation loss after a training at `lr`; at 0 that of the initial weights."""
        self.train(seed, [lr], steps)
        return self.state["losses"][_key(seed, lr, steps)]

    def records(self, seed: int) -> dict[str, list[float]]:
        """The finder's records; see `swept`."""
        return self._kept("records", str(seed), lambda: swept(self.task, seed))

    def confirmed(self, seed: int, cost: str) -> float | None:
        """The rate that the finder suggests after short trainings."""
        return self._kept(
            "confirmed", f"{seed}, {cost}", lambda: confirmed(self.task, seed, CONFIRMED[cost])
        )

    def other(self, seed: int, name: str) -> float | None:
        """The loss that something else than a suggestion of a finder comes to; None without it."""
        return self._kept("others", f"{seed}, {name}", lambda: OTHERS[name](self, seed))

    def _kept(self, part: str, key: str, make: Any) -> Any:
        if key not in self.state[part]:
            self.state[part][key] = make()
            self.save()
        return self.state[part][key]


def _key(seed: int, lr: float, steps: int | None) -> str:
    return f"{seed}, {lr:.3g}" + ("" if steps is None else f", {steps} steps")


def grid(task: Task) -> list[float]:
    """The rates among which the best one is."""
    return [float(f"{lr:.3g}") for lr in np.geomspace(LOWEST_RATE, task.optimizer.end_lr, RATES)]


def _find(task: Task, seed: int, **options: Any) -> luz.LRRecords:
    data = task.load()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return task.model(seed).lr_finder(
            (data.x, data.y),
            steps=SWEEP,
            start_lr=task.optimizer.start_lr,
            end_lr=task.optimizer.end_lr,
            verbose=False,
            batch_size=min(task.batch_size, len(data.x)),
            **options,
        )


def swept(task: Task, seed: int) -> dict[str, list[float]]:
    """The finder's records, 100 rungs; the rungs after a loss that is not finite are NaN."""
    records = _find(task, seed)
    ratio = task.optimizer.end_lr / task.optimizer.start_lr
    rates = [task.optimizer.start_lr * ratio ** (t / SWEEP) for t in range(1, SWEEP + 1)]
    columns = [column for column in ("loss", "initial_loss") if column in records]
    missing = [math.nan] * (SWEEP - len(records))
    return {"lr": rates, **{column: records[column].tolist() + missing for column in columns}}


def confirmed(task: Task, seed: int, steps: int) -> float | None:
    """What the finder suggests after three rounds of short trainings."""
    try:
        return _find(task, seed, confirm=3, confirm_steps=steps).suggest()
    except luz.NoSuggestionError:
        return None


def random_search(results: Results, seed: int, steps: int) -> float:
    """The loss at the best of eight rates drawn at random, after `steps` at each.

    It is judged on the validation rows themselves, which no other contestant sees.
    """
    task = results.task
    rng = np.random.default_rng(seed)
    exponents = rng.uniform(math.log10(LOWEST_RATE), math.log10(task.optimizer.end_lr), 8)
    rates = [float(f"{10**exponent:.3g}") for exponent in exponents]
    losses = np.nan_to_num(trained_losses(task, seed, rates, steps), nan=math.inf)
    return results.loss(seed, rates[int(np.argmin(losses))])


def prodigy(results: Results, seed: int) -> float | None:
    """The loss with Prodigy, which needs no rate, in the place of the task's optimizer."""
    try:
        from prodigyopt import Prodigy
    except ImportError:
        return None
    return trained_losses(results.task, seed, [1.0], make=lambda groups: Prodigy(groups, lr=1.0))[0]


OTHERS: dict[str, Any] = {
    **{
        f"random search, {cost}": lambda results, seed, steps=steps: random_search(
            results, seed, steps
        )
        for cost, steps in RANDOM.items()
    },
    "Prodigy, no rate": prodigy,
}


def others(task: Task) -> list[str]:
    """Which of `OTHERS` are compared on a task: all on the reported half, none on the other."""
    return list(OTHERS) if task in REPORTED else []


def measure(name: str, *, suggested: bool) -> str:
    """Do a task's missing trainings, with `suggested` at every rule's rate too."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    task = next(task for task in TASKS if task.name == name)
    results = Results(task)
    began = time.process_time()
    for seed in SEEDS:
        results.train(seed, [0.0, *grid(task)])
        results.records(seed)
        if suggested:
            results.train(seed, [lr for lr in suggestions(results, seed).values() if lr])
            for other in others(task):
                results.other(seed, other)
    if task.steps >= 1_000:
        for steps in HORIZONS:
            if steps < task.steps:
                results.train(SEEDS[0], [0.0, *grid(task)], steps)
    return f"{name}: {time.process_time() - began:.0f} s"


def suggestions(results: Results, seed: int) -> dict[str, float | None]:
    """What each rule suggests from one run of the finder; None where it refuses.

    On the reported half also what short trainings suggest, which cost more than the finder.
    """
    records = results.records(seed)
    found: dict[str, float | None] = {}
    for rule, function in RULES.items():
        try:
            found[rule] = float(function(records))
        except luz.NoSuggestionError:
            found[rule] = None
    if results.task in REPORTED:
        for cost in CONFIRMED:
            found[f"luzpy confirm=3, {cost}"] = results.confirmed(seed, cost)
    return found
