"""Checks of the arguments that `fit`, `evaluate`, `predict` and `lr_finder` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from luzpy.callback import Callback, check_callbacks
from luzpy.callbacks.progress import is_interactive
from luzpy.device import Accelerator
from luzpy.distributed.ranks import is_engine
from luzpy.loader import Options


def with_defaults(
    defaults: Sequence[type[Callback]], callbacks: Sequence[Callback] | Callback | None
) -> list[Callback]:
    """The default callbacks, then the user's; a default gives way to the user's own of its kind."""
    given = check_callbacks(callbacks)
    missing = [default for default in defaults if not any(isinstance(c, default) for c in given)]
    return [*(default() for default in missing), *given]


def check_epochs(epochs: Any) -> tuple[int, int]:
    """`epochs` as (min_epochs, max_epochs)."""
    rule = "`epochs` must be a whole number of at least 1, or a pair (min_epochs, max_epochs)"
    pair = cast("Sequence[Any]", epochs) if isinstance(epochs, (tuple, list)) else (0, epochs)
    if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
        raise TypeError(f"{rule}, got {epochs!r}.")
    if pair[1] < 1 or not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"{rule} with 0 <= min_epochs <= max_epochs, got {epochs!r}.")
    return pair[0], pair[1]


def check_verbose(verbose: Any) -> bool:
    """Whether to print; None asks whether somebody is watching."""
    if verbose is None:
        return is_interactive()
    if not isinstance(verbose, bool):
        raise TypeError(f"`verbose` must be True, False or None, got {verbose!r}.")
    return verbose


def check_accelerator(accelerator: Any) -> Accelerator:
    """The accelerator, or a new one for None."""
    if accelerator is None:
        return Accelerator()
    if is_engine(accelerator):
        return Accelerator.of_engine(accelerator)
    if not isinstance(accelerator, Accelerator):
        raise TypeError(
            "`accelerator` must be a luzpy Accelerator, or Hugging Face Accelerate's, got "
            f"{accelerator!r}."
        )
    return accelerator


def check_fitted(fitted: Any) -> None:
    """Raise unless `fitted` is a fitted model."""
    if not isinstance(getattr(fitted, "model", None), nn.Module):
        raise TypeError(f"`fitted` must be a FittedModule, got {type(fitted).__name__}.")


def check_options(options: Any) -> Options | None:
    """`dataloader_options`, if they are a dict of DataLoader's arguments."""
    if options is None:
        return None
    if not isinstance(options, dict):
        raise TypeError(
            f"`dataloader_options` must be a dict of DataLoader's arguments, got {options!r}."
        )
    return cast("dict[str, Any]", options)
