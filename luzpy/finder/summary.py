"""What a finder's records come to, in a line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from luzpy.finder.curves import Curves, median_range, suggested_ranges
from luzpy.finder.suggest import Array, centred_average, finite_part
from luzpy.ground.errors import NoSuggestionError

# Below this share of the descent a change of the smoothed loss counts as none.
LEVEL = 0.1
# A loss that falls by this share of the descent from the first tenth of the rungs to the second
# was falling before.
STEEP = 0.25
# With fewer rungs than this a curve is mostly noise.
FEW_RUNGS = 30


def summary(curves: Curves, stopped: str, suggest: Callable[[], float]) -> str:
    """How the sweep ended, the suggestion, the range, and what to doubt.

    Args:
        curves: The learning rates and losses of each run.
        stopped: How the sweep ended.
        suggest: Gives the suggestion, or raises `NoSuggestionError`.

    Returns:
        One line.
    """
    parts = [stopped[:1].upper() + stopped[1:]]
    try:
        parts.append(f"suggestion {suggest():.2g}")
    except NoSuggestionError as err:
        parts.append(f"no suggestion: {err}"[:-1])
        return "; ".join(parts) + "."
    low, high = median_range(curves)
    if high > low:
        parts.append(f"range {low:.2g} to {high:.2g}")
    return "; ".join(parts) + "." + "".join(f" {warning}." for warning in warnings_of(curves))


def warnings_of(curves: Curves) -> list[str]:
    """Reasons to look at the curves again, each with what to do about it."""
    found: list[str] = []
    shapes = [_shape(*finite_part(lr, loss)) for lr, loss in curves if len(lr) >= 5]
    if shapes and sum(rose for rose, _ in shapes) <= len(shapes) / 2:
        found.append("The loss never rose: raise end_lr")
    if shapes and sum(flat for _, flat in shapes) <= len(shapes) / 2:
        found.append("The loss falls from the first rung on: lower start_lr")
    if curves and max(len(lr) for lr, _ in curves) < FEW_RUNGS:
        found.append(f"Fewer than {FEW_RUNGS} rungs: raise steps")
    if ranges_disagree(curves):
        found.append("Some initial weights give ranges without a rate in common: raise runs")
    return found


def ranges_disagree(curves: Curves) -> bool:
    """Whether two runs give ranges that have no rate in common."""
    ranges = suggested_ranges(curves)
    return bool(ranges) and max(low for low, _ in ranges) > min(high for _, high in ranges)


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
