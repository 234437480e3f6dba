"""Every random state that a run draws from."""

from __future__ import annotations

from typing import final

import torch
from torch.utils.data import DataLoader

from luzpy.core.context import Context
from luzpy.core.modules import named_parts, unwrapped
from luzpy.ground.errors import LuzError
from luzpy.ground.primitives import find_unsupported, from_primitives, to_primitives
from luzpy.ground.random_state import (
    RandomState,
    generator_state,
    generators_in,
    set_generator_state,
)
from luzpy.ground.reachable import reachable
from luzpy.ground.types import Values
from luzpy.resume.data_state import DATA
from luzpy.resume.loader import ResumableLoader


@final
class RandomStreams:
    """The global random states, the run's own generators, and the states that datasets report.

    Args:
        ctx: The run, as it begins.
    """

    def __init__(self, ctx: Context) -> None:
        self._stateful = _stateful_in({name: getattr(ctx, name) for name in DATA.values()})
        self._generators = generators_in(_generator_owners(ctx), (Context,))

    def state(self) -> Values:
        """Every random state that the run's data and model draw from."""
        generators = {where: generator_state(g) for where, g in self._generators.items()}
        asked = {where: to_primitives(o.state_dict()) for where, o in self._stateful.items()}
        unsupported = find_unsupported(asked)
        if unsupported is not None:
            raise LuzError(
                "A dataset or sampler must have a state of tensors and primitive values, got "
                f"{unsupported}."
            )
        return {
            "global": RandomState.current().to_primitives(),
            "own": generators,
            "stateful": asked,
        }

    def restore(self, state: Values) -> None:
        """Restore what `state` returned."""
        for where, generator in self._generators.items():
            if where in state["own"]:
                set_generator_state(generator, state["own"][where])
        for where, owner in self._stateful.items():
            if where in state.get("stateful", {}):
                owner.load_state_dict(from_primitives(state["stateful"][where]))
        RandomState.from_primitives(state["global"]).restore()


def _generator_owners(ctx: Context) -> Values:
    """The objects that may hold random generators."""
    owners: Values = {"train_data": ctx.train_data, "valid_data": ctx.valid_data}
    for name, part in named_parts(unwrapped(ctx.model)):
        # Not the part itself, which holds its parents.
        owners[f"model.{name}"] = {n: g for n, g in vars(part).items() if not n.startswith("_")}
    owners |= {"model": unwrapped(ctx.model), "loss": ctx.loss_fn}
    owners |= {f"optimizers.{name}": optimizer for name, optimizer in ctx.optimizers.items()}
    for callback in ctx.callbacks:  # others may come and go
        kind = type(callback).__name__
        owners[f"callbacks.{kind}.{sum(kind in name for name in owners)}"] = callback
    return owners


def _has_state(item: object) -> bool:
    kind = type(item)
    apart = (DataLoader, ResumableLoader, torch.nn.Module, torch.optim.Optimizer)
    has_both = hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict")
    return has_both and not issubclass(kind, apart)


def _stateful_in(loaders: Values) -> Values:
    """The datasets, samplers and what they hold that have a `state_dict`, by where they are.

    Not loaders, whose place in the data is luzpy's to know, and not modules, whose weights do not
    change with the data.
    """
    return {
        where: item
        for where, item in reachable(loaders, (Context, torch.nn.Module, torch.optim.Optimizer))
        if _has_state(item)
    }
