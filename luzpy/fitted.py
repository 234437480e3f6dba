"""What `fit` returns."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import attrs
from torch import nn

from luzpy.display import result_lines, time_lines
from luzpy.evaluation import evaluate
from luzpy.files.saving import save
from luzpy.plotting import plot, plot_history
from luzpy.prediction import predict
from luzpy.records import Records, get_metrics, metrics_frame

if TYPE_CHECKING:
    import pandas as pd
    from plotnine import ggplot

    from luzpy.module import LuzModule


@attrs.frozen(eq=False, repr=False, kw_only=True)
class FittedModule:
    """A fitted model and what its training logged.

    Attributes:
        model: The trained `nn.Module`, in eval mode.
        records: Metrics and timings, as plain dicts and lists.
        hparams: The module's hyperparameters.
        opt_hparams: The optimizer's hyperparameters.
        stopped: How training ended: `"completed"`, `"early stopping"` or `"interrupted"`.
        spec: The `LuzModule` it was fitted from, if known.
    """

    model: nn.Module
    records: Records
    hparams: dict[str, Any]
    opt_hparams: dict[str, Any]
    stopped: str
    spec: LuzModule | None = None

    evaluate = evaluate
    get_metrics = get_metrics
    predict = predict
    plot = plot
    save = save

    def __repr__(self) -> str:
        lines = [
            "A `luz_module_fitted`",
            "-- Time",
            *time_lines(self.records),
            "",
            "-- Results",
            "Metrics observed in the last epoch.",
            "",
            *result_lines(self.records),
            "",
            "-- Model",
            repr(self.model),
        ]
        if self.stopped != "completed":
            epochs = len(self.records["metrics"]["train"])
            lines.insert(1, f"Stopped after epoch {epochs}: {self.stopped}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        frame = get_metrics(self)
        last = frame[frame["epoch"].eq(frame["epoch"].max())] if len(frame) else frame
        # Not pivot_table, which drops what is NaN: a loss that diverged must be seen.
        table = last.set_index(["metric", "set"])["value"].unstack("set", sort=False)
        times = "".join(f"<li>{escape(line[2:])}</li>" for line in time_lines(self.records))
        return (
            f"<div><b>A fitted luzpy model</b> ({escape(self.stopped)})<ul>{times}</ul>"
            f"{table.to_html(float_format='{:.4g}'.format)}"
            f"<details><summary>Model</summary><pre>{escape(repr(self.model))}</pre></details></div>"
        )


@get_metrics.register(FittedModule)
def _(x: FittedModule) -> pd.DataFrame:
    return metrics_frame(x.records)


@plot.register(FittedModule)
def _(x: FittedModule) -> ggplot:
    return plot_history(get_metrics(x))
