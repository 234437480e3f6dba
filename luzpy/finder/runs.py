"""The runs of a learning rate finder: each a `fit` with two callbacks, or all of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import attrs
import torch
from torch import nn
from torch.utils.data import IterableDataset

from luzpy.callbacks.interrupt import Interrupt
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.train_valid import TrainValid
from luzpy.core import loop
from luzpy.core.callback import Callback
from luzpy.core.context import Context, Loss, internals
from luzpy.core.fetch import unpacking
from luzpy.core.modules import unwrapped
from luzpy.core.result import Result
from luzpy.core.spec import Spec
from luzpy.data.batches import batches
from luzpy.distributed.accelerator import Accelerator
from luzpy.finder.ensemble import Ensemble, swap_parameters, why_apart
from luzpy.finder.record_loss import RecordLoss, Sweep
from luzpy.finder.sweep import SweepLR
from luzpy.ground.nested import tensors_in
from luzpy.ground.types import Batch, Data, Loader
from luzpy.verbs.arguments import with_defaults
from luzpy.verbs.prepare import prepare_fit, prepare_model

ENDLESS = 2**62


@attrs.frozen(kw_only=True)
class Runs:
    """One sweep or several, from the same random state."""

    spec: Spec[Result]
    loader: Loader
    valid_data: Data
    rates: list[float]
    stop_div: float | None
    opt_name: str | None
    callbacks: list[Callback]
    accelerator: Accelerator
    restart: Callable[[], None]
    show: Callable[[int], object]

    def sweep(self, runs: int, first: nn.Module, verbose: bool) -> tuple[list[Sweep], str]:
        """What was recorded, and the reason that was given to stop before the end, if any.

        Args:
            runs: How many.
            first: The model with the first run's weights.
            verbose: Whether to say how several are run.
        """
        if runs > 1:
            together = self._why_no_ensemble() or self._ensemble(runs)
            apart = isinstance(together, str)
            if verbose:
                print(f"{runs} runs {f'one after another: {together}' if apart else 'together'}")
            if not apart:
                return self._sweep(*together)
        swept: list[Sweep] = []
        for run in range(runs):
            model = prepare_model(self.spec, self.accelerator, run) if run else first
            found, reason = self._sweep(self._context(model))
            swept += found
            if reason != "completed":
                return swept, reason
        return swept, "completed"

    def _context(self, model: nn.Module) -> Context:
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

    def _why_no_ensemble(self) -> str | None:
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
        return None

    def _ensemble(self, runs: int) -> tuple[Context, Ensemble] | str:
        """A context that trains all models at once; else why not."""
        models = [prepare_model(self.spec, self.accelerator, run) for run in range(runs)]
        if hasattr(unwrapped(models[0]), "step"):
            return "the step is the module's own"
        ctx = self._context(models[0])
        self.restart()
        ctx.batch = self.accelerator.prepare_batch(next(iter(batches(self.loader))), ctx.device)
        assert ctx.loss_fn is not None
        found = internals(ctx).unpacking = unpacking(ctx)
        if found is not None and found.by_keyword:
            return "the input is passed by keyword"
        reason = why_apart(models, ctx.optimizers, ctx.loss_fn, ctx.input, ctx.target)
        if reason is not None:
            return reason
        ensemble = Ensemble(models)
        swap_parameters(next(iter(ctx.optimizers.values())), ctx.model, ensemble)
        ctx.loss_fn = ensemble.summed_loss(ctx.loss_fn)
        ctx.model = ensemble
        return ctx, ensemble

    def _sweep(self, ctx: Context, ensemble: Ensemble | None = None) -> tuple[list[Sweep], str]:
        sweep = SweepLR(self.rates, self.opt_name)
        record = RecordLoss(sweep, self.stop_div, self.valid_data, self.show, ensemble)
        ctx.callbacks = [*ctx.callbacks, sweep, record]
        is_distributed = self.accelerator.is_distributed
        if is_distributed and ctx.loss_fn is not None:
            ctx.loss_fn = _nan_where_it_raises(ctx.loss_fn)
        self.restart()
        reason = "completed"
        try:
            reason = loop.fit(ctx)
        except Exception:
            finite = _all_finite([*ctx.model.parameters(), *tensors_in(ctx.pred)])
            if is_distributed and (finite or not self.accelerator.barrier()):
                raise  # the others do not know of it
            # A diverged model can make the loss itself raise, at a loss that is not finite or some
            # rungs after it: that is where the sweep ends.
            record.read(ctx)
            swept = record.swept()
            if any(one.stopped == "not finite" for one in swept):
                return swept, reason
            if finite or not swept[0].losses:
                raise
            record.end_with_nan()
        swept = record.swept()
        return swept, "completed" if any(one.stopped == reason for one in swept) else reason


def _all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether the tensors, of which a process may have a part only, are finite."""
    return all(bool(getattr(t, "to_local", lambda t=t: t)().isfinite().all()) for t in tensors)


def _nan_where_it_raises(loss_fn: Loss) -> Loss:
    """The loss; NaN where it raises for a prediction that is not finite.

    The model may have diverged on the rows of one rank first: the others wait for its gradients,
    and all of them read of its loss.
    """

    def loss(pred: Batch, target: Batch) -> torch.Tensor:
        try:
            return loss_fn(pred, target)
        except Exception:
            parts = [part for part in tensors_in(pred) if part.is_floating_point()]
            if _all_finite(parts):
                raise
            return math.nan * torch.stack([part.sum() for part in parts]).sum()

    return loss
