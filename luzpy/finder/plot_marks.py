"""What a finder's plot shows besides its curves: the suggested rate, and ranges of rates."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import attrs
import numpy as np
import pandas as pd

from luzpy.finder.plot_view import View

if TYPE_CHECKING:
    from plotnine.ggplot import PlotAddable

LINE_COLOUR = "#b02a1a"
# Room for a line of text, in heights of what is shown.
TEXT = 0.09
MARGIN = 0.04
# Between a line and its words, in widths of what is shown.
GAP = 0.006


def room_for(view: View) -> float:
    """The margin below what is shown."""
    return MARGIN * view.height


@attrs.frozen
class Marks:
    """What to mark.

    Attributes:
        lr: The suggestion, if there is one.
        ranges: What a range of rates is, its ends, and its colour.
        points: Losses measured at single rates, columns lr and loss, and what they are.
        doubts: Reasons for doubt, printed below the plot.
    """

    lr: float | None
    ranges: list[tuple[str, float, float, str]]
    points: tuple[str, pd.DataFrame] | None
    doubts: list[str]

    @property
    def losses(self) -> list[float]:
        """The losses of the points, as far as they are finite."""
        if self.points is None:
            return []
        return [loss for loss in self.points[1]["loss"] if math.isfinite(loss)]

    def drawn(self, view: View, rates: tuple[float, float], log_x: bool) -> list[PlotAddable]:
        """The layers, and the y range with room for their words."""
        import plotnine as p9

        line = TEXT * (view.height or 1.0)
        top = view.high + (line if self.lr is not None else 0)
        bottom = view.low - room_for(view) - line * len(self.ranges)
        layers: list[PlotAddable] = []
        for index, (name, low, high, colour) in enumerate(self.ranges):
            y = view.low - room_for(view) - line * (index + 0.5)
            layers += [
                _words(f"{name} {low:.1e} to {high:.1e}", (low, high), y, rates, log_x, colour),
                _band(low, high, colour),
            ]
        if self.points is not None:
            name, frame = self.points
            finite = frame[np.isfinite(frame["loss"])].assign(what=name)
            layers += [
                p9.geom_point(
                    p9.aes("lr", "loss", shape="what"),
                    data=finite,
                    inherit_aes=False,
                    size=2.6,
                    fill="white",
                    colour="#333333",
                ),
                p9.scale_shape_manual(["D"]),
                p9.labs(shape=""),
            ]
        if self.lr is not None:
            text = f"suggested {self.lr:.1e}"
            layers += [
                _words(text, (self.lr, self.lr), top - line / 2, rates, log_x, LINE_COLOUR),
                p9.geom_vline(xintercept=self.lr, linetype="dashed", colour=LINE_COLOUR, size=0.8),
            ]
        if self.doubts:
            text = "\n".join(textwrap.wrap(" ".join(f"{doubt}." for doubt in self.doubts), 72))
            layers.append(p9.labs(caption=text))
        if layers or view.cuts:
            layers.append(p9.coord_cartesian(ylim=(bottom, top)))
        return layers


def _band(low: float, high: float, colour: str) -> PlotAddable:
    import plotnine as p9

    return p9.annotate(
        "rect", xmin=low, xmax=high, ymin=-np.inf, ymax=np.inf, alpha=0.15, fill=colour
    )


def _words(
    text: str,
    around: tuple[float, float],
    y: float,
    rates: tuple[float, float],
    log_x: bool,
    colour: str,
) -> PlotAddable:
    """Words beside a rate or a range of rates, on the side where there is more room."""
    import plotnine as p9

    low, high, first, last = (math.log(lr) if log_x else lr for lr in (*around, *rates))
    to_the_left = low - first > last - high
    gap = GAP * (last - first)
    x = low - gap if to_the_left else high + gap
    return p9.annotate(
        "label",
        x=math.exp(x) if log_x else x,
        y=y,
        label=text,
        ha="right" if to_the_left else "left",
        va="center",
        size=11,
        colour=colour,
        fill="#ffffffc0",
        label_size=0,
    )
