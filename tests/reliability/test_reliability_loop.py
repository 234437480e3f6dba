"""A loop over learning rates, killed in its third fit and started again."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

import luzpy as luz

pytestmark = pytest.mark.reliability

RATES = (0.1, 0.01, 0.001)
SCRIPT = """
    import os, signal, sys, torch
    from torch import nn
    import luzpy as luz
    killed, seed, name = sys.argv[1] == "killed", int(sys.argv[2]), sys.argv[3]
    torch.manual_seed(seed)
    x = torch.arange(64.).reshape(32, 2) / 64
    data = torch.utils.data.TensorDataset(x, x[:, :1])
    def kill(ctx):
        print("batch", lr, ctx.epoch, ctx.iter, flush=True)
        if killed and (lr, ctx.epoch, ctx.iter) == (0.001, 2, 3):
            os.kill(os.getpid(), signal.SIGKILL)
    for lr in (0.1, 0.01, 0.001):
        if os.path.exists(f"net-{lr}.luz"):
            continue
        model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.Adam, seed=1)
        model = model.set_hparams(in_features=2, out_features=1).set_opt_hparams(lr=lr)
        resume = luz.callbacks.AutoResume(name.format(lr), 1, result=f"net-{lr}.luz")
        hooks = luz.Callback.from_functions(on_train_batch_begin=kill)
        model.fit(data, 3, [hooks, resume], verbose=False, batch_size=8)
"""


def run(folder, how, seed, name="run-{}.pt"):
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT), how, str(seed), name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_loop_that_is_killed_in_its_third_fit_ends_as_the_unbroken_one(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert run(unbroken, "whole", 1).returncode == 0
    assert run(broken, "killed", 1).returncode == -signal.SIGKILL
    assert files(broken) == ["net-0.01.luz", "net-0.1.luz", "run-0.001.pt"]
    again = run(broken, "whole", 99)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == "batch 0.001 2 3"  # where it was
    assert files(broken) == files(unbroken) == ["net-0.001.luz", "net-0.01.luz", "net-0.1.luz"]
    for rate in RATES:
        found, expected = (luz.load(f / f"net-{rate}.luz") for f in (broken, unbroken))
        assert torch.equal(found.model.weight, expected.model.weight)
        assert luz.get_metrics(found).equals(luz.get_metrics(expected))
        assert found.opt_hparams["lr"] == rate


def test_one_file_for_all_fits_of_a_loop_is_refused_when_it_is_started_again(tmp_path):
    folder = tmp_path / "one"
    assert run(folder, "killed", 1, "run.pt").returncode == -signal.SIGKILL
    for name in ("net-0.1.luz", "net-0.01.luz"):  # the script begins with its first fit again
        (folder / name).unlink()
    again = run(folder, "whole", 1, "run.pt")
    assert again.returncode == 1
    assert "lr 0.001, this run has 0.1" in again.stderr
    assert files(folder) == ["run.pt"]
