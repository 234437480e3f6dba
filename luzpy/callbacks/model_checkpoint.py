"""A file for every epoch, or for every best one."""

from __future__ import annotations

import os
from typing import final

from luzpy.callbacks.monitor import Monitor
from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.files.atomic import real_path
from luzpy.files.checkpoint import write_checkpoint
from luzpy.files.template import PathTemplate
from luzpy.ground.arguments import check_flag
from luzpy.ground.types import Values

DEFAULT_NAME = "epoch-{epoch:02d}-{monitor_name}-{monitor:.3f}.pt"


@final
class ModelCheckpoint(Callback):
    """Writes a checkpoint after every epoch: model, optimizers, callbacks and records.

    Port of R luz's `luz_callback_model_checkpoint()`. Files are written atomically.
    `load_checkpoint` loads one into a fitted model, `ResumeFromCheckpoint` into a run.

    Args:
        path: The file. A path ending in `/` gets the name
            `epoch-{epoch:02d}-{monitor_name}-{monitor:.3f}.pt`. Templates are filled in by
            `str.format` with exactly these fields: `epoch`, `monitor_name`, `monitor`.
        monitor: The metric that determines the best epoch, for example `"valid_loss"`.
        save_best_only: Whether to write only when it has improved.
        mode: `"min"`, `"max"` or `"zero"` (closer to zero): which direction is better. None: use
            the metric's `higher_is_better`.
        min_delta: An improvement must be larger than this.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of bounds, or the template has another field.
        LuzError: In a run: if there is no such metric, it is unknown which direction is better, or
            the file cannot be written.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.ModelCheckpoint("models/", save_best_only=True)
        <luzpy.callbacks.ModelCheckpoint: models/epoch-{epoch:02d}-{monitor_name}-{monitor:.3f}.pt>
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "valid_loss",
        save_best_only: bool = False,
        mode: str | None = None,
        min_delta: float = 0,
    ) -> None:
        real_path(path)
        check_flag("save_best_only", save_best_only)
        name = os.fspath(path)
        if name.endswith(("/", os.sep)):
            name += DEFAULT_NAME
        self.path: PathTemplate = PathTemplate(name)
        self.monitor: Monitor = Monitor(monitor, mode, min_delta)
        self.save_best_only = save_best_only
        self.current_best: float | None = None

    def on_fit_begin(self, ctx: Context) -> None:
        self.monitor.check(ctx)
        self.current_best = None
        ctx.accelerator.broadcast_from_main(self.path.check_writable)

    def on_epoch_end(self, ctx: Context) -> None:
        value, improved = self.monitor.look(ctx, self.current_best)
        if improved:
            self.current_best = value
        if improved or not self.save_best_only:
            write_checkpoint(
                ctx, self.path.fill(epoch=ctx.epoch, monitor_name=self.monitor.name, monitor=value)
            )

    def state_dict(self) -> Values:
        return {"current_best": self.current_best}

    def load_state_dict(self, state: Values) -> None:
        self.current_best = state["current_best"]

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.ModelCheckpoint: {self.path.template}>"
