"""Runs that are killed at random moments, and must end as if they had not been.

    python tests/reliability/kill_grid.py --kills 400 --minutes 14 --write docs/reliability.md

Every run of the grid is a real process, ended by a real SIGKILL or SIGTERM at a random moment,
and started again until it completes. What it ends with is compared, bit for bit, with a run
that nobody stopped: one without `AutoResume`, but for the runs in which the order of the rows is
drawn while the model draws too (`DRAWS_APART`). Whatever starts again is seeded anew, so that
nothing can be right because a script happens to seed itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torchmetrics
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset

import luzpy as luz
from luzpy.files.checkpoint import read_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does
import models

ROWS, COLUMNS, BATCH, EPOCHS = 56, 6, 8, 3
cb = luz.callbacks


# The grid ------------------------------------------------------------------------------------


def rows(n=ROWS, seed=0):
    x, y = models.line(n, COLUMNS, seed=seed)
    return x, (y > 0).float()


class Augmented(models.Rows):
    """Every row is changed by numbers of torch, NumPy and Python."""

    def __init__(self, n=ROWS, seed=0):
        super().__init__(*rows(n, seed))

    def augmented(self, x):
        noise = torch.rand(COLUMNS) + float(np.random.rand()) + random.random()
        return x + 0.1 * noise

    def __getitem__(self, index):
        return self.augmented(self.x[index]), self.y[index]


class OwnGenerator(Augmented):
    """The dataset draws from a generator of its own."""

    def __init__(self, n=ROWS, seed=0):
        super().__init__(n, seed)
        self.rng = np.random.default_rng(seed)
        self.draw = random.Random(seed)

    def augmented(self, x):
        return x + 0.1 * float(self.rng.normal()) + self.draw.random()


class Stream(IterableDataset):
    """Rows out of a buffer that is shuffled as it goes, with numbers of torch."""

    def __init__(self, n=ROWS, seed=0):
        self.rows = Augmented(n, seed)

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        step, first = (1, 0) if worker is None else (worker.num_workers, worker.id)
        buffer = []
        for index in range(first, len(self.rows), step):
            buffer.append(self.rows[index])
            if len(buffer) > 9:
                yield buffer.pop(int(torch.randint(len(buffer), ())))
        yield from buffer


class Net(models.Net):
    def __init__(self):
        super().__init__(COLUMNS, 16)


class Accumulating(Net):
    """Steps at every third batch, by a count of its own."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def step(self):
        ctx = self.ctx
        with ctx.autocast():
            ctx.pred = ctx.model(ctx.input)
            loss = ctx.loss_fn(ctx.pred, ctx.target)
        ctx.loss["opt"] = loss.detach()
        if ctx.training:
            self.batches += 1
            ctx.backward(loss)
            if self.batches % 3 == 0:
                ctx.optimizers["opt"].step()
                ctx.optimizers["opt"].zero_grad()


class Adversarial(nn.Module):
    """Two optimizers, each with a loss of its own."""

    def __init__(self):
        super().__init__()
        self.generator, self.critic = Net(), Net()

    def forward(self, x):
        fake = x + self.generator(x) + 0.1 * torch.randn_like(x)
        return self.critic(fake), self.critic(x)

    def loss(self, input, target):
        fake, real = input
        entropy = nn.functional.binary_cross_entropy_with_logits
        if self.ctx.opt_name == "generator":
            return entropy(fake, torch.ones_like(fake))
        return entropy(fake, torch.zeros_like(fake)) + entropy(real, target)

    def set_optimizers(self, lr=0.01):
        return {
            "generator": torch.optim.Adam(self.generator.parameters(), lr=lr),
            "critic": torch.optim.SGD(self.critic.parameters(), lr=lr, momentum=0.9),
        }


