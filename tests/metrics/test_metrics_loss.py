import math

import pytest
import torch
from models import TwoParts, regression
from torch import nn

import luzpy as luz
from luzpy.metrics.loss import LossAverage


class Gan(TwoParts):
    """Two optimizers whose losses differ."""

    def loss(self, input, target):
        error = ((input - target) ** 2).mean()
        return error if self.ctx.opt_name == "one" else 2 * error


def test_batches_are_weighted_by_their_rows():
    metric = LossAverage()
    for loss, rows in ((1.0, 3), (2.0, 3), (10.0, 1)):
        metric.update({"opt": torch.tensor(loss)}, rows)
    assert metric.compute() == pytest.approx((3 * 1 + 3 * 2 + 1 * 10) / 7)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 10, 50])
def test_the_mean_does_not_depend_on_the_batch_size(batch_size):
    torch.manual_seed(0)
    x, y = torch.randn(10, 2), torch.randn(10, 1)
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.0)
    model = model.set_hparams(in_features=2, out_features=1)
    options = {"batch_size": batch_size, "drop_last": False}
    fitted = model.fit((x, y), 1, valid_data=(x, y), verbose=False, dataloader_options=options)
    expected = ((model()(x) - y) ** 2).mean().item()
    assert list(fitted.get_metrics()["value"]) == pytest.approx([expected, expected], rel=1e-5)


def test_several_optimizers_have_a_loss_each():
    metric = LossAverage()
    for losses, rows in (((1.0, 5.0), 2), ((4.0, 2.0), 1)):
        metric.update({"a": torch.tensor(losses[0]), "b": torch.tensor(losses[1])}, rows)
    assert metric.compute() == pytest.approx({"a": 2.0, "b": 4.0})


def test_losses_that_take_turns_count_their_own_rows():
    metric = LossAverage()
    turns = [("gen", 1.0, 3), ("disc", 4.0, 2), ("gen", 5.0, 1), ("disc", 7.0, 1)]
    for name, loss, rows in turns:
        metric.update({name: torch.tensor(loss)}, rows)
    # gen: (3 * 1 + 1 * 5) / 4; disc: (2 * 4 + 1 * 7) / 3
    assert metric.compute() == {"gen": 2.0, "disc": 5.0}


class TakesTurns(nn.Module):
    """The generator's loss is 2 in odd batches, the discriminator's 6 in even ones."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def set_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def step(self):
        name, loss = ("gen", 2.0) if self.ctx.iter % 2 else ("disc", 6.0)
        self.ctx.loss = {name: torch.tensor(loss)}


def test_a_custom_step_may_take_turns():
    x = torch.randn(40, 1)
    fitted = luz.setup(TakesTurns).fit(x, 1, verbose=False, dataloader_options={"batch_size": 10})
    rows = fitted.get_metrics()
    assert dict(zip(rows["metric"], rows["value"], strict=True)) == {"loss_gen": 2, "loss_disc": 6}


def test_turns_are_merged_by_their_names():
    one, two, idle = LossAverage(), LossAverage(), LossAverage()
    one.update({"gen": torch.tensor(1.0)}, 3)
    two.update({"gen": torch.tensor(5.0)}, 1)
    two.update({"disc": torch.tensor(7.0)}, 2)
    one.merge([two, idle])
    one.update({"disc": torch.tensor(4.0)}, 1)
    # gen: (3 * 1 + 1 * 5) / 4; disc: (2 * 7 + 1 * 4) / 3
    assert one.compute() == {"gen": 2.0, "disc": 6.0}


@pytest.mark.parametrize("loss", [3.0, float("nan")])  # NaN: the mean over no rows
def test_a_batch_without_rows_weighs_nothing(loss):
    metric = LossAverage()
    metric.update({"opt": torch.tensor(loss)}, 0)
    assert metric.compute() == {}
    metric.update({"opt": torch.tensor(2.0)}, 4)
    metric.update({"opt": torch.tensor(loss)}, 0)
    assert metric.compute() == 2.0


def test_a_loss_per_optimizer_has_a_row_of_its_own():
    x = torch.randn(40, 1)
    fitted = regression(Gan(1), None, loss=None, lr=0.0).fit(
        (x, x), 1, valid_data=(x, x), verbose=False
    )
    frame = fitted.get_metrics()
    assert list(frame["metric"]) == ["loss_one", "loss_two"] * 2
    valid = frame[frame["set"] == "valid"]["value"].tolist()
    assert valid[1] == pytest.approx(2 * valid[0])


@pytest.mark.parametrize("loss", [torch.tensor(2.0), torch.tensor([2.0]), 2.0])
def test_a_custom_step_may_set_a_plain_loss(loss):
    metric = LossAverage()
    metric.update(loss, 3)
    metric.update(loss, 1)
    assert metric.compute() == 2.0


class OneTensorForAll(nn.Module):
    """The losses of all batches are written into one tensor: the number of the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.loss_so_far = torch.zeros(())

    def set_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def step(self):
        self.ctx.loss = {"opt": self.loss_so_far.fill_(self.ctx.iter)}


