"""How often a run waits for the device, and what goes there: counted, not timed."""

import sys

import pytest
import simulated
import torch
from models import Rows, line, regression, unrelated
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

predict = sys.modules["luzpy.verbs.predict"]
STEPS = 100  # of an epoch
DATA = unrelated(32 * STEPS, 10)
LEARNABLE = line(32 * STEPS, 10)
WEIGHTS = 2  # tensors of the model, which are moved once
METRICS = [luz.metrics.MAE(), luz.metrics.MSE(), luz.metrics.RMSE()]


def model(metrics=METRICS):
    return regression(10, metrics=metrics)


def fit(epochs, data=DATA, *, metrics=METRICS, **options):
    return model(metrics).fit(data, epochs, verbose=False, **options)


def spent(counted, function):
    """What was counted while a function ran, and what it returned."""
    simulated.reset()
    result = function()
    return counted(), result


def per_epoch(counted, **options):
    """What the third and fourth epoch add to the first two, each."""
    two, _ = spent(counted, lambda: fit(2, **options))
    four, _ = spent(counted, lambda: fit(4, **options))
    assert four["kernels"] > two["kernels"]  # it really trained there
    return {name: (four[name] - two[name]) / 2 for name in two}


def test_an_epoch_is_read_once_for_the_loss_and_once_a_metric(counted):
    epoch = per_epoch(counted)
    assert epoch["reads"] + epoch["downloads"] <= 1 + len(METRICS)
    assert per_epoch(counted, metrics=[])["reads"] <= 1


def test_no_step_is_waited_for(counted):
    short, _ = spent(counted, lambda: fit(1, tuple(part[: 32 * 10] for part in DATA)))
    long, _ = spent(counted, lambda: fit(1))
    assert long["reads"] + long["downloads"] == short["reads"] + short["downloads"]
    assert long["synchronizations"] == short["synchronizations"]


@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": luz.callbacks.GradientClip(max_norm=1.0)},
        {"callbacks": luz.callbacks.MixedPrecision(dtype=torch.bfloat16)},
        {"accelerator": 4},
    ],
    ids=["clipped", "bfloat16", "accumulated"],
)
def test_no_step_is_waited_for_with(counted, options):
    if "accelerator" in options:
        options = {"accelerator": luz.Accelerator(accumulate=options["accelerator"])}
    epoch = per_epoch(counted, **options)
    assert epoch["reads"] + epoch["downloads"] <= 1 + len(METRICS)


def test_a_scaler_of_gradients_reads_once_a_step(counted):
    precision = luz.callbacks.MixedPrecision(dtype=torch.float16)
    epoch = per_epoch(counted, callbacks=precision)
    assert epoch["reads"] <= STEPS + 1 + len(METRICS)  # torch's own read: were gradients finite?


def test_data_in_memory_are_moved_once_and_then_the_order_of_the_rows(counted):
    assert per_epoch(counted)["uploads"] == 1  # drawn on the host, as a DataLoader draws it
    assert per_epoch(counted, dataloader_options={"shuffle": False})["uploads"] == 0
    two, _ = spent(counted, lambda: fit(2))
    assert two["uploads"] == WEIGHTS + len(DATA) + 2


def test_validation_data_in_memory_are_moved_once(counted):
    valid = unrelated(320, 10, seed=5)
    assert per_epoch(counted, valid_data=valid)["uploads"] == 1


def test_evaluation_and_prediction_move_their_data_once(counted):
    fitted = fit(1)
    evaluation, _ = spent(counted, lambda: fitted.evaluate(DATA, verbose=False))
    assert evaluation["uploads"] == len(DATA)
    assert evaluation["reads"] + evaluation["downloads"] <= 1 + len(METRICS)
    prediction, _ = spent(counted, lambda: fitted.predict(DATA[0], verbose=False))
    assert prediction["uploads"] == 1
    assert prediction["downloads"] == 1
    assert prediction["reads"] == 0


def test_predictions_are_downloaded_whenever_there_are_enough(counted, monkeypatch):
    fitted = fit(1)
    batch = 32 * DATA[1][0].nbytes  # bytes of the predictions of a batch
    monkeypatch.setattr(predict, "AT_ONCE", 30 * batch)
    found, predictions = spent(counted, lambda: fitted.predict(DATA[0], verbose=False))
    assert found["downloads"] == 4  # of 100 batches
    cpu = luz.Accelerator(cpu=True)
    expected = fitted.predict(DATA[0], verbose=False, accelerator=cpu)
    torch.testing.assert_close(predictions, expected)


@pytest.mark.parametrize(
    "make", [lambda: DataLoader(TensorDataset(*DATA), 32, shuffle=True, num_workers=1),
             lambda: Rows(*DATA)],
    ids=["workers", "dataset"],
)  # fmt: skip
def test_other_batches_come_from_pinned_memory_on_a_stream_of_their_own(counted, make):
    spent_there, _ = spent(counted, lambda: fit(1, make()))
    assert spent_there["uploads"] == WEIGHTS + STEPS * len(DATA)
    assert spent_there["pageable_uploads"] == WEIGHTS
    assert spent_there["waits"] == STEPS  # of the device's own stream for the copies
    assert spent_there["records"] == STEPS * len(DATA)
    assert torch.accelerator.current_stream().stream_id == 0


def test_data_that_do_not_fit_stay_on_the_host(counted, monkeypatch):
    monkeypatch.setattr(simulated, "MEMORY", 2 * DATA[0].nbytes)
    assert per_epoch(counted)["uploads"] == STEPS * len(DATA)


def test_the_validation_batches_of_a_finder_are_moved_once(counted):
    batches = 8
    valid = unrelated(32 * batches, 10, seed=5)

    def find():
        return model().lr_finder(LEARNABLE, steps=100, valid_data=valid, verbose=False)

    found, records = spent(counted, find)
    assert records["valid_loss"].notna().all()
    assert found["uploads"] <= 2 * batches
    # Ten rungs at a time: losses, validation losses, and those of a second look.
    assert found["reads"] + found["downloads"] <= 3 * 100 / 10


def test_a_finder_moves_validation_batches_of_a_loader_once(counted):
    valid = DataLoader(Rows(*unrelated(32 * 20, 10, seed=5)), 32)
    found, _ = spent(
        counted, lambda: model().lr_finder(LEARNABLE, steps=100, valid_data=valid, verbose=False)
    )
    # The weights and the order of the rows twice, for a second look.
    assert found["uploads"] <= 2 * (WEIGHTS + 1) + len(DATA) + 2 * 8


def test_classifiers_are_counted_on_the_device(counted):
    x, _ = DATA
    target = torch.randint(3, (len(x),))
    metrics = [luz.metrics.Accuracy(), luz.metrics.MulticlassAUROC(50, from_logits=True)]
    spec = luz.setup(lambda: nn.Linear(10, 3), nn.CrossEntropyLoss(), torch.optim.SGD, metrics)
    spec = spec.set_opt_hparams(lr=0.1)
    one, _ = spent(counted, lambda: spec.fit((x, target), 1, verbose=False))
    three, _ = spent(counted, lambda: spec.fit((x, target), 3, verbose=False))
    waits = {name: (three[name] - one[name]) / 2 for name in ("reads", "downloads")}
    assert sum(waits.values()) <= 1 + len(metrics)
