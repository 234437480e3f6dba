"""The verdict of short training runs: which rates are equally good, and which to use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

import attrs
import numpy as np

from luzpy.finder.noise import Array

# Rates are a third of a decade apart: each 2.2 times the one before it.
PER_DECADE = 3
# A rate that loses less than this share of what the best one gains is as good as the best.
TOLERANCE = 0.05
# So is one whose loss is higher by fewer standard errors of the difference.
ERRORS = 2.0


@attrs.frozen(eq=False)
class Trial:
    """One short training.

    Attributes:
        lr: Its learning rate.
        steps: How many steps it had.
        seed: The seed of its initial weights.
        losses: The loss of each held-out batch after it, of shape (batches,).
        rows: How many rows each of these has.
    """

    lr: float
    steps: int
    seed: int
    losses: Array
    rows: Array

    @property
    def loss(self) -> float:
        """The mean over the held-out rows; infinite if the training diverged."""
        if not np.isfinite(self.losses).all():
            return math.inf
        return float(self.losses @ self.rows / self.rows.sum())


@attrs.frozen
class Verdict:
    """The result of the trials.

    Attributes:
        lr: The rate to take; NaN where the trials say none, and the curve's suggestion stands.
        low: The lowest rate that is as good.
        high: The highest.
        doubt: A reason to look again, if there is one.
    """

    lr: float
    low: float
    high: float
    doubt: str | None


def is_confirmed(verdict: Verdict | None) -> TypeGuard[Verdict]:
    """Whether the short training runs settle on a rate."""
    return verdict is not None and not math.isnan(verdict.lr)


def rates_around(lr: float, rounds: int) -> list[float]:
    """Two to the power of `rounds` rates, evenly spaced on a log scale, `lr` among them.

    There are more above it than below it: a curve shows where the loss falls after a single step
    at a rate, and a training makes more of them.
    """
    n = 2**rounds
    first = -(n // 2 - 1)
    return [lr if k == 0 else lr * 10 ** (k / PER_DECADE) for k in range(first, first + n)]


def survivors(trials: Sequence[Trial], plain: float | None) -> list[float]:
    """The better half of a round's rates, and the curve's suggestion in any case."""
    rates = sorted({trial.lr for trial in trials}, key=lambda lr: mean_loss(trials, lr))
    kept = rates[: max(1, len(rates) // 2)]
    return sorted({*kept, *([] if plain is None else [plain])})


def mean_loss(trials: Sequence[Trial], lr: float) -> float:
    """The mean over the trials at a rate."""
    return float(np.mean([trial.loss for trial in trials if trial.lr == lr]))


def judge(rounds: Sequence[Sequence[Trial]], initial: float, plain: float | None) -> Verdict:
    """Decide on a rate after the last round.

    It is the curve's suggestion where that is as good as the best rate, else of those that are the
    one nearest to it: short trainings and few rows speak for rates that are too high.

    Args:
        rounds: The trials of each round.
        initial: The loss of the held-out rows at the initial weights.
        plain: The suggestion of the curve, if there is one.
    """
    last = rounds[-1]
    finalists = sorted({trial.lr for trial in last})
    best = min(finalists, key=lambda lr: mean_loss(last, lr))
    gain = initial - mean_loss(last, best)
    noise = max((standard_error(last, lr, best) for lr in finalists if lr != best), default=0.0)
    if not gain > ERRORS * noise:
        doubt = "No short training run gains more than its noise: raise confirm_steps"
        return Verdict(math.nan, math.nan, math.nan, doubt)
    good: set[float] = set()
    for trials in rounds:
        top = min({trial.lr for trial in trials}, key=lambda lr: mean_loss(trials, lr))
        least = initial - mean_loss(trials, top)
        for lr in {trial.lr for trial in trials}:
            good.discard(lr)
            if as_good(trials, lr, top, least):
                good.add(lr)
    among = [lr for lr in finalists if lr in good]
    centre = best if plain is None else plain
    taken = min(among, key=lambda lr: abs(math.log(lr / centre)))
    tested = sorted({trial.lr for trial in rounds[0]})
    low, high = _interval(tested, good, taken)
    doubt = None
    if plain is not None and taken == plain != best:
        behind = mean_loss(last, plain) - mean_loss(last, best)
        if behind > TOLERANCE * gain:
            doubt = (
                "The short training runs differ by less than their noise, and the curve's "
                "suggestion stands: raise confirm_steps, or give more valid_data"
            )
    return Verdict(taken, low, high, doubt)


def as_good(trials: Sequence[Trial], lr: float, best: float, gain: float) -> bool:
    """Whether a rate's trials are as good as those of the best rate of their round."""
    behind = mean_loss(trials, lr) - mean_loss(trials, best)
    if not math.isfinite(behind):
        return False
    return behind <= max(TOLERANCE * gain, ERRORS * standard_error(trials, lr, best))


def standard_error(trials: Sequence[Trial], lr: float, other: float) -> float:
    """The standard error of the difference in loss between two rates, over batches and seeds."""
    means: list[float] = []
    variances: list[float] = []
    others = {trial.seed: trial for trial in trials if trial.lr == other}
    for trial in trials:
        if trial.lr != lr or trial.seed not in others:
            continue
        differences = trial.losses - others[trial.seed].losses
        if lr == other or not np.isfinite(differences).all():
            continue
        share = trial.rows / trial.rows.sum()
        means.append(float(differences @ share))
        if len(differences) > 1:
            spread = share**2 @ (differences - means[-1]) ** 2
            variances.append(float(spread * len(share) / (len(share) - 1)))
    if not means:
        return 0.0
    by_rows = math.sqrt(sum(variances)) / len(means)
    by_seeds = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    return max(by_rows, by_seeds)


def _interval(tested: list[float], good: set[float], taken: float) -> tuple[float, float]:
    """The contiguous range of equally good rates around the chosen one."""
    low = high = tested.index(taken)
    while low > 0 and tested[low - 1] in good:
        low -= 1
    while high + 1 < len(tested) and tested[high + 1] in good:
        high += 1
    return tested[low], tested[high]
