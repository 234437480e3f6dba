"""Which part of a batch is the input and which the target, if it is not (input, target)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch.nn.utils.rnn import PackedSequence

from luzpy.data.batches import batch_rows, input_of, target_of
from luzpy.ground.errors import add_note
from luzpy.ground.nested import is_mapping, is_sequence
from luzpy.ground.types import Batch

Unpack = Callable[[Batch], Any]
Parts = tuple[Batch, Batch, int | None]
LABELS = ("labels", "label")


@attrs.define(slots=True, eq=False)
class Unpacking:
    """Takes the batches of a run apart.

    Attributes:
        function: The batch → input, target, and the number of rows, None to count them.
        by_keyword: Whether the input is a mapping that `forward` is given by keyword.
        batch: The batch that was taken last.
        input: Its input.
        target: Its target.
        rows: How many rows it has.
    """

    function: Callable[[Batch], Parts]
    by_keyword: bool = False
    batch: Batch = None
    input: Batch = None
    target: Batch = None
    rows: int = 0

    def take(self, batch: Batch) -> int:
        """Take a batch apart; how many rows it has."""
        self.batch = batch
        self.input, self.target, rows = self.function(batch)
        self.rows = batch_rows(batch, self.input, self.target) if rows is None else rows
        return self.rows

    def of(self, batch: Batch) -> Unpacking:
        """This, of `batch`: a callback may have put another one in the place of the last."""
        if batch is not self.batch:
            self.take(batch)
        return self


def unpacking_of(
    batch: Batch,
    *,
    unpack: Unpack | None,
    forward: Callable[..., Batch] | None,
    function: Callable[..., Batch] | None,
    predicts: bool,
    has_step: bool,
) -> Unpacking | None:
    """How batches like `batch` are unpacked; None for those that are (input, target) in order.

    Args:
        batch: The first batch.
        unpack: The user's function, if there is one.
        forward: The module's `forward`: its argument names tell what a mapping is.
        function: What is given the input: `forward`, or the module's own `predict`.
        predicts: Whether the input alone is asked for.
        has_step: Whether the module's own step takes batches apart.

    Raises:
        ValueError: If it has three parts or more, and it is unknown which is which.
    """
    if unpack is not None:
        found = Unpacking(_users(unpack, predicts=predicts))
    elif not has_step and is_mapping(batch) and _names(forward, batch):
        found = Unpacking(_without_labels if predicts else _whole)
    else:
        if not has_step:
            _check_parts(batch)
        found = Unpacking(_in_order)
    found.take(batch)
    found.by_keyword = is_mapping(found.input) and _names(function, found.input)
    if found.function is _in_order and not found.by_keyword:
        return None
    return found


def _in_order(batch: Batch) -> Parts:
    return input_of(batch), target_of(batch), None


def _whole(batch: Batch) -> Parts:
    return batch, next((batch[name] for name in LABELS if name in batch), None), None


def _without_labels(batch: Batch) -> Parts:
    _, target, _ = _whole(batch)
    return {name: item for name, item in batch.items() if name not in LABELS}, target, None


def _users(unpack: Unpack, *, predicts: bool) -> Callable[[Batch], Parts]:
    def unpacked(batch: Batch) -> Parts:
        try:
            parts = unpack(batch)
        except (TypeError, ValueError, LookupError, AttributeError) as err:
            if predicts and n_parts(batch) == 1:  # the input alone, without a target
                return input_of(batch), None, None
            add_note(err, "in `unpack`, which every batch passes through.")
            raise
        return _checked(parts)

    return unpacked


def row_counter(unpack: Unpack) -> Callable[[Batch], int]:
    """A function that counts the rows of a batch as `unpack` does."""
    return lambda batch: Unpacking(_users(unpack, predicts=False)).take(batch)


def _checked(parts: Any) -> Parts:
    rule = "`unpack` must return (input, target) or (input, target, n_rows)"
    if not is_sequence(parts):
        raise TypeError(f"{rule}, got {type(parts).__name__}.")
    if len(parts) not in (2, 3):
        raise ValueError(f"{rule}, got {len(parts)} parts.")
    if len(parts) == 2:
        return parts[0], parts[1], None
    try:
        return parts[0], parts[1], int(parts[2])
    except (TypeError, ValueError):
        raise TypeError(f"{rule}, an integer, got {parts[2]!r}.") from None


def n_parts(batch: Batch) -> int:
    """How many parts a batch has."""
    if isinstance(batch, PackedSequence):
        return 1
    return len(batch) if is_mapping(batch) or is_sequence(batch) else 1


def _names(function: Callable[..., Batch] | None, mapping: Mapping[Any, Any]) -> bool:
    """Whether the function has an argument for every key."""
    if function is None or not mapping:
        return False
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some that are written in C have none
        return False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return mapping.keys() <= {argument.name for argument in arguments if argument.kind in kinds}


def _check_parts(batch: Batch) -> None:
    count = n_parts(batch)
    if count < 3:
        return
    if is_mapping(batch):
        keys = list(batch)
        inputs = ", ".join(f"{key!r}: batch[{key!r}]" for key in keys[:-1])
        example = f"({{{inputs}}}, batch[{keys[-1]!r}])"
        got = f"got the {count} parts {', '.join(map(repr, keys))}"
    else:
        kinds = [type(part).__name__ for part in batch]
        example = "((batch[0], batch[1]), batch[2])"
        got = f"got {count} parts ({', '.join(kinds[:4])}{', …' if count > 4 else ''})"
    raise ValueError(
        "`unpack` must say which part of a batch is the input and which the target where there "
        f"are more than two, {got}: setup(..., unpack=lambda batch: {example}), or a method "
        "`unpack(self, batch)` of the module."
    )
