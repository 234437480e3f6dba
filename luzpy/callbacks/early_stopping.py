"""Stopping when nothing improves."""

from __future__ import annotations

from typing import final

from luzpy.callbacks.monitor import Monitor
from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.ground.arguments import check_count, check_number
from luzpy.ground.types import Values


@final
class EarlyStopping(Callback):
    """Ends training when a monitored metric has stopped improving.

    It stops after `max(patience, 1)` epochs in a row without improvement, and never before
    `min_epochs`. Port of R luz's `luz_callback_early_stopping()`, where a patience of 0 stops even
    while the metric improves.

    Args:
        monitor: `"<set>_<metric>"`, for example `"valid_loss"` or `"train_acc"`.
        min_delta: An improvement must be larger than this.
        patience: How many epochs in a row may pass without improvement.
        mode: `"min"`, `"max"` or `"zero"` (closer to zero): which direction is better. None: use
            the metric's `higher_is_better`.
        baseline: The value that the first epoch has to improve on, if any.
        stopping_threshold: Stop once the metric is at least this good.
        divergence_threshold: Stop once the metric is worse than this.

    Raises:
        ValueError: If an argument is out of bounds.
        LuzError: In a run: if there is no such metric, or it is unknown which direction is better.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.EarlyStopping(monitor="train_loss", patience=3)
        <luzpy.callbacks.EarlyStopping: train_loss, patience 3>
    """

    weight: float = float("inf")

    def __init__(
        self,
        monitor: str = "valid_loss",
        min_delta: float = 0,
        patience: int = 0,
        mode: str | None = None,
        baseline: float | None = None,
        *,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        self.monitor: Monitor = Monitor(monitor, mode, min_delta)
        check_count("patience", patience, minimum=0)
        for name, value in (
            ("baseline", baseline),
            ("stopping_threshold", stopping_threshold),
            ("divergence_threshold", divergence_threshold),
        ):
            if value is not None:
                check_number(name, value)
        self.patience = patience
        self.baseline = baseline
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self._begin()

    def _begin(self) -> None:
        self.current_best: float | None = self.baseline
        self.patience_counter: int = 0

    def on_fit_begin(self, ctx: Context) -> None:
        self.monitor.check(ctx)
        self._begin()

    def on_epoch_end(self, ctx: Context) -> None:
        value, improved = self.monitor.look(ctx, self.current_best)
        if improved:
            self.current_best = value
            self.patience_counter = 0
        else:
            self.patience_counter += 1
        ends = self.patience_counter >= max(self.patience, 1) or self._is_beyond(ctx, value)
        if ends and ctx.epoch >= ctx.min_epochs:
            ctx.stop("early stopping")

    def _is_beyond(self, ctx: Context, value: float) -> bool:
        """Whether the quantity is as good as one threshold, or worse than the other."""
        good, bad = self.stopping_threshold, self.divergence_threshold
        if good is not None and (value == good or self.monitor.is_better(ctx, value, good)):
            return True
        return bad is not None and self.monitor.is_better(ctx, bad, value)

    def on_early_stopping(self, ctx: Context) -> None:
        if ctx.verbose:
            print(f"Early stopping at epoch {ctx.epoch} of {ctx.max_epochs}")

    def state_dict(self) -> Values:
        return {"current_best": self.current_best, "patience_counter": self.patience_counter}

    def load_state_dict(self, state: Values) -> None:
        self.current_best = state["current_best"]
        self.patience_counter = state["patience_counter"]

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.EarlyStopping: {self.monitor.name}, patience {self.patience}>"
