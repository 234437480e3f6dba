"""The batches of a run, each in turn its current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from luzpy.core.context import Context, internals
from luzpy.core.modules import unwrapped
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.data.batches import batch_rows, batches, has_rows_of
from luzpy.data.unpacking import Unpack, Unpacking, unpacking_of
from luzpy.ground.errors import add_note
from luzpy.ground.types import Batch


def fetch(ctx: Context, name: str, function: Callable[..., Batch] | None = None) -> Iterator[None]:
    """Go through `ctx.data`: each batch becomes `ctx.batch`, on the device, and is counted.

    It ends after the last batch, or when the run is to end.

    Args:
        ctx: The run.
        name: What the user calls the data, for messages.
        function: What is given the input, in a prediction.

    Raises:
        ValueError: If there is no batch, or one without rows.
    """
    data, device, run = ctx.data, ctx.device, internals(ctx)
    assert data is not None
    prepare = partial(ctx.accelerator.prepare_batch, device=device)
    moves = device.type != "cpu"
    ctx.iter = 0
    source = None
    found, rows_of_input, is_first = None, False, True
    try:
        try:
            source = batches(data)
            for batch in map(prepare, source) if moves else source:
                ctx.batch = batch
                if is_first:  # what is found of the first batch holds for all
                    run.unpacking = None
                    found = unpacking(ctx, function)
                    rows_of_input = found is None and has_rows_of(ctx.input, ctx.target)
                run.unpacking = found
                if found is not None:
                    run.n_rows = rows = found.rows if is_first else found.take(batch)
                elif rows_of_input and isinstance(first := ctx.input, torch.Tensor) and first.ndim:
                    run.n_rows = rows = first.size(0)
                else:
                    run.n_rows = rows = batch_rows(batch, ctx.input, ctx.target)
                is_first = False
                if not rows:
                    raise ValueError(f"`{name}` must give batches with rows, got one without any.")
                ctx.iter += 1
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


def unpack_of(spec: Spec[Result], model: nn.Module) -> Unpack | None:
    """What takes batches apart, if the user gave it."""
    return spec.unpack or getattr(unwrapped(model), "unpack", None)


def unpacking(ctx: Context, function: Callable[..., Batch] | None = None) -> Unpacking | None:
    """How batches like `ctx.batch` are unpacked; None for (input, target) in order.

    Args:
        ctx: The run.
        function: What is given the input, in a prediction.
    """
    module: Any = unwrapped(ctx.model)
    predicts = function is not None
    return unpacking_of(
        ctx.batch,
        unpack=internals(ctx).unpack,
        forward=module.forward,
        function=module.forward if function in (None, ctx.model) else function,
        predicts=predicts,
        has_step=not predicts and hasattr(module, "step"),
    )
