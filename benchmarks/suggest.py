"""Which rule suggests the best learning rate: `python -m benchmarks.suggest`.

For every task of `suggest_tasks` a short training at 17 rates, from 3 initial weights, says which
rate is best; then the same training at the rate that each rule of `suggest_rules` reads off the
finder's records says what is lost by it. Trainings are kept in `benchmarks/.cache`: a rule that
has changed is judged anew with few of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import luzpy as luz
from benchmarks.suggest_rules import DEFAULT, RULES
from benchmarks.suggest_tasks import REPORTED, TASKS, TUNING, Task, loss_of

CACHE = Path(__file__).parent / ".cache" / "suggest"
README = Path(__file__).parent / "README.md"
SEEDS = (0, 1, 2)
RATES = 17
LOWEST_RATE = 1e-5

# ---------------------------------------------------------------- what a task's trainings gave


class Results:
    """The trainings and records of one task, kept in a file between runs."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.path = CACHE / f"{task.name}.json"
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


# ---------------------------------------------------------------- measure


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


# ---------------------------------------------------------------- judge


def best_rate(results: Results) -> float:
    """The rate of the grid with the lowest mean loss; what diverged counts as not trained."""
    initial = [results.loss(seed, 0.0) for seed in SEEDS]

    def mean_loss(lr: float) -> float:
        return float(np.mean([_or(results.loss(s, lr), initial[s]) for s in SEEDS]))

    return min(grid(results.task), key=mean_loss)


def _or(loss: float, initial: float) -> float:
    return min(loss, initial) if math.isfinite(loss) else initial


def judge(tasks: Iterable[Task]) -> pd.DataFrame:
    """One row a task, seed and rule: lr, best_lr, regret, diverged, refused.

    Regret is the loss at the suggestion over the loss at the best rate from the same weights, as
    a fraction of what the best rate gains on the initial loss, between 0 and 1. A refusal leaves
    the user with nothing: its regret is 1.
    """
    rows: list[dict[str, Any]] = []
    for task in tasks:
        results = Results(task)
        best_lr = best_rate(results)
        for seed in SEEDS:
            initial, best = results.loss(seed, 0.0), results.loss(seed, best_lr)
            for rule, lr in suggestions(results, seed).items():
                loss = math.nan if lr is None else results.loss(seed, lr)
                diverged = lr is not None and not (math.isfinite(loss) and loss <= initial)
                regret = (loss - best) / (initial - best) if math.isfinite(loss) else 1.0
                rows.append(
                    {
                        "task": task.name,
                        "seed": seed,
                        "rule": rule,
                        "lr": math.nan if lr is None else lr,
                        "best_lr": best_lr,
                        "regret": min(max(regret, 0.0), 1.0),
                        "diverged": diverged,
                        "refused": lr is None,
                    }
                )
        results.save()
    return pd.DataFrame(rows)


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """One row a rule: median, 90th percentile and mean of regret, divergences, refusals."""
    by_rule = judged.groupby("rule", sort=False)
    table = pd.DataFrame(
        {
            "median regret": by_rule["regret"].median(),
            "90th percentile": by_rule["regret"].quantile(0.9),
            "mean regret": by_rule["regret"].mean(),
            "diverged": by_rule["diverged"].sum(),
            "refused": by_rule["refused"].sum(),
            "of": by_rule.size(),
        }
    )
    return table.sort_values(["90th percentile", "median regret"])


# ---------------------------------------------------------------- report

BEGIN, END = "<!-- suggest: begin -->", "<!-- suggest: end -->"

TEXT = """## Which rule suggests the best learning rate

`python -m benchmarks.suggest` trains {n} tasks (`suggest_tasks.py`), each for a short budget at
{rates} rates from {seeds} initial weights, runs `lr_finder` (100 rungs) from the same weights, and
then trains at the rate that each rule suggests. Regret is the validation loss at the suggestion
over that at the best of the {rates} rates, as a fraction of what the best rate gains on the initial
loss: 0 is as good as the best rate, 1 is not trained at all. A training diverged if its loss is not
finite or above the initial one; a refusal counts as a regret of 1. The figures are over all tasks
and initial weights of a half, every suggestion alike.

The rules of the other libraries are written anew from their definitions and judge the same records,
each with its own smoothing, its own stopping and its own cut-offs. The halves were fixed before
any task was run, in pairs of a like model and optimizer; luzpy's rules were chosen on the tuning
half alone. What says that a curve supports no suggestion at all was corrected after the reported
half had been seen: it had refused two curves whose first loss was low by chance (with it the
default's 90th percentile was 0.141). The lead of the default is narrow: before that correction it
had the lowest 90th percentile in 29 % of the draws when the tasks of the half were drawn anew.

### Reported half

{reported}

### Tuning half

{tuning}
"""


def markdown(table: pd.DataFrame) -> str:
    """The summary as a Markdown table, the default in bold."""
    lines = ["| rule | " + " | ".join(table.columns) + " |", "| --- |" + " ---: |" * table.shape[1]]
    for rule, row in table.iterrows():
        name = f"**{rule}** (default)" if rule == DEFAULT else str(rule)
        cells = [f"{value:.3f}" for value in row.iloc[:3]] + [str(int(v)) for v in row.iloc[3:]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_section(path: Path, text: str) -> None:
    """Put `text` between the section's marks in the file, or at its end."""
    old = path.read_text() if path.exists() else "# Benchmarks\n\n"
    section = f"{BEGIN}\n{text.strip()}\n{END}"
    if BEGIN in old:
        before, rest = old.split(BEGIN)
        path.write_text(before + section + rest.split(END)[1])
    else:
        path.write_text(f"{old.rstrip()}\n\n{section}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--curves-only", action="store_true", help="do not judge any rule")
    chosen = parser.parse_args()
    work = partial(measure, suggested=not chosen.curves_only)
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for line in pool.map(work, [task.name for task in TASKS]):
            print(line, flush=True)
    if chosen.curves_only:
        return
    reported, tuning = summary(judge(REPORTED)), summary(judge(TUNING))
    text = TEXT.format(
        n=len(TASKS),
        rates=RATES,
        seeds=len(SEEDS),
        reported=markdown(reported),
        tuning=markdown(tuning),
    )
    write_section(README, text)
    print(text)


if __name__ == "__main__":
    main()
