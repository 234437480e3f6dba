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
        self._previous: Any = None

    def on_fit_begin(self, ctx: Context) -> None:
        """Listen for Ctrl-C (only the main thread can)."""
        self._previous = None
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):

            def pressed(signum: int, frame: FrameType | None) -> None:
                if ctx.stop_wanted is not None:
                    raise SecondInterrupt
                ctx.request_stop(StopFit("interrupted", "on_interrupt"))

            self._previous = signal.signal(signal.SIGINT, pressed)
            ctx.at_exit.append(self._stop_listening)

    def _stop_listening(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
