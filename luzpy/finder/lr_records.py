"""What `lr_finder` returns: a frame of learning rates and losses."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from luzpy.errors import NoSuggestionError
from luzpy.finder.curves import Curves, median_range
from luzpy.finder.smoothing import exponential_average
from luzpy.finder.suggest import DEFAULT_METHOD, METHODS, suggest_lr
from luzpy.finder.summary import summary
from luzpy.plotting import plot

if TYPE_CHECKING:
    from typing import Self

    from plotnine import ggplot

    from luzpy.finder.sweep import Curve


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

        def __new__(cls, *args: Any, **kwargs: Any) -> Self: ...  # noqa: D102

    def __init__(self, data: Any = None, *args: Any, stopped: str | None = None, **kwargs: Any):
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
        return float(np.median(self._suggested(method)))

    def _suggested(self, method: str) -> list[float]:
        """What each run suggests, as long as at least half of them suggest anything."""
        found: list[float] = []
        refusals: list[NoSuggestionError] = []
        for lr, loss in curves_of(self):
            try:
                found.append(suggest_lr(lr, loss, method))
            except NoSuggestionError as err:
                refusals.append(err)
        if not found and not refusals:
            raise NoSuggestionError("There are no rungs to judge.")
        if len(refusals) > len(found):
            raise refusals[0]
        return found

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
                found = self._suggested(method)
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


def records_of(
    rates: list[float], curves: list[Curve], interrupted: bool, *, several: bool
) -> LRRecords:
    """What sweeps recorded, as one frame.

    Args:
        rates: The learning rate of each rung.
        curves: The losses of each run, as far as it came.
        interrupted: Whether the user ended the last one.
        several: Whether to number the runs.
    """
    frames: list[pd.DataFrame] = []
    for run, curve in enumerate(curves, start=1):
        n = len(curve.losses)
        columns: dict[str, Any] = {"run": [run] * n} if several else {}
        columns |= {"lr": rates[:n], "loss": curve.losses}
        if curve.valid_losses is not None:
            columns["valid_loss"] = curve.valid_losses
        frames.append(pd.DataFrame(columns))
    stopped = "interrupted" if interrupted else "completed"
    stopped = next((curve.stopped for curve in curves if curve.stopped), stopped)
    return LRRecords(pd.concat(frames, ignore_index=True), stopped=stopped)


def averaged(records: LRRecords, column: str, beta: float) -> pd.Series[float]:
    """The bias-corrected exponential average of a column, run by run."""
    check_columns(records, column)
    smoothed = np.empty(len(records))
    for positions in _run_positions(records):
        smoothed[positions] = exponential_average(records[column].to_numpy()[positions], beta)
    return pd.Series(smoothed, index=records.index, name=f"smoothed_{column}")


def curves_of(records: LRRecords) -> Curves:
    """The learning rates and losses of each run."""
    check_columns(records, "lr", "loss")
    lr, loss = records["lr"].to_numpy(float), records["loss"].to_numpy(float)
    return [(lr[positions], loss[positions]) for positions in _run_positions(records)]


def _run_positions(records: LRRecords) -> list[Any]:
    """The rows of each run, in order."""
    if "run" not in records.columns:
        return [np.arange(len(records))] if len(records) else []
    runs = records["run"]
    return [np.flatnonzero(runs == run) for run in runs.unique()]


def check_columns(records: LRRecords, *columns: str) -> None:
    """Raise unless the records have these columns."""
    missing = [column for column in columns if column not in records.columns]
    if missing:
        raise ValueError(
            f"The records must have the columns {', '.join(columns)}; {', '.join(missing)} "
            "is missing."
        )


def check_beta(beta: Any) -> None:
    """Raise unless `beta` can weigh an average."""
    if isinstance(beta, bool) or not isinstance(beta, (int, float)):
        raise TypeError(f"`beta` must be a number in [0, 1), got {beta!r}.")
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1), got {beta!r}.")
