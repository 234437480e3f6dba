"""The loop against loops written by hand: weights, losses, hooks, errors."""

import math
import multiprocessing
import weakref

import pytest
import torch
from models import Net, Rows, Scale, Stream, line, regression
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import luzpy as luz
from luzpy.core.hooks import HOOKS

SEED = 7


def data(rows=50, seed=0):
    return line(rows, 4, seed=seed, noise=0.1)


def linear(**kwargs):
    """A specification of the plainest kind: a linear model of 4 inputs."""
    return regression(4, lr=0.05, **{"seed": SEED} | kwargs)


def initial(module=lambda: nn.Linear(4, 1)):
    torch.manual_seed(SEED)
    return module()


def hand_fit(net, loader, valid_loader=None, epochs=3, **opt_hparams):
    """Adam by hand: the losses of every batch, and the epochs' means over samples."""
    opt = torch.optim.Adam(net.parameters(), **opt_hparams)
    loss_fn = nn.MSELoss()
    batch_losses, train, valid = [], [], []
    for _ in range(epochs):
        net.train()
        terms, rows = [], 0
        for x, y in loader:
            opt.zero_grad()
            loss = loss_fn(net(x), y)
            loss.backward()
            opt.step()
            batch_losses.append(loss.item())
            terms.append(loss.item() * len(x))
            rows += len(x)
        train.append(math.fsum(terms) / rows)
        if valid_loader is not None:
            net.eval()
            with torch.no_grad():
                pairs = [(loss_fn(net(x), y).item(), len(x)) for x, y in valid_loader]
            batch_losses += [loss for loss, _ in pairs]
            valid.append(math.fsum(loss * n for loss, n in pairs) / sum(n for _, n in pairs))
    return batch_losses, train, valid


def assert_same_state(model, expected):
    for (name, ours), theirs in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


class BatchLosses(luz.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, ctx):
        self.values.append(ctx.loss["opt"].item())

    on_valid_batch_end = on_train_batch_end


@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("kind", ["tensors", "dataset", "loader"])
def test_fit_is_bit_equal_to_a_hand_loop(kind, with_valid):
    # R: test-module.R, "Fully managed" and "can train without a validation dataset"
    x, y = data()
    held_out = data(21, seed=1) if with_valid else None
    adam = {"lr": 0.01, "weight_decay": 0.1}

    expected = initial(Net)
    torch.manual_seed(3)
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, drop_last=True)
    valid_loader = DataLoader(TensorDataset(*held_out), batch_size=8) if with_valid else None
    losses, train, valid = hand_fit(expected, loader, valid_loader, **adam)

    given = {"tensors": (x, y), "dataset": Rows(x, y), "loader": loader}[kind]
    model = luz.setup(Net, nn.MSELoss(), torch.optim.Adam, seed=SEED).set_opt_hparams(**adam)
    recorder = BatchLosses()
    options = None if kind == "loader" else {"batch_size": 8}
    if kind == "loader" and with_valid:
        held_out = valid_loader
    torch.manual_seed(3)
    fitted = model.fit(
        given,
        epochs=3,
        callbacks=recorder,
        valid_data=held_out,
        verbose=False,
        dataloader_options=options,
    )

    assert recorder.values == losses
    assert_same_state(fitted.model, expected)
    rows = fitted.records["metrics"]
    assert [row["loss"] for row in rows["train"]] == pytest.approx(train, rel=1e-12)
    assert [row["loss"] for row in rows["valid"]] == pytest.approx(valid, rel=1e-12)


