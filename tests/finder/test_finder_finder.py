import inspect
import math
import os
import pty
import signal
import subprocess
import sys
import termios

import pandas as pd
import plotnine
import pytest
import torch
from models import Net, Raw, SizedStream, Stream, line, regression, unrelated
from torch import nn
from torch.optim import SGD, Adam
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import (
    DataLoader,
    Dataset,
    TensorDataset,
)

import luzpy as luz

X, Y = line(110, 4, seed=0, noise=0.1)
X_VALID, Y_VALID = unrelated(50, 4)
PAIRS = list(zip(X, Y, strict=True))
QUIET = {"verbose": False}
SEED = 11


def spec(optimizer=SGD, **opt_hparams):
    return luz.setup(Net, nn.MSELoss(), optimizer, seed=SEED).set_opt_hparams(**opt_hparams)


def linear(loss=None, seed=SEED):
    return luz.setup(lambda: nn.Linear(4, 1), loss or nn.MSELoss(), SGD, seed=seed)


def log_rates(n, start, end):
    return [start * (end / start) ** (t / n) for t in range(1, n)] + [end]


def hand_sweep(optimizer, rates, *, seed=SEED, valid=None, clip=None, **opt_hparams):
    """Losses, and validation losses before each update, of a loop without luzpy."""
    torch.manual_seed(seed)
    net = Net()
    opt = optimizer(net.parameters(), **opt_hparams)
    torch.manual_seed(7)
    loader = DataLoader(TensorDataset(X, Y), batch_size=32, shuffle=True, drop_last=True)
    losses, valid_losses = [], []
    while True:
        for x, y in loader:
            if valid is not None:
                net.eval()
                with torch.no_grad():
                    valid_losses.append(nn.functional.mse_loss(net(valid[0]), valid[1]).item())
                net.train()
            opt.param_groups[0]["lr"] = rates[len(losses)]
            opt.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            opt.step()
            losses.append(loss.item())
            if len(losses) == len(rates):
                return losses, valid_losses


def find(model, *args, seed=7, data=(X, Y), **kwargs):
    torch.manual_seed(seed)
    return model.lr_finder(data, *args, **{**QUIET, **kwargs})


# ---------------------------------------------------------------- what it returns


def test_r_lr_finder_works(capsys):
    # R: test-lr-finder.R, "lr_finder works"
    data = DataLoader(TensorDataset(torch.randn(100, 10), torch.randn(100, 1)), batch_size=10)
    model = luz.setup(nn.Linear, nn.MSELoss(), Adam).set_hparams(in_features=10, out_features=1)
    records = model.lr_finder(data, verbose=False)
    assert type(records) is luz.LRRecords
    assert isinstance(records, pd.DataFrame)
    assert len(records) == 100
    assert records.columns.tolist()[:2] == ["lr", "loss"]  # and what noise needs, see the noise
    print(records)
    assert "loss" in capsys.readouterr().out
    assert isinstance(luz.plot(records), plotnine.ggplot)


def test_the_articles_sweep_has_100_rows_from_115e_08_to_1():
    records = linear().lr_finder((X, Y), start_lr=1e-6, end_lr=1, **QUIET)
    assert list(records.columns) == ["lr", "loss"]
    assert list(records.index) == list(range(100))
    assert f"{records['lr'].iloc[0]:.2e}" == "1.15e-06"
    assert records["lr"].iloc[-1] == 1
    assert records.stopped == "completed"


def test_function_and_method_are_the_same():
    assert luz.LuzModule.lr_finder is luz.lr_finder


def test_defaults_are_rs():
    parameters = inspect.signature(luz.lr_finder).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    assert list(defaults)[:6] == [
        "model", "data", "steps", "start_lr", "end_lr", "log_spaced_intervals",
    ]  # fmt: skip
    assert (defaults["steps"], defaults["start_lr"], defaults["end_lr"]) == (100, 1e-7, 1e-1)


