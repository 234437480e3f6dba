"""Resuming a killed run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import final

import torch
from torch.utils.data import DataLoader

from luzpy.core.callback import Callback
from luzpy.core.context import Context, at_exit, internals
from luzpy.core.modules import named_parts, unwrapped
from luzpy.data.batches import draws_as_it_goes
from luzpy.data.portions import Portions
from luzpy.files import container
from luzpy.files.atomic import check_writable, real_path
from luzpy.files.checkpoint import (
    check_fit,
    checkpoint_content,
    group_parameters,
    read_checkpoint,
    restore_checkpoint,
)
from luzpy.files.saving import save
from luzpy.ground.arguments import check_choice, check_count
from luzpy.ground.errors import LuzError
from luzpy.ground.primitives import find_unsupported, from_primitives, if_primitive, to_primitives
from luzpy.ground.random_state import (
    RandomState,
    generator_state,
    generators_in,
    set_generator_state,
)
from luzpy.ground.reachable import reachable
from luzpy.ground.types import Batch, Values
from luzpy.resume.attributes import Attributes
from luzpy.resume.changes import KEEP, USE, Groups, apply_changes, check_changes, initial_groups
from luzpy.resume.data_state import DATA, data_state, restore_data
from luzpy.resume.fingerprint import Difference, differences, fingerprint
from luzpy.resume.loader import ResumableLoader
from luzpy.resume.run_state import restore_run_state, run_state
from luzpy.resume.sigterm import Sigterm

TERMINATED = "terminated"
EARLY = "early stopping"
# A run that has ended so needs no file any more.
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
        self._done = 0  # batches of this part that every callback has seen the end of
        self._part_began: Values | None = None
        self._resumes: Values | None = None  # what was saved, until the run is where it was
        self._train_data: Iterable[Batch] | None = None
        # Of a pass through the data that may outlast an epoch.
        self._pass_began: Values | None = None
        self._pass_done = 0
        self._pass_resumes: Values | None = None  # the state that it began with
        self._before_pass: Values = {}
        self._checked = False
        self._generators: Values = {}
        self._stateful: Values = {}
        self._fingerprint: Values = {}
        self._groups: Groups = {}
        self._structure: Values = {}
        self._attributes: Attributes | None = None
        self._sigterm = Sigterm()

    def on_fit_begin(self, ctx: Context) -> None:
        self._begin()
        if self.every_n_batches is not None and not _is_resumable(ctx):
            raise ValueError(
                f"`every_n_batches` must be None with several processes, got "
                f"{self.every_n_batches!r}: their runs resume at the end of an epoch."
            )
        _check_workers(ctx)
        self._fingerprint = ctx.accelerator.broadcast(fingerprint(ctx))
        self._groups = initial_groups(ctx.optimizers)
        self._structure = _structure(ctx)
        self._attributes = Attributes(ctx)
        self._stateful = _stateful_in({name: getattr(ctx, name) for name in DATA.values()})
        self._generators = generators_in(_generator_owners(ctx), (Context,))
        for name in DATA.values():
            loader = getattr(ctx, name)
            if loader is not None and _is_resumable(ctx) and draws_as_it_goes(loader):
                _wrap(ctx, name)
        if isinstance(ctx.train_data, Portions):
            ctx.train_data.before_pass = self._begin_pass
        at_exit(ctx, self._end)
        self._sigterm.listen(lambda: ctx.stop(TERMINATED))
        # Before any callback's `on_fit_end`: the state is that after the last batch.
        cut_short = Callback.from_functions(
            weight=float("-inf"), on_interrupt=self._save_in_epoch, on_fit_end=self._save_in_epoch
        )
        ctx.callbacks = [cut_short, *ctx.callbacks]
        content = ctx.accelerator.broadcast_from_main(self._read)
        if content is not None:
            self._resume(ctx, content)

    def on_epoch_begin(self, ctx: Context) -> None:
        if self._resumes is not None and self._resumes["part"] == "valid":
            self._train_data, ctx.train_data = ctx.train_data, None  # this epoch's is done

    def on_train_begin(self, ctx: Context) -> None:
        self._begin_part(ctx, "train")

    def on_train_batch_end(self, ctx: Context) -> None:
        self._done = ctx.iter
        if isinstance(ctx.train_data, Portions):
            self._pass_done = ctx.train_data.done
        first, self._checked = not self._checked, True
        every = self.every_n_batches
        if every is not None and ctx.iter % every == 0:
            self._save(ctx)
        elif first and _is_resumable(ctx):
            self._content(ctx)  # what cannot be kept is an error at once, not after an epoch

    def on_valid_begin(self, ctx: Context) -> None:
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
            self._part_began = self._resumes["began"]
            self._restore_random(self._resumes["began"])
        else:
            self._part_began = self._random_state()

    def _begin_pass(self) -> None:
        """Note the random state from which a pass through the data draws its order."""
        resumes, self._pass_resumes = self._pass_resumes, None
        if resumes is None:
            self._pass_began, self._pass_done = self._random_state(), 0
        elif self._pass_done:  # the first batches are passed over from the state of then
            self._before_pass = self._random_state()
            self._restore_random(resumes)

    def _end_skipping(self) -> None:
        self._restore_random(self._before_pass)

    def _save_in_epoch(self, ctx: Context) -> None:
        """Save a run that is stopped within an epoch, once."""
        between_batches = self._part in ("train", "valid") and not internals(ctx).is_cut_short
        if between_batches and self._resumes is None and _is_resumable(ctx):
            self._save(ctx)
        self._part = ""

    def _content(self, ctx: Context) -> Values:
        assert self._attributes is not None
        content = checkpoint_content(ctx)
        content["group_params"] = self._checked_groups(ctx)
        states = ctx.accelerator.gather(self._random_state())
        content["resume"] = {
            "part": self._part,
            # Not `ctx.iter`: the end of a worker process may come between a batch and its hooks.
            "batches": self._done,
            "stopped": internals(ctx).stop.reason,
            "began": self._part_began,
            "pass_began": self._pass_began,
            "pass_done": self._pass_done,
            "now": states[0],
            "now_of_other_ranks": states[1:],
            "run": run_state(ctx, self._attributes.state(ctx, check=self._checked)),
            "data": data_state(ctx),
            "fingerprint": self._fingerprint,
            "opt_hparams": if_primitive(ctx.opt_hparams),
        }
        return content

    def _checked_groups(self, ctx: Context) -> Values:
        """The names of the parameters in each group of each optimizer.

        Raises:
            LuzError: If the run has changed something that a resumed run could not recreate.
        """
        began, now = self._structure, _structure(ctx)
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

    def _save(self, ctx: Context) -> None:
        content = self._content(ctx)
        if ctx.accelerator.is_main:
            container.write(self._file, container.CHECKPOINT, content)

    def _read(self) -> Values | None:
        if not self._file.is_dir():
            check_writable(self._file)
        if self.result is not None:
            check_writable(self.result)
        if not self._file.exists():
            return None
        content = read_checkpoint(self._file)
        if not isinstance(content.get("resume"), dict):
            raise LuzError(
                f"{self.path} is a checkpoint without a position to resume from: it was not "
                "written by AutoResume."
            )
        return content

    def _resume(self, ctx: Context, content: Values) -> None:
        saved: Values = content["resume"]
        part: str = saved["part"]
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
        if part != "epoch" and not _is_resumable(ctx):
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
            restore_checkpoint(ctx, content, self.path, regroup=True)
            restore_run_state(ctx, saved["run"])
            now, groups = self._fingerprint, self._groups
            apply_changes(ctx, changed, self.on_change, saved, now, groups)
            began_anew = part != "epoch" and not saved["batches"]
            state = saved["began"] if began_anew else ctx.accelerator.local_entry(states)
            if state is not None:  # the run may have had fewer processes
                self._restore_random(state)
            ctx.iter = self._done = saved["batches"]
            self._resumes = None
            if internals(ctx).stop.reason:  # stopped on the way: the file is still the state
                self._part = ""

        internals(ctx).began = content.get("began", internals(ctx).began)  # it is the same run
        if ctx.verbose:
            print(f"Resuming after {_described(content['epoch'], saved)}, from {self.path}")
        if part == "epoch":
            ctx.epoch = content["epoch"]
            self._go_on_in_pass(ctx, saved)
            restore()
            if saved.get("stopped") == EARLY:  # killed before it could return; all processes know
                internals(ctx).stop.request(EARLY)
            return
        ctx.epoch, self._resumes = content["epoch"] - 1, saved
        name, label = ("train_data", "data") if part == "train" else ("valid_data", "valid_data")
        self._go_on_in_pass(ctx, saved)
        done: int = saved["batches"]
        if part == "train" and isinstance(ctx.train_data, Portions):
            if done == len(ctx.train_data):  # the batches are passed over in the next epoch
                ctx.train_data.end_first_epoch(restore)
                return
            self._pass_began = self._pass_resumes = saved["pass_began"] or saved["began"]
            ctx.train_data.go_on(saved["pass_done"], done)
            done = saved["pass_done"]
        _skip(ctx, name, done, label, restore)

    def _go_on_in_pass(self, ctx: Context, saved: Values) -> None:
        """Start the next epoch of training where the last one ended in the data."""
        if not isinstance(ctx.train_data, Portions) or not saved["pass_done"]:
            return
        self._pass_began, self._pass_done = saved["pass_began"], saved["pass_done"]
        self._pass_resumes = self._pass_began
        ctx.train_data.go_on(self._pass_done, 0)
        _skip(ctx, "train_data", self._pass_done, "data", self._end_skipping)

    def _changes(self, content: Values, same_processes: bool) -> list[Difference]:
        """What differs from the run that wrote the file, if the run may resume anyway."""
        saved: Values = content["resume"]
        if "fingerprint" not in saved:  # an earlier luzpy wrote it
            return []
        now = self._fingerprint
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

    def _random_state(self) -> Values:
        """Every random state that the run's data and model draw from."""
        generators = {where: generator_state(g) for where, g in self._generators.items()}
        asked = {where: to_primitives(o.state_dict()) for where, o in self._stateful.items()}
        unsupported = find_unsupported(asked)
        if unsupported is not None:
            raise LuzError(
                "A dataset or sampler must have a state of tensors and primitive values, got "
                f"{unsupported}."
            )
        return {
            "global": RandomState.current().to_primitives(),
            "own": generators,
            "stateful": asked,
        }

    def _restore_random(self, state: Values) -> None:
        for where, generator in self._generators.items():
            if where in state["own"]:
                set_generator_state(generator, state["own"][where])
        for where, owner in self._stateful.items():
            if where in state.get("stateful", {}):
                owner.load_state_dict(from_primitives(state["stateful"][where]))
        RandomState.from_primitives(state["global"]).restore()

    def __repr__(self) -> str:
        return f"<luzpy.callbacks.AutoResume: {self.path}>"


