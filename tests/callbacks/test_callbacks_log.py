import pytest
import torch
from models import line
from torch import nn

import luzpy as luz

X, Y = line(64)
MODEL = luz.setup(
    lambda: nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD, luz.metrics.MAE(), seed=3
).set_opt_hparams(lr=0.05)


class Killed(Exception):
    pass


def fit(*callbacks, epochs=4):
    torch.manual_seed(11)
    return MODEL.fit(
        (X, Y), epochs=epochs, valid_data=(X, Y), callbacks=list(callbacks), verbose=False
    )


def killed_then_resumed(fn, path, hook, epoch):
    """A run that is killed at a hook of an epoch, and again begun."""

    def kill(ctx):
        if ctx.epoch == epoch:
            raise Killed

    resume = luz.callbacks.AutoResume(path)
    with pytest.raises(Killed):
        fit(luz.callbacks.Log(fn), resume, luz.Callback.from_functions(**{hook: kill}))
    return fit(luz.callbacks.Log(fn), luz.callbacks.AutoResume(path))


def expected(fitted):
    """Step → values, of the frame of all metrics."""
    rows = {}
    for row in fitted.get_metrics().itertuples():
        rows.setdefault(row.epoch, {})[f"{row.set}_{row.metric}"] = row.value
    return rows


def test_the_values_of_every_epoch_are_handed_over():
    seen = []
    fitted = fit(luz.callbacks.Log(lambda values, step: seen.append((step, values))))
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert dict(seen) == expected(fitted)
    assert list(seen[0][1]) == ["train_loss", "train_mae", "valid_loss", "valid_mae"]


@pytest.mark.parametrize(
    ("hook", "epoch"),
    [("on_train_batch_end", 2), ("on_epoch_begin", 3), ("on_epoch_end", 3), ("on_fit_end", 4)],
)
def test_nothing_is_handed_over_twice_after_a_kill(tmp_path, hook, epoch):
    seen = []
    fitted = killed_then_resumed(
        lambda values, step: seen.append((step, values)), tmp_path / "state.pt", hook, epoch
    )
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert dict(seen) == expected(fitted)


def test_an_epoch_that_is_broken_off_is_not_handed_over():
    seen = []

    def stop(ctx):
        if ctx.epoch == 2:
            ctx.stop("enough")

    fit(
        luz.callbacks.Log(lambda values, step: seen.append(step)),
        luz.Callback.from_functions(on_train_batch_end=stop),
    )
    assert seen == [1]


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="`fn` must be a function"):
        luz.callbacks.Log("wandb")


# What trackers warn of within themselves is theirs.
THEIRS = pytest.mark.filterwarnings("ignore")


@THEIRS
def test_mlflow_has_each_epoch_once(tmp_path, monkeypatch):
    # A database would need SQLAlchemy, which mlflow-skinny does not bring.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri((tmp_path / "mlflow").as_uri())
    mlflow.set_experiment("luzpy")
    with mlflow.start_run() as run:
        fitted = killed_then_resumed(mlflow.log_metrics, tmp_path / "s.pt", "on_train_begin", 3)
    client = mlflow.MlflowClient()
    rows = expected(fitted)
    for name in rows[1]:
        history = client.get_metric_history(run.info.run_id, name)
        found = sorted((entry.step, entry.value) for entry in history)
        assert found == [(step, pytest.approx(rows[step][name])) for step in (1, 2, 3, 4)]


@THEIRS
def test_trackio_has_each_epoch_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    trackio.init(project="luzpy", name="one", embed=False)

    def log(values, step):
        trackio.log(values, step=step)

    fitted = killed_then_resumed(log, tmp_path / "s.pt", "on_train_begin", 3)
    trackio.finish()
    rows = expected(fitted)
    logs = storage.get_logs("luzpy", "one")
    assert sorted(entry["step"] for entry in logs) == [1, 2, 3, 4]
    for entry in logs:
        found = {name: entry[name] for name in rows[1]}
        assert found == pytest.approx(rows[entry["step"]])