class Rivals(nn.Module):
    """Two parts, each with an optimizer and a loss of its own, which both see the whole."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return self.one(x) * self.two(x)

    def set_optimizers(self, lr=0.01):
        return {
            "one": torch.optim.Adam(self.one.parameters(), lr=lr),
            "two": torch.optim.SGD(self.two.parameters(), lr=lr, momentum=0.9),
        }

    def loss(self, input, target):
        if self.ctx.opt_name == "one":
            return nn.functional.mse_loss(input, target)
        return nn.functional.l1_loss(input, -target)


def test_each_optimizer_steps_on_its_own_loss_from_zeroed_gradients():
    # R: test-module.R, "Multiple optimizers"; R luz lets the other optimizer's gradients pile up
    x, y = data(48)
    net = initial(Rivals)
    opts = net.set_optimizers(lr=0.02)
    losses = {
        "one": nn.functional.mse_loss,
        "two": lambda pred, target: nn.functional.l1_loss(pred, -target),
    }
    means = []
    for _ in range(4):
        sums = dict.fromkeys(opts, 0.0)
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            for name, opt in opts.items():
                net.zero_grad()
                loss = losses[name](net(xb), yb)
                loss.backward()
                opt.step()
                sums[name] += loss.item()
        means.append({f"loss_{name}": total / 6 for name, total in sums.items()})

    model = luz.setup(Rivals, seed=SEED).set_opt_hparams(lr=0.02)
    fitted = model.fit(
        (x, y), epochs=4, verbose=False, dataloader_options={"batch_size": 8, "shuffle": False}
    )

    assert_same_state(fitted.model, net)
    for ours, theirs in zip(fitted.records["metrics"]["train"], means, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)


def test_gradients_of_parameters_outside_the_module_are_zeroed_too():
    x, y = data(16)
    offset = torch.zeros(1, requires_grad=True)

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def forward(self, x):
            return self.fc(x) + offset

        def set_optimizers(self):
            return torch.optim.SGD([*self.parameters(), offset], lr=0.1)

    net = initial(Shifted)
    opt = net.set_optimizers()
    for xb, yb in zip(x.split(4), y.split(4), strict=True):
        opt.zero_grad()
        nn.functional.mse_loss(net(xb), yb).backward()
        opt.step()
    expected, offset.data = offset.detach().clone(), torch.zeros(1)

    luz.setup(Shifted, nn.MSELoss(), seed=SEED).fit(
        (x, y), epochs=1, verbose=False, dataloader_options={"batch_size": 4, "shuffle": False}
    )

    assert torch.equal(offset.detach(), expected)


def test_custom_step_replaces_the_default_one():
    x, y = data(32)

    class Accumulating(nn.Module):
        """Steps at every second batch, on the sum of both gradients."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def forward(self, x):
            return self.fc(x)

        def step(self):
            ctx = self.ctx
            ctx.pred = self(ctx.input)
            loss = nn.functional.mse_loss(ctx.pred, ctx.target)
            if ctx.training:
                loss.backward()
                if ctx.iter % 2 == 0:
                    ctx.optimizers["opt"].step()
                    ctx.optimizers["opt"].zero_grad()
            ctx.loss = loss.detach()

    net = initial(Accumulating)
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for i, (xb, yb) in enumerate(zip(x.split(4), y.split(4), strict=True)):
        loss = nn.functional.mse_loss(net(xb), yb)
        loss.backward()
        losses.append(loss.item())
        if i % 2:
            opt.step()
            opt.zero_grad()

    model = luz.setup(Accumulating, optimizer=torch.optim.SGD, seed=SEED).set_opt_hparams(lr=0.05)
    fitted = model.fit(
        (x, y),
        epochs=1,
        valid_data=(x, y),
        verbose=False,
        dataloader_options={"batch_size": 4, "shuffle": False},
    )

    assert_same_state(fitted.model, net)
    with torch.no_grad():
        valid = nn.functional.mse_loss(net(x), y).item()
    assert fitted.records["metrics"] == {
        "train": [{"loss": pytest.approx(sum(losses) / 8)}],
        "valid": [{"loss": pytest.approx(valid)}],
    }


def test_backward_replaces_the_losses_own():
    # R: test-module.R, "cutom backward"
    seen = []

    def halved(loss):
        seen.append(loss.item())
        (loss / 2).backward()

    fitted = linear(backward=halved).fit(data(32), epochs=2, verbose=False)
    net = initial()
    for _ in range(2):
        loss = nn.functional.mse_loss(net(data(32)[0]), data(32)[1])
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.05 * parameter.grad / 2

    assert seen == pytest.approx([row["loss"] for row in fitted.records["metrics"]["train"]])
    torch.testing.assert_close(fitted.model.weight, net.weight)


def test_callback_may_replace_how_an_optimizer_steps():
    class NoStep(luz.Callback):
        def on_fit_begin(self, ctx):
            ctx.step_opt = lambda opt: None

    fitted = linear().fit(data(), epochs=2, callbacks=NoStep(), verbose=False)
    assert_same_state(fitted.model, initial())


