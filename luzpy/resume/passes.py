"""A pass through the data that may outlast an epoch."""

from __future__ import annotations

from typing import final

from luzpy.core.context import Context
from luzpy.data.portions import Portions
from luzpy.ground.types import Values
from luzpy.resume.random_streams import RandomStreams
from luzpy.resume.skipping import skip


@final
class Pass:
    """The pass under way, of a run whose epochs have `batches_per_epoch`; else nothing.

    Args:
        ctx: The run, as it begins.
        random: What it draws from.

    Attributes:
        began: The random state from which its order was drawn.
        done: How many of its batches are done.
    """

    def __init__(self, ctx: Context, random: RandomStreams) -> None:
        self.began: Values | None = None
        self.done = 0
        self._random = random
        self._resumes: Values | None = None  # the state that the one that goes on began with
        self._before: Values = {}
        if isinstance(ctx.train_data, Portions):
            ctx.train_data.before_pass = self._begin

    def note_batch(self, ctx: Context) -> None:
        """Count a finished batch."""
        if isinstance(ctx.train_data, Portions):
            self.done = ctx.train_data.done

    def go_on(self, ctx: Context, saved: Values) -> None:
        """Start the next epoch of training where the last one ended in the data."""
        if not isinstance(ctx.train_data, Portions) or not saved["pass_done"]:
            return
        self.began, self.done = saved["pass_began"], saved["pass_done"]
        self._resumes = self.began
        ctx.train_data.go_on(self.done, 0)
        skip(ctx, "train_data", self.done, "data", self._end_skipping)

    def go_on_in_epoch(self, portions: Portions, saved: Values) -> int:
        """Continue this epoch of training where it was; returns how many batches are skipped."""
        self.began = self._resumes = saved["pass_began"] or saved["began"]
        portions.go_on(saved["pass_done"], saved["batches"])
        return saved["pass_done"]

    def _begin(self) -> None:
        resumes, self._resumes = self._resumes, None
        if resumes is None:
            self.began, self.done = self._random.state(), 0
        elif self.done:  # the first batches are skipped, from the random state of that time
            self._before = self._random.state()
            self._random.restore(resumes)

    def _end_skipping(self) -> None:
        self._random.restore(self._before)
