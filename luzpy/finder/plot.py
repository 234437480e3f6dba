"""The picture of a learning rate finder's records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from luzpy.finder.curves import median_range, suggested_rates
from luzpy.finder.frame import averaged, check_beta, check_columns, curves_of
from luzpy.finder.suggest import DEFAULT_METHOD
from luzpy.ground.errors import NoSuggestionError
from luzpy.verbs.plot import luz_theme

if TYPE_CHECKING:
    from plotnine import ggplot

VALID_COLOUR = "#e67e22"


def plot_records(
    x: pd.DataFrame, *, beta: float = 0.9, suggest: bool = False, log_x: bool = True
) -> ggplot:
    """Draw the loss against the learning rate, as R luz does.

    The raw loss is dotted and its bias-corrected exponential average cyan; with validation data
    its average is orange. Over several runs: the median of the averages, and the band from their
    10% to their 90% quantile. The y range is that of the curve before it diverges; add
    `coord_cartesian` for another.

    Args:
        x: What `lr_finder` returned.
        beta: How much of the past the average keeps, in [0, 1).
        suggest: Whether to mark the suggestion and the range.
        log_x: Whether the axis of learning rates is logarithmic.

    Returns:
        A plotnine plot.

    Raises:
        ValueError: If fewer than two rungs have a finite loss.
    """
    from plotnine import (
        aes,
        coord_cartesian,
        geom_line,
        geom_ribbon,
        ggplot,
        labs,
        scale_colour_manual,
        theme,
    )

    check_beta(beta)
    curve = _curve(x, beta)
    several = "low" in curve.columns
    p = ggplot(curve, aes("lr"))
    if several:
        p += geom_ribbon(aes(ymin="low", ymax="high"), fill="cyan", alpha=0.25)
    else:
        p += geom_line(aes(y="loss"), linetype="dotted", size=0.7)
    p += labs(x="Learning Rate", y="Loss")
    p = _x_axis(p, log_x) + luz_theme()
    if "valid" in curve.columns:
        p += geom_line(aes(y="smoothed", colour="'training'"), size=1)
        p += geom_line(aes(y="valid", colour="'validation'"), size=1, na_rm=True)
        p += scale_colour_manual({"training": "cyan", "validation": VALID_COLOUR})
        p += labs(colour="")
        p += theme(legend_position="top")
    else:
        p += geom_line(aes(y="smoothed"), colour="cyan", size=1)
    limits = y_limits([curve])
    if limits is not None:
        p += coord_cartesian(ylim=limits)
    return _marked(p, x) if suggest else p


def plot_several(
    x: Sequence[pd.DataFrame],
    *,
    labels: Sequence[str] | None = None,
    beta: float = 0.9,
    log_x: bool = True,
) -> ggplot:
    """Overlay the smoothed losses of several records, for batch sizes or models.

    Args:
        x: What several calls of `lr_finder` returned.
        labels: A name for each; by default their numbers.
        beta: How much of the past the average keeps, in [0, 1).
        log_x: Whether the axis of learning rates is logarithmic.

    Returns:
        A plotnine plot.

    Raises:
        ValueError: If there are none, not as many labels as records, or nothing to draw in one.
    """
    from plotnine import (
        aes,
        coord_cartesian,
        geom_line,
        geom_ribbon,
        ggplot,
        labs,
        scale_colour_brewer,
        scale_fill_brewer,
    )

    check_beta(beta)
    if not x:
        raise ValueError("`x` must hold at least one LRRecords, got none.")
    names = [str(i) for i in range(1, len(x) + 1)] if labels is None else [str(n) for n in labels]
    if len(names) != len(x):
        raise ValueError(f"`labels` must be as many as the {len(x)} records, got {len(names)}.")
    curves = [_curve(records, beta).assign(records=n) for records, n in zip(x, names, strict=True)]
    frame = pd.concat(curves)
    frame["records"] = pd.Categorical(frame["records"], categories=list(dict.fromkeys(names)))
    p = ggplot(frame, aes("lr", colour="records"))
    if "low" in frame.columns:
        p += geom_ribbon(
            aes(ymin="low", ymax="high", fill="records"), alpha=0.2, colour="none", na_rm=True
        )
        p += scale_fill_brewer(type="qual", palette="Dark2", guide=None)
    p += geom_line(aes(y="smoothed"), size=1)
    p += scale_colour_brewer(type="qual", palette="Dark2")
    p += labs(x="Learning Rate", y="Loss", colour="")
    p = _x_axis(p, log_x) + luz_theme()
    limits = y_limits([curve.drop(columns="loss", errors="ignore") for curve in curves])
    return p if limits is None else p + coord_cartesian(ylim=limits)


def _curve(records: pd.DataFrame, beta: float) -> pd.DataFrame:
    """Columns lr, loss, smoothed and perhaps valid; over runs lr, smoothed, low, high."""
    check_columns(records, "lr", "loss")
    frame = pd.DataFrame(
        {"lr": records["lr"], "loss": records["loss"], "smoothed": averaged(records, "loss", beta)}
    )
    if "valid_loss" in records.columns:
        valid = averaged(records, "valid_loss", beta)
        frame["valid"] = valid.where(np.isfinite(valid))
    frame = frame[np.isfinite(frame["smoothed"])]
    if frame["lr"].nunique() < 2:
        raise ValueError(
            "`x` must have at least two rungs with a finite loss to draw a line, got "
            f"{frame['lr'].nunique()}."
        )
    if "run" not in records.columns:
        return frame
    by_lr = frame.groupby("lr")
    curve = by_lr["smoothed"].quantile(np.array([0.1, 0.5, 0.9])).unstack()
    curve.columns = ["low", "smoothed", "high"]
    if "valid" in frame.columns:
        curve["valid"] = by_lr["valid"].median()
    return curve.reset_index()


def y_limits(curves: Sequence[pd.DataFrame]) -> tuple[float, float] | None:
    """The y range of the curves before they diverge; None where all of them fit anyway.

    Up to its minimum a curve is shown whole; what rises after it is cut half the descent above
    the highest point before.
    """
    lows: list[float] = []
    highs: list[float] = []
    everything: list[float] = []
    for curve in curves:
        if curve.empty:
            continue
        shown = [c for c in ("loss", "smoothed", "low", "high", "valid") if c in curve.columns]
        values = curve[shown].to_numpy(float)
        lowest = int(np.nanargmin(curve["smoothed"].to_numpy()))
        before = values[: lowest + 1]
        low, high = float(np.nanmin(before)), float(np.nanmax(before))
        room = 0.5 * (high - low) if high > low else max(abs(high), 1.0)
        after = values[lowest + 1 :]
        lows.append(min(low, float(np.nanmin(after)) if after.size else low))
        highs.append(high + room)
        everything.append(float(np.nanmax(values)))
    if not highs or max(everything) <= max(highs):
        return None
    margin = 0.04 * (max(highs) - min(lows))
    return min(lows) - margin, max(highs)


def _x_axis(p: ggplot, log_x: bool) -> ggplot:
    from plotnine import scale_x_continuous, scale_x_log10

    if not log_x:
        return p + scale_x_continuous()
    return p + scale_x_log10(
        breaks=log_breaks,
        minor_breaks=[],  # the theme hides them, and mizani fails to place them between few breaks
        labels=lambda breaks: [f"{value:g}" for value in breaks],
    )


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


def _marked(p: ggplot, records: pd.DataFrame) -> ggplot:
    from plotnine import annotate, geom_vline

    try:
        lr = float(np.median(suggested_rates(curves_of(records), DEFAULT_METHOD)))
    except NoSuggestionError:
        return p
    low, high = median_range(curves_of(records))
    if high > low:
        p += annotate(
            "rect", xmin=low, xmax=high, ymin=-np.inf, ymax=np.inf, alpha=0.08, fill="#4269d0"
        )
    return p + geom_vline(xintercept=lr, linetype="dashed", colour="#c0392b", size=0.7)
