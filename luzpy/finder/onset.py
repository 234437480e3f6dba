"""Where the loss begins to rise for good: from there on the learning rate is too high."""

from __future__ import annotations

import numpy as np

from luzpy.finder.noise import Array, raw_noise

# How far above the first losses a running median must be, in standard deviations of the raw loss.
ABOVE_SIGMA = 3.0
# Fewer rungs than this at the end are a rise only if each is farther above than noise ever is.
MIN_RUNGS_ABOVE = 3
EXPLODED_SIGMA = 10.0
# A rise says something by itself if it has so many rungs, and so many of them are above the first
# losses. Of pure noise, 1 % of the curves have one, if it grows with the learning rate.
LASTING_RUNGS = 5
LASTING_SHARE = 0.9


def onset(loss: Array) -> int | None:
    """The rung from which on the loss stays above that of the first rungs; None if it does not.

    A running median of five rungs is compared with the median of the first tenth of the rungs.
    """
    start, noise = _start(loss), raw_noise(loss, at_least=len(loss) // 5)
    above = _running_median(loss) > start + ABOVE_SIGMA * noise
    rung = _last_stretch(above)
    if len(loss) - rung < MIN_RUNGS_ABOVE:
        rung = _last_stretch(loss > start + EXPLODED_SIGMA * noise)
    return rung if rung < len(loss) else None


def is_lasting(loss: Array, rung: int) -> bool:
    """Whether a rise that begins at `rung` is more than noise, whatever was before it."""
    after = loss[rung:]
    return len(after) >= LASTING_RUNGS and float(np.mean(after > _start(loss))) >= LASTING_SHARE


def _start(loss: Array) -> float:
    return float(np.median(loss[: max(5, len(loss) // 10)]))


def _running_median(loss: Array) -> Array:
    """The median of five rungs, and of three or four at the ends."""
    padded = np.pad(loss, 2, constant_values=np.nan)
    return np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)


def _last_stretch(above: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """The first rung of those at the end at which it holds throughout."""
    below = np.flatnonzero(~above)
    return int(below[-1]) + 1 if len(below) else 0
