"""A warning about a training loss that is not finite."""

from __future__ import annotations

import math
import warnings
from typing import Any, final

from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.ground.records import add_warning, epoch_metrics, warnings_of

SUBJECT = "The training loss"
ADVICE = (
    "A lower learning rate or GradientClip() may keep it finite; StopOnNaN() ends a run that has "
    "such a loss."
)


@final
class LossWatch(Callback):
    """Warns once if the training loss is NaN or infinite (a default of `fit`).

    It checks the logged loss at the end of an epoch: no batch waits for it.
    """

    def on_train_end(self, ctx: Context) -> None:
        _look(ctx)

    def on_fit_end(self, ctx: Context) -> None:
        _look(ctx)  # at an epoch that was broken off


def _look(ctx: Context) -> None:
    rows = epoch_metrics(ctx.records, "train", ctx.epoch)
    losses = [value for name, value in rows.items() if name == "loss" or name[:5] == "loss_"]
    if all(map(math.isfinite, losses)) or _has_warned(ctx):
        return
    loss: Any = ctx.metrics["train"][0]
    own = getattr(loss, "metric", loss).first_not_finite()  # of this process's batches
    first: dict[str, int] = {}
    for found in ctx.accelerator.gather(own):
        for name, batch in found.items():
            first[name] = min(batch, first.get(name, batch))
    if not first:
        return
    name = min(first, key=lambda name: first[name])
    owner = f" of the optimizer {name!r}" if len(losses) > 1 else ""
    text = f"{SUBJECT}{owner} is not finite: first at epoch {ctx.epoch}, batch {first[name]}."
    add_warning(ctx.records, text)
    if ctx.accelerator.is_main:
        warnings.warn(f"{text} {ADVICE}", UserWarning, stacklevel=2)


def _has_warned(ctx: Context) -> bool:
    return any(text.startswith(SUBJECT) for text in warnings_of(ctx.records))
