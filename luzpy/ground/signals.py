"""Listening for signals, and putting things back as they were."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


def replaceable(signum: int) -> bool:
    """Whether a handler of Python's can take the place of the signal's own, and put it back.

    Only the main thread can set handlers. One that is ignored stays so, and one that was not
    installed from Python could not be put back.
    """
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signum) not in (signal.SIG_IGN, None)


def replace_handler(signum: int, handler: Handler) -> Callable[[], None]:
    """Install a handler; returns what puts the one from before back."""
    previous = signal.signal(signum, handler)

    def put_back() -> None:
        signal.signal(signum, previous)

    return put_back