def _check_workers(ctx: Context) -> None:
    """Raise if worker processes outlive an epoch: their state could not be restored."""
    for name, argument in (("train_data", "data"), ("valid_data", "valid_data")):
        if getattr(getattr(ctx, name), "persistent_workers", False):
            raise LuzError(
                f"`{argument}` must have persistent_workers=False with AutoResume, got True: "
                "workers that outlive an epoch take their random states along, and a resumed "
                "run would see other rows."
            )


def _skip(ctx: Context, name: str, done: int, label: str, restore: Callable[[], None]) -> None:
    """Make a loader of the run skip the batches that are done."""
    _wrap(ctx, name).resume_at(done, label, restore, lambda: bool(internals(ctx).stop.reason))


def _wrap(ctx: Context, name: str) -> ResumableLoader:
    """Put a loader around the run's, which can pass over batches."""
    outer = getattr(ctx, name)
    loader = outer.loader if isinstance(outer, Portions) else outer
    if not isinstance(loader, ResumableLoader):
        loader = ResumableLoader(loader)
    if isinstance(outer, Portions):
        outer.loader = loader
    else:
        setattr(ctx, name, loader)
    return loader


def _is_resumable(ctx: Context) -> bool:
    """Whether the run can go on in the middle of an epoch."""
    return getattr(ctx.train_data, "resumable", True)


