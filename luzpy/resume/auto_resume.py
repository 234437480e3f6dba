"""Resuming a killed run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import final

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit, internals
from luzpy.data.dataset import length_of
from luzpy.data.portions import Portions
from luzpy.files import container
from luzpy.files.atomic import real_path
from luzpy.files.checkpoint import (
    all_or_nothing,
    check_fit,
    checkpoint_content,
    restore_checkpoint,
    undo_of,
)
from luzpy.files.saving import save
from luzpy.ground.arguments import check_choice, check_count
from luzpy.ground.errors import LuzError
from luzpy.ground.nested import to_cpu_copy
from luzpy.ground.primitives import if_primitive
from luzpy.ground.types import Batch, Values
from luzpy.resume.attributes import Attributes
from luzpy.resume.changes import KEEP, USE, apply_changes, check_changes, initial_groups
from luzpy.resume.data_state import data_state, restore_data
from luzpy.resume.fingerprint import Difference, differences, fingerprint
from luzpy.resume.passes import Pass
from luzpy.resume.random_streams import RandomStreams
from luzpy.resume.run_state import restore_run_state, run_state
from luzpy.resume.sigterm import Sigterm
from luzpy.resume.skipping import check_workers, is_resumable, skip, wrap_loaders
from luzpy.resume.state_file import described, read_state
from luzpy.resume.structure import Structure

TERMINATED = "terminated"
EARLY = "early stopping"
# A run that ended like this needs no file any more.
DONE = ("completed", EARLY)


@final
class AutoResume(Callback):
    """Saves the state of the run to a file, from which the same script resumes after a kill.

    Everything is saved: the model, optimizers, every callback's state, records, partial metrics,
    the random states of Python, NumPy and torch, the rows that `valid_data=0.1` has chosen, the
    data order and the position in it. A resumed run ends bit for bit like one that was never
    stopped. The file is written after every epoch, every n batches if you ask for it, and when the
    run stops within an epoch: by Ctrl-C, by `ctx.stop`, or by SIGTERM, which clusters send (the
    process then exits with status 143). It is deleted when training completes or stops early, and
    kept otherwise. Port of R luz's `luz_callback_auto_resume()`.

    In a distributed run, the main process writes, only at the end of every epoch, and the run may
    resume with a different number of processes. Callbacks without a `state_dict` may be added or
    removed.

    If data is fetched by worker processes, is iterable, or has a custom sampler, the completed
    batches of the interrupted epoch are fetched again, so that random augmentation continues where
    it was. Also saved are attributes of modules, losses and optimizers that are tensors, plain
    values or containers of them, every random generator of torch, NumPy and Python that the data,
    the model, the loss, the optimizers or the callbacks refer to, at any depth, and the state of
    datasets and samplers that have `state_dict` and `load_state_dict`. An attribute that is any
    other object must not change: the next save raises an error that names it.

    The file contains a fingerprint of its run: module, loss, optimizer, metrics and their settings,
    the seed if one was given, and the data. If the file is from another run, an error says what
    differs.

    Args:
        path: The file. Each run needs its own.
        every_n_batches: Also write after every n training batches.
        on_change: What to do if settings have changed. `"keep"` uses the file's (the optimizer's
            hyperparameters, the seed), `"use"` those of this run (the optimizer's hyperparameters
            that no scheduler sets, the loss; at the end of an epoch also metrics and data). With
            None, and for any other change, it is an error.
        result: A file to which the fitted model is saved, as by `luz.save`, before the state is
            deleted: a kill between the end of `fit` and the script's own `save` then loses nothing.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `every_n_batches` is not positive, or `on_change` is something else.
        LuzError: In a run: if the file cannot be read, or does not fit; it is left alone.

    Examples:
        >>> import luzpy as luz
        >>> luz.callbacks.AutoResume("run-7.pt", every_n_batches=500)
        <luzpy.callbacks.AutoResume: run-7.pt>
    """

    weight: float = float("inf")
    runs_last = True  # the state is written when every callback has had its hook

    def __init__(
        self,
        path: str | os.PathLike[str] = "./state.pt",
        every_n_batches: int | None = None,
        *,
        on_change: str | None = None,
        result: str | os.PathLike[str] | None = None,
    ) -> None:
        real_path(path)
        check_count("every_n_batches", every_n_batches, optional=True)
        check_choice("on_change", on_change, (None, KEEP, USE))
        self.path: Path = Path(path)
        self.every_n_batches = every_n_batches
        self.on_change = on_change
        self.result: Path | None = None if result is None else real_path(result, "result")
        self._begin()

    def _begin(self) -> None:
        self._file = real_path(self.path)
        self._part = ""  # "train", "valid", or "epoch" at its end
        self._done = 0  # batches of this part whose end every callback has seen
        self._part_began: Values | None = None
        self._resumes: Values | None = None  # the saved state, until the run has reached it
        self._train_data: Iterable[Batch] | None = None
        self._checked = False
        self._sigterm = Sigterm()
        self._run: _Run | None = None

    @property
    def _began_run(self) -> _Run:
        assert self._run is not None
        return self._run

    def on_fit_begin(self, ctx: Context) -> None:
        self._begin()
        if self.every_n_batches is not None and not is_resumable(ctx):
            raise ValueError(
                f"`every_n_batches` must be None with several processes, got "
                f"{self.every_n_batches!r}: their runs resume at the end of an epoch."
            )
        check_workers(ctx)
        self._run = _Run(ctx)
        wrap_loaders(ctx)
        at_exit(ctx, self._end)
        self._sigterm.listen(lambda: ctx.stop(TERMINATED))
        # Before any callback's `on_fit_end`: the state is that after the last batch.
        cut_short = Callback.from_functions(
            weight=float("-inf"), on_interrupt=self._save_in_epoch, on_fit_end=self._save_in_epoch
        )
        ctx.callbacks = [cut_short, *ctx.callbacks]
        content = ctx.accelerator.broadcast_from_main(
            lambda: read_state(self._file, self.path, self.result)
        )
        if content is not None:
            with all_or_nothing(self.path, lambda: None):
                self._resume(ctx, content)

    def on_epoch_begin(self, ctx: Context) -> None:
        if self._resumes is not None and self._resumes["part"] == "valid":
            self._train_data, ctx.train_data = ctx.train_data, None  # this epoch's is done

    def on_train_begin(self, ctx: Context) -> None:
        self._begin_part(ctx, "train")

    def on_train_batch_end(self, ctx: Context) -> None:
        self._done = ctx.iter
        self._began_run.data_pass.note_batch(ctx)
        first, self._checked = not self._checked, True
        every = self.every_n_batches
        if every is not None and ctx.iter % every == 0:
            self._save(ctx)
        elif first and is_resumable(ctx):
            self._content(ctx)  # what cannot be kept is an error at once, not after an epoch

    def on_valid_begin(self, ctx: Context) -> None:
        if self._run is None:  # an evaluation: there is nothing to resume
            return
        if self._train_data is not None:
            ctx.train_data, self._train_data = self._train_data, None
        self._begin_part(ctx, "valid")

    def on_valid_batch_end(self, ctx: Context) -> None:
        self._done = ctx.iter

    def on_epoch_end(self, ctx: Context) -> None:
        self._part, self._part_began = "epoch", None
        self._save(ctx)

    def on_fit_end(self, ctx: Context) -> None:
        sigterm, reason = self._sigterm, internals(ctx).stop.reason or DONE[0]
        if reason == TERMINATED:  # agreed on: all processes come here
            sigterm.received = ctx.accelerator.any(sigterm.received)
        if reason not in DONE or sigterm.received:
            return
        if self.result is not None:
            self._write_result(ctx, reason)
        if sigterm.complete() and ctx.accelerator.is_main:
            self._file.unlink(missing_ok=True)

    def _write_result(self, ctx: Context, reason: str) -> None:
        make, path = internals(ctx).make_result, self.result
        assert make is not None
        assert path is not None
        if ctx.accelerator.is_main or ctx.accelerator.is_sharded:
            fitted = make(ctx, reason)
            if ctx.accelerator.is_main:
                save(fitted, path)

    def _begin_part(self, ctx: Context, part: str) -> None:
        self._part, self._done = part, 0
        if self._resumes is not None:
            random = self._began_run.random
            before = random.state()
            with all_or_nothing(self.path, lambda: random.restore(before)):
                self._part_began = self._resumes["began"]
                random.restore(self._resumes["began"])
        else:
            self._part_began = self._began_run.random.state()

    def _save_in_epoch(self, ctx: Context) -> None:
        """Save a run that was stopped within an epoch, once."""
        between_batches = self._part in ("train", "valid") and not internals(ctx).is_cut_short
        if between_batches and self._resumes is None and is_resumable(ctx):
            self._save(ctx)
        self._part = ""

    def _content(self, ctx: Context) -> Values:
        run = self._began_run
        content = checkpoint_content(ctx)
        content["group_params"] = run.structure.checked_groups(ctx)
        states = ctx.accelerator.gather(run.random.state())
        content["resume"] = {
            "part": self._part,
            # Not `ctx.iter`: the end of a worker process may come between a batch and its hooks.
            "batches": self._done,
            "stopped": internals(ctx).stop.reason,
            "began": self._part_began,
            "pass_began": run.data_pass.began,
            "pass_done": run.data_pass.done,
            "now": states[0],
            "now_of_other_ranks": states[1:],
            "run": run_state(ctx, run.attributes.state(ctx, check=self._checked)),
            "data": data_state(ctx),
            "fingerprint": run.fingerprint,
            "opt_hparams": if_primitive(ctx.opt_hparams),
        }
        return content

    def _save(self, ctx: Context) -> None:
        content = self._content(ctx)
        if ctx.accelerator.is_main:
            container.write(self._file, container.CHECKPOINT, content)

    def _resume(self, ctx: Context, content: Values) -> None:
        run = self._began_run
        saved: Values = content["resume"]
        part: str = saved["part"]
        before = run.random.state()
        states = [saved["now"], *saved.get("now_of_other_ranks", [])]
        # Fewer processes may take larger batches.
        same_processes = ctx.accelerator.is_gathered_here(states)
        changed = self._changes(content, same_processes)
        check_fit(ctx, content, self.path, regroup=True)
        if part != "epoch" and "trail" in saved:
            raise LuzError(
                f"{self.path} was written in the middle of an epoch by luzpy 0.1.0, which this "
                "version cannot resume: finish the run with that version."
            )
        if part != "epoch" and not is_resumable(ctx):
            raise LuzError(
                f"{self.path} was written by one process in the middle of an epoch, and can "
                "only resume in one process."
            )
        same_rows = not {"data", "valid_data"} & {one.part for one in changed}
        restore_data(
            ctx,
            saved["data"],
            self.path,
            same_batches=same_processes and same_rows,
            same_rows=same_rows,
        )

        def restore() -> None:
            undo_checkpoint = undo_of(ctx)
            own = to_cpu_copy(run_state(ctx, run.attributes.state(ctx, check=False)))

            def undo() -> None:
                undo_checkpoint()
                restore_run_state(ctx, own)
                run.random.restore(before)

            with all_or_nothing(self.path, undo):
                restore_checkpoint(ctx, content, self.path, regroup=True)
                restore_run_state(ctx, saved["run"])
                apply_changes(ctx, changed, self.on_change, saved, run.fingerprint, run.groups)
                began_anew = part != "epoch" and not saved["batches"]
                state = saved["began"] if began_anew else ctx.accelerator.local_entry(states)
                if state is not None:  # the run may have had fewer processes
                    run.random.restore(state)
            ctx.iter = self._done = saved["batches"]
            self._resumes = None
            if internals(ctx).stop.reason:  # stopped on the way: the file is still the state
                self._part = ""

        internals(ctx).began = content.get("began", internals(ctx).began)  # it is the same run
        if ctx.verbose:
            print(f"Resuming after {described(content['epoch'], saved)}, from {self.path}")
        if part == "epoch":
            ctx.epoch = content["epoch"]
            run.data_pass.go_on(ctx, saved)
            restore()
            if saved.get("stopped") == EARLY:  # killed before it could return; all processes know
                internals(ctx).stop.request(EARLY)
            return
        ctx.epoch, self._resumes = content["epoch"] - 1, saved
        name, label = ("train_data", "data") if part == "train" else ("valid_data", "valid_data")
        run.data_pass.go_on(ctx, saved)
        done: int = saved["batches"]
        length = length_of(getattr(ctx, name))
        if length is not None and done > length:
            raise LuzError(
                f"{self.path} does not fit the run: it was written after {done} batches of an "
                f"epoch, this run has {length}."
            )
        if part == "train" and isinstance(ctx.train_data, Portions):
            if done == len(ctx.train_data):  # the batches are skipped in the next epoch
                ctx.train_data.end_first_epoch(restore)
                return
            done = run.data_pass.go_on_in_epoch(ctx.train_data, saved)
        skip(ctx, name, done, label, restore)

    def _changes(self, content: Values, same_processes: bool) -> list[Difference]:
        """What differs from the run that wrote the file, if the run may resume anyway."""
        saved: Values = content["resume"]
        if "fingerprint" not in saved:  # an earlier luzpy wrote it
            return []
        now = self._began_run.fingerprint
        changed = differences(saved["fingerprint"], now, same_processes=same_processes)
        check_changes(changed, self.on_change, saved, now, self.path)
        parts = {one.part for one in changed}
        if "metrics" in parts:  # at the end of an epoch they have nothing in flight
            kept = content["callbacks"]
            content["callbacks"] = [[n, {} if n == "Metrics" else state] for n, state in kept]
        if "loss" in parts:
            saved["run"] |= {"loss_module": None, "loss_attributes": {}}
        return changed

    def _end(self) -> None:
        sigterm = self._sigterm
        self._begin()
        sigterm.end()

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.AutoResume: {self.path}>"


@final
class _Run:
    """What is noted of a run as it begins."""

    def __init__(self, ctx: Context) -> None:
        self.fingerprint: Values = ctx.accelerator.broadcast(fingerprint(ctx))
        self.groups = initial_groups(ctx.optimizers)
        self.structure = Structure(ctx)
        self.attributes = Attributes(ctx)
        self.random = RandomStreams(ctx)
        self.data_pass = Pass(ctx, self.random)
