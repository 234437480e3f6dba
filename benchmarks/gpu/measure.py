"""Times the contestants of every row with the device's own events."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks.gpu.contestants import CONTESTANTS, Go, LeftOutError
from benchmarks.gpu.workloads import MAKERS, VARIANTS, Work

ROUNDS = {"bare loop": 3, "luzpy": 3}  # of the others, one
PROFILED = 10  # batches an epoch: torch's profiler takes seconds for each hundred
# Losses of the same training, in float32 and after a few steps.
TOLERANCE = 0.05


@dataclass
class Row:
    """What a verb took on one piece of work.

    Attributes:
        milliseconds: Contestant → round by round.
        losses: Contestant → what it came to.
        busy: Contestant → the share of the time in which the device computed; of some rows only.
        missing: Contestant → why it was not measured.
    """

    verb: str
    work: Work
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def ratio(self, contestant: str) -> float:
        """How many times as long as the bare loop, round by round: the median."""
        base = self.milliseconds["bare loop"]
        pairs = zip(self.milliseconds[contestant], base, strict=False)
        return median(own / its for own, its in pairs)


def rows(short: bool) -> Iterator[Row]:
    """All rows, the most telling first: time may run out."""
    sizes: dict[str, Any] = {}
    if short:
        sizes = {"rows": 8, "epochs": 1, "batch_size": 4, "steps": 5, "backend": "eager"}
    for name in MAKERS:
        yield Row("fit", Work(name, **sizes))
    for verb in ("lr_finder", "predict"):
        for name in MAKERS:
            yield Row(verb, Work(name, **sizes))
    fewer = {} if short else {"epochs": 3}
    loaded = Work("LeNet", workers=1 if short else 4, **(sizes | fewer))
    for name in MAKERS:
        for variant in VARIANTS[1:]:
            if (name, variant) != ("transformer", "channels last"):
                yield Row("fit", Work(name, variant, **sizes))
            if (name, variant) == ("LeNet", "bf16"):
                yield Row("fit", loaded)


def measure(device: torch.device, short: bool, seconds: float) -> Iterator[Row]:
    """The rows, one after another, until the time is over."""
    until = time.monotonic() + seconds
    for row in rows(short):
        for contestant, prepare in CONTESTANTS[row.verb].items():
            try:
                few = replace(row.work, rows=2 * row.work.batch_size, epochs=1)
                prepare(few, device)()  # warms up: kernels are chosen, and compiled
            except LeftOutError:
                row.missing[contestant] = ""
            except Exception as err:
                if contestant in ("bare loop", "luzpy"):
                    raise
                row.missing[contestant] = f"{type(err).__name__}: {err}".splitlines()[0]
        present = [name for name in CONTESTANTS[row.verb] if name not in row.missing]
        row.missing = {name: why for name, why in row.missing.items() if why}
        for round_number in range(1 if short else max(ROUNDS.values())):
            if round_number and time.monotonic() > until:
                break
            for contestant in present:
                if round_number >= ROUNDS.get(contestant, 1):
                    continue
                print(f"  {contestant} …", file=sys.stderr, flush=True)
                took, row.losses[contestant] = timed_row(row, contestant, device)
                row.milliseconds.setdefault(contestant, []).append(took)
        if row.verb == "fit" and row.work.variant == "fp32" and row.work.workers is None:
            for contestant in ("bare loop", "luzpy"):
                row.busy[contestant] = busy_share(row, contestant, device)
        ours, bare = row.losses["luzpy"], row.losses["bare loop"]
        assert math.isfinite(ours), row
        if row.verb != "fit":  # `fit` tells the mean loss of its last epoch
            assert math.isclose(ours, bare, rel_tol=TOLERANCE), row
        yield row
        if time.monotonic() > until:
            return


def timed_row(row: Row, contestant: str, device: torch.device) -> tuple[float, float]:
    """Milliseconds of the work, and the result; without the time in which a model is compiled."""
    prepare, work = CONTESTANTS[row.verb][contestant], row.work
    if not work.is_compiled or work.epochs == 1:
        return timed(prepare(work, device), device)
    few, _ = timed(prepare(replace(work, epochs=1), device), device)
    more, result = timed(prepare(replace(work, epochs=work.epochs + 1), device), device)
    return more - few, result


def busy_share(row: Row, contestant: str, device: torch.device) -> float:
    """The share of the time in which the device computes or copies, once all is set up."""
    few, more = (
        busy(CONTESTANTS[row.verb][contestant](part, device), device)
        for part in (
            replace(row.work, rows=PROFILED * row.work.batch_size, epochs=epochs)
            for epochs in (1, 3)
        )
    )
    batches = row.work.epochs * row.work.rows // row.work.batch_size
    return (more - few) / (2 * PROFILED) * batches / median(row.milliseconds[contestant])


def busy(go: Go, device: torch.device) -> float:
    """Milliseconds that the device spends in kernels and copies, as the profiler sees them."""
    with torch.profiler.profile() as profiler:
        go()
        torch.accelerator.synchronize(device)
    microseconds = sum(
        event.self_device_time_total
        for event in profiler.key_averages()
        if event.device_type != DeviceType.CPU and not event.is_user_annotation
    )
    return microseconds / 1e3


def timed(go: Go, device: torch.device) -> tuple[float, float]:
    """Milliseconds by the device's clock, and the result."""
    begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    torch.accelerator.synchronize(device)
    begin.record()
    result = go()
    end.record()
    torch.accelerator.synchronize(device)
    return begin.elapsed_time(end), result
