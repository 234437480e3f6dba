"""The fields of a fitted model: the result of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from luzpy.ground.records import (
    Records,
    best_epoch,
    get_metrics,
    metrics_frame,
    warnings_of,
)
from luzpy.ground.types import Values

if TYPE_CHECKING:
    import pandas as pd


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Result:
    """The fields of a `FittedModule`, which says what each is."""

    model: nn.Module
    records: Records
    hparams: Values
    opt_hparams: Values
    stopped: str
    spec: Any  # what it was fitted from; of a loaded one the module alone
    opt_names: tuple[str, ...] = ("opt",)
    optimizer_states: dict[str, Values] | None = None  # None: they are not known
    valid_rows: torch.Tensor | None = None
    columns: Any = None  # the names of the columns of the data's frames

    @property
    def best_epoch(self) -> int | None:
        """The best epoch, from 1: the one that `KeepBestModel` restored.

        Without it that of the lowest valid loss, without validation of the lowest train loss; None
        if there is none, as where each optimizer has a loss of its own.
        """
        return best_epoch(self.records)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the training, in order."""
        return warnings_of(self.records)


@get_metrics.register(Result)
def _(x: Result) -> pd.DataFrame:
    return metrics_frame(x.records)


def check_fitted(fitted: object) -> None:
    """Raise a TypeError unless `fitted` is a fitted model."""
    if not isinstance(fitted, Result):
        first = ": fit it first, fitted = model.fit(...)" if hasattr(fitted, "lr_finder") else ""
        raise TypeError(f"`fitted` must be a FittedModule, got {type(fitted).__name__}{first}.")
