"""The batches of a run, one after another its current one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from luzpy.core.context import Context, internals
from luzpy.data.batches import batch_rows, batches
from luzpy.ground.errors import add_note


def fetch(ctx: Context, name: str) -> Iterator[None]:
    """Go through `ctx.data`: each batch becomes `ctx.batch`, on the device, and is counted.

    It ends after the last batch, or when the run is to end.

    Args:
        ctx: The run.
        name: What the user calls the data, for messages.

    Raises:
        ValueError: If there is no batch, or one without rows.
    """
    data, device, run = ctx.data, ctx.device, internals(ctx)
    assert data is not None
    prepare = partial(ctx.accelerator.prepare_batch, device=device)
    moves = device.type != "cpu"
    ctx.iter = 0
    source = None
    try:
        try:
            source = batches(data)
            for batch in map(prepare, source) if moves else source:
                ctx.batch = batch
                ctx.iter += 1
                first = ctx.input
                if isinstance(first, torch.Tensor) and first.ndim:
                    run.n_rows = rows = first.size(0)
                else:
                    run.n_rows = rows = batch_rows(batch, first, ctx.target)
                if not rows:
                    raise ValueError(f"`{name}` must give batches with rows, got one without any.")
                yield
                if run.stop.reason is not None:
                    return
        finally:
            del source  # ends worker processes
    except Exception as err:
        run.stop.request(run.requested.reason)
        if run.stop.reason is not None:  # the signal has ended the worker processes, too
            return
        add_note(err, f"in `{name}`, batch {ctx.iter + 1} of epoch {max(ctx.epoch, 1)}.")
        raise
    if not ctx.iter and run.stop.reason is None:
        raise ValueError(f"`{name}` must give at least one batch, got none.")
