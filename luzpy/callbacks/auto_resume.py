"""Going on where a killed run was."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, final

import torch

from luzpy.callback import Callback
from luzpy.context import Context, Resume
from luzpy.errors import LuzError
from luzpy.files import container
from luzpy.files.checkpoint import checkpoint_content, read_checkpoint, restore_checkpoint
from luzpy.loader import generators_of
from luzpy.loop import unwrapped
from luzpy.plain import first_foreign, plain, unplain
from luzpy.random_state import RandomState


@final
class AutoResume(Callback):
    """Keeps the state of the run in a file, from which the same script goes on after a kill.

    Everything is kept: the model, optimizers, every callback's state, records, metrics in flight,
    the random states of Python, NumPy and torch, the order of the data and the place in it. A run
    that goes on ends bit for bit as one that was never stopped. The file is written after every
    epoch, also after every so many batches if asked, and when the process is told to end
    (SIGTERM, as clusters send it: the file is written after the current batch, then the process
    ends with status 143). It is deleted when training completes or stops early, and kept after
    Ctrl-C or an error. Port of R luz's `luz_callback_auto_resume()`.

    Batches that were done in the interrupted epoch are fetched again, so that random
    augmentation, in worker processes too, is where it was. What a user's module or callback keeps
    outside its `state_dict` is not known to luzpy.

    Args:
        path: The file.
        every_n_batches: Write also after every this many training batches.

    Raises:
        ValueError: If `every_n_batches` is not positive.
        LuzError: In a run: if the file cannot be read, or does not fit; it is left alone.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.AutoResume("run-7.pt", every_n_batches=500)
        <luzpy.callbacks.AutoResume: run-7.pt>
    """

    weight = float("inf")

    def __init__(
        self, path: str | os.PathLike[str] = "./state.pt", every_n_batches: int | None = None
    ) -> None:
        if every_n_batches is not None and (
            isinstance(every_n_batches, bool)
            or not isinstance(every_n_batches, int)
            or every_n_batches < 1
        ):
            raise ValueError(
                "`every_n_batches` must be a positive whole number or None, got "
                f"{every_n_batches!r}."
            )
        self.path = Path(path)
        self.every_n_batches = every_n_batches
        self._part_began: dict[str, Any] | None = None
        self._terminated = False
        self._previous: Any = None

    def on_fit_begin(self, ctx: Context) -> None:
        """Go on from the file, if there is one."""
        self._part_began = None
        self._terminated = False
        if self.path.exists():
            self._resume(ctx)
        if getattr(ctx.train_data, "persistent_workers", False):
            warnings.warn(
                "AutoResume cannot restore the random state of `persistent_workers`: a run that "
                "goes on sees other augmentation than one that was never stopped.",
                UserWarning,
                stacklevel=2,
            )
        ctx.at_safe_point.append(lambda part: self._save_if_due(ctx, part))
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._on_terminate)
            ctx.at_exit.append(self._stop_listening)

    def on_train_begin(self, ctx: Context) -> None:
        """Remember, or go back to, the random state in which the epoch's data begins."""
        self._begin_part(ctx)

    def on_valid_begin(self, ctx: Context) -> None:
        """Remember, or go back to, the random state in which validation begins."""
        self._begin_part(ctx)

    def on_fit_end(self, ctx: Context) -> None:
        """Delete the file, unless the run was interrupted."""
        if ctx.stopped == "interrupted":
            return
        self.path.unlink(missing_ok=True)

    def _begin_part(self, ctx: Context) -> None:
        if ctx.resume is not None and self._part_began is not None:
            _restore_random(ctx, self._part_began)
        else:
            self._part_began = _random_state(ctx)

    def _save_if_due(self, ctx: Context, part: str) -> None:
        every = self.every_n_batches
        due = part == "epoch" or (part == "train" and every is not None and ctx.iter % every == 0)
        if due or self._terminated or ctx.stop_request is not None:
            self._save(ctx, part)
        if self._terminated:
            self._end_process()

    def _save(self, ctx: Context, part: str) -> None:
        content = checkpoint_content(ctx)
        content["resume"] = {
            "part": part,
            "batches": ctx.iter,
            "began": self._part_began if part != "epoch" else None,
            "now": _random_state(ctx),
            "gradients": _gradients(ctx),
            "buffers": {k: v for k, v in plain(ctx.buffers).items() if first_foreign(v) is None},
        }
        container.write(self.path, "checkpoint", content)

    def _resume(self, ctx: Context) -> None:
        content = read_checkpoint(self.path)
        if "resume" not in content:
            raise LuzError(
                f"{self.path} is a checkpoint without a place to go on from: it was not written by "
                "AutoResume."
            )
        place = content["resume"]

        def restore() -> None:
            restore_checkpoint(ctx, content, self.path)
            for name, parameter in unwrapped(ctx.model).named_parameters():
                gradient = place["gradients"].get(name)
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
            ctx.buffers.update(unplain(place["buffers"]))
            _restore_random(ctx, place["now"])

        self._part_began = place["began"]
        ctx.resume = Resume(content["epoch"], place["part"], place["batches"], restore)
        if ctx.verbose:
            print(f"Resuming after {_place(content['epoch'], place)}, from {self.path}")

    def _on_terminate(self, signum: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _stop_listening(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _end_process(self) -> None:
        previous = self._previous
        self._stop_listening()
        if callable(previous):
            previous(signal.SIGTERM, None)
        sys.exit(128 + signal.SIGTERM)

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.AutoResume: {self.path}>"


def _place(epoch: int, place: dict[str, Any]) -> str:
    if place["part"] == "epoch":
        return f"epoch {epoch}"
    kind = "training" if place["part"] == "train" else "validation"
    return f"{kind} batch {place['batches']} of epoch {epoch}"


def _random_state(ctx: Context) -> dict[str, Any]:
    """Every random state that the run's data and model draw from."""
    own = [generator.get_state() for generator in _generators(ctx)]
    return {"global": RandomState.current().to_plain(), "loaders": own}


def _restore_random(ctx: Context, state: dict[str, Any]) -> None:
    RandomState.from_plain(state["global"]).restore()
    for generator, saved in zip(_generators(ctx), state["loaders"], strict=True):
        generator.set_state(saved)


def _generators(ctx: Context) -> list[torch.Generator]:
    return [*generators_of(ctx.train_data), *generators_of(ctx.valid_data)]


def _gradients(ctx: Context) -> dict[str, Any]:
    """Gradients that a custom step is still gathering; the default step has none between batches."""
    module = unwrapped(ctx.model)
    if getattr(module, "step", None) is None:
        return {}
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
