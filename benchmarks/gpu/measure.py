"""Times the contestants of every row with the device's own events."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.contestants import CONTESTANTS, Go
from benchmarks.gpu.workloads import VARIANTS, Work

# Losses of the same training, in float32 and after a few steps.
TOLERANCE = 0.05


@dataclass
class Row:
    """What a verb took on one piece of work.

    Attributes:
        milliseconds: Contestant → round by round.
        losses: Contestant → what it came to.
        missing: Contestant → why it was not measured.
    """

    verb: str
    work: Work
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
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
    for name in ("LeNet", "transformer"):
        for variant in VARIANTS:
            if (name, variant) != ("transformer", "channels last"):
                yield Row("fit", Work(name, variant, **sizes))
    for name in ("LeNet", "transformer"):
        yield Row("lr_finder", Work(name, **sizes))
        yield Row("predict", Work(name, **sizes))
    for name in ("LeNet", "transformer"):
        fewer = {} if short else {"epochs": 5}
        yield Row("fit", Work(name, workers=1 if short else 4, **(sizes | fewer)))


def measure(device: torch.device, short: bool, seconds: float) -> Iterator[Row]:
    """The rows, one after another, until the time is over."""
    until = time.monotonic() + seconds
    for row in rows(short):
        for contestant, prepare in CONTESTANTS[row.verb].items():
            try:
                few = replace(row.work, rows=2 * row.work.batch_size, epochs=1)
                prepare(few, device)()  # warms up: kernels are chosen, and compiled
            except Exception as err:
                if contestant in ("bare loop", "luzpy"):
                    raise
                row.missing[contestant] = f"{type(err).__name__}: {err}".splitlines()[0]
        present = [name for name in CONTESTANTS[row.verb] if name not in row.missing]
        for round_number in range(1 if short else 3):
            if round_number and time.monotonic() > until:
                break
            for contestant in present:
                go = CONTESTANTS[row.verb][contestant](row.work, device)
                took, row.losses[contestant] = timed(go, device)
                row.milliseconds.setdefault(contestant, []).append(took)
        ours, bare = row.losses["luzpy"], row.losses["bare loop"]
        assert math.isfinite(ours), row
        if row.verb != "fit":  # `fit` tells the mean loss of its last epoch
            assert math.isclose(ours, bare, rel_tol=TOLERANCE), row
        yield row
        if time.monotonic() > until:
            return


def timed(go: Go, device: torch.device) -> tuple[float, float]:
    """Milliseconds by the device's clock, and the result."""
    begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    torch.accelerator.synchronize(device)
    begin.record()
    result = go()
    end.record()
    torch.accelerator.synchronize(device)
    return begin.elapsed_time(end), result
