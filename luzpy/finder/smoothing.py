"""The bias-corrected exponential average that finders smooth their losses with."""

from __future__ import annotations

from collections.abc import Iterable


class ExponentialAverage:
    """The exponential average of the values added so far, corrected for its start at zero.

    After v_1..v_n it is (1-β) Σ β^(n-j) v_j / (1-β^n): Kingma and Ba (2015), Algorithm 1, as R
    luz's plot uses it.

    Args:
        beta: How much of the past is kept, in [0, 1).

    Attributes:
        count: How many values were added.
    """

    def __init__(self, beta: float = 0.9) -> None:
        self.count = 0
        self._beta = beta
        self._average = 0.0

    def add(self, value: float) -> float:
        """The average with one more value."""
        self.count += 1
        self._average = self._beta * self._average + (1 - self._beta) * value
        return self._average / (1 - self._beta**self.count)


def exponential_average(values: Iterable[float], beta: float = 0.9) -> list[float]:
    """The running `ExponentialAverage` of `values`."""
    average = ExponentialAverage(beta)
    return [average.add(value) for value in values]
