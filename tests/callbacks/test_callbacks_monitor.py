"""`Monitor`: which quantity, and whether it improved."""

import math

import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import luzpy as luz
from luzpy.callbacks.monitor import Monitor

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def context(train=(), valid=(), valid_data=None):
    ctx = luz.Context(
        verbose=False,
        accelerator=luz.Accelerator(cpu=True),
        model=nn.Linear(1, 1),
        valid_data=valid_data,
        epoch=len(train),
    )
    ctx.records["metrics"] |= {"train": list(train), "valid": list(valid)}
    return ctx


@pytest.mark.parametrize(
    ("name", "split", "metric"),
    [
        ("valid_loss", "valid", "loss"),
        ("train_Acc", "train", "acc"),
        ("valid_top_5_acc", "valid", "top_5_acc"),  # R luz splits on every `_`
        ("train_loss_Generator", "train", "loss_generator"),
    ],
)
def test_set_ends_at_the_first_underscore(name, split, metric):
    monitor = Monitor(name)
    assert (monitor.set, monitor.metric) == (split, metric)


@pytest.mark.parametrize(
    "name", ["loss", "test_loss", "valid_", "_loss", "", "Valid_loss", None, 3]
)
def test_name_without_a_set_is_an_error(name):
    with pytest.raises(ValueError, match=f"`monitor` must be .*got {name!r}"):
        Monitor(name)


@pytest.mark.parametrize("mode", ["MIN", "auto", "", 1])
def test_unknown_mode_is_an_error(mode):
    with pytest.raises(
        ValueError, match=f"`mode` must be one of 'min', 'max', 'zero', got {mode!r}"
    ):
        Monitor("valid_loss", mode)


