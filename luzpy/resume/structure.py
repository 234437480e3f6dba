"""What the model and the optimizers of a resumed run must have."""

from __future__ import annotations

from typing import final

from luzpy.core.context import Context
from luzpy.core.modules import unwrapped
from luzpy.files.checkpoint import group_parameters
from luzpy.ground.errors import LuzError
from luzpy.ground.types import Values


@final
class Structure:
    """The names in the model's `state_dict` and of the parameters in the optimizers' groups.

    Args:
        ctx: The run, as it begins.
    """

    def __init__(self, ctx: Context) -> None:
        self._began = _structure(ctx)

    def checked_groups(self, ctx: Context) -> Values:
        """The names of the parameters in each group of each optimizer.

        Raises:
            LuzError: If the run has changed something that a resumed run could not recreate.
        """
        began, now = self._began, _structure(ctx)
        if now["model"] != began["model"]:
            other = sorted(now["model"] ^ began["model"])
            raise LuzError(
                "The model must have the parameters and buffers that it began with, to be resumed, "
                f"got another {other[0]!r}: give the run the module as it is now."
            )
        for name, groups in now["groups"].items():
            if groups != began["groups"].get(name) and any(None in group for group in groups):
                raise LuzError(
                    f"The optimizer {name!r} must have parameters of the model in the groups that "
                    "were changed during the run, to be resumed, got others."
                )
        return now["groups"]


def _structure(ctx: Context) -> Values:
    """What the model and the optimizers of a resumed run must have."""
    return {"model": {*unwrapped(ctx.model).state_dict()}, "groups": group_parameters(ctx)}
