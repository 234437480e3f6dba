"""What to do about settings that differ from the state file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luzpy.core.context import Context, Optimizers
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import is_mapping
from luzpy.ground.primitives import from_primitives
from luzpy.ground.types import Values
from luzpy.resume.fingerprint import Difference

KEEP, USE = "keep", "use"
# What the state itself contains and continues with.
_IN_STATE = ("opt_hparams", "seed")
# What schedulers set: they continue with the values they began with.
_SCHEDULED = ("lr", "initial_lr", "momentum", "betas")
Groups = dict[str, list[Values]]


def check_changes(
    found: list[Difference], on_change: str | None, saved: Values, now: Values, path: Path
) -> None:
    """Raise unless the run may go on with these differences.

    Args:
        found: The differences.
        on_change: What the user has said.
        saved: What the file keeps of the run.
        now: The run's fingerprint.
        path: The file.

    Raises:
        LuzError: If it may not; it names what was and what is.
    """
    before: Values = saved["fingerprint"]
    left = [one for one in found if not _is_settled(one, on_change, saved, before, now)]
    if not left:
        return
    message = f"{path} does not fit the run: {'; '.join(map(_told, left))}. "
    if on_change is None:
        message += (
            "Give another run its own file, AutoResume(path). To resume anyway, choose the "
            "settings: on_change='keep' (the file's) or on_change='use' (this run's)."
        )
    elif on_change == KEEP:
        message += "This cannot be kept (on_change='keep'): it is not in the file."
    else:
        message += f"This cannot be used (on_change='use'): {_reason(left)}."
    raise LuzError(message)


def _is_settled(
    one: Difference, on_change: str | None, saved: Values, before: Values, now: Values
) -> bool:
    if on_change == KEEP:
        return one.part in _IN_STATE
    if on_change != USE:
        return False
    if one.part == "opt_hparams":
        changed = _changed(before["groups"], now["groups"])
        return bool(changed) and not any(_is_scheduled(at, now["groups"]) for at in changed)
    return one.part == "loss" or (
        one.part in ("metrics", "data", "valid_data") and saved["part"] == "epoch"
    )


def _told(one: Difference) -> str:
    before, now = _shown(one.before), _shown(one.now)
    return f"it was written with the {one.name} {before}, this run has {now}"


def _shown(value: object) -> str:
    if is_mapping(value):
        if [*value] == ["class"]:
            return str(value["class"])
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    return str(value)


def _reason(left: list[Difference]) -> str:
    parts = {one.part for one in left}
    if parts <= {"metrics", "data", "valid_data"}:
        return "the file was written in the middle of an epoch"
    if parts == {"opt_hparams"}:
        return "it is not a number of a parameter group, or a scheduler sets it"
    return "the weights and the optimizer's state depend on it"


Place = tuple[str, int, str]


def _changed(before: Groups, now: Groups) -> list[Place]:
    """The hyperparameters of each optimizer's groups that differed at the start of the run."""
    if {k: len(v) for k, v in before.items()} != {k: len(v) for k, v in now.items()}:
        return []
    return [
        (name, index, key)
        for name, groups in now.items()
        for index, group in enumerate(groups)
        for key, value in group.items()
        if before[name][index].get(key) != value
    ]


def _is_scheduled(place: Place, groups: Groups) -> bool:
    name, index, key = place
    return key in _SCHEDULED and "initial_lr" in groups[name][index]


def initial_groups(optimizers: Optimizers) -> Groups:
    """The hyperparameters at the start of the run."""
    return {
        name: [{k: v for k, v in group.items() if k != "params"} for group in o.param_groups]
        for name, o in optimizers.items()
    }


def apply_changes(
    ctx: Context,
    found: list[Difference],
    on_change: str | None,
    saved: Values,
    now: Values,
    groups: Groups,
) -> None:
    """Apply the chosen settings to the run, once its state is loaded.

    Args:
        ctx: The run.
        found: The differences.
        on_change: Whose settings count.
        saved: What the file keeps of the run.
        now: The run's fingerprint.
        groups: What `initial_groups` gave.
    """
    if not any(one.part == "opt_hparams" for one in found):
        return
    if on_change == KEEP and saved.get("opt_hparams") is not None:
        ctx.opt_hparams = from_primitives(saved["opt_hparams"])  # what `fitted` reports
    if on_change == USE:
        for name, index, key in _changed(saved["fingerprint"]["groups"], now["groups"]):
            group: Any = ctx.optimizers[name].param_groups[index]
            group[key] = groups[name][index][key]
