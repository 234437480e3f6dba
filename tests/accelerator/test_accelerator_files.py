"""Files written from the accelerator, read there, on the CPU, and where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparison import SEED, assert_same, devices, outcome
from models import Net, regression, unrelated
from torch import nn

import luzpy as luz
from luzpy.ground.random_state import RandomState

DATA = unrelated(200, 4)
NEW = unrelated(20, 4, seed=9)[0]
BATCHES = 6
KINDS = ["result", "weights", "checkpoint", "state"]


class Plain(nn.Sequential):
    """Draws nothing while it is trained, so that it may go on elsewhere."""

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def spec(module=Plain):
    momentum = regression(module, metrics=[luz.metrics.MAE()], seed=4, lr=0.05)
    return momentum.set_opt_hparams(momentum=0.9)


def fit(accelerator, callbacks=(), *, module=Plain, epochs=3):
    torch.manual_seed(SEED)
    return spec(module).fit(DATA, epochs, list(callbacks), accelerator=accelerator, verbose=False)


def predict(fitted, accelerator):
    return fitted.predict(NEW, accelerator=accelerator, verbose=False)


class Dies(Exception):
    """What ends a run in the middle."""


def dying(epoch, batch):
    def die(ctx):
        if (ctx.epoch, ctx.iter) == (epoch, batch):
            raise Dies

    return luz.Callback.from_functions(weight=float("inf"), on_train_batch_end=die)


def begun(accelerator, path, *, module=Plain):
    """A run that ended in its second epoch, after the state was written in the middle of it."""
    resume = luz.callbacks.AutoResume(path, every_n_batches=2)
    with pytest.raises(Dies):
        fit(accelerator, [resume, dying(2, 4)], module=module)
    assert path.exists()


def continued(accelerator, path, *, module=Plain):
    torch.manual_seed(99)  # the random state is the file's
    resume = luz.callbacks.AutoResume(path, every_n_batches=2)
    fitted = spec(module).fit(DATA, 3, resume, accelerator=accelerator, verbose=False)
    assert not path.exists()
    return fitted


@pytest.fixture
def cpu():
    return luz.Accelerator(cpu=True)


def test_a_killed_run_goes_on_there_as_if_it_had_not_been(device, tmp_path):
    path = tmp_path / "state.pt"
    whole = fit(None, module=Net)  # with dropout: its generator is the device's
    begun(None, path, module=Net)
    there = continued(None, path, module=Net)
    assert devices(outcome(there)) == {device}
    assert_same(outcome(whole), outcome(there), device)


@pytest.mark.parametrize("to_cpu", [True, False], ids=["to the CPU", "from the CPU"])
def test_a_killed_run_goes_on_elsewhere(device, cpu, tmp_path, to_cpu):
    path = tmp_path / "state.pt"
    begin, end = (None, cpu) if to_cpu else (cpu, None)
    begun(begin, path)
    assert_same(outcome(fit(cpu)), outcome(continued(end, path)), device)


def test_a_killed_run_goes_on_where_there_is_no_float64(no_float64, cpu, tmp_path):
    """Its losses and errors have been added up in float64 on the CPU."""
    path, data = tmp_path / "state.pt", unrelated(600, 4)

    def run(accelerator, *callbacks):
        torch.manual_seed(SEED)
        return spec().fit(
            data,
            1,
            [luz.callbacks.AutoResume(path, every_n_batches=290), *callbacks],
            accelerator=accelerator,
            verbose=False,
            dataloader_options={"batch_size": 2},
        )

    whole = run(cpu)
    with pytest.raises(Dies):
        run(cpu, dying(1, 295))
    there = run(None)
    for name, value in whole.records["metrics"]["train"][0].items():
        assert there.records["metrics"]["train"][0][name] == pytest.approx(value, rel=1e-5)


def test_results(device, cpu, tmp_path):
    fitted = fit(None)
    fitted.save(tmp_path / "net.luz")
    expected = predict(fitted, cpu)
    loaded = luz.load(tmp_path / "net.luz", module=Plain)
    assert_same(expected, predict(loaded, None), device)
    assert_same(expected, predict(loaded, cpu), device)
    there = luz.load(tmp_path / "net.luz", module=Plain, map_location=device)
    assert devices(outcome(there)) == {device}


def test_weights(device, cpu, tmp_path):
    fitted = fit(None)
    luz.save_model_weights(fitted, tmp_path / "weights.pt")
    for accelerator in (None, cpu):
        other = fit(accelerator, epochs=1)
        luz.load_model_weights(other, tmp_path / "weights.pt")
        assert devices(outcome(other)) == devices(list(other.model.parameters()))
        assert_same(predict(fitted, accelerator), predict(other, accelerator), device)


def test_checkpoints(device, cpu, tmp_path):
    path = tmp_path / "epoch.pt"
    fitted = fit(None, [luz.callbacks.ModelCheckpoint(path, "train_loss")])
    expected = predict(fitted, cpu)
    for accelerator in (None, cpu):
        other = fit(accelerator, epochs=1)
        luz.load_checkpoint(other, path)
        assert_same(expected, predict(other, cpu), device)
        resume = luz.callbacks.ResumeFromCheckpoint(
            path, restore_records=True, restore_optimizer_state=True
        )
        again = fit(accelerator, [resume], epochs=4)
        assert again.records["metrics"]["train"][:3] == fitted.records["metrics"]["train"]


ELSEWHERE = """
import sys
import torch
sys.path[:0] = sys.argv[2:]
assert not torch.accelerator.is_available()
import test_accelerator_files as files
import luzpy as luz
from pathlib import Path
folder = Path(sys.argv[1])
found = {"result": luz.load(folder / "net.luz", module=files.Plain)}
for kind, load in (("weights", luz.load_model_weights), ("checkpoint", luz.load_checkpoint)):
    found[kind] = files.fit(None, epochs=1)
    load(found[kind], folder / f"{kind}.pt")
found["state"] = files.continued(None, folder / "state.pt")
found = {kind: files.predict(fitted, None) for kind, fitted in found.items()}
torch.save(found, folder / "found.pt")
"""


def test_all_are_read_where_there_is_no_accelerator(counted, cpu, tmp_path):
    fitted = fit(None, [luz.callbacks.ModelCheckpoint(tmp_path / "checkpoint.pt", "train_loss")])
    fitted.save(tmp_path / "net.luz")
    luz.save_model_weights(fitted, tmp_path / "weights.pt")
    begun(None, tmp_path / "state.pt")
    here = Path(__file__).parent
    hidden = {"CUDA_VISIBLE_DEVICES": "", "LUZPY_ACCELERATOR_PIPES": ""}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path, here, here.parent],
        env=os.environ | hidden,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt")
    assert list(found) == KINDS
    for prediction in found.values():
        assert torch.equal(prediction, predict(fitted, cpu))


def test_the_random_state_of_every_device_is_kept(device):
    def draw():
        return [
            torch.rand(3, device=torch.device(device.type, index)).tolist()
            for index in range(torch.accelerator.device_count())
        ]

    state = RandomState.current()
    kept = RandomState.from_primitives(state.to_primitives())
    first = draw()
    assert draw() != first
    kept.restore()
    assert draw() == first
