"""`fit`: from a specification and data to a fitted model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.loss_watch import LossWatch
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.profile import Profile
from luzpy.callbacks.progress import Progress
from luzpy.callbacks.train_valid import TrainValid
from luzpy.core import loop
from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.core.modules import unwrapped
from luzpy.core.result import Result
from luzpy.core.spec import R, Spec, check_spec
from luzpy.data.loader import Options
from luzpy.distributed.accelerator import Accelerator, check_accelerator
from luzpy.ground.types import Data
from luzpy.verbs.arguments import check_epochs, check_options, check_verbose, with_defaults
from luzpy.verbs.hints import with_hints
from luzpy.verbs.prepare import prepare_data, prepare_fit, prepare_model

FIT_DEFAULTS: tuple[type[Callback], ...] = (
    Profile,
    TrainValid,
    Metrics,
    LossWatch,
    Progress,
    Interrupt,
)


@with_hints
def fit(
    model: Spec[R],
    data: Data,
    epochs: int | tuple[int, int] = 10,
    callbacks: Sequence[Callback] | Callback | None = None,
    valid_data: Data = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    batch_size: int | None = None,
    dataloader_options: Options | None = None,
) -> R:
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
        batch_size: How many rows a batch has, 32 unless given here or in `dataloader_options`.
        dataloader_options: Passed to the DataLoader that is made of `data`; `shuffle=True` and
            `drop_last=True` unless said otherwise.

    Returns:
        The fitted model.

    Raises:
        ValueError: If an argument is out of bounds, or there is not one batch of data.
        TypeError: If an argument is of the wrong type.
        LuzError: If a callback cannot do its work.

    What a callback, a metric, the loss, the dataset or the module raises keeps its type, and gets a
    note that says whose it is, and in which epoch and iteration.

    Examples:
        >>> import luzpy as luz, torch
        >>> x = torch.linspace(-1, 1, 64).reshape(-1, 1)
        >>> model = luz.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD)
        >>> model = model.set_hparams(in_features=1, out_features=1).set_opt_hparams(lr=0.1)
        >>> fitted = model.fit((x, 2 * x), epochs=50, verbose=False)
        >>> fitted.predict(torch.tensor([[0.5]])).round(decimals=1)
        tensor([[1.]])
    """
    check_spec(model)
    limits = check_epochs(epochs)
    accelerator = check_accelerator(accelerator)
    chosen_callbacks = with_defaults(FIT_DEFAULTS, callbacks, accelerator)
    options = check_options(dataloader_options, batch_size, data)
    is_verbose = check_verbose(verbose) and accelerator.is_main
    accelerator.share_random_state()
    module = prepare_model(model, accelerator)
    train_data, held_out = prepare_data(data, valid_data, options, accelerator.device_of(module))
    ctx = prepare_fit(
        model,
        module,
        train_data,
        held_out,
        epochs=limits,
        callbacks=chosen_callbacks,
        accelerator=accelerator,
        verbose=is_verbose,
    )
    stopped = loop.fit(ctx)
    for parameter in ctx.model.parameters():
        parameter.grad = None
    return model.result(
        model=_trained(model, ctx, accelerator).eval(),
        records=ctx.records,
        hparams=dict(ctx.hparams),
        opt_hparams=dict(ctx.opt_hparams),
        stopped=stopped,
        spec=model,
        opt_names=tuple(ctx.optimizers),
    )


def _trained(spec: Spec[Result], ctx: Context, accelerator: Accelerator) -> nn.Module:
    """The user's module with its weights, all of them in each process."""
    if not accelerator.is_sharded:
        return accelerator.unwrap(ctx.model)
    state = accelerator.full_state(unwrapped(ctx.model).state_dict())
    module = prepare_model(spec, accelerator)
    unwrapped(module).load_state_dict(state)
    return module