class Gan5(nn.Module):
    """The discriminator's loss is the batch's number, the generator has one every fifth batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def set_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def step(self):
        ctx = self.ctx
        if not ctx.training:
            return
        ctx.loss["d"] = torch.tensor(float(ctx.iter))
        if ctx.iter % 5 == 0:
            ctx.loss["g"] = torch.tensor(10.0 * ctx.iter)


def test_a_batch_without_a_loss_counts_nothing():
    x = torch.randn(48, 1)
    options = {"batch_size": 4, "drop_last": False}
    fitted = luz.setup(Gan5).fit(x, 2, valid_data=x, verbose=False, dataloader_options=options)
    train = {"loss_d": sum(range(1, 13)) / 12, "loss_g": (50 + 100) / 2}
    assert fitted.records["metrics"] == {"train": [train, train], "valid": []}
    assert fitted.evaluate(x, verbose=False).get_metrics().empty


class OneName(Gan5):
    def step(self):
        self.ctx.loss = {"d": torch.tensor(2.0)}


def test_a_name_of_a_custom_step_is_kept():
    x = torch.randn(8, 1)
    fitted = luz.setup(OneName).fit(x, 1, valid_data=x, verbose=False, batch_size=4)
    assert fitted.records["metrics"] == {"train": [{"loss_d": 2.0}], "valid": [{"loss_d": 2.0}]}


def test_the_first_batch_with_a_loss_that_is_not_finite_is_that_of_its_name():
    metric = LossAverage(own_step=True)
    for batch in range(1, 601):
        losses = {"d": torch.tensor(1.0)}
        if batch % 5 == 0:
            losses["g"] = torch.tensor(float("nan") if batch >= 590 else 1.0)
        metric.update(losses, 4)
    assert metric.first_not_finite() == {"g": 590}


# A sum of named parts -------------------------------------------------------------------------


class Parts(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def loss(self, input, target):
        return {"fit": ((input - target) ** 2).mean(), "small": 0.1 * self.weight.abs().sum()}


def test_a_dict_of_losses_is_added_up_and_its_parts_are_reported():
    x = torch.randn(20, 1)
    spec = luz.setup(Parts, None, torch.optim.SGD, seed=2).set_opt_hparams(lr=0.1)
    options = {"batch_size": 8, "drop_last": False, "shuffle": False}
    fitted = spec.fit((x, 2 * x), 2, valid_data=(x, 2 * x), verbose=False,
                      dataloader_options=options)  # fmt: skip
    module = spec()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        fits, smalls = 0.0, 0.0
        for rows in x.split(8):
            optimizer.zero_grad()
            fit = ((module(rows) - 2 * rows) ** 2).mean()
            small = 0.1 * module.weight.abs().sum()
            (fit + small).backward()
            optimizer.step()
            fits, smalls = fits + fit.item() * len(rows), smalls + small.item() * len(rows)
    assert torch.equal(fitted.model.weight, module.weight)
    train, valid = (fitted.records["metrics"][split][-1] for split in ("train", "valid"))
    assert train == pytest.approx(
        {"loss": (fits + smalls) / 20, "loss_fit": fits / 20, "loss_small": smalls / 20}
    )
    assert valid["loss"] == pytest.approx(valid["loss_fit"] + valid["loss_small"])
    assert fitted.evaluate((x, 2 * x), verbose=False)["loss_fit"] == pytest.approx(
        valid["loss_fit"]
    )


def test_the_parts_of_several_optimizers():
    class Two(Gan):
        def loss(self, input, target):
            error = super().loss(input, target)
            return {"a": error, "b": 3 * error} if self.ctx.opt_name == "one" else error

    x = torch.randn(8, 1)
    fitted = regression(lambda: Two(1), None, loss=None, lr=0.0).fit((x, x), 1, verbose=False,
                                                                     batch_size=8)  # fmt: skip
    (rows,) = fitted.records["metrics"]["train"]
    error = rows["loss_one_a"]
    assert rows == pytest.approx(
        {"loss_one": 4 * error, "loss_one_a": error, "loss_one_b": 3 * error, "loss_two": 2 * error}
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({}, "`loss` must return a scalar tensor, got dict"),
        ({"a": 1.0}, "`loss` must return a dict of scalar tensors, got 'a': 1.0"),
        ({"a": torch.ones(2)}, "`loss` must return a dict of scalar tensors, got 'a': tensor"),
    ],
)
def test_what_is_no_dict_of_losses(loss, message):
    x = torch.randn(8, 1)
    with pytest.raises(TypeError, match=message):
        regression(1, loss=lambda pred, target: loss).fit((x, x), 1, verbose=False, batch_size=4)


def test_a_custom_step_may_overwrite_its_loss():
    x = torch.randn(40, 1)
    fitted = luz.setup(OneTensorForAll).fit(
        x, 1, verbose=False, dataloader_options={"batch_size": 10}
    )
    assert fitted.get_metrics()["value"].tolist() == [2.5]


def test_a_loss_that_is_not_a_number_is_not_hidden():
    metric = LossAverage()
    metric.update({"opt": torch.tensor(1.0)}, 1)
    metric.update({"opt": torch.tensor(float("nan"))}, 1)
    assert math.isnan(metric.compute())


def test_without_a_batch_there_is_no_loss():
    assert LossAverage().compute() == {}


def test_many_batches_of_several_sizes():
    metric = LossAverage()
    for batch in range(600):  # more than are added at once
        metric.update({"opt": torch.tensor(float(batch % 2))}, 1 + 2 * (batch % 2))
    assert metric.compute() == 3 * 300 / (300 + 3 * 300)


def test_a_long_sum_keeps_its_digits():
    metric = LossAverage()
    metric.update({"opt": torch.tensor(2.0**24)}, 1)
    for _ in range(100):
        metric.update({"opt": torch.tensor(1.0)}, 1)
    assert metric.compute() == (2**24 + 100) / 101


def test_the_loss_is_not_changed():
    loss = torch.tensor(2.0)
    metric = LossAverage()
    metric.update({"opt": loss}, 3)
    metric.update({"opt": loss}, 3)
    assert loss.item() == 2.0