@pytest.mark.parametrize(
    ("optimizer", "opt_hparams"),
    [
        (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (Adam, {"weight_decay": 0.01, "betas": (0.8, 0.9)}),
        (torch.optim.AdamW, {}),
        (torch.optim.RMSprop, {"momentum": 0.5}),
    ],
)
def test_losses_are_bit_equal_to_a_sweep_by_hand(optimizer, opt_hparams):
    rates = log_rates(25, 1e-5, 1.0)
    expected, _ = hand_sweep(optimizer, rates, **opt_hparams)
    records = find(spec(optimizer, **opt_hparams), 25, 1e-5, 1.0)  # 3 batches an epoch
    assert records["lr"].tolist() == rates
    assert records["loss"].tolist() == expected


def test_momentum_and_weight_decay_matter():
    plain, _ = hand_sweep(SGD, log_rates(25, 1e-5, 1.0))
    kept, _ = hand_sweep(SGD, log_rates(25, 1e-5, 1.0), momentum=0.9, weight_decay=0.1)
    assert plain != kept


def test_the_learning_rate_set_before_does_not_matter():
    a = find(spec(SGD, lr=0.5, momentum=0.9), 10)
    b = find(spec(SGD, momentum=0.9), 10)
    assert a.equals(b)


def test_the_first_loss_is_that_of_the_initial_weights():
    batches = DataLoader(TensorDataset(X, Y), batch_size=32)
    model = linear()
    first = nn.functional.mse_loss(model()(X[:32]), Y[:32]).item()
    records = model.lr_finder(batches, 5, start_lr=1, end_lr=10, **QUIET)
    assert records["loss"][0] == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("rows", [110, 96, 64])
def test_data_shorter_than_the_steps_are_gone_through_again(rows):
    epochs = []
    note = luz.Callback.from_functions(on_train_begin=lambda ctx: epochs.append(ctx.epoch))
    records = linear().lr_finder((X[:rows], Y[:rows]), 10, callbacks=note, **QUIET)
    assert len(records) == 10
    assert len(epochs) == math.ceil(10 / (rows // 32))


@pytest.mark.parametrize(("options", "batches"), [({}, 3), ({"drop_last": False}, 4)])
def test_steps_none_is_one_epoch(options, batches):
    records = linear().lr_finder((X, Y), None, dataloader_options=options, **QUIET)
    assert len(records) == batches
    assert records["lr"].iloc[-1] == 0.1


def test_two_calls_from_the_same_random_state_are_identical():
    model = spec(Adam)
    first, second = find(model, 20), find(model, 20)
    assert first.equals(second)
    assert not first["loss"].equals(find(model, 20, seed=8)["loss"])


# ---------------------------------------------------------------- data and losses


def test_an_iterable_dataset_without_a_length_needs_steps():
    with pytest.raises(ValueError, match="`steps` must be given for data of unknown length"):
        linear().lr_finder(Stream(PAIRS), None, **QUIET)
    records = linear().lr_finder(Stream(PAIRS), 8, **QUIET)
    expected = linear().lr_finder((X, Y), 8, dataloader_options={"shuffle": False}, **QUIET)
    assert records.equals(expected)


def test_an_iterable_dataset_with_a_length_does_not():
    assert len(linear().lr_finder(SizedStream(PAIRS), None, **QUIET)) == 3


@pytest.mark.parametrize("data", [(X.numpy(), Y.numpy()), TensorDataset(X, Y)])
def test_every_kind_of_data_gives_the_same_records(data):
    assert find(linear(), 5, data=data).equals(find(linear(), 5))


def test_a_batch_sampler_of_the_users_own_is_followed():
    rows = [[0, 1, 2], [7, 8], [5, 5]]
    seen = []
    note = luz.Callback.from_functions(on_train_batch_begin=lambda ctx: seen.append(ctx.input))
    loader = DataLoader(TensorDataset(X, Y), batch_sampler=rows)
    linear().lr_finder(loader, 3, callbacks=note, **QUIET)
    assert all(torch.equal(x, X[index]) for x, index in zip(seen, rows, strict=True))


def test_a_loss_without_targets():
    records = find(linear(lambda input, target: input.square().mean()), 10, data=X)
    assert records["loss"].gt(0).all()
    assert len(records) == 10


def test_a_negative_loss_is_recorded_as_it_is():
    positive = find(linear(lambda input, target: (input - target).square().mean()), 12)
    negative = find(linear(lambda input, target: (input - target).square().mean() - 100), 12)
    expected = (positive["loss"] - 100).tolist()
    assert negative["loss"].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_loss_of_shape_1_is_one_number_a_rung():
    records = find(linear(lambda input, target: (input - target).square().mean().reshape(1)), 12)
    assert records.equals(find(linear(), 12))


def test_an_optimizer_that_requires_a_learning_rate():
    def optimizer(params, lr):
        return SGD(params, lr=lr)

    model = luz.setup(lambda: nn.Linear(4, 1), nn.MSELoss(), optimizer, seed=SEED)
    assert find(model, 10).equals(find(linear(), 10))


@pytest.mark.parametrize("wrap", [lambda cls: cls, lambda cls: lambda: cls(), lambda cls: cls()])
def test_set_optimizers_that_requires_a_learning_rate(wrap):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            return self.linear(x)

        def set_optimizers(self, lr):
            return SGD(self.parameters(), lr=lr)

    model = luz.setup(wrap(Own), nn.MSELoss(), seed=SEED)
    records = find(model, 10)
    assert len(records) == 10
    assert records["loss"].nunique() == 10


# ---------------------------------------------------------------- callbacks


def test_callbacks_run_as_in_fit():
    hooks = [
        "on_fit_begin", "on_epoch_begin", "on_train_begin", "on_train_batch_begin",
        "on_train_batch_after_pred", "on_train_batch_after_loss", "on_train_batch_before_backward",
        "on_train_batch_before_step", "on_train_batch_after_step", "on_train_batch_end",
        "on_train_end", "on_epoch_end", "on_fit_end",
    ]  # fmt: skip
    seen = []
    noting = {hook: lambda ctx, hook=hook: seen.append(hook) for hook in hooks}
    linear().lr_finder((X, Y), 4, callbacks=luz.Callback.from_functions(**noting), **QUIET)
    batch = hooks[3:10]
    assert seen == [
        *hooks[:3], *batch * 3, "on_train_end", "on_epoch_end",
        "on_epoch_begin", "on_train_begin", *batch, "on_fit_end",
    ]  # fmt: skip


def test_a_callback_that_clips_gradients_takes_part():
    def clip(ctx):
        nn.utils.clip_grad_norm_(ctx.model.parameters(), 0.1)

    callback = luz.Callback.from_functions(on_train_batch_before_step=clip)
    records = find(spec(SGD, momentum=0.9), 20, 1e-4, 1.0, callbacks=[callback])
    expected, _ = hand_sweep(SGD, log_rates(20, 1e-4, 1.0), momentum=0.9, clip=0.1)
    assert records["loss"].tolist() == expected


REFUSED = {
    "EarlyStopping": lambda cls, path: cls(monitor="train_loss"),
    "LRScheduler": lambda cls, path: cls(torch.optim.lr_scheduler.StepLR, 1),
    "ModelCheckpoint": lambda cls, path: cls(f"{path}/"),
    "KeepBestModel": lambda cls, path: cls(),
    "AutoResume": lambda cls, path: cls(f"{path}/state.pt"),
}


@pytest.mark.parametrize("name", [name for name in REFUSED if hasattr(luz.callbacks, name)])
def test_callbacks_that_manage_epochs_or_files_are_refused(name, tmp_path):
    callback = REFUSED[name](getattr(luz.callbacks, name), tmp_path)
    with pytest.raises(ValueError, match=rf"`callbacks` must not hold {name} in lr_finder: \w+"):
        linear().lr_finder((X, Y), callbacks=[callback], **QUIET)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- validation


def test_validation_is_at_the_weights_of_the_loss():
    rates = log_rates(15, 1e-4, 1.0)
    losses, valid_losses = hand_sweep(SGD, rates, valid=(X_VALID, Y_VALID), momentum=0.9)
    model = spec(SGD, momentum=0.9)
    records = find(model, 15, 1e-4, 1.0, valid_data=(X_VALID, Y_VALID), valid_batches=None)
    assert list(records.columns) == ["lr", "loss", "valid_loss"]
    assert records["loss"].tolist() == losses
    assert records["valid_loss"].tolist() == pytest.approx(valid_losses, rel=1e-5)


@pytest.mark.parametrize("valid_batches", [None, 2, 8])
@pytest.mark.parametrize("as_loader", [True, False])
def test_validation_does_not_change_the_losses(valid_batches, as_loader):
    valid = (X_VALID, Y_VALID)
    valid = DataLoader(TensorDataset(*valid), batch_size=8, shuffle=True) if as_loader else valid
    model = spec(SGD, momentum=0.9)
    records = find(model, 15, 1e-4, 1.0, valid_data=valid, valid_batches=valid_batches)
    assert records["loss"].equals(find(model, 15, 1e-4, 1.0)["loss"])


def test_validation_leaves_a_part_in_the_mode_that_a_callback_gave_it():
    def freeze(ctx):
        ctx.model[1].eval()

    callback = luz.Callback.from_functions(on_train_begin=freeze)
    model = spec(SGD)
    records = find(model, 8, 1e-3, 1.0, callbacks=callback, valid_data=(X_VALID, Y_VALID))
    assert records["loss"].equals(find(model, 8, 1e-3, 1.0, callbacks=callback)["loss"])
    assert not records["loss"].equals(find(model, 8, 1e-3, 1.0)["loss"])


def test_valid_batches_are_the_same_few_at_every_rung():
    seen = []
    note = luz.Callback.from_functions(on_valid_batch_begin=lambda ctx: seen.append(ctx.input))
    loader = DataLoader(TensorDataset(X_VALID, Y_VALID), batch_size=5, shuffle=True)
    records = linear().lr_finder(
        (X, Y), 6, valid_data=loader, valid_batches=3, callbacks=note, **QUIET
    )
    assert len(seen) == 6 * 3
    assert all(torch.equal(x, seen[i % 3]) for i, x in enumerate(seen))
    assert len(records) == 6


def test_valid_batches_are_drawn_from_all_over_the_data():
    seen = []
    note = luz.Callback.from_functions(on_valid_batch_begin=lambda ctx: seen.append(ctx.input[0]))
    loader = DataLoader(torch.arange(100.0).reshape(-1, 1), batch_size=1)
    model = luz.setup(lambda: nn.Linear(1, 1), lambda i, t: i.mean().square(), SGD, seed=SEED)
    data = torch.ones(64, 1)
    model.lr_finder(data, 1, valid_data=loader, callbacks=note, **QUIET)
    rows = [int(row) for row in seen]
    assert len(set(rows)) == 8
    assert max(rows) >= 8


@pytest.mark.parametrize("lazily", [True, False])
def test_valid_data_as_a_fraction_are_held_out(lazily):
    train, valid = [], []
    note = luz.Callback.from_functions(
        on_train_batch_begin=lambda ctx: train.extend(ctx.input[:, 0].tolist()),
        on_valid_batch_begin=lambda ctx: valid.extend(ctx.input[:, 0].tolist()),
    )
    data = TensorDataset(X, Y) if lazily else (X, Y)
    records = linear().lr_finder(data, 9, valid_data=0.2, callbacks=note, **QUIET)
    assert records["valid_loss"].notna().all()
    assert len(set(valid)) == 22
    assert not set(valid) & set(train)


def test_an_error_in_valid_data_says_so():
    class Broken(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            if index == 40:
                raise OSError("disk gone")
            return X[index], Y[index]

    with pytest.raises(OSError, match=r"disk gone(.|\n)*in `valid_data`, batch 2"):
        linear().lr_finder((X, Y), valid_data=Broken(), **QUIET)


# ---------------------------------------------------------------- runs


def test_runs_differ_in_their_weights_alone():
    rates = log_rates(12, 1e-4, 1.0)
    records = find(spec(SGD, momentum=0.9), 12, 1e-4, 1.0, runs=3)
    assert list(records.columns) == ["run", "lr", "loss"]
    assert records["run"].tolist() == [1] * 12 + [2] * 12 + [3] * 12
    assert records["lr"].tolist() == rates * 3
    for k in range(3):
        expected, _ = hand_sweep(SGD, rates, seed=SEED + k, momentum=0.9)
        losses = records.loc[records["run"] == k + 1, "loss"].tolist()
        assert losses == pytest.approx(expected, rel=1e-4)  # trained together, to rounding
    assert records["loss"].nunique() == 36


def test_runs_of_other_weights_are_those_of_set_seed():
    model = spec(Adam)
    records = find(model, 12, runs=3)
    for k in range(3):
        alone = find(model.set_seed(SEED + k), 12)
        losses = records.loc[records["run"] == k + 1, "loss"].tolist()
        assert losses == pytest.approx(alone["loss"].tolist(), rel=1e-4)


def test_runs_see_the_same_batches_also_with_a_generator_of_the_users_own():
    seen = []
    note = luz.Callback.from_functions(on_train_batch_begin=lambda ctx: seen.append(ctx.input))
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True, generator=generator)
    linear().lr_finder(loader, 10, runs=2, callbacks=note, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(seen[:10], seen[10:], strict=True))


def test_runs_of_an_instance_reset_its_parameters():
    torch.manual_seed(2)
    net = nn.Linear(4, 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    records = find(luz.setup(net, nn.MSELoss(), SGD), 6, runs=2)
    assert (
        records["loss"].tolist()[:6] == find(luz.setup(net, nn.MSELoss(), SGD), 6)["loss"].tolist()
    )
    assert records["loss"].nunique() == 12
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_runs_of_an_instance_that_cannot_be_reset_are_an_error():
    model = regression(Raw(4))
    assert len(model.lr_finder((X, Y), 5, **QUIET)) == 5
    with pytest.raises(ValueError, match="reset_parameters"):
        model.lr_finder((X, Y), 5, runs=2, **QUIET)


def test_runs_with_validation_have_both_columns():
    records = find(linear(), 5, runs=2, valid_data=(X_VALID, Y_VALID))
    assert list(records.columns) == ["run", "lr", "loss", "valid_loss"]
    first = find(linear(), 5, valid_data=(X_VALID, Y_VALID))
    assert records["valid_loss"].tolist()[:5] == pytest.approx(first["valid_loss"].tolist(), 1e-5)


# ---------------------------------------------------------------- Ctrl-C


def pressing(at, hook="on_train_batch_begin"):
    """A callback that presses Ctrl-C the `at`-th time that `hook` comes."""
    count = []

    def press(ctx):
        count.append(1)
        if len(count) == at:
            raise KeyboardInterrupt

    return luz.Callback.from_functions(**{hook: press})


@pytest.mark.parametrize("at", [1, 8, 10, 25])
def test_ctrl_c_returns_the_rungs_so_far(at):
    records = find(linear(), 40, callbacks=pressing(at))
    assert records.stopped == "interrupted"
    whole = find(linear(), 40)[["lr", "loss"]]
    pd.testing.assert_frame_equal(
        pd.DataFrame(records), pd.DataFrame(whole)[: at - 1], check_dtype=False
    )


def test_ctrl_c_in_validation_returns_whole_rungs():
    press = pressing(9, "on_valid_batch_begin")  # two batches a rung
    records = find(linear(), 40, callbacks=press, valid_data=(X_VALID, Y_VALID))
    assert records.stopped == "interrupted"
    assert len(records) == 4
    assert records.notna().all(axis=None)


def test_ctrl_c_in_a_later_run_keeps_the_earlier_ones():
    records = find(linear(), 20, runs=3, callbacks=pressing(26))
    assert records["run"].tolist() == [1] * 20 + [2] * 5
    assert records.stopped == "interrupted"


SIGNALLED = """
import signal, torch, luzpy as luz
from torch import nn
x = torch.randn(64, 4)
def ready(ctx):
    if ctx.epoch == 8 and ctx.iter == 1:
        print("ready", flush=True)
model = luz.setup(lambda: nn.Linear(4, 1), lambda i, t: i.square().mean(), torch.optim.SGD)
torch.manual_seed(0)
state = torch.get_rng_state()
records = model.lr_finder(x, 10**6, 1e-9, 1e-6, verbose=False,
    callbacks=luz.Callback.from_functions(on_train_batch_begin=ready))
print(records.stopped, len(records) >= 14, len(records) < 10**6, records.notna().all(axis=None),
    signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    torch.equal(state, torch.get_rng_state()))
"""


def test_a_real_ctrl_c_returns_the_rungs_so_far():
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout.readline() == "ready\n"
        p.send_signal(signal.SIGINT)
        rest, _ = p.communicate(timeout=300)
    assert p.returncode == 0
    assert rest == "interrupted True True True True True\n"


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("steps", 0, ValueError), ("steps", -1, ValueError), ("steps", 2.5, TypeError),
        ("steps", True, TypeError), ("steps", "10", TypeError),
        ("start_lr", 0, ValueError), ("start_lr", -1e-3, ValueError),
        ("start_lr", math.nan, ValueError), ("start_lr", math.inf, ValueError),
        ("start_lr", "1e-3", TypeError), ("start_lr", 0.1, ValueError), ("start_lr", 1, ValueError),
        ("end_lr", 0, ValueError), ("end_lr", math.inf, ValueError), ("end_lr", None, TypeError),
        ("end_lr", 1e-7, ValueError), ("end_lr", True, TypeError),
        ("runs", 0, ValueError), ("runs", None, TypeError), ("runs", 1.0, TypeError),
        ("valid_batches", 0, ValueError), ("valid_batches", 0.5, TypeError),
        ("valid_data", 0, ValueError), ("valid_data", 1.5, ValueError),
        ("valid_data", "a", TypeError), ("valid_data", (X[:0], Y[:0]), ValueError),
        ("stop_div", 0, ValueError), ("stop_div", -4, ValueError),
        ("stop_div", math.nan, ValueError), ("stop_div", "4", TypeError),
        ("stop_div", True, TypeError),
        ("log_spaced_intervals", "abc", TypeError), ("log_spaced_intervals", 1, TypeError),
        ("callbacks", "clip", TypeError), ("callbacks", [luz.Callback], TypeError),
        ("accelerator", "cpu", TypeError), ("verbose", 1, TypeError),
        ("dataloader_options", [32], TypeError), ("opt_name", "adam", luz.LuzError),
    ],
)  # fmt: skip
def test_a_bad_argument_is_named(argument, value, error):
    arguments = {"verbose": False, argument: value}
    with pytest.raises(error, match=f"`{argument}`"):
        linear().lr_finder((X, Y), **arguments)


def test_data_without_a_batch_are_an_error():
    with pytest.raises(ValueError, match=r"`data` must give at least one batch.*drop_last"):
        linear().lr_finder((X[:20], Y[:20]), **QUIET)


def test_one_rung_uses_end_lr():
    assert find(linear(), 1)["lr"].tolist() == [0.1]


# ---------------------------------------------------------------- what is printed


def test_without_verbose_nothing_is_printed(capfd):
    linear().lr_finder((X, Y), 5, verbose=False)
    linear().lr_finder((X, Y), 5)  # the output is no terminal here
    assert capfd.readouterr() == ("", "")


def test_with_verbose_one_line_where_output_is_no_terminal(capfd):
    linear().lr_finder((X, Y), 5, runs=2, verbose=True)
    said = "2 runs together\nLearning rate finder: 10 rungs, completed\n"
    assert capfd.readouterr() == (said, "")


def test_in_a_terminal_a_bar_is_drawn_and_vanishes():
    code = (
        "import torch, luzpy as luz; x = torch.randn(64, 4)\n"
        "model = luz.setup(lambda: torch.nn.Linear(4, 1), lambda i, t: i.mean().square(), "
        "torch.optim.SGD)\n"
        "model.lr_finder(x, 50)"
    )
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=terminal, stderr=terminal)
    os.close(terminal)
    output = b""
    while True:
        try:
            chunk = os.read(main, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(main)
    assert process.wait(60) == 0
    assert b"Finding the learning rate" in output
    assert b"0/50" in output
    assert output.rsplit(b"\r", 2)[-2].strip() == b""


# ---------------------------------------------------------------- cost


class CountReads(TorchDispatchMode):
    """Counts how often a number is fetched from a tensor, which waits for a GPU."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
        return func(*args, **(kwargs or {}))


LONG = unrelated(4000, 4)
SMALL_BATCHES = {"dataloader_options": {"batch_size": 8}}


@pytest.mark.parametrize("extra", [{}, {"valid_data": (X_VALID, Y_VALID)}, {"stop_div": 4.0}])
def test_reads_of_numbers_do_not_grow_with_the_steps(extra):
    def reads(steps):
        with CountReads() as mode:
            spec(SGD).lr_finder(LONG, steps, **SMALL_BATCHES, **extra, **QUIET)
        return mode.reads

    assert reads(100) == reads(400) < 10  # of both passes: there is nothing but noise


def test_losses_are_fetched_ten_rungs_at_a_time():
    fetched = []

    class NoteLists(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.tolist:
                fetched.append(len(args[0]))
            return func(*args, **(kwargs or {}))

    model = linear(lambda input, target: input.square().mean())
    loader = DataLoader(LONG[0], batch_size=8)
    with NoteLists():
        model.lr_finder(loader, 95, **QUIET)
    assert fetched == 2 * ([10] * 9 + [5])  # the second pass: there is nothing but noise


def test_reads_of_numbers_do_not_grow_with_the_batches_of_fit():
    def reads(n):
        model = luz.setup(Net, nn.MSELoss(), SGD, [luz.metrics.MAE(), luz.metrics.RMSE()])
        data, valid = [(LONG[0][:n], LONG[1][:n]), (LONG[0][:n], LONG[1][:n])]
        with CountReads() as mode:
            model.fit(data, 1, valid_data=valid, **SMALL_BATCHES, **QUIET)
        return mode.reads

    assert reads(160) == reads(3200) < 30
