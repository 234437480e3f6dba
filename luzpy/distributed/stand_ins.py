"""Which batches only keep a process in step with the others."""

from __future__ import annotations

from typing import final

from luzpy.callback import Callback
from luzpy.context import Context
from luzpy.distributed.sharding import ShardedLoader


@final
class StandIns(Callback):
    """Marks the batches that stand in for one that their rank does not have."""

    weight: float = float("-inf")
    checkpointed = False

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Mark the batch."""
        _mark(ctx)

    def on_valid_batch_begin(self, ctx: Context) -> None:
        """Mark the batch."""
        _mark(ctx)

    def on_predict_batch_begin(self, ctx: Context) -> None:
        """Mark the batch."""
        _mark(ctx)


def _mark(ctx: Context) -> None:
    # The finder validates on a list of batches, of which each rank has all.
    ctx.stands_in = isinstance(ctx.data, ShardedLoader) and not ctx.data.rows
