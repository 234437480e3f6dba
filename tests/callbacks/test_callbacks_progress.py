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
from luzpy.ground.durations import pretty_seconds

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
    "prints": """
def say(ctx):
    print(f"at {ctx.iter}")
    if ctx.iter == 9:
        print("no", "end", end=" ")
        print("yet")
        print("to stderr", file=sys.stderr)
    if ctx.iter == 12:
        print("open", end="", flush=True)
speaker = luz.Callback.from_functions(on_train_batch_end=say)
before = sys.stdout, sys.stderr
model.fit(data, 1, speaker, dataloader_options=options)
assert (sys.stdout, sys.stderr) == before
""",
    "within": """
def fit(ctx):
    if ctx.iter == 8:
        model.fit(data, 1, dataloader_options=options)
model.fit(data, 1, luz.Callback.from_functions(on_train_batch_end=fit), dataloader_options=options)
""",
    "interrupted": """
import os, signal
def press(ctx):
    if (ctx.epoch, ctx.iter) == (2, 9):
        os.kill(os.getpid(), signal.SIGINT)
callback = luz.Callback.from_functions(on_train_batch_begin=press)
model.fit(data, 3, callback, dataloader_options=options)
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


TIME = re.compile(r"\d+(\.\d)?m?s")
METRICS = "metrics: Loss: 0.25 - MAE: 0.5"


def timeless(lines):
    """Lines with `<time>` in the place of every duration."""
    return [TIME.sub("<time>", line) for line in lines]


def test_terminal_keeps_the_epochs_their_metrics_and_times(written):
    # R: test-callbacks.R, "progressbar appears with training and validation"
    assert timeless(screen(written["fit"])) == [
        "Epoch 1/2",
        f"Train {METRICS}",
        f"Valid {METRICS} (<time>)",
        "Epoch 2/2",
        f"Train {METRICS}",
        f"Valid {METRICS} (<time>)",
        "Total time: <time>",
    ]


@pytest.mark.parametrize("columns", [60, 100])
def test_what_a_callback_prints_comes_out_above_the_bar(columns):
    text = in_terminal(PROGRAM + SCENARIOS["prints"], columns)
    assert timeless(screen(text)) == [
        "Epoch 1/1",
        *(f"at {batch}" for batch in range(1, 10)),
        "no end yet",
        "to stderr",
        *(f"at {batch}" for batch in range(10, 13)),
        "open",
        f"Train {METRICS} (<time>)",
        "Total time: <time>",
    ]
    live = [bar for bar in bars(text, "Train") if "Loss" in bar]
    assert live
    assert all(len(bar.rstrip()) <= columns for bar in live)


def test_a_fit_within_a_fit_has_its_own_bar(written):
    assert written["within"].count("Epoch 1/1") == 2
    assert written["within"].count("Total time") == 2
    assert any("Loss: 0.25" in bar for bar in bars(written["within"], "Train"))


def test_ctrl_c_says_where_the_fit_has_ended(written):
    assert timeless(screen(written["interrupted"])) == [
        "Epoch 1/3",
        f"Train {METRICS} (<time>)",
        "Epoch 2/3",
        "Interrupted at epoch 2, batch 9; this fit has ended and returns the model trained so "
        "far. (A second Ctrl-C during a fit raises KeyboardInterrupt.)",
        "Total time: <time>",
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
    assert timeless(screen(written["stream"])) == [
        "Epoch 1/1",
        f"Train {METRICS} (<time>)",
        "Total time: <time>",
    ]


def test_predict_has_a_bar_that_vanishes(written):
    # R: test-module.R, "predict can use a progress bar"
    shown = bars(written["predict"], "Predict")
    assert any(re.fullmatch(r"Predict: [1-9]\d*/12 \[=+ *\] - ETA: \S+ *", bar) for bar in shown)
    assert screen(written["predict"]) == []


def test_evaluate_has_a_bar_that_vanishes(written):
    assert any("Loss: 0.25 - MAE: 0.5" in bar for bar in bars(written["evaluate"], "Valid"))
    assert screen(written["evaluate"]) == []


def test_early_stopping_is_told_below_the_metrics(written):
    assert timeless(screen(written["stopped"]))[-3:] == [
        f"Train {METRICS} (<time>)",
        "Early stopping at epoch 2 of 9",
        "Total time: <time>",
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


@pytest.mark.parametrize("verbose", [True, None])
def test_file_gets_one_line_an_epoch(capfd, verbose):
    fit(One, verbose=verbose, valid_data=DATA)
    out, err = capfd.readouterr()
    assert timeless(out.splitlines()) == [
        f"Epoch 1/2 - Train {METRICS} - Valid {METRICS} (<time>)",
        f"Epoch 2/2 - Train {METRICS} - Valid {METRICS} (<time>)",
        "Total time: <time>",
    ]
    assert err == ""


def test_times_are_those_of_the_records(capfd):
    profile = fit(One).records["profile"]
    lines = capfd.readouterr().out.splitlines()
    took = [*profile["epoch"], *profile["fit"]]
    assert [TIME.search(line)[0] for line in lines] == [pretty_seconds(time) for time in took]


def interrupted(verbose, **hook):
    def interrupt(ctx):
        if ctx.epoch == 2:
            raise KeyboardInterrupt

    callback = luz.Callback.from_functions(**dict.fromkeys(hook, interrupt))
    return fit(One, verbose=verbose, callbacks=callback, valid_data=DATA)


def test_file_has_the_line_of_ctrl_c_on_stderr(capfd):
    interrupted(None, on_valid_batch_end=True)
    err = capfd.readouterr().err
    assert err.startswith("Interrupted at epoch 2, validation batch 1; this fit has ended")
    assert err.endswith("(A second Ctrl-C during a fit raises KeyboardInterrupt.)\n")


def test_ctrl_c_before_the_first_epoch_is_told_so(capfd):
    def interrupt(ctx):
        raise KeyboardInterrupt

    fit(One, callbacks=luz.Callback.from_functions(on_fit_begin=interrupt))
    assert capfd.readouterr().err.startswith("Interrupted before the first epoch; this fit")


def test_ctrl_c_without_output_is_silent(capfd):
    interrupted(False, on_valid_batch_end=True)
    assert capfd.readouterr() == ("", "")


def test_losses_of_several_optimizers_are_all_shown(capfd):
    fit(verbose=True)
    line = "Epoch 1/2 - Train metrics: loss_gen: 0.25 - loss_dis: 0.25 - MAE: 0.5 (<time>)"
    assert timeless(capfd.readouterr().out.splitlines())[0] == line


def test_values_have_four_decimals_as_in_r(capfd):
    log = luz.Callback.from_functions(on_train_end=lambda ctx: ctx.log_metric("third", 1 / 3))
    fit(One, verbose=True, callbacks=log)
    assert timeless(capfd.readouterr().out.splitlines())[0].endswith(" - third: 0.3333 (<time>)")


def test_file_gets_nothing_if_not_verbose(capfd):
    fitted = fit(One, verbose=False, valid_data=DATA)
    fitted.evaluate(DATA, verbose=False)
    fitted.predict(DATA[0], verbose=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("verbose", [True, None])
def test_file_gets_no_bar_of_predict_and_evaluate(capfd, verbose):
    fitted = fit(One, verbose=False)
    fitted.evaluate(DATA, verbose=verbose)
    fitted.predict(DATA[0], verbose=verbose)
    assert capfd.readouterr() == ("", "")
