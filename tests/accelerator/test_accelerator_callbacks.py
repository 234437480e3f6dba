"""Every callback on the accelerator."""

import sys
from pathlib import Path

import pytest
from comparison import assert_same, devices, on_both, outcome

import luzpy as luz

sys.path.append(str(Path(__file__).parents[1] / "callbacks"))
from test_callbacks_contract import MAKERS, data, model

# What they do depends on the clock.
BY_THE_CLOCK = {"Profile"}


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_run_with_it_ends_as_on_the_cpu(name, device, tmp_path):
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
    assert_same(outcome(cpu), outcome(there), device)


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
    assert_same(cpu, there, device)
