"""Going on where a killed run was."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, final

import torch

from luzpy.batches import draws_as_it_goes
from luzpy.callback import Callback
from luzpy.context import Context, Resume
from luzpy.data import Split
from luzpy.distributed.sharding import ShardedLoader
from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.files.atomic import real_path
from luzpy.files.checkpoint import (
    check_fit,
    checkpoint_content,
    read_checkpoint,
    restore_checkpoint,
)
from luzpy.files.run_state import restore_run_state, run_state
from luzpy.loader import batch_count
from luzpy.loop import named_parts, unwrapped
from luzpy.random_state import (
    RandomState,
    generator_state,
    generators_in,
    set_generator_state,
)


@final
class AutoResume(Callback):
    """Keeps the state of the run in a file, from which the same script goes on after a kill.

    Everything is kept: the model, optimizers, every callback's state, records, metrics in flight,
    the random states of Python, NumPy and torch, the rows that `valid_data=0.1` has chosen, the
    order of the data and the place in it. A run that goes on ends bit for bit as one that was
    never stopped. The file is written after every epoch, also after every so many batches if
    asked, and when the process is told to end (SIGTERM, as clusters send it: the file is written
    after the current batch, then the process ends with status 143). It is deleted when training
    completes or stops early, and kept after Ctrl-C or an error.
    Port of R luz's `luz_callback_auto_resume()`.

    In a distributed run the main process writes, at the end of every epoch only, and the run may go
    on with another number of processes.

    Where data is fetched by worker processes, or is an iterable, the batches that were done in the
    interrupted epoch are made again, so that random augmentation is where it was. Of what is kept
    outside a `state_dict`, a module's plain attributes and the random generators that the model,
    the callbacks, the dataset and its samplers hold are kept too; anything else is not known to
    luzpy.

    Args:
        path: The file.
        every_n_batches: Write also after every this many training batches.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `every_n_batches` is not positive.
        LuzError: In a run: if the file cannot be read, or does not fit; it is left alone.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.AutoResume("run-7.pt", every_n_batches=500)
        <luzpy.callbacks.AutoResume: run-7.pt>
    """

    weight: float = float("inf")

    def __init__(
        self, path: str | os.PathLike[str] = "./state.pt", every_n_batches: int | None = None
    ) -> None:
        real_path(path)
        rule = "`every_n_batches` must be a positive whole number or None"
        if every_n_batches is not None and type(every_n_batches) is not int:
            raise TypeError(f"{rule}, got {every_n_batches!r}.")
        if every_n_batches is not None and every_n_batches < 1:
            raise ValueError(f"{rule}, got {every_n_batches!r}.")
        self.path: Path = Path(path)
        self.every_n_batches = every_n_batches
        self._begin()

    def _begin(self) -> None:
        self._file = real_path(self.path)
        self._part_began: dict[str, Any] | None = None
        self._trail: list[dict[str, Any]] = []
        self._last: RandomState | None = None
        self._saved = False
        self._generators: dict[str, Any] = {}
        self._previous: Any = None
        self._terminated: SystemExit | None = None

    def on_fit_begin(self, ctx: Context) -> None:
        """Go on from the file, if there is one."""
        self._begin()
        ranks = ctx.accelerator.ranks
        if ranks.size > 1 and self.every_n_batches is not None:
            raise ValueError(
                f"`every_n_batches` must be None with several processes, got "
                f"{self.every_n_batches!r}: their runs go on at the end of an epoch."
            )
        self._generators = generators_in(_generator_owners(ctx))
        if ranks.from_main(self._file.exists()):
            self._resume(ctx)
        elif ranks.is_main:
            _make_folder(self._file.parent)
        if ranks.is_main and getattr(_loaders(ctx)["train"], "persistent_workers", False):
            warnings.warn(
                "AutoResume cannot restore the random state of `persistent_workers`: a run that "
                "goes on sees other augmentation than one that was never stopped.",
                UserWarning,
                stacklevel=2,
            )
        ctx.at_safe_point.append(self._at_safe_point)
        ctx.at_exit.append(self._end)
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
        ):
            self._listen(ctx)

    def on_train_begin(self, ctx: Context) -> None:
        """Remember, or go back to, the random state in which the epoch's data begins."""
        self._begin_part(ctx)

    def on_valid_begin(self, ctx: Context) -> None:
        """Remember, or go back to, the random state in which validation begins."""
        self._begin_part(ctx)

    def _begin_part(self, ctx: Context) -> None:
        if ctx.resume is not None and self._part_began is not None:
            self._restore_random(self._part_began)
        else:
            self._trail = []
            self._part_began = self._random_state()
        self._last = RandomState.current() if draws_as_it_goes(ctx.data) else None

    def _at_safe_point(self, ctx: Context, part: str) -> None:
        if part == "fit":
            self._finish(ctx)
            return
        if part != "epoch" and ctx.accelerator.ranks.size > 1:
            return
        if part != "epoch" and self._last is not None:
            # What draws the order of the rows as it goes shares its numbers with the model: to be
            # where it was it must find the same state before each batch.
            now = RandomState.current()
            self._trail.append(now.changes_since(self._last))
            self._last = now
        every = self.every_n_batches
        due = part == "epoch" or (part == "train" and every is not None and ctx.iter % every == 0)
        if due or ctx.stop_request is not None:
            self._save(ctx, part)
        elif not self._saved:
            self._content(ctx, part)  # what cannot be kept is an error at once, not after an epoch
        self._saved = True

    def _finish(self, ctx: Context) -> None:
        """Delete the file, unless the run goes on another time."""
        if self._terminated is not None:
            raise self._terminated
        if ctx.stopped != "interrupted" and ctx.accelerator.is_main:
            self._file.unlink(missing_ok=True)

    def _content(self, ctx: Context, part: str) -> dict[str, Any]:
        content = checkpoint_content(ctx)
        states = ctx.accelerator.ranks.gather(self._random_state())
        content["resume"] = {
            "part": part,
            "batches": ctx.iter,
            "began": self._part_began if part != "epoch" else None,
            "trail": self._trail if part != "epoch" else [],
            "now": states[0],
            "now_of_other_ranks": states[1:],
            "run": run_state(ctx),
            "data": _data_state(ctx),
        }
        return content

    def _save(self, ctx: Context, part: str) -> None:
        content = self._content(ctx, part)
        if ctx.accelerator.is_main:
            container.write(self._file, container.CHECKPOINT, content)

    def _resume(self, ctx: Context) -> None:
        ranks = ctx.accelerator.ranks  # other machines may not see the file
        content = ranks.from_main(read_checkpoint(self._file) if ranks.is_main else None)
        if not isinstance(content.get("resume"), dict):
            raise LuzError(
                f"{self.path} is a checkpoint without a place to go on from: it was not written by "
                "AutoResume."
            )
        check_fit(ctx, content, self.path)
        place: dict[str, Any] = content["resume"]
        states = [place["now"], *place.get("now_of_other_ranks", [])]
        if ranks.size > 1 and place["part"] != "epoch":
            raise LuzError(
                f"{self.path} was written by one process in the middle of an epoch, and can go on "
                f"in one process only, got {ranks.size}."
            )
        # Fewer processes may take larger batches.
        _restore_data(ctx, place["data"], self.path, same_batches=len(states) == ranks.size)
        self._part_began = place["began"]
        self._trail = list(place["trail"])

        def restore(ctx: Context) -> None:
            restore_checkpoint(ctx, content, self.path)
            restore_run_state(ctx, place["run"])
            if ranks.rank < len(states):  # the run may have had fewer processes
                self._restore_random(states[ranks.rank])
            self._last = RandomState.current() if draws_as_it_goes(ctx.data) else None

        def before_skipping(batch: int) -> None:
            if batch and self._trail:
                changes = self._trail[batch - 1]
                RandomState.current().changed(changes).restore()

        ctx.resume = Resume(
            content["epoch"], place["part"], place["batches"], restore, before_skipping
        )
        if ctx.verbose:
            print(f"Resuming after {_place(content['epoch'], place)}, from {self.path}")

    def _listen(self, ctx: Context) -> None:
        def told_to_end(signum: int, frame: FrameType | None) -> None:
            self._terminated = SystemExit(128 + signal.SIGTERM)
            ctx.request_stop(self._terminated)
            if hasattr(signal, "SIGCHLD"):
                # Worker processes are told to end as well, and torch would raise in the middle of
                # a step that one of them has.
                signal.signal(signal.SIGCHLD, lambda signum, frame: None)

        self._previous = signal.signal(signal.SIGTERM, told_to_end)

    def _end(self) -> None:
        previous, self._previous = self._previous, None
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        self._part_began = self._last = None
        self._trail = []
        self._generators = {}
        terminated, self._terminated = self._terminated, None
        if terminated is not None:
            if callable(previous):
                previous(signal.SIGTERM, None)
            raise terminated

    def _random_state(self) -> dict[str, Any]:
        """Every random state that the run's data and model draw from."""
        own = {where: generator_state(g) for where, g in self._generators.items()}
        return {"global": RandomState.current().to_plain(), "own": own}

    def _restore_random(self, state: dict[str, Any]) -> None:
        for where, generator in self._generators.items():
            if where in state["own"]:
                set_generator_state(generator, state["own"][where])
        RandomState.from_plain(state["global"]).restore()

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.AutoResume: {self.path}>"