def test_set_optimizers_gets_the_optimizers_hyperparameters():
    # R: test-module.R, "Custom optimizer"
    class Own(nn.Linear):
        def set_optimizers(self, lr, momentum):
            return torch.optim.SGD(self.parameters(), lr=lr, momentum=momentum)

    seen = {}

    def keep(ctx):
        seen.update({name: opt.param_groups[0] for name, opt in ctx.optimizers.items()})

    model = luz.setup(Own, nn.MSELoss()).set_hparams(in_features=4, out_features=1)
    model.set_opt_hparams(lr=0.5, momentum=0.25).fit(
        data(), epochs=1, callbacks=luz.Callback.from_functions(on_fit_begin=keep), verbose=False
    )
    assert (list(seen), seen["opt"]["lr"], seen["opt"]["momentum"]) == (["opt"], 0.5, 0.25)


def test_epochs_loss_is_the_mean_over_samples_of_ragged_batches():
    x, y = torch.zeros(5, 1), torch.tensor([[1.0], [1.0], [1.0], [1.0], [9.0]])

    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    fitted = regression(Scale).fit(loader, epochs=1, valid_data=loader, verbose=False)
    # (1 + 1 + 1 + 1 + 81) / 5, where the mean over the two batches would be (1 + 81) / 2
    assert fitted.records["metrics"] == {"train": [{"loss": 17.0}], "valid": [{"loss": 17.0}]}
    assert fitted.evaluate(loader).get_metrics()["value"].tolist() == [17.0]


# Hooks ---------------------------------------------------------------------------------------


class Recorder(luz.Callback):
    def __init__(self):
        self.hooks = []


def _recording(name):
    return lambda self, ctx: self.hooks.append(name)


for _name in HOOKS:
    setattr(Recorder, _name, _recording(_name))


TRAIN_STEP = [
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
]
VALID_STEP = ["on_valid_batch_after_pred", "on_valid_batch_after_loss"]


def expected_hooks(epochs, train_batches, valid_batches, optimizers=1):
    train = ["on_train_batch_begin", *TRAIN_STEP * optimizers, "on_train_batch_end"]
    valid = ["on_valid_batch_begin", *VALID_STEP * optimizers, "on_valid_batch_end"]
    epoch = ["on_epoch_begin", "on_train_begin", *train * train_batches, "on_train_end"]
    if valid_batches:
        epoch += ["on_valid_begin", *valid * valid_batches, "on_valid_end"]
    return ["on_fit_begin", *[*epoch, "on_epoch_end"] * epochs, "on_fit_end"]


@pytest.mark.parametrize("valid_rows", [0, 40])
@pytest.mark.parametrize("optimizers", [1, 2])
def test_fit_calls_the_hooks_in_order(optimizers, valid_rows):
    recorder = Recorder()
    model = linear() if optimizers == 1 else luz.setup(Rivals)
    valid_data = data(valid_rows) if valid_rows else None
    model.fit(data(96), epochs=2, callbacks=recorder, valid_data=valid_data, verbose=False)
    assert recorder.hooks == expected_hooks(2, 3, 2 if valid_rows else 0, optimizers)


@pytest.mark.parametrize("optimizers", [1, 2])
def test_evaluate_calls_the_hooks_of_validation(optimizers):
    recorder = Recorder()
    fitted = (linear() if optimizers == 1 else luz.setup(Rivals)).fit(data(), 1, verbose=False)
    fitted.evaluate(data(33), callbacks=recorder, verbose=False)
    batch = ["on_valid_batch_begin", *VALID_STEP * optimizers, "on_valid_batch_end"]
    assert recorder.hooks == ["on_valid_begin", *batch * 2, "on_valid_end"]


def test_predict_calls_the_hooks_of_prediction():
    recorder = Recorder()
    linear().fit(data(), 1, verbose=False).predict(data(65)[0], callbacks=recorder, verbose=False)
    batch = ["on_predict_batch_begin", "on_predict_batch_end"]
    assert recorder.hooks == ["on_predict_begin", *batch * 3, "on_predict_end"]


@pytest.mark.parametrize(
    ("error", "hook", "stopped"),
    [
        (None, "on_early_stopping", "early stopping"),
        (KeyboardInterrupt, "on_interrupt", "interrupted"),
    ],
)
def test_what_ends_training_is_told_before_on_fit_end(error, hook, stopped):
    recorder = Recorder()

    def end(ctx):
        raise error

    ending = (
        luz.Callback.from_functions(on_epoch_end=end)
        if error
        else luz.callbacks.EarlyStopping("train_loss", min_delta=1e9, baseline=0)
    )
    fitted = linear().fit(data(), epochs=5, callbacks=[recorder, ending], verbose=False)
    assert recorder.hooks == [*expected_hooks(1, 1, 0)[:-1], hook, "on_fit_end"]
    assert fitted.stopped == stopped


