"""What a run prints: the epochs, a bar with the time left, and the metrics."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import Any, final

from luzpy.callbacks.bar import Bar, is_interactive
from luzpy.callbacks.metrics import computed
from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit
from luzpy.data.dataset import length_of
from luzpy.ground.durations import pretty_seconds
from luzpy.ground.records import epoch_arrays, epoch_metrics, seconds
from luzpy.metrics.values import shown

REFRESH_SECONDS = 0.1
# Live metrics may take at most this share of the time: one that is slow to compute is shown less
# often.
LIVE_SHARE = 0.02


@final
class Progress(Callback):
    """Prints the epochs and their metrics, and draws a bar (a default).

    In a terminal or notebook: `Epoch 1/10`, a bar with the time left and the metrics so far, then
    `Train metrics: Loss: 0.31 - Acc: 0.9` and `Valid metrics: ...`, with the time that the epoch
    took. If standard output is neither, one line per epoch. At the end, the total time. With
    `verbose=False`, nothing at all. Your own prints appear above the bar. Port of R luz's
    `luz_callback_progress()`.
    """

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._title = ""
        self._began = 0.0
        self._count = 0
        self._next = float("inf")

    def on_epoch_begin(self, ctx: Context) -> None:
        if ctx.verbose and is_interactive():
            _say(f"Epoch {ctx.epoch}/{ctx.max_epochs}")

    def on_train_begin(self, ctx: Context) -> None:
        self._open_bar(ctx, "Train")

    def on_train_batch_end(self, ctx: Context) -> None:
        self._count += 1
        if perf_counter() >= self._next:
            self._refresh(ctx, "train")

    def on_train_end(self, ctx: Context) -> None:
        self._close_bar()

    def on_valid_begin(self, ctx: Context) -> None:
        self._open_bar(ctx, "Valid")

    def on_valid_batch_end(self, ctx: Context) -> None:
        self._count += 1
        if perf_counter() >= self._next:
            self._refresh(ctx, "valid")

    def on_valid_end(self, ctx: Context) -> None:
        self._close_bar()

    def on_epoch_end(self, ctx: Context) -> None:
        if not ctx.verbose:
            return
        lines = [
            f"{title} metrics: {text}"
            for split, title in (("train", "Train"), ("valid", "Valid"))
            if (text := _epoch_metrics(ctx, split))
        ]
        if not is_interactive():
            lines = [" - ".join([f"Epoch {ctx.epoch}/{ctx.max_epochs}", *lines])]
        took = seconds(ctx.records, "epoch")
        if lines and took:
            lines[-1] += f" ({pretty_seconds(took[-1])})"
        for line in lines:
            _say(line)

    def on_interrupt(self, ctx: Context) -> None:
        self._close_bar()

    def on_early_stopping(self, ctx: Context) -> None:
        self._close_bar()

    def on_fit_end(self, ctx: Context) -> None:
        self._close_bar()
        took = seconds(ctx.records, "fit")
        if ctx.verbose and took:
            _say(f"Total time: {pretty_seconds(took[-1])}")

    def on_predict_begin(self, ctx: Context) -> None:
        self._open_bar(ctx, "Predict")

    def on_predict_batch_end(self, ctx: Context) -> None:
        self._count += 1
        if perf_counter() >= self._next:
            self._refresh(ctx, "predict")

    def on_predict_end(self, ctx: Context) -> None:
        self._close_bar()

    def _open_bar(self, ctx: Context, title: str) -> None:
        self._count, self._next = 0, float("inf")
        if not (ctx.verbose and is_interactive()):
            return
        self._title, self._began = title, perf_counter()
        at_exit(ctx, self._close_bar)
        self._next = self._began + REFRESH_SECONDS

    def _refresh(self, ctx: Context, split: str) -> None:
        begun = perf_counter()
        if self._bar is None:  # what is over before would only flicker
            self._bar = Bar(self._title, length_of(ctx.data), self._began)
        rows: dict[str, float] = {}
        arrays: dict[str, list[Any]] = {}
        for metric in ctx.metrics.get(split, []):
            if metric.is_shared:
                continue
            with suppress(Exception):  # some cannot be computed yet; at the epoch's end they must
                more_rows, more_arrays = computed(ctx, metric)
                rows |= more_rows
                arrays |= more_arrays
        self._bar.update(self._count, _listed(shown(rows, arrays), _display_names(ctx, split)))
        self._count = 0
        now = perf_counter()
        self._next = now + max(REFRESH_SECONDS, (now - begun) / LIVE_SHARE)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.update(self._count)
            self._bar.close()
            self._bar = None


def _display_names(ctx: Context, split: str) -> dict[str, str]:
    return {metric.abbrev.lower(): metric.abbrev for metric in ctx.metrics.get(split, [])}


def _listed(texts: dict[str, str], names: dict[str, str]) -> str:
    return " - ".join(f"{names.get(name, name)}: {text}" for name, text in texts.items())


def _epoch_metrics(ctx: Context, split: str) -> str:
    rows = epoch_metrics(ctx.records, split, ctx.epoch)
    arrays = epoch_arrays(ctx.records, split, ctx.epoch)
    return _listed(shown(rows, arrays), _display_names(ctx, split))


def _say(line: str) -> None:
    print(line, flush=True)
