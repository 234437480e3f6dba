"""`evaluate`: the loss and the metrics on other data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.profile import Profile
from luzpy.callbacks.progress import Progress
from luzpy.core.callback import Callback
from luzpy.core.context import Context, Internals
from luzpy.core.fetch import unpack_of
from luzpy.core.loop import validate
from luzpy.core.loss import build_loss, loss_internals
from luzpy.core.modules import bound, in_eval_mode
from luzpy.core.result import Result, check_fitted
from luzpy.data.columns import warn_if_not_finite, with_columns
from luzpy.data.loader import Options, eval_loader, resident
from luzpy.data.unpacking import row_counter
from luzpy.distributed.accelerator import Accelerator, check_accelerator
from luzpy.ground.records import Records, epoch_arrays, epoch_metrics, get_metrics, metrics_frame
from luzpy.ground.types import Data
from luzpy.metrics.metric_set import as_metric_set
from luzpy.verbs.arguments import check_options, check_verbose, with_defaults
from luzpy.verbs.display import metric_lines
from luzpy.verbs.hints import with_hints

if TYPE_CHECKING:
    import pandas as pd

EVALUATE_DEFAULTS: tuple[type[Callback], ...] = (Profile, Metrics, Progress)


@attrs.frozen(eq=False, repr=False)
class Evaluation:
    """The result of `evaluate`: `get_metrics()` returns a frame, `evaluation["loss"]` one value.

    Attributes:
        records: The metrics and timings, as plain dicts and lists.
    """

    records: Records

    get_metrics = get_metrics

    def __getitem__(self, metric: str) -> Any:
        """Return one metric's value: a number, or a NumPy array if the metric computes one.

        Args:
            metric: Its name in `get_metrics`, as in `evaluation["loss"]`; for an array, the name of
                the metric: `evaluation["confusion_matrix"]`.

        Raises:
            KeyError: If there is no such metric; the message lists the available ones.
        """
        values, arrays = _values(self.records)
        if metric in arrays:
            return np.array(arrays[metric])
        if metric not in values:
            raise KeyError(
                f"`metric` must be one of {', '.join([*values, *arrays])}, got {metric!r}."
            )
        return values[metric]

    def __repr__(self) -> str:
        return "\n".join(["<Evaluation>", *metric_lines(*_values(self.records))])

    def _repr_html_(self) -> str:
        return get_metrics(self).to_html(index=False)


def _values(records: Records) -> tuple[dict[str, float], dict[str, list[Any]]]:
    return epoch_metrics(records, "valid"), epoch_arrays(records, "valid")


@get_metrics.register(Evaluation)
def _(x: Evaluation) -> pd.DataFrame:
    return metrics_frame(x.records)[["metric", "value"]]


@with_hints
def evaluate(
    fitted: Result,
    data: Data,
    metrics: object = None,
    callbacks: Sequence[Callback] | Callback | None = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    batch_size: int | None = None,
    dataloader_options: Options | None = None,
) -> Evaluation:
    """Compute the loss and the metrics on `data`. Port of R luz's `evaluate()`.

    Args:
        fitted: A fitted model.
        data: As in `fit`; every row is taken once, in order, unless `dataloader_options` say
            otherwise.
        metrics: Metrics to use instead of those passed to `setup`.
        callbacks: Callbacks in addition to the defaults; their validation hooks are called.
        accelerator: Where to compute; the model is moved there.
        verbose: Whether to print; by default in a terminal or notebook only.
        batch_size: Rows per batch, 32 unless given here or in `dataloader_options`.
        dataloader_options: Passed to the DataLoader that is created for `data`.

    Returns:
        The evaluation; `get_metrics()` returns it as a frame.

    Raises:
        ValueError: If there is no loss, or not a single batch of data.
        TypeError: If an argument is of the wrong type.
        LuzError: If a callback cannot do its work.
    """
    check_fitted(fitted)
    spec = fitted.spec
    accelerator = check_accelerator(accelerator)
    chosen_callbacks = with_defaults(EVALUATE_DEFAULTS, callbacks, accelerator)
    options = check_options(dataloader_options, batch_size, data)
    data = with_columns(data, fitted.columns, "data")
    device = accelerator.device_of(fitted.model)
    loader = eval_loader(resident(data, device, options, name="data"), options, name="data")
    warn_if_not_finite(loader, data, "data")
    model = accelerator.prepare_model(fitted.model)
    unpack = unpack_of(spec, model)
    count = None if unpack is None else row_counter(unpack)
    ctx = Context(
        verbose=check_verbose(verbose) and accelerator.is_main,
        accelerator=accelerator,
        device=device,
        model=model,
        loss_fn=build_loss(spec, model, device),
        valid_data=accelerator.prepare_loader(loader, count=count, name="data"),
        epoch=1,
        max_epochs=1,
        training=False,
        hparams=dict(fitted.hparams),
        opt_hparams=dict(fitted.opt_hparams),
        callbacks=list(chosen_callbacks),
        internals=Internals(
            metric_set=spec.metrics if metrics is None else as_metric_set(metrics),
            opt_names=fitted.opt_names,
            unpack=unpack,
            **loss_internals(spec, model),
        ),
    )
    with in_eval_mode(model), bound(ctx):
        if not validate(ctx, name="data"):
            ctx.call("on_valid_end")  # what was seen until then counts
    return Evaluation(records=ctx.records)
