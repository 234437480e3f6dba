"""A finder's records, summed up in one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luzpy.finder.curves import Curves, spread, suggested_rates
from luzpy.finder.noise import Array, centred_average, is_unclear, needs_close_look
from luzpy.finder.suggest import MIN_RUNGS, below_the_rise, finite_part, has_descent
from luzpy.finder.verdict import Verdict, is_confirmed
from luzpy.ground.errors import NoSuggestionError

# Below this share of the descent a change of the smoothed loss counts as none.
LEVEL = 0.1
# A loss that falls by this share of the descent from the first tenth of the rungs to the second
# was falling before.
STEEP = 0.25
# With fewer rungs than this a curve is mostly noise.
FEW_RUNGS = 30
# Rates within this factor of one another are of one order of magnitude, which is what matters most.
WIDE = 10


def summary(curves: Curves, stopped: str, verdict: Verdict | None = None) -> str:
    """How the sweep ended, the suggestion, its range over runs, and doubts, in one line."""
    parts = [stopped[:1].upper() + stopped[1:]]
    doubted = "".join(f" {doubt}." for doubt in doubts(curves, verdict))
    if is_confirmed(verdict):
        parts.append(f"suggestion {verdict.lr:.2g}, confirmed")
        if verdict.high > verdict.low:
            parts.append(f"{verdict.low:.2g} to {verdict.high:.2g} as good")
        return "; ".join(parts) + "." + doubted
    try:
        parts.append(f"suggestion {np.median(suggested_rates(curves)):.2g}")
    except NoSuggestionError as err:
        return f"{parts[0]}; no suggestion: {err}"
    low, high = spread(curves)
    if high > low:
        parts.append(f"{low:.2g} to {high:.2g} by 10 to 90 % of the runs")
    return "; ".join(parts) + "." + doubted


def is_spread(curves: Curves) -> bool:
    """Whether the suggestions of most runs differ by more than an order of magnitude."""
    try:
        low, high = np.quantile(np.log(suggested_rates(curves)), [0.1, 0.9])
    except NoSuggestionError:
        return False
    return bool(high - low > np.log(WIDE))


def doubts(curves: Curves, verdict: Verdict | None = None) -> list[str]:
    """Reasons to look at the curves again, each with what to do about it."""
    found: list[str] = []
    if verdict is not None and verdict.doubt is not None:
        found.append(verdict.doubt)
    if is_confirmed(verdict):
        return found
    shapes = [_shape(*finite_part(lr, loss)) for lr, loss in curves if len(lr) >= 5]
    if shapes and sum(rose for rose, _ in shapes) <= len(shapes) / 2:
        found.append("The loss never rose: raise end_lr")
    if shapes and sum(flat for _, flat in shapes) <= len(shapes) / 2:
        found.append("The loss falls from the first rung on: lower start_lr")
    hidden = [_is_hidden(lr, loss) for lr, loss in curves]
    unclear = [is_unclear(finite_part(lr, loss)[1]) for lr, loss in curves if len(lr) >= 5]
    if sum(hidden) > len(hidden) / 2:
        found.append(
            "Noise hides the descent, and the suggestion is taken from where the loss begins to "
            "rise: raise steps or runs, or take larger batches"
        )
    elif sum(unclear) > len(unclear) / 2:
        found.append(
            "The loss falls by little more than its noise: raise steps or runs, or take larger "
            "batches"
        )
    if curves and max(len(lr) for lr, _ in curves) < FEW_RUNGS:
        found.append(f"Fewer than {FEW_RUNGS} rungs: raise steps")
    if is_spread(curves):
        found.append(
            f"The suggestion differs by more than a factor of {WIDE} between initial weights: "
            "raise runs"
        )
    return found


def _is_hidden(lr: Array, loss: Array) -> bool:
    """Whether a curve supports a suggestion although it does not fall by more than its noise."""
    lr, loss = finite_part(lr, loss)
    if len(lr) < MIN_RUNGS or has_descent(lr, loss):
        return False
    return below_the_rise(lr, loss) is not None


def _shape(lr: Array, loss: Array) -> tuple[bool, bool]:
    """Whether a curve rises after its minimum, or ends; and whether it is flat at its start."""
    if len(loss) < 5:
        return True, True
    smoothed = centred_average(loss)
    lowest = int(np.argmin(smoothed))
    drop = smoothed[: lowest + 1].max() - smoothed[lowest]
    rose = bool(smoothed[lowest:].max() - smoothed[lowest] > LEVEL * drop)
    tenth = max(2, len(loss) // 10)
    flat = bool(loss[:tenth].mean() - loss[tenth : 2 * tenth].mean() < STEEP * drop)
    return rose, flat


def needs_pairs(losses: Sequence[Sequence[float]]) -> bool:
    """Whether most of the runs' losses need a closer look, and have the rungs for it."""
    curves = [np.array(one) for one in losses]
    if max(map(len, curves)) < FEW_RUNGS:
        return False
    noisy = [needs_close_look(finite_part(one, one)[1]) for one in curves]
    return sum(noisy) > len(noisy) / 2
