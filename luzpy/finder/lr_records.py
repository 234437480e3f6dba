"""What `lr_finder` returns: a frame of learning rates and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from luzpy.finder.curves import median_range, spread, suggested_rates
from luzpy.finder.frame import averaged, check_beta, check_columns, curves_of
from luzpy.finder.plot import drawn
from luzpy.finder.plot_marks import Marks
from luzpy.finder.suggest import DEFAULT_METHOD, METHODS
from luzpy.finder.summary import doubts, summary
from luzpy.finder.verdict import Trial, Verdict, is_confirmed
from luzpy.ground.errors import NoSuggestionError
from luzpy.ground.types import Values
from luzpy.verbs.plot import plot

if TYPE_CHECKING:
    from typing import Self

    from plotnine import ggplot

    from luzpy.finder.record_loss import Sweep

_FRAME: Any = pd.DataFrame  # whose stubs lack what a frame of one's own has to extend


class _OwnHelp(type):
    """The type of a class whose `help` is what luzpy adds, and not pandas' hundreds of methods."""

    def __dir__(cls) -> list[str]:
        return [name for base in cls.mro() if isinstance(base, _OwnHelp) for name in vars(base)]


class LRRecords(pd.DataFrame, metaclass=_OwnHelp):
    """A DataFrame with the columns `lr` and `loss`, one row per rung.

    With several runs there is a column `run`, from 1; with validation data a column `valid_loss`.
    It stays an `LRRecords` through copying, slicing and pickling.

    Attributes:
        stopped: How the sweep ended: `"completed"`, `"diverged"`, `"not finite"` or
            `"interrupted"`; with several runs, that of the first one that did not complete.
        confirmed: The short training runs of `confirm`, columns `lr`, `steps`, `loss` (on the
            held-out rows, infinite if a run diverged) and `seed`; None without `confirm`.
    """

    _metadata = ["stopped", "confirmed", "verdict"]  # noqa: RUF012  (pandas' own protocol)
    stopped: str
    confirmed: pd.DataFrame | None
    verdict: Verdict | None

    if TYPE_CHECKING:

        def __new__(
            cls, data: object = None, *args: object, stopped: str | None = None, **kwargs: object
        ) -> Self: ...

    def __init__(
        self, data: object = None, *args: object, stopped: str | None = None, **kwargs: object
    ) -> None:
        _FRAME.__init__(self, data, *args, **kwargs)
        self.stopped = stopped or getattr(data, "stopped", "completed")
        self.confirmed = getattr(data, "confirmed", None)
        self.verdict = getattr(data, "verdict", None)

    @property
    def _constructor(self) -> type[LRRecords]:
        return LRRecords

    def __finalize__(self, other: object, method: str | None = None, **kwargs: object) -> Self:
        _FRAME.__finalize__(self, other, method=method, **kwargs)
        if method == "concat":  # of which pandas hands on none of the parts' attributes
            parts = getattr(other, "input_objs", None) or getattr(other, "objs", ())
            reasons = (getattr(part, "stopped", "completed") for part in parts)
            self.stopped = next((r for r in reasons if r != "completed"), "completed")
            for name in ("confirmed", "verdict"):
                known = [getattr(part, name, None) for part in parts]
                setattr(self, name, next((value for value in known if value is not None), None))
        return self

    def __repr__(self) -> str:
        return "\n".join([super().__repr__(), *self._summary()])

    def _repr_html_(self) -> str:
        table = _FRAME._repr_html_(self)
        return "".join([table, *(f"<p>{escape(line)}</p>" for line in self._summary())])

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the suggestion, each with what to do about it; usually empty."""
        check_columns(self, "lr", "loss")
        return doubts(curves_of(self), self.verdict)

    def _summary(self) -> list[str]:
        """The line below the table, where there is a curve."""
        if len(self) == 0 or not {"lr", "loss"}.issubset(self.columns):
            return []
        return [summary(curves_of(self), self.stopped, self.verdict)]

    def plot(  # pyright: ignore[reportIncompatibleMethodOverride]  (in place of pandas' accessor)
        self,
        *,
        beta: float = 0.9,
        suggest: bool = False,
        log_x: bool = True,
        study_range: bool = False,
    ) -> ggplot:
        """Draw the loss against the learning rate, as R luz does.

        The raw loss is dotted and its bias-corrected exponential average cyan; with validation
        data, its average is orange. For several runs, it shows the median of the averages, and the
        band from their 10% to their 90% quantile, up to where a run diverged. The y range is that
        of the descent; add `coord_cartesian` to change it.

        Args:
            beta: How much of the past the average keeps, in [0, 1).
            suggest: Whether to mark the suggestion, with its rate; for several runs, also the range
                from the 10% to the 90% quantile of their suggestions. Reasons for doubt are printed
                below the plot.
            log_x: Whether the axis of learning rates is logarithmic.
            study_range: Whether to mark the range of the Dataiku study, from the steepest point to
                a tenth of the rate at the minimum. These rules differ from that of the suggestion,
                which may lie outside the range.

        Returns:
            A plotnine plot.

        Raises:
            ValueError: If no rung has a finite loss, or `beta` is out of bounds.
        """
        marks = _marks(self, suggest, study_range) if suggest or study_range else None
        return drawn(self, beta=beta, log_x=log_x, marks=marks)

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

        The curve is cut off at the first loss that is not finite, smoothed, and checked.

        Args:
            method: `"descent"`, the rate at which the loss has made four fifths of its drop,
                divided by 2.5; `"valley"`, two thirds along the longest descent; `"minimum"`, a
                tenth of the rate at the lowest smoothed loss; `"steepest"`, where it falls fastest
                against log lr; `"slide"`, the last rate of the steep descent. If noise hides the
                descent, `"descent"` is a thirtieth of the rate at which the loss begins to rise
                above its start, and `warnings` says so; the others refuse.

        Returns:
            The learning rate; for several runs, the median. After `confirm`, for the default
            method, the rate chosen by the short training runs.

        Raises:
            NoSuggestionError: If the curve supports no suggestion; the message says why.
            ValueError: If there is no such method.
        """
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
        curves = curves_of(self)
        if method == DEFAULT_METHOD and is_confirmed(self.verdict):
            return self.verdict.lr
        return float(np.median(suggested_rates(curves, method)))

    def suggestions(self) -> pd.DataFrame:
        """Return every method's suggestion.

        Returns:
            Columns method, lr, low, high; low and high are the 10% and the 90% quantile over the
            runs, and NaN means that the curve supports no suggestion. After `confirm`, there is a
            row `confirmed`, with the bounds of the equally good rates in low and high. The row
            `range` has the steepest point in low and a tenth of the rate at the minimum in high,
            the range of the Dataiku study
            (https://blog.dataiku.com/the-learning-rate-finder-technique-how-reliable-is-it).
        """
        curves = curves_of(self)
        rows: list[tuple[str, float, float, float]] = []
        for method in METHODS:
            try:
                low, lr, high = np.quantile(suggested_rates(curves, method), [0.1, 0.5, 0.9])
            except NoSuggestionError:
                low = lr = high = math.nan
            rows.append((method, float(lr), float(low), float(high)))
        if is_confirmed(self.verdict):
            rows.append(("confirmed", self.verdict.lr, self.verdict.low, self.verdict.high))
        rows.append(("range", math.nan, *median_range(curves)))
        return pd.DataFrame(rows, columns=["method", "lr", "low", "high"])


