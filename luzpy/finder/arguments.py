"""What `lr_finder` may be asked for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from luzpy.callback import Callback, check_callbacks
from luzpy.callbacks.auto_resume import AutoResume
from luzpy.callbacks.early_stopping import EarlyStopping
from luzpy.callbacks.keep_best_model import KeepBestModel
from luzpy.callbacks.lr_scheduler import LRScheduler
from luzpy.callbacks.model_checkpoint import ModelCheckpoint

if TYPE_CHECKING:
    from luzpy.module import LuzModule

REFUSED: dict[type[Callback], str] = {
    EarlyStopping: "it ends training by epochs, which a finder does not have",
    ModelCheckpoint: "it writes files by epochs, which a finder does not have",
    KeepBestModel: "it keeps the best epoch, which a finder does not have",
    AutoResume: "it keeps the state of a run in a file, and a finder's is thrown away",
    LRScheduler: "it sets the learning rate, which the finder varies",
}
"""Callbacks that the finder refuses, and why."""


def check_sweep(
    steps: Any, start_lr: Any, end_lr: Any, runs: Any, valid_batches: Any, stop_div: Any
) -> None:
    """Raise unless the numbers describe a sweep."""
    for name, value, optional in (
        ("steps", steps, True),
        ("runs", runs, False),
        ("valid_batches", valid_batches, True),
    ):
        if optional and value is None:
            continue
        rule = f"`{name}` must be a positive whole number{' or None' if optional else ''}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{rule}, got {value!r}.")
        if value < 1:
            raise ValueError(f"{rule}, got {value!r}.")
    for name, value in (("start_lr", start_lr), ("end_lr", end_lr)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number, got {value!r}.")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be positive and finite, got {value!r}.")
    if start_lr >= end_lr:
        raise ValueError(
            f"`start_lr` must be smaller than `end_lr`, got {start_lr!r} and {end_lr!r}."
        )
    if stop_div is not None:
        if isinstance(stop_div, bool) or not isinstance(stop_div, (int, float)):
            raise TypeError(f"`stop_div` must be a positive number or None, got {stop_div!r}.")
        if not stop_div > 0:
            raise ValueError(f"`stop_div` must be a positive number or None, got {stop_div!r}.")


def allowed_callbacks(callbacks: Sequence[Callback] | Callback | None) -> list[Callback]:
    """The callbacks, if a finder can have them.

    Raises:
        ValueError: If one manages epochs, files or the learning rate; it says why not.
    """
    given = check_callbacks(callbacks)
    for callback in given:
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise ValueError(
                    f"`callbacks` must not hold {kind.__name__} in lr_finder: {reason}."
                )
    return given


def with_start_lr(model: LuzModule, start_lr: float) -> LuzModule:
    """The model with a learning rate where its optimizer cannot be made without one."""
    if "lr" in model.opt_hparams:
        return model
    maker: Any = model.optimizer or getattr(model.module, "set_optimizers", None)
    if maker is None:  # `module` is a function: only what it makes can tell
        maker = getattr(model(), "set_optimizers", None)
    try:
        lr = inspect.signature(maker).parameters.get("lr")
    except (TypeError, ValueError):
        return model
    if lr is None or lr.default is not inspect.Parameter.empty:
        return model
    return attrs.evolve(model, opt_hparams={**model.opt_hparams, "lr": start_lr})
