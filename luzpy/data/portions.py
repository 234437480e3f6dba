"""Epochs with a fixed number of batches, however many there are in the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

from luzpy.data.batches import batches, draws_as_it_goes
from luzpy.ground.types import Batch

_END = object()


def _nothing() -> None:
    pass


@final
class Portions:
    """A fixed number of batches per epoch; the next epoch continues where the last one ended.

    At its end the data starts over, in the middle of an epoch if necessary.

    Args:
        loader: Where the batches come from.
        count: How many an epoch has.

    Attributes:
        done: How many batches of the current pass through the data have been taken.
        before_pass: Called before a pass begins.
    """

    def __init__(self, loader: Iterable[Batch], count: int) -> None:
        self.loader = loader
        self.count = count
        self.done = 0
        self.before_pass: Callable[[], None] = _nothing
        self._source: Iterator[Batch] | None = None
        self._skipped = self._done_in_epoch = 0
        self._ended: Callable[[], None] | None = None

    def go_on(self, skipped: int, done_in_epoch: int) -> None:
        """Make the first pass one whose first batches `loader` skips.

        Args:
            skipped: How many these are.
            done_in_epoch: How many batches the first epoch has had already.
        """
        self._skipped, self._done_in_epoch = skipped, done_in_epoch

    def end_first_epoch(self, function: Callable[[], None]) -> None:
        """Let the first epoch end without a batch, for it has had all; the function is called."""
        self._ended = function

    def close(self) -> None:
        """Let go of the data, and of their worker processes."""
        self._source = None

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not yet set
            raise AttributeError(name)
        return getattr(self.loader, name)  # the dataset, the sampler: what callbacks look at

    def __len__(self) -> int:
        return self.count

    @property
    def draws_as_it_goes(self) -> bool:
        """Whether the order of the rows may be drawn during the epoch."""
        return draws_as_it_goes(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
            return
        done, self._done_in_epoch = self._done_in_epoch, 0
        for _ in range(done, self.count):
            batch = self._next()
            if batch is _END:
                return
            yield batch

    def _next(self) -> Batch:
        while True:
            if self._source is None:
                self.done, self._skipped = self._skipped, 0
                self.before_pass()
                self._source = batches(self.loader)
            batch = next(self._source, _END)
            if batch is not _END:
                self.done += 1
                return batch
            self._source = None
            if not self.done:  # there is nothing in the data
                return _END
