"""`fit`: from a specification and data to a fitted model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn
from torch.utils.data import DataLoader

from luzpy.build import build_loss, build_model, build_optimizers
from luzpy.callback import Callback
from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.profile import Profile
from luzpy.callbacks.progress import Progress
from luzpy.callbacks.train_valid import TrainValid
from luzpy.checks import (
    check_accelerator,
    check_epochs,
    check_options,
    check_verbose,
    with_defaults,
)
from luzpy.context import Context, default_backward
from luzpy.data import split_dataset
from luzpy.device import Accelerator
from luzpy.distributed.ranks import one_process
from luzpy.distributed.together import (
    check_accumulation,
    eval_shard,
    share_random_state,
    together,
    train_shard,
    with_engine_callbacks,
)
from luzpy.distributed.whole import whole
from luzpy.fitted import FittedModule
from luzpy.loader import Options, eval_loader, resident, train_loader
from luzpy.loop import run_fit, unwrapped

if TYPE_CHECKING:
    from luzpy.module import LuzModule

FIT_DEFAULTS: tuple[type[Callback], ...] = (Profile, TrainValid, Metrics, Progress, Interrupt)


def fit(
    model: LuzModule,
    data: Any,
    epochs: int | tuple[int, int] = 10,
    callbacks: Sequence[Callback] | Callback | None = None,
    valid_data: Any = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    dataloader_options: Options | None = None,
) -> FittedModule:
    """Train the module on `data`. Port of R luz's `fit()`.

    Every fit starts from the model's own initial weights; nothing is trained in place. Shuffling
    and dropout draw from torch's global generator: `torch.manual_seed` makes a fit repeatable.

    Args:
        model: What `setup` made.
        data: A DataLoader, a Dataset, or in-memory data: a tensor, a NumPy array, a pandas or
            polars frame or series, or a tuple, list or dict of these, (input, target).
        epochs: How many, or `(min_epochs, max_epochs)`: early stopping acts between them.
        callbacks: Callbacks beside the defaults.
        valid_data: Data for validation after every epoch, or a fraction in (0, 1) of `data`,
            split off at random.
        accelerator: Where to train, an `Accelerator` or Hugging Face Accelerate's; by default on
            the GPU if there is one.
        verbose: Whether to print; by default in a terminal or notebook only.
        dataloader_options: Passed to the DataLoader that is made of `data`; `batch_size=32`,
            `shuffle=True` and `drop_last=True` unless said otherwise.

    Returns:
        The fitted model.

    Raises:
        ValueError: If an argument is out of bounds, or there is not one batch of data.
        TypeError: If an argument is of the wrong type.
        LuzError: If a callback, a metric, the loss or the dataset fails; it says where.

    Examples:
        >>> import luzpy as luz, torch
        >>> x = torch.linspace(-1, 1, 64).reshape(-1, 1)
        >>> model = luz.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD)
        >>> model = model.set_hparams(in_features=1, out_features=1).set_opt_hparams(lr=0.1)
        >>> fitted = model.fit((x, 2 * x), epochs=50, verbose=False)
        >>> fitted.predict(torch.tensor([[0.5]])).round(decimals=1)
        tensor([[1.]])
    """
    limits = check_epochs(epochs)
    chosen_callbacks = with_defaults(FIT_DEFAULTS, callbacks)
    place = check_accelerator(accelerator)
    share_random_state(place.ranks)
    train_data, held_out = prepare_data(data, valid_data, dataloader_options, place.device)
    ctx = prepare_fit(
        model,
        train_data,
        held_out,
        epochs=limits,
        callbacks=chosen_callbacks,
        accelerator=place,
        verbose=check_verbose(verbose) and place.is_main,
    )
    run_fit(ctx)
    for parameter in ctx.model.parameters():
        parameter.grad = None
    return FittedModule(
        model=_trained(model, ctx).eval(),
        records=ctx.records,
        hparams=dict(ctx.hparams),
        opt_hparams=dict(ctx.opt_hparams),
        stopped=ctx.stopped,
        spec=model,
    )


def _trained(model: LuzModule, ctx: Context) -> nn.Module:
    """The user's module with its weights, in each process the whole of it."""
    if not ctx.accelerator.ranks.spread:
        return one_process(ctx.model)
    state = whole(unwrapped(ctx.model).state_dict())
    module = ctx.accelerator.prepare_model(build_model(model, model.hparams))
    unwrapped(module).load_state_dict(state)
    return module


def prepare_data(
    data: Any, valid_data: Any, dataloader_options: Options | None, device: torch.device
) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
    """The DataLoaders of a run, made of what the user gave."""
    options = check_options(dataloader_options)
    train_data = resident(data, device, options, name="data")
    if isinstance(valid_data, (int, float)):
        train_data, valid = _split(train_data, valid_data)
    else:
        valid = resident(valid_data, device, options, name="valid_data")
    loader = train_loader(train_data, options)
    if valid is None:
        return loader, None
    return loader, eval_loader(valid, options, name="valid_data", beside_train=data)


def prepare_fit(
    model: LuzModule,
    train_data: DataLoader[Any],
    valid_data: Iterable[Any] | None,
    *,
    epochs: tuple[int, int],
    callbacks: list[Callback],
    accelerator: Accelerator,
    verbose: bool,
    run: int = 0,
) -> Context:
    """The context of a run that has not begun: data, model, optimizers and loss are in place."""
    ranks = accelerator.ranks
    if ranks.size > 1:
        model = attrs.evolve(model, seed=ranks.from_main(model.seed))
    module = accelerator.prepare_model(build_model(model, model.hparams, run))
    optimizers = build_optimizers(model, module, model.opt_hparams)
    check_accumulation(accelerator, module, optimizers)
    loss_fn = build_loss(model, module, accelerator.device)
    loader = train_shard(train_data, accelerator)
    return Context(
        verbose=verbose,
        accelerator=accelerator,
        model=together(module, optimizers, ranks),
        optimizers=optimizers,
        loss_fn=loss_fn,
        backward=model.backward or default_backward,
        data=loader,
        train_data=loader,
        valid_data=eval_shard(valid_data, accelerator, name="valid_data"),
        min_epochs=epochs[0],
        max_epochs=epochs[1],
        metric_set=model.metrics,
        hparams=dict(model.hparams),
        opt_hparams=dict(model.opt_hparams),
        callbacks=with_engine_callbacks(accelerator, callbacks, training=True),
    )


def _split(data: Any, fraction: float) -> tuple[Any, Any]:
    if isinstance(fraction, bool) or not 0 < fraction < 1:
        raise ValueError(
            f"`valid_data` must be data, or a fraction between 0 and 1, got {fraction!r}."
        )
    if isinstance(data, DataLoader):
        raise ValueError(
            f"`valid_data` cannot be a fraction of a DataLoader, got {fraction!r}: give the "
            "Dataset as `data`, or `valid_data` a DataLoader of its own."
        )
    return split_dataset(data, fraction)
