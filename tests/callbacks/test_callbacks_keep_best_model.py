"""`KeepBestModel`: the fit ends with the weights of the best epoch."""

import math
import os
import signal

import pytest
import torch
from torch import nn

import luzpy as luz
from luzpy import LuzError

X, Y = torch.zeros(4, 1), torch.zeros(4, 1)


class Counter(nn.Module):
    """Its weight is the number of epochs trained; so is its buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return x + self.weight

    def loss(self, input, target):
        return -(input - target).mean()  # its gradient is -1: a step of SGD adds 1


def run(values, *callbacks, epochs=None, best=None, **kwargs):
    """The epoch whose weights the fit ends with, where the quantity follows `values`."""

    def log(ctx):
        ctx.log_metric("score", values[ctx.epoch - 1])

    script = luz.Callback.from_functions(on_train_end=log)
    keep = best or luz.callbacks.KeepBestModel("train_score", **{"mode": "min"} | kwargs)
    model = luz.setup(Counter, optimizer=torch.optim.SGD).set_opt_hparams(lr=1.0)
    fitted = model.fit(
        (X, Y),
        epochs or len(values),
        callbacks=[script, keep, *callbacks],
        verbose=False,
        dataloader_options={"batch_size": 4},
    )
    assert fitted.model.weight.item() == fitted.model.seen.item()
    return fitted.model.weight.item()


def test_the_largest_loss_is_at_the_start():
    # R: test-callbacks-monitor-metrics.R, "use_best_model_callback"
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(100.0))

        def forward(self, x):
            return torch.ones_like(x) * self.w

    model = luz.setup(Scale, nn.MSELoss(), torch.optim.Adam).set_opt_hparams(lr=1)
    keep = luz.callbacks.KeepBestModel("train_loss", mode="max")
    data = torch.rand(100), torch.zeros(100)
    assert model.fit(data, callbacks=keep, verbose=False).model.w.item() > 90


@pytest.mark.parametrize(
    ("values", "kwargs", "epoch"),
    [
        ([3, 1, 2], {}, 2),
        ([3, 2, 1], {}, 3),
        ([1, 1, 1], {}, 1),
        ([1, 3, 2], {"mode": "max"}, 2),
        ([-3, 2, -1, 4], {"mode": "zero"}, 3),
        ([3, 2.9, 2.8], {"min_delta": 0.5}, 1),
        ([math.nan, 2, math.nan], {}, 2),
        ([math.nan, math.nan], {}, 2),  # no epoch is better than another: the last
        ([math.inf, 5], {}, 2),
    ],
)
def test_which_epoch_is_kept(values, kwargs, epoch):
    assert run(values, **kwargs) == epoch


def test_after_early_stopping_too():
    stopping = luz.callbacks.EarlyStopping("train_score", patience=2, mode="min")
    assert run([3, 1, 2, 2, 0], stopping) == 2


def test_after_ctrl_c_too():
    def press(ctx):
        if ctx.epoch == 4:
            os.kill(os.getpid(), signal.SIGINT)

    assert run([3, 1, 2, 2, 0], luz.Callback.from_functions(on_train_batch_begin=press)) == 2


def test_an_instance_starts_afresh_in_every_run():
    best = luz.callbacks.KeepBestModel("train_score", mode="min")
    assert run([0, 5, 5], best=best) == 1
    assert run([9, 8, 7], best=best) == 3


def test_the_copy_is_not_changed_by_training_nor_kept_after_it():
    best = luz.callbacks.KeepBestModel("train_score", mode="min")
    assert run([1, 2], best=best) == 1
    assert best.state_dict()["best"] is None


def test_its_state_is_the_best_weights():
    best, other = (luz.callbacks.KeepBestModel("train_score", mode="min") for _ in range(2))
    kept = []

    def hand_over(ctx):
        if ctx.epoch == 2:
            kept.append(best.state_dict())

    run([1, 2, 3], luz.Callback.from_functions(on_epoch_begin=hand_over), best=best)
    assert kept[0]["current_best"] == 1
    assert kept[0]["best"]["weight"].item() == 1

    def take_over(ctx):
        if ctx.epoch == 1:
            other.load_state_dict(kept[0])

    # 5 and 4 are not better than the 1 that was taken over
    assert run([5, 4], luz.Callback.from_functions(on_epoch_begin=take_over), best=other) == 1


def test_valid_loss_without_validation_is_an_error():
    with pytest.raises(LuzError, match="there is no `valid_data`"):
        run([1], best=luz.callbacks.KeepBestModel())


def test_an_unknown_quantity_is_an_error():
    with pytest.raises(LuzError, match=r"'train_loss'.*, got 'train_nothing'"):
        run([1], best=luz.callbacks.KeepBestModel(monitor="train_nothing"))
