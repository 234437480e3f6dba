"""Several initial weights trained at once give what they give one after another."""

import pytest
import torch
from torch import nn

import luzpy as luz
from luzpy.core.build import build_model
from luzpy.finder.ensemble import ELEMENTWISE, Ensemble, swap_parameters, why_apart

GENERATOR = torch.Generator().manual_seed(2)
X = torch.randn(96, 6, generator=GENERATOR)
Y = X[:, :1] - X[:, 1:2] ** 2
SWEEP = dict(  # noqa: C408
    steps=30, start_lr=1e-5, end_lr=1e-2, verbose=False, dataloader_options={"batch_size": 16}
)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))


def with_dropout_and_norm():
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
    )


def convolution():
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1)
    )


class Recurrent(nn.Module):
    """vmap cannot run it."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.gru(x[:, :, None])[0][:, -1])


class Counting(nn.Module):
    """Each training pass goes by what is in the batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, x):
        return self.layer(x) if float(self.layer(x).sum()) > 0 else -self.layer(x)


def spec(maker, optimizer=torch.optim.Adam, loss=None, **opt_hparams):
    model = luz.setup(maker, loss or nn.MSELoss(), optimizer, seed=11)
    return model.set_opt_hparams(**opt_hparams)


def apart(model, runs, **sweep):
    """The runs one after another: a callback that does nothing forbids anything else."""
    nothing = luz.Callback.from_functions(on_fit_begin=lambda ctx: None)
    return model.lr_finder((X, Y), runs=runs, callbacks=[nothing], **{**SWEEP, **sweep})


@pytest.mark.parametrize("maker", [mlp, with_dropout_and_norm, convolution])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_losses_are_those_of_runs_one_after_another(maker, optimizer, capsys):
    model = spec(maker, optimizer)
    together = model.lr_finder((X, Y), runs=4, **{**SWEEP, "verbose": True})
    assert "4 runs together" in capsys.readouterr().out
    torch.testing.assert_close(
        torch.tensor(together["loss"].to_numpy()),
        torch.tensor(apart(model, 4)["loss"].to_numpy()),
        rtol=1e-4,
        atol=1e-5,
    )


def test_validation_losses_too():
    # With Adam the bias before the batch norm, whose gradient is rounding alone, would go astray.
    model = spec(with_dropout_and_norm, torch.optim.SGD)
    together = model.lr_finder((X, Y), runs=3, valid_data=(X[:40], Y[:40]), **SWEEP)
    alone = apart(model, 3, valid_data=(X[:40], Y[:40]))
    assert together["valid_loss"].to_numpy() == pytest.approx(
        alone["valid_loss"].to_numpy(), rel=1e-4
    )


@pytest.mark.parametrize("optimizer", ELEMENTWISE, ids=lambda optimizer: optimizer.__name__)
def test_every_optimizer_updates_stacked_weights_as_it_does_each(optimizer):
    models = [build_model(spec(mlp).set_seed(seed), {}) for seed in range(3)]
    alone = [build_model(spec(mlp).set_seed(seed), {}) for seed in range(3)]
    stacked = optimizer(models[0].parameters(), lr=0.01)
    ensemble = Ensemble(models)
    swap_parameters(stacked, models[0], ensemble)
    loss = ensemble.summed_loss(nn.MSELoss())
    for _ in range(5):
        stacked.zero_grad()
        loss(ensemble(X), Y).backward()
        stacked.step()
    for k, model in enumerate(alone):
        own = optimizer(model.parameters(), lr=0.01)
        for _ in range(5):
            own.zero_grad()
            nn.functional.mse_loss(model(X), Y).backward()
            own.step()
        for parameter, together in zip(model.parameters(), ensemble.weights, strict=True):
            torch.testing.assert_close(together[k], parameter, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (spec(Recurrent), "torch.func.vmap cannot run the model"),
        (spec(Counting), "torch.func.vmap cannot run the model"),
        (spec(mlp, torch.optim.LBFGS), "the optimizer does not update every weight by itself"),
        (spec(lambda: nn.Linear(6, 40_000)), "the model is too large to gain by it"),
    ],
    ids=["recurrent", "data-dependent", "LBFGS", "large"],
)
def test_what_cannot_be_trained_together_is_said(model, reason):
    models = [build_model(model, {}, run) for run in range(2)]
    optimizers = {"opt": model.optimizer(models[0].parameters())}
    found = why_apart(models, optimizers, nn.MSELoss(), X, Y)
    assert found is not None
    assert found.startswith(reason)


def test_a_recurrent_model_runs_one_after_another_all_the_same(capsys):
    records = spec(Recurrent).lr_finder((X, Y), runs=2, **{**SWEEP, "steps": 5, "verbose": True})
    assert "2 runs one after another: torch.func.vmap" in capsys.readouterr().out
    assert records["run"].tolist() == [1] * 5 + [2] * 5


def test_one_run_that_diverges_leaves_the_others_alone():
    def spike(pred, target):
        return nn.functional.mse_loss(pred, target)

    model = spec(mlp, torch.optim.SGD, spike)
    found = model.lr_finder((X, Y), runs=6, **{**SWEEP, "steps": 60, "end_lr": 1e3})
    alone = apart(model, 6, steps=60, end_lr=1e3)
    ends = found.groupby("run").size()
    assert ends.tolist() == alone.groupby("run").size().tolist()
    assert (ends < 60).any()
    assert found.stopped == "not finite"


def test_the_models_and_the_random_state_are_left_alone():
    models = [build_model(spec(with_dropout_and_norm), {}, run) for run in range(2)]
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    state = torch.get_rng_state()
    optimizers = {"opt": torch.optim.SGD(models[0].parameters())}
    assert why_apart(models, optimizers, nn.MSELoss(), X, Y) is None
    assert torch.equal(torch.get_rng_state(), state)
    for model, kept in zip(models, before, strict=True):
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
