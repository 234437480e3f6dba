"""What `lr_finder` may be asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import attrs

from luzpy.callbacks.early_stopping import EarlyStopping
from luzpy.callbacks.keep_best_model import KeepBestModel
from luzpy.callbacks.lr_scheduler import LRScheduler
from luzpy.callbacks.model_checkpoint import ModelCheckpoint
from luzpy.core.build import build_model
from luzpy.core.callback import Callback, check_callbacks
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.ground.arguments import check_count, check_flag, check_number, is_number
from luzpy.resume.auto_resume import AutoResume

REFUSED: dict[type[Callback], str] = {
    EarlyStopping: "it ends training by epochs, which a finder does not have",
    ModelCheckpoint: "it writes files by epochs, which a finder does not have",
    KeepBestModel: "it keeps the best epoch, which a finder does not have",
    AutoResume: "it keeps the state of a run in a file, and a finder's run is discarded",
    LRScheduler: "it sets the learning rate, which the finder varies",
}
"""Callbacks that the finder refuses, and why."""


def check_sweep(
    steps: int | None,
    start_lr: float,
    end_lr: float,
    log_spaced_intervals: bool,
    runs: int,
    valid_batches: int | None,
    stop_div: float | None,
) -> None:
    """Raise unless the arguments describe a sweep."""
    check_flag("log_spaced_intervals", log_spaced_intervals)
    check_count("steps", steps, optional=True)
    check_count("runs", runs)
    check_count("valid_batches", valid_batches, optional=True)
    check_number("start_lr", start_lr, above=0)
    check_number("end_lr", end_lr, above=0)
    if start_lr >= end_lr:
        raise ValueError(
            f"`start_lr` must be smaller than `end_lr`, got {start_lr!r} and {end_lr!r}."
        )
    rule = f"`stop_div` must be a positive number or None, got {stop_div!r}."
    if stop_div is not None and not is_number(stop_div):
        raise TypeError(rule)
    if stop_div is not None and not stop_div > 0:
        raise ValueError(rule)


def check_confirm(confirm: int | None, confirm_steps: int | None) -> None:
    """Raise unless the arguments describe rounds of short training runs."""
    check_count("confirm", confirm, optional=True)
    check_count("confirm_steps", confirm_steps, optional=True)
    if confirm_steps is not None and confirm is None:
        raise ValueError(
            f"`confirm_steps` is how long the last round of `confirm` is: it must be None without "
            f"one, got {confirm_steps!r}."
        )


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


def with_start_lr(model: Spec[Result], start_lr: float) -> Spec[Result]:
    """The model with a learning rate where its optimizer cannot be made without one."""
    if "lr" in model.opt_hparams:
        return model
    maker: Callable[..., object] | None = model.optimizer or getattr(
        model.module, "set_optimizers", None
    )
    if maker is None:  # `module` is a function: only what it makes can tell
        maker = getattr(build_model(model, model.hparams), "set_optimizers", None)
    try:
        lr = inspect.signature(maker).parameters.get("lr") if maker else None
    except (TypeError, ValueError):
        return model
    if lr is None or lr.default is not inspect.Parameter.empty:
        return model
    return attrs.evolve(model, opt_hparams={**model.opt_hparams, "lr": start_lr})
