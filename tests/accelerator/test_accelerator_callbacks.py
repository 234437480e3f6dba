"""Every callback on the accelerator."""

import sys
from pathlib import Path

import pytest
import simulated
from comparison import IN_HALF, assert_same, devices, is_real, on_both, outcome
from models import regression, unrelated
from torch import nn

import luzpy as luz

sys.path.append(str(Path(__file__).parents[1] / "callbacks"))
from test_callbacks_contract import MAKERS, data, model

# What they do depends on the clock.
BY_THE_CLOCK = {"Profile"}


@pytest.mark.parametrize("with_float64", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_run_with_it_ends_as_on_the_cpu(name, with_float64, device, tmp_path, request):
    if not with_float64:
        request.getfixturevalue("no_float64")

    def run(accelerator):
        folder = tmp_path / accelerator.device.type
        folder.mkdir()
        return model().fit(
            data(),
            2,
            MAKERS[name](folder),
            valid_data=data(),
            accelerator=accelerator,
            verbose=False,
            dataloader_options={"batch_size": 16},
        )

    cpu, there = on_both(run)
    assert devices(outcome(there)) == {device}
    assert_same(outcome(cpu), outcome(there), device, None if with_float64 else 1e-5)


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - BY_THE_CLOCK))
def test_evaluate_and_predict_with_it(name, device, tmp_path):
    fitted = model().fit(data(), 1, accelerator=luz.Accelerator(cpu=True), verbose=False)

    def run(accelerator):
        folder = tmp_path / accelerator.device.type
        folder.mkdir()
        callback = MAKERS[name](folder)
        options = {"callbacks": callback, "accelerator": accelerator, "verbose": False}
        evaluation = fitted.evaluate(data(), **options)
        return evaluation.records["metrics"], fitted.predict(data()[0], **options)

    cpu, there = on_both(run)
    in_half = name == "MixedPrecision" and is_real(device)
    assert_same(cpu, there, device, IN_HALF if in_half else None)


# What goes from the device in a step though nobody waits for it: into pinned memory.
DOWNLOADS = {"StopOnNaN": 1}
WAITS = ("reads", "downloads", "synchronizations")


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_no_step_is_waited_for_with_it(name, counted, tmp_path):
    def waits(steps):
        folder = tmp_path / str(steps)
        folder.mkdir()
        callback = MAKERS[name](folder)
        simulated.reset()
        model().fit(
            data(16 * steps),
            1,
            callback,
            valid_data=data(),
            verbose=False,
            dataloader_options={"batch_size": 16},
        )
        found = counted()
        return {kind: found[kind] for kind in WAITS}

    few, many = waits(3), waits(13)
    for kind, count in few.items():
        allowed = DOWNLOADS.get(name, 0) if kind == "downloads" else 0
        assert many[kind] - count == 10 * allowed, kind


def test_an_average_waits_for_no_batch(counted):
    def waits(steps):
        average = luz.callbacks.EMA(None, update_on="epoch", update_bn=True)
        spec = regression(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)), seed=1)
        simulated.reset()
        spec.fit(unrelated(32 * steps, 4), 1, average, verbose=False)
        found = counted()
        return found["kernels"], {kind: found[kind] for kind in WAITS}

    (kernels, few), (more_kernels, many) = waits(3), waits(13)
    assert more_kernels > kernels
    # torch's own batch norm reads how many batches it has seen where `update_bn` has it count them.
    assert many == few | {"reads": few["reads"] + 10}
