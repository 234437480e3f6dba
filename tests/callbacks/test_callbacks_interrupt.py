"""`Interrupt`: a real SIGINT in a real process, and what comes of it."""

import os
import queue
import signal
import subprocess
import sys
import threading

import pytest
import torch
from models import regression
from torch import nn

import luzpy as luz

DATA = (torch.ones(64, 2), torch.ones(64, 1))


def fit(epochs=3, **kwargs):
    return regression(2).fit(DATA, epochs, verbose=False, **kwargs)


def epochs_of(fitted):
    return [len(fitted.records["metrics"][split]) for split in ("train", "valid")]


# In this process -----------------------------------------------------------------------------


@pytest.fixture
def handler():
    """A SIGINT handler of the user's own, which a run must put back."""

    def own(signum, frame):
        raise AssertionError("the run was over")

    before = signal.signal(signal.SIGINT, own)
    yield own
    signal.signal(signal.SIGINT, before)


class Press(luz.Callback):
    """Ctrl-C, from the system, at a hook of an epoch."""

    def __init__(self, hook, epoch=2):
        def press(ctx):
            if ctx.epoch == epoch:
                os.kill(os.getpid(), signal.SIGINT)

        setattr(self, hook, press)


class Listener(luz.Callback):
    def __init__(self):
        self.heard = []

    def on_train_batch_end(self, ctx):
        self.heard.append("batch")

    def on_early_stopping(self, ctx):
        self.heard.append("early stopping")

    def on_interrupt(self, ctx):
        self.heard.append("interrupt")

    def on_fit_end(self, ctx):
        self.heard.append("fit end")


@pytest.mark.parametrize(
    ("hook", "batches", "epochs"),
    [
        ("on_epoch_begin", 3, [2, 1]),
        ("on_train_batch_begin", 3, [2, 1]),
        ("on_train_batch_before_step", 3, [2, 1]),
        ("on_train_batch_end", 3, [2, 1]),
        ("on_valid_batch_begin", 4, [2, 2]),
        ("on_epoch_end", 4, [2, 2]),
    ],
)
def test_first_ctrl_c_ends_training_after_the_batch(handler, hook, batches, epochs):
    listener = Listener()
    fitted = fit(callbacks=[Press(hook), listener], valid_data=DATA)
    assert fitted.stopped == "interrupted"
    assert listener.heard == [*["batch"] * batches, "interrupt", "fit end"]
    assert epochs_of(fitted) == epochs
    assert len(fitted.records["profile"]["fit"]) == 1
    assert fitted.predict(DATA[0], verbose=False).shape == (64, 1)


def test_batch_of_the_first_ctrl_c_is_trained_on(handler):
    # the weights are those of three whole steps, by hand
    fitted = fit(callbacks=Press("on_train_batch_after_pred"))
    net = fitted.spec()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(3):
        opt.zero_grad()
        nn.functional.mse_loss(net(DATA[0][:32]), DATA[1][:32]).backward()
        opt.step()
    assert torch.equal(fitted.model.weight, net.weight)


def test_the_partial_epoch_is_in_the_records(handler):
    # Two batches an epoch, of errors 0 and 2: after the first one the mean square is 0.
    y = torch.zeros(64, 1)
    y[32:] = 2
    model = luz.setup(lambda: nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD, luz.metrics.MAE())

    def zero(ctx):
        for parameter in ctx.model.parameters():
            parameter.zero_()

    callbacks = [luz.Callback.from_functions(on_fit_begin=zero), Press("on_train_batch_begin")]
    fitted = model.set_opt_hparams(lr=0.0).fit(
        (DATA[0], y), 3, callbacks, verbose=False, dataloader_options={"shuffle": False}
    )
    assert fitted.records["metrics"]["train"] == [{"loss": 2, "mae": 1}, {"loss": 0, "mae": 0}]
    assert fitted.records["partial"] == {"epoch": [2], "set": ["train"], "batch": [1]}
    assert repr(fitted).splitlines()[1] == "Stopped in epoch 2, after batch 1: interrupted"


