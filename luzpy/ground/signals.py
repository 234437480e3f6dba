"""Listening for signals, and restoring their handlers."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], object]

_SIGACTION_BYTES = 1024  # larger than any system's `struct sigaction`


def replaceable(signum: int) -> bool:
    """Whether a handler of Python's can take the place of the signal's own, and put it back.

    Only the main thread can set handlers. One that is ignored stays so, and one that was not
    installed from Python could not be put back.
    """
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signum) not in (signal.SIG_IGN, None)


def replace_handler(signum: int, handler: Handler) -> Callable[[], None]:
    """Install a handler; returns a function that restores the previous one."""
    action = _system_action(signum)
    previous = signal.signal(signum, handler)

    def put_back() -> None:
        signal.signal(signum, previous)
        if action is not None:
            action()

    return put_back


def _system_action(signum: int) -> Callable[[], None] | None:
    """What puts the system's own record of a handler back; None where there is none.

    Python does not know of handlers that were installed from C behind its back, as
    `faulthandler.register` does.
    """
    try:
        sigaction: Any = ctypes.CDLL(None).sigaction
    except (OSError, TypeError, AttributeError):  # Windows
        return None
    record = ctypes.create_string_buffer(_SIGACTION_BYTES)
    if sigaction(signum, None, record) != 0:
        return None
    return lambda: sigaction(signum, record, None)
