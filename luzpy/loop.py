"""The loop: the only place where luzpy trains, validates and predicts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from luzpy.batches import batch_rows, batches, skip_batch
from luzpy.context import Context, StopFit
from luzpy.distributed.ranks import one_process
from luzpy.errors import LuzError

_TENSOR: Any = torch.Tensor  # untyped: a user's loss may return anything


class SecondInterrupt(KeyboardInterrupt):
    """Ctrl-C a second time: ends the run at once, with a traceback."""


def run_fit(ctx: Context) -> None:
    """Train, epoch after epoch, until the last one or until something raises `StopFit`."""
    with bound(ctx):
        try:
            ctx.call("on_fit_begin")
            _skip_epochs(ctx)
            while ctx.epoch < ctx.max_epochs:
                ctx.epoch, ctx.iter, ctx.training = ctx.epoch + 1, 0, True
                ctx.call("on_epoch_begin")
                if ctx.resume is None or ctx.resume.part == "train":
                    train(ctx)
                if ctx.valid_data is not None:
                    validate(ctx)
                ctx.call("on_epoch_end")
                _safe_point(ctx, "epoch")
        except StopFit as stop:
            ctx.stopped = stop.reason
            if stop.hook:
                ctx.call(stop.hook)
        except SecondInterrupt:
            raise
        except KeyboardInterrupt:
            ctx.stopped = "interrupted"
            ctx.call("on_interrupt")
        ctx.call("on_fit_end")
        for function in ctx.at_safe_point:
            function(ctx, "fit")


def train(ctx: Context) -> None:
    """One epoch of training."""
    ctx.data, ctx.iter = ctx.train_data, 0
    ctx.call("on_train_begin")
    step = _step(ctx, train_step, trained_parameters(ctx))
    with torch.enable_grad():
        for batch in _fetch(ctx, "data"):
            _take(ctx, batch, "data")
            ctx.call("on_train_batch_begin")
            step()
            ctx.call("on_train_batch_end")
            _safe_point(ctx, "train")
    ctx.call("on_train_end")


def validate(ctx: Context) -> None:
    """One pass over the validation data; `evaluate` is this alone."""
    ctx.data, ctx.iter = ctx.valid_data, 0
    ctx.call("on_valid_begin")
    step = _step(ctx, valid_step)
    name = "data" if ctx.train_data is None else "valid_data"  # as the user calls it
    with torch.no_grad():
        for batch in _fetch(ctx, name):
            _take(ctx, batch, name)
            ctx.call("on_valid_batch_begin")
            step()
            ctx.call("on_valid_batch_end")
            _safe_point(ctx, "valid")
    ctx.call("on_valid_end")


def predict_batches(ctx: Context, function: Callable[[Any], Any]) -> Iterator[Any]:
    """The predictions of `function`, batch by batch."""
    ctx.iter = 0
    with bound(ctx), torch.no_grad():
        ctx.call("on_predict_begin")
        for batch in _fetch(ctx, "newdata"):
            _take(ctx, batch, "newdata")
            ctx.call("on_predict_batch_begin")
            with ctx.forward_context:
                ctx.pred = function(ctx.input)
            ctx.call("on_predict_batch_end")
            yield ctx.pred
        ctx.call("on_predict_end")


def train_step(ctx: Context, parameters: list[nn.Parameter]) -> None:
    """One batch of training: for each optimizer forward, loss, backward and step."""
    for name, opt in ctx.optimizers.items():
        ctx.opt_name, ctx.opt = name, opt
        if ctx.step_begins:
            for parameter in parameters:
                parameter.grad = None
        with ctx.forward_context:
            ctx.pred = ctx.model(ctx.input)
            ctx.call("on_train_batch_after_pred")
            ctx.loss_grad = _loss(ctx)
        ctx.loss[name] = ctx.loss_grad.detach()
        ctx.call("on_train_batch_after_loss")
        ctx.call("on_train_batch_before_backward")
        ctx.backward(ctx.loss_grad)
        if not ctx.step_ends:
            continue
        ctx.call("on_train_batch_before_step")
        ctx.step_opt(opt)
        ctx.call("on_train_batch_after_step")


def valid_step(ctx: Context) -> None:
    """One batch of validation: for each optimizer forward and loss."""
    for name, opt in ctx.optimizers.items():
        ctx.opt_name, ctx.opt = name, opt
        with ctx.forward_context:
            ctx.pred = ctx.model(ctx.input)
            ctx.call("on_valid_batch_after_pred")
            ctx.loss[name] = _loss(ctx)
        ctx.call("on_valid_batch_after_loss")


def _safe_point(ctx: Context, part: str) -> None:
    """All callbacks have run: the state may be saved here, and the run stopped."""
    request = ctx.stop_request  # one that comes from now on waits for the next safe point
    for function in ctx.at_safe_point:
        function(ctx, part)
    if request is not None:
        raise request


def _skip_epochs(ctx: Context) -> None:
    """Go to the epoch in which a resumed run goes on."""
    if ctx.resume is None:
        return
    if ctx.resume.part == "epoch":
        ctx.epoch = ctx.resume.epoch
        ctx.resume.restore(ctx)
        ctx.resume = None
    else:
        ctx.epoch = ctx.resume.epoch - 1


def _skip_batches(ctx: Context, name: str, source: Iterator[Any]) -> None:
    """Pass over the batches that a resumed run has done, and put its state back."""
    resume = ctx.resume
    if resume is None:
        return
    for done in range(resume.batches):
        if ctx.stop_request is not None:
            break
        resume.before_skipping(done)
        if not skip_batch(source):
            raise LuzError(
                f"`{name}` must give at least the {resume.batches} batches of epoch {ctx.epoch} "
                f"that the interrupted run has done, got {done}."
            )
    ctx.iter = resume.batches
    resume.restore(ctx)
    ctx.resume = None
    if ctx.stop_request is not None:
        raise ctx.stop_request


@contextmanager
def bound(ctx: Context) -> Generator[None]:
    """Let the user's module read `self.ctx`, during the run and only then."""
    module = unwrapped(ctx.model)
    object.__setattr__(module, "ctx", ctx)
    try:
        yield
    except Exception as err:
        if not isinstance(err, LuzError):
            err.add_note(f"luzpy was {ctx.where()}.")
        raise
    finally:
        module.__dict__.pop("ctx", None)
        with ExitStack() as stack:  # all of them are called, also if one fails
            for function in reversed(ctx.at_exit):
                stack.callback(function)


