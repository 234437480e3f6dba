"""Which losses a finder's plot shows: the descent, and not the explosion after it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt
import pandas as pd

# How far above the loss at the start the picture reaches, in descents, and in standard deviations
# of the raw loss; and how far at most for the sake of a raw loss before the minimum.
ABOVE_DESCENT = 0.5
ABOVE_NOISE = 4.0
AT_MOST = 1.5
COLUMNS = ("loss", "smoothed", "low", "high", "valid")


@attrs.frozen
class View:
    """The losses that are shown.

    Attributes:
        low: The lowest loss to show.
        high: The highest.
        cuts: Whether there are losses above it.
    """

    low: float
    high: float
    cuts: bool

    @property
    def height(self) -> float:
        """From the lowest to the highest."""
        return self.high - self.low

    def below(self, curve: pd.DataFrame) -> pd.DataFrame:
        """The part of a curve before its band leaves the view."""
        above = np.flatnonzero(curve["high"].to_numpy(float) > self.high)
        return curve if len(above) == 0 else curve.iloc[: int(above[0])]


def view_of(curves: Sequence[pd.DataFrame], points: Sequence[float] = ()) -> View:
    """What is to be seen of the curves; their columns are among `COLUMNS`.

    The start of a curve is the median of its first tenth: what explodes, at any place, or starts
    with a single high loss, does not decide.

    Args:
        curves: What is drawn.
        points: Losses that are drawn beside the curves, and shown as well.
    """
    lows, highs, everything = list(points), list(points), list(points)
    for curve in curves:
        values = curve[[c for c in COLUMNS if c in curve]].to_numpy(float)
        lows.append(float(np.nanmin(values)))
        highs.append(_highest(curve))
        everything.append(float(np.nanmax(values)))
    cuts = max(everything) > max(highs)
    low, high = min(lows), max(highs) if cuts else max(everything)
    return View(low, high, cuts)


def _highest(curve: pd.DataFrame) -> float:
    smoothed = curve["smoothed"].to_numpy(float)
    start, descent = _start(smoothed), _descent(smoothed)
    highest = start + ABOVE_DESCENT * descent
    if "loss" in curve:
        before = slice(0, int(smoothed.argmin()) + 1)
        raw = curve["loss"].to_numpy(float)[before]
        noise = 1.4826 * float(np.median(np.abs(raw - smoothed[before])))
        highest = max(highest, start + ABOVE_NOISE * noise)
        limit = start + AT_MOST * max(descent, ABOVE_NOISE * noise)
        highest = max([highest, *raw[raw <= limit]])
    if "high" in curve:
        highest = max(highest, _start(curve["high"].to_numpy(float)) + 0.25 * descent)
    if "valid" in curve:
        valid = curve["valid"].to_numpy(float)
        valid = valid[np.isfinite(valid)]
        if len(valid):
            highest = max(highest, _start(valid) + ABOVE_DESCENT * _descent(valid))
    return highest if highest > smoothed.min() else start + max(abs(start), 1.0)


def _start(values: npt.NDArray[np.float64]) -> float:
    return float(np.median(values[: max(1, len(values) // 10)]))


def _descent(values: npt.NDArray[np.float64]) -> float:
    return max(_start(values) - float(values.min()), 0.0)
