"""The page that shows the loop: its code is run beside luzpy, its tables are compared with it."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from models import line
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz
from luzpy.core.hooks import HOOKS
from luzpy.verbs.fit import FIT_DEFAULTS

PAGE = (Path(__file__).parents[1] / "docs" / "what-happens-in-fit.md").read_text()


class Loop:
    """The page's code, with its calls written down."""

    def __init__(self, interfere=lambda hook: None):
        self.calls = []
        self.stopped = None
        self.interfere = interfere
        namespace = {"torch": torch, "call": self.call, "stop_reason": lambda: self.stopped}
        for block in re.findall(r"```python\n(.+?)```", PAGE, re.S):
            exec(block, namespace)
        self.fit, self.predict = namespace["fit"], namespace["predict"]
        self.validate = namespace["validate"]

    def call(self, hook):
        self.calls.append(hook)
        self.interfere(hook)


class Recorder(luz.Callback):
    def __init__(self):
        self.calls = []


for hook in HOOKS:
    setattr(Recorder, hook, lambda self, ctx, hook=hook: self.calls.append(hook))


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def set_optimizers(self, n):
        groups = [self] if n == 1 else [self[0], self[-1]]
        return {
            f"opt{i}": torch.optim.Adam(group.parameters(), 0.05) for i, group in enumerate(groups)
        }


def data(n):
    return DataLoader(TensorDataset(*line(n, seed=n)), batch_size=8)


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("n_optimizers", [1, 2])
@pytest.mark.parametrize("valid_data", [None, data(16)])
def test_the_code_is_what_fit_does(n_optimizers, valid_data):
    model = luz.setup(Net, nn.MSELoss(), seed=1).set_opt_hparams(n=n_optimizers)
    recorder, loop, plain = Recorder(), Loop(), model()
    torch.manual_seed(2)
    fitted = model.fit(data(24), 3, recorder, valid_data)
    torch.manual_seed(2)
    loop.fit(plain, plain.set_optimizers(n_optimizers), nn.MSELoss(), data(24), valid_data, 3)
    assert recorder.calls == loop.calls
    assert same_weights(fitted.model, plain)


@pytest.mark.parametrize("hook", ["on_train_begin", "on_valid_begin"])
def test_a_part_put_into_another_mode_stays_in_it(hook):
    """Statistics of batch norm that a callback holds still while training, or lets follow."""

    def change(net):
        net[2].train(not net[2].training)

    model = luz.setup(Net, nn.MSELoss(), seed=1).set_opt_hparams(n=1)
    callback = luz.Callback.from_functions(**{hook: lambda ctx: change(ctx.model)})
    torch.manual_seed(2)
    fitted = model.fit(data(24), 3, callback, data(16))
    loop, plain = Loop(lambda called: called == hook and change(plain)), model()
    torch.manual_seed(2)
    loop.fit(plain, plain.set_optimizers(1), nn.MSELoss(), data(24), data(16), 3)
    assert same_weights(fitted.model, plain)
    usual = model.fit(data(24), 3, valid_data=data(16)).model
    assert not torch.equal(plain[2].running_mean, usual[2].running_mean)


def stopping(when, stop):
    """A callback that calls `stop(ctx)` the fourth time in a run that it has the hook `when`."""
    times = []

    def count(ctx):
        times.append(None)
        if len(times) == 4:
            stop(ctx)

    return luz.Callback.from_functions(on_fit_begin=lambda ctx: times.clear(), **{when: count})


def enough(when):
    return stopping(when, lambda ctx: ctx.stop("enough"))


# How a run ends, at which hook, by which callback; there are two batches for each part of an epoch.
CTRL_C = stopping("on_train_batch_end", lambda ctx: os.kill(os.getpid(), signal.SIGINT))
ENDINGS = [
    ("completed", None, luz.Callback()),
    ("interrupted", "on_train_batch_end", CTRL_C),
    (
        "early stopping",
        "on_epoch_end",
        luz.callbacks.EarlyStopping("train_loss", baseline=0, patience=4),
    ),
    *(("enough", when, enough(when)) for when in HOOKS[1:18]),
]


@pytest.mark.parametrize(
    ("ending", "when", "callback", "with_validation"),
    [
        *((*ending, True) for ending in ENDINGS),
        *((*ending, False) for ending in ENDINGS if "valid" not in str(ending[1])),
    ],
)
def test_the_code_ends_as_fit_does(ending, when, callback, with_validation):
    model = luz.setup(Net, nn.MSELoss(), seed=1).set_opt_hparams(n=1)
    recorder, valid_data = Recorder(), data(16) if with_validation else None
    torch.manual_seed(2)
    fitted = model.fit(data(16), 6, [recorder, callback], valid_data)
    assert fitted.stopped == ending

    def interfere(hook):
        if hook == when and loop.calls.count(hook) == 4:
            loop.stopped = ending

    loop, plain = Loop(interfere), model()
    torch.manual_seed(2)
    optimizers = plain.set_optimizers(1)
    assert loop.fit(plain, optimizers, nn.MSELoss(), data(16), valid_data, 6) == ending
    assert recorder.calls == loop.calls
    assert same_weights(fitted.model, plain)


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_evaluate_and_predict_end_as_the_page_says(verb):
    model = luz.setup(Net, nn.MSELoss(), seed=1).set_opt_hparams(n=1)
    fitted = model.fit(data(8), 1)
    when = {"evaluate": "on_valid_batch_end", "predict": "on_predict_batch_end"}[verb]
    recorder, rows = Recorder(), data(80)
    found = getattr(fitted, verb)(rows, callbacks=[recorder, enough(when)], verbose=False)
    assert recorder.calls.count(when) == 4
    x, y = (part[:32] for part in rows.dataset.tensors)
    with torch.no_grad():
        expected = fitted.model(x)
    if verb == "predict":
        torch.testing.assert_close(found, expected)
    else:
        assert found["loss"] == pytest.approx(nn.functional.mse_loss(expected, y).item())


