"""A run that has not begun: data, model, optimizers and loss in place."""

from __future__ import annotations

import copy
import functools
import threading
import warnings

import attrs
import torch
from torch import nn
from torch.utils.data import DataLoader

from luzpy.core.build import build_model, copied
from luzpy.core.callback import Callback
from luzpy.core.closure import ClosureStep
from luzpy.core.context import Context, Internals, Optimizers, at_exit
from luzpy.core.fetch import unpack_of
from luzpy.core.loss import build_loss, loss_internals, loss_parameters
from luzpy.core.modules import unwrapped
from luzpy.core.optimizer_state import load_optimizer_states, misfit
from luzpy.core.optimizers import build_optimizers, needs_closure
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.data.columns import columns_of, warn_if_not_finite, with_columns
from luzpy.data.dataset import is_in_memory, split_dataset
from luzpy.data.loader import Options, eval_loader, resident, train_loader
from luzpy.data.portions import Portions
from luzpy.data.unpacking import row_counter
from luzpy.distributed.accelerator import Accelerator
from luzpy.ground.arguments import is_number
from luzpy.ground.nested import map_nested, tensors_in
from luzpy.ground.records import epochs_done, set_best
from luzpy.ground.types import Data, Loader


@functools.cache
def _make_first_optimizer() -> None:
    """Trigger torch's imports that it defers until a process creates its first optimizer.

    The import leaves a cycle that holds every frame below it, and with them the user's model and
    data. In a thread of its own there are none.
    """
    parameter = nn.Parameter(torch.zeros(()))
    thread = threading.Thread(target=torch.optim.SGD, args=([parameter],), kwargs={"lr": 1.0})
    thread.start()
    thread.join()


def prepare_model(spec: Spec[Result], accelerator: Accelerator, run: int = 0) -> nn.Module:
    """The model with its initial weights, on its device; the same in all processes."""
    _make_first_optimizer()
    seed = accelerator.broadcast(spec.seed)
    model = build_model(attrs.evolve(spec, seed=seed), spec.hparams, run)
    return accelerator.prepare_model(model)


def prepare_further(fitted: Result, accelerator: Accelerator) -> nn.Module:
    """A copy of a trained model, on the device where it is to be trained further."""
    _make_first_optimizer()
    return accelerator.prepare_model(copied(fitted.model))


def check_complete(fitted: Result) -> None:
    """Raise unless a fitted model has what it needs to be trained further.

    Raises:
        ValueError: If it has been loaded without its loss or its optimizer.
    """
    spec, own = fitted.spec, unwrapped(fitted.model)
    has_loss = spec.loss is not None or hasattr(own, "loss") or hasattr(own, "step")
    if not has_loss or (spec.optimizer is None and not hasattr(own, "set_optimizers")):
        raise ValueError(
            "`model` must have its loss and its optimizer to be trained further, got one that "
            "was loaded without: pass the specification from `setup`, luz.load(path, module=model)."
        )


def go_on(ctx: Context, fitted: Result) -> None:
    """Make a run that has not begun continue from the result of another."""
    done = epochs_done(fitted.records)
    ctx.records = copy.deepcopy(fitted.records)
    set_best(ctx.records, None)  # the weights will be others
    ctx.epoch = done
    ctx.min_epochs += done
    ctx.max_epochs += done
    ctx.hparams = dict(fitted.hparams)
    states = fitted.optimizer_states
    reason = "it was saved without it" if states is None else misfit(ctx.optimizers, states)
    if reason is not None:
        if ctx.accelerator.is_main:
            warnings.warn(
                f"The optimizer starts without a state, as `model` does not have one: {reason}.",
                UserWarning,
                stacklevel=3,
            )
        return
    assert states is not None
    load_optimizer_states(ctx.optimizers, states)
    for optimizer in ctx.optimizers.values():
        ctx.accelerator.shard_optimizer(optimizer)


def prepare_data(
    data: Data,
    valid_data: Data,
    options: Options | None,
    device: torch.device,
    seed: int,
    valid_rows: torch.Tensor | None = None,
) -> tuple[Loader, Loader | None]:
    """The DataLoaders of a run, made from the user's data; see `split_dataset` for a fraction."""
    data, valid_data = _without_graph(data), _without_graph(valid_data)
    train_data = resident(data, device, options, name="data")
    if is_number(valid_data) or isinstance(valid_data, bool):
        train_data, valid = _split(train_data, valid_data, options, seed, valid_rows)
    else:
        valid_data = with_columns(valid_data, columns_of(data), "valid_data")
        valid = resident(valid_data, device, options, name="valid_data")
    loader = train_loader(train_data, options)
    warn_if_not_finite(loader, data, "data")
    if valid is None:
        return loader, None
    held_out = eval_loader(valid, options, name="valid_data", beside_train=data)
    warn_if_not_finite(held_out, valid_data, "valid_data")
    return loader, held_out