plot.register(LRRecords, LRRecords.plot)


def _marks(records: LRRecords, suggest: bool, study_range: bool) -> Marks:
    """What the picture is to say beside the curves."""
    curves, verdict = curves_of(records), records.verdict
    lr: float | None = None
    ranges: list[tuple[str, float, float, str]] = []
    doubts: list[str] = []
    if suggest:
        try:
            lr = records.suggest()
            doubts = records.warnings
            if is_confirmed(verdict):
                name, low, high = "as good", verdict.low, verdict.high
            else:
                name, (low, high) = "runs suggest", spread(curves)
            if high > low:
                ranges.append((name, low, high, "#3a5fc4"))
        except NoSuggestionError as err:
            doubts = [f"No suggestion: {err}".removesuffix(".")]
    if study_range:
        low, high = median_range(curves)
        if high > low:
            ranges.append(("Dataiku range", low, high, "#666666"))
    points: tuple[str, pd.DataFrame] | None = None
    if suggest and records.confirmed is not None and len(records.confirmed):
        trials = records.confirmed
        steps = int(trials["steps"].max())
        last: Any = trials[trials["steps"] == steps]
        points = (f"held-out, {steps} steps", last.groupby("lr", as_index=False)["loss"].mean())
    return Marks(lr, ranges, points, doubts)


def confirmed_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """The short trainings as `LRRecords.confirmed` has them."""
    rows = [(trial.lr, trial.steps, trial.loss, trial.seed) for trial in trials]
    return pd.DataFrame(rows, columns=["lr", "steps", "loss", "seed"])


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
        if sweep.initial_losses is not None:
            columns["initial_loss"] = sweep.initial_losses
        if sweep.valid_losses is not None:
            columns["valid_loss"] = sweep.valid_losses
        frames.append(pd.DataFrame(columns))
    stopped = next((sweep.stopped for sweep in sweeps if sweep.stopped), reason)
    return LRRecords(pd.concat(frames, ignore_index=True), stopped=stopped)
