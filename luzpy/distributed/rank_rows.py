"""How many of a batch's rows count."""

from __future__ import annotations

from typing import final

from luzpy.callback import Callback
from luzpy.context import Context
from luzpy.distributed.sharding import ShardedLoader


@final
class RankRows(Callback):
    """Gives a batch that stands in for one that its rank does not have no rows."""

    weight: float = float("-inf")
    checkpointed = False

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Say how many rows count."""
        _count(ctx)

    def on_valid_batch_begin(self, ctx: Context) -> None:
        """Say how many rows count."""
        _count(ctx)

    def on_predict_batch_begin(self, ctx: Context) -> None:
        """Say how many rows count."""
        _count(ctx)


def _count(ctx: Context) -> None:
    if isinstance(ctx.data, ShardedLoader):  # the finder validates on a list of batches
        ctx.batch_size = ctx.data.rows
