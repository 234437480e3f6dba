"""`lr_finder`: `fit` with two callbacks, on weights that nobody else sees."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import attrs
import torch
from torch.utils.data import DataLoader, IterableDataset

from luzpy.batches import batches
from luzpy.build import build_model
from luzpy.callback import Callback
from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.progress import is_interactive, open_bar
from luzpy.callbacks.train_valid import TrainValid
from luzpy.checks import check_accelerator, check_verbose, with_defaults
from luzpy.context import Context
from luzpy.data import tensors_in
from luzpy.device import Accelerator, to_device
from luzpy.distributed.sharding import n_groups
from luzpy.distributed.together import share_random_state
from luzpy.errors import LuzError
from luzpy.finder.arguments import allowed_callbacks, check_sweep, with_start_lr
from luzpy.finder.ensemble import Ensemble, swap_parameters, why_apart
from luzpy.finder.summary import disjoint
from luzpy.finder.sweep import Curve, RecordLoss, StopRule, SweepLR, learning_rates
from luzpy.fitting import prepare_data, prepare_fit
from luzpy.loader import Options, batch_count
from luzpy.loop import run_fit, unwrapped
from luzpy.random_state import (
    RandomState,
    generator_state,
    generators_in,
    preserved_random_state,
    set_generator_state,
)

if TYPE_CHECKING:
    from luzpy.finder.lr_records import LRRecords
    from luzpy.module import LuzModule

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
    chosen = allowed_callbacks(callbacks)
    place = check_accelerator(accelerator)
    talk = check_verbose(verbose) and place.is_main
    with preserved_random_state():
        share_random_state(place.ranks)
        loader, held_out = prepare_data(data, valid_data, dataloader_options, place.device)
        n_rungs = _steps_of_epoch(loader, place) if steps is None else steps
        if n_rungs is None:
            raise ValueError("`steps` must be given for data of unknown length, got None.")
        rates = learning_rates(n_rungs, start_lr, end_lr, log_spaced_intervals)
        loaders = [loader] if held_out is None else [loader, held_out]
        with _restarting(loaders) as restart, _bar(talk, n_rungs * runs) as bar:
            watched = None if held_out is None else _fixed_batches(model, held_out, valid_batches)
            sweeps = _Sweeps(
                model=with_start_lr(model, start_lr),
                loader=loader,
                valid_data=watched,
                rates=rates,
                rule=StopRule(stop_div),
                opt_name=opt_name,
                callbacks=chosen,
                accelerator=place,
                restart=restart,
                bar=bar,
            )
            curves, interrupted = sweeps.run(runs, talk)
    from luzpy.finder.lr_records import curves_of, records_of  # pandas is imported when it is used

    records = records_of(rates, curves, interrupted, several=runs > 1)
    if runs > 1 and place.is_main and disjoint(curves_of(records)):
        warnings.warn(
            "Two initial weights give ranges of learning rates that have none in common: the "
            "suggestion depends on chance. Raise `runs` or `steps`, or take larger batches.",
            UserWarning,
            stacklevel=2,
        )
    if talk and not is_interactive():
        print(f"Learning rate finder: {len(records)} rungs, {records.stopped}")
    return records


@attrs.frozen(kw_only=True)
class _Sweeps:
    """One sweep or several, from the same random state."""

    model: LuzModule
    loader: DataLoader[Any]
    valid_data: Any
    rates: list[float]
    rule: StopRule
    opt_name: str | None
    callbacks: list[Callback]
    accelerator: Accelerator
    restart: Callable[[], None]
    bar: Any

    def run(self, runs: int, talk: bool) -> tuple[list[Curve], bool]:
        """The curves, and whether Ctrl-C cut them short."""
        if runs > 1:
            together, reason = self._together(runs)
            if talk:
                print(f"{runs} runs " + (f"one after another: {reason}" if reason else "together"))
            if together is not None:
                return self._sweep(*together)
        curves: list[Curve] = []
        for run in range(runs):
            found, interrupted = self._sweep(self._context(run))
            curves += found
            if interrupted:
                return curves, True
        return curves, False

    def _context(self, run: int) -> Context:
        defaults = (TrainValid, Metrics, Interrupt) if self.callbacks else (TrainValid, Interrupt)
        return prepare_fit(
            self.model,
            self.loader,
            None,
            epochs=(0, ENDLESS),
            callbacks=with_defaults(defaults, self.callbacks),
            accelerator=self.accelerator,
            verbose=False,
            run=run,
        )

    def _together(self, runs: int) -> tuple[tuple[Context, Ensemble] | None, str]:
        """A context that trains all models at once; else None, and why not."""
        if self.callbacks:
            return None, "there are callbacks"
        if self.model.loss is None or self.model.backward is not None:
            return None, "the loss or the backward pass is the module's own"
        if self.accelerator.ranks.size > 1 or self.accelerator.accumulate > 1:
            return None, "several processes or batches make a step"
        if self.accelerator.dtype is not None:
            return None, "there is mixed precision"
        if isinstance(self.loader.dataset, IterableDataset):
            return None, "the data can only be gone through from its start"
        ctx = self._context(0)
        if getattr(unwrapped(ctx.model), "step", None) is not None:
            return None, "the step is the module's own"
        others = [build_model(self.model, self.model.hparams, run) for run in range(1, runs)]
        models = [ctx.model, *(self.accelerator.prepare_model(other) for other in others)]
        self.restart()
        ctx.batch = self.accelerator.prepare_batch(next(iter(batches(self.loader))))
        assert ctx.loss_fn is not None
        reason = why_apart(models, ctx.optimizers, ctx.loss_fn, ctx.input, ctx.target)
        if reason:
            return None, reason
        ensemble = Ensemble(models)
        swap_parameters(next(iter(ctx.optimizers.values())), ctx.model, ensemble)
        ctx.loss_fn = ensemble.together(ctx.loss_fn)
        ctx.model = ensemble
        return (ctx, ensemble), ""

    def _sweep(self, ctx: Context, ensemble: Ensemble | None = None) -> tuple[list[Curve], bool]:
        sweep = SweepLR(self.rates, self.opt_name)
        record = RecordLoss(sweep, self.rule, self.valid_data, self.bar, ensemble)
        ctx.callbacks = [*ctx.callbacks, sweep, record]
        if ctx.accelerator.ranks.size > 1 and ctx.loss_fn is not None:
            ctx.loss_fn = _nan_where_it_raises(ctx.loss_fn)
        self.restart()
        try:
            run_fit(ctx)
        except Exception:
            ranks = ctx.accelerator.ranks
            if ranks.size > 1 and (_finite(ctx) or not ranks.all_come()):
                raise  # the others do not know of it
            # A diverged model can make the loss itself raise, at a loss that is not finite or some
            # rungs after it: that is where the sweep ends.
            record.look(ranks)
            curves = record.curves()
            if any(curve.stopped == "not finite" for curve in curves):
                return curves, False
            if not curves[0].losses or _finite(ctx):
                raise
            record.end_with_nan()
        return record.curves(), ctx.stopped == "interrupted"


def _steps_of_epoch(loader: DataLoader[Any], place: Accelerator) -> int | None:
    n_batches = batch_count(loader)
    if n_batches is None:
        return None
    batches_of_rank = n_groups(n_batches, place.ranks.size, whole=loader.drop_last)
    return n_groups(batches_of_rank, place.accumulate, whole=False)


def _finite(ctx: Context) -> bool:
    """Whether the weights, of which a rank may have a part only, and the last prediction are."""
    tensors: list[Any] = [*ctx.model.parameters(), *tensors_in(ctx.pred)]
    own = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return all(bool(tensor.isfinite().all()) for tensor in own)


def _nan_where_it_raises(
    loss_fn: Callable[[Any, Any], torch.Tensor],
) -> Callable[[Any, Any], torch.Tensor]:
    """The loss; NaN where it raises for a prediction that is not finite.

    The model may have diverged on the rows of one rank first: the others wait for its gradients,
    and all of them read of its loss.
    """

    def loss(pred: Any, target: Any) -> torch.Tensor:
        try:
            return loss_fn(pred, target)
        except Exception:
            parts = [part for part in tensors_in(pred) if part.is_floating_point()]
            if all(bool(part.isfinite().all()) for part in parts):
                raise
            return math.nan * torch.stack([part.sum() for part in parts]).sum()

    return loss


def _fixed_batches(model: LuzModule, loader: DataLoader[Any], count: int | None) -> Any:
    """The batches to validate on at every rung: `count` of the loader's, or all of them."""
    if count is None:
        return loader
    total = batch_count(loader)
    wanted = set(range(count))
    if total is not None and total > count:
        generator = torch.Generator().manual_seed(model.seed)
        drawn = torch.randperm(total, generator=generator)[:count]
        wanted = set(cast(Any, drawn).tolist())
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

    The user's own generators, in the loaders, their samplers and datasets, are put back at the end
    too; the global ones are the caller's concern.
    """
    roots = {str(index): loader for index, loader in enumerate(loaders)}
    states = [(own, generator_state(own)) for own in generators_in(roots).values()]
    start = RandomState.current()

    def restart_own() -> None:
        for generator, state in states:
            set_generator_state(generator, state)

    def restart() -> None:
        start.restore()
        restart_own()

    try:
        yield restart
    finally:
        restart_own()


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
