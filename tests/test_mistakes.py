"""The usual mistakes of a first day: each has a message that says what to write.

One row a mistake: the program, the error, and what its message (with its notes) must hold. What is
only odd, and not wrong, is a warning.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from models import regression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

X, Y = torch.randn(64, 3), torch.randn(64, 1)
LABELS = torch.randint(3, (64,))
SGD, ADAM = torch.optim.SGD, torch.optim.Adam
LOADER = DataLoader(TensorDataset(X, Y), 8)
FRAME = pd.DataFrame(X.numpy(), columns=["age", "weight", "height"])


def line():
    return nn.Linear(3, 1)


def classifier(loss=None, **options):
    return luz.setup(lambda: nn.Linear(3, 3), loss or nn.CrossEntropyLoss(), SGD, **options)


def fit(data=(X, Y), spec=None, epochs=1, **options):
    return (spec or regression()).fit(data, epochs, **{"verbose": False} | options)


class OwnPrint(luz.Callback):
    pass


def misspelt_hook():
    class Report(luz.Callback):
        def on_batch_end(self, ctx):
            print(ctx.epoch)

    return Report


def on_epoch(function):
    return fit(callbacks=[luz.Callback.from_functions(on_epoch_end=function)])


def resumed_with(tmp_path, **changed):
    """A run that was interrupted, and is started again with something changed."""
    resume = luz.callbacks.AutoResume(tmp_path / "state.pt")
    interrupt = luz.Callback.from_functions(on_epoch_end=lambda ctx: ctx.stop("paused"))
    spec = regression(seed=1)
    fit(spec=spec, epochs=3, callbacks=[interrupt, resume])
    return fit(spec=spec.set_opt_hparams(**changed), epochs=3, callbacks=[resume])


# What the program does · the error · what the message must hold.
class WithoutContext(luz.Callback):
    def on_epoch_end(self):
        pass


MISTAKES = {
    # setup
    "no loss": (
        lambda: fit(spec=luz.setup(line, None, SGD)),
        ValueError, ["`loss`", "`setup`", "method of the module"],
    ),
    "the loss's class": (
        lambda: luz.setup(line, nn.MSELoss, SGD), TypeError, ["`loss`", "MSELoss()"],
    ),
    "no optimizer": (
        lambda: luz.setup(nn.Linear, nn.MSELoss()), ValueError, ["`optimizer`", "set_optimizers"],
    ),
    "an optimizer that is made": (
        lambda: luz.setup(line, nn.MSELoss(), SGD(line().parameters(), 0.1)),
        TypeError, ["`optimizer`", "torch.optim.SGD", "set_opt_hparams(lr=...)"],
    ),
    "a metric's class": (
        lambda: luz.setup(line, nn.MSELoss(), SGD, [luz.metrics.MAE]),
        TypeError, ["`metrics`", "MAE()"],
    ),
    "a metric by name": (
        lambda: luz.setup(line, nn.MSELoss(), SGD, ["mae"]), TypeError, ["`metrics`", "'mae'"],
    ),
    "another library's name of lr": (
        lambda: fit(spec=regression().set_opt_hparams(learning_rate=0.1)),
        TypeError, ["`opt_hparams`", "learning_rate", "SGD"],
    ),
    "lr as text": (
        lambda: fit(spec=regression().set_opt_hparams(lr="fast")),
        TypeError, ["`opt_hparams`", "lr='fast'"],
    ),
    "lr in setup": (
        lambda: luz.setup(line, nn.MSELoss(), SGD, lr=0.1),
        TypeError, ["`lr`", "set_opt_hparams(lr=...)"],
    ),
    "a loss by name": (lambda: luz.setup(line, "mse", SGD), TypeError, ["'mse'", "nn.MSELoss()"]),
    "an optimizer by name": (
        lambda: luz.setup(line, nn.MSELoss(), "adam"), TypeError, ["'adam'", "torch.optim.Adam"],
    ),
    "a device as the accelerator's first argument": (
        lambda: luz.Accelerator("cuda"), TypeError, ['luz.Accelerator(device="cuda")'],
    ),
    "an argument that the module has not": (
        lambda: fit(spec=regression(nn.Linear).set_hparams(width=3)),
        TypeError, ["`hparams`", "width", "Linear"],
    ),
    "hparams of an instance": (
        lambda: regression(line()).set_hparams(width=3), ValueError, ["`hparams`", "the class"],
    ),
    "setup of what setup made": (
        lambda: luz.setup(regression(), nn.MSELoss(), SGD), TypeError, ["`module`", "nn.Module"],
    ),
    # fit
    "x and y apart": (
        lambda: regression().fit(X, Y), TypeError, ["`epochs`", "fit((x, y)", "Tensor"],
    ),
    "x and y apart, and epochs": (
        lambda: regression().fit(X, Y, 10), TypeError, ["`epochs`", "fit((x, y)"],
    ),
    "x and y apart, and epochs by name": (
        lambda: regression().fit(X, Y, epochs=10), TypeError,
        ["`epochs`", "twice", "fit((x, y), epochs=...)"],
    ),
    "the learning rate without its name": (
        lambda: regression().set_opt_hparams(0.1), TypeError, ["set_opt_hparams(lr=0.1)"],
    ),
    "hparams without their names": (
        lambda: regression().set_hparams(64), TypeError, ["set_hparams(n_hidden=64)"],
    ),
    "the finder of a fitted model": (
        lambda: fit().lr_finder((X, Y)), AttributeError, ["`setup`", "model.lr_finder"],
    ),
    "arrays apart": (
        lambda: regression().fit(X.numpy(), Y.numpy()), TypeError, ["`epochs`", "fit((x, y)"],
    ),
    "frames apart": (
        lambda: regression().fit(FRAME, FRAME["age"]), TypeError, ["`epochs`", "fit((x, y)"],
    ),
    "the column of a frame as target": (
        lambda: regression().fit(FRAME, "age"),
        TypeError, ["`epochs`", "fit((frame.drop(columns='age'), frame['age'])"],
    ),
    "an optimizer of the model": (
        lambda: fit(
            spec=regression(optimizer=lambda net, lr: torch.optim.SGD(net.parameters(), lr))
        ),
        AttributeError, ["`optimizer`", "the model's parameters", "lambda parameters:"],
    ),
    "a hook without the context": (
        lambda: fit(callbacks=[WithoutContext()]),
        TypeError, ["`on_epoch_end`", "WithoutContext", "def on_epoch_end(self, ctx)"],
    ),
    "lr in fit": (lambda: fit(lr=0.1), TypeError, ["`lr`", "set_opt_hparams(lr=...)"]),
    "Keras' validation_split": (
        lambda: fit(validation_split=0.2), TypeError, ["`validation_split`", "valid_data=0.2"],
    ),
    "Keras' validation_data": (
        lambda: fit(validation_data=(X, Y)), TypeError, ["`validation_data`", "valid_data="],
    ),
    "shuffle in fit": (
        lambda: fit(shuffle=False),
        TypeError, ["`shuffle`", 'dataloader_options={"shuffle": ...}'],
    ),
    "num_epochs": (lambda: fit(num_epochs=3), TypeError, ["`num_epochs`", "epochs="]),
    "a misspelt argument": (lambda: fit(callback=[]), TypeError, ["`callback`", "callbacks="]),
    "luz.fit of a plain module": (
        lambda: luz.fit(line(), (X, Y)), TypeError, ["`model`", "luz.setup("],
    ),
    "luz.lr_finder of a plain module": (
        lambda: luz.lr_finder(line(), (X, Y)), TypeError, ["`model`", "luz.setup("],
    ),
    "luz.fit of a plain module's class": (
        lambda: luz.fit(nn.Linear, (X, Y)), TypeError, ["`model`", "luz.setup("],
    ),
    "predict before fit": (
        lambda: regression().predict(X), AttributeError, ["predict", "fitted = model.fit("],
    ),
    "evaluate before fit": (
        lambda: regression().evaluate((X, Y)), AttributeError, ["evaluate", "fitted = model.fit("],
    ),
    "luz.predict before fit": (
        lambda: luz.predict(regression(), X), TypeError, ["`fitted`", "LuzModule", "model.fit("],
    ),
    "the model's parameters": (
        lambda: regression().parameters(), AttributeError, ["parameters", "model()"],
    ),
    "a specification in scikit-learn": (
        lambda: regression().get_params(), AttributeError, ["luz.sklearn"],
    ),
    "a file's name as data": (
        lambda: fit("train.csv"), TypeError, ["`data`", "str", "DataLoader"],
    ),
    "no data": (lambda: fit(None), TypeError, ["`data`", "None"]),
    "no target": (lambda: fit(X), ValueError, ["target", "(x, y)"]),
    "no target in the dataset": (
        lambda: fit(TensorDataset(X)), ValueError, ["target", "(x, y)"],
    ),
    "no epochs": (lambda: fit(epochs=0), ValueError, ["`epochs`", "0"]),
    "half an epoch": (lambda: fit(epochs=2.5), TypeError, ["`epochs`", "2.5"]),
    "batch_size twice": (
        lambda: fit(batch_size=8, dataloader_options={"batch_size": 8}),
        ValueError, ["`batch_size`", "`dataloader_options`"],
    ),
    "batch_size beside a DataLoader": (
        lambda: fit(LOADER, batch_size=8), ValueError, ["`batch_size`", "DataLoader"],
    ),
    "a batch larger than the data": (
        lambda: fit(batch_size=128), ValueError, ["`data`", "`batch_size`", "drop_last"],
    ),
    "validation of everything": (lambda: fit(valid_data=1.0), ValueError, ["`valid_data`", "1.0"]),
    "a share of a DataLoader": (
        lambda: fit(LOADER, valid_data=0.2), ValueError, ["`valid_data`", "DataLoader"],
    ),
    # data
    "text in a frame": (
        lambda: fit((FRAME.assign(city="Bonn"), Y)), TypeError, ["'city'", "get_dummies"],
    ),
    "x longer than y": (lambda: fit((X, Y[:60])), ValueError, ["`data`", "64 and 60"]),
    "targets of shape (N,) for outputs of (N, 1)": (
        lambda: fit((X, Y[:, 0])), ValueError, ["(32, 1)", "(32,)", "unsqueeze"],
    ),
    "outputs of (N,) for targets of (N, 1)": (
        lambda: fit(spec=regression(lambda: nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)))),
        ValueError, ["(32, 1)", "(32,)"],
    ),
    "whole numbers as targets of BCEWithLogits": (
        lambda: fit((X, (Y > 0).long()), regression(loss=nn.BCEWithLogitsLoss())),
        Exception, ["float"],
    ),
    "class numbers as floats": (
        lambda: fit((X, LABELS.float()), classifier()), Exception, ["long"],
    ),
    "class numbers as a column": (
        lambda: fit((X, LABELS[:, None]), classifier()), Exception, ["in the loss", "[32, 1]"],
    ),
    "a class too many": (
        lambda: fit((X, LABELS + 1), classifier()), Exception, ["in the loss", "out of bounds"],
    ),
    "another number of features": (
        lambda: fit((X[:, :2], Y)), RuntimeError, ["in the module Linear", "epoch 1, iteration 1"],
    ),
    "a frame with a column missing": (
        lambda: fit((FRAME, Y)).predict(FRAME.drop(columns="age")),
        ValueError, ["`newdata`", "'age'"],
    ),
    "a frame with a column too many": (
        lambda: fit((FRAME, Y)).predict(FRAME.assign(shoe=1.0)),
        ValueError, ["`newdata`", "'shoe'"],
    ),
    # callbacks
    "a hook that does not exist": (
        misspelt_hook, TypeError, ["on_batch_end", "on_train_batch_end"],
    ),
    "a callback's class": (
        lambda: fit(callbacks=[OwnPrint]), TypeError, ["`callbacks`", "OwnPrint()"],
    ),
    "a function as a callback": (
        lambda: fit(callbacks=[print]), TypeError, ["`callbacks`", "Callback.from_functions"],
    ),
    "a scheduler as a callback": (
        lambda: fit(callbacks=[torch.optim.lr_scheduler.StepLR(SGD(line().parameters(), 0.1), 1)]),
        TypeError, ["luz.callbacks.LRScheduler(StepLR, ...)"],
    ),
    "validation data in the place of callbacks": (
        lambda: regression().fit((X, Y), 1, (X, Y)), TypeError, ["valid_data=(x, y)"],
    ),
    "a monitor that does not exist": (
        lambda: fit(callbacks=[luz.callbacks.EarlyStopping("train_accuracy", mode="max")]),
        luz.LuzError, ["`monitor`", "'train_loss'", "'train_accuracy'"],
    ),
    "a monitor without a set": (
        lambda: luz.callbacks.EarlyStopping("loss"), ValueError, ["`monitor`", "'valid_loss'"],
    ),
    "validation is monitored, and there is none": (
        lambda: fit(callbacks=[luz.callbacks.EarlyStopping()]),
        luz.LuzError, ["`valid_data`", "'train_loss'"],
    ),
    "half an epoch of patience": (
        lambda: luz.callbacks.EarlyStopping(patience=1.5), TypeError, ["`patience`", "1.5"],
    ),
    "a direction that nobody knows": (
        lambda: fit(
            spec=regression(metrics=[lambda preds, target: 0.0]), epochs=2,
            callbacks=[luz.callbacks.KeepBestModel("train_<lambda>")],
        ),
        luz.LuzError, ["`mode`", "'min'", "'max'"],
    ),
    "a mistyped field of the context": (
        lambda: on_epoch(lambda ctx: ctx.epcoh), AttributeError, ["epcoh", "on_epoch_end"],
    ),
    "a scheduler without its arguments": (
        lambda: fit(callbacks=[luz.callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR)]),
        TypeError, ["`lr_scheduler`", "step_size"],
    ),
    # metrics
    "probabilities are wanted": (
        lambda: fit(
            (X, (Y > 0).float()),
            regression(metrics=[luz.metrics.BinaryAccuracy()], loss=nn.BCEWithLogitsLoss()),
        ),
        ValueError, ["BinaryAccuracyWithLogits"],
    ),
    # results and files
    "no such plot option": (
        lambda: fit().plot(smooth=0.9), TypeError, ["smooth"],
    ),
    "x and y apart in evaluate": (
        lambda: fit().evaluate(X, Y), TypeError, ["evaluate((x, y))", "of shape (64, 1)"],
    ),
    "Keras' history": (lambda: fit().history, AttributeError, ["get_metrics()", "records"]),
    "the fitted model's parameters": (
        lambda: fit().parameters(), AttributeError, ["fitted.model.parameters"],
    ),
    "no such metric": (lambda: fit().evaluate((X, Y))["acc"], KeyError, ["loss", "'acc'"]),
    # lr_finder
    "from high to low": (
        lambda: regression().lr_finder((X, Y), start_lr=1, end_lr=0.1, verbose=False),
        ValueError, ["`start_lr`", "`end_lr`"],
    ),
    "no steps": (
        lambda: regression().lr_finder((X, Y), steps=0, verbose=False), ValueError, ["`steps`"],
    ),
    "epochs for the finder": (
        lambda: regression().lr_finder((X, Y), epochs=3, verbose=False),
        TypeError, ["`epochs`", "steps="],
    ),
    "early stopping in the finder": (
        lambda: regression().lr_finder(
            (X, Y), callbacks=[luz.callbacks.EarlyStopping("train_loss")], verbose=False
        ),
        ValueError, ["EarlyStopping"],
    ),
    "rates that are all too high": (
        lambda: regression().lr_finder(
            (X, Y), start_lr=1e3, end_lr=1e6, verbose=False
        ).suggest(),
        luz.NoSuggestionError, ["start_lr"],
    ),
}  # fmt: skip


def said(err):
    return "\n".join([str(err), *getattr(err, "__notes__", [])])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_a_message_that_says_what_to_do(mistake):
    program, kind, parts = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        program()
    message = said(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert len(message) < 700, "a message is no dump of data"


def test_another_learning_rate_after_a_kill_is_not_taken_for_the_first(tmp_path):
    with pytest.raises(luz.LuzError) as caught:
        resumed_with(tmp_path, lr=0.5)
    for part in ("state.pt", "lr", "0.01", "0.5", "on_change"):
        assert part in str(caught.value)


def test_columns_in_another_order_are_put_right():
    fitted = fit((FRAME, Y))
    assert torch.equal(fitted.predict(FRAME[FRAME.columns[::-1]]), fitted.predict(FRAME))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:The training loss is not finite")
def test_what_is_not_finite_in_memory_is_warned_of_by_column(value):
    frame = FRAME.copy()
    frame.iloc[[1, 5, 9], 0] = value
    with pytest.warns(UserWarning, match=r"'age' \(3\)"):
        fit((frame, Y))
