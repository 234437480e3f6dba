"""`evaluate`: the loss and the metrics on other data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
from torch import nn

from luzpy.build import build_loss, build_optimizers
from luzpy.callback import Callback
from luzpy.callbacks.metrics import Metrics
from luzpy.callbacks.profile import Profile
from luzpy.callbacks.progress import Progress
from luzpy.checks import (
    check_accelerator,
    check_fitted,
    check_options,
    check_verbose,
    with_defaults,
)
from luzpy.context import Context, Optimizers
from luzpy.device import Accelerator
from luzpy.display import metric_lines
from luzpy.distributed.together import eval_shard, with_engine_callbacks
from luzpy.loader import Options, eval_loader
from luzpy.loop import bound, in_eval_mode, validate
from luzpy.metrics.metric_set import MetricSet, as_metric_set
from luzpy.records import Records, get_metrics, metrics_frame

if TYPE_CHECKING:
    import pandas as pd

    from luzpy.fitted import FittedModule

EVALUATE_DEFAULTS: tuple[type[Callback], ...] = (Profile, Metrics, Progress)


@attrs.frozen(eq=False, repr=False)
class Evaluation:
    """What `evaluate` found: `get_metrics()` gives the frame, `evaluation["loss"]` one value.

    Attributes:
        records: The metrics and timings, as plain dicts and lists.
    """

    records: Records

    get_metrics = get_metrics

    def __getitem__(self, metric: str) -> float:
        """One metric's value.

        Args:
            metric: Its name, as `get_metrics` gives it: `evaluation["loss"]`.

        Raises:
            KeyError: If there is no such metric; it names those there are.
        """
        values = self.records["metrics"]["valid"][0]
        if metric not in values:
            raise KeyError(f"`metric` must be one of {', '.join(values)}, got {metric!r}.")
        return values[metric]

    def __repr__(self) -> str:
        rows = self.records["metrics"]["valid"][0]
        return "\n".join(["A `luz_module_evaluation`", "-- Results", *metric_lines(rows)])

    def _repr_html_(self) -> str:
        return get_metrics(self).to_html(index=False)


def _optimizers(fitted: FittedModule, model: nn.Module) -> Optimizers:
    """The optimizers, of which validation needs only the names."""
    if fitted.spec is None:
        return cast("Optimizers", {"opt": None})
    return build_optimizers(fitted.spec, model, fitted.opt_hparams)


@get_metrics.register(Evaluation)
def _(x: Evaluation) -> pd.DataFrame:
    return metrics_frame(x.records)[["metric", "value"]]


def evaluate(
    fitted: FittedModule,
    data: Any,
    metrics: Any = None,
    callbacks: Sequence[Callback] | Callback | None = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    dataloader_options: Options | None = None,
) -> Evaluation:
    """Compute the loss and the metrics on `data`. Port of R luz's `evaluate()`.

    Args:
        fitted: A fitted model.
        data: As in `fit`; every row is taken once, in order.
        metrics: Metrics in place of those given to `setup`.
        callbacks: Callbacks beside the defaults; the hooks of validation are called.
        accelerator: Where to compute; the model is moved there.
        verbose: Whether to print; by default in a terminal or notebook only.
        dataloader_options: Passed to the DataLoader that is made of `data`; `batch_size=32`.

    Returns:
        The evaluation; `get_metrics()` gives it as a frame.

    Raises:
        ValueError: If there is no loss, or not one batch of data.
        TypeError: If an argument is of the wrong type.
        LuzError: If a callback, a metric, the loss or the dataset fails; it says where.
    """
    check_fitted(fitted)
    spec = fitted.spec
    chosen = MetricSet() if spec is None else spec.metrics
    if metrics is not None:
        chosen = as_metric_set(metrics)
    place = check_accelerator(accelerator)
    loader = eval_loader(data, check_options(dataloader_options), name="data")
    loader = eval_shard(loader, place, name="data")
    model = place.prepare_model(fitted.model)
    ctx = Context(
        verbose=check_verbose(verbose) and place.is_main,
        accelerator=place,
        model=model,
        loss_fn=build_loss(spec, model, place.device),
        optimizers=_optimizers(fitted, model),
        valid_data=loader,
        epoch=1,
        max_epochs=1,
        training=False,
        metric_set=chosen,
        hparams=dict(fitted.hparams),
        opt_hparams=dict(fitted.opt_hparams),
        callbacks=with_engine_callbacks(
            place, with_defaults(EVALUATE_DEFAULTS, callbacks), training=False
        ),
    )
    with in_eval_mode(model), bound(ctx):
        validate(ctx)
    return Evaluation(records=ctx.records)
