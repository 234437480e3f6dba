"""Validation at a rung, in the middle of an epoch of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from luzpy.core.callback import Callback
from luzpy.core.context import Context, Internals, internals
from luzpy.core.hooks import HookOwner
from luzpy.core.loop import validate
from luzpy.core.modules import bound, in_eval_mode
from luzpy.core.optimizers import weights_for_evaluation
from luzpy.ground.devices import widest_float
from luzpy.ground.random_state import preserved_random_state
from luzpy.ground.types import Data


def validation_loss(
    ctx: Context,
    data: Data,
    callbacks: Sequence[HookOwner],
    loss_of: Callable[[Context], torch.Tensor | None],
) -> torch.Tensor | None:
    """The loss of each model on `data`, averaged over samples, with the current weights.

    None if there is no loss at all.
    """
    seen = validation_losses(ctx, data, callbacks, loss_of)
    if not seen:
        return None
    return torch.stack([loss * rows for loss, rows in seen]).sum(0) / sum(r for _, r in seen)


def validation_losses(
    ctx: Context,
    data: Data,
    callbacks: Sequence[HookOwner],
    loss_of: Callable[[Context], torch.Tensor | None],
) -> list[tuple[torch.Tensor, int]]:
    """The loss of each model in each batch of `data` with the current weights, and its rows.

    It is a run of its own on the same model: the training goes on as if it had not been, unless
    the validation is stopped.
    """
    seen: list[tuple[torch.Tensor, int]] = []

    def add_batch(validation: Context) -> None:
        loss = loss_of(validation)
        if loss is not None:  # a custom step may set none
            dtype = widest_float(validation.device)
            seen.append((loss.to(dtype), internals(validation).n_rows))

    run, reason = internals(ctx), None
    add = Callback.from_functions(weight=float("inf"), on_valid_batch_end=add_batch)
    validation = Context(
        verbose=False,
        accelerator=ctx.accelerator,
        device=ctx.device,
        model=ctx.model,
        optimizers=ctx.optimizers,
        loss_fn=ctx.loss_fn,
        train_data=ctx.train_data,
        valid_data=data,
        epoch=1,
        max_epochs=ctx.max_epochs,
        training=False,
        hparams=ctx.hparams,
        opt_hparams=ctx.opt_hparams,
        buffers=ctx.buffers,
        callbacks=[*callbacks, add],
        internals=Internals(
            metric_set=run.metric_set,
            opt_names=run.opt_names,
            autocast=run.autocast,
            unpack=run.unpack,
            loss_is_outputs=run.loss_is_outputs,
            is_loss_summed=run.is_loss_summed,
        ),
    )
    try:
        with (
            preserved_random_state(),
            in_eval_mode(ctx.model),
            weights_for_evaluation(ctx.optimizers.values()),
            bound(validation),
        ):
            validate(validation)
    except Exception:
        reason = run.requested_reason
        if reason is None:
            raise  # otherwise the signal has ended the worker processes as well
    reason = reason or internals(validation).stop.reason
    if reason is not None:
        ctx.stop(reason)
    return seen
