"""The picture of a learning rate finder's records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from luzpy.finder.curves import median_range, suggested_rates
from luzpy.finder.frame import averaged, check_beta, check_columns, curves_of
from luzpy.ground.errors import NoSuggestionError
from luzpy.verbs.plot import luz_theme

if TYPE_CHECKING:
    from plotnine import ggplot
    from plotnine.ggplot import PlotAddable

VALID_COLOUR = "#e67e22"


def drawn(x: pd.DataFrame, *, beta: float, suggest: bool, log_x: bool) -> ggplot:
    """The picture of one call's records; see `LRRecords.plot`."""
    import plotnine as p9

    check_beta(beta)
    curve = _curve(x, beta)
    p = p9.ggplot(curve, p9.aes("lr")) + _axes(log_x)
    if len(curve) > 1 and "low" in curve:
        p += p9.geom_ribbon(p9.aes(ymin="low", ymax="high"), fill="cyan", alpha=0.25)
    elif len(curve) > 1:
        p += p9.geom_line(p9.aes(y="loss"), linetype="dotted", size=0.7)
    geom, size = (p9.geom_line, 1) if len(curve) > 1 else (p9.geom_point, 3)
    if "valid" in curve:
        p += geom(p9.aes(y="smoothed", colour="'training'"), size=size)
        p += geom(p9.aes(y="valid", colour="'validation'"), size=size, na_rm=True)
        p += p9.scale_colour_manual({"training": "cyan", "validation": VALID_COLOUR})
        p += p9.labs(colour="")
        p += p9.theme(legend_position="top")
    else:
        p += geom(p9.aes(y="smoothed"), colour="cyan", size=size)
    return p + _y_limits([curve]) + (_marks(x) if suggest else [])


def overlaid(
    x: Sequence[pd.DataFrame], *, labels: Sequence[str] | None, beta: float, log_x: bool
) -> ggplot:
    """The smoothed losses of several records in one picture; see `luzpy.plot`."""
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
    frame = pd.concat(curves)
    frame["records"] = pd.Categorical(frame["records"], categories=list(dict.fromkeys(names)))
    p = p9.ggplot(frame, p9.aes("lr", "smoothed", colour="records")) + _axes(log_x)
    if "low" in frame:
        p += p9.geom_ribbon(
            p9.aes(ymin="low", ymax="high", fill="records"), alpha=0.2, colour="none", na_rm=True
        )
        p += p9.scale_fill_brewer(type="qual", palette="Dark2", guide=None)
    if any(len(curve) > 1 for curve in curves):
        p += p9.geom_line(size=1)
    points = [curve for curve in curves if len(curve) == 1]
    if points:
        p += p9.geom_point(data=pd.concat(points), size=3)
    p += p9.scale_colour_brewer(type="qual", palette="Dark2")
    p += p9.labs(colour="")
    return p + _y_limits([curve.drop(columns="loss", errors="ignore") for curve in curves])


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


def _y_limits(curves: Sequence[pd.DataFrame]) -> list[PlotAddable]:
    """The y range of the curves before they diverge; nothing where all of them fit anyway.

    Up to its minimum a curve is shown whole; what rises after it is cut half the descent above
    the highest point before.
    """
    import plotnine as p9

    lows: list[float] = []
    highs: list[float] = []
    everything: list[float] = []
    for curve in curves:
        shown = [c for c in ("loss", "smoothed", "low", "high", "valid") if c in curve]
        values = curve[shown].to_numpy(float)
        before = values[: int(curve["smoothed"].to_numpy().argmin()) + 1]
        low, high = float(np.nanmin(before)), float(np.nanmax(before))
        lows.append(float(np.nanmin(values)))
        highs.append(high + (0.5 * (high - low) if high > low else max(abs(high), 1.0)))
        everything.append(float(np.nanmax(values)))
    if max(everything) <= max(highs):
        return []
    margin = 0.04 * (max(highs) - min(lows))
    return [p9.coord_cartesian(ylim=(min(lows) - margin, max(highs)))]


def _axes(log_x: bool) -> list[PlotAddable]:
    import plotnine as p9

    scale = p9.scale_x_continuous()
    if log_x:
        scale = p9.scale_x_log10(
            breaks=log_breaks,
            minor_breaks=[],  # the theme hides them, and mizani fails to place them between few
            labels=lambda breaks: [f"{value:g}" for value in breaks],
        )
    return [p9.labs(x="Learning Rate", y="Loss"), scale, luz_theme()]


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


def _marks(records: pd.DataFrame) -> list[PlotAddable]:
    """The suggestion and the range, as far as there are any."""
    import plotnine as p9

    curves = curves_of(records)
    try:
        lr = float(np.median(suggested_rates(curves)))
    except NoSuggestionError:
        return []
    marks: list[PlotAddable] = []
    low, high = median_range(curves)
    if high > low:
        band = {"xmin": low, "xmax": high, "ymin": -np.inf, "ymax": np.inf}
        marks.append(p9.annotate("rect", **band, alpha=0.08, fill="#4269d0"))
    return [*marks, p9.geom_vline(xintercept=lr, linetype="dashed", colour="#c0392b", size=0.7)]
