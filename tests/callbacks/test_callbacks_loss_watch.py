"""A training loss that is not finite is warned of, once, with the place of the first one."""

import math
import re

import pytest
import torch
from models import TwoParts, regression
from torch import nn
from torch.utils.data import TensorDataset

import luzpy as luz

X, Y = torch.ones(40, 2), torch.zeros(40, 1)


class WrongAt(nn.Module):
    """The squared error, but in the calls given (from 1) another value, such as NaN."""

    def __init__(self, *calls, value=math.nan):
        super().__init__()
        self.calls, self.value, self.count = calls, value, 0

    def forward(self, input, target):
        loss = nn.functional.mse_loss(input, target)
        if self.training:
            self.count += 1
            if self.count in self.calls:
                return loss * 0 + self.value
        return loss


def fit(loss, epochs=3, module=2, **kwargs):
    options = {"batch_size": 4, "shuffle": False}  # 10 batches an epoch
    model = regression(module, loss=loss, lr=0.0)
    return model.fit((X, Y), epochs, verbose=False, dataloader_options=options, **kwargs)


def test_a_finite_loss_is_not_warned_of():
    assert fit(WrongAt()).warnings == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_one_is_named_once(value):
    with pytest.warns(UserWarning, match="first at epoch 2, batch 7") as caught:
        fitted = fit(WrongAt(17, 19, 25, value=value))
    assert len(caught) == 1
    text = "The training loss is not finite: first at epoch 2, batch 7."
    assert fitted.warnings == (text,)
    assert f"Warning: {text}" in repr(fitted)
    assert f"<li>Warning: {text}</li>" in fitted._repr_html_()


def test_it_is_kept_in_a_file(tmp_path):
    model = luz.setup(nn.Linear, WrongAt(1), torch.optim.SGD, seed=1)
    model = model.set_hparams(in_features=2, out_features=1).set_opt_hparams(lr=0.0)
    with pytest.warns(UserWarning, match="batch 1"):
        fitted = model.fit((X, Y), 1, verbose=False)
    fitted.save(tmp_path / "net.luz")
    assert luz.load(tmp_path / "net.luz").warnings == fitted.warnings != ()


@pytest.mark.parametrize("batch", [1, 255, 256, 257, 512, 513, 600])
def test_batches_beyond_those_summed_up_at_once_are_counted(batch):
    x = torch.ones(600, 2)
    with pytest.warns(UserWarning, match=f"first at epoch 1, batch {batch}\\."):
        regression(2, loss=WrongAt(batch, 600), lr=0.0).fit(
            (x, x[:, :1]), 1, verbose=False, dataloader_options={"batch_size": 1}
        )


def test_of_several_losses_the_optimizer_is_named():
    class Own(TwoParts):
        def __init__(self):
            super().__init__(2)

        def loss(self, input, target):
            loss = nn.functional.mse_loss(input, target)
            wrong = self.ctx.training and self.ctx.opt_name == "two" and self.ctx.iter == 3
            return loss * math.nan if wrong else loss

    text = "The training loss of the optimizer 'two' is not finite: first at epoch 1, batch 3."
    with pytest.warns(UserWarning, match=re.escape(text)):
        luz.setup(Own, seed=1).set_opt_hparams(lr=0.0).fit(
            (X, Y), 1, verbose=False, dataloader_options={"batch_size": 4}
        )


def test_a_step_of_ones_own_is_watched():
    class Own(nn.Linear):
        def __init__(self):
            super().__init__(2, 1)

        def step(self):
            self.ctx.loss = torch.tensor(math.inf if self.ctx.iter == 2 else 0.0)

    model = luz.setup(Own, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    with pytest.warns(UserWarning, match="first at epoch 1, batch 2"):
        model.fit((X, Y), 1, verbose=False, dataloader_options={"batch_size": 4})


def test_a_step_without_a_loss_is_not_warned_of():
    class Own(nn.Linear):
        def __init__(self):
            super().__init__(2, 1)

        def step(self):
            pass

    model = luz.setup(Own, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    assert model.fit((X, Y), 1, verbose=False).warnings == ()


def test_a_step_that_mixed_precision_skips_is_no_such_loss():
    # 2**40 is beyond float16: every gradient overflows, and the step is skipped; the loss does not.
    precision = luz.callbacks.MixedPrecision(dtype=torch.float16, init_scale=2.0**40)
    model = regression(2, loss=nn.MSELoss(), lr=0.1)
    fitted = model.fit((X, Y), 1, precision, verbose=False)
    assert fitted.warnings == ()
    assert torch.equal(fitted.model.weight, model().weight)


def test_validation_and_evaluate_are_not_warned_of():
    nan = torch.full((8, 2), math.nan)
    fitted = fit(WrongAt(), 1, valid_data=TensorDataset(nan, nan[:, :1]))
    fitted.evaluate(TensorDataset(nan, nan[:, :1]), verbose=False)
    assert math.isnan(fitted.records["metrics"]["valid"][0]["loss"])
    assert fitted.warnings == ()


def test_the_learning_rate_finder_does_not_warn_of_what_it_looks_for():
    listener = luz.Callback.from_functions(on_epoch_begin=lambda ctx: None)
    records = regression(2, loss=WrongAt(18), lr=0.1).lr_finder(
        (X, Y), steps=40, callbacks=[listener], verbose=False, dataloader_options={"batch_size": 4}
    )
    assert (records.stopped, len(records)) == ("not finite", 18)
