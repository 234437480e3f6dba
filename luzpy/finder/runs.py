"""The runs of a learning rate finder: each a `fit` with two callbacks, or all of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import final

import attrs
import numpy as np
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
from luzpy.finder.ensemble import ELEMENTWISE, Ensemble, RatesApart, swap_parameters, why_apart
from luzpy.finder.held_out import HeldOut, HeldOutLoss
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
    is_frozen: bool = False

    def sweep(self, runs: int, first: nn.Module, verbose: bool) -> tuple[list[Sweep], str]:
        """What was recorded, and the reason that was given to stop before the end, if any.

        Args:
            runs: How many.
            first: The model with the first run's weights.
            verbose: Whether to say how several are run.
        """
        if runs > 1:
            together = self._together(range(runs))
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

    def paired(self, swept: list[Sweep]) -> tuple[list[Sweep], str]:
        """The sweeps with the loss of each batch at the initial weights, in the same random state.

        It is the same sweep once more, with rates of zero and without the backward passes. Where
        the data cannot be gone through again, or come otherwise, the sweeps are as they were; so
        they are if the user or a callback stopped it, and then the reason is returned with them.
        """
        if isinstance(self.loader.dataset, IterableDataset):
            return swept, "completed"
        rungs = max(len(one.losses) for one in swept)
        again = attrs.evolve(
            self,
            rates=[0.0] * rungs,
            valid_data=None,
            stop_div=None,
            show=show_nothing,
            is_frozen=True,
        )
        first = prepare_model(self.spec, self.accelerator)
        found, reason = again.sweep(len(swept), first, False)
        if reason != "completed":
            return swept, reason
        pairs = list(zip(swept, found, strict=True))
        # Before the first update the weights are the initial ones: another loss, another batch.
        if not all(np.isclose(a.losses[0], b.losses[0], rtol=1e-3, atol=1e-6) for a, b in pairs):
            return swept, "completed"
        looked = [
            attrs.evolve(
                one,
                initial_losses=[
                    *initial.losses[: len(one.losses)],
                    *[math.nan] * (len(one.losses) - len(initial.losses)),
                ],
            )
            for one, initial in pairs
        ]
        return looked, "completed"

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

    def _together(self, runs: Iterable[int]) -> tuple[Context, Ensemble] | str:
        """A context that trains the models of several runs at once; else why not."""
        reason = self._why_no_ensemble()
        if reason is not None:
            return reason
        models = [prepare_model(self.spec, self.accelerator, run) for run in runs]
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

    def trained(self, pairs: Sequence[tuple[float, int]], held_out: Data) -> list[HeldOut] | None:
        """What trainings come to, in the rungs of these runs, each at one rate.

        All of them at once where the models allow it; each alone at a rate of zero.

        Args:
            pairs: The learning rate and the initial weights' run of each training.
            held_out: The data to judge on.

        Returns:
            The held-out losses of each training; None if one was stopped.
        """
        if len(pairs) > 1:
            together = self._together([run for _, run in pairs])
            if not isinstance(together, str):
                ctx, ensemble = together
                rates = RatesApart([lr for lr, _ in pairs])
                found = attrs.evolve(self, rates=[1.0] * len(self.rates))._trained(
                    ctx, held_out, ensemble, rates
                )
                if found is None or len(found) == len(pairs):
                    return found
        every: list[HeldOut] = []
        for lr, run in pairs:
            ctx = self._context(prepare_model(self.spec, self.accelerator, run))
            runs = attrs.evolve(self, rates=[lr] * len(self.rates), is_frozen=lr == 0)
            found = runs._trained(ctx, held_out)
            if found is None:
                return None
            every += found or [HeldOut([math.nan], [1])]
        return every

    def _trained(
        self,
        ctx: Context,
        held_out: Data,
        ensemble: Ensemble | None = None,
        *more: Callback,
    ) -> list[HeldOut] | None:
        sweep = SweepLR(self.rates, self.opt_name)
        record = RecordLoss(sweep, None, None, self.show, ensemble)
        held_out_loss = HeldOutLoss(held_out, record)
        _, reason = self._run(ctx, sweep, record, *more, held_out_loss)
        return held_out_loss.found if reason == "completed" else None

    def _sweep(self, ctx: Context, ensemble: Ensemble | None = None) -> tuple[list[Sweep], str]:
        sweep = SweepLR(self.rates, self.opt_name)
        record = RecordLoss(sweep, self.stop_div, self.valid_data, self.show, ensemble)
        return self._run(ctx, sweep, record)

    def _run(
        self, ctx: Context, sweep: SweepLR, record: RecordLoss, *more: Callback
    ) -> tuple[list[Sweep], str]:
        ctx.callbacks = [*ctx.callbacks, sweep, record, *more]
        is_distributed = self.accelerator.is_distributed
        if self.is_frozen:
            ctx.callbacks = [*ctx.callbacks, Frozen()]
            known = all(type(optimizer) in ELEMENTWISE for optimizer in ctx.optimizers.values())
            if known and not (self.callbacks or is_distributed or self.spec.backward):
                ctx.backward = _no_backward
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


@final
class Frozen(Callback):
    """Gives every optimizer, varied or not, a learning rate of zero."""

    weight: float = float("-inf")

    def on_fit_begin(self, ctx: Context) -> None:
        for optimizer in ctx.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(0.0)
                else:
                    group["lr"] = 0.0


def show_nothing(rungs: int) -> None:
    """The bar is that of the first look."""


def _no_backward(loss: torch.Tensor) -> None:
    """Leaves the optimizers without gradients: their steps do nothing."""


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
