import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import line, regression
from torch import nn
from torch.optim import SGD
from torch.utils.data import TensorDataset

import luzpy as luz
from luzpy.finder.divergence import DivergenceMonitor
from luzpy.finder.sweep import learning_rates

X, Y = line(96, seed=0, noise=0.1)
ORDERED = {"batch_size": 16, "shuffle": False}
SWEEP = {"start_lr": 1e-4, "end_lr": 1.0, "verbose": False, "dataloader_options": ORDERED}


def batch(t):
    """The t-th batch, from 0, of the ordered data, epoch after epoch."""
    rows = slice(16 * (t % 6), 16 * (t % 6) + 16)
    return X[rows], Y[rows]


def rates(n):
    return [1e-4 * 1e4 ** (t / n) for t in range(1, n)] + [1.0]


def learning_rates_seen(seen):
    """A callback that notes the learning rate of every parameter group of every optimizer."""

    def note(ctx):
        seen.append(
            {name: [float(g["lr"]) for g in o.param_groups] for name, o in ctx.optimizers.items()}
        )

    return luz.Callback.from_functions(on_train_batch_end=note)


# ---------------------------------------------------------------- the rungs


def test_rungs_are_in_closed_form_and_the_last_is_end_lr():
    lr = learning_rates(100, 1e-6, 1, True)
    assert f"{lr[0]:.2e}" == "1.15e-06"  # as R's
    assert lr[49] == pytest.approx(1e-3, rel=1e-12)
    assert lr[-1] == 1
    assert np.diff(np.log10(lr)) == pytest.approx([6 / 100] * 99, rel=1e-9)


def test_linear_rungs_are_linear():
    assert learning_rates(4, 1.0, 3.0, False) == [1.5, 2.0, 2.5, 3.0]


@given(st.integers(1, 300), st.floats(1e-12, 1e3), st.floats(1.001, 1e12), st.booleans())
def test_rungs_rise_to_exactly_end_lr(n, start, ratio, log_spaced):
    end = start * ratio
    lr = learning_rates(n, start, end, log_spaced)
    assert len(lr) == n
    assert lr[-1] == end
    assert lr[0] > start
    assert all(a < b for a, b in itertools.pairwise(lr))


@pytest.mark.parametrize("log_spaced", [True, False])
def test_recorded_rates_are_those_that_the_optimizer_used(log_spaced):
    seen = []
    model = regression(seed=1)
    records = model.lr_finder(
        (X, Y), 20, 1e-4, 1.0, log_spaced, verbose=False, callbacks=learning_rates_seen(seen)
    )
    assert records["lr"].tolist() == [lrs["opt"][0] for lrs in seen]
    expected = rates(20) if log_spaced else [1e-4 + t / 20 * (1 - 1e-4) for t in range(1, 21)]
    assert records["lr"].tolist() == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- parameter groups


class Discriminative(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.body(x))

    def set_optimizers(self, lr, factor=10):
        return SGD(
            [
                {"params": self.body.parameters(), "lr": lr},
                {"params": self.head.parameters(), "lr": lr * factor},
            ],
            momentum=0.9,
        )


@pytest.mark.parametrize("lr", [None, 0.003])
def test_groups_keep_their_ratio_to_the_first(lr):
    seen = []
    model = luz.setup(Discriminative, nn.MSELoss(), seed=1)
    model = model if lr is None else model.set_opt_hparams(lr=lr)
    records = model.lr_finder((X, Y), 15, callbacks=learning_rates_seen(seen), **SWEEP)
    assert records["lr"].tolist() == rates(15)
    for (first, second), rate in zip([s["opt"] for s in seen], rates(15), strict=True):
        assert first == rate
        assert second == pytest.approx(10 * rate, rel=1e-12)


def test_a_rate_of_zero_is_an_error():
    model = luz.setup(Discriminative, nn.MSELoss()).set_opt_hparams(lr=0)
    with pytest.raises(luz.LuzError, match=r"`lr` of the optimizer 'opt' must not be 0"):
        model.lr_finder((X, Y), verbose=False)


def test_a_later_group_of_rate_zero_stays_frozen():
    seen = []
    model = luz.setup(Discriminative, nn.MSELoss()).set_opt_hparams(lr=0.1, factor=0)
    model.lr_finder((X, Y), 5, callbacks=learning_rates_seen(seen), **SWEEP)
    assert [s["opt"][1] for s in seen] == [0.0] * 5


def test_a_learning_rate_that_is_a_tensor_is_varied_and_the_users_own_left_alone():
    lr = torch.tensor(0.25)
    plain = luz.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), SGD, seed=1)
    records = plain.set_opt_hparams(lr=lr).lr_finder((X, Y), 12, **SWEEP)
    assert lr.item() == 0.25
    expected = plain.lr_finder((X, Y), 12, **SWEEP)
    assert records["loss"].tolist() == pytest.approx(expected["loss"].tolist(), rel=1e-5)


# ---------------------------------------------------------------- accumulation


