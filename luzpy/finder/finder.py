"""`lr_finder`: `fit` with two callbacks, on weights that nobody else sees."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch.utils.data import IterableDataset

from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.progress import is_interactive, open_bar
from luzpy.callbacks.train_valid import TrainValid
from luzpy.core import loop
from luzpy.core.callback import Callback
from luzpy.core.context import Context
from luzpy.core.modules import unwrapped
from luzpy.core.spec import Spec
from luzpy.data.batches import batches
from luzpy.data.dataset import length_of
from luzpy.data.loader import Options
from luzpy.distributed.accelerator import Accelerator, check_accelerator
from luzpy.finder.arguments import allowed_callbacks, check_sweep, with_start_lr
from luzpy.finder.ensemble import Ensemble, swap_parameters, why_apart
from luzpy.finder.summary import ranges_disagree
from luzpy.finder.sweep import RecordLoss, Sweep, SweepLR, learning_rates
from luzpy.ground.errors import add_note
from luzpy.ground.nested import tensors_in, to_device
from luzpy.ground.random_state import (
    RandomState,
    generator_state,
    generators_in,
    preserved_random_state,
    set_generator_state,
)
from luzpy.ground.types import Batch, Data, Loader
from luzpy.verbs.arguments import check_options, check_verbose, with_defaults
from luzpy.verbs.prepare import prepare_data, prepare_fit, prepare_model

if TYPE_CHECKING:
    from luzpy.finder.lr_records import LRRecords

ENDLESS = 2**62


def lr_finder(
    model: Spec[Any],
    data: Data,
    steps: int | None = 100,
    start_lr: float = 1e-7,
    end_lr: float = 1e-1,
    log_spaced_intervals: bool = True,
    *,
    runs: int = 1,
    valid_data: Data = None,
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
        LuzError: If a callback cannot do its work.

    Examples:
        >>> import luzpy as luz, torch
        >>> x = torch.randn(256, 4)
        >>> model = luz.setup(lambda: torch.nn.Linear(4, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> records = model.lr_finder((x, x.sum(1, keepdim=True)), steps=20, end_lr=1)
        >>> records.shape
        (20, 2)
    """
    check_sweep(steps, start_lr, end_lr, runs, valid_batches, stop_div)
    accelerator = check_accelerator(accelerator)
    chosen = allowed_callbacks(callbacks)
    options = check_options(dataloader_options)
    is_verbose = check_verbose(verbose) and accelerator.is_main
    spec = with_start_lr(model, start_lr)
    with preserved_random_state():
        accelerator.share_random_state()
        first = prepare_model(spec, accelerator)
        loader, held_out = prepare_data(data, valid_data, options, accelerator.device_of(first))
        n_rungs = _steps_of_epoch(loader, accelerator) if steps is None else steps
        if n_rungs is None:
            raise ValueError("`steps` must be given for data of unknown length, got None.")
        rates = learning_rates(n_rungs, start_lr, end_lr, log_spaced_intervals)
        loaders = [loader] if held_out is None else [loader, held_out]
        with _restarting(loaders) as restart, _bar(is_verbose, n_rungs * runs) as bar:
            watched = None if held_out is None else _fixed_batches(spec, held_out, valid_batches)
            sweeps = _Sweeps(
                spec=spec,
                loader=loader,
                valid_data=watched,
                rates=rates,
                stop_div=stop_div,
                opt_name=opt_name,
                callbacks=chosen,
                accelerator=accelerator,
                restart=restart,
                bar=bar,
            )
            swept, reason = sweeps.run(runs, first, is_verbose)
    from luzpy.finder.frame import curves_of  # pandas is imported when it is used
    from luzpy.finder.lr_records import records_of

    records = records_of(rates, swept, reason, several=runs > 1)
    if runs > 1 and accelerator.is_main and ranges_disagree(curves_of(records)):
        warnings.warn(
            "Two initial weights give ranges of learning rates that have none in common: the "
            "suggestion depends on chance. Raise `runs` or `steps`, or take larger batches.",
            UserWarning,
            stacklevel=2,
        )
    if is_verbose and not is_interactive():
        print(f"Learning rate finder: {len(records)} rungs, {records.stopped}")
    return records


