"""Which scenarios each launch runs, and how it is launched."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

SCENARIOS = Path(__file__).with_name("scenarios.py")
BIN = Path(sysconfig.get_path("scripts"))
SECONDS = 900  # a run that takes longer hangs
PATIENCE = 60  # seconds in which the system takes the dead away

DATA = (
    *("in_memory", "ragged", "dataset", "dataset_with_worker", "weighted_sampler", "few_rows"),
    *("own_batch_sampler", "own_loader", "shuffled_loader", "iterable", "iterable_drop_last"),
    *("in_batches_already", "dict_batches", "parts_of_other_lengths", "collated_by_hand"),
)
STEPS = (
    *("accumulated", "large_batch", "accumulated_and_clipped", "clipped", "accumulated_own_loss"),
)
MODELS = (
    *("own_loss", "own_step", "two_optimizers", "two_dtypes", "frozen", "unfrozen", "stranger"),
    *("loss_over_rows", "extra_state"),
)
METRICS = (
    *("binary_metrics", "one_class_a_rank", "class_metrics", "class_metrics_of_few"),
    "metrics_in_training",
)
FINDER = (
    *("finder_plain", "finder_one_epoch", "finder_ragged", "finder_validated", "finder_iterable"),
    *("finder_several_runs", "finder_accumulated", "finder_one_rank_diverges", "finder_diverges"),
    *("finder_loss_raises", "finder_loss_raises_on_one_rank"),
)
CALLBACKS = (
    *("resumed_from_checkpoint", "schedules", "stopped_early", "stopped_by_a_number_of_each_rank"),
)
PRECISION = (
    *("bfloat16", "bfloat16_by_callback", "bfloat16_twice", "float16_clipped", "two_precisions"),
    "float16_skipped_step",
)
OTHERS = (
    *("seedless", "accumulation_refused", "dropout", "batch_norm", "batch_norm_own_loss"),
    *("sync_batch_norm", "main_rank_alone", "printed", "no_checkpoint", "one_rank_interrupted"),
    *("one_rank_interrupted_in_finder", "finder_leaves_no_trace", "refused", "engines_refused"),
    *("each_alone", "goes_on", "unbroken", "unused_parameter", "spread", "closure_refused"),
)
ALL = (*DATA, *STEPS, *MODELS, *METRICS, *FINDER, *CALLBACKS, *PRECISION, *OTHERS)
RUNS = {
    "one": ("goes_on_with_larger_batches", *ALL),
    "two": tuple(name for name in ALL if name != "spread"),
    "three": (
        *("in_memory", "ragged", "dataset", "iterable", "few_rows", "weighted_sampler", "goes_on"),
        *("accumulated", "two_optimizers", "stranger", "binary_metrics", "class_metrics_of_few"),
        *("own_step", "loss_over_rows", "collated_by_hand", "parts_of_other_lengths"),
        *("seedless", "stopped_early", "finder_plain", "finder_ragged", "dropout"),
        *("finder_one_rank_diverges", "finder_loss_raises_on_one_rank", "one_rank_interrupted"),
    ),
    "spread": ("spread", "spread_refused"),
    "bfloat16": ("launchers_precision",),
    "accelerate": ("engine", "in_memory", "ragged", "binary_metrics", "finder_plain", "seedless"),
}


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


def start(launcher, folder, names):
    """A launcher's process, in a group of its own; what is said goes to FOLDER/said."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            [*map(str, launcher), str(SCENARIOS), str(folder), *names],
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
