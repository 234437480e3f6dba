"""Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, final

from luzpy.callback import Callback
from luzpy.context import Context, StopFit
from luzpy.loop import SecondInterrupt


@final
class Interrupt(Callback):
    """Ends training in an orderly way on Ctrl-C (a default of `fit` and `lr_finder`).

    The first Ctrl-C lets the current batch finish, so that weights are never left half updated;
    then `on_interrupt` and `on_fit_end` are called and what has been fitted so far is returned. A
    second one raises `KeyboardInterrupt` at once. Port of R luz's `luz_callback_interrupt()`.
    """

    def __init__(self) -> None:
        self._pressed = False
        self._previous: Any = None

    def on_fit_begin(self, ctx: Context) -> None:
        """Listen for Ctrl-C (only the main thread can)."""
        self._pressed = False
        self._previous = None
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
            ctx.at_exit.append(self._stop_listening)

    def on_train_batch_end(self, ctx: Context) -> None:
        """Stop here if Ctrl-C was pressed."""
        if self._pressed:
            raise StopFit("interrupted", "on_interrupt")

    def on_valid_batch_end(self, ctx: Context) -> None:
        """Stop here if Ctrl-C was pressed."""
        if self._pressed:
            raise StopFit("interrupted", "on_interrupt")

    def on_epoch_end(self, ctx: Context) -> None:
        """Stop here if Ctrl-C was pressed."""
        if self._pressed:
            raise StopFit("interrupted", "on_interrupt")

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise SecondInterrupt
        self._pressed = True

    def _stop_listening(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