class Trembling(nn.Module):
    """Weights that move by chance alone, so that the best epoch is seldom the last one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(COLUMNS, 1))

    def forward(self, x):
        if self.training:
            return x @ (self.weight + torch.randn(COLUMNS, 1))
        return x @ self.weight


def mean_error(preds, target):
    return (preds - target).abs().mean()


def loaders(workers, dataset=Augmented, **options):
    options = {"batch_size": BATCH, "num_workers": workers} | options
    if not issubclass(dataset, IterableDataset):
        options |= {"shuffle": True}
    valid = {"batch_size": BATCH, "num_workers": workers}
    return {
        "data": DataLoader(dataset(), **options),
        "valid_data": DataLoader(dataset(30, 1), **valid),
    }


def spec(module=Net, loss=nn.BCEWithLogitsLoss, optimizer=torch.optim.Adam, metrics=None):
    return luz.setup(module, loss and loss(), optimizer, metrics).set_opt_hparams(lr=0.01)


def by_batch(workers, folder):
    total = EPOCHS * (ROWS // BATCH)
    schedule = cb.LRScheduler(
        lr_scheduler.OneCycleLR, 0.05, total_steps=total + 1, call_on="on_train_batch_end"
    )
    return spec(), loaders(workers), [schedule, cb.GradientClip()]


def by_epoch(workers, folder):
    chain = cb.LRScheduler(lr_scheduler.StepLR, 1, gamma=0.5)
    return spec(), loaders(workers), [chain, cb.LRScheduler(lr_scheduler.ReduceLROnPlateau)]


def two_optimizers(workers, folder):
    return spec(Adversarial, None, None), loaders(workers), []


def accumulation(workers, folder):
    return spec(Accumulating), loaders(workers), []


def several_batches_a_step(workers, folder):
    place = luz.Accelerator(cpu=True, accumulate=3)
    return spec(), loaders(workers) | {"accelerator": place}, [cb.GradientClip()]


def bf16(workers, folder):
    return spec(), loaders(workers), [cb.MixedPrecision()]


def best_and_early(workers, folder):
    stopping = cb.EarlyStopping(patience=1)
    files = cb.ModelCheckpoint(folder / "best-{epoch}.pt", save_best_only=True)
    model = spec(Trembling, nn.MSELoss, torch.optim.SGD)
    return model, loaders(workers), [stopping, cb.KeepBestModel(), files]


def metrics(workers, folder):
    chosen = luz.metrics.MetricSet(
        [luz.metrics.BinaryAccuracyWithLogits(), luz.metrics.RMSE(), mean_error],
        valid_metrics=[
            luz.metrics.BinaryAUROC(from_logits=True),
            torchmetrics.MetricCollection(
                [torchmetrics.MeanSquaredError(), torchmetrics.SpearmanCorrCoef()]
            ),
        ],
    )
    return spec(metrics=chosen), loaders(workers), [cb.CSVLogger(folder / "metrics.csv")]


def own_generators(workers, folder):
    generator = torch.Generator().manual_seed(3)
    return spec(), loaders(workers, OwnGenerator, generator=generator), []


def stream(workers, folder):
    return spec(), loaders(workers, Stream), []


def in_memory(workers, folder):
    options = {"batch_size": BATCH, "num_workers": workers}
    data = {"data": rows(), "valid_data": 0.25, "dataloader_options": options}
    return spec(), data, [cb.Mixup(auto_loss=True)]


def spawned(workers, folder):
    # Each of them takes seconds to start: one, and none for validation.
    data = loaders(0) | {"data": loaders(workers, multiprocessing_context="spawn")["data"]}
    return spec(), data, []


def learning_rates(workers, folder):
    # What is done is done again when the script starts again: seeds make it the same.
    model = luz.setup(Net, nn.BCEWithLogitsLoss(), torch.optim.Adam, seed=3)
    return [
        (model.set_opt_hparams(lr=lr), loaders(workers) | {"seed": index}, [])
        for index, lr in enumerate((0.1, 0.01, 0.001))
    ]


def threads(workers, folder):
    return [(spec(), loaders(workers), []), (spec(Accumulating), loaders(workers), [])]


GRID = {
    name: (make, workers)
    for make in (
        by_batch,
        by_epoch,
        two_optimizers,
        accumulation,
        several_batches_a_step,
        bf16,
        best_and_early,
        metrics,
        own_generators,
        stream,
        in_memory,
    )
    for workers in (0, 2)
    for name in [f"{make.__name__}, {workers} workers"]
} | {
    "a worker by spawn": (spawned, 1),
    "a loop over learning rates": (learning_rates, 0),
    "two fits in threads": (threads, 0),
}
"""What is run: name → (what makes it, worker processes)."""

DRAWS_APART = {"stream, 0 workers"}
"""The model draws from a stream of its own here, under `AutoResume`."""

IN_THREADS = "two fits in threads"
"""They draw from one random state: only what each of them has done can be compared."""


class Outcome(luz.Callback):
    """What the run ends with, down to the last bit."""

    weight = float("inf")

    def __init__(self):
        self.parts = {}

    def on_fit_end(self, ctx):
        optimizers = {name: opt.state_dict() for name, opt in ctx.optimizers.items()}
        self.parts = {
            "weights": digest(ctx.model.state_dict()),
            "optimizers": digest(optimizers),
            "metrics": digest(ctx.records["metrics"]),
            "epochs": len(ctx.records["metrics"]["train"]),
            "random": digest([torch.get_rng_state(), random.getstate()]),
        }


def digest(value):
    """A checksum of tensors and plain values."""
    found = hashlib.sha256()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += [part for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple)):
            stack += item
        elif isinstance(item, torch.Tensor):
            found.update(str(item.dtype).encode() + item.contiguous().numpy().tobytes())
        elif isinstance(item, float):
            found.update(struct.pack("d", item))
        else:
            found.update(repr(item).encode())
    return found.hexdigest()[:16]


def run(name, folder, seed, resume=None, callbacks=()):
    """Fit one of the grid; what it ended with. `resume` is an `AutoResume`, or None."""
    make, workers = GRID[name]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    made = make(workers, Path(folder))
    if isinstance(made, tuple):
        return fit_one(*made, resume, callbacks)
    own = [resume and beside(resume, index) for index in range(len(made))]
    if name != IN_THREADS:
        return {str(i): fit_one(*each, own[i], callbacks) for i, each in enumerate(made)}
    with ThreadPoolExecutor(len(made)) as pool:
        ended = [pool.submit(fit_one, *each, own[i], callbacks) for i, each in enumerate(made)]
        found = [one.result() for one in ended]
    return {str(i): [one["epochs"], one["stopped"], one["shapes"]] for i, one in enumerate(found)}


def beside(resume, index):
    """The same for another fit: a file of its own."""
    return cb.AutoResume(resume.path.with_name(f"state-{index}.pt"), resume.every_n_batches)


def fit_one(model, data, own, resume, callbacks):
    """Fit a model; what it ended with."""
    outcome = Outcome()
    extra = [*own, outcome, *callbacks, *([] if resume is None else [resume])]
    fitted = model.fit(epochs=EPOCHS, callbacks=extra, verbose=False, **data)
    weights = fitted.model.state_dict()
    return {
        **outcome.parts,
        "model": digest(weights),
        "shapes": [list(weight.shape) for weight in weights.values()],
        "stopped": fitted.stopped,
    }


# Killing -------------------------------------------------------------------------------------


def started(name, folder, seed, every):
    """Run one of the grid in a process of its own, the leader of its group."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        torch.set_num_threads(1)  # torch makes a new pool after a fork, not safely in two threads
        resume = cb.AutoResume(folder / "state.pt", every_n_batches=every)
        found = run(name, folder, seed, resume)
        beside = folder / "outcome.tmp"
        beside.write_text(json.dumps(found))
        beside.replace(folder / "outcome.json")
        status = 0
    except SystemExit as err:
        status = err.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child, within):
    """The exit status of a process if it ends `within` seconds, -n for signal n; else None."""
    deadline = time.monotonic() + within
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.001)


