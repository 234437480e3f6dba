"""A run that is stopped and started again ends as one that never was, to the last bit."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import kill_grid
import pytest
import torch

import luzpy as luz

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.filterwarnings("ignore:Metric `Spearman"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

HERE = Path(__file__).parent
long_part = pytest.mark.skipif("LUZPY_SOAK" not in os.environ, reason="a part of `make soak`")
TRAIN, VALID = kill_grid.ROWS // kill_grid.BATCH, 4
IN_PROCESS = [name for name in kill_grid.GRID if "0 workers" in name]
WITH_WORKERS = [name for name in kill_grid.GRID if "2 workers" in name]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class CtrlC(luz.Callback):
    """Ctrl-C at a moment: the number of hooks of these kinds that have been called so far."""

    def __init__(self, moment):
        self.moment = moment

    def on_fit_begin(self, ctx):
        self.left = self.moment

    def tick(self, ctx):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    on_train_batch_end = on_valid_batch_end = on_epoch_end = tick


@pytest.fixture(scope="module")
def expected():
    """What the unbroken run of a name ends with; each is run once."""
    known = {}

    def find(name):
        if name not in known:
            known[name] = kill_grid.unbroken(name)[0]
        return known[name]

    return find


def stopped_and_resumed(name, folder, moments, every=None):
    """The outcome after a Ctrl-C at each of `moments`, counted from where the run goes on."""
    resume = luz.callbacks.AutoResume(folder / "state.pt", every)
    for seed, moment in enumerate(moments, start=1):
        found = kill_grid.run(name, folder, seed, resume, [CtrlC(moment)])
        if found["stopped"] != "interrupted":
            return found
        assert (folder / "state.pt").exists()
    # The weights, the order of the rows and every random number must come from the file.
    found = kill_grid.run(name, folder, 999, resume, [CtrlC(10**9)])
    assert not (folder / "state.pt").exists()
    return found


@pytest.mark.parametrize("name", IN_PROCESS)
def test_stopped_at_a_random_batch_again_and_again(name, tmp_path, expected):
    dice = random.Random(name)
    moments = [dice.randrange(1, 12) for _ in range(8)]
    assert stopped_and_resumed(name, tmp_path, moments) == expected(name)


@pytest.mark.parametrize("moment", [1, TRAIN, TRAIN + 1, TRAIN + VALID, TRAIN + VALID + 1])
def test_stopped_at_the_ends_of_training_validation_and_epoch(moment, tmp_path, expected):
    name = "by_batch, 0 workers"
    assert stopped_and_resumed(name, tmp_path, [moment] * 3) == expected(name)


@long_part
@pytest.mark.parametrize("name", IN_PROCESS)
def test_stopped_at_every_batch(name, tmp_path, expected):
    for moment in range(1, 2 * (TRAIN + VALID + 1)):
        folder = tmp_path / str(moment)
        assert stopped_and_resumed(name, folder, [moment]) == expected(name), moment


@pytest.mark.parametrize(
    "name", [WITH_WORKERS[0], *(pytest.param(n, marks=long_part) for n in WITH_WORKERS[1:])]
)
def test_stopped_at_random_batches_with_workers(name, tmp_path, expected):
    dice = random.Random(name)
    moments = [dice.randrange(1, 20) for _ in range(2)]
    assert stopped_and_resumed(name, tmp_path, moments) == expected(name)


def test_killed_at_random_moments(tmp_path):
    # the short part of `make soak`, which kills 400 times
    names = ["by_batch, 0 workers", "stream, 0 workers", "metrics, 0 workers"]
    script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import kill_grid as k; "
    script += f"found = k.soak(9, 60, 1, {names!r}); print(k.table(found)); "
    script += "print('faults', [t.faults for t in found.values()])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "faults [[], [], []]" in done.stdout, done.stdout
    kills = [int(n.strip(" *")) for n in done.stdout.split("| **all** |")[1].split("|")[:3]]
    assert sum(kills) >= 9
