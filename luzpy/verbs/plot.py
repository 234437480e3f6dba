"""`plot`: what each result looks like is said beside it, and drawn with plotnine."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot


@singledispatch
def plot(x: Any, **options: Any) -> ggplot:
    """Draw a fitted model's training history or a learning rate finder's records.

    Port of R luz's `plot()` methods.

    Args:
        x: A `FittedModule`, `LRRecords`, or a list of `LRRecords` to overlay.
        **options: For records those of `LRRecords.plot`; for a list also `labels`, one for each.

    Returns:
        A plotnine plot, to add to.

    Raises:
        TypeError: If `x` is none of these.
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
    from plotnine import (
        aes,
        facet_wrap,
        geom_line,
        geom_point,
        ggplot,
        labs,
        scale_colour_manual,
        scale_x_continuous,
        theme,
    )

    if metrics.empty:
        raise ValueError("`x` must have metrics to plot, got none: not one epoch was completed.")
    n_panels = metrics["metric"].nunique()
    columns = min(3, n_panels)
    first, last = (float(epoch) for epoch in metrics["epoch"].agg(["min", "max"]))
    p = ggplot(metrics, aes("epoch", "value", colour="set"))
    if metrics["epoch"].nunique() > 1:  # plotnine warns of a line through a single point
        p += geom_line(size=0.9)
    return (
        p
        + geom_point(size=1.8)
        + facet_wrap("metric", scales="free_y", ncol=columns)
        + scale_x_continuous(breaks=whole_breaks((first, last)))  # the axis itself goes beyond
        + scale_colour_manual({"train": "#4269d0", "valid": "#e67e22"})
        + labs(x="Epoch", y="", colour="")
        + luz_theme()
        + theme(
            figure_size=(3.4 * columns + 1, 2.9 * -(-n_panels // columns) + 0.3),
            legend_position="top",
        )
    )


def luz_theme() -> Any:
    """A quiet theme: light grid, no frame, room for the labels."""
    from plotnine import (
        element_blank,
        element_line,
        element_rect,
        element_text,
        theme,
        theme_minimal,
    )

    return theme_minimal(base_size=11) + theme(
        figure_size=(6.4, 4.0),
        panel_grid_minor=element_blank(),
        panel_grid_major=element_line(colour="#dddddd", size=0.5),
        plot_background=element_rect(fill="white", colour="white"),
        strip_text=element_text(weight="bold", size=11),
        axis_title=element_text(size=11),
    )


def whole_breaks(limits: tuple[float, float]) -> list[int]:
    """At most six whole numbers within `limits`, for an axis of epochs."""
    low, high = int(limits[0] + 0.999), int(limits[1])
    step = max(1, -(-(high - low) // 5))
    return list(range(-(-low // step) * step, high + 1, step))
