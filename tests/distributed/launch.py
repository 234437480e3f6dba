"""The launches that scenarios name, and the processes of a launch."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

from scenarios import SCENARIOS

BIN = Path(sysconfig.get_path("scripts"))
SECONDS = 900  # a run that takes longer hangs
PATIENCE = 60  # seconds in which the system takes the dead away


def torchrun(size):
    return [BIN / "torchrun", "--standalone", "--nproc_per_node", str(size)]


def accelerate_launch(precision):
    return [
        *(BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--main_process_port", "0"),
        *("--mixed_precision", precision, "--dynamo_backend", "no"),
    ]


LAUNCHERS = {
    "one": [sys.executable],
    "two": torchrun(2),
    "three": torchrun(3),
    "spread": torchrun(2),
    "bfloat16": accelerate_launch("bf16"),
    "accelerate": accelerate_launch("no"),
}


def start(launcher, folder, *functions):
    """A launcher's process, in a group of its own; what is said goes to FOLDER/said."""
    names = [SCENARIOS[function.__name__].name for function in functions]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [*map(str, launcher), str(Path(__file__).with_name("rank.py")), str(folder), *names],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            start_new_session=True,
        )


def end(process, folder, seconds=SECONDS):
    """The status of a launcher that ends in time, and with it, all processes of its run."""
    try:
        status = process.wait(seconds)
        until = time.monotonic() + PATIENCE
        while processes(folder) and time.monotonic() < until:
            time.sleep(0.05)
        assert processes(folder) == [], (folder / "said").read_text()[-5000:]
        return status
    finally:
        for left in processes(folder):
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        process.wait()


def processes(folder):
    """The processes of the run in a folder: each has it among its arguments."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if os.fsencode(folder) in arguments:
                found.append(int(pid))
    return found