@contextmanager
def in_eval_mode(model: nn.Module) -> Generator[None]:
    """Put every part of `model` in eval mode, and back into the mode it had."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module, also when `torch.compile` or several processes have wrapped it."""
    while True:
        inner = cast(nn.Module, getattr(model, "_orig_mod", one_process(model)))
        if inner is model:
            return model
        model = inner


def trained_parameters(ctx: Context) -> list[nn.Parameter]:
    """Everything that gathers gradients: the model's parameters, and what else is optimized."""
    groups = [group for opt in ctx.optimizers.values() for group in opt.param_groups]
    optimized = [parameter for group in groups for parameter in group["params"]]
    return list(dict.fromkeys([*ctx.model.parameters(), *optimized]))


def named_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The module and every module within it, by name."""
    return list(cast(Any, model).named_modules())  # which torch gives no types


def _step(ctx: Context, default: Callable[..., None], *args: Any) -> Callable[[], None]:
    """The module's own `step`, else luzpy's."""
    own = getattr(unwrapped(ctx.model), "step", None)
    if own is not None:
        return own
    return partial(default, ctx, *args)


def _loss(ctx: Context) -> torch.Tensor:
    loss_fn = ctx.loss_fn
    assert loss_fn is not None  # `fit` and `evaluate` check it before they begin
    try:
        loss = loss_fn(ctx.pred, ctx.target)
    except LuzError:
        raise
    except Exception as err:
        raise ctx.failure("The loss", err) from err
    if not isinstance(loss, _TENSOR):
        raise TypeError(f"`loss` must return a scalar tensor, got {type(loss).__name__}.")
    if loss.numel() != 1:
        raise ValueError(
            f"`loss` must return a scalar tensor, got one of shape {tuple(loss.shape)}."
        )
    if ctx.training and not loss.requires_grad:
        raise ValueError(
            "`loss` must return a tensor that depends on the model's parameters, got one without "
            "a graph: was it detached, or is every parameter frozen?"
        )
    return loss


def _take(ctx: Context, batch: Any, name: str) -> None:
    """The next batch is the run's current one."""
    ctx.batch = batch
    ctx.iter += 1
    first = ctx.input
    if isinstance(first, _TENSOR) and first.ndim:
        ctx.batch_size = rows = first.size(0)
    else:
        ctx.batch_size = rows = batch_rows(batch, first, ctx.target)
    if not rows:
        raise ValueError(f"`{name}` must give batches with rows, got one without any.")


def _fetch(ctx: Context, name: str) -> Iterator[Any]:
    """The batches of `ctx.data`, on the device; failures say where."""
    data = cast("Iterable[Any]", ctx.data)
    move = None if ctx.device.type == "cpu" else ctx.accelerator.prepare_batch
    source = None
    try:
        try:
            source = batches(data)
            _skip_batches(ctx, name, source)
            yield from source if move is None else map(move, source)
        finally:
            del source  # ends worker processes
    except GeneratorExit:
        raise
    except (LuzError, StopFit):
        raise
    except Exception as err:
        request = ctx.stop_request or ctx.stop_wanted
        if request is not None:  # Ctrl-C or SIGTERM has ended the worker processes, too
            if ctx.iter and ctx.resume is None and getattr(data, "num_workers", 0):
                _safe_point(ctx, "train" if ctx.training else "valid")
            raise request from err
        raise LuzError(
            f"`{name}` failed to give batch {ctx.iter + 1} of epoch {max(ctx.epoch, 1)}: "
            f"{type(err).__name__}: {err}"
        ) from err
    if not ctx.iter:
        raise ValueError(f"`{name}` must give at least one batch, got none.")
