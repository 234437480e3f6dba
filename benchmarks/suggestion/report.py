"""From the trainings to the tables of `benchmarks/README.md`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.suggestion.measure import HORIZONS, SEEDS, Results, grid, others, suggestions
from benchmarks.suggestion.rules import DEFAULT
from benchmarks.suggestion.tasks import Task

DRAWS = 10_000
# A refusal where the best rate gains less than this share of the initial loss costs little.
WORTH = 0.2
# A difference of regret that is more than noise.
CLEARLY = 0.05


def best_rate(results: Results, steps: int | None = None, seeds: Sequence[int] = SEEDS) -> float:
    """The rate of the grid with the lowest mean loss; what diverged counts as not trained."""
    initial = {seed: results.loss(seed, 0.0) for seed in seeds}

    def mean_loss(lr: float) -> float:
        return float(np.mean([_or(results.loss(s, lr, steps), initial[s]) for s in seeds]))

    return min(grid(results.task), key=mean_loss)


def _or(loss: float, initial: float) -> float:
    return min(loss, initial) if math.isfinite(loss) else initial


def judge(tasks: Iterable[Task]) -> pd.DataFrame:
    """One row a task, seed and rule: lr, best_lr, regret, diverged, refused, worth.

    Regret is the loss at the suggestion over the loss at the best rate from the same weights, as
    a fraction of what the best rate gains on the initial loss, between 0 and 1. A refusal leaves
    the user with nothing: its regret is 1. It is worth something where the best rate gains more
    than a fifth of the initial loss.
    """
    rows: list[dict[str, Any]] = []
    for task in tasks:
        results = Results(task)
        best_lr = best_rate(results)
        for seed in SEEDS:
            initial, best = results.loss(seed, 0.0), results.loss(seed, best_lr)
            losses = {
                rule: (lr, None if lr is None else results.loss(seed, lr))
                for rule, lr in suggestions(results, seed).items()
            }
            for other in others(task):
                loss = results.other(seed, other)
                if loss is not None:
                    losses[other] = (math.nan, loss)
            for rule, (lr, loss) in losses.items():
                finite = loss is not None and math.isfinite(loss)
                regret = (loss - best) / (initial - best) if finite and initial > best else 1.0
                rows.append(
                    {
                        "task": task.name,
                        "seed": seed,
                        "rule": rule,
                        "lr": math.nan if lr is None else lr,
                        "best_lr": best_lr,
                        "regret": min(max(regret, 0.0), 1.0),
                        "diverged": loss is not None and not (finite and loss <= initial),
                        "refused": loss is None,
                        "worth": initial - best > WORTH * initial,
                    }
                )
    return pd.DataFrame(rows)


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """One row a rule: regret, divergences, refusals, and in how many draws it is the first."""
    by_rule = judged.groupby("rule", sort=False)
    refused = judged[judged["worth"] & judged["refused"]].groupby("rule").size()
    table = pd.DataFrame(
        {
            "median regret": by_rule["regret"].median(),
            "90th percentile": by_rule["regret"].quantile(0.9),
            "mean regret": by_rule["regret"].mean(),
            "first": first_in_draws(judged),
            "diverged": by_rule["diverged"].sum(),
            "refused": by_rule["refused"].sum(),
            "refused where it is worth it": refused.reindex(by_rule.size().index, fill_value=0),
            "of": by_rule.size(),
        }
    )
    return table.sort_values(["90th percentile", "median regret"])


def confirmations(judged: pd.DataFrame) -> str:
    """How `confirm` compares with the plain suggestion, task by task."""
    regret = judged.pivot_table(index="task", columns="rule", values="regret")
    lines: list[str] = []
    for rule in regret.columns:
        if "confirm" in rule:
            worse = regret[rule] - regret[DEFAULT]
            lines.append(
                f"{rule}, against the plain suggestion: worse by more than {CLEARLY} on "
                f"{(worse > CLEARLY).sum()} of {len(worse)} tasks, at most by {worse.max():.3f}, "
                f"better by more than {CLEARLY} on {(worse < -CLEARLY).sum()} (means over seeds)."
            )
    return "\n\n".join(lines)


def is_one_sweep(rule: str) -> bool:
    """Whether a contestant costs one sweep: these are compared with one another."""
    return "sweeps" not in rule and "Prodigy" not in rule


def first_in_draws(judged: pd.DataFrame, draws: int = DRAWS) -> pd.Series:
    """In which share of draws of the tasks each rule has the lowest 90th percentile of regret.

    Of the rules that cost one sweep; the tasks are drawn anew with replacement, with all their
    seeds; who shares the lowest percentile shares the draw.
    """
    one = judged[judged["rule"].map(is_one_sweep)]
    cube = one.pivot_table(index=["rule", "task"], columns="seed", values="regret", sort=False)
    rules, tasks = (cube.index.unique(level) for level in ("rule", "task"))
    values = cube.to_numpy().reshape(len(rules), len(tasks), -1)
    rng = np.random.default_rng(0)
    first = np.zeros(len(rules))
    for _ in range(draws):
        drawn = values[:, rng.integers(len(tasks), size=len(tasks))].reshape(len(rules), -1)
        high = np.quantile(drawn, 0.9, axis=1)
        best = high <= high.min() + 1e-12
        first += best / best.sum()
    return pd.Series(first / draws, index=rules)


def horizons(tasks: Iterable[Task]) -> str:
    """How the best rate moves with the horizon, over the tasks with the longest budgets."""
    ratios: dict[int, list[float]] = {}
    for task in tasks:
        if task.steps < 1_000:
            continue
        results = Results(task)
        first = best_rate(results, HORIZONS[0], SEEDS[:1])
        for steps in [*(h for h in HORIZONS if h < task.steps), task.steps]:
            own = None if steps == task.steps else steps
            ratios.setdefault(steps, []).append(best_rate(results, own, SEEDS[:1]) / first)
    if not ratios:
        return ""
    lines = [
        f"| steps | best rate, as a multiple of that of {HORIZONS[0]} steps | tasks |",
        "| ---: | ---: | ---: |",
    ]
    for steps, found in sorted(ratios.items()):
        lines.append(f"| {steps} | {np.exp(np.mean(np.log(found))):.2f} | {len(found)} |")
    return "\n".join(lines)


def markdown(table: pd.DataFrame) -> str:
    """The summary as a Markdown table, the default in bold."""
    lines = ["| rule | " + " | ".join(table.columns) + " |", "| --- |" + " ---: |" * table.shape[1]]
    for rule, row in table.iterrows():
        name = f"**{rule}** (default)" if rule == DEFAULT else str(rule)
        cells = [f"{value:.3f}" for value in row.iloc[:3]]
        cells.append("" if math.isnan(row.iloc[3]) else f"{row.iloc[3]:.0%}")
        cells += [str(int(v)) for v in row.iloc[4:]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
