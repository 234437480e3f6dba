"""SIGTERM, which clusters send before they kill."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import final

from luzpy.ground.signals import replace_handler, replaceable

# How long a completed run has to return before the signal is sent again.
LATE_SECONDS = 1.0


@final
class Sigterm:
    """Stops a run on SIGTERM, and ends the process when the run is over.

    Attributes:
        received: Whether the signal has come, perhaps to another process of the run.
    """

    def __init__(self) -> None:
        self.received = False
        self._is_complete = self._is_late = False
        self._stop: Callable[[], None]
        self._previous: Callable[[int, FrameType | None], object] | None = None
        self._put_back: list[Callable[[], None]] = []

    def listen(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the signal comes."""
        if replaceable(signal.SIGTERM):
            self._stop, previous = stop, signal.getsignal(signal.SIGTERM)
            self._previous = previous if callable(previous) else None
            self._put_back.append(replace_handler(signal.SIGTERM, self._handle))

    def complete(self) -> bool:
        """Defer signals until the run has returned; returns whether none has come so far."""
        self._is_complete = True
        return not self.received

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._is_complete:
            self._is_late = True
            return
        self.received = True
        self._stop()
        # Worker processes are told to end as well, and torch would raise in the middle of a step
        # that one of them has.
        child = getattr(signal, "SIGCHLD", None)
        if child is not None and len(self._put_back) == 1 and replaceable(child):
            self._put_back.append(replace_handler(child, _ignore))

    def end(self) -> None:
        """Restore the previous handlers, and exit with status 143 if the signal has come.

        One that has come to a run which is complete is sent again, when the run has returned.
        """
        for put_back in reversed(self._put_back):
            put_back()
        if self.received:
            if self._previous is not None:
                self._previous(signal.SIGTERM, None)
            raise SystemExit(128 + signal.SIGTERM)
        if self._is_late:
            again = threading.Timer(LATE_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
            again.daemon = True
            again.start()


def _ignore(signum: int, frame: FrameType | None) -> None:
    return
