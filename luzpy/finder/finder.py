"""`lr_finder`: `fit` with two callbacks, on its own copy of the weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

import attrs
import torch

from luzpy.callbacks.bar import Bar, is_interactive
from luzpy.core.callback import Callback
from luzpy.core.result import Result
from luzpy.core.spec import Spec, check_spec
from luzpy.data.batches import batches
from luzpy.data.dataset import length_of
from luzpy.data.loader import Options
from luzpy.distributed.accelerator import Accelerator, check_accelerator
from luzpy.finder.arguments import (
    allowed_callbacks,
    check_confirm,
    check_sweep,
    with_start_lr,
)
from luzpy.finder.confirm import MOST_BATCHES, Confirmation, put_aside, suggested
from luzpy.finder.runs import Runs, show_nothing
from luzpy.finder.summary import is_spread, needs_pairs
from luzpy.finder.sweep import learning_rates
from luzpy.ground.errors import add_note
from luzpy.ground.nested import to_device
from luzpy.ground.random_state import (
    RandomState,
    generator_state,
    generators_in,
    preserved_random_state,
    set_generator_state,
)
from luzpy.ground.types import Batch, Data, Loader
from luzpy.verbs.arguments import check_options, check_verbose
from luzpy.verbs.hints import with_hints
from luzpy.verbs.prepare import prepare_data, prepare_model

if TYPE_CHECKING:
    from luzpy.finder.lr_records import LRRecords


@with_hints
def lr_finder(
    model: Spec[Result],
    data: Data,
    steps: int | None = 100,
    start_lr: float = 1e-7,
    end_lr: float = 1e-1,
    log_spaced_intervals: bool = True,
    *,
    runs: int = 1,
    valid_data: Data = None,
    valid_batches: int | None = 8,
    confirm: int | None = None,
    confirm_steps: int | None = None,
    stop_div: float | None = None,
    opt_name: str | None = None,
    callbacks: Sequence[Callback] | Callback | None = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    batch_size: int | None = None,
    dataloader_options: Options | None = None,
) -> LRRecords:
    """Train for a few steps at rising learning rates and record the loss at each.

    This is the learning rate range test (Smith, 2017, https://arxiv.org/abs/1506.01186), with the
    training loop and the initial weights of `fit`. It has no side effects: weights, the global
    random state and the model's mode stay as they were. Port of R luz's `lr_finder()`.

    Args:
        model: A specification from `setup`.
        data: Training data, as in `fit`.
        steps: The number of rungs, one optimizer step each; None for as many as an epoch has
            batches.
        start_lr: Rung t of n uses `start_lr * (end_lr / start_lr) ** (t / n)`, t = 1..n.
        end_lr: The learning rate of the last rung.
        log_spaced_intervals: With `False`, rungs are spaced evenly instead.
        runs: The number of sets of initial weights to sweep from, the model's own first; all see
            the same batches.
        valid_data: Data, or a fraction of `data`, on which to compute the loss at every rung too.
        valid_batches: How many of its batches to use, chosen once; None for all.
        confirm: The number of rounds in which to try rates around the suggestion in short training
            runs, from the same weights on the same batches: 2 ** confirm rates in the first round,
            the better half of them, for twice as long, in each further one, the last also from
            other initial weights. They are compared on `valid_data`, or else on held-out rows.
            `confirm=3` takes about ten times as many steps as the sweep. Small models are
            trained at all rates at once, as with `runs`.
        confirm_steps: The number of steps of the runs in the last round; by default that of the
            sweep.
        stop_div: Stop once the smoothed loss has risen above its best by this many times the
            range seen up to that best. A loss that is not finite always stops.
        opt_name: Which of several optimizers to vary; all of them if None.
        callbacks: Callbacks as in `fit`, except those that manage epochs or the learning rate.
        accelerator: Where to train.
        verbose: Whether to draw a bar; by default in a terminal or notebook only.
        batch_size: As in `fit`.
        dataloader_options: As in `fit`.

    Returns:
        The records: one row per rung, columns `lr` and `loss` (and `run`, `valid_loss`). `loss` is
        the raw loss of the rung's batch, before the rung's update; `lr` is the rate that
        `set_opt_hparams(lr=...)` sets, of which parameter groups keep their shares. If the sweep is
        too noisy to judge, there is also a column `initial_loss`: the loss of the same batch at the
        initial weights, from a second pass over the batches, without backward passes. Suggestions
        are then read off the difference.

    Raises:
        ValueError: If an argument is out of bounds, or there is not a single batch of data.
        TypeError: If an argument is of the wrong type.
        LuzError: If a callback cannot do its work.

    Examples:
        >>> import luzpy as luz, torch
        >>> x = torch.randn(256, 4)
        >>> model = luz.setup(lambda: torch.nn.Linear(4, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> records = model.lr_finder((x, x.sum(1, keepdim=True)), steps=20, end_lr=1)
        >>> records.shape
        (20, 2)
    """
    check_spec(model)
    check_sweep(steps, start_lr, end_lr, log_spaced_intervals, runs, valid_batches, stop_div)
    check_confirm(confirm, confirm_steps)
    accelerator = check_accelerator(accelerator)
    chosen = allowed_callbacks(callbacks)
    options = check_options(dataloader_options, batch_size, data)
    is_verbose = check_verbose(verbose) and accelerator.is_main
    spec = with_start_lr(model, start_lr)
    with preserved_random_state():
        accelerator.share_random_state()
        first = prepare_model(spec, accelerator)
        device, seed = accelerator.device_of(first), accelerator.broadcast(spec.seed)
        loader, held_out = prepare_data(data, valid_data, options, device, seed)
        n_rungs = _steps_of_epoch(loader, accelerator) if steps is None else steps
        if n_rungs is None:
            raise ValueError("`steps` must be given for data of unknown length, got None.")
        rates = learning_rates(n_rungs, start_lr, end_lr, log_spaced_intervals)
        trial_loader, trial_held_out = loader, held_out
        if confirm is not None and held_out is None:
            trial_loader, trial_held_out = put_aside(data, loader, options, device, seed)
        loaders = (loader, held_out, trial_loader, trial_held_out)
        bar = None
        if is_verbose and is_interactive():
            bar = Bar("Finding the learning rate", n_rungs * runs)
        verdict, trials = None, None
        with _restarting(*loaders) as restart, closing(bar) if bar else nullcontext():
            every = Runs(
                spec=spec,
                loader=loader,
                valid_data=_fixed_batches(spec.seed, held_out, valid_batches, device),
                rates=rates,
                stop_div=stop_div,
                opt_name=opt_name,
                callbacks=chosen,
                accelerator=accelerator,
                restart=restart,
                show=bar.update if bar else lambda rungs: None,
            )
            swept, reason = every.sweep(runs, first, is_verbose)
            if reason == "completed" and needs_pairs([one.losses for one in swept]):
                closer, reason = every.paired(swept)
                if suggested(rates, swept) or suggested(rates, closer):  # else neither says more
                    swept = closer
            if reason == "completed" and confirm is not None:
                confirmation = Confirmation(
                    runs=attrs.evolve(every, loader=trial_loader, show=show_nothing),
                    held_out=_fixed_batches(seed, trial_held_out, MOST_BATCHES, device),
                    rounds=confirm,
                    steps=confirm_steps or n_rungs,
                )
                trials, verdict = confirmation.confirm(suggested(rates, swept))
                reason = "completed" if verdict else "interrupted"
    from luzpy.finder.frame import curves_of  # pandas is imported when it is used
    from luzpy.finder.lr_records import confirmed_frame, records_of

    records = records_of(rates, swept, reason, several=runs > 1)
    if trials is not None:
        records.confirmed, records.verdict = confirmed_frame(trials), verdict
    if runs > 1 and accelerator.is_main and is_spread(curves_of(records)):
        warnings.warn(
            "The suggestions of these initial weights differ by more than a factor of 10: the "
            "suggestion depends on chance. Raise `runs` or `steps`, or take larger batches.",
            UserWarning,
            stacklevel=2,
        )
    if is_verbose and not is_interactive():
        print(f"Learning rate finder: {len(records)} rungs, {records.stopped}")
    return records


def _steps_of_epoch(loader: Loader, accelerator: Accelerator) -> int | None:
    own = accelerator.prepare_train_loader(loader)
    return None if length_of(own) is None else getattr(own, "n_steps", len(own))


def _fixed_batches(
    seed: int, loader: Loader | None, count: int | None, device: torch.device
) -> Data:
    """What to validate on at every rung: `count` batches, on the device, or all of the loader."""
    if loader is None or count is None:
        return loader
    total = length_of(loader)
    wanted = set(range(count))
    if total is not None and total > count:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(total, generator=generator)[:count]
        wanted = {int(index) for index in drawn}
    last = max(wanted)
    kept: list[Batch] = []
    index = -1
    try:
        for index, batch in enumerate(batches(loader)):
            if index in wanted:
                kept.append(to_device(batch, device))
            if index == last:
                break
    except Exception as err:
        add_note(err, f"in `valid_data`, batch {index + 2}.")
        raise
    return kept


@contextmanager
def _restarting(*loaders: Loader | None) -> Generator[Callable[[], None]]:
    """A function that puts every random generator of the sweep back to where it is now.

    The user's own generators, in the loaders, their samplers and datasets, are put back at the end
    too; the global ones are the caller's concern.
    """
    roots = {str(index): loader for index, loader in enumerate(loaders)}
    states = [(own, generator_state(own)) for own in generators_in(roots).values()]
    start = RandomState.current()

    def restart() -> None:
        start.restore()
        for generator, state in states:
            set_generator_state(generator, state)

    try:
        yield restart
    finally:
        restart()
