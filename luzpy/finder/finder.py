"""`lr_finder`: `fit` with two callbacks, on weights that nobody else sees."""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pandas as pd
import torch
from torch.utils.data import DataLoader

from luzpy.callback import Callback, check_callbacks
from luzpy.callbacks.auto_resume import AutoResume
from luzpy.callbacks.early_stopping import EarlyStopping
from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.keep_best_model import KeepBestModel
from luzpy.callbacks.lr_scheduler import LRScheduler
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.model_checkpoint import ModelCheckpoint
from luzpy.callbacks.progress import is_interactive, open_bar
from luzpy.callbacks.train_valid import TrainValid
from luzpy.checks import check_accelerator, check_verbose, with_defaults
from luzpy.context import Context
from luzpy.data import tensors_in
from luzpy.device import Accelerator, to_device
from luzpy.errors import LuzError
from luzpy.finder.lr_records import LRRecords
from luzpy.finder.sweep import RecordLoss, StopRule, SweepLR, learning_rates
from luzpy.fitting import prepare_data, prepare_fit
from luzpy.loader import Options, batch_count, batches, generators_of
from luzpy.loop import run_fit
from luzpy.random_state import RandomState, preserved_random_state

if TYPE_CHECKING:
    from luzpy.module import LuzModule

REFUSED: dict[type[Callback], str] = {
    EarlyStopping: "it ends training by epochs, which a finder does not have",
    ModelCheckpoint: "it writes files by epochs, which a finder does not have",
    KeepBestModel: "it keeps the best epoch, which a finder does not have",
    AutoResume: "it keeps the state of a run in a file, and a finder's is thrown away",
    LRScheduler: "it sets the learning rate, which the finder varies",
}
"""Callbacks that the finder refuses, and why."""

ENDLESS = 2**62


def lr_finder(
    model: LuzModule,
    data: Any,
    steps: int | None = 100,
    start_lr: float = 1e-7,
    end_lr: float = 1e-1,
    log_spaced_intervals: bool = True,
    *,
    runs: int = 1,
    valid_data: Any = None,
    valid_batches: int | None = 8,
    stop_div: float | None = None,
    opt_name: str | None = None,
    callbacks: Sequence[Callback] | Callback | None = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    dataloader_options: Options | None = None,
) -> LRRecords:
    """Train for a few steps at rising learning rates and record the loss of each.

    The learning rate range test (Smith, 2017, https://arxiv.org/abs/1506.01186), on the very loop
    and from the very weights of `fit`. Nothing of the user's is disturbed: weights, the global
    random state and the model's mode stay as they were. Port of R luz's `lr_finder()`.

    Args:
        model: What `setup` made.
        data: Training data, as in `fit`.
        steps: How many rungs, one optimizer step each; None for one epoch's batches.
        start_lr: Rung t of n uses `start_lr * (end_lr / start_lr) ** (t / n)`, t = 1..n.
        end_lr: The learning rate of the last rung.
        log_spaced_intervals: With `False`, rungs are spaced evenly instead.
        runs: From how many initial weights, the model's own first; all see the same batches.
        valid_data: Data, or a fraction of `data`, on which to compute the loss at every rung too.
        valid_batches: How many of its batches, chosen once; None for all.
        stop_div: Stop once the smoothed loss has risen above its best by this many times the
            range seen up to that best. A loss that is not finite always stops.
        opt_name: Which of several optimizers to vary; all of them if None.
        callbacks: Callbacks as in `fit`, but for those that manage epochs or the learning rate.
        accelerator: Where to train.
        verbose: Whether to draw a bar; by default in a terminal or notebook only.
        dataloader_options: As in `fit`.

    Returns:
        The records: one row a rung, columns `lr` and `loss` (and `run`, `valid_loss`). `loss` is
        the raw loss of the rung's batch, before the rung's update.

    Raises:
        ValueError: If an argument is out of bounds, or there is not one batch of data.
        TypeError: If an argument is of the wrong type.
        LuzError: If a callback, the loss or the dataset fails; it says where.

    Examples:
        >>> import luzpy as luz, torch
        >>> x = torch.randn(256, 4)
        >>> model = luz.setup(lambda: torch.nn.Linear(4, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> records = model.lr_finder((x, x.sum(1, keepdim=True)), steps=20, end_lr=1)
        >>> records.shape
        (20, 2)
    """
    check_sweep(steps, start_lr, end_lr, runs, valid_batches, stop_div)
    chosen = _allowed(callbacks)
    talk = check_verbose(verbose)
    place = check_accelerator(accelerator)
    with preserved_random_state():
        loader, held_out = prepare_data(data, valid_data, dataloader_options)
        n_rungs = batch_count(loader) if steps is None else steps
        if n_rungs is None:
            raise ValueError("`steps` must be given for data of unknown length, got None.")
        rates = learning_rates(n_rungs, start_lr, end_lr, log_spaced_intervals)
        sweep_model = _with_start_lr(model, start_lr)
        found: list[LRRecords] = []
        loaders = [loader] if held_out is None else [loader, held_out]
        with _restarting(loaders) as restart, _bar(talk, n_rungs * runs) as bar:
            watched = None if held_out is None else _fixed_batches(model, held_out, valid_batches)
            for run in range(runs):
                restart()
                sweep = SweepLR(rates, opt_name)
                record = RecordLoss(sweep, StopRule(stop_div), watched, bar)
                defaults = (
                    (TrainValid, Interrupt) if not chosen else (TrainValid, Metrics, Interrupt)
                )
                ctx = prepare_fit(
                    sweep_model,
                    loader,
                    None,
                    epochs=(0, ENDLESS),
                    callbacks=with_defaults(defaults, [*chosen, sweep, record]),
                    accelerator=place,
                    verbose=False,
                    run=run,
                )
                stopped = _run(ctx, record)
                found.append(_frame(rates, record, stopped, run + 1 if runs > 1 else None))
                if stopped == "interrupted":
                    break
    records = _joined(found)
    if talk and not is_interactive():
        print(f"Learning rate finder: {len(records)} rungs, {records.stopped}")
    return records


