"""Watching a metric: which one, and whether it improved."""

from __future__ import annotations

import math

import attrs

from luzpy.core.context import Context, internals
from luzpy.ground.arguments import check_choice, check_number
from luzpy.ground.errors import LuzError
from luzpy.ground.records import epoch_metrics
from luzpy.metrics.direction import directions, owner_of

MODES = ("min", "max", "zero")


@attrs.frozen
class Monitor:
    """A quantity `<set>_<metric>`, such as `"valid_loss"`, and what counts as better.

    Args:
        name: The set up to the first `_`, then the metric's `abbrev`, in upper or lower case.
        mode: `"min"`, `"max"` or `"zero"` (closer to zero is better). None: the metric says.
        min_delta: An improvement must be larger than this.

    Raises:
        ValueError: If an argument is none of these.
    """

    name: str
    mode: str | None = None
    min_delta: float = 0.0
    set: str = attrs.field(init=False)
    metric: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        split, _, metric = str(self.name).partition("_")
        if split not in ("train", "valid") or not metric:
            raise ValueError(
                "`monitor` must be 'train_<metric>' or 'valid_<metric>', for example "
                f"'valid_loss', got {self.name!r}."
            )
        if self.mode is not None:
            check_choice("mode", self.mode, MODES)
        check_number("min_delta", self.min_delta, minimum=0)
        object.__setattr__(self, "set", split)
        object.__setattr__(self, "metric", metric.lower())

    def check(self, ctx: Context) -> None:
        """Fail at the start of a run that can never have the quantity.

        Raises:
            LuzError: If there is no validation data to watch, or the metric does not say which way
                is better.
        """
        if self.set == "valid" and ctx.valid_data is None:
            raise LuzError(
                f"`monitor` is {self.name!r}, but there is no `valid_data`; give some, or monitor "
                f"'train_{self.metric}'."
            )
        if self.mode is None and self.metric in (known := self._directions(ctx)):
            self._mode(known[self.metric])

    def look(self, ctx: Context, best: float | None) -> tuple[float, bool]:
        """The quantity in this epoch, and whether it is better than `best`.

        Raises:
            LuzError: If there is none of that name, or nobody knows which way is better.
        """
        value = self.value(ctx)
        return value, self._with_mode(ctx).improved(value, best)

    def is_better(self, ctx: Context, new: float, old: float) -> bool:
        """Whether one value is better than another; NaN is neither better nor worse."""
        monitor = attrs.evolve(self._with_mode(ctx), min_delta=0)
        return not math.isnan(old) and monitor.improved(new, old)

    def value(self, ctx: Context) -> float:
        """The quantity in this epoch; with several processes, the main one's for all.

        Raises:
            LuzError: If there is none of that name.
        """
        rows = epoch_metrics(ctx.records, self.set, ctx.epoch)
        for name, value in rows.items():
            if name.lower() == self.metric:  # `ctx.log_metric` keeps names as they are given
                return ctx.accelerator.broadcast(value)
        known = [f"{self.set}_{name}" for name in rows]
        raise LuzError(
            f"`monitor` must be one of {', '.join(map(repr, known))}, got {self.name!r}."
        )

    def improved(self, new: float, best: float | None) -> bool:
        """Whether `new` is better than `best`; anything but NaN is better than None."""
        if math.isnan(new):
            return False
        if best is None:
            return True
        if self.mode == "min":
            return new < best - self.min_delta
        if self.mode == "max":
            return new > best + self.min_delta
        return abs(new) < abs(best) - self.min_delta

    def _with_mode(self, ctx: Context) -> Monitor:
        if self.mode is not None:
            return self
        known = self._directions(ctx)
        rows = epoch_metrics(ctx.records, self.set, ctx.epoch)
        owner = owner_of(self.metric, known, rows)
        return attrs.evolve(self, mode=self._mode(known[owner] if owner else None))

    def _directions(self, ctx: Context) -> dict[str, bool | None]:
        return directions(getattr(internals(ctx).metric_set, self.set, ()))

    def _mode(self, higher_is_better: bool | None) -> str:
        if not isinstance(higher_is_better, bool):
            raise LuzError(
                f"`mode` must be 'min', 'max' or 'zero' for {self.name!r}, as no metric's "
                "`higher_is_better` says which way is better, got None."
            )
        return "max" if higher_is_better else "min"
