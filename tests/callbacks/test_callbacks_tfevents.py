"""Event files, read back with TensorBoard's own reader."""

import threading
import time

import numpy as np
import pytest
import torch
from models import TwoOptimizers, regression, unrelated
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import luzpy as luz
from luzpy.callbacks.tfevents import TFEvents


def fit(*callbacks, epochs=3, module=TwoOptimizers, optimizer=None, lr=1e-4):
    model = regression(module, optimizer, lr=lr).set_hparams(in_features=10, out_features=1)
    return model.fit(unrelated(60, 10), epochs, list(callbacks), valid_data=0.2, verbose=False)


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def scalars(folder):
    events = read(folder)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


# R: test-callbacks-tfevents.R, "Metrics are correctly saved"
def test_metrics_and_histograms_are_read_back(tmp_path):
    fitted = fit(TFEvents(tmp_path, histograms=True), epochs=10)
    found = {split: scalars(tmp_path / split) for split in ("train", "valid")}
    assert sum(len(events) for tags in found.values() for events in tags.values()) == 40
    for split, tags in found.items():
        assert set(tags) == {"loss_weight", "loss_bias"}
        for tag, events in tags.items():
            values = [epoch[tag] for epoch in fitted.records["metrics"][split]]
            assert [step for step, _ in events] == list(range(1, 11))
            assert [value for _, value in events] == pytest.approx(values)
    weights = read(tmp_path / "weights")
    assert sum(len(weights.Histograms(tag)) for tag in weights.Tags()["histograms"]) == 20
    last = weights.Histograms("weight")[-1]
    values = fitted.model.weight.detach().numpy().astype(np.float64)
    assert (last.step, last.histogram_value.num) == (10, 10)
    assert last.histogram_value.sum == pytest.approx(values.sum())
    assert last.histogram_value.max == pytest.approx(values.max())


def test_histograms_of_named_parameters(tmp_path):
    fit(TFEvents(tmp_path, histograms=["bias"]), epochs=1)
    assert read(tmp_path / "weights").Tags()["histograms"] == ["bias"]


def test_no_histograms_unless_asked_for(tmp_path):
    fit(TFEvents(tmp_path), epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "valid"]


def test_an_unknown_parameter_is_refused_before_training(tmp_path):
    begun = []
    with pytest.raises(ValueError, match=r"`histograms` must name parameters .*weight, bias"):
        fit(
            TFEvents(tmp_path, histograms=["wieght"]),
            luz.Callback.from_functions(on_train_begin=begun.append),
        )
    assert begun == []


def test_what_was_logged_is_there_after_an_error(tmp_path):
    def fail(ctx):
        if ctx.epoch == 3:
            raise RuntimeError("no more")

    callback, threads = TFEvents(tmp_path), threading.active_count()
    with pytest.raises(RuntimeError, match="no more"):
        fit(callback, luz.Callback.from_functions(on_epoch_end=fail))
    assert [step for step, _ in scalars(tmp_path / "train")["loss_bias"]] == [1, 2, 3]
    assert threading.active_count() == threads  # the files are closed, and their writers gone
    fit(callback, epochs=1)


def test_events_are_on_the_disk_before_the_next_epoch(tmp_path):
    steps = []

    def look(ctx):
        if ctx.epoch > 1:
            steps.append(scalars(tmp_path / "train")["loss_bias"][-1][0])

    fit(TFEvents(tmp_path), luz.Callback.from_functions(on_epoch_begin=look))
    assert steps == [1, 2]


def test_epochs_run_again_after_resuming_replace_the_old(tmp_path):
    fit(TFEvents(tmp_path), epochs=3)

    def resume(ctx):
        ctx.epoch = 1
        for split in ("train", "valid"):
            ctx.records["metrics"][split] = [{}]

    time.sleep(1.1)  # TensorBoard reads files in the order of their names, which have seconds
    fitted = fit(TFEvents(tmp_path), luz.Callback.from_functions(on_fit_begin=resume), epochs=2)
    events = scalars(tmp_path / "train")["loss_bias"]
    assert [step for step, _ in events] == [1, 2]
    assert events[1][1] == pytest.approx(fitted.records["metrics"]["train"][1]["loss_bias"])


@pytest.mark.filterwarnings("ignore:The training loss is not finite")
def test_weights_that_are_not_finite_do_not_end_the_run(tmp_path):
    fit(TFEvents(tmp_path, histograms=True), module=nn.Linear, optimizer=torch.optim.SGD, lr=1e30)
    assert "loss" in scalars(tmp_path / "train")


@pytest.mark.parametrize("histograms", ["weight", 1, [1]])
def test_histograms_are_checked(histograms):
    with pytest.raises(TypeError, match="`histograms` must be True, False or a list"):
        TFEvents(histograms=histograms)