def test_hooks_run_without_gradients_and_the_step_with_them():
    modes = {}

    class Watched(nn.Linear):
        def forward(self, x):
            modes.setdefault((self.training, torch.is_grad_enabled()), None)
            return super().forward(x)

    hooks = {
        name: lambda ctx: modes.setdefault(("hook", torch.is_grad_enabled())) for name in HOOKS
    }
    model = luz.setup(lambda: Watched(4, 1), nn.MSELoss(), torch.optim.SGD)
    with torch.no_grad():  # the caller's setting does not reach into the run
        model.fit(
            data(),
            epochs=1,
            valid_data=data(),
            callbacks=luz.Callback.from_functions(**hooks),
            verbose=False,
        )
        assert not torch.is_grad_enabled()
    assert set(modes) == {("hook", False), (True, True), (False, False)}


# self.ctx ------------------------------------------------------------------------------------


class Peeking(nn.Module):
    """Notes in which of its methods it can read `self.ctx`."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)
        self.seen = {}
        self.fails = False

    def forward(self, x):
        self.seen["forward"] = weakref.ref(self.ctx)
        return self.fc(x)

    def loss(self, input, target):
        self.seen["loss"] = weakref.ref(self.ctx)
        if self.fails:
            raise RuntimeError("no loss today")
        return nn.functional.mse_loss(input, target)

    def predict(self, x):
        self.seen["predict"] = weakref.ref(self.ctx)
        return self.fc(x)


def test_module_reads_its_context_during_a_run_and_only_then():
    model = luz.setup(Peeking, optimizer=torch.optim.SGD)
    fitted = model.fit(data(), 1, verbose=False)
    module = fitted.model
    assert set(module.seen) == {"forward", "loss"}
    assert {ref() for ref in module.seen.values()} == {None}  # the context is gone, too
    for run in (fitted.evaluate, fitted.predict):
        with pytest.raises(AttributeError, match="ctx"):
            _ = module.ctx
        run(data())
    with pytest.raises(AttributeError, match="ctx"):
        _ = module.ctx
    assert set(module.seen) == {"forward", "loss", "predict"}


@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_context_is_unbound_after_a_failure(verb):
    modules = []

    def make():
        module = Peeking()
        module.fails = verb == "fit"
        return module

    keep = luz.Callback.from_functions(on_fit_begin=lambda ctx: modules.append(ctx.model))
    model = luz.setup(make, optimizer=torch.optim.SGD)
    if verb == "fit":
        with pytest.raises(RuntimeError):
            model.fit(data(), 1, callbacks=keep, verbose=False)
    else:
        fitted = model.fit(data(), 1, callbacks=keep, verbose=False)
        modules[0].fails = True
        with pytest.raises(RuntimeError):
            fitted.evaluate(data(), verbose=False)
    with pytest.raises(AttributeError, match="ctx"):
        _ = modules[0].ctx


def test_context_is_unbound_after_a_failing_prediction():
    fitted = luz.setup(Peeking, optimizer=torch.optim.SGD).fit(data(), 1, verbose=False)
    with pytest.raises(RuntimeError):
        fitted.predict(torch.zeros(3, 5), verbose=False)
    with pytest.raises(AttributeError, match="ctx"):
        _ = fitted.model.ctx


# Errors --------------------------------------------------------------------------------------


class Broken(Exception):
    """What the user's code raises in these tests."""


def fails(*_):
    raise Broken("out of order")


def at(iteration, then=fails, otherwise=None):
    """A function that calls `then` the `iteration`-th time it is called."""
    calls = iter(range(1, 1000))
    return lambda *args: then(*args) if next(calls) == iteration else otherwise and otherwise(*args)


class FailingMetric(luz.Metric):
    abbrev = "Frail"

    def __init__(self, method):
        setattr(self, method, fails)

    def reset(self):
        pass

    def update(self, preds, target):
        pass

    def compute(self):
        return 0.0


class FailingDataset(Rows):
    """Fails at its last row, when that is asked for a second time."""

    def __init__(self, x, y, healthy_epochs=0):
        super().__init__(x, y)
        self.healthy_epochs = healthy_epochs

    def __getitem__(self, index):
        if index == len(self) - 1:
            self.healthy_epochs -= 1
            if self.healthy_epochs < 0:
                raise Broken(f"row {index} is damaged")
        return super().__getitem__(index)


