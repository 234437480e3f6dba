"""A wrapper around a loader that skips the batches a resumed run has done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, final

from luzpy.data.batches import batches, draws_as_it_goes, skip_batch
from luzpy.ground.errors import LuzError
from luzpy.ground.random_state import InterleavedRandom
from luzpy.ground.types import Batch

_END = object()


@final
class ResumableLoader:
    """The batches of `loader`; the first time, without those that are done.

    Where the order of the rows is drawn while the epoch is under way, the model draws from a random
    stream of its own: the order can be drawn again without the model's draws in between.

    Args:
        loader: Where the batches come from.
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self._done: int | None = None
        self._name = ""
        self._restore: Callable[[], None]
        self._is_stopped: Callable[[], bool]

    def resume_at(
        self, done: int, name: str, restore: Callable[[], None], is_stopped: Callable[[], bool]
    ) -> None:
        """Skip the first batches of the next epoch.

        Args:
            done: How many.
            name: What the user calls the data, for messages.
            restore: Called when they have been passed over; puts the run's state back.
            is_stopped: Whether the run is to end; then nothing more is skipped.
        """
        self._done, self._name = done, name
        self._restore, self._is_stopped = restore, is_stopped

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not yet set
            raise AttributeError(name)
        return getattr(self.loader, name)  # the dataset, the sampler: what callbacks look at

    def __len__(self) -> int:
        return len(self.loader)  # pyright: ignore[reportArgumentType]  (a TypeError, as of any)

    def __iter__(self) -> Iterator[Batch]:
        done, self._done = self._done, None
        if done == 0:  # the order is drawn again, from the same random state as before
            self._restore()
        turns = InterleavedRandom() if draws_as_it_goes(self.loader) else None
        first = nullcontext if turns is None else turns.first
        with first():
            source = batches(self.loader)
        for index in range(done or 0):
            if self._is_stopped():
                break
            with first():
                # The draws of a batch that is made are those of the stream of the next ones.
                found = skip_batch(source) if turns is None else next(source, _END) is not _END
            if not found:
                raise LuzError(
                    f"`{self._name}` must give at least the {done} batches that the interrupted "
                    f"epoch has done, got {index}."
                )
        if done:
            self._restore()
        if done is not None and self._is_stopped():
            return
        if turns is None:
            yield from source
            return
        while True:
            with first():
                batch = next(source, _END)
            if batch is _END:
                turns.end()
                return
            yield batch