def test_a_metric_that_fails_does_not_lose_an_interrupted_fit(handler):
    class Fails(luz.Metric):
        def reset(self):
            self.batches = 0

        def update(self, preds, target):
            self.batches += 1

        def compute(self):
            if self.batches < 2:
                raise RuntimeError("too few batches")
            return self.batches

    fitted = regression(2, metrics=Fails()).fit(
        DATA, 3, Press("on_train_batch_begin"), verbose=False
    )
    first, second = fitted.records["metrics"]["train"]
    assert (first["fails"], "fails" in second) == (2, False)
    assert second["loss"] > 0


@pytest.mark.parametrize("hook", ["on_interrupt", "on_fit_end"])
def test_second_ctrl_c_raises(handler, hook):
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[Press("on_train_batch_begin"), Press(hook)])
    assert signal.getsignal(signal.SIGINT) is handler


def test_second_ctrl_c_raises_at_once_within_a_batch(handler):
    listener = Listener()
    presses = [Press("on_train_batch_begin"), Press("on_train_batch_after_loss")]
    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[*presses, listener])
    assert listener.heard == ["batch"] * 2  # those of epoch 1, no hook after


def test_handler_is_put_back_however_the_run_ends(handler):
    def fail(ctx):
        raise RuntimeError("enough")

    fit()
    assert signal.getsignal(signal.SIGINT) is handler
    fit(callbacks=Press("on_train_begin"))
    assert signal.getsignal(signal.SIGINT) is handler
    fit(callbacks=luz.callbacks.EarlyStopping("train_loss", baseline=0))
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(RuntimeError, match="enough"):
        fit(callbacks=luz.Callback.from_functions(on_train_end=fail))
    assert signal.getsignal(signal.SIGINT) is handler


def test_fits_within_fits_put_back_each_others_handlers(handler):
    inner = luz.Callback.from_functions(on_epoch_begin=lambda ctx: fit(1))
    assert fit(callbacks=[inner, Press("on_train_begin")]).stopped == "interrupted"
    assert signal.getsignal(signal.SIGINT) is handler


def test_one_instance_starts_afresh_in_every_run(handler):
    interrupt = luz.callbacks.Interrupt()
    assert fit(callbacks=[interrupt, Press("on_train_begin")]).stopped == "interrupted"
    assert fit(callbacks=interrupt).stopped == "completed"


@pytest.mark.parametrize(
    ("hook", "epochs"),
    [("on_epoch_begin", [2, 2]), ("on_train_batch_end", [3, 2]), ("on_valid_begin", [3, 2])],
)
def test_keyboard_interrupt_raised_in_a_callback_ends_training(hook, epochs):
    # R: test-callbacks-interrupt.R, "callback interrupt works"
    def interrupt(ctx):
        if ctx.epoch == 3:
            raise KeyboardInterrupt

    listener = Listener()
    fitted = fit(
        25,
        callbacks=[luz.Callback.from_functions(**{hook: interrupt}), listener],
        valid_data=DATA,
    )
    assert fitted.stopped == "interrupted"
    assert epochs_of(fitted) == epochs
    assert listener.heard[-2:] == ["interrupt", "fit end"]