ONE_BY_ONE = {"batch_size": 16, "shuffle": False, "drop_last": False}


def check_failure(caught, cause, *texts):
    assert type(caught.value) is cause
    (note,) = caught.value.__notes__
    for text in texts:
        assert text in f"{caught.value}\n{note}"


class Tripwire(luz.Callback):
    def __init__(self, hook, epoch, iteration):
        def trip(ctx):
            if (ctx.epoch, ctx.iter) == (epoch, iteration):
                raise Broken("stepped on")

        setattr(self, hook, trip)


@pytest.mark.parametrize(
    ("hook", "epoch", "iteration", "where"),
    [
        ("on_fit_begin", 0, 0, "before the first epoch"),
        ("on_epoch_begin", 2, 0, "at epoch 2, iteration 0 (training)"),
        ("on_train_begin", 2, 0, "at epoch 2, iteration 0 (training)"),
        ("on_train_batch_after_loss", 2, 3, "at epoch 2, iteration 3 (training)"),
        ("on_valid_batch_end", 1, 2, "at epoch 1, iteration 2 (validation)"),
    ],
)
def test_failing_callback_is_named_with_its_hook_and_place(hook, epoch, iteration, where):
    with pytest.raises(Broken) as caught:
        linear().fit(
            data(48),
            epochs=2,
            callbacks=Tripwire(hook, epoch, iteration),
            valid_data=data(32),
            verbose=False,
            dataloader_options={"batch_size": 16},
        )
    check_failure(caught, Broken, "from trip()", hook, where, "stepped on")


def test_failing_callback_is_named_by_its_class():
    class Grumpy(luz.Callback):
        def on_train_end(self, ctx):
            raise Broken("no")

    with pytest.raises(Broken) as caught:
        linear().fit(data(), 1, callbacks=Grumpy(), verbose=False)
    check_failure(caught, Broken, "Grumpy", "on_train_end", "epoch 1", "iteration 1")


def test_failing_callback_of_predict_says_prediction():
    fitted = linear().fit(data(), 1, verbose=False)
    second = luz.Callback.from_functions(on_predict_batch_end=at(2))
    with pytest.raises(Broken) as caught:
        fitted.predict(data()[0], callbacks=second, verbose=False)
    check_failure(caught, Broken, "on_predict_batch_end", "iteration 2 (prediction)")


@pytest.mark.parametrize(("method", "iteration"), [("update", 1), ("compute", 3)])
def test_failing_metric_is_named_with_its_place(method, iteration):
    with pytest.raises(Broken) as caught:
        linear(metrics=[FailingMetric(method)]).fit(data(96), 1, verbose=False)
    place = f"at epoch 1, iteration {iteration} (training)"
    check_failure(caught, Broken, "Frail", method, place, "out of order")


def test_failing_loss_is_named_with_its_place():
    loss = at(5, otherwise=nn.functional.mse_loss)
    with pytest.raises(Broken) as caught:
        linear(loss=loss).fit(data(96), 2, verbose=False)
    check_failure(caught, Broken, "loss", "at epoch 2, iteration 2 (training)", "out of order")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("argument", ["data", "valid_data"])
def test_failing_dataset_is_named_with_its_place(argument, workers):
    loader = DataLoader(FailingDataset(*data(40)), batch_size=16, num_workers=workers)
    given = {"data": data(), "valid_data": data()} | {argument: loader}
    with pytest.raises(Broken) as caught:
        linear().fit(given["data"], 2, valid_data=given["valid_data"], verbose=False)
    check_failure(caught, Broken, f"`{argument}`", "batch 3 of epoch 1", "row 39 is damaged")


def test_failing_dataset_says_the_epoch():
    dataset = FailingDataset(*data(40), healthy_epochs=1)
    with pytest.raises(Broken) as caught:
        linear().fit(dataset, 3, verbose=False, dataloader_options=ONE_BY_ONE)
    check_failure(caught, Broken, "`data`", "batch 3 of epoch 2")


def test_failing_iterable_dataset_is_named_with_its_place():
    class BreakingStream(IterableDataset):
        def __iter__(self):
            yield from zip(*data(20), strict=True)
            raise Broken("the stream broke")

    with pytest.raises(Broken) as caught:
        linear().fit(BreakingStream(), 1, verbose=False, dataloader_options={"batch_size": 16})
    check_failure(caught, Broken, "`data`", "batch 2 of epoch 1", "the stream broke")


