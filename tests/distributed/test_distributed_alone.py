"""Without a launcher: what is as it always was, what is refused, and steps of several batches."""

import os
import subprocess
import sys

import pytest
import torch
from models import Rows, line, regression
from torch import nn
from torch.utils.data import DataLoader

import luzpy as luz
from luzpy.distributed.gradient_sync import GradientSync
from luzpy.distributed.stop_sync import StopSync


def run(code, **env):
    """A Python process of its own; its status, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
    )
    return done.returncode, done.stdout + done.stderr


FIT = """
import sys, torch, luzpy as luz
model = luz.setup(lambda: torch.nn.Linear(2, 1), torch.nn.MSELoss(), torch.optim.SGD)
model = model.set_opt_hparams(lr=0.1)
data = torch.randn(64, 2), torch.randn(64, 1)
"""


def test_the_default_path_does_not_import_accelerate():
    code = (
        "fitted = model.fit(data, 1, valid_data=0.5, verbose=False); "
        "fitted.evaluate(data, verbose=False); "
        "fitted.predict(data[0]); model.lr_finder(data, 5); "
        "print([name for name in sys.modules if name.split('.')[0] == 'accelerate'])"
    )
    assert run(FIT + code) == (0, "[]\n")


def test_without_accelerate_distributed_says_what_to_install_and_all_else_is_as_it_was():
    code = (
        "sys.modules['accelerate'] = None; "
        "place = luz.Accelerator(cpu=True, accumulate=2, mixed_precision='bf16'); "
        "print(model.fit(data, 1, accelerator=place, verbose=False).stopped, flush=True); "
        "luz.Accelerator(distributed=True)"
    )
    status, said = run(FIT + code)
    first, *_, last = said.splitlines()
    assert (status, first) == (1, "completed")
    assert last == (
        "ImportError: `distributed=True` needs Hugging Face Accelerate: "
        "pip install 'luzpy[distributed]'."
    )


def test_ranks_that_nobody_told_to_work_together_say_so():
    status, said = run(FIT + "luz.Accelerator()", WORLD_SIZE="2", RANK="0")
    assert status == 1
    assert said.splitlines()[-1] == (
        "luzpy.LuzError: This is one of 2 processes, each of which would do all of the "
        "work: pass accelerator=luz.Accelerator(distributed=True) to share it, or "
        "distributed=False if each is to work on its own."
    )


def test_one_process_is_no_several():
    place = luz.Accelerator(cpu=True, distributed=False)
    assert (place.process_index, place.num_processes, place.is_main) == (0, 1, True)
    assert repr(place) == "<luzpy.Accelerator on cpu>"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"distributed": 3}, TypeError, "`distributed` must be True, False or None, got 3."),
        (
            {"mixed_precision": "fp8"},
            ValueError,
            "`mixed_precision` must be 'fp16', 'bf16', 'no' or None, got 'fp8'.",
        ),
        ({"accumulate": 0}, ValueError, "`accumulate` must be a positive integer, got 0."),
        (
            {"accumulate": 2.0},
            TypeError,
            "`accumulate` must be a positive integer, got 2.0.",
        ),
        (
            {"accumulate": True},
            TypeError,
            "`accumulate` must be a positive integer, got True.",
        ),
    ],
)
def test_arguments_are_checked(options, error, said):
    with pytest.raises(error) as caught:
        luz.Accelerator(cpu=True, **options)
    assert str(caught.value) == said


def rows():
    return line(90, seed=4)


def setup(module=3):
    return regression(module, lr=0.1, seed=1)


def test_the_default_path_has_no_callback_and_no_loader_more():
    seen = {}
    callback = luz.Callback.from_functions(
        on_fit_begin=lambda ctx: seen.update(callbacks=ctx.callbacks, data=ctx.train_data)
    )
    setup().fit(rows(), 1, callback, accelerator=luz.Accelerator(cpu=True), verbose=False)
    assert type(seen["data"]) is DataLoader
    assert not any(isinstance(c, (GradientSync, StopSync)) for c in seen["callbacks"])


def test_hooks_of_the_step_are_called_once_a_step():
    steps = []
    callback = luz.Callback.from_functions(
        on_train_batch_before_step=lambda ctx: steps.append(ctx.iter),
        on_train_batch_after_step=lambda ctx: steps.append(-ctx.iter),
    )
    setup().fit(
        rows(),
        1,
        callback,
        accelerator=luz.Accelerator(cpu=True, accumulate=4),
        verbose=False,
        dataloader_options={"batch_size": 10},
    )
    assert steps == [4, -4, 8, -8, 9, -9]


class Noisy(Rows):
    """Rows that are drawn anew each time."""

    def __init__(self):
        super().__init__(*rows())

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(3), y


class Fails(Exception):
    pass


@pytest.mark.parametrize("at", [(1, 2), (2, 3), (2, 6), (2, 9)])
@pytest.mark.parametrize("data", [Noisy, rows])
def test_a_run_goes_on_in_the_middle_of_a_step_bit_for_bit(tmp_path, data, at):
    def noisy():
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def trained(path, fail=lambda ctx: None):
        torch.manual_seed(6)
        resume = luz.callbacks.AutoResume(path, every_n_batches=1)
        callbacks = [resume, luz.callbacks.GradientClip(0.5)]
        callbacks.append(luz.Callback.from_functions(on_train_batch_begin=fail))
        return setup(noisy).fit(
            data(),
            3,
            callbacks,
            accelerator=luz.Accelerator(cpu=True, accumulate=4),
            verbose=False,
            dataloader_options={"batch_size": 10},
        )

    def fail(ctx):
        if (ctx.epoch, ctx.iter) == at:
            raise Fails

    unbroken = trained(tmp_path / "unbroken.pt")
    with pytest.raises(Fails):
        trained(tmp_path / "state.pt", fail)
    assert (tmp_path / "state.pt").exists()
    found = trained(tmp_path / "state.pt")
    for name, weight in unbroken.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], weight)
    assert found.get_metrics().equals(unbroken.get_metrics())
