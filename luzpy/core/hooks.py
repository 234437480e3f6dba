"""The hooks of a run, and the order in which it calls them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, Protocol

HOOKS: tuple[str, ...] = (
    "on_fit_begin",
    "on_epoch_begin",
    "on_train_begin",
    "on_train_batch_begin",
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
    "on_train_batch_end",
    "on_train_end",
    "on_valid_begin",
    "on_valid_batch_begin",
    "on_valid_batch_after_pred",
    "on_valid_batch_after_loss",
    "on_valid_batch_end",
    "on_valid_end",
    "on_epoch_end",
    "on_fit_end",
    "on_predict_begin",
    "on_predict_batch_begin",
    "on_predict_batch_end",
    "on_predict_end",
    "on_interrupt",
    "on_early_stopping",
)
"""Every hook, in the order in which a run calls them."""

STOP_HOOKS = {"interrupted": "on_interrupt", "early stopping": "on_early_stopping"}
"""The hook that is called before `on_fit_end` when a run has stopped for this reason."""

# Other libraries' words, and luz's.
_ELSEWHERE = (("start", "begin"), ("finish", "end"), ("validation", "valid"), ("val_", "valid_"))

Hook = Callable[[Any], None]
"""A function of the `Context`."""


class HookOwner(Protocol):
    """What a context needs to know of a callback; see `Callback`."""

    @property
    def weight(self) -> float: ...
    @property
    def runs_last(self) -> bool: ...

    def hook(self, name: str) -> Hook | None: ...


def check_hook(name: str) -> None:
    """Raise a TypeError unless there is a hook of that name."""
    if name not in HOOKS:
        written = name
        for other, own in _ELSEWHERE:
            written = written.replace(other, own)
        nearest = " or ".join(difflib.get_close_matches(written, HOOKS, n=2, cutoff=0))
        raise TypeError(
            f"`{name}` is not a hook of luzpy: did you mean {nearest}? The hooks are "
            f"{', '.join(HOOKS)}."
        )
