"""`plot`: each result defines its own plot, drawn with plotnine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from itertools import cycle
from typing import TYPE_CHECKING

from luzpy.core.result import Result
from luzpy.ground.arguments import check_flag
from luzpy.ground.nested import is_sequence
from luzpy.ground.records import array_rows, get_metrics, rates_frame

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import aes, ggplot, theme


@singledispatch
def plot(
    x: object,
    *,
    metrics: Sequence[str] | None = None,
    log_y: bool = False,
    labels: Sequence[str] | None = None,
    beta: float = 0.9,
    suggest: bool = False,
    log_x: bool = True,
    study_range: bool = False,
) -> ggplot:
    """Draw a fitted model's training history or a learning rate finder's records.

    Port of R luz's `plot()` methods. `metrics` and `log_y` are options for a history, `labels` for
    a list, and the others for the finder's records.

    Args:
        x: A `FittedModule`, `LRRecords`, or a list of either to compare.
        metrics: Which metrics to draw, in this order, `"lr"` for the learning rates; by default all
            metrics.
        log_y: Whether the axes of metrics are logarithmic.
        labels: A name for each item of a list; by default its number.
        beta: How much of the past the average keeps, in [0, 1).
        suggest: Whether to mark the suggestion; not for a list.
        log_x: Whether the axis of learning rates is logarithmic.
        study_range: Whether to mark the range of the Dataiku study; not for a list.

    Returns:
        A plotnine plot, to which you can add.

    Raises:
        TypeError: If `x` is none of these, or does not have such an option.
        ValueError: If there is nothing to draw, or an option is out of bounds.
    """
    raise TypeError(
        f"`x` must be a FittedModule, LRRecords or a list of either, got {type(x).__name__}."
    )


COLOURS = {"train": "#4269d0", "valid": "#e67e22"}
# For learning rates: one an optimizer and group.
MORE_COLOURS = ("#3ca951", "#a463f2", "#97bbf5", "#9c6b4e", "#ff8ab7", "#6cc5b0")
# With more, those of learning rates by batch, points would hide their lines.
MOST_POINTS = 200
# Arrays of more entries, as a confusion matrix has, are drawn on request only.
MOST_PANELS = 6


def chosen(x: Result, names: Sequence[str] | None) -> pd.DataFrame:
    """The metrics to draw, in the order of their names; `"lr"` for the learning rates.

    Raises:
        TypeError: If `names` are no names.
        ValueError: If there is no such metric; it names those there are.
    """
    import pandas as pd

    frame = get_metrics(x)
    arrays = array_rows(x.records)
    if names is None:
        large = [rows for rows in arrays.values() if len(rows) > MOST_PANELS]
        hidden = [row for rows in large for row in rows]  # a panel for each would fit no page
        return frame[~frame["metric"].isin(hidden)]
    if not is_sequence(names) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`metrics` must be a list of metrics' names, got {names!r}.")
    if "lr" in names and "lr" not in set(frame["metric"]):
        frame = pd.concat([frame, rates_frame(x.records)])
    known = list(frame["metric"].unique())
    names = [
        row for name in names for row in ([name] if name in known else arrays.get(name, [name]))
    ]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"`metrics` must be some of {', '.join(dict.fromkeys([*known, 'lr']))}, got {names!r}."
        )
    frame = frame[frame["metric"].isin(names)]
    return frame.assign(metric=pd.Categorical(frame["metric"], list(dict.fromkeys(names))))


def plot_history(metrics: pd.DataFrame, *, log_y: bool = False) -> ggplot:
    """A panel per metric, a coloured line per set.

    Args:
        metrics: Columns set, metric, epoch, value.
        log_y: Whether the axes of values are logarithmic.

    Raises:
        ValueError: If there are no metrics.
    """
    import plotnine as p9

    sets = [name for name in metrics["set"].unique() if name not in COLOURS]
    colours = COLOURS | dict(zip(sets, cycle(MORE_COLOURS), strict=False))
    p = _panels(metrics, p9.aes("epoch", "value", colour="set"), log_y)
    return p + p9.scale_colour_manual(colours)


def plot_histories(
    x: Sequence[Result],
    *,
    labels: Sequence[str] | None,
    metrics: Sequence[str] | None,
    log_y: bool,
) -> ggplot:
    """Several fits: a panel per metric, a colour per fit, dashes for validation."""
    import pandas as pd
    import plotnine as p9

    names = [str(n) for n in (range(1, len(x) + 1) if labels is None else labels)]
    if len(names) != len(x):
        raise ValueError(f"`labels` must be as many as the {len(x)} fits, got {len(names)}.")
    frames = [
        chosen(fitted, metrics).assign(fit=name) for fitted, name in zip(x, names, strict=True)
    ]
    frame = pd.concat(frames)
    frame["fit"] = pd.Categorical(frame["fit"], list(dict.fromkeys(names)))
    sets = list(frame["set"].unique())
    dashes = {name: "dashed" if name == "valid" else "solid" for name in sets}
    aes = p9.aes("epoch", "value", colour="fit", linetype="set", group="fit.astype(str) + set")
    return (
        _panels(frame, aes, log_y)
        + p9.scale_colour_brewer(type="qual", palette="Dark2")
        + p9.scale_linetype_manual(dashes)
        + p9.labs(linetype="")
    )


def _panels(metrics: pd.DataFrame, aes: aes, log_y: bool) -> ggplot:
    import plotnine as p9

    check_flag("log_y", log_y)
    if metrics.empty:
        raise ValueError("`x` must have metrics to plot, got none: not one epoch was completed.")
    n_panels = metrics["metric"].nunique()
    columns = min(3, n_panels)
    first, last = (float(epoch) for epoch in metrics["epoch"].agg(["min", "max"]))
    p = p9.ggplot(metrics, aes)
    if log_y:
        p += p9.scale_y_log10()
    if first < last:  # plotnine warns of a line through a single point
        p += p9.geom_line(size=0.9)
    return (
        p
        + p9.geom_point(size=1.8 if metrics["epoch"].nunique() <= MOST_POINTS else 0.3)
        + p9.facet_wrap("metric", scales="free_y", ncol=columns)
        + p9.scale_x_continuous(breaks=whole_breaks((first, last)))  # the axis itself goes beyond
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
