"""How long things take."""

from __future__ import annotations

from time import perf_counter
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context


@final
class Profile(Callback):
    """Logs times in seconds in `records["profile"]`: `fit`, and per epoch `epoch`, `train`,
    `valid`.

    A default of `fit` and `evaluate`. Port of R luz's `luz_callback_profile()`.
    """

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}

    def on_fit_begin(self, ctx: Context) -> None:
        self._begun = {"fit": perf_counter()}

    def on_fit_end(self, ctx: Context) -> None:
        self._log(ctx, "fit")

    def on_epoch_begin(self, ctx: Context) -> None:
        self._begun["epoch"] = perf_counter()

    def on_epoch_end(self, ctx: Context) -> None:
        self._log(ctx, "epoch")

    def on_train_begin(self, ctx: Context) -> None:
        self._begun["train"] = perf_counter()

    def on_train_end(self, ctx: Context) -> None:
        self._log(ctx, "train")

    def on_valid_begin(self, ctx: Context) -> None:
        self._begun["valid"] = perf_counter()

    def on_valid_end(self, ctx: Context) -> None:
        self._log(ctx, "valid")

    def state_dict(self) -> dict[str, float]:
        now = perf_counter()
        return {what: now - begun for what, begun in self._begun.items()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        now = perf_counter()
        self._begun = {what: now - seconds for what, seconds in state.items()}

    def _log(self, ctx: Context, what: str) -> None:
        ctx.log("profile", what, perf_counter() - self._begun[what])
