"""Metrics for TensorBoard."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit
from luzpy.core.modules import unwrapped
from luzpy.files.atomic import real_path
from luzpy.ground.nested import is_sequence
from luzpy.ground.records import SETS, epoch_metrics
from luzpy.ground.types import Values

# torch's histograms end below 1e20, and fail on what lies beyond or is not a number.
LARGEST = 1e19


@final
class TFEvents(Callback):
    """Logs the metrics of every epoch, and histograms of the weights, for TensorBoard.

    As in R luz, each set is a separate TensorBoard run, drawn into the same plot: the folders
    `train` and `valid` of `logdir`, with the metrics' names as tags, and `weights` with those of
    the parameters. The step is the epoch. A resumed run replaces the epochs that it repeats. Needs
    `pip install luzpy[tensorboard]`. Port of R luz's `luz_callback_tfevents()`.

    Args:
        logdir: The folder, as in `tensorboard --logdir=logs`.
        histograms: Whether to log the weights, or a list of the parameters to log, by their names
            in `model.named_parameters()`.

    Raises:
        ImportError: If TensorBoard is not installed.
        TypeError: If an argument is of the wrong type.
        LuzError: In a run: if the model has no parameter of that name.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.TFEvents("logs", histograms=["fc.weight"])
        <luzpy.callbacks.TFEvents: logs>
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str] = "logs",
        histograms: bool | list[str] | tuple[str, ...] = False,
    ) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError("TFEvents needs TensorBoard: pip install 'luzpy[tensorboard]'.")
        real_path(logdir, "logdir")
        self.logdir: Path = Path(logdir).expanduser()
        self.histograms: bool | list[str] = _checked_histograms(histograms)
        self._writers: Values = {}

    def on_fit_begin(self, ctx: Context) -> None:
        list(self._parameters(ctx))
        if self.histograms is not False and ctx.accelerator.is_sharded:
            raise ValueError(
                f"`histograms` must be False with FSDP, got {self.histograms!r}: no process has "
                "the full parameters."
            )
        at_exit(ctx, self._close)

    def on_epoch_end(self, ctx: Context) -> None:
        if not ctx.accelerator.is_main:
            return
        for set in SETS:
            for name, value in epoch_metrics(ctx.records, set, ctx.epoch).items():
                self._writer(set, ctx.epoch).add_scalar(name, value, ctx.epoch)
        for name, parameter in self._parameters(ctx):
            values = parameter.detach().float()
            values = values[values.abs() < LARGEST]
            if values.numel():
                self._writer("weights", ctx.epoch).add_histogram(name, values, ctx.epoch)
        for writer in self._writers.values():
            writer.flush()

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.TFEvents: {self.logdir}>"

    def _parameters(self, ctx: Context) -> Iterator[tuple[str, torch.Tensor]]:
        if self.histograms is False:
            return
        known = dict(unwrapped(ctx.model).named_parameters())
        for name in known if self.histograms is True else self.histograms:
            if name not in known:
                raise ValueError(
                    f"`histograms` must name parameters of the model, {', '.join(known)}, got "
                    f"{name!r}."
                )
            yield name, known[name]

    def _writer(self, run: str, epoch: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if run not in self._writers:
            # Made at the first event: only then is it known whether the run was resumed.
            purge = epoch if epoch > 1 else None
            self._writers[run] = SummaryWriter(str(self.logdir / run), purge_step=purge)
        return self._writers[run]

    def _close(self) -> None:
        while self._writers:
            self._writers.popitem()[1].close()


def _checked_histograms(histograms: object) -> bool | list[str]:
    if isinstance(histograms, bool):
        return histograms
    if is_sequence(histograms) and all(isinstance(name, str) for name in histograms):
        return list(histograms)
    raise TypeError(
        f"`histograms` must be True, False or a list of parameters' names, got {histograms!r}."
    )
