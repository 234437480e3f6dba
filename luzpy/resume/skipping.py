"""Loaders that skip the batches a run has already done."""

from __future__ import annotations

from collections.abc import Callable

from luzpy.core.context import Context, internals
from luzpy.data.batches import draws_as_it_goes
from luzpy.data.portions import Portions
from luzpy.ground.errors import LuzError
from luzpy.resume.data_state import DATA
from luzpy.resume.loader import ResumableLoader


def is_resumable(ctx: Context) -> bool:
    """Whether the run can resume in the middle of an epoch."""
    return getattr(ctx.train_data, "resumable", True)


def check_workers(ctx: Context) -> None:
    """Raise if worker processes outlive an epoch: their state could not be restored."""
    for name, argument in (("train_data", "data"), ("valid_data", "valid_data")):
        if getattr(getattr(ctx, name), "persistent_workers", False):
            raise LuzError(
                f"`{argument}` must have persistent_workers=False with AutoResume, got True: "
                "workers that outlive an epoch take their random states along, and a resumed "
                "run would see other rows."
            )


def wrap_loaders(ctx: Context) -> None:
    """Separate the model's draws from the data's if the row order is drawn during the epoch."""
    for name in DATA.values():
        loader = getattr(ctx, name)
        if loader is not None and is_resumable(ctx) and draws_as_it_goes(loader):
            _wrap(ctx, name)


def skip(ctx: Context, name: str, done: int, label: str, restore: Callable[[], None]) -> None:
    """Make one of the run's loaders skip the batches that are done."""
    _wrap(ctx, name).resume_at(done, label, restore, lambda: bool(internals(ctx).stop.reason))


def _wrap(ctx: Context, name: str) -> ResumableLoader:
    """Wrap the run's loader in one that can skip batches."""
    outer = getattr(ctx, name)
    loader = outer.loader if isinstance(outer, Portions) else outer
    if not isinstance(loader, ResumableLoader):
        loader = ResumableLoader(loader)
    if isinstance(outer, Portions):
        outer.loader = loader
    else:
        setattr(ctx, name, loader)
    return loader
