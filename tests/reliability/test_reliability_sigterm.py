"""SIGTERM, as clusters send it: the state is saved at the next batch, and the status is 143."""

import os
import subprocess
import sys
import textwrap

import pytest

from luzpy.files.checkpoint import read_checkpoint

pytestmark = pytest.mark.reliability
long_part = pytest.mark.skipif("LUZPY_SOAK" not in os.environ, reason="a part of `make soak`")

SCRIPT = """
    import os, signal, subprocess, sys, time, torch
    from torch import nn
    import luzpy as luz
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 64
        def __getitem__(self, index):
            if hook == "worker" and index == 40:
                time.sleep(0.5)  # until the run waits for this batch, the third
                print("told to end", flush=True)
                os.killpg(os.getpgid(0), signal.SIGTERM)
                time.sleep(30)
            return torch.ones(2) * index, torch.ones(1)
    hook, epoch, batch, workers, group, accumulate = sys.argv[1], *map(int, sys.argv[2:])
    def end(ctx):
        if (ctx.epoch, ctx.iter) == (epoch, batch):
            print("told to end", flush=True)
            if group:  # from outside, as clusters send it: workers end on another's signal
                kill = ["kill", "-TERM", "--", f"-{os.getpgid(0)}"]
                subprocess.run(kill, start_new_session=True)
                time.sleep(0.5)  # in which the workers die
            else:
                os.kill(os.getpid(), signal.SIGTERM)
    hooks = {} if hook == "worker" else {hook: end}
    hooks |= {"on_train_batch_end": lambda ctx: print("batch", ctx.iter, flush=True)}
    if hook == "on_fit_end":
        hooks = {hook: end}
    if hook == "on_train_batch_end":
        hooks[hook] = lambda ctx: (end(ctx), print("batch", ctx.iter, flush=True))
    torch.manual_seed(1)
    options = {"num_workers": workers, "prefetch_factor": 1 if workers else None}
    data = torch.utils.data.DataLoader(Rows(), 16, **options)
    model = luz.setup(lambda: nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD)
    resume = luz.callbacks.AutoResume("state.pt")
    place = luz.Accelerator(cpu=True, accumulate=accumulate)
    chosen = [resume, luz.Callback.from_functions(**hooks)]
    fitted = model.set_opt_hparams(lr=0.01).fit(data, 3, chosen, data, place, verbose=False)
    print("still here", flush=True)
"""


def told_to_end(folder, hook, epoch=2, batch=2, workers=0, group=0, accumulate=1):
    """Run a script that gets SIGTERM at a moment; its status, what it said, where it may go on."""
    arguments = [hook, *map(str, (epoch, batch, workers, group, accumulate))]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert "told to end" in done.stdout, done.stderr
    place = None
    if (folder / "state.pt").exists():
        found = read_checkpoint(folder / "state.pt")
        place = (found["resume"]["part"], found["epoch"], found["resume"]["batches"])
    return done.returncode, done.stdout.partition("told to end\n")[2], place


@pytest.mark.parametrize(
    ("hook", "options", "said", "place"),
    [
        ("on_train_batch_begin", {}, "batch 2\n", ("train", 2, 2)),
        ("on_valid_batch_begin", {}, "", ("valid", 2, 2)),
        # worker processes are told to end as well, and die
        ("on_train_batch_after_pred", {"workers": 2, "group": 1}, "batch 2\n", ("train", 2, 2)),
        pytest.param(
            "on_valid_batch_end", {"workers": 2, "group": 1}, "", ("valid", 2, 2), marks=long_part
        ),
        # when all is done but the end, the last epoch is kept
        ("on_fit_end", {"epoch": 3, "batch": 4}, "", ("epoch", 3, 4)),
    ],
)
def test_sigterm_saves_at_the_next_batch_and_ends_with_143(tmp_path, hook, options, said, place):
    assert told_to_end(tmp_path, hook, **options) == (143, said, place)


@long_part
@pytest.mark.parametrize(("accumulate", "done"), [(1, 2), (2, 1)])  # 2: it fetches one ahead
def test_sigterm_to_all_while_the_run_waits_for_a_worker(tmp_path, accumulate, done):
    status, _, place = told_to_end(tmp_path, "worker", workers=2, accumulate=accumulate)
    assert (status, place) == (143, ("train", 1, done))
