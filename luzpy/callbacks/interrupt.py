"""Ctrl-C."""

from __future__ import annotations

import signal
from types import FrameType
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit
from luzpy.ground.signals import replace_handler, replaceable


@final
class Interrupt(Callback):
    """Ends training in an orderly way on Ctrl-C (a default of `fit` and `lr_finder`).

    The first Ctrl-C lets the current batch finish, so that weights are never left half updated;
    then `on_interrupt` and `on_fit_end` are called and what has been fitted so far is returned. A
    second one raises `KeyboardInterrupt` at once. Port of R luz's `luz_callback_interrupt()`.
    """

    def on_fit_begin(self, ctx: Context) -> None:
        if not replaceable(signal.SIGINT):
            return
        pressed = False

        def press(signum: int, frame: FrameType | None) -> None:
            nonlocal pressed
            if pressed:
                raise KeyboardInterrupt
            pressed = True
            ctx.stop("interrupted")

        at_exit(ctx, replace_handler(signal.SIGINT, press))