@pytest.mark.parametrize(
    ("min_delta", "error"),
    [
        (-0.1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_min_delta_out_of_bounds_is_an_error(min_delta, error):
    with pytest.raises(error, match="`min_delta` must be"):
        Monitor("valid_loss", "min", min_delta)


@given(new=NUMBERS, best=NUMBERS, delta=st.floats(0, 1e6, width=32))
def test_improvement_is_larger_than_min_delta_the_way_of_the_mode(new, best, delta):
    assert Monitor("train_x", "min", delta).improved(new, best) == (new < best - delta)
    assert Monitor("train_x", "max", delta).improved(new, best) == (new > best + delta)
    assert Monitor("train_x", "zero", delta).improved(new, best) == (abs(new) < abs(best) - delta)


@pytest.mark.parametrize("mode", ["min", "max", "zero"])
def test_nan_never_improves_and_anything_else_improves_on_nothing(mode):
    monitor = Monitor("train_x", mode, min_delta=5)
    assert not monitor.improved(math.nan, None)
    assert not monitor.improved(math.nan, 3.0)
    assert monitor.improved(1e9, None)
    assert monitor.improved(-1e9, None)


def test_zero_looks_at_the_new_value():
    # R luz compares min_delta with itself here
    monitor = Monitor("train_x", "zero")
    assert monitor.improved(-0.5, 1.0)
    assert not monitor.improved(-2.0, 1.0)


def test_value_is_the_current_epochs():
    ctx = context(train=[{"loss": 3.0}, {"loss": 2.0}], valid=[{"mae": 5.0}, {"mae": 4.0}])
    assert Monitor("train_loss").value(ctx) == 2.0
    assert Monitor("valid_MAE").value(ctx) == 4.0


def test_metric_logged_under_a_name_with_capitals_is_found():
    ctx = context(train=[{"loss": 3.0, "Speed": 8.0}])
    for name in ("train_Speed", "train_speed"):
        assert Monitor(name).value(ctx) == 8.0


def test_unknown_metric_is_an_error_that_lists_the_known_ones():
    ctx = context(train=[{"loss_one": 1.0, "loss_two": 2.0}])
    with pytest.raises(
        luz.LuzError, match="one of 'train_loss_one', 'train_loss_two', got 'train_loss'"
    ):
        Monitor("train_loss").value(ctx)


def test_valid_metric_without_valid_data_is_an_error_at_the_start():
    monitor = Monitor("valid_loss")
    with pytest.raises(luz.LuzError, match="no `valid_data`; give some, or monitor 'train_loss'"):
        monitor.check(context())
    monitor.check(context(valid_data=[torch.zeros(1)]))
    Monitor("train_loss").check(context())


# Which way is better: with `mode=None` the metric is asked.

RISING = [0.741, 0.801, 0.83, 0.866]


class Scripted(luz.Metric):
    """Computes the values of a script, one an epoch."""

    abbrev = "Scripted"

    def __init__(self, values, higher=None, abbrev="Scripted"):
        self.values, self.higher_is_better, self.abbrev = values, higher, abbrev
        self.epoch = 0

    def reset(self):
        self.epoch += 1

    def update(self, preds, target): ...

    def compute(self):
        return self.values[self.epoch - 1]


class ScriptedTorchMetric(torchmetrics.MeanMetric):
    """Of torchmetrics: 0 in the first epoch, 1 in the second, and so on."""

    def __init__(self):
        super().__init__()
        self.epoch = -1

    def reset(self):
        super().reset()
        self.epoch += 1

    def update(self, preds, target):
        super().update(float(self.epoch))


class Gain(ScriptedTorchMetric):
    higher_is_better = True


class Cost(ScriptedTorchMetric):
    higher_is_better = False


class PerClass(Gain):
    def compute(self):
        return super().compute() * torch.tensor([1.0, 2.0])


def scored(preds, target):
    return float(scored.epoch)


def gained(preds, target):
    return float(scored.epoch)


gained.higher_is_better = True


def best_epoch(metrics, monitor="valid_scripted", callbacks=(), epochs=4, **kwargs):
    """The epoch whose weights `KeepBestModel` keeps: the weight is the number of epochs."""

    def count(ctx):
        ctx.model.weight.fill_(ctx.epoch)
        scored.epoch = ctx.epoch

    counting = luz.Callback.from_functions(on_train_end=count)
    model = luz.setup(lambda: nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD, metrics)
    data = torch.ones(4, 1), torch.ones(4, 1)
    keep = luz.callbacks.KeepBestModel(monitor, **kwargs)
    fitted = model.set_opt_hparams(lr=0.0).fit(
        data,
        epochs,
        [counting, *callbacks, keep],
        valid_data=data,
        verbose=False,
        dataloader_options={"batch_size": 4},
    )
    return fitted.model.weight.item()


@pytest.mark.parametrize(
    ("metrics", "monitor", "epoch"),
    [
        (Scripted(RISING, True), "valid_scripted", 4),
        (Scripted(RISING, False), "valid_scripted", 1),
        (Scripted(RISING, True, "Top_5"), "valid_TOP_5", 4),
        (Scripted([[x, -x] for x in RISING], True), "valid_scripted_1", 1),
        (Scripted([{"a": {"b": x}} for x in RISING], True), "valid_scripted_a_b", 4),
        ([Scripted(RISING, False, "X"), Scripted(RISING, True, "X_Y")], "valid_x_y", 4),
        (Gain(), "valid_gain", 4),
        (Cost(), "valid_cost", 1),
        (PerClass(), "valid_perclass_1", 4),
        (torchmetrics.MetricCollection([Gain(), Cost()]), "valid_gain", 4),
        (torchmetrics.MetricCollection([Gain(), Cost()]), "valid_cost", 1),
        (torchmetrics.MetricCollection([PerClass()], prefix="my_"), "valid_my_perclass_0", 4),
        (gained, "valid_gained", 4),
    ],
)
def test_the_metric_is_asked_which_way_is_better(metrics, monitor, epoch):
    assert best_epoch(metrics, monitor) == epoch


def test_a_mode_that_is_given_overrules_the_metric():
    assert best_epoch(Scripted(RISING, True), mode="min") == 1
    assert best_epoch(scored, "valid_scored", mode="max") == 4


def test_early_stopping_and_checkpoints_ask_as_well(tmp_path):
    stopping = luz.callbacks.EarlyStopping("valid_scripted")
    assert best_epoch(Scripted(RISING, True), callbacks=[stopping]) == 4
    assert best_epoch(Scripted(RISING, False), callbacks=[stopping]) == 1
    assert stopping.patience_counter == 1
    files = luz.callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt", "valid_scripted", True)
    best_epoch(Scripted(RISING, True), callbacks=[files])
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("metrics", [Scripted(RISING), torchmetrics.SumMetric(), scored])
def test_a_metric_that_does_not_say_is_an_error_before_training(metrics):
    name = getattr(metrics, "__name__", type(metrics).__name__).lower()
    seen = []
    spy = luz.Callback.from_functions(on_epoch_begin=lambda ctx: seen.append(ctx.epoch))
    with pytest.raises(
        luz.LuzError, match=f"`mode` must be 'min', 'max' or 'zero' for 'valid_{name}'.*got None"
    ):
        best_epoch(metrics, f"valid_{name}", [spy])
    assert seen == []


@pytest.mark.parametrize("name", ["score", "scripted_gap", "loss_gap"])
def test_what_a_callback_logs_needs_a_mode_after_the_first_epoch(name):
    log = luz.Callback.from_functions(on_valid_end=lambda ctx: ctx.log_metric(name, -ctx.epoch))
    seen = []
    spy = luz.Callback.from_functions(on_epoch_end=lambda ctx: seen.append(ctx.epoch))
    metric = Scripted(RISING, True)  # its row is "scripted": "scripted_gap" is none of it
    with pytest.raises(luz.LuzError, match=f"`mode` must be .* for 'valid_{name}'"):
        best_epoch(metric, f"valid_{name}", [log, spy])
    assert seen == [1]
    assert best_epoch(metric, f"valid_{name}", [log], mode="min") == 4


def test_a_loss_of_each_optimizer_is_the_better_the_lower():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(1, 1), nn.Linear(1, 1)

        def set_optimizers(self):
            return {
                name: torch.optim.SGD(getattr(self, name).parameters(), lr=0.0)
                for name in ("one", "two")
            }

        def loss(self, input, target):
            return (input - target).square().mean()

        def forward(self, x):
            return self.one(x) + self.two(x)

    stopping = luz.callbacks.EarlyStopping("train_loss_two")
    data = torch.ones(4, 1), torch.ones(4, 1)
    fitted = luz.setup(Two).fit(
        data, 5, stopping, verbose=False, dataloader_options={"batch_size": 4}
    )
    assert fitted.stopped == "early stopping"


def test_a_checkpoint_that_was_written_with_a_mode_is_resumed_without_one(tmp_path):
    def made(mode):
        path = tmp_path / "{epoch}.pt"
        return luz.callbacks.ModelCheckpoint(path, "valid_scripted", True, mode)

    values = [0.741, 0.801, 0.7, 0.9]
    best_epoch(Scripted(values, True), callbacks=[made("max")], mode="max")
    (tmp_path / "4.pt").unlink()
    resume = luz.callbacks.ResumeFromCheckpoint(
        tmp_path / "2.pt", restore_records=True, restore_callbacks_state=True
    )
    # Epochs 3 and 4: only the last improves on the 0.801 that the file holds.
    best_epoch(Scripted(values, True), callbacks=[made(None), resume])
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["1", "2", "4"]
