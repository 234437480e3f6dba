"""The state of a run in a file, and back."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any

import torch

from luzpy.core.context import Context, internals
from luzpy.core.hooks import HookOwner
from luzpy.core.loss import trained_loss
from luzpy.core.modules import unwrapped
from luzpy.core.optimizer_state import load_optimizer_state
from luzpy.files import container
from luzpy.files.state import check_state, load_state
from luzpy.ground.errors import LuzError, add_note, has_note
from luzpy.ground.nested import is_mapping, to_cpu_copy
from luzpy.ground.primitives import find_unsupported, from_primitives, to_primitives
from luzpy.ground.records import Records
from luzpy.ground.types import Primitive, Values

Path = str | os.PathLike[str]
OPTIMIZER: Any = torch.optim.Optimizer


def checkpoint_content(ctx: Context) -> Values:
    """Epoch, records, and the states of the model, the optimizers and the callbacks.

    Raises:
        LuzError: If a state holds more than tensors and primitive values; it says whose, and where.
    """
    full = ctx.accelerator.full_state
    content: Values = {
        "epoch": ctx.epoch,
        "began": internals(ctx).began,
        "records": to_primitives(ctx.records),
        "model": to_primitives(full(unwrapped(ctx.model).state_dict())),
        "optimizers": {
            name: to_primitives(full(opt.state_dict())) for name, opt in ctx.optimizers.items()
        },
        "optimizer_types": {name: type(opt).__name__ for name, opt in ctx.optimizers.items()},
        "callbacks": [[_name(cb), to_primitives(cb.state_dict())] for cb in kept_callbacks(ctx)],
    }
    loss = trained_loss(ctx)
    if loss is not None:
        content["loss"] = to_primitives(loss.state_dict())
    owners = [("The records", "ctx.records", content["records"])]
    owners += [("The model", "state_dict()", content["model"])]
    for kind, states in (
        ("The optimizer", content["optimizers"].items()),
        ("The callback", content["callbacks"]),
    ):
        owners += [(f"{kind} {name}", "state_dict()", state) for name, state in states]
    for owner, where, state in owners:
        unsupported = find_unsupported(state, where)
        if unsupported:
            raise LuzError(
                f"{owner} must have a state of tensors and primitive values, got {unsupported}."
            )
    return content


def write_checkpoint(ctx: Context, path: Path) -> None:
    """Write the state of a run; of several processes, the main one does.

    Raises:
        LuzError: If it cannot be written.
    """
    accelerator = ctx.accelerator
    if accelerator.is_main or accelerator.is_sharded:
        content = checkpoint_content(ctx)
        if accelerator.is_main:
            container.write(path, container.CHECKPOINT, content)


def read_checkpoint(path: Path) -> Values:
    """Read what `write_checkpoint` wrote, onto the CPU.

    Raises:
        FileNotFoundError: If there is no file.
        LuzError: If it cannot be used.
    """
    return container.read(path, container.CHECKPOINT)


def restore_checkpoint(
    ctx: Context,
    content: Values,
    path: Path,
    *,
    model: bool = True,
    records: bool = True,
    optimizers: bool = True,
    callbacks: bool = True,
    regroup: bool = False,
) -> None:
    """Put the chosen parts of a checkpoint into a run.

    With `regroup` the optimizers get the parameter groups that they had when it was written.

    Raises:
        LuzError: If they do not fit the run; nothing is changed then.
    """
    undo = undo_of(ctx, model=model, records=records, optimizers=optimizers, callbacks=callbacks)
    with all_or_nothing(path, undo):
        check_fit(
            ctx,
            content,
            path,
            model=model,
            optimizers=optimizers,
            callbacks=callbacks,
            regroup=regroup,
        )
        if optimizers and regroup:
            _regroup(ctx, content)
        if model:
            load_model_state(ctx, from_primitives(content["model"]))
            loss = trained_loss(ctx)
            if loss is not None and "loss" in content:
                load_state(loss, from_primitives(content["loss"]), path)
        if optimizers:
            for name, optimizer in ctx.optimizers.items():
                load_optimizer_state(optimizer, from_primitives(content["optimizers"][name]))
                ctx.accelerator.shard_optimizer(optimizer)
        if records:
            found: Records = from_primitives(content["records"])
            ctx.records.clear()
            ctx.records.update(found)
        if callbacks:
            for callback, (_, state) in zip(kept_callbacks(ctx), _kept(content), strict=True):
                try:
                    callback.load_state_dict(from_primitives(state))
                except Exception as err:
                    kind: type[object] = callback.__class__
                    if not kind.__module__.startswith("luzpy."):
                        place = f"in the callback {kind.__name__}, load_state_dict"
                        add_note(err, f"{place}, with what {os.fspath(path)} has of it.")
                    raise


@contextmanager
def all_or_nothing(path: Path, undo: Callable[[], None]) -> Generator[None]:
    """Call `undo` if what is put back from a file does not fit.

    Raises:
        LuzError: Then; it names the path. An error of the user's own code keeps its type.
    """
    try:
        yield
    except Exception as err:  # of whatever finds something else than it wrote
        undo()
        if has_note(err) or (isinstance(err, LuzError) and os.fspath(path) in str(err)):
            raise
        reason = str(err) if isinstance(err, LuzError) else f"{type(err).__name__}: {err}"
        raise LuzError(f"{os.fspath(path)} does not fit the run: {reason}") from err


def undo_of(
    ctx: Context,
    *,
    model: bool = True,
    records: bool = True,
    optimizers: bool = True,
    callbacks: bool = True,
) -> Callable[[], None]:
    """What puts the chosen parts of a run back as they are now."""
    if ctx.accelerator.is_sharded:  # of which no process has all
        return lambda: None
    chosen: list[Any] = [unwrapped(ctx.model), trained_loss(ctx)] if model else []
    chosen += ctx.optimizers.values() if optimizers else []
    if callbacks:
        chosen += [owner for owner in kept_callbacks(ctx) if hasattr(owner, "load_state_dict")]
    states = [(owner, to_cpu_copy(owner.state_dict())) for owner in chosen if owner is not None]
    logged = copy.deepcopy(ctx.records)
    groups: Values = {
        name: [{**group, "params": [*group["params"]]} for group in optimizer.param_groups]
        for name, optimizer in (ctx.optimizers.items() if optimizers else ())
    }

    def undo() -> None:
        for name, own in groups.items():
            ctx.optimizers[name].param_groups[:] = own
        for owner, state in states:
            with suppress(Exception):  # of a callback that takes no state which it gave
                owner.load_state_dict(state)
        if records:
            ctx.records.clear()
            ctx.records.update(logged)

    return undo


def load_model_state(ctx: Context, state: Values) -> None:
    """Put a full state dict into the model of a run."""
    model = unwrapped(ctx.model)
    model.load_state_dict(ctx.accelerator.shard_like(state, model.state_dict()))


def check_fit(
    ctx: Context,
    content: Values,
    path: Path,
    *,
    model: bool = True,
    optimizers: bool = True,
    callbacks: bool = True,
    regroup: bool = False,
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
            groups = content["optimizers"][name].get("param_groups")
            if groups is None or not isinstance(optimizer, OPTIMIZER):
                continue  # one of no class of torch's says itself what fits
            if regroup and _is_regroupable(ctx, content, name):
                continue
            sizes = [len(group["params"]) for group in groups]
            here = [len(group["params"]) for group in optimizer.param_groups]
            _check_same(f"parameter groups of the optimizer {name!r}", sizes, here, path)
    if callbacks:
        own_names = [_name(callback) for callback in kept_callbacks(ctx)]
        _check_same("callbacks", [name for name, _ in _kept(content)], own_names, path)
        for callback in kept_callbacks(ctx):
            if not hasattr(callback, "load_state_dict"):
                raise LuzError(
                    f"{_name(callback)} has a `state_dict` but no `load_state_dict` to take it "
                    "back."
                )


def group_parameters(ctx: Context) -> dict[str, list[list[str | None]]]:
    """Optimizer → the names of the parameters in each of its groups; None for one of no model."""
    names = {id(p): name for name, p in unwrapped(ctx.model).named_parameters()}
    return {
        name: [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
        for name, optimizer in ctx.optimizers.items()
    }


def _is_regroupable(ctx: Context, content: Values, name: str) -> bool:
    groups = content.get("group_params", {}).get(name)
    known = {name for name, _ in unwrapped(ctx.model).named_parameters()}
    return groups is not None and all(known.issuperset(group) for group in groups)


def _regroup(ctx: Context, content: Values) -> None:
    """Let the optimizers have the groups that they had: some may have been added in the run."""
    own, parameters = group_parameters(ctx), dict(unwrapped(ctx.model).named_parameters())
    for name, optimizer in ctx.optimizers.items():
        if _is_regroupable(ctx, content, name) and content["group_params"][name] != own[name]:
            optimizer.param_groups[:] = [
                {**optimizer.defaults, "params": [parameters[p] for p in group]}
                for group in content["group_params"][name]
            ]


def kept_callbacks(ctx: Context) -> list[Any]:
    """The callbacks that a checkpoint knows of: those with a state. Others may come and go."""
    return [callback for callback in ctx.callbacks if hasattr(callback, "state_dict")]


def _kept(content: Values) -> list[tuple[str, Primitive]]:
    # luzpy 0.1.0 listed the callbacks without a state too.
    return [(name, state) for name, state in content["callbacks"] if state is not None]


def _check_same(what: str, found: Iterable[object], own: Iterable[object], path: Path) -> None:
    if found != own:
        raise LuzError(
            f"{path} does not fit the run: it was written with the {what} {_listed(found)}, this "
            f"run has {_listed(own)}."
        )


def _listed(names: Iterable[object]) -> str:
    if is_mapping(names):
        return ", ".join(f"{name} ({kind})" for name, kind in names.items())
    return ", ".join(map(str, names)) or "none"


def _name(callback: HookOwner) -> str:
    return type(callback).__name__
