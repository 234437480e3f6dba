"""All processes stop at the same batch."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context, Stop, internals
from luzpy.core.modules import unwrapped
from luzpy.distributed.gradient_sync import broadcast_buffers
from luzpy.distributed.process_group import ProcessGroup

# How many batches may pass before all ranks know that one of them was told to stop: fewer where
# they take longer than this many seconds together, for a launcher does not wait for long.
AGREE_EVERY = 10
AGREE_SECONDS = 1.0


@final
class StopSync(Callback):
    """Holds `ctx.stop` of one process back until all of them know of it."""

    runs_last = True

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def on_fit_begin(self, ctx: Context) -> None:
        self._every, self._passed, self._since = 1, 0, perf_counter()
        run = internals(ctx)
        self._stop = run.stop
        self._requested = run.requested = Stop()
        self._stop.reason = _first(self.group.all_gather_object(run.stop.reason))

    def on_train_batch_end(self, ctx: Context) -> None:
        self._agree(ctx, now=False)

    def on_valid_batch_end(self, ctx: Context) -> None:
        self._agree(ctx, now=False)

    def on_epoch_end(self, ctx: Context) -> None:
        self._agree(ctx, now=True)

    def _agree(self, ctx: Context, *, now: bool) -> None:
        self._passed += 1
        if not now and self._passed < self._every:
            return
        pace = (perf_counter() - self._since) / self._passed
        gathered = self.group.all_gather_object((self._requested.reason, pace))
        reasons, paces = zip(*gathered, strict=True)
        self._passed, self._since = 0, perf_counter()
        self._every = max(1, min(AGREE_EVERY, int(AGREE_SECONDS / max(paces))))
        self._stop.request(_first(reasons))
        if self._stop.reason:
            broadcast_buffers(self.group, unwrapped(ctx.model))


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason), None)
