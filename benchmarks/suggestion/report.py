"""From the trainings to the tables of `benchmarks/README.md`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.suggestion.measure import SEEDS, Results, grid, suggestions
from benchmarks.suggestion.rules import DEFAULT
from benchmarks.suggestion.tasks import Task


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


def markdown(table: pd.DataFrame) -> str:
    """The summary as a Markdown table, the default in bold."""
    lines = ["| rule | " + " | ".join(table.columns) + " |", "| --- |" + " ---: |" * table.shape[1]]
    for rule, row in table.iterrows():
        name = f"**{rule}** (default)" if rule == DEFAULT else str(rule)
        cells = [f"{value:.3f}" for value in row.iloc[:3]] + [str(int(v)) for v in row.iloc[3:]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
