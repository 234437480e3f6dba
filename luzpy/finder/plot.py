"""The picture of a learning rate finder's records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from luzpy.finder.frame import averaged, check_beta, check_columns
from luzpy.finder.plot_marks import Marks, room_for
from luzpy.finder.plot_view import View, view_of
from luzpy.verbs.plot import luz_theme

if TYPE_CHECKING:
    from plotnine import ggplot
    from plotnine.ggplot import PlotAddable

# Cyan on white is hard to see, and all but gone in print: a darker line lies beneath it.
CYAN, BENEATH = "cyan", "#00707a"
VALID_COLOUR = "#e67e22"
# Each curve is told from the others by its dashes as well as by its colour.
DASHES = ("solid", "dashed", "dashdot", "dotted")


def drawn(x: pd.DataFrame, *, beta: float, log_x: bool, marks: Marks | None) -> ggplot:
    """The picture of one call's records; see `LRRecords.plot`."""
    import plotnine as p9

    check_beta(beta)
    curve = _curve(x, beta)
    view = view_of([curve], [] if marks is None else marks.losses)
    p = p9.ggplot(curve, p9.aes("lr")) + _axes(log_x)
    if len(curve) == 1:
        p += p9.geom_point(p9.aes(y="smoothed"), colour=CYAN, size=3)
        if "valid" in curve:
            p += p9.geom_point(p9.aes(y="valid"), colour=VALID_COLOUR, size=3, na_rm=True)
    else:
        p += _lines(curve, view, x["run"].nunique() if "run" in x else 1)
    if marks is None:
        return p + _limits(view)
    return p + marks.drawn(view, (float(curve["lr"].min()), float(curve["lr"].max())), log_x)


def _lines(curve: pd.DataFrame, view: View, runs: int) -> list[PlotAddable]:
    """The curves of one call, and a legend of them."""
    import plotnine as p9

    several = "low" in curve
    smoothed = f"median of {runs} runs" if several else "smoothed"
    names = {"loss": "raw loss", "smoothed": smoothed, "valid": "validation"}
    shown = [column for column in names if column in curve]
    long = pd.concat(
        [
            pd.DataFrame({"lr": curve["lr"], "y": curve[column], "what": names[column]})
            for column in shown
        ]
    ).dropna()
    long["what"] = pd.Categorical(long["what"], categories=[names[column] for column in shown])
    colours = {"loss": "black", "valid": VALID_COLOUR, "smoothed": CYAN}
    dashes = {"loss": "dotted", "valid": "dashed", "smoothed": "solid"}
    sizes = {"loss": 0.7, "valid": 1.2, "smoothed": 1.1}
    layers: list[PlotAddable] = []
    if several:
        band = view.below(curve).assign(band="10 to 90 %")
        ribbon = p9.aes(x="lr", ymin="low", ymax="high", fill="band")
        layers += [
            p9.geom_ribbon(ribbon, data=band, alpha=0.3, colour="none"),
            p9.scale_fill_manual(["#00a5b5"]),
        ]
    line = p9.aes("lr", "y", colour="what", linetype="what", size="what")
    return [
        *layers,
        p9.geom_line(p9.aes(y="smoothed"), colour=BENEATH, size=2.2),
        p9.geom_line(line, data=long),
        p9.scale_colour_manual([colours[column] for column in shown]),
        p9.scale_linetype_manual([dashes[column] for column in shown]),
        p9.scale_size_manual([sizes[column] for column in shown]),
        p9.labs(colour="", linetype="", size="", fill=""),
    ]