@attrs.frozen(kw_only=True)
class _Sweeps:
    """One sweep or several, from the same random state."""

    spec: Spec[Any]
    loader: Loader
    valid_data: Data
    rates: list[float]
    stop_div: float | None
    opt_name: str | None
    callbacks: list[Callback]
    accelerator: Accelerator
    restart: Callable[[], None]
    bar: Any

    def run(self, runs: int, first: Any, verbose: bool) -> tuple[list[Sweep], str]:
        """What was recorded, and the reason that was given to stop before the end, if any.

        Args:
            runs: How many.
            first: The model with the first run's weights.
            verbose: Whether to say how several are run.
        """
        if runs > 1:
            ensemble, reason = self._ensemble(runs)
            if verbose:
                print(f"{runs} runs " + (f"one after another: {reason}" if reason else "together"))
            if ensemble is not None:
                return self._sweep(*ensemble)
        swept: list[Sweep] = []
        for run in range(runs):
            model = prepare_model(self.spec, self.accelerator, run) if run else first
            found, reason = self._sweep(self._context(model))
            swept += found
            if reason != "completed":
                return swept, reason
        return swept, "completed"

    def _context(self, model: Any) -> Context:
        defaults = (TrainValid, Metrics, Interrupt) if self.callbacks else (TrainValid, Interrupt)
        return prepare_fit(
            self.spec,
            model,
            self.loader,
            None,
            epochs=(0, ENDLESS),
            callbacks=with_defaults(defaults, self.callbacks, self.accelerator),
            accelerator=self.accelerator,
            verbose=False,
        )

    def _ensemble(self, runs: int) -> tuple[tuple[Context, Ensemble] | None, str]:
        """A context that trains all models at once; else None, and why not."""
        reason = self._why_no_ensemble()
        if reason:
            return None, reason
        models = [prepare_model(self.spec, self.accelerator, run) for run in range(runs)]
        if hasattr(unwrapped(models[0]), "step"):
            return None, "the step is the module's own"
        ctx = self._context(models[0])
        self.restart()
        ctx.batch = self.accelerator.prepare_batch(next(iter(batches(self.loader))), ctx.device)
        assert ctx.loss_fn is not None
        reason = why_apart(models, ctx.optimizers, ctx.loss_fn, ctx.input, ctx.target)
        if reason:
            return None, reason
        ensemble = Ensemble(models)
        swap_parameters(next(iter(ctx.optimizers.values())), ctx.model, ensemble)
        ctx.loss_fn = ensemble.summed_loss(ctx.loss_fn)
        ctx.model = ensemble
        return (ctx, ensemble), ""

    def _why_no_ensemble(self) -> str:
        if self.callbacks:
            return "there are callbacks"
        if self.spec.loss is None or self.spec.backward is not None:
            return "the loss or the backward pass is the module's own"
        if self.accelerator.is_distributed or self.accelerator.accumulate > 1:
            return "several processes or batches make a step"
        if self.accelerator.dtype is not None:
            return "there is mixed precision"
        if isinstance(self.loader.dataset, IterableDataset):
            return "the data can only be gone through from its start"
        return ""

    def _sweep(self, ctx: Context, ensemble: Ensemble | None = None) -> tuple[list[Sweep], str]:
        sweep = SweepLR(self.rates, self.opt_name)
        record = RecordLoss(sweep, self.stop_div, self.valid_data, self.bar, ensemble)
        ctx.callbacks = [*ctx.callbacks, sweep, record]
        is_distributed = self.accelerator.is_distributed
        if is_distributed and ctx.loss_fn is not None:
            ctx.loss_fn = _nan_where_it_raises(ctx.loss_fn)
        self.restart()
        reason = "completed"
        try:
            reason = loop.fit(ctx)
        except Exception:
            if is_distributed and (_finite(ctx) or not self.accelerator.barrier()):
                raise  # the others do not know of it
            # A diverged model can make the loss itself raise, at a loss that is not finite or some
            # rungs after it: that is where the sweep ends.
            record.read(ctx)
            swept = record.swept()
            if any(one.stopped == "not finite" for one in swept):
                return swept, reason
            if not swept[0].losses or _finite(ctx):
                raise
            record.end_with_nan()
        swept = record.swept()
        return swept, "completed" if any(one.stopped == reason for one in swept) else reason


def _steps_of_epoch(loader: Loader, accelerator: Accelerator) -> int | None:
    own = accelerator.prepare_train_loader(loader)
    return None if length_of(own) is None else getattr(own, "n_steps", len(own))


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

    def loss(pred: Batch, target: Batch) -> torch.Tensor:
        try:
            return loss_fn(pred, target)
        except Exception:
            parts = [part for part in tensors_in(pred) if part.is_floating_point()]
            if all(bool(part.isfinite().all()) for part in parts):
                raise
            return math.nan * torch.stack([part.sum() for part in parts]).sum()

    return loss


def _fixed_batches(spec: Spec[Any], loader: Loader, count: int | None) -> Any:
    """The batches to validate on at every rung: `count` of the loader's, or all of them."""
    if count is None:
        return loader
    total = length_of(loader)
    wanted = set(range(count))
    if total is not None and total > count:
        generator = torch.Generator().manual_seed(spec.seed)
        drawn = torch.randperm(total, generator=generator)[:count]
        wanted = {int(index) for index in drawn}
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
        add_note(err, f"in `valid_data`, batch {index + 2}.")
        raise
    return kept


@contextmanager
def _restarting(loaders: Sequence[Loader]) -> Generator[Any]:
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
