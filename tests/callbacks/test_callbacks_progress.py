"""`Progress`: in a real terminal, in a file, and not at all. For notebooks see test_notebook.py."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

import pytest
import torch
from models import Scale
from torch import nn

import luzpy as luz

PROGRAM = """
import sys, time
import torch
from torch import nn
from torch.utils.data import IterableDataset
import luzpy as luz

class Zero(nn.Module):
    '''Predicts 0, slowly: of targets 0.5 the loss is 0.25 and the absolute error 0.5.'''
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.pause = 0.02
    def forward(self, x):
        time.sleep(self.pause)
        return x * self.scale

class Stream(IterableDataset):
    def __iter__(self):
        return (pair for pair in zip(torch.ones(60, 1), torch.full((60, 1), 0.5)))

data = (torch.ones(60, 1), torch.full((60, 1), 0.5))
options = {"batch_size": 5}
model = luz.setup(Zero, nn.MSELoss(), torch.optim.SGD, [luz.metrics.MAE()])
model = model.set_opt_hparams(lr=0.0)
"""

SCENARIOS = {
    "fit": "fitted = model.fit(data, 2, valid_data=data, dataloader_options=options)",
    "quiet": "model.fit(data, 1, valid_data=data, dataloader_options=options, verbose=False)",
    "stream": "model.fit(Stream(), 1, dataloader_options=options)",
    "evaluate": "fitted.evaluate(data, dataloader_options=options)",
    "predict": "fitted.predict(data, dataloader_options=options)",
    "quiet predict": "fitted.predict(data, dataloader_options=options, verbose=False)",
    "stopped": """
stopping = luz.callbacks.EarlyStopping("train_loss")
model.fit(data, 9, stopping, dataloader_options=options)
""",
    "failed": """
def fail(ctx):
    if ctx.iter == 5:
        raise RuntimeError
try:
    callback = luz.Callback.from_functions(on_train_batch_end=fail)
    model.fit(data, 1, callback, dataloader_options=options)
except Exception:
    print("it failed")
""",
}


def in_terminal(program, columns=100):
    """What `program` writes to a terminal."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            chunk = b""
        if not chunk:
            break
        chunks.append(chunk)
    os.close(ours)
    assert process.wait() == 0, b"".join(chunks).decode()
    return b"".join(chunks).decode()


@pytest.fixture(scope="module")
def written():
    """Scenario → the raw text that a terminal gets. They share one process, to save time."""
    parts = [f"print('@@{name}@@', flush=True)\n{code}\n" for name, code in SCENARIOS.items()]
    text = in_terminal(PROGRAM + "".join(parts))
    _, *rest = re.split(r"@@(.+?)@@\r\n", text)
    return dict(zip(rest[::2], rest[1::2], strict=True))


