"""How noisy a curve is, and whether it falls by more than that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Of pure noise the average's highest and lowest point are seldom farther apart than this many of
# its standard deviations, and a trend is seldom stronger than this many of its own. Of 1,000 curves
# of 100 rungs 0.1 % go beyond one of them where the noise is even, 3 % where it grows a million
# times from the first rung to the last.
MIN_DROP_SIGMA = 8.0
MIN_TREND_SIGMA = 3.1
# What goes beyond them by less than this factor is given with a doubt.
CLEAR = 4 / 3
# A descent of fewer standard deviations of the raw loss is looked at more closely.
CLOSE_LOOK_SIGMA = 5.0


def centred_average(loss: Array) -> Array:
    """The average over a twentieth of the curve to either side, weighing less what is farther.

    It does not lag. What rises above the first losses by more than the curve falls below them is
    cut: an explosion must not leak into the rungs before it.
    """
    weights = window_weights(half_window(loss))
    sums = np.convolve(_capped(loss), weights, mode="same")
    return sums / np.convolve(np.ones(len(loss)), weights, mode="same")


def _capped(loss: Array) -> Array:
    first = float(np.median(loss[: 2 * half_window(loss) + 1]))
    return np.minimum(loss, first + (first - loss.min()))


def window_weights(half: int) -> Array:
    """How much the rungs around one weigh: a triangle."""
    return 1 - np.abs(np.arange(-half, half + 1)) / (half + 1)


def half_window(loss: Array) -> int:
    """How many rungs to either side are looked at together."""
    return max(2, len(loss) // 20)


def average_noise(loss: Array) -> float:
    """The standard deviation of the centred average at its lowest point.

    From that of the raw loss, either up to the minimum or around it, whichever is more: the noise
    may grow with the learning rate.
    """
    weights = window_weights(half_window(loss))
    share = float(np.sqrt((weights**2).sum()) / weights.sum())
    lowest, half = int(np.argmin(centred_average(loss))), half_window(loss)
    around = _capped(loss)[max(0, lowest - 2 * half) : lowest + half + 1]
    here = float(np.sqrt(np.mean(np.diff(around, 2) ** 2) / 6))
    return share * max(raw_noise(loss), here)


def raw_noise(loss: Array, at_least: int = 0) -> float:
    """The standard deviation of the raw loss up to its minimum, and over `at_least` so many rungs.

    By the median absolute value of its second differences, from which a trend drops out.
    """
    end = max(int(np.argmin(centred_average(loss))) + 1, at_least)
    bends = np.abs(np.diff(loss[:end], 2))
    return float(np.median(bends)) / (0.6745 * np.sqrt(6.0)) if len(bends) else 0.0


def downward_trend(loss: Array) -> float:
    """Spearman's rank correlation of loss and rung up to the minimum, negated.

    In its standard deviations without a trend.
    """
    falling = loss[: int(np.argmin(centred_average(loss))) + 1]
    if len(falling) < 3:
        return 0.0
    ranks = np.argsort(np.argsort(falling))
    correlation = np.corrcoef(ranks, np.arange(len(falling)))[0, 1]
    return -float(correlation * np.sqrt(len(falling) - 1))


def is_unclear(loss: Array) -> bool:
    """Whether a curve that is judged falls by little more than its noise."""
    smoothed = centred_average(loss)
    lowest = int(np.argmin(smoothed))
    drop = float(np.max(smoothed[: lowest + 1]) - smoothed[lowest])
    return (
        drop < CLEAR * MIN_DROP_SIGMA * average_noise(loss)
        and downward_trend(loss) < CLEAR * MIN_TREND_SIGMA
    )


def needs_close_look(loss: Array) -> bool:
    """Whether a curve's descent is not much larger than its noise, if there is one at all.

    Every curve that would be refused for its noise, or given with that doubt, is one of them.
    """
    if len(loss) < 5:
        return False
    smoothed = centred_average(loss)
    lowest = int(np.argmin(smoothed))
    drop = float(np.max(smoothed[: lowest + 1]) - smoothed[lowest])
    return lowest < 3 or drop < CLOSE_LOOK_SIGMA * raw_noise(loss) or is_unclear(loss)
