"""Rules that read a learning rate off a finder's curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from luzpy.errors import NoSuggestionError
from luzpy.finder.smoothing import exponential_average

Array = np.ndarray[Any, np.dtype[np.float64]]

MIN_RUNGS = 5
BETA = 0.9


def finite_part(lr: Array, loss: Array) -> tuple[Array, Array]:
    """The curve up to its first loss that is not finite."""
    bad = np.flatnonzero(~np.isfinite(loss))
    end = len(loss) if len(bad) == 0 else int(bad[0])
    return lr[:end], loss[:end]


def suggest_lr(lr: Array, loss: Array, method: str) -> float:
    """The learning rate that `method` reads off one curve.

    Args:
        lr: Learning rates, rising, of shape (n,).
        loss: The raw loss at each, of shape (n,).
        method: One of `METHODS`.

    Returns:
        The learning rate.

    Raises:
        NoSuggestionError: If the curve supports none; it says why.
    """
    tested = lr
    lr, loss = finite_part(lr, loss)
    if len(lr) < MIN_RUNGS:
        if len(tested) > len(lr):
            raise NoSuggestionError(
                f"The loss was not finite after {len(lr)} rungs: it diverges at once. Start at a "
                "smaller `start_lr`."
            )
        raise NoSuggestionError(
            f"A suggestion needs at least {MIN_RUNGS} rungs, got {len(lr)}: raise `steps`."
        )
    smoothed = np.array(exponential_average(loss, BETA))
    _check_descent(lr, loss, smoothed)
    suggestion = float(METHODS[method](lr, smoothed))
    if suggestion < tested[0]:
        raise NoSuggestionError(
            f"The suggestion, {suggestion:.2g}, would lie below the tested range, which begins at "
            f"{tested[0]:.2g}: lower `start_lr`."
        )
    return suggestion


def _check_descent(lr: Array, loss: Array, smoothed: Array) -> None:
    """Raise unless the smoothed loss falls by more than its noise, after the first rungs."""
    lowest = int(np.argmin(smoothed))
    drop = float(np.max(smoothed[: lowest + 1]) - smoothed[lowest])
    if lowest == 0:
        raise NoSuggestionError(
            "The loss rises from the first rung on: it never falls. Start at a smaller `start_lr`."
        )
    if lowest < 3:
        raise NoSuggestionError(
            f"The loss has its minimum in the first rungs, at {lr[lowest]:.2g}, and diverges at "
            "once after it: lower `start_lr`."
        )
    # The noise of the raw loss before it diverges, from its second differences (a trend drops out),
    # by their median absolute value; the average's own is sqrt((1-β)/(1+β)) of it. Three of these
    # are no accident.
    noise = float(np.median(np.abs(np.diff(loss[: lowest + 1], 2)))) / (0.6745 * np.sqrt(6.0))
    threshold = 3 * noise * np.sqrt((1 - BETA) / (1 + BETA))
    scale = float(np.max(np.abs(smoothed[: lowest + 1])))
    if drop <= max(threshold, 1e-6 * scale):
        raise NoSuggestionError(
            "The loss never falls by more than its noise: raise `end_lr`, or take larger batches."
        )


def minimum(lr: Array, smoothed: Array) -> float:
    """A tenth of the rate at the lowest smoothed loss (Gugger, 2018)."""
    return lr[int(np.argmin(smoothed))] / 10


def local_slopes(lr: Array, smoothed: Array) -> Array:
    """The slope against log lr at each rung up to the minimum.

    Each is that of the least-squares line through the rungs around it, a twentieth of the curve
    to either side: between neighbours the slope is mostly noise.
    """
    end = int(np.argmin(smoothed)) + 1
    half = max(2, len(smoothed) // 20)
    x = np.log(lr)
    slopes = np.empty(end)
    for i in range(end):
        around = slice(max(0, i - half), min(i + half + 1, end))
        dx = x[around] - x[around].mean()
        slopes[i] = dx @ smoothed[around] / (dx @ dx) if dx @ dx > 0 else 0.0
    return slopes


def steepest(lr: Array, smoothed: Array) -> float:
    """The rate where the smoothed loss falls fastest against log lr, before its minimum."""
    return lr[int(np.argmin(local_slopes(lr, smoothed)))]


def valley(lr: Array, smoothed: Array) -> float:
    """Two thirds along the longest descent: a longest decreasing subsequence, as fastai's rule."""
    n = len(smoothed)
    length = np.ones(n, dtype=int)
    previous = np.full(n, -1)
    for i in range(1, n):
        lower = np.flatnonzero(smoothed[:i] > smoothed[i])
        if len(lower):
            best = lower[int(np.argmax(length[lower]))]
            length[i], previous[i] = length[best] + 1, best
    end = int(np.argmax(length))
    start = end
    while previous[start] >= 0:
        start = int(previous[start])
    return lr[start + (end - start) * 2 // 3]


def slide(lr: Array, smoothed: Array) -> float:
    """The last rate of the steep descent: where the slope is still half its steepest."""
    slope = local_slopes(lr, smoothed)
    first = int(np.argmin(slope))
    shallow = np.flatnonzero(slope[first:] > 0.5 * slope[first])
    return lr[first + (int(shallow[0]) - 1 if len(shallow) else len(slope) - 1 - first)]


METHODS: dict[str, Callable[[Array, Array], float]] = {
    "valley": valley,
    "minimum": minimum,
    "steepest": steepest,
    "slide": slide,
}
DEFAULT_METHOD = "valley"
