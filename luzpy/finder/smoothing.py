"""The bias-corrected exponential average that finders smooth their losses with."""

from __future__ import annotations

from collections.abc import Iterable


def exponential_average(values: Iterable[float], beta: float = 0.9) -> list[float]:
    """The exponential average of `values`, corrected for its start at zero.

    Element i is (1-β) Σ β^(i-j) v_j / (1-β^(i+1)): Kingma and Ba (2015), Algorithm 1, as R luz's
    plot uses it.
    """
    average = 0.0
    smoothed: list[float] = []
    for count, value in enumerate(values, start=1):
        average = beta * average + (1 - beta) * value
        smoothed.append(average / (1 - beta**count))
    return smoothed
