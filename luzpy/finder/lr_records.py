"""What `lr_finder` returns: a frame of learning rates and losses."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from luzpy.finder.curves import median_range, suggested_rates
from luzpy.finder.frame import averaged, check_beta, curves_of
from luzpy.finder.suggest import DEFAULT_METHOD, METHODS
from luzpy.finder.summary import summary
from luzpy.ground.errors import NoSuggestionError
from luzpy.ground.types import Data, Values
from luzpy.verbs.plot import plot

if TYPE_CHECKING:
    from typing import Self

    from plotnine import ggplot

    from luzpy.finder.sweep import Sweep


class LRRecords(pd.DataFrame):
    """A DataFrame with the columns `lr` and `loss`, one row a rung.

    With several runs there is a column `run`, from 1; with validation data a column `valid_loss`.
    It stays an `LRRecords` through copying, slicing and pickling.

    Attributes:
        stopped: How the sweep ended: `"completed"`, `"diverged"`, `"not finite"` or
            `"interrupted"`; with several runs the first that did not complete says.
    """

    _metadata = ["stopped"]  # noqa: RUF012  (pandas' own protocol)
    stopped: str

    if TYPE_CHECKING:  # pandas' stubs know no further arguments, and no `__init__`

        def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...

    def __init__(self, data: Data = None, *args: Any, stopped: str | None = None, **kwargs: Any):
        cast(Any, super()).__init__(data, *args, **kwargs)
        self.stopped = stopped or getattr(data, "stopped", "completed")

    @property
    def _constructor(self) -> type[LRRecords]:
        return LRRecords

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> LRRecords:
        cast(Any, super()).__finalize__(other, method=method, **kwargs)
        if method == "concat":  # of which pandas hands on none of the parts' attributes
            parts = getattr(other, "input_objs", None) or getattr(other, "objs", ())
            reasons = (getattr(part, "stopped", "completed") for part in parts)
            self.stopped = next((r for r in reasons if r != "completed"), "completed")
        return self

    def __repr__(self) -> str:
        return "\n".join([super().__repr__(), *self._summary()])

    def _repr_html_(self) -> str:
        table = cast(Any, super())._repr_html_()
        return "".join([table, *(f"<p>{escape(line)}</p>" for line in self._summary())])

    def _summary(self) -> list[str]:
        """The line below the table, where there is a curve to speak of."""
        if len(self) == 0 or not {"lr", "loss"}.issubset(self.columns):
            return []
        return [summary(curves_of(self), self.stopped, self.suggest)]

    plot: Callable[..., ggplot] = plot  # type: ignore[assignment]  (in place of pandas' accessor)

    def smoothed(self, beta: float = 0.9) -> pd.Series[float]:
        """The bias-corrected exponential average of the loss, run by run.

        Args:
            beta: How much of the past is kept, in [0, 1); 0 gives the raw loss.

        Returns:
            A series on the records' index.

        Raises:
            ValueError: If `beta` is out of bounds.
        """
        check_beta(beta)
        return averaged(self, "loss", beta)

    def suggest(self, method: str = DEFAULT_METHOD) -> float:
        """A learning rate to train with.

        The curve is cut at its first loss that is not finite, smoothed, and judged.

        Args:
            method: `"descent"`, a 2.5th of the rate at which four fifths of the way down are
                done; `"valley"`, two thirds along the longest descent; `"minimum"`, a tenth of the
                rate at the lowest smoothed loss; `"steepest"`, where it falls fastest against
                log lr; `"slide"`, the last rate of the steep descent.

        Returns:
            The learning rate; over several runs, the median.

        Raises:
            NoSuggestionError: If the curve supports none; it says why.
            ValueError: If there is no such method.
        """
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
        return float(np.median(suggested_rates(curves_of(self), method)))

    def suggestions(self) -> pd.DataFrame:
        """What every method suggests.

        Returns:
            Columns method, lr, low, high; low and high are the 10% and the 90% quantile over the
            runs, and NaN marks what the curve does not support. The row `range` has in low the
            steepest point and in high a tenth of the rate at the minimum, the range of the
            Dataiku study (https://blog.dataiku.com/the-learning-rate-finder-technique-how-reliable-is-it).
        """
        nan = float("nan")
        rows: list[tuple[str, float, float, float]] = []
        for method in METHODS:
            try:
                found = suggested_rates(curves_of(self), method)
            except NoSuggestionError:
                rows.append((method, nan, nan, nan))
                continue
            low, lr, high = np.quantile(found, [0.1, 0.5, 0.9])
            rows.append((method, float(lr), float(low), float(high)))
        rows.append(("range", nan, *median_range(curves_of(self))))
        return pd.DataFrame(rows, columns=["method", "lr", "low", "high"])


@plot.register(LRRecords)
def _(x: LRRecords, **options: Any) -> ggplot:
    from luzpy.finder.plot import plot_records

    return plot_records(x, **options)


def records_of(rates: list[float], sweeps: list[Sweep], reason: str, *, several: bool) -> LRRecords:
    """What sweeps recorded, as one frame.

    Args:
        rates: The learning rate of each rung.
        sweeps: The losses of each run, as far as it came.
        reason: Why the user or a callback ended the last one, if so; else `"completed"`.
        several: Whether to number the runs.
    """
    frames: list[pd.DataFrame] = []
    for run, sweep in enumerate(sweeps, start=1):
        n = len(sweep.losses)
        columns: Values = {"run": [run] * n} if several else {}
        columns |= {"lr": rates[:n], "loss": sweep.losses}
        if sweep.valid_losses is not None:
            columns["valid_loss"] = sweep.valid_losses
        frames.append(pd.DataFrame(columns))
    stopped = next((sweep.stopped for sweep in sweeps if sweep.stopped), reason)
    return LRRecords(pd.concat(frames, ignore_index=True), stopped=stopped)
