"""`predict`: the model's output for new data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from luzpy.callback import Callback
from luzpy.callbacks.progress import Progress
from luzpy.checks import (
    check_accelerator,
    check_fitted,
    check_options,
    check_verbose,
    with_defaults,
)
from luzpy.context import Context
from luzpy.device import Accelerator, to_device
from luzpy.distributed.together import eval_shard, in_order, with_engine_callbacks
from luzpy.loader import Options, eval_loader
from luzpy.loop import in_eval_mode, predict_batches, unwrapped

if TYPE_CHECKING:
    from luzpy.fitted import FittedModule

CPU = torch.device("cpu")


def predict(
    fitted: FittedModule,
    newdata: Any,
    callbacks: Sequence[Callback] | Callback | None = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    stack: bool = True,
    dataloader_options: Options | None = None,
) -> Any:
    """Compute the model's output for `newdata`. Port of R luz's `predict()`.

    The module's own `predict(input)` is used where it has one, else its `forward`. Of a batch
    with several parts the first is the input: for a model of two inputs give `((x1, x2),)`.

    Args:
        fitted: A fitted model.
        newdata: As `data` in `fit`; every row is taken once, in order.
        callbacks: Callbacks beside the progress bar; the hooks of prediction are called.
        accelerator: Where to compute; the model is moved there.
        verbose: Whether to draw a bar; by default in a terminal or notebook only.
        stack: Whether to join the batches' predictions along their first dimension.
        dataloader_options: Passed to the DataLoader that is made of `newdata`; `batch_size=32`.

    Returns:
        The predictions, on the CPU: a tensor with as many rows as `newdata`, or a tuple or dict
        of tensors where the model gives these. With `stack=False` a list, one entry a batch.

    Raises:
        ValueError: If there is nothing to predict on, or the predictions cannot be joined.
        TypeError: If an argument is of the wrong type, or predictions are of a type that cannot
            be joined.
        LuzError: If a callback or the dataset fails; it says where.
    """
    check_fitted(fitted)
    if not isinstance(cast(Any, stack), bool):
        raise TypeError(f"`stack` must be True or False, got {stack!r}.")
    place = check_accelerator(accelerator)
    loader = eval_loader(newdata, check_options(dataloader_options), name="newdata")
    loader = eval_shard(loader, place, name="newdata")
    model = place.prepare_model(fitted.model)
    ctx = Context(
        verbose=check_verbose(verbose) and place.is_main,
        accelerator=place,
        model=model,
        data=loader,
        training=False,
        hparams=dict(fitted.hparams),
        opt_hparams=dict(fitted.opt_hparams),
        callbacks=with_engine_callbacks(
            place, with_defaults((Progress,), callbacks), training=False
        ),
    )
    function = cast("Callable[[Any], Any]", getattr(unwrapped(model), "predict", model))
    with in_eval_mode(model):
        predictions = [
            pred if type(pred) is torch.Tensor and pred.is_cpu else to_device(pred, CPU)
            for pred in predict_batches(ctx, function)
            if not ctx.stands_in
        ]
    predictions = in_order(place.ranks, predictions)
    return joined(predictions) if stack else predictions


def joined(parts: list[Any]) -> Any:
    """The predictions of all batches as one.

    Raises:
        ValueError: If their shapes differ in more than the number of rows.
        TypeError: If they are not tensors, nor tuples, lists or dicts of tensors.
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        if not first.ndim:
            return torch.stack(parts)
        try:
            return torch.cat(parts)
        except RuntimeError as err:
            raise ValueError(
                f"`stack` must be False for predictions that do not fit together: {err}"
            ) from err
    if isinstance(first, dict):
        keys = cast("dict[Any, Any]", first)
        return {key: joined([part[key] for part in parts]) for key in keys}
    if isinstance(first, (tuple, list)):
        columns = [joined(list(column)) for column in zip(*parts, strict=True)]
        if hasattr(cast(Any, first), "_fields"):
            return type(parts[0])(*columns)
        return columns if isinstance(first, list) else tuple(columns)
    if first is None:
        return None
    raise TypeError(f"`stack` must be False for predictions of type {type(first).__name__}.")
