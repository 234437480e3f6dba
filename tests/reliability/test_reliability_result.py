"""The end of a run: nothing is lost between the last batch and what the script does next."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

import luzpy as luz

pytestmark = pytest.mark.reliability

SCRIPT = """
    import os, signal, sys, torch
    from torch import nn
    import luzpy as luz
    moment, result = sys.argv[1], sys.argv[2] == "result"
    told = []
    def tell():
        if not told:
            told.append(1)
            print("told to end", flush=True)
            os.kill(os.getpid(), signal.SIGKILL if moment == "kill" else signal.SIGTERM)
    def watch(event, args):
        if event == "os.remove" and str(args[0]).endswith("state.pt") and moment == "delete":
            tell()
    sys.addaudithook(watch)
    torch.manual_seed(int(sys.argv[3]))
    x = torch.arange(64.).reshape(32, 2) / 64
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, seed=1)
    model = model.set_hparams(in_features=2, out_features=1).set_opt_hparams(lr=0.1)
    resume = luz.callbacks.AutoResume("state.pt", result="net.luz" if result else None)
    hooks = {}
    if moment == "epoch" and not os.path.exists("state.pt"):
        hooks["on_epoch_end"] = lambda ctx: ctx.epoch == 2 and tell()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :1]), 8)
    fitted = model.fit(
        data, 3, [resume, luz.Callback.from_functions(**hooks)], verbose=False
    )
    print("returned", fitted.stopped, fitted.model.weight.tolist(), flush=True)
    if moment == "kill":
        tell()
    torch.save(fitted.model.state_dict(), "own.pt")
    print("saved", flush=True)
    import time
    time.sleep(20)
    print("still here", flush=True)
"""


def run(folder, moment, result="no", seed=1):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT), moment, result, str(seed)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_sigterm_while_the_state_is_deleted_waits_until_the_run_has_returned(tmp_path):
    done = run(tmp_path, "delete")
    said = done.stdout.splitlines()
    assert said[0] == "told to end"
    assert said[1].startswith("returned completed")
    assert said[2:] == ["saved"]
    assert done.returncode == -signal.SIGTERM  # it takes its way then
    assert files(tmp_path) == ["own.pt"]


def test_a_result_is_there_when_the_state_is_deleted(tmp_path):
    done = run(tmp_path, "kill", "result")
    assert done.returncode == -signal.SIGKILL
    assert "saved" not in done.stdout
    assert files(tmp_path) == ["net.luz"]
    fitted = luz.load(tmp_path / "net.luz")
    assert str(fitted.model.weight.tolist()) in done.stdout
    assert fitted.stopped == "completed"
    assert len(fitted.records["metrics"]["train"]) == 3


def test_a_run_that_was_stopped_writes_no_result_and_the_one_that_goes_on_does(tmp_path):
    done = run(tmp_path, "epoch", "result")
    assert done.returncode == 143
    assert files(tmp_path) == ["state.pt"]
    assert run(tmp_path, "kill", "result", seed=2).returncode == -signal.SIGKILL
    assert files(tmp_path) == ["net.luz"]
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    run(unbroken, "kill", "result")
    weights = [luz.load(folder / "net.luz").model.weight for folder in (tmp_path, unbroken)]
    assert torch.equal(*weights)
