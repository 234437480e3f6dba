"""Short trainings at rates around the suggestion."""

import copy
import pickle

import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz


def made(n=640, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(n, 1, generator=generator)


X, Y = made()
VALID = made(96, 1)
QUIET = {"verbose": False}
SWEEP = {"steps": 40, "start_lr": 1e-5, "end_lr": 10}


def spec(optimizer=torch.optim.SGD, module=lambda: nn.Linear(4, 1), **options):
    return luz.setup(module, nn.MSELoss(), optimizer, seed=5, **options)


def in_order():
    return DataLoader(TensorDataset(X, Y), batch_size=16)


def find(model=None, data=None, **options):
    chosen = {"valid_data": VALID, "confirm": 2, "confirm_steps": 8} | SWEEP | QUIET | options
    return (spec() if model is None else model).lr_finder(
        in_order() if data is None else data, **chosen
    )


def trained_by_hand(lr, steps, seed=5):
    net = spec().set_seed(seed)()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for x, y in list(in_order())[:steps]:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return float(nn.functional.mse_loss(net(VALID[0]), VALID[1]))


def test_the_trainings_are_those_of_a_hand_written_loop():
    confirmed = find().confirmed
    assert confirmed.columns.tolist() == ["lr", "steps", "loss", "seed"]
    for _, row in confirmed.iterrows():
        expected = trained_by_hand(row["lr"], int(row["steps"]), int(row["seed"]))
        assert row["loss"] == pytest.approx(expected, rel=1e-4)


def test_rounds_are_halved_and_the_last_is_run_from_other_weights_too():
    records = find(confirm=3, confirm_steps=12)
    confirmed = records.confirmed
    rounds = dict(list(confirmed.groupby("steps", sort=False)))
    assert list(rounds) == [3, 6, 12]
    rates = {steps: set(part["lr"]) for steps, part in rounds.items()}
    assert [len(rates[3]), len(rounds[3])] == [8, 8]
    for steps in (3, 6):
        means = rounds[steps].groupby("lr")["loss"].mean().sort_values()
        half = set(means.index[: len(means) // 2])
        further = rates[2 * steps]
        assert half <= further <= rates[steps]
        assert len(further - half) <= 1  # the curve's suggestion
    assert set(rounds[12]["seed"]) == {5, 6}
    assert set(rounds[6]["seed"]) == {5}


def test_three_rounds_cost_about_ten_sweeps():
    """As the docstring and the article say."""
    records = find(confirm=3, confirm_steps=None)
    sweeps = records.confirmed["steps"].sum() / len(records)
    assert sweeps == pytest.approx(10, abs=1.5)


def test_the_suggestion_is_taken_from_the_trainings():
    # The rule's suggestion for the sweep is far below what a training of 40 steps does best with.
    records = find(confirm=3, confirm_steps=39)
    table = records.suggestions().set_index("method")
    assert records.suggest() == table["lr"]["confirmed"]
    assert table["low"]["confirmed"] <= records.suggest() <= table["high"]["confirmed"]
    last = records.confirmed[records.confirmed["steps"] == 39].groupby("lr")["loss"].mean()
    with torch.no_grad():
        start = float(nn.functional.mse_loss(spec()()(VALID[0]), VALID[1]))
    assert last[records.suggest()] - last.min() <= 0.05 * (start - last.min())
    line = repr(records).splitlines()[-1]
    assert line.startswith(f"Completed; suggestion {records.suggest():.2g}, confirmed")


def test_other_rules_stay_those_of_the_curve():
    plain = spec().lr_finder(in_order(), valid_data=VALID, **SWEEP, **QUIET)
    records = find()
    assert records.suggest("minimum") == plain.suggest("minimum")
    assert records["loss"].tolist() == plain["loss"].tolist()
    assert records.columns.tolist() == plain.columns.tolist()
    assert plain.confirmed is None


@pytest.mark.parametrize(
    "keep",
    [
        lambda r: r.copy(),
        copy.deepcopy,
        lambda r: pickle.loads(pickle.dumps(r)),
        lambda r: r[10:],
        luz.LRRecords,
    ],
)
def test_it_stays_through_copies(keep):
    records = find()
    assert keep(records).confirmed.equals(records.confirmed)
    assert keep(records).suggest() == records.suggest()


def test_the_picture_has_its_points_and_the_rates_that_are_as_good():
    records = find(confirm=3, confirm_steps=39)
    figure = records.plot(suggest=True).draw()
    texts = {text.get_text() for text in figure.findobj(matplotlib.text.Text)}
    points = [c for c in figure.axes[0].collections if len(c.get_offsets()) > 1]
    plt.close(figure)
    row = records.suggestions().set_index("method").loc["confirmed"]
    assert f"suggested {row['lr']:.1e}" in texts
    assert "held-out, 39 steps" in texts
    if row["high"] > row["low"]:
        assert f"as good {row['low']:.1e} to {row['high']:.1e}" in texts
    last = records.confirmed[records.confirmed["steps"] == 39].groupby("lr")["loss"].mean()
    drawn = {(round(x, 4), round(y, 4)) for c in points for x, y in c.get_offsets()}
    assert drawn == {(round(np.log10(lr), 4), round(loss, 4)) for lr, loss in last.items()}


def test_without_valid_data_rows_are_put_aside():
    records = find(data=(X, Y), valid_data=None, batch_size=16)
    assert records.columns.tolist()[:2] == ["lr", "loss"]
    assert "valid_loss" not in records
    assert np.isfinite(records.confirmed["loss"]).all()


def test_nothing_of_the_users_is_disturbed():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = luz.setup(net, nn.MSELoss(), torch.optim.Adam)
    state = torch.get_rng_state()
    find(model, (X, Y), valid_data=None, batch_size=16, end_lr=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training


class Own(nn.Module):
    """A module without `reset_parameters` of its own: other weights cannot be drawn."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 1))

    def forward(self, x):
        return x @ self.weight


def test_weights_that_cannot_be_drawn_anew_are_those_of_every_round():
    assert set(find(luz.setup(Own(), nn.MSELoss(), torch.optim.SGD, seed=5)).confirmed["seed"]) == {
        5
    }


@pytest.mark.parametrize(("at", "trials"), [(45, None), (85, 4)])
def test_ctrl_c_leaves_what_the_curve_says(at, trials):
    """In the second look at the batches, and in the trainings."""
    count = []

    def press(ctx):
        count.append(1)
        if len(count) == at:
            raise KeyboardInterrupt

    records = find(callbacks=luz.Callback.from_functions(on_train_batch_begin=press))
    plain = spec().lr_finder(in_order(), **SWEEP, **QUIET)
    assert "initial_loss" in plain  # so that there are 40 batches and 40 again
    assert records.stopped == "interrupted"
    assert len(records) == 40
    if trials is None:
        assert records.confirmed is None
        assert "initial_loss" not in records
    else:
        assert len(records.confirmed) < trials
        assert records.suggest() == plain.suggest()


def test_several_optimizers_have_one_rate():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.b(self.a(x))

        def set_optimizers(self, lr=0.1):
            return {
                "a": torch.optim.SGD(self.a.parameters(), lr=lr),
                "b": torch.optim.SGD(self.b.parameters(), lr=lr),
            }

    records = find(luz.setup(Two, nn.MSELoss(), seed=5), end_lr=1)
    assert len(records.confirmed) >= 8
    assert records.suggest() > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"confirm": 0}, ValueError, "`confirm` must be"),
        ({"confirm": 1.5}, TypeError, "`confirm` must be"),
        ({"confirm_steps": 0}, ValueError, "`confirm_steps` must be"),
        ({"confirm": None}, ValueError, "`confirm_steps` is how long the last round"),
        ({"valid_data": None}, ValueError, "`valid_data` must be given with `confirm`"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        find(**options)


class Counted(nn.Linear):
    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return super().forward(x)


def with_own_rate(parameters, lr):
    weight, bias = parameters
    return torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": lr / 10}], lr=lr)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
        (torch.optim.AdamW, {"weight_decay": 0.5}),
        (torch.optim.Adamax, {}),
        (torch.optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        (torch.optim.RAdam, {"weight_decay": 0.1}),
        (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
        (torch.optim.Adagrad, {"lr_decay": 0.1}),
        (torch.optim.Adadelta, {"weight_decay": 0.1}),
        (with_own_rate, {}),
        (torch.optim.Adam, {"groups": {"bias": {"lr": 1e-3}}}),
    ],
)
def test_small_models_are_trained_at_all_rates_at_once(optimizer, options, monkeypatch):
    def confirmed():
        Counted.calls = 0
        model = spec(optimizer, lambda: Counted(4, 1)).set_opt_hparams(**options)
        found = find(model, steps=20, end_lr=1, confirm=3, confirm_steps=40).confirmed
        return found, Counted.calls

    together, few = confirmed()
    monkeypatch.setattr("luzpy.finder.ensemble.MAX_PARAMETERS", 0)
    apart, many = confirmed()
    assert few < many / 2
    columns = ["lr", "steps", "seed"]
    assert together[columns].equals(apart[columns])
    np.testing.assert_allclose(together["loss"], apart["loss"], rtol=1e-4)


def test_a_rate_that_diverges_leaves_the_others_alone(monkeypatch):
    def confirmed():
        sweep = {"start_lr": 1, "end_lr": 1e9, "confirm": 3, "confirm_steps": 40}
        return find(spec(module=lambda: Counted(4, 1)), **sweep).confirmed

    together = confirmed()
    monkeypatch.setattr("luzpy.finder.ensemble.MAX_PARAMETERS", 0)
    apart = confirmed()
    assert not np.isfinite(together["loss"]).all()
    np.testing.assert_allclose(together["loss"], apart["loss"], rtol=1e-4)


@pytest.mark.parametrize("size", [None, 40, 36])
def test_a_batch_as_large_as_the_data_leaves_a_smaller_one_to_train_on(size):
    x, y = X[: size or 34], Y[: size or 34]
    options = {} if size is None else {"batch_size": size}
    records = find(data=(x, y), valid_data=None, **options)
    assert len(records) == SWEEP["steps"]
    assert np.isfinite(records.confirmed["loss"]).any()
