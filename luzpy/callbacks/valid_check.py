"""One batch of validation before the first epoch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast, final

import attrs
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from luzpy.callbacks.metrics import Metrics
from luzpy.core.callback import Callback
from luzpy.core.context import Context, Internals, Stop, internals
from luzpy.core.hooks import HOOKS, HookOwner
from luzpy.core.loop import validate
from luzpy.core.modules import bound, in_eval_mode, named_parts, unwrapped
from luzpy.ground.random_state import (
    generator_state,
    generators_in,
    preserved_random_state,
    set_generator_state,
)
from luzpy.ground.types import Batch, Loader

# Of a user's callback these may change what validation sees, or make what it needs.
_HOOKS = HOOKS[HOOKS.index("on_train_end") : HOOKS.index("on_valid_end")]


@final
class ValidCheck(Callback):
    """Validates on one batch before the first epoch, on copies (a default of `fit`).

    What would fail in validation fails at once, and not after an epoch. The run knows nothing of
    it: no hook is called, nothing is logged, no random number is drawn.

    It is left out where it could not be so: where the data are an iterable dataset, have worker
    processes, a sampler or a DataLoader class of the user's own; where the module has forward
    hooks, or cannot be copied; where a callback has a hook that validation may depend on; and in
    one of several processes.
    """

    weight: float = float("inf")

    def __init__(self) -> None:
        self._is_due = False

    def on_fit_begin(self, ctx: Context) -> None:
        self._is_due = True

    def on_train_begin(self, ctx: Context) -> None:
        if not self._is_due:
            return
        self._is_due = False
        rows = _first_rows(ctx.valid_data)
        if rows is not None and not any(map(_changes_validation, ctx.callbacks)):
            _check(ctx, rows)


def _first_rows(loader: object) -> Loader | None:
    """The first batch of a set for validation, in this process; None where that would be seen."""
    if type(loader) is not DataLoader:
        return None
    own = cast(Any, loader)
    is_torchs = type(own.batch_sampler) is BatchSampler
    if not is_torchs or type(own.sampler) not in (SequentialSampler, RandomSampler):
        return None
    if own.num_workers:
        return None
    rows: Any = range(min(own.batch_size, len(own.dataset)))
    return DataLoader(own.dataset, len(rows), sampler=rows, collate_fn=own.collate_fn)


def _changes_validation(callback: HookOwner) -> bool:
    hooks = filter(None, map(callback.hook, _HOOKS))
    are_luzpys = all(str(getattr(hook, "__module__", "")).startswith("luzpy.") for hook in hooks)
    return not are_luzpys or getattr(callback, "run_valid", False)


def _check(ctx: Context, rows: Loader) -> None:
    run, module = internals(ctx), unwrapped(ctx.model)
    owned = (module, ctx.loss_fn, run.unpack, run.metric_set)
    if any(map(_is_watched, named_parts(module))):
        return
    with preserved_random_state(), _preserved_generators(rows, *owned), in_eval_mode(module):
        try:
            copies = _copies(owned, ctx.records, ctx.buffers)
        except Exception:  # whatever an object says that lets itself not be copied
            return
        validation = _context(ctx, rows, *copies)
        with warnings.catch_warnings(), bound(validation):
            warnings.simplefilter("ignore")  # it warns when its time has come
            validate(validation)


def _is_watched(named: tuple[str, Any]) -> bool:
    part = named[1]
    return bool(part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_orig_mod"))


@contextmanager
def _preserved_generators(*owners: object) -> Generator[None]:
    """Leave the random generators of the user's own as they are."""
    found = generators_in({str(number): owner for number, owner in enumerate(owners)}, (Context,))
    states = [(generator, generator_state(generator)) for generator in found.values()]
    try:
        yield
    finally:
        for generator, state in states:
            set_generator_state(generator, state)


def _copies(owned: tuple[Any, ...], *others: Any) -> tuple[Any, ...]:
    """Copies of all, which know one another, and share the parameters with the originals."""
    modules = [item for item in owned if isinstance(item, nn.Module)]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return copy.deepcopy((*owned, *others), {id(parameter): parameter for parameter in parameters})


def _context(
    ctx: Context,
    rows: Iterable[Batch],
    module: nn.Module,
    loss_fn: Any,
    unpack: Any,
    metric_set: Any,
    records: Any,
    buffers: Any,
) -> Context:
    metrics, run = Metrics(), internals(ctx)
    measure = Callback.from_functions(
        on_valid_begin=metrics.on_valid_begin, on_valid_batch_end=metrics.on_valid_batch_end
    )
    return attrs.evolve(
        ctx,
        verbose=False,
        model=module,
        loss_fn=loss_fn,
        data=rows,
        valid_data=rows,
        epoch=0,
        training=False,
        loss={},
        metrics={"train": [], "valid": []},
        records=records,
        buffers=buffers,
        callbacks=[measure],
        internals=Internals(
            metric_set=metric_set,
            opt_names=run.opt_names,
            unpack=unpack,
            loss_is_outputs=run.loss_is_outputs,
            is_loss_summed=run.is_loss_summed,
            autocast=run.autocast,
            stop=Stop(),
        ),
    )
