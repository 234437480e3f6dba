"""The fields of a fitted model: what a run has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from torch import nn

from luzpy.ground.records import Records, get_metrics, metrics_frame, warnings_of
from luzpy.ground.types import Values

if TYPE_CHECKING:
    import pandas as pd


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Result:
    """A fitted model and what its training logged.

    Attributes:
        model: The trained `nn.Module`, in eval mode.
        records: Metrics and timings, as plain dicts and lists.
        hparams: The module's hyperparameters.
        opt_hparams: The optimizer's hyperparameters.
        stopped: How training ended: `"completed"`, `"early stopping"`, `"interrupted"`, or the
            reason given to `ctx.stop`.
        spec: The specification that it was fitted from; of a loaded one the module alone.
        opt_names: The names of the optimizers.
    """

    model: nn.Module
    records: Records
    hparams: Values
    opt_hparams: Values
    stopped: str
    spec: Any
    opt_names: tuple[str, ...] = ("opt",)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the training warned of, in order."""
        return warnings_of(self.records)


@get_metrics.register(Result)
def _(x: Result) -> pd.DataFrame:
    return metrics_frame(x.records)


def check_fitted(fitted: Any) -> None:
    """Raise a TypeError unless `fitted` is a fitted model."""
    if not isinstance(fitted, Result):
        raise TypeError(f"`fitted` must be a FittedModule, got {type(fitted).__name__}.")