def test_a_keyboard_interrupt_of_a_callback_ends_the_run_at_once():
    recorder = Recorder()

    def press(ctx):
        raise KeyboardInterrupt

    callback = stopping("on_train_batch_after_pred", press)
    model = luz.setup(Net, nn.MSELoss(), seed=1).set_opt_hparams(n=1)
    assert model.fit(data(16), 6, [recorder, callback]).stopped == "interrupted"
    assert recorder.calls[-3:] == ["on_train_batch_after_pred", "on_interrupt", "on_fit_end"]


def test_after_an_error_on_fit_end_is_not_called():
    recorder = Recorder()

    def fail(ctx):
        raise KeyError("nothing")

    model = luz.setup(Net, nn.MSELoss(), seed=1).set_opt_hparams(n=1)
    with pytest.raises(KeyError) as caught:
        model.fit(data(16), 6, [recorder, stopping("on_train_batch_end", fail)])
    assert recorder.calls[-1] == "on_train_batch_end"
    assert "epoch 2, iteration 2 (training)" in caught.value.__notes__[0]


def test_the_code_is_what_evaluate_and_predict_do():
    model = luz.setup(Net, nn.MSELoss(), seed=1).set_opt_hparams(n=1)
    fitted = model.fit(data(8), 1)
    plain = fitted.model
    for ours, theirs in (
        (fitted.evaluate, lambda loop: loop.validate(plain, {"opt": None}, nn.MSELoss(), data(20))),
        (fitted.predict, lambda loop: list(loop.predict(plain, data(20)))),
    ):
        recorder, loop = Recorder(), Loop()
        ours(data(20), callbacks=recorder)
        theirs(loop)
        assert recorder.calls == loop.calls


def table(title):
    section = PAGE[PAGE.index(f"## {title}") :].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| ", section, re.M)[1:]
    return [re.findall(r"`(\w+)`", row) for row in rows if "---" not in row]


def test_the_default_callbacks_are_listed_in_their_order():
    assert table("What luzpy itself does") == [[default.__name__] for default in FIT_DEFAULTS]


def test_the_hooks_that_may_change_something_exist():
    listed = [hook for row in table("What a callback may change") for hook in row]
    assert set(listed) < set(HOOKS)
    assert len(listed) == len(set(listed))


class Last(luz.Callback):
    def on_epoch_end(self, ctx):
        if ctx.epoch == 2:
            ctx.max_epochs = ctx.epoch


def test_max_epochs_ends_the_run():
    model = luz.setup(Net, nn.MSELoss()).set_opt_hparams(n=1)
    assert model.fit(data(8), 9, Last()).get_metrics()["epoch"].max() == 2


SGD = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, seed=3)
SGD = SGD.set_hparams(in_features=3, out_features=1).set_opt_hparams(lr=0.1)


def double_loss(ctx):
    with torch.enable_grad():
        ctx.loss_grad = 2 * ctx.loss_grad


def double_gradients(ctx):
    for parameter in ctx.model.parameters():
        parameter.grad *= 2


CHANGES = {
    "on_fit_begin": lambda ctx: setattr(ctx, "backward", lambda loss: (2 * loss).backward()),
    "on_epoch_begin": lambda ctx: ctx.optimizers["opt"].param_groups[0].update(lr=0.2),
    "on_train_batch_after_loss": double_loss,
    "on_train_batch_before_backward": double_loss,
    "on_train_batch_before_step": double_gradients,
}


@pytest.mark.parametrize("hook", CHANGES)
def test_what_a_hook_changes_counts(hook):
    """Each of the changes makes the one step of plain SGD twice as long."""
    loader, start = data(8), SGD()
    loss = nn.functional.mse_loss(start(loader.dataset.tensors[0]), loader.dataset.tensors[1])
    loss.backward()
    fitted = SGD.fit(loader, 1, luz.Callback.from_functions(**{hook: CHANGES[hook]}))
    torch.testing.assert_close(fitted.model.weight, start.weight - 0.2 * start.weight.grad)


def test_pred_is_changed_before_the_loss_sees_it():
    loader = data(8)

    def replace(ctx):
        ctx.pred = ctx.pred * 0 + 3.0

    hook = luz.Callback.from_functions(on_valid_batch_after_pred=replace)
    fitted = SGD.fit(data(8), 1)
    loss = fitted.evaluate(loader, callbacks=hook).get_metrics()["value"][0]
    assert loss == pytest.approx(float(((3.0 - loader.dataset.tensors[1]) ** 2).mean()))