def _place(epoch: int, place: dict[str, Any]) -> str:
    if place["part"] == "epoch":
        return f"epoch {epoch}"
    kind = "training" if place["part"] == "train" else "validation"
    return f"{kind} batch {place['batches']} of epoch {epoch}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise LuzError(f"`path` must be in a folder that can be made, got {folder}: {err}") from err


def _generator_owners(ctx: Context) -> dict[str, Any]:
    """What may hold random generators of its own."""
    owners: dict[str, Any] = {f"{name}_data": loader for name, loader in _loaders(ctx).items()}
    for index, callback in enumerate(ctx.callbacks):
        owners[f"callbacks.{index}"] = callback
    for name, part in named_parts(unwrapped(ctx.model)):
        # Not the part itself, which holds the whole run.
        held = vars(part).items()
        owners[f"model.{name}"] = {n: g for n, g in held if not n.startswith("_") and n != "ctx"}
    return owners


def _loaders(ctx: Context) -> dict[str, Any]:
    """The DataLoaders, as they are before their batches are dealt out to several processes."""
    loaders = {"train": ctx.train_data, "valid": ctx.valid_data}
    return {n: x.loader if isinstance(x, ShardedLoader) else x for n, x in loaders.items()}


def _data_state(ctx: Context) -> dict[str, Any]:
    """How many batches there are, and which rows luzpy has chosen."""
    loaders = dict(zip(("training", "validation"), _loaders(ctx).values(), strict=True))
    datasets = {name: getattr(loader, "dataset", None) for name, loader in loaders.items()}
    return {
        "batches": {n: None if x is None else batch_count(x) for n, x in loaders.items()},
        "rows": {n: torch.tensor(d.indices) for n, d in datasets.items() if isinstance(d, Split)},
    }


def _restore_data(ctx: Context, state: dict[str, Any], path: Path, *, same_batches: bool) -> None:
    """Take the rows that the run began with.

    Raises:
        LuzError: If the data are others.
    """
    own = _data_state(ctx)
    for what, count in state["batches"].items() if same_batches else ():
        if own["batches"][what] != count:
            raise LuzError(
                f"{path} does not fit the run: it was written with {count} {what} batches an "
                f"epoch, this run has {own['batches'][what]}."
            )
    sizes = {name: len(rows) for name, rows in state["rows"].items()}
    if sizes != {name: len(rows) for name, rows in own["rows"].items()}:
        raise LuzError(f"{path} does not fit the run: `valid_data` was another part of the rows.")
    for name, loader in zip(("training", "validation"), _loaders(ctx).values(), strict=True):
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, Split):
            dataset.indices = state["rows"][name].tolist()