def _without_graph(data: Data) -> Data:
    """In-memory data, in tensors that accumulate no gradients: the user's own do not change."""
    if not is_in_memory(data) or not any(tensor.requires_grad for tensor in tensors_in(data)):
        return data
    return map_nested(torch.Tensor.detach, data)


def prepare_fit(
    spec: Spec[Result],
    model: nn.Module,
    train_data: Loader,
    valid_data: Loader | None,
    *,
    epochs: tuple[int, int],
    callbacks: list[Callback],
    accelerator: Accelerator,
    verbose: bool,
    batches_per_epoch: int | None = None,
) -> Context:
    """The context of a run that has not begun."""
    device = accelerator.device_of(model)
    loss_fn = build_loss(spec, model, device)
    extra = loss_parameters(spec, loss_fn)
    optimizers, losses = build_optimizers(spec, model, spec.opt_hparams, extra)
    unpack = unpack_of(spec, model)
    count = None if unpack is None else row_counter(unpack)
    about_loss = loss_internals(spec, model)
    with_closure = _with_closure(model, optimizers, accelerator)
    model = accelerator.prepare_training(model, optimizers, n_losses=len(losses))
    own_loader = accelerator.prepare_train_loader(train_data, count=count)
    portions = None if batches_per_epoch is None else Portions(own_loader, batches_per_epoch)
    loader = own_loader if portions is None else portions
    ctx = Context(
        verbose=verbose,
        accelerator=accelerator,
        device=device,
        model=model,
        optimizers=optimizers,
        loss_fn=loss_fn,
        data=loader,
        train_data=loader,
        valid_data=accelerator.prepare_loader(valid_data, count=count, name="valid_data"),
        min_epochs=epochs[0],
        max_epochs=epochs[1],
        hparams=dict(spec.hparams),
        opt_hparams=dict(spec.opt_hparams),
        callbacks=list(accelerator.prepare_callbacks(callbacks)),
        internals=Internals(
            metric_set=spec.metrics,
            spec=spec,
            opt_names=losses,
            unpack=unpack,
            **about_loss,
        ),
    )
    if portions is not None:
        at_exit(ctx, portions.close)
    if spec.backward is not None:
        ctx.backward = spec.backward
    if with_closure:
        ctx.step_opt = ClosureStep(ctx)
    return ctx


def _with_closure(model: nn.Module, optimizers: Optimizers, accelerator: Accelerator) -> bool:
    """Whether luzpy's step is to give an optimizer a closure.

    Raises:
        ValueError: If several batches or processes make a step.
    """
    if hasattr(unwrapped(model), "step"):
        return False
    names = [type(opt).__name__ for opt in optimizers.values() if needs_closure(opt)]
    reason = "recomputes its batch within its step"
    if names and accelerator.accumulate > 1:
        raise ValueError(
            f"`accumulate` must be 1, got {accelerator.accumulate}: {names[0]} {reason}."
        )
    if names and accelerator.is_distributed:
        raise ValueError(
            f"`accelerator` must be that of one process, got {accelerator!r}: {names[0]} {reason}."
        )
    return bool(names)


def _split(
    data: Data,
    fraction: float,
    options: Options | None,
    seed: int,
    valid_rows: torch.Tensor | None,
) -> tuple[Data, Data]:
    if isinstance(fraction, bool) or not 0 < fraction < 1:
        raise ValueError(
            f"`valid_data` must be data, or a fraction between 0 and 1, got {fraction!r}."
        )
    if isinstance(data, DataLoader):
        raise ValueError(
            f"`valid_data` cannot be a fraction of a DataLoader, got {fraction!r}: give the "
            "Dataset as `data`, or `valid_data` a DataLoader of its own."
        )
    for option in ("sampler", "batch_sampler"):
        if option in (options or {}):
            raise ValueError(
                f"`valid_data` cannot be a fraction beside a `{option}`, got {fraction!r}: the "
                f"`{option}` would take rows of validation too. Give data as `valid_data`."
            )
    return split_dataset(data, float(fraction), seed, valid_rows)
