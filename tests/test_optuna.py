"""Optuna's pruning, with Optuna itself."""

import pytest
import torch
from models import line
from torch import nn

import luzpy as luz

optuna = pytest.importorskip("optuna")
X, Y = line(64)
MODEL = luz.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD, seed=3)


def test_trials_are_pruned():
    epochs = []

    def objective(trial):
        def prune(ctx):
            trial.report(ctx.get_metric("loss", "valid"), ctx.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        model = MODEL.set_opt_hparams(lr=trial.suggest_float("lr", 1e-6, 1e-1))
        fitted = model.fit(
            (X, Y),
            epochs=6,
            valid_data=(X, Y),
            callbacks=luz.Callback.from_functions(on_epoch_end=prune),
            verbose=False,
        )
        epochs.append(fitted.get_metrics()["epoch"].max())
        return fitted.evaluate((X, Y), verbose=False)["loss"]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=2)
    study = optuna.create_study(pruner=pruner)
    for lr in (5e-2, 1e-6):  # the second learns nothing
        study.enqueue_trial({"lr": lr})
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert list(study.trials[1].intermediate_values) == [1, 2]
    assert epochs == [6]
    assert study.best_params["lr"] == 5e-2
