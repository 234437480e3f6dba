"""Ctrl-C."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit
from luzpy.ground.signals import replace_handler, replaceable


@final
class Interrupt(Callback):
    """Ends training cleanly on Ctrl-C (a default of `fit` and `lr_finder`).

    On the first Ctrl-C the current batch is finished, so that weights are never left half updated;
    then `on_interrupt` and `on_fit_end` are called, and the model fitted so far is returned. A
    second one raises `KeyboardInterrupt` immediately. A line on standard error says so, unless
    `verbose=False`. Port of R luz's `luz_callback_interrupt()`.
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

    def on_interrupt(self, ctx: Context) -> None:
        if ctx.verbose:
            # A terminal has written `^C`: over it.
            start = "\r" if getattr(sys.stderr, "isatty", bool)() else ""
            print(
                f"{start}Interrupted {_place(ctx)}; this fit has ended and returns the model "
                "trained so far. (A second Ctrl-C during a fit raises KeyboardInterrupt.)",
                file=sys.stderr,
                flush=True,
            )


def _place(ctx: Context) -> str:
    if not ctx.epoch:
        return "before the first epoch"
    part = "batch" if ctx.training else "validation batch"
    return f"at epoch {ctx.epoch}, {part} {ctx.iter}"
