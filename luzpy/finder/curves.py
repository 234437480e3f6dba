"""The curves of several runs, what each suggests, and the range of rates that each gives."""

from __future__ import annotations

import math

import numpy as np

from luzpy.finder.noise import Array
from luzpy.finder.suggest import DEFAULT_METHOD, finite_part, minimum, steepest, suggest_lr
from luzpy.ground.errors import NoSuggestionError

Curves = list[tuple[Array, Array]]
"""The learning rates and the raw losses of each run."""


def paired(loss: Array, initial: Array) -> Array:
    """The loss minus that of the same batch at the initial weights, plus the mean of the latter."""
    known = np.isfinite(initial)
    return loss if not known.any() else loss - np.where(known, initial, 0) + initial[known].mean()


def suggested_rates(curves: Curves, method: str = DEFAULT_METHOD) -> list[float]:
    """What each run suggests, as long as at least half of them suggest anything.

    Raises:
        NoSuggestionError: If they do not; it says why.
    """
    found: list[float] = []
    refusals: list[str] = []  # of the errors the texts: their tracebacks hold what called us
    for lr, loss in curves:
        try:
            found.append(suggest_lr(lr, loss, method))
        except NoSuggestionError as err:
            refusals.append(str(err))
    if not curves or len(refusals) > len(found):
        raise NoSuggestionError(refusals[0] if refusals else "There are no rungs to judge.")
    return found


def spread(curves: Curves, method: str = DEFAULT_METHOD) -> tuple[float, float]:
    """The 10% and the 90% quantile of what the runs suggest.

    Raises:
        NoSuggestionError: If fewer than half of them suggest anything.
    """
    low, high = np.quantile(suggested_rates(curves, method), [0.1, 0.9])
    return float(low), float(high)


def median_range(curves: Curves) -> tuple[float, float]:
    """From the steepest point to a tenth of the rate at the minimum; NaN where there is neither.

    The range of the Dataiku study (https://blog.dataiku.com/the-learning-rate-finder-technique-how-reliable-is-it),
    its ends in order; over several runs the medians of both.
    """
    ranges: list[list[float]] = []
    for lr, loss in curves:
        try:
            suggest_lr(lr, loss, "steepest")
        except NoSuggestionError:
            continue
        lr, loss = finite_part(lr, loss)
        ranges.append(sorted((float(steepest(lr, loss)), float(minimum(lr, loss)))))
    if not ranges:
        return math.nan, math.nan
    low, high = np.median(np.array(ranges), axis=0)
    return float(low), float(high)