class Killed:
    """The tally of one of the grid."""

    def __init__(self):
        self.counts = Counter()
        self.faults = []


def kill_until_complete(name, expected, duration, dice, tally, most):
    """Start a run over and over, killing it at random moments at most `most` times."""
    folder = Path(tempfile.mkdtemp(prefix="luzpy-kill-"))
    every = dice.choice([None, 1, 2, 5])
    kills = 0
    try:
        while True:
            # What is not resumed begins as the unbroken run did; what is resumed must not need to.
            is_resumed = any(folder.glob("state*.pt"))
            child = started(name, folder, dice.randrange(2**31) if is_resumed else 1, every)
            within = dice.uniform(0, 1.2 * duration) if kills < most else 300
            status = ended(child, within)
            if status is not None:
                break
            how = dice.choice(["SIGKILL", "SIGTERM", "SIGTERM to the group"])
            number = signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM
            try:
                (os.killpg if "group" in how else os.kill)(child, number)
            except ProcessLookupError:  # it has not yet become the leader of its group
                os.kill(child, number)
            status = ended(child, 60)
            if status is None:
                os.kill(child, signal.SIGKILL)
                ended(child, 60)
                tally.faults.append(f"{how} did not end it within 60 s")
                return kills + 1
            if status == 0:  # it had ended by itself
                break
            kills += 1
            tally.counts[how] += 1
            allowed = {"SIGKILL": (-9,)}.get(how, (143, -15))
            if status not in allowed:
                tally.faults.append(f"{how} ended it with status {status}")
                return kills
            where = "before the first save"
            for state in sorted(folder.glob("state*.pt")):
                try:
                    where = read_checkpoint(state)["resume"]["part"]
                except luz.LuzError as err:
                    tally.faults.append(f"unreadable: {err}")
                    return kills
            tally.counts[where] += 1
        if status != 0:
            tally.faults.append(f"ended with status {status}")
            return kills
        found = json.loads((folder / "outcome.json").read_text())
        if found != expected:
            differ = [part for part in expected if found[part] != expected[part]]
            tally.faults.append(f"other {', '.join(differ)} after {kills} kills")
        tally.counts["resumed runs" if kills else "unbroken runs"] += 1
        left = [p.name for p in folder.iterdir() if p.name.endswith("partial")]
        left += [p.name for p in folder.glob("state*.pt")]
        if left:
            tally.faults.append(f"left behind: {left}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return kills


def unbroken(name):
    """What a run that nobody stops ends with, and how long it takes."""
    folder = Path(tempfile.mkdtemp(prefix="luzpy-kill-"))
    try:
        plain = run(name, folder, 1)
        begun = time.monotonic()
        kept = run(name, folder, 1, cb.AutoResume(folder / "state.pt", every_n_batches=2))
        return kept if name in DRAWS_APART else plain, time.monotonic() - begun
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def soak(kills, seconds, seed, names=None):
    """Kill the runs of the grid in turn; name → tally."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    deadline = time.monotonic() + seconds
    names = list(names or GRID)
    tallies = {name: Killed() for name in names}
    known = {}
    done = 0
    while done < kills and time.monotonic() < deadline:
        for name in names:
            if done >= kills or time.monotonic() >= deadline:
                break
            if name not in known:
                known[name] = unbroken(name)
            tally = tallies[name]
            done += kill_until_complete(name, *known[name], dice, tally, min(4, kills - done))
    return tallies


def soak_in_parallel(kills, seconds, seed, jobs, names):
    """`soak`, with the runs of these names dealt out to processes."""
    hands = [names[job::jobs] for job in range(jobs)]
    share = -(-kills // jobs)
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        parts = [pool.submit(soak, share, seconds, seed + i, hand) for i, hand in enumerate(hands)]
        found = {name: tally for part in parts for name, tally in part.result().items()}
    return {name: found[name] for name in names}


# The report ----------------------------------------------------------------------------------

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
COLUMNS_OF = [
    ("SIGKILL", "SIGKILL"),
    ("SIGTERM", "SIGTERM"),
    ("SIGTERM to the group", "SIGTERM, workers too"),
    ("train", "in training"),
    ("valid", "in validation"),
    ("epoch", "between epochs"),
    ("before the first save", "nothing saved yet"),
    ("resumed runs", "runs resumed to the end"),
]


def table(tallies):
    """The tallies as a table in Markdown."""
    lines = [
        "| run | " + " | ".join(title for _, title in COLUMNS_OF) + " | failed |",
        "| --- |" + " ---: |" * (len(COLUMNS_OF) + 1),
    ]
    total = Counter()
    for name, tally in tallies.items():
        total.update(tally.counts, failed=len(tally.faults))
        cells = [str(tally.counts[key]) for key, _ in COLUMNS_OF]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(tally.faults)} |")
    cells = [f"**{total[key]}**" for key, _ in [*COLUMNS_OF, ("failed", "")]]
    return "\n".join([*lines, f"| **all** | {' | '.join(cells)} |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="how many runs at a time")
    parser.add_argument("--only", nargs="+", choices=GRID, help="these runs of the grid")
    parser.add_argument("--write", type=Path, help="a Markdown file whose table is replaced")
    args = parser.parse_args()
    begun = time.monotonic()
    names = args.only or list(GRID)
    tallies = soak_in_parallel(args.kills, 60 * args.minutes, args.seed, args.jobs, names)
    report = table(tallies)
    minutes = (time.monotonic() - begun) / 60
    faults = [f"{name}: {fault}" for name, tally in tallies.items() for fault in tally.faults]
    kills = sum(tally.counts[how] for tally in tallies.values() for how, _ in COLUMNS_OF[:3])
    found = f"\n{kills} kills in {minutes:.1f} minutes, {len(faults)} failures"
    print(report, found, *faults, sep="\n")
    if args.write:
        text = args.write.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        versions = f"torch {torch.__version__}, seed {args.seed}"
        note = f"{kills} kills, {len(faults)} failures; {versions}."
        args.write.write_text(
            f"{before}{BEGIN}\n\n{report}\n\n{note}\n\n{END}{after}", encoding="utf-8"
        )
    sys.exit(1 if faults or kills < args.kills else 0)


if __name__ == "__main__":
    main()
