"""The result of `fit`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
from torch import nn

from luzpy.core.result import Result
from luzpy.core.spec import ModuleMaker, Spec
from luzpy.files.loading import load_result
from luzpy.files.saving import save
from luzpy.ground.records import get_metrics, restored_epoch
from luzpy.verbs.display import best_lines, result_lines, stop_line, time_lines
from luzpy.verbs.evaluate import evaluate
from luzpy.verbs.fit import fit
from luzpy.verbs.plot import chosen, plot, plot_histories, plot_history
from luzpy.verbs.predict import predict

if TYPE_CHECKING:
    from plotnine import ggplot


def _spec_of_model(fitted: Result) -> Spec[Result]:
    return Spec[Result](module=type(fitted.model))


@attrs.frozen(eq=False, repr=False, kw_only=True)
class FittedModule(Result):
    """A fitted model with the records of its training.

    Attributes:
        model: The trained `nn.Module`, in eval mode.
        records: Metrics and timings, as plain dicts and lists.
        hparams: The module's hyperparameters.
        opt_hparams: The optimizer's hyperparameters.
        stopped: How training ended: `"completed"`, `"early stopping"`, `"interrupted"`, or the
            reason given to `ctx.stop`.
        optimizer_states: The optimizers' states, from which `fit` continues; None if the model was
            loaded from a file without them.
        valid_rows: The indices of the rows that `valid_data=0.1` chose; None without a fraction.
        columns: The column names, in order, of the frames that the model was fitted on.
    """

    spec: Any = attrs.field(default=attrs.Factory(_spec_of_model, takes_self=True))

    fit = fit
    evaluate = evaluate
    get_metrics = get_metrics
    predict = predict
    save = save

    def plot(self, *, metrics: Sequence[str] | None = None, log_y: bool = False) -> ggplot:
        """Draw the training history, with a panel per metric and a coloured line per set.

        Args:
            metrics: Which metrics to draw, in this order; `"lr"` draws the learning rates, a line
                for each optimizer and parameter group. By default all metrics.
            log_y: Whether the axes of values are logarithmic.

        Raises:
            TypeError: If `metrics` are not names, or `log_y` is neither True nor False.
            ValueError: If there is no such metric, or no epoch was completed.
        """
        return plot_history(chosen(self, metrics), log_y=log_y)

    def __getattr__(self, name: str) -> NoReturn:
        instead = ""
        if name in ("history", "history_", "metrics"):
            instead = ": get_metrics() gives its metrics as a frame, and records as lists"
        elif name in ("lr_finder", "set_hparams", "set_opt_hparams"):
            instead = f": it belongs to what `setup` made, model.{name}"
        elif hasattr(nn.Module, name) and not name.startswith("_"):
            instead = f": write fitted.model.{name}"
        raise AttributeError(f"A FittedModule has no attribute {name!r}{instead}.")

    def __repr__(self) -> str:
        lines = [
            f"<FittedModule of {type(self.model).__name__}>",
            *time_lines(self.records),
            *best_lines(self.records),
            *result_lines(self.records),
            *(f"Warning: {text}" for text in self.warnings),
            repr(self.model),
        ]
        if self.stopped != "completed":
            lines.insert(1, stop_line(self.records, self.stopped))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        frame = get_metrics(self)
        restored = restored_epoch(self.records)
        epoch = frame["epoch"].max() if restored is None else restored[0]
        last = frame[frame["epoch"].eq(epoch)]
        # Not pivot_table, which drops what is NaN: a loss that diverged must be seen. Without
        # sorting, pandas 2.2 puts values into rows of others.
        table = last.pivot(index="metric", columns="set", values="value")
        table = table.reindex(index=last["metric"].unique())
        lines = [line[2:] for line in time_lines(self.records) + best_lines(self.records)]
        lines += [f"Warning: {text}" for text in self.warnings]
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        return (
            f"<div><b>A fitted luzpy model</b> ({escape(self.stopped)})<ul>{items}</ul>"
            f"{table.to_html(float_format='{:.4g}'.format)}"
            f"<details><summary>Model</summary><pre>{escape(repr(self.model))}</pre></details></div>"
        )


plot.register(FittedModule, FittedModule.plot)


@plot.register(list)
@plot.register(tuple)
def plot_several(
    x: Sequence[object],
    *,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    log_y: bool = False,
    beta: float = 0.9,
    log_x: bool = True,
) -> ggplot:
    """Compare several fits, or the records of several calls of `lr_finder`; see `plot`."""
    from luzpy.finder.lr_records import LRRecords  # pandas is imported when it is used
    from luzpy.finder.plot import overlaid

    fits = [item for item in x if isinstance(item, FittedModule)]
    records = [item for item in x if isinstance(item, LRRecords)]
    if max(len(fits), len(records)) < len(x):
        kinds = ", ".join(dict.fromkeys(type(item).__name__ for item in x))
        raise TypeError(f"`x` must hold either LRRecords or FittedModules, got {kinds}.")
    if fits:
        if (beta, log_x) != (0.9, True):
            raise TypeError("`beta` and `log_x` are options of records, `x` holds fits.")
        return plot_histories(fits, labels=labels, metrics=metrics, log_y=log_y)
    if metrics is not None or log_y:
        raise TypeError("`metrics` and `log_y` are options of fits, `x` holds records.")
    return overlaid(records, labels=labels, beta=beta, log_x=log_x)


def load(
    path: str | os.PathLike[str],
    *,
    module: ModuleMaker | Spec[Result] | None = None,
    trusted: bool = False,
    map_location: object = None,
) -> FittedModule:
    """Load a fitted model. Port of R luz's `luz_load()`.

    The file contains tensors, plain values, and the name of the module's class. Loading it runs no
    code from it and imports nothing. The class is the one passed as `module`, or else the class of
    that name if it is a layer of `torch.nn`, or an `nn.Module` class in a module that this program
    has already imported. It is called with the hyperparameters in the file. So whoever wrote the
    file chooses among all `nn.Module` classes of the imported packages, and their arguments. Some
    classes do more with an argument than build layers (they read, download or unpickle the file
    that it names): for a file from elsewhere, pass a class that you know as `module`. A model much
    larger than the file is not built.

    Args:
        path: What `save` wrote.
        module: The module's class, a function that creates it, or the module itself; or a
            `LuzModule`, which also has the loss, the optimizer and the metrics that `evaluate`
            needs, and `fit` to train further.
        trusted: Whether to unpickle a file that contains more than tensors and plain values, to
            import its class, and to build it whatever its size. This can run any code: use it only
            for your own files.
        map_location: Where tensors go, as in `torch.load`.

    Returns:
        The fitted model.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If the file is truncated, altered or foreign, does not fit the module, or its
            class is not imported (the message has the lines that load it).
        TypeError: If an argument is of the wrong type.
        ValueError: If `map_location` is not a device.
    """
    return load_result(
        FittedModule, path, module=module, trusted=trusted, map_location=map_location
    )
