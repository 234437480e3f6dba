"""`plot`: what each result looks like is said beside it, and drawn with plotnine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot, theme


@singledispatch
def plot(
    x: object,
    *,
    labels: Sequence[str] | None = None,
    beta: float = 0.9,
    suggest: bool = False,
    log_x: bool = True,
) -> ggplot:
    """Draw a fitted model's training history or a learning rate finder's records.

    Port of R luz's `plot()` methods. The options are those of records; a history has none.

    Args:
        x: A `FittedModule`, `LRRecords`, or a list of `LRRecords` to overlay.
        labels: A name for each of a list; by default their numbers.
        beta: How much of the past the average keeps, in [0, 1).
        suggest: Whether to mark the suggestion and the range; not for a list.
        log_x: Whether the axis of learning rates is logarithmic.

    Returns:
        A plotnine plot, to add to.

    Raises:
        TypeError: If `x` is none of these, or has no such option.
        ValueError: If there is nothing to draw, or an option is out of bounds.
    """
    raise TypeError(
        f"`x` must be a FittedModule, LRRecords or a list of LRRecords, got {type(x).__name__}."
    )


def plot_history(metrics: pd.DataFrame) -> ggplot:
    """A panel a metric, a coloured line a set.

    Args:
        metrics: Columns set, metric, epoch, value.

    Raises:
        ValueError: If there are no metrics.
    """
    import plotnine as p9

    if metrics.empty:
        raise ValueError("`x` must have metrics to plot, got none: not one epoch was completed.")
    n_panels = metrics["metric"].nunique()
    columns = min(3, n_panels)
    first, last = (float(epoch) for epoch in metrics["epoch"].agg(["min", "max"]))
    p = p9.ggplot(metrics, p9.aes("epoch", "value", colour="set"))
    if first < last:  # plotnine warns of a line through a single point
        p += p9.geom_line(size=0.9)
    return (
        p
        + p9.geom_point(size=1.8)
        + p9.facet_wrap("metric", scales="free_y", ncol=columns)
        + p9.scale_x_continuous(breaks=whole_breaks((first, last)))  # the axis itself goes beyond
        + p9.scale_colour_manual({"train": "#4269d0", "valid": "#e67e22"})
        + p9.labs(x="Epoch", y="", colour="")
        + luz_theme()
        + p9.theme(
            figure_size=(3.4 * columns + 1, 2.9 * -(-n_panels // columns) + 0.3),
            legend_position="top",
        )
    )


def luz_theme() -> theme:
    """A quiet theme: light grid, no frame, room for the labels."""
    import plotnine as p9

    return p9.theme_minimal(base_size=11) + p9.theme(
        figure_size=(6.4, 4.0),
        panel_grid_minor=p9.element_blank(),
        panel_grid_major=p9.element_line(colour="#dddddd", size=0.5),
        plot_background=p9.element_rect(fill="white", colour="white"),
        strip_text=p9.element_text(weight="bold", size=11),
        axis_title=p9.element_text(size=11),
    )


def whole_breaks(limits: tuple[float, float]) -> list[int]:
    """At most six whole numbers within `limits`, for an axis of epochs."""
    low, high = int(limits[0] + 0.999), int(limits[1])
    step = max(1, -(-(high - low) // 5))
    return list(range(-(-low // step) * step, high + 1, step))
