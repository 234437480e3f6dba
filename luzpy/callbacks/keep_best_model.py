"""The best epoch's weights, at the end."""

from __future__ import annotations

from typing import final

from luzpy.callbacks.monitor import Monitor
from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.core.loss import trained_loss
from luzpy.core.modules import unwrapped
from luzpy.files.checkpoint import load_model_state
from luzpy.ground.nested import to_cpu_copy
from luzpy.ground.records import set_best
from luzpy.ground.types import Values


@final
class KeepBestModel(Callback):
    """Ends the fit with the weights of the best epoch instead of the last one.

    It also does so after early stopping and Ctrl-C. `fitted.best_epoch` is that epoch, and printing
    the fitted model shows its metrics. The weights are kept in memory, on the CPU. Port of R luz's
    `luz_callback_keep_best_model()`.

    Args:
        monitor: The metric that determines the best epoch, for example `"valid_loss"`.
        mode: `"min"`, `"max"` or `"zero"` (closer to zero): which direction is better. None: use
            the metric's `higher_is_better`.
        min_delta: An improvement must be larger than this.

    Raises:
        ValueError: If an argument is out of bounds.
        LuzError: In a run: if there is no such metric, or it is unknown which direction is better.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.KeepBestModel(monitor="valid_acc")
        <luzpy.callbacks.KeepBestModel: valid_acc>
    """

    weight: float = float("inf")

    def __init__(
        self, monitor: str = "valid_loss", mode: str | None = None, min_delta: float = 0
    ) -> None:
        self.monitor: Monitor = Monitor(monitor, mode, min_delta)
        self._begin()

    def _begin(self) -> None:
        self.current_best: float | None = None
        self.best_epoch: int | None = None
        self._best: Values | None = None
        self._best_loss: Values | None = None

    def on_fit_begin(self, ctx: Context) -> None:
        self.monitor.check(ctx)
        self._begin()

    def on_epoch_end(self, ctx: Context) -> None:
        value, improved = self.monitor.look(ctx, self.current_best)
        if improved:
            self.current_best, self.best_epoch = value, ctx.epoch
            state = ctx.accelerator.full_state(unwrapped(ctx.model).state_dict())
            self._best = to_cpu_copy(state)
            loss = trained_loss(ctx)
            self._best_loss = None if loss is None else to_cpu_copy(loss.state_dict())

    def on_fit_end(self, ctx: Context) -> None:
        if self._best is not None:
            load_model_state(ctx, self._best)
            set_best(ctx.records, self.best_epoch, self.monitor.name)
            loss = trained_loss(ctx)
            if loss is not None and self._best_loss is not None:
                loss.load_state_dict(self._best_loss)
        self._best = self._best_loss = None

    def state_dict(self) -> Values:
        return {
            "current_best": self.current_best,
            "best_epoch": self.best_epoch,
            "best": self._best,
            "best_loss": self._best_loss,
        }

    def load_state_dict(self, state: Values) -> None:
        self.current_best = state["current_best"]
        self.best_epoch = state.get("best_epoch")  # luzpy 0.1.0 did not write it
        self._best = state["best"]
        self._best_loss = state.get("best_loss")

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.KeepBestModel: {self.monitor.name}>"
