"""Wrong uses of every public function: at once an error that names the argument and the value.

One row a use: an id, the call, and what the message must hold besides the argument's name in
backticks: the received value, or its type where the value itself would say little.
"""

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from models import Stream
from models import regression as model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

cb, mt = luz.callbacks, luz.metrics
X, Y = torch.zeros(40, 3), torch.zeros(40, 1)
STREAM = Stream([(torch.zeros(3), torch.zeros(1))] * 9)
SGD, STEP = torch.optim.SGD, torch.optim.lr_scheduler.StepLR
LOADER = DataLoader(TensorDataset(X, Y), 8)


class Ragged(nn.Module):
    """Predictions of another width for every number of rows."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def forward(self, x):
        return self.fc(x).expand(-1, len(x))


class Texts(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def predict(self, x):
        return "text"


def fit(spec=None, data=(X, Y), epochs=1, **kwargs):
    return (spec or model()).fit(data, epochs, **{"verbose": False} | kwargs)


def with_callback(callback):
    return fit(callbacks=[callback])


def finder(spec=None, **kwargs):
    return (spec or model()).lr_finder((X, Y), **{"steps": 3, "verbose": False} | kwargs)


def fitted(module=lambda: nn.Linear(3, 1)):
    net = module()
    return luz.FittedModule(
        model=net,
        records={"metrics": {"train": [], "valid": []}},
        hparams={},
        opt_hparams={"lr": 0.01},
        stopped="completed",
        spec=model(module),
    )


def records():
    lr = np.geomspace(1e-5, 1, 30)
    return luz.LRRecords({"lr": lr, "loss": np.linspace(3, 1, 30)})


SETUP = [
    ("module, a number", lambda: luz.setup(3), "module", "3"),
    ("module, None", lambda: luz.setup(None), "module", "None"),
    ("module, another class", lambda: luz.setup(dict), "module", "dict"),
    ("module, a specification", lambda: luz.setup(model()), "module", "setup"),
    ("module that makes nothing", lambda: fit(model(lambda: None)), "module", "NoneType"),
    ("module that makes a class", lambda: fit(model(lambda: nn.Linear)), "module", "type"),
    ("loss, none", lambda: fit(luz.setup(lambda: nn.Linear(3, 1), optimizer=SGD)), "loss", "None"),
    ("loss, a number", lambda: luz.setup(nn.Linear, 3, SGD), "loss", "3"),
    ("loss, a name", lambda: luz.setup(nn.Linear, "mse", SGD), "loss", "'mse'"),
    ("loss, a class", lambda: luz.setup(nn.Linear, nn.MSELoss, SGD), "loss", "MSELoss"),
    ("loss, a float", lambda: fit(model(loss=lambda i, t: 1.0)), "loss", "float"),
    ("loss, None given back", lambda: fit(model(loss=lambda i, t: None)), "loss", "NoneType"),
    (
        "loss of items",
        lambda: fit(model(loss=nn.MSELoss(reduction="none"))),
        "loss",
        "(32, 1)",
    ),
    (
        "loss, detached",
        lambda: fit(model(loss=lambda i, t: i.sum().detach())),
        "loss",
        "graph",
    ),
    ("optimizer, none", lambda: luz.setup(nn.Linear, nn.MSELoss()), "optimizer", "None"),
    ("optimizer, a name", lambda: luz.setup(nn.Linear, nn.MSELoss(), "sgd"), "optimizer", "'sgd'"),
    (
        "optimizer, an instance",
        lambda: luz.setup(nn.Linear, nn.MSELoss(), SGD(nn.Linear(1, 1).parameters(), 0.1)),
        "optimizer",
        "instance",
    ),
    (
        "optimizer, something else made",
        lambda: fit(luz.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), lambda p: 3)),
        "optimizer",
        "int",
    ),
    ("metrics, a class", lambda: model(metrics=[mt.MAE]), "metrics", "MAE"),
    ("metrics, a name", lambda: model(metrics="mae"), "metrics", "'mae'"),
    ("metrics, a number", lambda: model(metrics=[mt.MAE(), 3]), "metrics", "3"),
    ("metrics, one twice", lambda: model(metrics=[mt.MAE(), mt.MAE()]), "metrics", "'mae'"),
    ("backward, a name", lambda: model(backward="b"), "backward", "'b'"),
    ("seed, a fraction", lambda: model(seed=1.5), "seed", "1.5"),
    ("seed, negative", lambda: model(seed=-1), "seed", "-1"),
    ("seed, True", lambda: model(seed=True), "seed", "True"),
    ("seed, too large", lambda: model(seed=2**63), "seed", str(2**63)),
    ("set_seed, text", lambda: model().set_seed("a"), "seed", "'a'"),
    (
        "set_hparams of an instance",
        lambda: model(nn.Linear(3, 1)).set_hparams(bias=False),
        "hparams",
        "bias",
    ),
]

FIT = [
    ("data, None", lambda: fit(data=None), "data", "NoneType"),
    ("data, a number", lambda: fit(data=3), "data", "int"),
    ("data, a path", lambda: fit(data="train.csv"), "data", "str"),
    ("data, empty", lambda: fit(data=(X[:0], Y[:0])), "data", "none"),
    ("data, an empty tuple", lambda: fit(data=()), "data", "()"),
    ("data, a single number", lambda: fit(data=torch.tensor(3.0)), "data", "3.0"),
    ("data, unequal", lambda: fit(data=(X, Y[:3])), "data", "40 and 3"),
    ("data, text", lambda: fit(data=np.array(["a", "b"])), "data", "<U1"),
    ("data, objects", lambda: fit(data=np.array([None, 1])), "data", "object"),
    (
        "data, a column of text",
        lambda: fit(data=(pd.DataFrame({"a": [1.0], "city": ["x"]}), Y[:1])),
        "data[0]",
        "'city'",
    ),
    (
        "data, a column of text in polars",
        lambda: fit(data=(pl.DataFrame({"a": [1.0], "city": ["x"]}), Y[:1])),
        "data[0]",
        "'city'",
    ),
    ("data, fewer rows than a batch", lambda: fit(data=(X[:5], Y[:5])), "data", "none"),
    (
        "data, batches without rows",
        lambda: fit(data=DataLoader([1], collate_fn=lambda rows: (X[:0], Y[:0]))),
        "data",
        "without any",
    ),
    ("valid_data, 0", lambda: fit(valid_data=0), "valid_data", "0"),
    ("valid_data, 1.0", lambda: fit(valid_data=1.0), "valid_data", "1.0"),
    ("valid_data, negative", lambda: fit(valid_data=-0.1), "valid_data", "-0.1"),
    ("valid_data, not a number", lambda: fit(valid_data=math.nan), "valid_data", "nan"),
    ("valid_data, True", lambda: fit(valid_data=True), "valid_data", "True"),
    ("valid_data, too few rows", lambda: fit(valid_data=0.001), "valid_data", "0.001"),
    ("valid_data, text", lambda: fit(valid_data="10%"), "valid_data", "str"),
    ("valid_data, empty", lambda: fit(valid_data=(X[:0], Y[:0])), "valid_data", "none"),
    (
        "valid_data, a fraction of a loader",
        lambda: fit(data=LOADER, valid_data=0.1),
        "valid_data",
        "0.1",
    ),
    (
        "valid_data, a fraction of a stream",
        lambda: fit(data=STREAM, valid_data=0.1),
        "valid_data",
        "0.1",
    ),
    ("epochs, 0", lambda: fit(epochs=0), "epochs", "0"),
    ("epochs, a fraction", lambda: fit(epochs=1.5), "epochs", "1.5"),
    ("epochs, True", lambda: fit(epochs=True), "epochs", "True"),
    ("epochs, text", lambda: fit(epochs="3"), "epochs", "'3'"),
    ("epochs, None", lambda: fit(epochs=None), "epochs", "None"),
    ("epochs, the wrong way round", lambda: fit(epochs=(5, 2)), "epochs", "(5, 2)"),
    ("epochs, three", lambda: fit(epochs=(1, 2, 3)), "epochs", "(1, 2, 3)"),
    ("callbacks, a class", lambda: fit(callbacks=[cb.Profile]), "callbacks", "Profile"),
    ("callbacks, one class", lambda: fit(callbacks=cb.Profile), "callbacks", "Profile"),
    ("callbacks, a function", lambda: fit(callbacks=[print]), "callbacks", "print"),
    ("callbacks, text", lambda: fit(callbacks="Profile"), "callbacks", "'Profile'"),
    ("accelerator, text", lambda: fit(accelerator="cpu"), "accelerator", "'cpu'"),
    ("verbose, 2", lambda: fit(verbose=2), "verbose", "2"),
    (
        "dataloader_options, a list",
        lambda: fit(dataloader_options=[8]),
        "dataloader_options",
        "[8]",
    ),
    (
        "dataloader_options, unknown",
        lambda: fit(dataloader_options={"batchsize": 8}),
        "dataloader_options",
        "batchsize",
    ),
    (
        "dataloader_options, batch_size 0",
        lambda: fit(dataloader_options={"batch_size": 0}),
        "dataloader_options",
        "0",
    ),
    (
        "dataloader_options with a loader",
        lambda: fit(data=LOADER, dataloader_options={"batch_size": 8}),
        "dataloader_options",
        "batch_size",
    ),
    ("batch_size, 0", lambda: fit(batch_size=0), "batch_size", "0"),
    ("batch_size, text", lambda: fit(batch_size="all"), "batch_size", "'all'"),
    (
        "batch_size twice",
        lambda: fit(batch_size=8, dataloader_options={"batch_size": 4}),
        "batch_size",
        "8 and 4 in `dataloader_options`",
    ),
    (
        "batch_size twice, finder",
        lambda: finder(batch_size=8, dataloader_options={"batch_size": 8}),
        "batch_size",
        "`dataloader_options`",
    ),
    (
        "batch_size with a loader",
        lambda: fit(data=LOADER, batch_size=8),
        "batch_size",
        "8: set it where the DataLoader is made",
    ),
    (
        "batch_size with a loader, evaluate",
        lambda: fitted().evaluate(LOADER, batch_size=8),
        "batch_size",
        "8: set it where the DataLoader is made",
    ),
    (
        "batch_size with a loader, predict",
        lambda: fitted().predict(LOADER, batch_size=8),
        "batch_size",
        "8: set it where the DataLoader is made",
    ),
    *(
        (
            f"valid_data, a fraction beside a {name}",
            lambda name=name: fit(valid_data=0.2, dataloader_options={name: [[3], [4]]}),
            "valid_data",
            f"0.2: the `{name}` would take rows of validation too",
        )
        for name in ("sampler", "batch_sampler")
    ),
    (
        "opt_hparams, unknown",
        lambda: fit(model().set_opt_hparams(momentums=0.9)),
        "opt_hparams",
        "momentums",
    ),
    ("hparams, unknown", lambda: fit(model(nn.Linear).set_hparams(size=3)), "hparams", "size"),
]

USE = [
    ("evaluate, data None", lambda: fitted().evaluate(None), "data", "NoneType"),
    ("evaluate, metrics a name", lambda: fitted().evaluate((X, Y), "mae"), "metrics", "'mae'"),
    (
        "evaluate, verbose text",
        lambda: fitted().evaluate((X, Y), verbose="no"),
        "verbose",
        "'no'",
    ),
    ("evaluate, something else", lambda: luz.evaluate(3, (X, Y)), "fitted", "int"),
    ("evaluate, not fitted", lambda: luz.evaluate(model(), (X, Y)), "fitted", "LuzModule"),
    ("predict, newdata None", lambda: fitted().predict(None), "newdata", "NoneType"),
    ("predict, empty", lambda: fitted().predict(X[:0]), "newdata", "none"),
    ("predict, not fitted", lambda: luz.predict(model(), X), "fitted", "LuzModule"),
    ("predict, stack text", lambda: fitted().predict(X, stack="no"), "stack", "'no'"),
    ("predict, shapes", lambda: fitted(Ragged).predict(X), "stack", "size"),
    ("predict, text", lambda: fitted(Texts).predict(X), "stack", "str"),
    ("get_metrics, a model", lambda: luz.get_metrics(model()), "x", "<LuzModule of"),
    ("plot, text", lambda: luz.plot("loss"), "x", "str"),
    ("plot, nothing to see", lambda: luz.plot(fitted()), "x", "none"),
    ("plot, an empty list", lambda: luz.plot([]), "x", "none"),
    ("plot, a list of others", lambda: luz.plot([records(), 3]), "x", "int"),
    ("plot, labels", lambda: luz.plot([records()], labels=["a", "b"]), "labels", "2"),
    ("as_dataset, a set", lambda: luz.as_dataset({1, 2}), "data", "set"),
    ("as_dataset, None within", lambda: luz.as_dataset((X, None)), "data[1]", "NoneType"),
    (
        "as_dataset, too large",
        lambda: luz.as_dataset(np.array([2**64 - 1])),
        "data",
        str(2**64 - 1),
    ),
    ("as_dataloader, a number", lambda: luz.as_dataloader(3), "data", "int"),
    (
        "as_dataloader, options twice",
        lambda: luz.as_dataloader(LOADER, batch_size=3),
        "dataloader_options",
        "batch_size",
    ),
    ("Accelerator, index 99", lambda: luz.Accelerator(cuda_index=99), "cuda_index", "99"),
    ("Accelerator, index text", lambda: luz.Accelerator(cuda_index="0"), "cuda_index", "'0'"),
    ("Context.call, a hook", lambda: with_callback(CallsWrongHook()), "hook", "'on_epoch'"),
]


class CallsWrongHook(luz.Callback):
    def on_fit_begin(self, ctx):
        ctx.call("on_epoch")


FINDER = [
    ("steps, 0", lambda: finder(steps=0), "steps", "0"),
    ("steps, a fraction", lambda: finder(steps=1.5), "steps", "1.5"),
    ("steps, None of a stream", lambda: model().lr_finder(STREAM, None), "steps", "None"),
    ("start_lr, 0", lambda: finder(start_lr=0), "start_lr", "0"),
    ("start_lr, above end_lr", lambda: finder(start_lr=1, end_lr=0.1), "start_lr", "1"),
    ("end_lr, infinite", lambda: finder(end_lr=math.inf), "end_lr", "inf"),
    ("end_lr, text", lambda: finder(end_lr="1"), "end_lr", "'1'"),
    ("runs, 0", lambda: finder(runs=0), "runs", "0"),
    ("runs, True", lambda: finder(runs=True), "runs", "True"),
    ("valid_batches, 0", lambda: finder(valid_batches=0), "valid_batches", "0"),
    ("stop_div, 0", lambda: finder(stop_div=0), "stop_div", "0"),
    ("stop_div, text", lambda: finder(stop_div="4"), "stop_div", "'4'"),
    ("opt_name, unknown", lambda: finder(opt_name="d"), "opt_name", "'d'"),
    (
        "callbacks, one that writes",
        lambda: finder(callbacks=cb.AutoResume("a.pt")),
        "callbacks",
        "AutoResume",
    ),
    (
        "callbacks, one that schedules",
        lambda: finder(callbacks=[cb.LRScheduler(STEP, 1)]),
        "callbacks",
        "LRScheduler",
    ),
    ("suggest, a method", lambda: records().suggest("best"), "method", "'best'"),
    ("smoothed, beta 1", lambda: records().smoothed(1), "beta", "1"),
    ("smoothed, beta text", lambda: records().smoothed("0.9"), "beta", "'0.9'"),
    ("plot, beta -1", lambda: records().plot(beta=-1), "beta", "-1"),
]

CALLBACKS = [
    ("EarlyStopping, monitor", lambda: cb.EarlyStopping("loss"), "monitor", "'loss'"),
    ("EarlyStopping, mode", lambda: cb.EarlyStopping(mode="low"), "mode", "'low'"),
    ("EarlyStopping, min_delta", lambda: cb.EarlyStopping(min_delta=-1), "min_delta", "-1"),
    ("EarlyStopping, patience", lambda: cb.EarlyStopping(patience="3"), "patience", "'3'"),
    ("EarlyStopping, baseline", lambda: cb.EarlyStopping(baseline="a"), "baseline", "'a'"),
    ("EarlyStopping, no validation", lambda: with_callback(cb.EarlyStopping()), "monitor", "valid"),
    (
        "EarlyStopping, no such metric",
        lambda: with_callback(cb.EarlyStopping("train_acc")),
        "monitor",
        "'train_acc'",
    ),
    ("ModelCheckpoint, path", lambda: cb.ModelCheckpoint(None), "path", "None"),
    ("ModelCheckpoint, a field", lambda: cb.ModelCheckpoint("{lr}.pt"), "path", "'lr'"),
    ("ModelCheckpoint, monitor", lambda: cb.ModelCheckpoint("a", "x"), "monitor", "'x'"),
    (
        "ModelCheckpoint, save_best_only",
        lambda: cb.ModelCheckpoint("a", save_best_only="yes"),
        "save_best_only",
        "'yes'",
    ),
    ("KeepBestModel, mode", lambda: cb.KeepBestModel(mode=1), "mode", "1"),
    ("AutoResume, path", lambda: cb.AutoResume(3), "path", "3"),
    ("AutoResume, every", lambda: cb.AutoResume("a", 0), "every_n_batches", "0"),
    ("ResumeFromCheckpoint, path", lambda: cb.ResumeFromCheckpoint(None), "path", "None"),
    (
        "ResumeFromCheckpoint, a flag",
        lambda: cb.ResumeFromCheckpoint("a", restore_records="no"),
        "restore_records",
        "'no'",
    ),
    ("LRScheduler, a name", lambda: cb.LRScheduler("step"), "lr_scheduler", "'step'"),
    ("LRScheduler, call_on", lambda: cb.LRScheduler(STEP, 1, call_on="x"), "call_on", "'x'"),
    ("LRScheduler, monitor", lambda: cb.LRScheduler(STEP, 1, monitor="x"), "monitor", "'x'"),
    (
        "LRScheduler, opt_name",
        lambda: with_callback(cb.LRScheduler(STEP, 1, opt_name="d")),
        "opt_name",
        "'d'",
    ),
    (
        "LRScheduler, an argument",
        lambda: with_callback(cb.LRScheduler(STEP, step=1)),
        "lr_scheduler",
        "step",
    ),
    ("CSVLogger, path", lambda: cb.CSVLogger(3), "path", "3"),
    ("GradientClip, max_norm", lambda: cb.GradientClip("a"), "max_norm", "'a'"),
    ("GradientClip, negative", lambda: cb.GradientClip(-1), "max_norm", "-1"),
    ("GradientClip, norm_type", lambda: cb.GradientClip(norm_type=0), "norm_type", "0"),
    ("MixedPrecision, dtype", lambda: cb.MixedPrecision(dtype=torch.int8), "dtype", "int8"),
    ("MixedPrecision, an option", lambda: cb.MixedPrecision(scale=2), "grad_scaler_options", "2"),
    ("Mixup, alpha", lambda: cb.Mixup(alpha=0), "alpha", "0"),
    ("Mixup, run_valid", lambda: cb.Mixup(run_valid="no"), "run_valid", "'no'"),
    ("CutMix, alpha", lambda: cb.CutMix(alpha="a"), "alpha", "'a'"),
    ("CutMix, no images", lambda: with_callback(cb.CutMix()), "x", "(32, 3)"),
    ("TFEvents, histograms", lambda: cb.TFEvents(histograms="w"), "histograms", "'w'"),
    ("TFEvents, logdir", lambda: cb.TFEvents(3), "logdir", "3"),
    (
        "TFEvents, no such parameter",
        lambda: with_callback(cb.TFEvents("unused", ["w"])),
        "histograms",
        "'w'",
    ),
    (
        "from_functions, no hook",
        lambda: luz.Callback.from_functions(on_end=print),
        "on_end",
        "hooks",
    ),
    (
        "from_functions, no function",
        lambda: luz.Callback.from_functions(on_fit_end=3),
        "on_fit_end",
        "3",
    ),
]

METRICS = [
    ("BinaryAUROC, thresholds", lambda: mt.BinaryAUROC(1), "num_thresholds", "1"),
    ("BinaryAUROC, a list", lambda: mt.BinaryAUROC(thresholds=[2]), "thresholds", "2"),
    ("BinaryAUROC, logits", lambda: mt.BinaryAUROC(from_logits=1), "from_logits", "1"),
    ("MulticlassAUROC, average", lambda: mt.MulticlassAUROC(average="x"), "average", "'x'"),
    ("MulticlassAUROC, shape", lambda: mt.MulticlassAUROC().update(Y[:, 0], Y), "preds", "(40,)"),
    ("MAE, shapes", lambda: mt.MAE().update(X, Y), "target", "(40, 1)"),
    ("RMSE, shapes", lambda: mt.RMSE().update(X, X[:3]), "target", "(3, 3)"),
    ("Accuracy, shapes", lambda: mt.Accuracy().update(X, X), "target", "(40, 3)"),
    ("MetricSet, a class", lambda: mt.MetricSet(valid_metrics=mt.MSE), "metrics", "MSE"),
    ("MetricSet, twice", lambda: mt.MetricSet(mt.MSE(), mt.MSE()), "metrics", "'mse'"),
    ("mixup, whole numbers", lambda: luz.nn.mixup(X.long(), Y, Y), "x", "int64"),
    ("mixup, rows", lambda: luz.nn.mixup(X, Y[:3], Y), "y", "3"),
    ("mixup, weights", lambda: luz.nn.mixup(X, Y, Y[:3]), "weight", "(3, 1)"),
    ("MixupLoss, a name", lambda: luz.nn.MixupLoss("mse"), "loss", "'mse'"),
]

FILES = [
    ("save, a module", lambda: luz.save(nn.Linear(1, 1), "a.luz"), "fitted", "Linear"),
    ("save, path", lambda: luz.save(fitted(), None), "path", "None"),
    ("save, an empty path", lambda: luz.save(fitted(), ""), "path", "''"),
    ("save, a folder", lambda: luz.save(fitted(), "."), "path", "'.'"),
    ("save_model_weights", lambda: luz.save_model_weights({}, "a.pt"), "fitted", "dict"),
    ("save_model_weights, path", lambda: luz.save_model_weights(fitted(), 3), "path", "3"),
    ("load_model_weights", lambda: luz.load_model_weights(None, "a.pt"), "fitted", "NoneType"),
    ("load_model_weights, path", lambda: luz.load_model_weights(fitted(), 3), "path", "3"),
    ("load_checkpoint", lambda: luz.load_checkpoint(model(), "a.pt"), "fitted", "LuzModule"),
    ("load_checkpoint, path", lambda: luz.load_checkpoint(fitted(), b"a"), "path", "b'a'"),
    ("load, path", lambda: luz.load(3), "path", "3"),
    ("load, module", lambda: luz.load("a", module=3), "module", "3"),
    ("load, trusted", lambda: luz.load("a", trusted="yes"), "trusted", "'yes'"),
    ("load, a device", lambda: luz.load("a", map_location="x"), "map_location", "'x'"),
]

TABLE = [*SETUP, *FIT, *USE, *FINDER, *CALLBACKS, *METRICS, *FILES]


@pytest.mark.parametrize(
    ("call", "argument", "value"), [pytest.param(*r[1:], id=r[0]) for r in TABLE]
)
def test_the_argument_and_the_value_are_named(call, argument, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError, luz.LuzError)) as caught:
        call()
    message = str(caught.value)
    assert f"`{argument}" in message
    assert value in (message.partition("got ")[2] if "got " in message else message)
    assert list(tmp_path.iterdir()) == []
