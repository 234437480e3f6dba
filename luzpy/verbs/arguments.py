"""Checks of the arguments that `fit`, `evaluate`, `predict` and `lr_finder` share."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

from torch.utils.data import DataLoader

from luzpy.callbacks.bar import is_interactive
from luzpy.callbacks.mixed_precision import MixedPrecision
from luzpy.core.callback import Callback, check_callbacks
from luzpy.data.loader import Options
from luzpy.distributed.accelerator import Accelerator
from luzpy.ground.arguments import check_count, check_flag, is_whole, shown
from luzpy.ground.nested import is_sequence
from luzpy.ground.types import Data

_DICT: Any = dict


def with_defaults(
    defaults: Sequence[type[Callback]],
    callbacks: Sequence[Callback] | Callback | None,
    accelerator: Accelerator,
) -> list[Callback]:
    """The default callbacks, then the user's, which replace defaults of their kind.

    The accelerator's precision is one of the defaults.

    Raises:
        ValueError: If the accelerator and a callback ask for different precisions.
    """
    given = check_callbacks(callbacks)
    missing = [default for default in defaults if not any(isinstance(c, default) for c in given)]
    chosen = [*(default() for default in missing), *given]
    dtype = accelerator.dtype
    precision = next((c for c in given if isinstance(c, MixedPrecision)), None)
    if dtype is None or accelerator.is_sharded:
        return chosen
    if precision is None:
        return [MixedPrecision(dtype=dtype), *chosen]
    if precision.dtype not in (None, dtype):
        raise ValueError(
            f"`mixed_precision` of the accelerator is {dtype}, and MixedPrecision of the "
            f"callbacks {precision.dtype}: give one of them."
        )
    return chosen


def check_epochs(epochs: Any) -> tuple[int, int]:
    """`epochs` as (min_epochs, max_epochs)."""
    rule = "`epochs` must be an integer of at least 1, or a pair (min_epochs, max_epochs)"
    pair = tuple(epochs) if is_sequence(epochs) else (0, epochs)
    if len(pair) != 2 or not all(is_whole(n) for n in pair):
        apart = ""
        if isinstance(epochs, Sized) and not isinstance(epochs, (str, bytes)):
            apart = " Are these the targets? Input and target are one argument: fit((x, y), ...)."
        elif isinstance(epochs, str):
            apart = (
                " Is this the target's column? Input and target are one argument: "
                f"fit((frame.drop(columns={epochs!r}), frame[{epochs!r}]), ...)."
            )
        raise TypeError(f"{rule}, got {shown(epochs)}.{apart}")
    if pair[1] < 1 or not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"{rule} with 0 <= min_epochs <= max_epochs, got {shown(epochs)}.")
    return int(pair[0]), int(pair[1])


def check_verbose(verbose: bool | None, *, elsewhere: bool = False) -> bool:
    """Whether to print; None asks whether somebody is watching."""
    check_flag("verbose", verbose, optional=True)
    return is_interactive() or elsewhere if verbose is None else verbose


def check_options(options: Options | None, batch_size: int | None, data: Data) -> Options | None:
    """`dataloader_options`, with `batch_size` among them, for data that are no DataLoader yet."""
    if options is not None and type(options) is not _DICT:
        raise TypeError(
            f"`dataloader_options` must be a dict of DataLoader's arguments, got {shown(options)}."
        )
    if batch_size is None:
        return options
    check_count("batch_size", batch_size, optional=True)
    if isinstance(data, DataLoader):
        raise ValueError(
            f"`batch_size` must not be given with a DataLoader, got {batch_size!r}: set it "
            "where the DataLoader is made."
        )
    if options and "batch_size" in options:
        raise ValueError(
            f"`batch_size` must be given once, got {batch_size!r} and "
            f"{options['batch_size']!r} in `dataloader_options`."
        )
    return {**(options or {}), "batch_size": int(batch_size)}