class Accumulating(nn.Linear):
    def __init__(self, every=3):
        super().__init__(3, 1)
        self.every = every
        self.count = 0

    def step(self):
        ctx = self.ctx
        loss = ctx.loss_fn(self(ctx.input), ctx.target)
        ctx.loss = loss.detach()
        if not ctx.training:
            return
        (loss / self.every).backward()
        self.count += 1
        if self.count % self.every == 0:
            ctx.optimizers["opt"].step()
            ctx.optimizers["opt"].zero_grad()


def test_a_rung_of_several_batches_has_their_mean_loss_and_one_validation_before_them():
    torch.manual_seed(5)
    net = nn.Linear(3, 1)
    optimizer = SGD(net.parameters(), lr=1, momentum=0.9)
    expected, expected_valid = [], []
    for rung, rate in enumerate(rates(8)):
        expected_valid.append(nn.functional.mse_loss(net(X), Y).item())
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        batches = map(batch, range(3 * rung, 3 * rung + 3))
        losses = [nn.functional.mse_loss(net(x), y) for x, y in batches]
        for loss in losses:
            (loss / 3).backward()
        optimizer.step()
        expected.append(sum(loss.item() for loss in losses) / 3)

    model = luz.setup(Accumulating, nn.MSELoss(), SGD, seed=5).set_opt_hparams(momentum=0.9)
    records = model.lr_finder((X, Y), 8, valid_data=(X, Y), **SWEEP)
    assert records["lr"].tolist() == rates(8)
    assert records["loss"].tolist() == pytest.approx(expected, rel=1e-6)
    assert records["valid_loss"].tolist() == pytest.approx(expected_valid, rel=1e-6)


def test_a_step_that_never_steps_ends_with_an_error():
    class Idle(nn.Linear):
        def step(self):
            self.ctx.loss = self.weight.sum().detach()

    model = luz.setup(Idle, nn.MSELoss(), SGD).set_hparams(in_features=3, out_features=1)
    with pytest.raises(luz.LuzError, match="`step` must step the optimizer"):
        model.lr_finder((X, Y), 5, verbose=False, dataloader_options={"batch_size": 1})


def test_a_step_that_sets_no_loss_is_an_error():
    class Silent(nn.Linear):
        def step(self):
            self.ctx.optimizers["opt"].step()

    model = luz.setup(Silent, nn.MSELoss(), SGD).set_hparams(in_features=3, out_features=1)
    with pytest.raises(luz.LuzError, match=r"`step` must set `ctx\.loss`"):
        model.lr_finder((X, Y), 5, verbose=False)


# ---------------------------------------------------------------- several optimizers


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x):
        return self.a(x) + self.b(x)

    def loss(self, input, target):
        function = nn.functional.mse_loss if self.ctx.opt_name == "a" else nn.functional.l1_loss
        return function(input, target)

    def set_optimizers(self, lr=0.01):
        return {"a": SGD(self.a.parameters(), lr=lr), "b": SGD(self.b.parameters(), lr=lr)}


def hand_sweep_of_two(n, varied):
    """Losses a, b and learning rates at every rung, of a loop without luzpy."""
    torch.manual_seed(3)
    net = Two()
    optimizers = net.set_optimizers()
    functions = {"a": nn.functional.mse_loss, "b": nn.functional.l1_loss}
    found = []
    for t, rate in enumerate(rates(n)):
        x, y = batch(t)
        for name in varied:
            optimizers[name].param_groups[0]["lr"] = rate
        losses = {}
        for name, optimizer in optimizers.items():
            net.zero_grad()
            loss = functions[name](net(x), y)
            loss.backward()
            optimizer.step()
            losses[name] = loss.item()
        found.append(losses)
    return found


@pytest.mark.parametrize("opt_name", ["a", "b"])
def test_opt_name_varies_one_optimizer_and_records_its_loss(opt_name):
    seen = []
    model = luz.setup(Two, seed=3)
    records = model.lr_finder(
        (X, Y), 10, opt_name=opt_name, callbacks=learning_rates_seen(seen), **SWEEP
    )
    expected = hand_sweep_of_two(10, [opt_name])
    assert records["loss"].tolist() == [losses[opt_name] for losses in expected]
    other = {"a": "b", "b": "a"}[opt_name]
    assert [s[other] for s in seen] == [[0.01]] * 10


def test_all_optimizers_are_varied_by_default_and_their_mean_loss_recorded():
    records = luz.setup(Two, seed=3).lr_finder((X, Y), 10, **SWEEP)
    expected = [(losses["a"] + losses["b"]) / 2 for losses in hand_sweep_of_two(10, "ab")]
    assert records["loss"].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_rung_lasts_until_every_varied_optimizer_has_stepped():
    class Alternating(Two):
        def step(self):
            ctx = self.ctx
            name = "a" if ctx.iter % 2 else "b"
            ctx.optimizers[name].zero_grad()
            loss = nn.functional.mse_loss(self(ctx.input), ctx.target)
            loss.backward()
            ctx.optimizers[name].step()
            ctx.loss = loss.detach()

    seen = []
    callback = learning_rates_seen(seen)
    luz.setup(Alternating, nn.MSELoss(), seed=3).lr_finder((X, Y), 6, callbacks=callback, **SWEEP)
    assert [s["a"][0] for s in seen] == [rate for rate in rates(6) for _ in "ab"]


