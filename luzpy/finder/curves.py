"""The curves of several runs, and the range of rates that each gives."""

from __future__ import annotations

import numpy as np

from luzpy.finder.suggest import Array, finite_part, minimum, steepest, suggest_lr
from luzpy.ground.errors import NoSuggestionError

Curves = list[tuple[Array, Array]]
"""The learning rates and the raw losses of each run."""


def suggested_rates(curves: Curves, method: str) -> list[float]:
    """What each run suggests, as long as at least half of them suggest anything.

    Raises:
        NoSuggestionError: If they do not; it says why.
    """
    found: list[float] = []
    refusals: list[NoSuggestionError] = []
    for lr, loss in curves:
        try:
            found.append(suggest_lr(lr, loss, method))
        except NoSuggestionError as err:
            refusals.append(err)
    if not found and not refusals:
        raise NoSuggestionError("There are no rungs to judge.")
    if len(refusals) > len(found):
        raise refusals[0]
    return found


def suggested_ranges(curves: Curves) -> list[tuple[float, float]]:
    """From the steepest point to a tenth of the rate at the minimum, for each run that has both.

    The range of the Dataiku study (https://blog.dataiku.com/the-learning-rate-finder-technique-how-reliable-is-it),
    its ends in order.
    """
    ranges: list[tuple[float, float]] = []
    for lr, loss in curves:
        try:
            suggest_lr(lr, loss, "steepest")
        except NoSuggestionError:
            continue
        lr, loss = finite_part(lr, loss)
        low, high = sorted((float(steepest(lr, loss)), float(minimum(lr, loss))))
        ranges.append((low, high))
    return ranges


def median_range(curves: Curves) -> tuple[float, float]:
    """The medians of the runs' ranges; NaN where no run has any."""
    ranges = suggested_ranges(curves)
    if not ranges:
        return float("nan"), float("nan")
    low, high = np.median(np.array(ranges), axis=0)
    return float(low), float(high)