def test_evaluate_names_its_own_argument():
    fitted = linear().fit(data(), 1, verbose=False)
    with pytest.raises(Broken, match="in `data`, batch 2"):
        fitted.evaluate(FailingDataset(*data(40)), verbose=False)


def test_failing_dataset_of_predict_is_named():
    fitted = linear().fit(data(), 1, verbose=False)
    with pytest.raises(Broken) as caught:
        fitted.predict(FailingDataset(*data(40)), verbose=False)
    check_failure(caught, Broken, "`newdata`", "batch 2", "row 39 is damaged")


def test_error_of_the_module_itself_passes_with_a_note_that_says_where():
    class Moody(nn.Linear):
        def forward(self, x):
            if self.ctx.iter == 2:
                raise Broken("not now")
            return super().forward(x)

    with pytest.raises(Broken, match="not now") as caught:
        luz.setup(lambda: Moody(4, 1), nn.MSELoss(), torch.optim.SGD).fit(
            data(64), 1, verbose=False
        )
    assert caught.value.__notes__ == [
        "luzpy: in the module Moody, at epoch 1, iteration 2 (training)."
    ]


@pytest.mark.parametrize(
    ("loss", "error", "text"),
    [
        (lambda p, t: ((p - t) ** 2).mean().item(), TypeError, "scalar tensor, got float"),
        (lambda p, t: None, TypeError, "scalar tensor, got NoneType"),
        (nn.MSELoss(reduction="none"), ValueError, r"scalar tensor, got one of shape \(32, 1\)"),
        (lambda p, t: nn.functional.mse_loss(p, t).detach(), ValueError, "without a graph"),
    ],
)
def test_loss_must_be_a_scalar_tensor_with_a_graph(loss, error, text):
    with pytest.raises(error, match=f"`loss` must return .*{text}"):
        linear(loss=loss).fit(data(), 1, verbose=False)


def test_loss_of_one_element_counts_as_a_scalar():
    fitted = linear(loss=lambda p, t: nn.functional.mse_loss(p, t).reshape(1)).fit(
        data(), 2, verbose=False
    )
    rows = fitted.records["metrics"]["train"]
    assert [type(row["loss"]) for row in rows] == [float, float]


class Batches(Dataset):
    """Whole batches, for a DataLoader with `batch_size=None`."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return torch.zeros(self.sizes[index], 4), torch.zeros(self.sizes[index], 1)


def loader_of(*sizes):
    return DataLoader(Batches(*sizes), batch_size=None)


def test_batch_without_rows_is_an_error_that_names_the_argument():
    fitted = linear().fit(loader_of(3), 1, verbose=False)
    empty = loader_of(3, 0)
    with pytest.raises(ValueError, match="`data` must give batches with rows"):
        linear().fit(empty, 1, verbose=False)
    with pytest.raises(ValueError, match="`valid_data` must give batches with rows"):
        linear().fit(loader_of(3), 1, valid_data=empty, verbose=False)
    with pytest.raises(ValueError, match="`data` must give batches with rows"):
        fitted.evaluate(empty, verbose=False)
    with pytest.raises(ValueError, match="`newdata` must give batches with rows"):
        fitted.predict(empty, verbose=False)


def test_stream_without_batches_is_an_error_that_names_the_argument():
    dry = Stream(())
    fitted = linear().fit(data(), 1, verbose=False)
    with pytest.raises(ValueError, match="`data` must give at least one batch, got none"):
        linear().fit(dry, 1, verbose=False)
    with pytest.raises(ValueError, match="`valid_data` must give at least one batch, got none"):
        linear().fit(data(), 1, valid_data=dry, verbose=False)
    with pytest.raises(ValueError, match="`data` must give at least one batch, got none"):
        fitted.evaluate(dry, verbose=False)
    with pytest.raises(ValueError, match="`newdata` must give at least one batch, got none"):
        fitted.predict(dry, verbose=False)


def test_failed_run_ends_its_worker_processes():
    before = set(multiprocessing.active_children())
    loader = DataLoader(Rows(*data(64)), batch_size=8, num_workers=2)
    with pytest.raises(Broken):
        linear().fit(loader, 1, callbacks=Tripwire("on_train_batch_end", 1, 2), verbose=False)
    assert set(multiprocessing.active_children()) <= before
