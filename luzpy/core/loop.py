"""The loop: the only place where luzpy trains, validates and predicts.

It knows one process and whole epochs. Whoever wants it to end calls `ctx.stop(reason)`; it looks
after each batch (in `fetch`) and after each epoch, when every callback has had its hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from luzpy.core.context import Context, internals
from luzpy.core.fetch import fetch
from luzpy.core.hooks import STOP_HOOKS
from luzpy.core.loss import begin_losses
from luzpy.core.modules import bound, trained_parameters, unwrapped
from luzpy.ground.types import Batch


def fit(ctx: Context) -> str:
    """Train, epoch after epoch; returns how it ended."""
    run = internals(ctx)
    with bound(ctx):
        try:
            ctx.call("on_fit_begin")
            while ctx.epoch < ctx.max_epochs and run.stop.reason is None:
                ctx.epoch, ctx.iter, ctx.training = ctx.epoch + 1, 0, True
                ctx.call("on_epoch_begin")
                if train(ctx) and validate(ctx):
                    ctx.call("on_epoch_end")
        except KeyboardInterrupt:  # raised by a callback or a dataset
            if run.requested_reason is not None:
                raise
            run.is_cut_short = True
            run.stop.request("interrupted")
        reason = run.stop.reason or "completed"
        if reason in STOP_HOOKS:
            ctx.call(STOP_HOOKS[reason])
        ctx.call("on_fit_end")
    return reason


def train(ctx: Context) -> bool:
    """One epoch of training, where there is data for it; returns whether it came to its end."""
    ctx.data = ctx.train_data
    if ctx.data is None:
        return True
    ctx.call("on_train_begin")
    default = partial(train_step, ctx, trained_parameters(ctx))
    step = _step(ctx, default)
    begin_losses(ctx)
    with torch.enable_grad():
        for _ in fetch(ctx, "data"):
            ctx.call("on_train_batch_begin")
            if step is not default:
                ctx.loss = {}  # a batch for which it sets none has none
            step()
            ctx.call("on_train_batch_end")
    if internals(ctx).stop.reason is not None:
        return False
    ctx.call("on_train_end")
    return True


def validate(ctx: Context, name: str = "valid_data") -> bool:
    """One pass over the validation data, which is all of `evaluate`; returns as `train` does."""
    ctx.data = ctx.valid_data
    if ctx.data is None:
        return True
    ctx.call("on_valid_begin")
    default = partial(valid_step, ctx)
    step = _step(ctx, default)
    begin_losses(ctx)
    with torch.no_grad():
        for _ in fetch(ctx, name):
            ctx.call("on_valid_batch_begin")
            if step is not default:
                ctx.loss = {}
            step()
            ctx.call("on_valid_batch_end")
    if internals(ctx).stop.reason is not None:
        return False
    ctx.call("on_valid_end")
    return True


def predict(ctx: Context, function: Callable[..., Batch]) -> Iterator[Batch]:
    """The predictions of `function`, batch by batch."""
    run = internals(ctx)
    with bound(ctx), torch.no_grad():
        ctx.call("on_predict_begin")
        for _ in fetch(ctx, "newdata", function):
            ctx.call("on_predict_batch_begin")
            with run.autocast:
                by_keyword = run.unpacking is not None and run.unpacking.by_keyword
                ctx.pred = function(**ctx.input) if by_keyword else function(ctx.input)
            ctx.call("on_predict_batch_end")
            yield ctx.pred
        ctx.call("on_predict_end")


def train_step(ctx: Context, parameters: list[nn.Parameter]) -> None:
    """One batch of training: for each loss forward, loss and backward pass, and its step."""
    run = internals(ctx)
    by_keyword = run.unpacking is not None and run.unpacking.by_keyword
    apart = len(run.opt_names) > 1
    for name in run.opt_names:
        run.opt_name = name
        if run.starts_step:
            for parameter in parameters:
                parameter.grad = None
        with run.autocast:
            ctx.pred = ctx.model(**ctx.input) if by_keyword else ctx.model(ctx.input)
            ctx.call("on_train_batch_after_pred")
            ctx.loss_grad = run.loss_of(ctx)
        ctx.loss[name] = ctx.loss_grad.detach()
        ctx.call("on_train_batch_after_loss")
        ctx.call("on_train_batch_before_backward")
        ctx.backward(ctx.loss_grad)
        if run.ends_step:
            ctx.call("on_train_batch_before_step")
            for opt in (ctx.optimizers[name],) if apart else ctx.optimizers.values():
                ctx.step_opt(opt)
            ctx.call("on_train_batch_after_step")
    run.opt_name = None


def valid_step(ctx: Context) -> None:
    """One batch of validation: for each optimizer forward and loss."""
    run = internals(ctx)
    by_keyword = run.unpacking is not None and run.unpacking.by_keyword
    for name in run.opt_names:
        run.opt_name = name
        with run.autocast:
            ctx.pred = ctx.model(**ctx.input) if by_keyword else ctx.model(ctx.input)
            ctx.call("on_valid_batch_after_pred")
            ctx.loss[name] = run.loss_of(ctx)
        ctx.call("on_valid_batch_after_loss")
    run.opt_name = None


def _step(ctx: Context, default: Callable[[], None]) -> Callable[[], None]:
    """The module's own `step`, else luzpy's."""
    step = getattr(unwrapped(ctx.model), "step", None)
    return default if step is None else step
