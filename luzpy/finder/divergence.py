"""When a curve of losses ends before its last rung."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import final

from luzpy.finder.smoothing import ExponentialAverage


@final
class DivergenceMonitor:
    """Watches a curve, a few rungs at a time.

    Args:
        stop_div: How many times the range seen up to the best smoothed loss it may have risen
            above that best; never for None. A loss that is not finite always ends the curve.

    Attributes:
        stop: The rung (from 0) that ended the curve, and why; None so far.
    """

    def __init__(self, stop_div: float | None) -> None:
        self.stop: tuple[int, str] | None = None
        self._stop_div = stop_div
        self._average = ExponentialAverage()
        self._best = self._highest = math.nan
        self._range = 0.0

    def update(self, losses: Iterable[float]) -> None:
        """Take in the next rungs' losses."""
        for loss in losses:
            if self.stop is not None:
                return
            rung = self._average.count
            value = self._average.add(loss)
            if not math.isfinite(loss):
                self.stop = (rung, "not finite")
            elif rung == 0 or value < self._best:
                self._highest = value if rung == 0 else max(self._highest, value)
                self._best, self._range = value, self._highest - value
            else:
                self._highest = max(self._highest, value)
                if self._diverged(value):
                    self.stop = (rung, "diverged")

    def _diverged(self, value: float) -> bool:
        if self._stop_div is None or self._range <= 0:
            return False
        return value > self._best + self._stop_div * self._range