def screen(text):
    """The lines that are left to see, once carriage returns have been obeyed."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        cells, column = [], 0
        for character in line:
            if character == "\r":
                column = 0
                continue
            assert character.isprintable(), repr(character)
            cells[column : column + 1] = character
            column += 1
        lines.append("".join(cells).rstrip())
    return [line for line in lines if line]


def bars(text, title):
    return [part for part in re.split(r"[\r\n]", text) if part.startswith(f"{title}:")]


def test_terminal_keeps_the_epochs_and_their_metrics(written):
    # R: test-callbacks.R, "progressbar appears with training and validation"
    assert screen(written["fit"]) == [
        "Epoch 1/2",
        "Train metrics: Loss: 0.25 - MAE: 0.5",
        "Valid metrics: Loss: 0.25 - MAE: 0.5",
        "Epoch 2/2",
        "Train metrics: Loss: 0.25 - MAE: 0.5",
        "Valid metrics: Loss: 0.25 - MAE: 0.5",
    ]


@pytest.mark.parametrize("title", ["Train", "Valid"])
def test_terminal_shows_a_bar_with_the_time_left_and_live_metrics(written, title):
    # R: test-callbacks.R, "progressbar appears with training and validation"
    shown = bars(written["fit"], title)
    assert any(re.fullmatch(title + r": 0/12 \[ {24}\] - ETA: \S+ *", bar) for bar in shown)
    live = re.compile(title + r": (\d+)/12 \[(=*) *\] - ETA: \d\d:\d\d, Loss: 0.25 - MAE: 0.5 *")
    matches = [match for bar in shown if (match := live.fullmatch(bar))]
    assert matches
    for match in matches:
        assert len(match[2]) == int(int(match[1]) * 24 / 12)


def test_stream_without_length_has_a_bar_without_an_end(written):
    # R: test-callbacks.R, "can get progress when using iterable datasets"
    shown = bars(written["stream"], "Train")
    live = r"Train: \d+batch \[\d\d:\d\d, .*Loss: 0.25 - MAE: 0.5\] *"
    assert any(re.fullmatch(live, bar) for bar in shown)
    assert screen(written["stream"]) == ["Epoch 1/1", "Train metrics: Loss: 0.25 - MAE: 0.5"]


def test_predict_has_a_bar_that_vanishes(written):
    # R: test-module.R, "predict can use a progress bar"
    shown = bars(written["predict"], "Predict")
    assert any(re.fullmatch(r"Predict: [1-9]\d*/12 \[=+ *\] - ETA: \S+ *", bar) for bar in shown)
    assert screen(written["predict"]) == []


def test_evaluate_has_a_bar_that_vanishes(written):
    assert any("Loss: 0.25 - MAE: 0.5" in bar for bar in bars(written["evaluate"], "Valid"))
    assert screen(written["evaluate"]) == []


def test_early_stopping_is_told_below_the_metrics(written):
    assert screen(written["stopped"])[-2:] == [
        "Train metrics: Loss: 0.25 - MAE: 0.5",
        "Early stopping at epoch 2 of 9",
    ]


def test_bar_of_a_failed_run_is_taken_away(written):
    assert screen(written["failed"]) == ["Epoch 1/1", "it failed"]


@pytest.mark.parametrize("scenario", ["quiet", "quiet predict"])
def test_terminal_shows_nothing_if_not_verbose(written, scenario):
    assert written[scenario] == ""


# Where standard output is a file ---------------------------------------------------------------


class Two(Scale):
    def __init__(self):
        super().__init__(0.0)

    def set_optimizers(self, lr):
        return {name: torch.optim.SGD(self.parameters(), lr) for name in ("Gen", "dis")}


DATA = (torch.ones(40, 1), torch.full((40, 1), 0.5))


def fit(module=Two, **kwargs):
    model = luz.setup(module, nn.MSELoss(), metrics=luz.metrics.MAE()).set_opt_hparams(lr=0.0)
    return model.fit(DATA, 2, **kwargs)


class One(Two):
    def set_optimizers(self, lr):
        return torch.optim.SGD(self.parameters(), lr)


def test_file_gets_one_line_an_epoch(capfd):
    fit(One, verbose=True, valid_data=DATA)
    metrics = "metrics: Loss: 0.25 - MAE: 0.5"
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        f"Epoch {epoch}/2 - Train {metrics} - Valid {metrics}" for epoch in (1, 2)
    ]
    assert err == ""


def test_losses_of_several_optimizers_are_all_shown(capfd):
    fit(verbose=True)
    line = "Epoch 1/2 - Train metrics: loss_gen: 0.25 - loss_dis: 0.25 - MAE: 0.5"
    assert capfd.readouterr().out.splitlines()[0] == line


def test_values_have_four_decimals_as_in_r(capfd):
    log = luz.Callback.from_functions(on_train_end=lambda ctx: ctx.log_metric("third", 1 / 3))
    fit(One, verbose=True, callbacks=log)
    assert capfd.readouterr().out.splitlines()[0].endswith(" - third: 0.3333")


@pytest.mark.parametrize("verbose", [False, None])
def test_file_gets_nothing_unless_asked(capfd, verbose):
    fitted = fit(One, verbose=verbose, valid_data=DATA)
    fitted.evaluate(DATA, verbose=verbose)
    fitted.predict(DATA[0], verbose=verbose)
    assert capfd.readouterr() == ("", "")


def test_file_gets_no_bar_of_predict_and_evaluate(capfd):
    fitted = fit(One, verbose=False)
    fitted.evaluate(DATA, verbose=True)
    fitted.predict(DATA[0], verbose=True)
    assert capfd.readouterr() == ("", "")
