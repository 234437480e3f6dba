"""Rules that read a learning rate off a finder's curve."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luzpy.finder.noise import (
    MIN_DROP_SIGMA,
    MIN_TREND_SIGMA,
    Array,
    average_noise,
    centred_average,
    downward_trend,
    half_window,
)
from luzpy.finder.onset import is_lasting, onset
from luzpy.finder.smoothing import exponential_average
from luzpy.ground.errors import NoSuggestionError

MIN_RUNGS = 5
BETA = 0.9
# Four fifths of the descent, and a factor of 2.5 before them; where no descent is seen, a thirtieth
# of the rate at which the loss begins to rise: from the tuning half of `benchmarks/suggestion`,
# where 0.8 to 0.95 and factors of 2 to 3 do about as well.
DESCENDED = 0.8
MARGIN = 2.5
ONSET_MARGIN = 30


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
                f"The loss was not finite after {len(lr)} rungs: it diverges immediately. "
                "Start at a smaller `start_lr`."
            )
        raise NoSuggestionError(
            f"A suggestion needs at least {MIN_RUNGS} rungs, got {len(lr)}: raise `steps`."
        )
    try:
        _check_descent(lr, loss)
    except NoSuggestionError:
        if method == DEFAULT_METHOD and (safe := below_the_rise(lr, loss)) is not None:
            return safe
        raise
    suggestion = float(METHODS[method](lr, loss))
    if suggestion < tested[0]:
        raise NoSuggestionError(
            f"The suggestion, {suggestion:.2g}, would lie below the tested range, which begins at "
            f"{tested[0]:.2g}: lower `start_lr`."
        )
    return suggestion


def _check_descent(lr: Array, loss: Array) -> None:
    """Raise unless the smoothed loss falls by more than its noise, after the first rungs."""
    smoothed = centred_average(loss)
    lowest = int(np.argmin(smoothed))
    drop = float(np.max(smoothed[: lowest + 1]) - smoothed[lowest])
    if float(np.ptp(smoothed)) <= 1e-6 * float(np.max(np.abs(smoothed))):
        raise NoSuggestionError(
            "The loss never falls: it is the same at every rate. Raise `end_lr`."
        )
    if lowest < 3:
        first = int(np.argmin(loss))
        if first == 0:
            raise NoSuggestionError(
                "The loss rises from the first rung on: it never falls. Start at a smaller "
                "`start_lr`."
            )
        raise NoSuggestionError(
            f"The loss has its minimum in the first rungs, at {lr[first]:.2g}, and diverges "
            "right after it: lower `start_lr`."
        )
    scale = float(np.max(np.abs(smoothed[: lowest + 1])))
    far = drop > max(MIN_DROP_SIGMA * average_noise(loss), 1e-6 * scale)
    steady = drop > 1e-6 * scale and downward_trend(loss) > MIN_TREND_SIGMA
    if not (far or steady):
        rung = onset(loss)
        if rung is None:
            raise NoSuggestionError(
                "The loss never falls by more than its noise: raise `end_lr`, or take larger "
                "batches."
            )
        raise NoSuggestionError(
            f"The loss never falls by more than its noise before it rises, at {lr[rung]:.2g}: "
            "lower `start_lr`, or take larger batches."
        )


def has_descent(lr: Array, loss: Array) -> bool:
    """Whether a curve without infinite losses falls by more than its noise."""
    try:
        _check_descent(lr, loss)
    except NoSuggestionError:
        return False
    return True


def below_the_rise(lr: Array, loss: Array) -> float | None:
    """A rate well below that at which the loss begins to rise; None if it never clearly does.

    For a curve of which noise hides the descent.
    """
    rung = onset(loss)
    if rung is None or not is_lasting(loss, rung):
        return None
    suggestion = float(lr[rung]) / ONSET_MARGIN
    return suggestion if suggestion >= lr[0] else None


def running_average(loss: Array) -> Array:
    """The average that plots show; it lags behind the loss by about nine rungs."""
    return np.array(exponential_average(loss, BETA))


def descent(lr: Array, loss: Array) -> float:
    """The rate at which the loss has made four fifths of its drop, divided by 2.5.

    Where a curve is steepest, or lowest, noise decides among many rungs; which level it has come
    down to is a matter of a few.
    """
    smoothed = centred_average(loss)
    lowest = int(np.argmin(smoothed))
    before = smoothed[: lowest + 1]
    level = before.max() - DESCENDED * (before.max() - smoothed[lowest])
    return float(lr[int(np.argmax(before <= level))]) / MARGIN


def minimum(lr: Array, loss: Array) -> float:
    """A tenth of the rate at the lowest smoothed loss (Gugger, 2018)."""
    return lr[int(np.argmin(running_average(loss)))] / 10


def local_slopes(lr: Array, loss: Array) -> Array:
    """The slope against log lr at each rung up to the minimum.

    Each is that of the least-squares line through the rungs around it: between neighbours the
    slope is mostly noise. At the ends the window does not shrink: a slope through fewer rungs
    would be a noisier one, and win.
    """
    smoothed = centred_average(loss)
    end = int(np.argmin(smoothed)) + 1
    half = half_window(loss)
    x = np.log(lr)
    slopes = np.empty(end)
    for i in range(end):
        first = max(0, min(i - half, end - 2 * half - 1))
        around = slice(first, min(first + 2 * half + 1, end))
        dx = x[around] - x[around].mean()
        slopes[i] = dx @ smoothed[around] / (dx @ dx) if dx @ dx > 0 else 0.0
    return slopes


def steepest(lr: Array, loss: Array) -> float:
    """The rate where the smoothed loss falls fastest against log lr, before its minimum."""
    return lr[int(np.argmin(local_slopes(lr, loss)))]


def valley(lr: Array, loss: Array) -> float:
    """Two thirds along the longest descent: a longest decreasing subsequence, as fastai's rule."""
    smoothed = running_average(loss)
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


def slide(lr: Array, loss: Array) -> float:
    """The last rate of the steep descent: where the slope is still half its steepest."""
    slope = local_slopes(lr, loss)
    first = int(np.argmin(slope))
    shallow = np.flatnonzero(slope[first:] > 0.5 * slope[first])
    return lr[first + (int(shallow[0]) - 1 if len(shallow) else len(slope) - 1 - first)]


METHODS: dict[str, Callable[[Array, Array], float]] = {
    "descent": descent,
    "valley": valley,
    "minimum": minimum,
    "steepest": steepest,
    "slide": slide,
}
DEFAULT_METHOD = "descent"
