"""The state of a run in a file, and back."""

from __future__ import annotations

import os
from typing import Any, cast

import torch

from luzpy.callback import Callback
from luzpy.context import Context
from luzpy.distributed.whole import spread_optimizer_state, whole
from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.files.saving import check_state, load_state
from luzpy.loop import unwrapped
from luzpy.plain import first_foreign, plain, unplain

Path = str | os.PathLike[str]


def checkpoint_content(ctx: Context) -> dict[str, Any]:
    """Epoch, records, and the states of the model, the optimizers and the callbacks.

    Raises:
        LuzError: If a state holds more than tensors and plain values; it says whose, and where.
    """
    content: dict[str, Any] = {
        "epoch": ctx.epoch,
        "records": plain(ctx.records),
        "model": plain(whole(unwrapped(ctx.model).state_dict())),
        "optimizers": {n: plain(whole(opt.state_dict())) for n, opt in ctx.optimizers.items()},
        "optimizer_types": {name: type(opt).__name__ for name, opt in ctx.optimizers.items()},
        "callbacks": [[_name(cb), plain(_state(cb))] for cb in kept_callbacks(ctx)],
    }
    owners = [("The records", "ctx.records", content["records"])]
    owners += [("The model", "state_dict()", content["model"])]
    for kind, states in (
        ("The optimizer", content["optimizers"].items()),
        ("The callback", content["callbacks"]),
    ):
        owners += [(f"{kind} {name}", "state_dict()", state) for name, state in states]
    for owner, where, state in owners:
        foreign = first_foreign(state, where)
        if foreign:
            raise LuzError(f"{owner} must have a state of tensors and plain values, got {foreign}.")
    return content


def write_checkpoint(ctx: Context, path: Path) -> None:
    """Write the state of a run; of several processes, the main one does.

    Raises:
        LuzError: If it cannot be written.
    """
    ranks = ctx.accelerator.ranks
    if ranks.is_main or ranks.spread:
        content = checkpoint_content(ctx)
        if ranks.is_main:
            container.write(path, container.CHECKPOINT, content)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, onto the CPU.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If it cannot be used.
    """
    return container.read(path, container.CHECKPOINT)


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
        LuzError: If they do not fit the run; nothing is changed then.
    """
    check_fit(ctx, content, path, model=model, optimizers=optimizers, callbacks=callbacks)
    if model:
        load_state(ctx.model, unplain(content["model"]), path)
    if optimizers:
        for name, optimizer in ctx.optimizers.items():
            try:
                optimizer.load_state_dict(unplain(content["optimizers"][name]))
                spread_optimizer_state(optimizer)
            except (ValueError, KeyError, RuntimeError) as err:
                raise LuzError(f"{path} does not fit the optimizer {name!r}: {err}") from err
    if records:
        ctx.records.clear()
        ctx.records.update(unplain(content["records"]))
    if callbacks:
        for callback, (_, state) in zip(kept_callbacks(ctx), content["callbacks"], strict=True):
            if state is not None:
                cast("Any", callback).load_state_dict(unplain(state))


def check_fit(
    ctx: Context,
    content: dict[str, Any],
    path: Path,
    *,
    model: bool = True,
    optimizers: bool = True,
    callbacks: bool = True,
) -> None:
    """Raise unless the chosen parts of a checkpoint fit the run.

    Raises:
        LuzError: If they do not; it names the path and what differs.
    """
    if model:
        check_state(ctx.model, content["model"], path)
    if optimizers:
        own = {name: type(optimizer).__name__ for name, optimizer in ctx.optimizers.items()}
        _check_same("optimizers", content["optimizer_types"], own, path)
        for name, optimizer in ctx.optimizers.items():
            sizes = [len(group["params"]) for group in content["optimizers"][name]["param_groups"]]
            here = [len(group["params"]) for group in optimizer.param_groups]
            _check_same(f"parameter groups of the optimizer {name!r}", sizes, here, path)
    if callbacks:
        own_names = [_name(callback) for callback in kept_callbacks(ctx)]
        _check_same("callbacks", [name for name, _ in content["callbacks"]], own_names, path)
        for callback, (name, state) in zip(kept_callbacks(ctx), content["callbacks"], strict=True):
            if state is not None and not hasattr(callback, "load_state_dict"):
                raise LuzError(
                    f"{name} has a `state_dict` but no `load_state_dict` to take it back."
                )


def kept_callbacks(ctx: Context) -> list[Callback]:
    """The callbacks that a checkpoint knows of."""
    return [callback for callback in ctx.callbacks if callback.checkpointed]


def _check_same(what: str, found: Any, own: Any, path: Path) -> None:
    if found != own:
        raise LuzError(
            f"{path} does not fit the run: it was written with the {what} {_listed(found)}, this "
            f"run has {_listed(own)}."
        )


def _listed(names: Any) -> str:
    if isinstance(names, dict):
        pairs = cast("dict[str, str]", names).items()
        return ", ".join(f"{name} ({kind})" for name, kind in pairs)
    return ", ".join(map(str, names))


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
        return {k: to_cpu_copy(item) for k, item in cast("dict[Any, Any]", state).items()}
    return state
