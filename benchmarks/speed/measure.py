"""Runs contestants, each in a fresh process with a terminal of its own, one round after another.

Nothing here imports torch: Linux counts the memory of the parent in the peak of its child.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import ROOT
from benchmarks.speed.rows import ROWS, Row

# Results agree bit for bit where the arithmetic is the same; Keras' optimizers and torch.compile
# round otherwise.
TOLERANCE = 1e-4


@dataclass
class Outcome:
    """What a contestant took, round by round.

    Attributes:
        seconds: Of its work.
        peaks: Peak memory of its process, in MiB.
        missing: Why it could not run, if it could not.
    """

    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    missing: str = ""


def run_row(name: str, rounds: int) -> dict[str, Outcome]:
    """All contestants of a row, interleaved round by round.

    Raises:
        AssertionError: If a contestant's result is not that of the row's base.
    """
    row = ROWS[name]
    outcomes = {contestant: Outcome() for contestant in row.contestants}
    results: dict[str, float | None] = {}
    for contestant in _schedule(row, rounds):
        outcome = outcomes[contestant]
        if outcome.missing:
            continue
        found = run_contestant(name, contestant, row.threads)
        if "missing" in found:
            outcome.missing = found["missing"]
            continue
        results[contestant] = found["result"]
        outcome.seconds.append(found["seconds"])
        outcome.peaks.append(found["peak"])
        _check_result(row, contestant, results)
        print(f"  {contestant:32s} {found['seconds']:8.4f} s  {found['peak']:6.0f} MiB", flush=True)
    return outcomes


def _schedule(row: Row, rounds: int) -> Iterator[str]:
    for round_number in range(min(rounds, row.most_rounds)):
        for contestant in row.contestants:
            if round_number < row.peer_rounds or not contestant.startswith("peers."):
                yield contestant


def _check_result(row: Row, contestant: str, results: dict[str, float | None]) -> None:
    expected, found = results[row.base], results[contestant]
    if expected is None or contestant in row.differ:
        return
    assert found is not None, f"{contestant} gave no result"
    assert math.isclose(found, expected, rel_tol=TOLERANCE), (
        f"{contestant} ends at {found!r}, {row.base} at {expected!r}"
    )


def run_contestant(row: str, contestant: str, threads: int) -> dict[str, Any]:
    """What `benchmarks.speed.contestant` says of one run of one contestant.

    Raises:
        RuntimeError: If it fails; with all that it printed.
    """
    command = ["-m", "benchmarks.speed.contestant", row, contestant]
    with tempfile.TemporaryDirectory() as scratch:
        return in_terminal(command, threads, scratch)


def in_terminal(command: list[str], threads: int, scratch: str) -> dict[str, Any]:
    """Run Python with `command` and a pipe's descriptor in a terminal; what came through the pipe.

    Progress bars are drawn only where somebody could see them, and must cost here what they cost.
    """
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    receive, send = os.pipe()
    printed: list[bytes] = []
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "TERM": "xterm",
    }
    process = subprocess.Popen(
        [sys.executable, *command, str(send)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        pass_fds=[send],
        env=environment,
        cwd=scratch,  # some packages write checkpoints there
        start_new_session=True,
    )
    os.close(terminal)
    os.close(send)
    reader = threading.Thread(target=_drain, args=(main, printed))
    reader.start()
    with os.fdopen(receive, "rb") as pipe:
        answer = pipe.read()
    code = process.wait()
    reader.join()
    os.close(main)
    if code or not answer:
        text = b"".join(printed).decode(errors="replace")
        raise RuntimeError(f"{' '.join(command)} failed with code {code}:\n{text[-4000:]}")
    return json.loads(answer)


def _drain(descriptor: int, into: list[bytes]) -> None:
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            return
        if not chunk:
            return
        into.append(chunk)