def _described(epoch: int, saved: Values) -> str:
    if saved["part"] == "epoch":
        return f"epoch {epoch}"
    kind = "training" if saved["part"] == "train" else "validation"
    return f"{kind} batch {saved['batches']} of epoch {epoch}"


def _generator_owners(ctx: Context) -> Values:
    """What may hold random generators."""
    owners: Values = {"train_data": ctx.train_data, "valid_data": ctx.valid_data}
    for name, part in named_parts(unwrapped(ctx.model)):
        # Not the part itself, which holds its parents.
        owners[f"model.{name}"] = {n: g for n, g in vars(part).items() if not n.startswith("_")}
    owners |= {"model": unwrapped(ctx.model), "loss": ctx.loss_fn}
    owners |= {f"optimizers.{name}": optimizer for name, optimizer in ctx.optimizers.items()}
    for callback in ctx.callbacks:  # others may come and go
        kind = type(callback).__name__
        owners[f"callbacks.{kind}.{sum(kind in name for name in owners)}"] = callback
    return owners


def _structure(ctx: Context) -> Values:
    """What the model and the optimizers of a resumed run must have."""
    return {"model": {*unwrapped(ctx.model).state_dict()}, "groups": group_parameters(ctx)}


def _has_state(item: object) -> bool:
    kind = type(item)
    apart = (DataLoader, ResumableLoader, torch.nn.Module, torch.optim.Optimizer)
    has_both = hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict")
    return has_both and not issubclass(kind, apart)


def _stateful_in(loaders: Values) -> Values:
    """The datasets, samplers and what they hold that have a `state_dict`, by where they are.

    Not loaders, whose place in the data is luzpy's to know, and not modules, whose weights do not
    change with the data.
    """
    return {
        where: item
        for where, item in reachable(loaders, (Context, torch.nn.Module, torch.optim.Optimizer))
        if _has_state(item)
    }
