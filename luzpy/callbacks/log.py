"""Metrics for an experiment tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.ground.arguments import shown
from luzpy.ground.records import SETS, epoch_metrics


@final
class Log(Callback):
    """Passes the metrics of every epoch to a function, such as that of an experiment tracker.

    `fn({"train_loss": 0.4, "valid_loss": 0.5, "valid_acc": 0.9}, 3)` is called once for each
    completed epoch, in the main process. With `AutoResume`, it is called after the epoch's state
    has been saved, so that a killed and resumed run passes nothing on twice.

    Args:
        fn: A function of the values, with names as in `monitor`, and the epoch.

    Raises:
        TypeError: If `fn` is not callable.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.Log(lambda values, step: print(step, values["train_loss"]))
        <luzpy.callbacks.Log: <lambda>>
    """

    def __init__(self, fn: Callable[[Mapping[str, float], int], object]) -> None:
        if not callable(fn):
            raise TypeError(f"`fn` must be a function of the values and the step, got {shown(fn)}.")
        self.fn = fn
        self._ended: tuple[dict[str, float], int] | None = None

    def on_fit_begin(self, ctx: Context) -> None:
        self._ended = None

    def on_epoch_begin(self, ctx: Context) -> None:
        self._hand_over()

    def on_epoch_end(self, ctx: Context) -> None:
        if ctx.accelerator.is_main:
            values = {
                f"{set}_{name}": value
                for set in SETS
                for name, value in epoch_metrics(ctx.records, set, ctx.epoch).items()
            }
            self._ended = values, ctx.epoch

    def on_fit_end(self, ctx: Context) -> None:
        self._hand_over()

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.Log: {getattr(self.fn, '__name__', type(self.fn).__name__)}>"

    def _hand_over(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self.fn(*ended)