def _run(ctx: Context, record: RecordLoss) -> str:
    """Run to the end; how it ended."""
    try:
        run_fit(ctx)
    except Exception:
        # A diverged model can make the loss itself raise, some rungs after the first loss that
        # was not finite or in its place: that is where the sweep ends.
        reason = record.look()
        if reason is None and record.losses and not _finite(ctx):
            record.losses.append(math.nan)
            reason = "not finite"
        if reason != "not finite":
            raise
        return reason
    return ctx.stopped


def _finite(ctx: Context) -> bool:
    """Whether the weights and the last prediction are."""
    tensors = [*ctx.model.parameters(), *tensors_in(ctx.pred)]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _frame(rates: list[float], record: RecordLoss, stopped: str, run: int | None) -> LRRecords:
    n = len(record.losses)
    columns: dict[str, Any] = {} if run is None else {"run": [run] * n}
    columns |= {"lr": rates[:n], "loss": record.losses}
    if record.valid_data is not None:
        valid_losses = record.valid_losses[:n]
        columns["valid_loss"] = valid_losses + [math.nan] * (n - len(valid_losses))
    return LRRecords(columns, stopped=stopped)


def _joined(found: list[LRRecords]) -> LRRecords:
    stopped = next((r.stopped for r in found if r.stopped != "completed"), "completed")
    frames = [pd.DataFrame(records) for records in found]
    return LRRecords(pd.concat(frames, ignore_index=True), stopped=stopped)


def check_sweep(
    steps: Any, start_lr: Any, end_lr: Any, runs: Any, valid_batches: Any, stop_div: Any
) -> None:
    """Raise unless the numbers describe a sweep."""
    for name, value, optional in (
        ("steps", steps, True),
        ("runs", runs, False),
        ("valid_batches", valid_batches, True),
    ):
        if optional and value is None:
            continue
        rule = f"`{name}` must be a positive whole number{' or None' if optional else ''}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{rule}, got {value!r}.")
        if value < 1:
            raise ValueError(f"{rule}, got {value!r}.")
    for name, value in (("start_lr", start_lr), ("end_lr", end_lr)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number, got {value!r}.")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be positive and finite, got {value!r}.")
    if start_lr >= end_lr:
        raise ValueError(
            f"`start_lr` must be smaller than `end_lr`, got {start_lr!r} and {end_lr!r}."
        )
    if stop_div is not None:
        if isinstance(stop_div, bool) or not isinstance(stop_div, (int, float)):
            raise TypeError(f"`stop_div` must be a positive number or None, got {stop_div!r}.")
        if not stop_div > 0:
            raise ValueError(f"`stop_div` must be a positive number or None, got {stop_div!r}.")


def _allowed(callbacks: Sequence[Callback] | Callback | None) -> list[Callback]:
    given = check_callbacks(callbacks)
    for callback in given:
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise ValueError(
                    f"`callbacks` must not hold {kind.__name__} in lr_finder: {reason}."
                )
    return given


def _with_start_lr(model: LuzModule, start_lr: float) -> LuzModule:
    """The model with a learning rate where its optimizer cannot be made without one."""
    if "lr" in model.opt_hparams:
        return model
    maker = model.optimizer or getattr(model.module, "set_optimizers", None)
    if maker is None:  # `module` is a function: only what it makes can tell
        maker = getattr(model(), "set_optimizers", None)
    try:
        lr = inspect.signature(maker).parameters.get("lr")
    except (TypeError, ValueError):
        return model
    if lr is None or lr.default is not inspect.Parameter.empty:
        return model
    return attrs.evolve(model, opt_hparams={**model.opt_hparams, "lr": start_lr})


def _fixed_batches(model: LuzModule, loader: DataLoader[Any], count: int | None) -> Any:
    """The batches to validate on at every rung: `count` of the loader's, or all of them."""
    if count is None:
        return loader
    total = batch_count(loader)
    wanted = set(range(count))
    if total is not None and total > count:
        generator = torch.Generator().manual_seed(model.seed)
        wanted = set(torch.randperm(total, generator=generator)[:count].tolist())
    last = max(wanted)
    kept: list[Any] = []
    index = -1
    try:
        for index, batch in enumerate(batches(loader)):
            if index in wanted:
                kept.append(to_device(batch, torch.device("cpu")))
            if index == last:
                break
    except Exception as err:
        raise LuzError(
            f"`valid_data` failed to give batch {index + 2}: {type(err).__name__}: {err}"
        ) from err
    return kept


@contextmanager
def _restarting(loaders: Sequence[DataLoader[Any]]) -> Generator[Any]:
    """A function that puts every random generator of the sweep back to where it is now.

    The user's own generators, in the loaders and their samplers, are put back at the end too; the
    global ones are the caller's concern.
    """
    generators = [generator for loader in loaders for generator in generators_of(loader)]
    states = [(generator, generator.get_state()) for generator in generators]
    start = RandomState.current()

    def restart() -> None:
        start.restore()
        for generator, state in states:
            generator.set_state(state)

    try:
        yield restart
    finally:
        for generator, state in states:
            generator.set_state(state)


@contextmanager
def _bar(verbose: bool, total: int) -> Generator[Any]:
    if not (verbose and is_interactive()):
        yield None
        return
    bar = open_bar("Finding the learning rate", total)
    try:
        yield bar
    finally:
        bar.close()
