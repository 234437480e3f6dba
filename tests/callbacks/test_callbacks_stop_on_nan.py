"""`StopOnNaN`: the run ends at a training loss that is not finite."""

import math

import pytest
import torch
from models import TwoParts, regression
from torch import nn
from torch.utils.data import TensorDataset

import luzpy as luz

X, Y = torch.ones(40, 2), torch.zeros(40, 1)


def wrong_at(epoch, batch, value=math.nan, name="opt"):
    """A callback that lets a batch have a loss that is not finite."""

    def spoil(ctx):
        if (ctx.epoch, ctx.iter, ctx.opt_name) == (epoch, batch, name):
            ctx.loss[name] = torch.tensor(value)

    return luz.Callback.from_functions(on_train_batch_after_loss=spoil)


class Batches(luz.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, ctx):
        self.seen.append((ctx.epoch, ctx.iter))


def fit(*callbacks, model=None, **kwargs):
    model = regression(2) if model is None else model
    options = {"batch_size": 4}
    return model.fit(
        (X, Y), 3, list(callbacks), verbose=False, dataloader_options=options, **kwargs
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:The training loss is not finite")
def test_the_run_ends_after_that_batch(value):
    batches = Batches()
    fitted = fit(wrong_at(2, 4, value), luz.callbacks.StopOnNaN(), batches)
    assert fitted.stopped == "not finite"
    assert batches.seen[-1] == (2, 4)
    assert len(batches.seen) == 14
    assert fitted.warnings == ("The training loss is not finite: first at epoch 2, batch 4.",)


def test_a_finite_run_is_completed():
    assert fit(luz.callbacks.StopOnNaN()).stopped == "completed"


@pytest.mark.filterwarnings("ignore:The training loss of the optimizer 'two' is not finite")
def test_each_of_several_losses_is_watched():
    model = luz.setup(lambda: TwoParts(2), nn.MSELoss())
    fitted = fit(wrong_at(1, 3, name="two"), luz.callbacks.StopOnNaN(), model=model)
    assert fitted.stopped == "not finite"


@pytest.mark.filterwarnings("ignore:The training loss is not finite")
def test_a_step_of_ones_own_is_watched():
    class Own(nn.Linear):
        def __init__(self):
            super().__init__(2, 1)

        def step(self):
            self.ctx.loss = math.inf if self.ctx.iter == 2 else 0.0

    batches = Batches()
    model = luz.setup(Own, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    assert fit(luz.callbacks.StopOnNaN(), batches, model=model).stopped == "not finite"
    assert batches.seen == [(1, 1), (1, 2)]


def test_validation_is_not_watched():
    nan = torch.full((8, 2), math.nan)
    fitted = fit(luz.callbacks.StopOnNaN(), valid_data=TensorDataset(nan, nan[:, :1]))
    assert fitted.stopped == "completed"


def test_a_step_that_mixed_precision_skips_does_not_end_the_run():
    precision = luz.callbacks.MixedPrecision(dtype=torch.float16, init_scale=2.0**40)
    assert fit(precision, luz.callbacks.StopOnNaN()).stopped == "completed"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The training loss is not finite")
def test_a_gpu_is_not_waited_for():
    batches = Batches()
    fitted = fit(wrong_at(1, 2), luz.callbacks.StopOnNaN(), batches)
    assert fitted.stopped == "not finite"
    assert (1, 2) <= batches.seen[-1] <= (1, 10)
