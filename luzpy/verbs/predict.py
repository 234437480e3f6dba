"""`predict`: the model's output for new data."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from luzpy.callbacks.progress import Progress
from luzpy.core import loop
from luzpy.core.callback import Callback
from luzpy.core.context import Context, Internals, internals
from luzpy.core.fetch import unpack_of
from luzpy.core.loss import loss_internals, scores_of
from luzpy.core.modules import in_eval_mode, unwrapped
from luzpy.core.own_methods import binding_error, shown_call
from luzpy.core.result import Result, check_fitted
from luzpy.data.columns import warn_if_not_finite, with_input_columns
from luzpy.data.loader import Options, eval_loader, resident
from luzpy.distributed.accelerator import Accelerator, check_accelerator
from luzpy.ground.arguments import check_flag
from luzpy.ground.nested import (
    is_mapping,
    is_sequence,
    map_nested,
    mapping_like,
    tensors_in,
    to_device,
)
from luzpy.ground.types import Batch, Data, Values
from luzpy.verbs.arguments import check_options, check_verbose, with_defaults
from luzpy.verbs.hints import hint_for

CPU = torch.device("cpu")
AT_ONCE = 2**25  # bytes of predictions that stay on an accelerator; twice that as they are joined
_LIST: type[list[Batch]] = list


def predict(
    fitted: Result,
    newdata: Data,
    callbacks: Sequence[Callback] | Callback | None = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    stack: bool = True,
    batch_size: int | None = None,
    dataloader_options: Options | None = None,
    **kwargs: Any,
) -> Batch:
    """Compute the model's output for `newdata`. Port of R luz's `predict()`.

    Calls the module's own `predict(input)` if it has one, otherwise its `forward`. The input is
    what `unpack` returns, or else the first of two parts: for a model with two inputs, pass `((x1,
    x2),)`. If the model computes its own loss, because `setup` has none, the prediction is its
    output's `.logits`.

    Args:
        fitted: A fitted model.
        newdata: As `data` in `fit`; every row is taken once, in order, unless
            `dataloader_options` say otherwise.
        callbacks: Callbacks in addition to the progress bar; their prediction hooks are called.
        accelerator: Where to compute; the model is moved there.
        verbose: Whether to draw a bar; by default in a terminal or notebook only.
        stack: Whether to concatenate the batches' predictions along their first dimension.
        batch_size: Rows per batch, 32 unless given here or in `dataloader_options`.
        dataloader_options: Passed to the DataLoader that is created for `newdata`; with a
            `sampler`, a `batch_sampler` or `drop_last=True`, only the rows that it yields are
            predicted.
        **kwargs: Further arguments of the module's own `predict`.

    Returns:
        The predictions, on the CPU: a tensor with as many rows as `newdata`, or a tuple or dict of
        tensors if the model returns these; a list of dicts, one per row, if it returns such a list
        for every batch, as detectors do. With `stack=False`, a list with one entry per batch.

    Raises:
        ValueError: If there is nothing to predict on, or the predictions cannot be concatenated.
        TypeError: If an argument is of the wrong type, the module's `predict` does not take it, or
            predictions are of a type that cannot be concatenated.
        LuzError: If a callback cannot do its work.
    """
    check_fitted(fitted)
    check_flag("stack", stack)
    _check_arguments(fitted.model, kwargs)
    accelerator = check_accelerator(accelerator)
    chosen_callbacks = with_defaults((Progress,), callbacks, accelerator)
    options = check_options(dataloader_options, batch_size, newdata)
    if (options or {}).get("shuffle"):
        warnings.warn(
            "`shuffle=True` gives the predictions in a different order than the rows of `newdata`.",
            UserWarning,
            stacklevel=2,
        )
    newdata = with_input_columns(newdata, fitted.columns, "newdata")
    device = accelerator.device_of(fitted.model)
    rows = resident(newdata, device, options, name="newdata")
    loader = eval_loader(rows, options, name="newdata")
    warn_if_not_finite(loader, newdata, "newdata")
    loader = accelerator.prepare_loader(loader, name="newdata")
    model = accelerator.prepare_model(fitted.model)
    ctx = Context(
        verbose=check_verbose(verbose) and accelerator.is_main,
        accelerator=accelerator,
        device=device,
        model=model,
        data=loader,
        training=False,
        hparams=dict(fitted.hparams),
        opt_hparams=dict(fitted.opt_hparams),
        callbacks=list(chosen_callbacks),
        internals=Internals(
            unpack=unpack_of(fitted.spec, model), **loss_internals(fitted.spec, model)
        ),
    )
    function: Callable[..., Batch] = getattr(unwrapped(model), "predict", model)
    if kwargs:
        function = partial(function, **kwargs)
    try:
        with in_eval_mode(model):
            predicted = _predicted(ctx, loop.predict(ctx, function))
    except TypeError as err:
        _check_call(ctx, function, err)
        raise
    predicted = accelerator.gather_batches(predicted, loader)
    predictions = [pred for pred, _ in predicted]
    if not stack:
        return predictions
    if all(_is_row_by_row(pred, rows) for pred, rows in predicted):
        return [row for pred in predictions for row in pred]
    return concat(predictions)


def _predicted(ctx: Context, batches: Iterator[Batch]) -> list[tuple[Batch, set[int]]]:
    """The predictions of the batches, on the CPU, and how many rows each may have.

    Those of an accelerator are copied there and downloaded many at once: no batch is waited for.
    """
    done, waiting, rows, size = _LIST(), _LIST(), list[set[int]](), 0
    for pred in batches:
        if type(pred) is not torch.Tensor or not pred.is_cpu:
            pred = scores_of(pred) if internals(ctx).loss_is_outputs else pred
            # A compiled model may write its next output to the same memory.
            pred = map_nested(_kept, pred, _on_cpu)
            size += sum(t.numel() * t.element_size() for t in tensors_in(pred) if not t.is_cpu)
        waiting.append(pred)
        rows.append(_rows(ctx))
        if size >= AT_ONCE:
            done += _downloaded(waiting)
            waiting, size = _LIST(), 0
    return list(zip(done + (_downloaded(waiting) if size else waiting), rows, strict=True))


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_cpu else tensor.clone()


def _downloaded(preds: list[Batch]) -> list[Batch]:
    """Predictions on the CPU, by one copy for all tensors of a dtype."""
    of_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors_in(preds):
        if not (tensor.is_cpu or tensor.is_nested) and tensor.layout is torch.strided:
            of_dtype.setdefault(tensor.dtype, []).append(tensor)
    found: dict[int, torch.Tensor] = {}
    for tensors in of_dtype.values():
        joined = torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu()
        parts = torch.split(joined, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            found[id(tensor)] = part.reshape(tensor.shape).clone()  # not to keep all for one

    def here(tensor: torch.Tensor) -> torch.Tensor:
        return found.get(id(tensor), tensor)

    return _on_cpu(map_nested(here, preds))


def _on_cpu(obj: Batch) -> Batch:
    return to_device(obj, CPU)


def _rows(ctx: Context) -> set[int]:
    """How many rows the batch may have: a list is as likely to hold rows as columns."""
    columns = ctx.input
    return {internals(ctx).n_rows, *([len(columns)] if is_sequence(columns) else [])}


def _is_row_by_row(pred: Batch, rows: set[int]) -> bool:
    """Whether a prediction is a list with a mapping for each row, as detections are."""
    return type(pred) is _LIST and len(pred) in rows and all(map(is_mapping, pred))


def _check_arguments(model: nn.Module, kwargs: Values) -> None:
    """Raise unless the module has a `predict` of its own that takes these arguments."""
    if not kwargs:
        return
    name = type(unwrapped(model)).__name__
    own = getattr(unwrapped(model), "predict", None)
    if own is None:
        message = hint_for(next(iter(kwargs)), "predict", list(_PARAMETERS))
        raise TypeError(f"{message} (The module {name} has no method `predict` that may take it.)")
    try:
        inspect.signature(own).bind(None, **kwargs)
    except TypeError as err:
        raise TypeError(
            f"`predict` of {name} must take the further arguments, got "
            f"{', '.join(f'{key}={value!r:.60}' for key, value in kwargs.items())}: {err}."
        ) from err


def _check_call(ctx: Context, function: Callable[..., Batch], err: TypeError) -> None:
    """Raise from an error what is wrong with the module's own `predict`, if that is it."""
    unpacking, own = internals(ctx).unpacking, getattr(unwrapped(ctx.model), "predict", None)
    by_keyword = unpacking is not None and unpacking.by_keyword
    if own is None or by_keyword or binding_error(function, None) is None:
        return
    raise TypeError(
        f"`predict` of {type(unwrapped(ctx.model)).__name__} must be a method of the input, got "
        f"{shown_call(own)}: luzpy calls `predict(input)` for each batch. Give further arguments "
        "by keyword, `fitted.predict(newdata, name=value)`, or rename the method if it is "
        "something else."
    ) from err


_PARAMETERS = [name for name in inspect.signature(predict).parameters if name != "kwargs"]


def concat(parts: list[Batch]) -> Batch:
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
                f"`stack` must be False for predictions that have mismatched shapes: {err}"
            ) from err
    if is_mapping(first):
        return mapping_like(first, {key: concat([part[key] for part in parts]) for key in first})
    if is_sequence(first):
        columns = [concat(list(column)) for column in zip(*parts, strict=True)]
        if hasattr(first, "_fields"):
            return type(parts[0])(*columns)
        return columns if isinstance(first, list) else tuple(columns)
    if first is None:
        return None
    raise TypeError(f"`stack` must be False for predictions of type {type(first).__name__}.")
