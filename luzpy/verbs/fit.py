"""`fit`: from a specification and data to a fitted model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
from torch import nn

from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.loss_watch import LossWatch
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.profile import Profile
from luzpy.callbacks.progress import Progress
from luzpy.callbacks.train_valid import TrainValid
from luzpy.callbacks.valid_check import ValidCheck
from luzpy.core import loop
from luzpy.core.callback import Callback
from luzpy.core.context import Context, internals
from luzpy.core.loss import trained_loss
from luzpy.core.modules import unwrapped
from luzpy.core.optimizer_state import States, optimizer_states
from luzpy.core.result import Result
from luzpy.core.spec import R, Spec, check_spec
from luzpy.data.columns import Columns, columns_of, with_columns
from luzpy.data.dataset import chosen_rows
from luzpy.data.loader import Options
from luzpy.distributed.accelerator import Accelerator, check_accelerator
from luzpy.ground.arguments import check_count, check_seed
from luzpy.ground.nested import to_cpu_copy
from luzpy.ground.random_state import seeded
from luzpy.ground.types import Data, Loader, Values
from luzpy.verbs.arguments import check_epochs, check_options, check_verbose, with_defaults
from luzpy.verbs.hints import with_hints
from luzpy.verbs.prepare import (
    check_complete,
    go_on,
    prepare_data,
    prepare_fit,
    prepare_further,
    prepare_model,
)

FIT_DEFAULTS: tuple[type[Callback], ...] = (
    Profile,
    TrainValid,
    Metrics,
    LossWatch,
    Progress,
    Interrupt,
    ValidCheck,
)


@with_hints
def fit(
    model: Spec[R] | R,
    data: Data,
    epochs: int | tuple[int, int] = 10,
    callbacks: Sequence[Callback] | Callback | None = None,
    valid_data: Data = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    batch_size: int | None = None,
    batches_per_epoch: int | None = None,
    seed: int | None = None,
    dataloader_options: Options | None = None,
) -> R:
    """Train the module on `data`. Port of R luz's `fit()`.

    Every fit of a specification starts from its initial weights; nothing is trained in place. A
    fitted model can be trained further: `fitted.fit(data, epochs=5)` returns a new one, trained for
    five more epochs from its weights and optimizer states. Epoch numbers and records continue, and
    `fitted` does not change. The optimizer's hyperparameters are those of the specification, and
    callbacks start from scratch, including a learning rate schedule. After `KeepBestModel`, the
    weights are those of the best epoch, and the optimizer's state is that of the last one. Without
    random numbers, 5 epochs and 5 more equal 10, bit for bit.

    Args:
        model: A specification from `setup`, or a fitted model.
        data: A DataLoader, a Dataset, or in-memory data: a tensor, a NumPy array, a pandas or
            polars frame or series, or a tuple, list or dict of these, (input, target).
        epochs: The number of epochs, or `(min_epochs, max_epochs)`, between which early stopping
            acts. For a fitted model, how many more.
        callbacks: Callbacks in addition to the defaults.
        valid_data: Data for validation after every epoch, or a fraction in (0, 1) of `data`, whose
            rows are drawn from the model's seed: the same in every fit (`fitted.valid_rows`).
        accelerator: Where to train, an `Accelerator` or Hugging Face Accelerate's; by default on
            the GPU if there is one.
        verbose: Whether to print. By default, `fit` shows a progress bar in a terminal or notebook,
            and prints one line per epoch elsewhere; with False, nothing.
        batch_size: Rows per batch, 32 unless given here or in `dataloader_options`.
        batches_per_epoch: End an epoch after this many batches, and continue in the data where it
            ended in the next one: for endless streams, and to validate early and often. At the end
            of the data, start over. None: an epoch is one pass.
        seed: Makes the data order, dropout, and everything else that is drawn in the fit
            repeatable, in worker processes too. The global random state of torch, NumPy and Python
            is left as it was. None: draw from the global random state.
        dataloader_options: Passed to the DataLoader that is created for `data`; `shuffle=True` and
            `drop_last=True` by default. `sampler`, `batch_sampler`, `shuffle` and `drop_last` do
            not apply to `valid_data`, all rows of which are taken in order.

    Returns:
        The fitted model. It keeps the state of the optimizers (for Adam, two numbers per weight),
        on the device where it was.

    Raises:
        ValueError: If an argument is out of bounds, or there is not a single batch of data.
        TypeError: If an argument is of the wrong type.
        LuzError: If a callback cannot do its work.

    An exception in a callback, a metric, the loss, the dataset or the module keeps its type, and
    gets a note that says where it was raised, and in which epoch and iteration.

    Examples:
        >>> import luzpy as luz, torch
        >>> x = torch.linspace(-1, 1, 64).reshape(-1, 1)
        >>> model = luz.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD)
        >>> model = model.set_hparams(in_features=1, out_features=1).set_opt_hparams(lr=0.1)
        >>> fitted = model.fit((x, 2 * x), epochs=50, verbose=False)
        >>> fitted.predict(torch.tensor([[0.5]])).round(decimals=1)
        tensor([[1.]])
    """
    fitted = model if isinstance(model, Result) else None
    if fitted is not None:
        check_complete(fitted)
    spec: Spec[R] = model.spec if isinstance(model, Result) else model
    check_spec(spec)
    check_seed(seed, optional=True)
    check_count("batches_per_epoch", batches_per_epoch, optional=True)
    limits = check_epochs(epochs)
    accelerator = check_accelerator(accelerator)
    chosen_callbacks = with_defaults(FIT_DEFAULTS, callbacks, accelerator)
    options = check_options(dataloader_options, batch_size, data)
    columns = None if fitted is None else fitted.columns
    data = with_columns(data, columns, "data")
    columns = columns_of(data) if columns is None else columns
    is_verbose = check_verbose(verbose, elsewhere=True) and accelerator.is_main
    with seeded(seed):
        accelerator.share_random_state()
        module = _start(spec, fitted, accelerator)
        device = accelerator.device_of(module)
        own_seed = accelerator.broadcast(spec.seed)
        rows = None if fitted is None else fitted.valid_rows
        train_data, held_out = prepare_data(data, valid_data, options, device, own_seed, rows)
        ctx = prepare_fit(
            spec,
            module,
            train_data,
            held_out,
            epochs=limits,
            callbacks=chosen_callbacks,
            accelerator=accelerator,
            verbose=is_verbose,
            batches_per_epoch=batches_per_epoch,
        )
        if fitted is not None:
            go_on(ctx, fitted)
        run = internals(ctx)
        result = partial(_result, spec, fitted, accelerator, held_out, columns)
        run.fit_seed, run.make_result = seed, result
        stopped = loop.fit(ctx)
    return result(ctx, stopped)


def _result(
    spec: Spec[R],
    fitted: R | None,
    accelerator: Accelerator,
    held_out: Loader | None,
    columns: Columns,
    ctx: Context,
    stopped: str,
) -> R:
    """The result of a run that has ended."""
    for parameter in ctx.model.parameters():
        parameter.grad = None
    loss, kept = trained_loss(ctx), spec
    if loss is not None:
        loss.zero_grad()
        kept = attrs.evolve(spec, loss=loss)
    fields: Values = {
        "model": _trained(spec, fitted, ctx, accelerator).eval(),
        "records": ctx.records,
        "hparams": dict(ctx.hparams),
        "opt_hparams": dict(ctx.opt_hparams),
        "stopped": stopped,
        "spec": kept,
        "opt_names": internals(ctx).opt_names,
        "optimizer_states": _optimizer_states(ctx, accelerator),
        "valid_rows": chosen_rows(held_out),
        "columns": columns,
    }
    return spec.result(**fields) if fitted is None else attrs.evolve(fitted, **fields)


def _start(spec: Spec[Result], fitted: Result | None, accelerator: Accelerator) -> nn.Module:
    """The module that the run starts with."""
    if fitted is None:
        return prepare_model(spec, accelerator)
    return prepare_further(fitted, accelerator)


def _optimizer_states(ctx: Context, accelerator: Accelerator) -> States:
    """The optimizers' states, all of them in each process: of a sharded model on the CPU."""
    if not accelerator.is_sharded:
        return optimizer_states(ctx.optimizers)
    return optimizer_states(ctx.optimizers, lambda s: to_cpu_copy(accelerator.full_state(s)))


def _trained(
    spec: Spec[Result], fitted: Result | None, ctx: Context, accelerator: Accelerator
) -> nn.Module:
    """The user's module with its weights, all of them in each process."""
    if not accelerator.is_sharded:
        return accelerator.unwrap(ctx.model)
    state = accelerator.full_state(unwrapped(ctx.model).state_dict())
    module = _start(spec, fitted, accelerator)
    unwrapped(module).load_state_dict(state)
    return module
