"""The state of a run in a file, and back."""

from __future__ import annotations

import os
from typing import Any

import torch

from luzpy.callback import Callback
from luzpy.context import Context
from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.files.saving import load_state
from luzpy.loop import unwrapped
from luzpy.plain import first_foreign, plain, unplain

Path = str | os.PathLike[str]


def checkpoint_content(ctx: Context) -> dict[str, Any]:
    """Epoch, records, and the states of the model, the optimizers and the callbacks.

    Raises:
        LuzError: If a callback's state holds more than tensors and plain values; it names both.
    """
    content: dict[str, Any] = {
        "epoch": ctx.epoch,
        "records": plain(ctx.records),
        "model": unwrapped(ctx.model).state_dict(),
        "optimizers": {name: opt.state_dict() for name, opt in ctx.optimizers.items()},
        "callbacks": [[_name(cb), plain(_state(cb))] for cb in ctx.callbacks],
    }
    for name, state in content["callbacks"]:
        foreign = first_foreign(state, "state_dict()")
        if foreign:
            raise LuzError(
                f"The callback {name} must have a state of tensors and plain values, got {foreign}."
            )
    foreign = first_foreign(content["records"], "ctx.records")
    if foreign:
        raise LuzError(f"The records must be tensors and plain values, got {foreign}.")
    return content


def write_checkpoint(ctx: Context, path: Path) -> None:
    """Write the state of a run.

    Raises:
        LuzError: If it cannot be written.
    """
    container.write(path, "checkpoint", checkpoint_content(ctx))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, onto the CPU.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If it cannot be used.
    """
    return container.read(path, "checkpoint", map_location="cpu")


def restore_checkpoint(
    ctx: Context,
    content: dict[str, Any],
    path: Path,
    *,
    model: bool = True,
    records: bool = True,
    optimizers: bool = True,
    callbacks: bool = True,
) -> None:
    """Put the chosen parts of a checkpoint into a run.

    Raises:
        LuzError: If they do not fit the run.
    """
    if model:
        load_state(ctx.model, content["model"], path)
    if optimizers:
        _restore_optimizers(ctx, content["optimizers"], path)
    if records:
        ctx.records.clear()
        ctx.records.update(unplain(content["records"]))
    if callbacks:
        _restore_callbacks(ctx, content["callbacks"], path)


def _restore_optimizers(ctx: Context, states: dict[str, Any], path: Path) -> None:
    if states.keys() != ctx.optimizers.keys():
        raise LuzError(
            f"{path} does not fit the run: it has the optimizers {', '.join(states)} instead of "
            f"{', '.join(ctx.optimizers)}."
        )
    for name, optimizer in ctx.optimizers.items():
        try:
            optimizer.load_state_dict(states[name])
        except (ValueError, KeyError, RuntimeError) as err:
            raise LuzError(f"{path} does not fit the optimizer {name!r}: {err}") from err


def _restore_callbacks(ctx: Context, states: list[Any], path: Path) -> None:
    found = [name for name, _ in states]
    own = [_name(callback) for callback in ctx.callbacks]
    if found != own:
        raise LuzError(
            f"{path} does not fit the run: it was written with the callbacks {', '.join(found)}, "
            f"this run has {', '.join(own)}."
        )
    for callback, (name, state) in zip(ctx.callbacks, states, strict=True):
        if state is None:
            continue
        load = getattr(callback, "load_state_dict", None)
        if load is None:
            raise LuzError(f"{name} has a `state_dict` but no `load_state_dict` to take it back.")
        load(unplain(state))


def _state(callback: Callback) -> Any:
    get = getattr(callback, "state_dict", None)
    return None if get is None else get()


def _name(callback: Callback) -> str:
    return type(callback).__name__


def to_cpu_copy(state: Any) -> Any:
    """A copy of a state dict on the CPU that later training does not change."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: to_cpu_copy(item) for key, item in state.items()}
    return state