def test_an_unknown_opt_name_is_an_error():
    with pytest.raises(luz.LuzError, match=r"`opt_name` must be one of 'a', 'b', got 'c'\."):
        luz.setup(Two).lr_finder((X, Y), opt_name="c", verbose=False)


# ---------------------------------------------------------------- when it stops


def first_rise(losses, stop_div):
    """The rung that ends the sweep, straight from the definition; None if none does."""
    smoothed = []
    for n in range(1, len(losses) + 1):
        weights = [0.1 * 0.9 ** (n - 1 - i) for i in range(n)]
        smoothed.append(
            math.fsum(w * v for w, v in zip(weights, losses[:n], strict=True)) / (1 - 0.9**n)
        )
    for t in range(1, len(losses)):
        best = min(range(t), key=smoothed.__getitem__)
        seen = max(smoothed[: best + 1]) - smoothed[best]
        if seen > 0 and smoothed[t] > smoothed[best] + stop_div * seen:
            return t
    return None


def first_stop(stop_div, losses):
    monitor = DivergenceMonitor(stop_div)
    monitor.update(losses)
    return monitor.stop


@pytest.mark.parametrize("stop_div", [0.3, 1, 4.0])
def test_stop_div_stops_where_its_definition_says(stop_div):
    stopped = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        falling = 2 + rng.normal(0, 0.3, 60) - np.linspace(0, 1.5, 60)
        losses = [*falling, *(falling[-1] * 1.25 ** np.arange(1, 20))]
        expected = first_rise(losses, stop_div)
        found = first_stop(stop_div, losses)
        assert found == (None if expected is None else (expected, "diverged"))
        stopped += expected is not None
    assert stopped > 50


def test_without_a_fall_stop_div_never_stops():
    assert first_stop(0.1, [float(n) for n in range(50)]) is None


def test_without_stop_div_only_a_loss_that_is_not_finite_stops():
    losses = [3.0, 2.0, 1.0, 1e30, 5e30]
    assert first_stop(None, losses) is None
    assert first_stop(None, [*losses, math.inf, 1.0]) == (5, "not finite")
    assert first_stop(None, [math.nan]) == (0, "not finite")


def test_the_sweep_ends_with_the_rung_that_has_risen_too_far():
    model = regression(seed=1)
    options = {"start_lr": 1e-3, "end_lr": 100, "verbose": False, "dataloader_options": ORDERED}
    everything = model.lr_finder((X, Y), 60, **options)
    records = model.lr_finder((X, Y), 60, stop_div=2.0, **options)
    assert records.stopped == "diverged"
    last = first_rise(everything["loss"].tolist(), 2.0)
    assert records["loss"].tolist() == everything["loss"].tolist()[: last + 1]


def test_a_loss_that_is_not_finite_is_the_last_row():
    model = regression(seed=1)
    records = model.lr_finder((X, Y), 60, 1e-3, 1e30, verbose=False, dataloader_options=ORDERED)
    assert records.stopped == "not finite"
    finite = np.isfinite(records["loss"])
    assert finite.iloc[:-1].all()
    assert not finite.iloc[-1]
    assert len(records) < 60


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, ValueError, ZeroDivisionError])
def test_a_loss_that_raises_after_one_that_is_not_finite_ends_the_sweep(raises, error):
    calls = []

    def loss(input, target):
        calls.append(1)
        if len(calls) > 4 and raises:
            raise error("diverged")
        return nn.functional.mse_loss(input, target) * (math.nan if len(calls) >= 4 else 1)

    records = regression(loss=loss).lr_finder((X, Y), 30, **SWEEP)
    assert (len(records), records.stopped) == (4, "not finite")


@pytest.mark.parametrize("valid_data", [None, (X, (Y > 0).float())])
def test_a_loss_that_refuses_the_prediction_of_a_diverged_model_is_not_finite(valid_data):
    def net():
        return nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1), nn.Sigmoid())

    model = luz.setup(net, nn.BCELoss(), SGD, seed=1).set_opt_hparams(momentum=0.9)
    data = (100 * X, (Y > 0).float())
    records = model.lr_finder(data, 100, 1, 1e38, valid_data=valid_data, verbose=False)
    assert records.stopped == "not finite"
    assert np.isfinite(records["loss"].iloc[:-1]).all()
    assert math.isnan(records["loss"].iloc[-1])
    assert 2 < len(records) < 100


def test_an_error_before_the_model_diverges_is_raised():
    calls = []

    def loss(input, target):
        calls.append(1)
        if len(calls) == 4:
            raise ValueError("no such class")
        return nn.functional.mse_loss(input, target)

    with pytest.raises(ValueError, match="no such class"):
        regression(loss=loss).lr_finder((X, Y), **SWEEP)


def test_an_error_at_the_first_rung_is_raised_whatever_the_prediction():
    def loss(input, target):
        raise ValueError("wrong shape")

    with pytest.raises(ValueError, match="wrong shape"):
        regression(loss=loss).lr_finder(TensorDataset(X * math.nan, Y), **SWEEP)