def test_keyboard_interrupt_of_the_dataset_ends_training():
    class Interrupting(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 3:
                raise KeyboardInterrupt
            return torch.zeros(2), torch.zeros(1)

    options = {"batch_size": 1, "shuffle": False}
    fitted = regression(2).fit(Interrupting(), 2, verbose=False, dataloader_options=options)
    assert (fitted.stopped, epochs_of(fitted)) == ("interrupted", [1, 0])


def test_keyboard_interrupt_in_evaluate_and_predict_is_raised():
    def interrupt(ctx):
        raise KeyboardInterrupt

    fitted = fit(1)
    callback = luz.Callback.from_functions(
        on_valid_batch_end=interrupt, on_predict_batch_end=interrupt
    )
    for verb in (fitted.evaluate, fitted.predict):
        with pytest.raises(KeyboardInterrupt):
            verb(DATA, callbacks=callback, verbose=False)
        assert not hasattr(fitted.model, "ctx")


def test_a_fit_outside_the_main_thread_leaves_signals_alone(handler):
    seen = []
    look = luz.Callback.from_functions(
        on_train_begin=lambda ctx: seen.append(signal.getsignal(signal.SIGINT))
    )
    thread = threading.Thread(target=lambda: seen.append(fit(1, callbacks=look).stopped))
    thread.start()
    thread.join()
    assert seen == [handler, "completed"]


def test_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert fit(callbacks=Press("on_train_begin")).stopped == "completed"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# In a process of its own, from outside -------------------------------------------------------

CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
import luzpy as luz

def say(*words):
    print(*words, flush=True)

def fit(hooks, data=(torch.ones(64, 2), torch.ones(64, 1))):
    model = luz.setup(lambda: nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD)
    callback = luz.Callback.from_functions(**hooks)
    fitted = model.set_opt_hparams(lr=0.01).fit(data, 10**6, callbacks=callback, verbose=False)
    return fitted.stopped

def once():
    listen = {name: lambda ctx, name=name: say(name) for name in ("on_interrupt", "on_fit_end")}
    begin = lambda ctx: ctx.epoch == 3 and say("ready")
    say(fit({"on_epoch_begin": begin, **listen}))

def twice():
    def hang(ctx):
        say("hanging")
        while True:
            time.sleep(0.01)
    fit({"on_train_begin": lambda ctx: ctx.epoch == 2 and say("ready"), "on_interrupt": hang})

class Slow(Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        time.sleep(0.2 if index > 3 else 0)
        if index == 6:
            say("ready")  # the run waits for its second batch
        return torch.zeros(2), torch.zeros(1)

def with_workers():
    # As where workers are not forks: they have Python's own handler for Ctrl-C, and end of it.
    own = lambda worker: signal.signal(signal.SIGINT, signal.default_int_handler)
    loader = DataLoader(Slow(), batch_size=4, num_workers=1, worker_init_fn=own)
    say(fit({}, loader))

for line in sys.stdin:
    try:
        globals()[line.strip()]()
    except KeyboardInterrupt:
        say("KeyboardInterrupt")
    except Exception as err:
        say(repr(err))
    restored = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    say("restored" if restored else "not restored")
"""


class Child:
    """A process that runs scenarios by name, and whose output can be waited for."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a signal reaches its workers, too, as in a terminal
        )
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip())

    def run(self, scenario):
        self.process.stdin.write(scenario + "\n")
        self.process.stdin.flush()

    def wait_for(self, wanted):
        """The lines up to and with `wanted`."""
        lines = []
        while wanted not in lines:
            lines.append(self.lines.get(timeout=300))
        return lines

    def ctrl_c(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def child():
    child = Child()
    yield child
    child.close()


def test_ctrl_c_from_outside_returns_what_is_fitted(child):
    child.run("once")
    child.wait_for("ready")
    child.ctrl_c()
    assert child.wait_for("restored") == ["on_interrupt", "on_fit_end", "interrupted", "restored"]


def test_second_ctrl_c_from_outside_raises(child):
    child.run("twice")
    child.wait_for("ready")
    child.ctrl_c()
    child.wait_for("hanging")
    child.ctrl_c()
    assert child.wait_for("restored") == ["KeyboardInterrupt", "restored"]


def test_ctrl_c_that_ends_the_workers_too_is_no_failure_of_the_data(child):
    child.run("with_workers")
    child.wait_for("ready")
    child.ctrl_c()
    assert child.wait_for("restored") == ["interrupted", "restored"]
