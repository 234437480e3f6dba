"""The rules that are compared: luzpy's, and those of other libraries, written anew.

Each takes the 100 rates and raw losses of one run (NaN from the first loss that is not finite) and
returns a rate or raises `NoSuggestionError`. What the other libraries do was read from fastai
2.8.12, Lightning 2.6.6, torch-lr-finder 0.2.2 and pytorch-ignite 0.5.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

import luzpy as luz
from luzpy.finder.frame import curves_of
from luzpy.finder.noise import Array
from luzpy.finder.onset import onset
from luzpy.finder.suggest import DEFAULT_METHOD, METHODS, finite_part, has_descent, suggest_lr
from luzpy.ground.errors import NoSuggestionError

Rule = Callable[[Array, Array], float]


def stop_when_above(smoothed: Array, factor: float) -> Array:
    """The losses up to the first that is above `factor` times the best so far."""
    best = math.inf
    for rung, value in enumerate(smoothed):
        best = min(best, value) if not math.isnan(value) else best
        if value > factor * best:
            return smoothed[: rung + 1]
    return smoothed


def refuse_unless(enough: bool) -> None:
    if not enough:
        raise NoSuggestionError("There are too few rungs.")


# ---------------------------------------------------------------- fastai


def fastai(judge: Rule, lr: Array, loss: Array) -> float:
    """Average of β = 0.98, stopped above 4 times the best; 10 rungs and the last 5 go."""
    weight, average = 0.0, 0.0
    smoothed = np.empty_like(loss)
    for rung, value in enumerate(loss):
        average, weight = 0.98 * average + 0.02 * value, 0.98 * weight + 0.02
        smoothed[rung] = average / weight
    smoothed = stop_when_above(smoothed, 4)
    lr, smoothed = lr[: len(smoothed)][10:-5], smoothed[10:-5]
    finite = int(np.argmax(np.isnan(smoothed))) if np.isnan(smoothed).any() else len(smoothed)
    refuse_unless(finite >= 2)
    return judge(lr[:finite], smoothed[:finite])


def fastai_valley(lr: Array, smoothed: Array) -> float:
    """Half along the longest decreasing subsequence, counted as if it were of neighbours."""
    length = [1] * len(smoothed)
    for i in range(len(smoothed)):
        length[i] += max((length[j] for j in range(i) if smoothed[j] > smoothed[i]), default=0)
    end = int(np.argmax(length))
    if end == 0:
        return lr[0]
    third = length[end] / 3
    return lr[end - length[end] + int(third) + int(third / 2)]


def fastai_minimum(lr: Array, smoothed: Array) -> float:
    return lr[int(np.argmin(smoothed))] / 10


def fastai_steep(lr: Array, smoothed: Array) -> float:
    return lr[int(np.argmin(np.diff(smoothed) / np.diff(np.log(lr))))]


def fastai_slide(lr: Array, smoothed: Array) -> float:
    """From the right: the first rung whose slope is within 0.005 of that 15 rungs to its right."""
    refuse_unless(len(smoothed) > 15)
    slope = np.gradient(smoothed)
    left = len(smoothed) - 16
    found = lr[left]
    while left >= 0 and abs(slope[left + 15] - slope[left]) > 0.005:
        found = lr[left]
        left -= 1
    return found


# ---------------------------------------------------------------- Lightning


def lightning(lr: Array, loss: Array) -> float:
    """Steepest against lr itself, but for the first 10 rungs and the last.

    Average of β = 0.98, whose correction counts one step too many; stopped above 4 times the best.
    """
    average, best = 0.0, 0.0
    smoothed: list[float] = []
    for step, value in enumerate(loss, start=1):
        average = 0.98 * average + 0.02 * value
        smoothed.append(average / (1 - 0.98 ** (step + 1)))
        if step > 1 and smoothed[-1] > 4 * best:
            break
        if step == 1 or smoothed[-1] < best:
            best = smoothed[-1]
    kept = torch.tensor(smoothed)[10:-1]  # single precision, as there: it decides at small rates
    rates = torch.tensor(lr[: len(smoothed)], dtype=torch.float32)[10:-1]
    finite = kept.isfinite()
    refuse_unless(int(finite.sum()) >= 2)
    (slope,) = torch.gradient(kept[finite], spacing=[rates[finite]])
    return float(rates[finite][slope.argmin()])


# ---------------------------------------------------------------- torch-lr-finder, ignite


def slow_average(loss: Array) -> Array:
    """Each loss counts 5 %, the first one fully; stopped above 5 times the best."""
    smoothed = loss.copy()
    for rung in range(1, len(loss)):
        smoothed[rung] = 0.05 * loss[rung] + 0.95 * smoothed[rung - 1]
    return stop_when_above(smoothed, 5)


def torch_lr_finder(lr: Array, loss: Array) -> float:
    """Steepest between neighbours, but for the first 10 rungs and the last 5."""
    smoothed = slow_average(loss)[10:-5]
    refuse_unless(len(smoothed) >= 2)
    return lr[10 + int(np.argmin(np.gradient(smoothed)))]


def ignite(lr: Array, loss: Array) -> float:
    """Steepest between neighbours, up to the minimum."""
    smoothed = slow_average(loss)
    falling = smoothed[: int(np.argmin(smoothed)) + 1]  # a NaN counts as the minimum, as there
    refuse_unless(len(falling) >= 3)
    return lr[1 + int(np.argmin(falling[2:] - falling[:-2]))]


# ---------------------------------------------------------------- all of them


DEFAULT = f"luzpy {DEFAULT_METHOD}"
Kept = dict[str, list[float]]


def _luzpy(records: Kept, method: str) -> float:
    return luz.LRRecords(records).suggest(method)


def _with_rise(records: Kept) -> float:
    """Between the default and a twentieth of the rate at which the loss begins to rise."""
    suggestion = _luzpy(records, DEFAULT_METHOD)
    ((lr, loss),) = curves_of(luz.LRRecords(records))
    lr, loss = finite_part(lr, loss)
    rung = onset(loss)
    if rung is None or not has_descent(lr, loss):
        return suggestion
    return math.sqrt(suggestion * lr[rung] / 20)


def _on_curve(records: Kept, rule: Rule) -> float:
    return rule(np.array(records["lr"]), np.array(records["loss"]))


RULES: dict[str, Callable[[Kept], float]] = {
    **{f"luzpy {method}": partial(_luzpy, method=method) for method in METHODS},
    f"{DEFAULT} and the rise": _with_rise,
    **{
        name: partial(_on_curve, rule=rule)
        for name, rule in {
            f"{DEFAULT}, one look": partial(suggest_lr, method=DEFAULT_METHOD),
            "fastai valley": partial(fastai, fastai_valley),
            "fastai slide": partial(fastai, fastai_slide),
            "fastai minimum": partial(fastai, fastai_minimum),
            "fastai steep": partial(fastai, fastai_steep),
            "Lightning": lightning,
            "torch-lr-finder": torch_lr_finder,
            "ignite": ignite,
        }.items()
    },
}