def overlaid(
    x: Sequence[pd.DataFrame], *, labels: Sequence[str] | None, beta: float, log_x: bool
) -> ggplot:
    """The smoothed losses of several records in one plot; see `luzpy.plot`."""
    import plotnine as p9

    check_beta(beta)
    if not x:
        raise ValueError("`x` must hold at least one LRRecords, got none.")
    names = [str(n) for n in (range(1, len(x) + 1) if labels is None else labels)]
    if len(names) != len(x):
        raise ValueError(f"`labels` must be as many as the {len(x)} records, got {len(names)}.")
    curves = [
        _curve(records, beta, f" in the records {name!r}").assign(records=name)
        for records, name in zip(x, names, strict=True)
    ]
    view = view_of([curve.drop(columns="loss", errors="ignore") for curve in curves])
    frame = pd.concat(curves)
    order = list(dict.fromkeys(names))
    frame["records"] = pd.Categorical(frame["records"], categories=order)
    p = p9.ggplot(frame, p9.aes("lr", "smoothed", colour="records")) + _axes(log_x)
    bands = [view.below(curve) for curve in curves if "low" in curve and len(curve) > 1]
    if bands:
        p += p9.geom_ribbon(
            p9.aes(ymin="low", ymax="high", fill="records"),
            data=_as_in(frame, bands),
            alpha=0.2,
            colour="none",
            show_legend=False,
        )
        p += p9.scale_fill_brewer(type="qual", palette="Dark2", guide=None, drop=False)
    lines = [curve for curve in curves if len(curve) > 1]
    if lines:
        p += p9.geom_line(p9.aes(linetype="records"), data=_as_in(frame, lines), size=1)
        dashes = list(islice(cycle(DASHES), len(order)))
        p += p9.scale_linetype_manual(dashes, drop=False)
    points = [curve for curve in curves if len(curve) == 1]
    if points:
        p += p9.geom_point(data=_as_in(frame, points), size=3)
    p += p9.scale_colour_brewer(type="qual", palette="Dark2", drop=False)
    p += p9.labs(colour="", linetype="")
    return p + _limits(view)


def _as_in(frame: pd.DataFrame, curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The curves as one frame, with the categories that all records have."""
    joined = pd.concat(curves)
    joined["records"] = pd.Categorical(
        joined["records"], categories=frame["records"].cat.categories
    )
    return joined


def _curve(records: pd.DataFrame, beta: float, where: str = "") -> pd.DataFrame:
    """Columns lr, loss, smoothed and perhaps valid; over runs lr, smoothed, low, high."""
    check_columns(records, "lr", "loss")
    frame = pd.DataFrame(
        {"lr": records["lr"], "loss": records["loss"], "smoothed": averaged(records, "loss", beta)}
    )
    if "valid_loss" in records:
        valid = averaged(records, "valid_loss", beta)
        frame["valid"] = valid.where(np.isfinite(valid))
    frame = frame[np.isfinite(frame["smoothed"])]
    if frame.empty:
        raise ValueError(f"`x` must have a rung with a finite loss, got none{where}.")
    if "run" not in records:
        return frame
    by_lr = frame.groupby("lr")
    curve = by_lr["smoothed"].quantile(np.array([0.1, 0.5, 0.9])).unstack()
    curve.columns = ["low", "smoothed", "high"]
    if "valid" in frame:
        curve["valid"] = by_lr["valid"].median()
    return curve.reset_index()


def _limits(view: View) -> list[PlotAddable]:
    """The y range, where there is more than it shows."""
    import plotnine as p9

    if not view.cuts:
        return []
    return [p9.coord_cartesian(ylim=(view.low - room_for(view), view.high))]


def _axes(log_x: bool) -> list[PlotAddable]:
    import plotnine as p9

    scale = p9.scale_x_continuous()
    if log_x:
        scale = p9.scale_x_log10(
            breaks=log_breaks,
            minor_breaks=[],  # the theme hides them, and mizani fails to place them between few
            labels=lambda breaks: [f"{value:g}" for value in breaks],
        )
    quiet = p9.theme(
        legend_position="top",
        legend_key_width=28,
        legend_text=p9.element_text(size=11),
        axis_text=p9.element_text(size=11, colour="#333333"),
        axis_title=p9.element_text(size=12),
        plot_caption=p9.element_text(ha="left", size=10, colour="#a02010"),
    )
    return [p9.labs(x="Learning Rate", y="Loss"), scale, luz_theme(), quiet]


def log_breaks(limits: tuple[float, float]) -> list[float]:
    """The decades within `limits`, every second one if they are many, finer steps if few."""
    first, last = math.ceil(math.log10(limits[0])), math.floor(math.log10(limits[1]))
    decades = [float(f"1e{k}") for k in range(first, last + 1)]
    if len(decades) > 8:
        return decades[::2]
    if len(decades) > 2:
        return decades
    finer = [float(f"{m}e{k}") for k in range(first - 1, last + 1) for m in (1, 2, 5)]
    return [value for value in finer if limits[0] <= value <= limits[1]]
