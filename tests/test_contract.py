"""What the contract promises of a run, whatever lies behind it, and bugs that must not return.

Everything goes through the public interface: real runs, real files, real processes and signals.
"""

import contextlib
import copy
import gc
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import types
import weakref
from collections import UserDict
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

import luzpy as luz

cb = luz.callbacks
X = torch.linspace(-1, 1, 32).reshape(16, 2)
Y = X.sum(1, keepdim=True)
BATCHES = 4  # an epoch of ORDERED has
ORDERED = {"batch_size": 4, "shuffle": False}
IO = Path("/proc/self/io")
HOOKS = (
    *("on_fit_begin", "on_epoch_begin", "on_train_begin", "on_train_batch_begin"),
    *("on_train_batch_after_pred", "on_train_batch_after_loss", "on_train_batch_before_backward"),
    *("on_train_batch_before_step", "on_train_batch_after_step", "on_train_batch_end"),
    *("on_train_end", "on_valid_begin", "on_valid_batch_begin", "on_valid_batch_after_pred"),
    *("on_valid_batch_after_loss", "on_valid_batch_end", "on_valid_end", "on_epoch_end"),
    *("on_fit_end", "on_predict_begin", "on_predict_batch_begin", "on_predict_batch_end"),
    *("on_predict_end", "on_interrupt", "on_early_stopping"),
)
CONTEXT = {
    *("verbose", "accelerator", "device", "model", "optimizers", "opt", "opt_name", "data"),
    *("train_data", "valid_data", "min_epochs", "max_epochs", "epoch", "iter", "training"),
    *("callbacks", "batch", "input", "target", "pred", "loss_fn", "loss", "loss_grad", "step_opt"),
    *("backward", "metrics", "records", "hparams", "opt_hparams", "buffers", "log", "log_metric"),
    *("get_metric", "get_metrics_df", "call", "stop", "autocast"),
}


# Models and runs -------------------------------------------------------------------------------


class Flippable(nn.Module):
    """One linear layer; `flip` changes what it computes and not what it holds."""

    def __init__(self, flip=False):
        super().__init__()
        self.flip = flip
        self.fc = nn.Linear(2, 1)

    def forward(self, x):
        return -self.fc(x) if self.flip else self.fc(x)


class OwnStep(Flippable):
    """A step of its own, which calls `at_step(ctx)` first."""

    at_step = staticmethod(lambda ctx: None)

    def step(self):
        ctx = self.ctx
        self.at_step(ctx)
        ctx.pred = self(ctx.input)
        loss = nn.functional.mse_loss(ctx.pred, ctx.target)
        if ctx.training:
            self.zero_grad()
            loss.backward()
            for optimizer in ctx.optimizers.values():
                optimizer.step()
        ctx.loss = {name: loss.detach() for name in ctx.optimizers}


class Killed(BaseException):
    """Ends a run as a kill does: nobody catches it."""


class Broken(Exception):
    """A user's exception that cannot be made anew from its message."""

    def __init__(self, code, text):
        super().__init__(code, text)


def spec(module=Flippable, loss=None, optimizer=torch.optim.SGD, metrics=None):
    made = luz.setup(module, loss or nn.MSELoss(), optimizer, metrics, seed=1)
    return made.set_opt_hparams(lr=0.05)


def fit(model=None, data=(X, Y), epochs=2, callbacks=(), valid_data=None, **kwargs):
    options = None if isinstance(data, DataLoader) else ORDERED
    kwargs = {"verbose": False, "dataloader_options": options} | kwargs
    place = kwargs.pop("accelerator", luz.Accelerator(cpu=True))
    return (model or spec()).fit(data, epochs, [*callbacks], valid_data, place, **kwargs)


def sweep(model=None, data=(X, Y), steps=6, callbacks=(), **kwargs):
    options = None if isinstance(data, DataLoader) else ORDERED
    return (model or spec()).lr_finder(
        data,
        steps,
        end_lr=0.1,
        callbacks=[*callbacks],
        accelerator=luz.Accelerator(cpu=True),
        verbose=False,
        dataloader_options=options,
        **kwargs,
    )


def on(weight=0, **hooks):
    return luz.Callback.from_functions(weight=weight, **hooks)


def at(epoch, batch, function):
    """A hook that calls `function(ctx)` at one batch of one epoch."""
    return lambda ctx: function(ctx) if (ctx.epoch, ctx.iter) == (epoch, batch) else None


def interrupt(ctx):
    os.kill(os.getpid(), signal.SIGINT)


def trace():
    """A callback behind all others, and the hooks that it has had, with epoch and batch."""
    seen = []

    def noting(hook):
        return lambda ctx: seen.append((hook, ctx.epoch, ctx.iter))

    return on(float("inf"), **{hook: noting(hook) for hook in HOOKS}), seen


def weights(fitted):
    return {name: value.clone() for name, value in fitted.model.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# ctx.stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hook",
    [
        *("on_train_batch_begin", "on_train_batch_after_loss", "on_train_batch_after_step"),
        *("on_train_batch_end", "on_valid_batch_begin", "on_valid_batch_end"),
    ],
)
def test_stop_in_a_batch_ends_the_run_after_that_batch(hook):
    last, seen = trace()
    stopping = on(**{hook: at(2, 3, lambda ctx: ctx.stop("enough"))})
    fitted = fit(callbacks=[stopping, last], epochs=5, valid_data=(X, Y))
    assert fitted.stopped == "enough"
    part = "train" if "train" in hook else "valid"
    assert seen[-2] == (f"on_{part}_batch_end", 2, 3)
    assert seen[-1][0] == "on_fit_end"
    # The batch itself is done as any other.
    one_batch = [name for name, epoch, batch in seen if part in name and (epoch, batch) == (1, 3)]
    stopped_at = [name for name, epoch, batch in seen if part in name and (epoch, batch) == (2, 3)]
    assert stopped_at == one_batch


@pytest.mark.parametrize("epochs", [5, 2])  # 2: the last epoch, which is no reason to forget
def test_stop_at_the_end_of_an_epoch_ends_the_run_after_all_callbacks_had_it(epochs):
    last, seen = trace()
    stopping = on(on_epoch_end=lambda ctx: ctx.stop("enough") if ctx.epoch == 2 else None)
    fitted = fit(callbacks=[stopping, last], epochs=epochs)
    assert fitted.stopped == "enough"
    assert [name for name, _, _ in seen[-2:]] == ["on_epoch_end", "on_fit_end"]
    assert seen[-2][1] == 2


def test_stop_in_a_modules_own_step():
    class Stopping(OwnStep):
        at_step = staticmethod(at(2, 3, lambda ctx: ctx.stop("enough")))

    last, seen = trace()
    fitted = fit(spec(Stopping), callbacks=[last], epochs=5)
    assert fitted.stopped == "enough"
    assert seen[-2] == ("on_train_batch_end", 2, 3)
    assert seen[-1][0] == "on_fit_end"


def test_the_first_reason_to_stop_wins():
    first = on(on_train_batch_begin=at(1, 2, lambda ctx: ctx.stop("first")))
    second = on(on_train_batch_end=at(1, 2, lambda ctx: ctx.stop("second")))
    assert fit(callbacks=[first, second]).stopped == "first"


def test_stop_ends_a_sweep():
    stopping = on(on_train_batch_begin=at(1, 3, lambda ctx: ctx.stop("enough")))
    records = sweep(callbacks=[stopping], steps=20)
    assert records.stopped == "enough"
    assert len(records) == 3


def test_ctrl_c_ends_with_on_interrupt_then_on_fit_end():
    last, seen = trace()
    fitted = fit(callbacks=[on(on_train_batch_begin=at(2, 3, interrupt)), last], epochs=5)
    assert fitted.stopped == "interrupted"
    assert seen[-3] == ("on_train_batch_end", 2, 3)
    assert [name for name, _, _ in seen[-2:]] == ["on_interrupt", "on_fit_end"]


def test_ctrl_c_at_the_end_of_an_epoch_ends_after_all_callbacks_had_it():
    last, seen = trace()
    fitted = fit(callbacks=[on(on_epoch_end=interrupt), last], epochs=5)
    assert fitted.stopped == "interrupted"
    ends = ["on_epoch_end", "on_interrupt", "on_fit_end"]
    assert [name for name, _, _ in seen[-3:]] == ends
    assert seen[-3][1] == 1


# EarlyStopping ---------------------------------------------------------------------------------


def test_callbacks_behind_early_stopping_see_its_last_epoch():
    last, seen = trace()
    stopping = cb.EarlyStopping("train_loss", patience=2)
    still = spec().set_opt_hparams(lr=0.0)  # the loss of the first epoch is the best
    fitted = fit(still, callbacks=[stopping, last], epochs=9)
    assert fitted.stopped == "early stopping"
    assert [epoch for name, epoch, _ in seen if name == "on_epoch_end"] == [1, 2, 3]
    ends = ["on_epoch_end", "on_early_stopping", "on_fit_end"]
    assert [name for name, _, _ in seen[-3:]] == ends


def test_keep_best_model_behind_early_stopping_keeps_the_last_epoch():
    """The loss falls: the second epoch is the best one, and the one that ends the run."""
    found = {}
    noting = on(on_epoch_end=lambda ctx: found.update({ctx.epoch: copied(ctx.model)}))
    stopping = cb.EarlyStopping("train_loss", patience=1, mode="max")
    fitted = fit(callbacks=[noting, stopping, cb.KeepBestModel("train_loss", mode="min")])
    assert fitted.stopped == "early stopping"
    assert not torch.equal(found[1]["fc.weight"], found[2]["fc.weight"])
    assert_same(weights(fitted), found[2])


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# The context -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["fit", "evaluate", "predict", "lr_finder"])
def test_the_context_has_the_contracts_names_and_no_others(verb):
    seen = []

    def look(ctx):
        seen.append({name for name in dir(ctx) if not name.startswith("_")})

    hooks = ("on_train_batch_end", "on_valid_batch_end", "on_predict_batch_end")
    looking = on(**dict.fromkeys(hooks, look))
    if verb == "fit":
        fit(callbacks=[looking])
    elif verb == "lr_finder":
        sweep(callbacks=[looking])
    else:
        getattr(fit(), verb)((X, Y), callbacks=[looking], verbose=False)
    assert seen
    for names in seen:
        assert names == CONTEXT


@pytest.mark.parametrize("run", ["plain", "AutoResume", "accumulate", "lr_finder"])
def test_nothing_of_luzpys_own_lies_in_the_buffers(run, tmp_path):
    seen = []
    looking = on(on_fit_end=lambda ctx: seen.append(dict(ctx.buffers)))
    if run == "lr_finder":
        sweep(callbacks=[looking], valid_data=(X, Y))
    elif run == "accumulate":
        fit(callbacks=[looking], accelerator=luz.Accelerator(cpu=True, accumulate=2))
    elif run == "AutoResume":
        fit(callbacks=[looking, cb.AutoResume(tmp_path / "state.pt", every_n_batches=2)])
    else:
        fit(callbacks=[looking])
    assert seen == [{}]


@pytest.mark.parametrize("hook", ["on_fit_begin", "on_valid_begin", "on_valid_batch_begin"])
def test_a_users_buffers_do_not_disturb_the_finder(hook):
    expected = sweep(valid_data=(X, Y))
    kept = []

    def put(ctx):
        ctx.buffers["valid_loss"] = "mine"

    looking = on(on_train_batch_end=lambda ctx: kept.append(ctx.buffers.get("valid_loss")))
    found = sweep(valid_data=(X, Y), callbacks=[on(**{hook: put}), looking])
    assert found["valid_loss"].tolist() == expected["valid_loss"].tolist()
    if hook == "on_fit_begin":
        assert kept == ["mine"] * 6


def test_a_users_buffers_do_not_disturb_accumulated_gradients():
    place = luz.Accelerator(cpu=True, accumulate=2)
    expected = fit(accelerator=place)
    names = ("rows_of_step", "rows_expected")
    put = on(on_train_batch_end=lambda ctx: ctx.buffers.update(dict.fromkeys(names, "mine")))
    assert_same(weights(fit(accelerator=place, callbacks=[put])), weights(expected))


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_run_does_not_grow_by_an_entry_an_epoch():
    """In a terminal, where bars are drawn. Records grow: they are left out."""
    sizes = []
    looking = on(on_epoch_begin=lambda ctx: sizes.append(len(reachable(ctx, ctx.records))))
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, contextlib.redirect_stdout(terminal):
        fit(callbacks=[looking], epochs=8, verbose=True)
    os.close(master)
    assert sizes[4:] == [sizes[4]] * 4


def reachable(root, *excluded):
    """Ids of what an object holds, directly or not; classes, functions and modules end the way."""
    ends = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType)
    ends = (*ends, int, float, str, bytes)
    seen = {id(item) for item in excluded}
    found, stack = {}, [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or issubclass(type(item), ends):
            continue
        seen.add(id(item))
        found[id(item)] = item
        stack += gc.get_referents(item)
    return found


# One optimizer, and several --------------------------------------------------------------------

EVERYWHERE = tuple(h for h in HOOKS if "predict" not in h and h[3:] not in ("interrupt",))


@pytest.mark.parametrize("name", ["opt", "adam"])
def test_the_only_optimizer_is_ctx_opt_from_the_beginning_of_the_run(name):
    class Named(Flippable):
        def set_optimizers(self, lr):
            made = torch.optim.Adam(self.parameters(), lr)
            return made if name == "opt" else {name: made}

    seen = []

    def looking(hook):
        return lambda ctx: seen.append((hook, ctx.opt_name, ctx.opt is ctx.optimizers[name]))

    callback = on(**{hook: looking(hook) for hook in EVERYWHERE})
    model = luz.setup(Named, nn.MSELoss(), seed=1).set_opt_hparams(lr=0.01)
    fit(model, callbacks=[callback], valid_data=(X, Y))
    assert {hook for hook, _, _ in seen} >= {"on_fit_begin", "on_valid_begin", "on_fit_end"}
    assert [entry for entry in seen if entry[1:] != (name, True)] == []


def test_the_only_optimizer_is_ctx_opt_in_a_modules_own_step():
    seen = []

    class Looking(OwnStep):
        @staticmethod
        def at_step(ctx):
            seen.append((ctx.training, ctx.opt_name, ctx.opt is ctx.optimizers["opt"]))

    fit(spec(Looking), valid_data=(X, Y), epochs=1)
    before, seen = seen[0], seen[1:]  # one batch of validation is tried before the run
    assert before == (False, "opt", True)
    assert seen == [(True, "opt", True)] * BATCHES + [(False, "opt", True)] * BATCHES


class Two(Flippable):
    """Two optimizers."""

    calls = 0

    def set_optimizers(self, lr):
        type(self).calls += 1
        made = {"weight": self.fc.weight, "bias": self.fc.bias}
        return {name: torch.optim.SGD([parameter], lr) for name, parameter in made.items()}


def test_of_several_optimizers_ctx_opt_is_the_one_at_hand():
    hooks = ("on_train_batch_after_pred", "on_train_batch_before_step", "on_valid_batch_after_loss")
    seen = {hook: [] for hook in hooks}

    def looking(hook):
        return lambda ctx: seen[hook].append(
            (ctx.opt_name, ctx.opt is ctx.optimizers[ctx.opt_name])
        )

    model = luz.setup(Two, nn.MSELoss(), seed=1).set_opt_hparams(lr=0.01)
    callback = on(**{hook: looking(hook) for hook in hooks})
    fit(model, callbacks=[callback], valid_data=(X, Y), epochs=1)
    expected = [("weight", True), ("bias", True)] * BATCHES
    assert seen == dict.fromkeys(hooks, expected)


@pytest.mark.parametrize(
    "hook",
    [
        *("on_fit_begin", "on_epoch_begin", "on_train_begin", "on_train_batch_begin"),
        *("on_train_batch_end", "on_valid_begin", "on_valid_batch_end", "on_epoch_end"),
        *("on_fit_end", "step"),
    ],
)
@pytest.mark.parametrize("name", ["opt", "opt_name"])
def test_of_several_optimizers_none_is_at_hand_outside_a_step(hook, name):
    """Also in a step of the module's own: it goes through `ctx.optimizers`."""
    said = []

    def look(ctx):
        try:
            said.append(f"no error, but {getattr(ctx, name)!r}")
        except AttributeError as err:
            said.append(str(err))

    class OwnTwo(Two, OwnStep):
        at_step = staticmethod(look)

    model = luz.setup(OwnTwo if hook == "step" else Two, nn.MSELoss(), seed=1)
    callbacks = [] if hook == "step" else [on(**{hook: look})]
    fit(model.set_opt_hparams(lr=0.01), callbacks=callbacks, valid_data=(X, Y))
    assert said
    assert [message for message in said if "optimizers" not in message] == []
    assert [message for message in said if message.startswith("no error")] == []


# Exceptions of a user's own --------------------------------------------------------------------


def counted(limit, function):
    """`function`, which raises at its call number `limit`."""
    calls = []

    def call(*args):
        calls.append(None)
        if len(calls) == limit:
            raise Broken(7, "no good")
        return function(*args)

    return call


class Rows(Dataset):
    def __init__(self, get=lambda index: (X[index], Y[index])):
        self.get = get

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return self.get(index)


class Streamed(IterableDataset):
    def __init__(self, get):
        self.get = get

    def __iter__(self):
        return (self.get(index) for index in range(len(X)))


def failing_callback(hook):
    def fails(self, ctx):
        if ctx.epoch == 2 and (ctx.iter == 2 or hook == "on_epoch_begin"):
            raise Broken(7, "no good")

    return type("Exploding", (luz.Callback,), {hook: fails})()


def failing_metric(update=lambda: None, compute=lambda: 1.0):
    class Fussy(luz.Metric):
        abbrev = "Fuss"

        def reset(self):
            pass

        def update(self, preds, target):
            update()

        def compute(self):
            return compute()

    return Fussy()


def failing_function_metric():
    def fuss(preds, target):
        return call()

    call = counted(6, lambda: 1.0)
    return fuss


def failing_module(base=Flippable):
    class Failing(base):
        call = staticmethod(counted(6, lambda: None))

        def forward(self, x):
            self.call()
            return super().forward(x)

    return Failing


# Each fails in epoch 2 at iteration 2: at the sixth batch, or the 21st row.
def failing_rows(before=0):
    return counted(21 + before, lambda index: (X[index], Y[index]))


FAILURES = {
    "callback": (
        lambda: fit(callbacks=[failing_callback("on_train_batch_after_loss")]),
        ["Exploding", "on_train_batch_after_loss"],
    ),
    "callback in validation": (
        lambda: fit(callbacks=[failing_callback("on_valid_batch_end")], valid_data=(X, Y)),
        ["Exploding", "on_valid_batch_end"],
    ),
    "metric, update": (lambda: fit(spec(metrics=failing_metric(counted(6, int)))), ["Fuss"]),
    "metric, function": (lambda: fit(spec(metrics=failing_function_metric())), ["fuss"]),
    "loss": (lambda: fit(spec(loss=counted(6, nn.functional.mse_loss))), ["loss"]),
    "data": (lambda: fit(data=Rows(failing_rows())), ["`data`"]),
    "data, iterable": (
        lambda: fit(
            data=Streamed(failing_rows()), dataloader_options={"batch_size": 4, "drop_last": True}
        ),
        ["`data`"],
    ),
    "valid_data": (  # one batch of which is tried before the run
        lambda: fit(valid_data=Rows(failing_rows(before=4))),
        ["`valid_data`"],
    ),
    "module": (lambda: fit(spec(failing_module())), []),
    "module, own step": (lambda: fit(spec(failing_module(OwnStep))), []),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_users_exception_keeps_its_type_and_says_where(name):
    run, who = FAILURES[name]
    with pytest.raises(Broken, match="no good") as caught:
        run()
    assert caught.value.args == (7, "no good")
    notes = "\n".join(caught.value.__notes__)
    for word in who:
        assert word in notes
    assert re.search(r"epoch 2\b", notes)
    assert re.search(r"(iteration|batch) 2\b", notes)


@pytest.mark.parametrize(
    ("run", "who"),
    [
        (lambda: fit(callbacks=[failing_callback("on_epoch_begin")]), ["Exploding", "epoch 2"]),
        (lambda: fit(spec(metrics=failing_metric(compute=counted(2, int)))), ["Fuss", "epoch 2"]),
    ],
    ids=["callback", "metric, compute"],
)
def test_a_users_exception_between_batches_keeps_its_type(run, who):
    with pytest.raises(Broken, match="no good") as caught:
        run()
    notes = "\n".join(caught.value.__notes__)
    for word in who:
        assert word in notes


@pytest.mark.parametrize(
    ("run", "who"),
    [
        (lambda: sweep(data=Rows(failing_rows()), steps=20), "`data`"),
        (lambda: sweep(valid_data=Rows(counted(5, lambda i: (X[i], Y[i])))), "`valid_data`"),
        (lambda: sweep(callbacks=[failing_callback("on_train_batch_end")], steps=20), "Exploding"),
        (lambda: sweep(spec(loss=counted(3, nn.functional.mse_loss))), "loss"),
    ],
    ids=["data", "valid_data", "callback", "loss"],
)
def test_a_users_exception_in_the_finder_keeps_its_type(run, who):
    with pytest.raises(Broken, match="no good") as caught:
        run()
    assert who in "\n".join(caught.value.__notes__)


def failing_batch(hook):
    def fails(self, ctx):
        raise Broken(7, "no good")

    return type("Exploding", (luz.Callback,), {hook: fails})()


@pytest.mark.parametrize(
    ("verb", "kwargs", "who"),
    [
        ("evaluate", {"callbacks": failing_batch("on_valid_batch_end")}, "Exploding"),
        ("evaluate", {"metrics": failing_metric(counted(1, int))}, "Fuss"),
        ("evaluate", {"data": Rows(counted(1, int))}, "`data`"),
        ("predict", {"callbacks": failing_batch("on_predict_batch_end")}, "Exploding"),
        ("predict", {"newdata": Rows(counted(1, int))}, "`newdata`"),
    ],
    ids=["callback", "metric", "data", "callback in predict", "newdata"],
)
def test_a_users_exception_in_evaluate_and_predict_keeps_its_type(verb, kwargs, who):
    first = {"evaluate": "data", "predict": "newdata"}[verb]
    kwargs = {first: (X, Y), "verbose": False} | kwargs
    fitted = fit(epochs=1)
    with pytest.raises(Broken, match="no good") as caught:
        getattr(fitted, verb)(**kwargs)
    assert who in "\n".join(caught.value.__notes__)


# A copy of the model, and the model of a run elsewhere -----------------------------------------


@pytest.mark.parametrize("hook", ["on_fit_begin", "on_train_batch_end"])
@pytest.mark.parametrize("copying", [copy.deepcopy, AveragedModel])
def test_a_copy_of_the_model_in_a_run_has_no_context(copying, hook):
    copies = []
    keeping = on(**{hook: lambda ctx: copies.append((copying(ctx.model), ctx.model))})
    before = contexts()
    fit(callbacks=[keeping], epochs=1)
    assert copies
    for copied_model, model in copies:
        for part in (*copied_model.modules(), *model.modules()):
            assert not hasattr(part, "ctx")
    gc.collect()
    assert len(contexts()) == len(before)  # the copies, which live on, keep none


def contexts():
    # By type: to ask some of torch's objects for their class is a warning.
    return [item for item in gc.get_objects() if issubclass(type(item), luz.Context)]


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_the_model_of_a_run_can_be_saved_in_a_hook(how):
    """As one does in a notebook: with its class, not with the run around it."""
    made = []

    def save(ctx):
        buffer = io.BytesIO()
        if how == "pickle":
            pickle.dump(ctx.model, buffer)
            loaded = pickle.loads(buffer.getvalue())
        else:
            torch.save(ctx.model, buffer)
            buffer.seek(0)
            loaded = torch.load(buffer, weights_only=False)
        made.append(loaded)
        assert ctx.model.ctx is ctx  # it still has its own
        assert not hasattr(loaded, "ctx")
        assert_same(copied(loaded), copied(ctx.model))

    fit(callbacks=[on(on_train_batch_end=save)], epochs=1)
    assert len(made) == BATCHES


def test_the_context_is_gone_when_the_run_ends():
    alive = []
    keep = {
        hook: lambda ctx: alive.append(weakref.ref(ctx))
        for hook in ("on_train_batch_end", "on_valid_batch_end", "on_predict_batch_end")
    }
    keeping, stopping = on(**keep), cb.EarlyStopping("train_loss")
    fitted = fit(callbacks=[keeping, stopping], valid_data=(X, Y))
    fitted.evaluate((X, Y), callbacks=[keeping], verbose=False)
    fitted.predict(X, callbacks=[keeping], verbose=False)
    records = sweep(callbacks=[keeping], valid_data=(X, Y))
    gc.collect()
    assert len(records) == 6
    assert alive
    assert {reference() for reference in alive} == {None}


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_the_model_in_training_keeps_its_context_when_a_callback_uses_it(verb):
    class Looking(Flippable):
        def loss(self, input, target):
            return nn.functional.mse_loss(input, target) * (1 + 0 * self.ctx.epoch)

    model = luz.setup(Looking, optimizer=torch.optim.SGD, seed=1).set_opt_hparams(lr=0.05)
    fitted = fit(model, epochs=1)
    kept = []

    def use(ctx):
        getattr(attrs.evolve(fitted, model=ctx.model), verb)((X, Y), verbose=False)
        kept.append(ctx.model.ctx is ctx)

    fit(model, callbacks=[on(on_train_batch_begin=use)], epochs=2)
    assert kept == [True] * 2 * BATCHES


@pytest.mark.parametrize("verb", [luz.predict, luz.evaluate])
def test_a_context_is_no_fitted_model(verb):
    said = []

    def use(ctx):
        try:
            verb(ctx, (X, Y), verbose=False)
        except TypeError as err:
            said.append(str(err))

    fit(callbacks=[on(on_epoch_end=use)], epochs=1)
    assert len(said) == 1
    assert "`fitted`" in said[0]


# evaluate --------------------------------------------------------------------------------------


class One(Flippable):
    """One optimizer of its own making."""

    calls = 0

    def set_optimizers(self, lr):
        type(self).calls += 1
        return torch.optim.SGD(self.parameters(), lr)


@pytest.mark.parametrize(("module", "rows"), [(One, ["loss"]), (Two, ["loss_weight", "loss_bias"])])
def test_evaluate_makes_no_optimizers(module, rows):
    fitted = fit(luz.setup(module, nn.MSELoss(), seed=1).set_opt_hparams(lr=0.05), epochs=1)
    calls = module.calls
    found = fitted.evaluate((X, Y), verbose=False).get_metrics()
    assert module.calls == calls
    assert found["metric"].tolist() == rows
    mse = nn.functional.mse_loss(fitted.model(X), Y).item()
    assert found["value"].tolist() == pytest.approx([mse] * len(rows))


def test_a_model_loaded_with_another_optimizer_can_be_evaluated(tmp_path):
    fitted = fit(spec().set_opt_hparams(momentum=0.9), epochs=1)
    fitted.save(tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=spec(optimizer=torch.optim.Adam))
    found, expected = (x.evaluate((X, Y), verbose=False)["loss"] for x in (loaded, fitted))
    assert found == expected


def test_losses_of_different_names_in_turn_have_each_its_own_mean():
    """Batches of 4, 4 and 2 rows: `gen` in the first and the last, `disc` in the second."""

    class Turns(OwnStep):
        def step(self):
            ctx = self.ctx
            name = "disc" if ctx.iter == 2 else "gen"
            ctx.loss = {name: torch.tensor({1: 1.0, 2: 3.0, 3: 4.0}[ctx.iter])}
            ctx.pred = self(ctx.input)

    data = DataLoader(TensorDataset(X[:10], Y[:10]), batch_size=4)
    records = fit(spec(Turns), data, epochs=1, valid_data=data).records["metrics"]
    expected = {"loss_gen": (4 * 1.0 + 2 * 4.0) / 6, "loss_disc": 3.0}
    assert records["train"][0] == pytest.approx(expected)
    assert records["valid"][0] == pytest.approx(expected)


# Where data go ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("data", [(X, Y), DataLoader(TensorDataset(X, Y), 4)], ids=["memory", "dl"])
def test_without_device_placement_data_go_to_the_model(data):
    seen = set()

    def look(ctx):
        seen.add((str(ctx.device), str(ctx.input.device), str(next(ctx.model.parameters()).device)))

    hooks = ("on_train_batch_begin", "on_valid_batch_begin", "on_predict_batch_begin")
    looking = on(**dict.fromkeys(hooks, look))
    place = luz.Accelerator(device_placement=False)
    fitted = fit(data=data, valid_data=data, callbacks=[looking], accelerator=place)
    fitted.evaluate(data, callbacks=[looking], verbose=False, accelerator=place)
    fitted.predict(data, callbacks=[looking], verbose=False, accelerator=place)
    assert seen == {("cpu", "cpu", "cpu")}


def as_user_dict(rows):
    x, y = zip(*rows, strict=True)
    return UserDict(x=torch.stack(x), y=torch.stack(y))


def user_dicts():
    return DataLoader(TensorDataset(X, Y), 4, collate_fn=as_user_dict)


def test_a_mapping_that_is_no_dict_has_an_input_and_a_target():
    seen = []

    def look(ctx):
        rows = slice(4 * (ctx.iter - 1), 4 * ctx.iter)
        same = torch.equal(ctx.input, X[rows]) and torch.equal(ctx.target, Y[rows])
        seen.append((type(ctx.batch), same))

    hooks = ("on_train_batch_begin", "on_valid_batch_begin", "on_predict_batch_begin")
    looking = on(**dict.fromkeys(hooks, look))
    expected = fit()
    fitted = fit(data=user_dicts(), valid_data=user_dicts(), callbacks=[looking])
    assert_same(weights(fitted), weights(expected))
    fitted.evaluate(user_dicts(), callbacks=[looking], verbose=False)
    preds = fitted.predict(user_dicts(), callbacks=[looking], verbose=False)
    assert torch.equal(preds, expected.predict(X, verbose=False))
    assert seen == [(UserDict, True)] * (6 * BATCHES)


def test_input_and_target_of_a_mapping_that_is_no_dict_can_be_set():
    def change(ctx):
        ctx.input = ctx.input * 2
        ctx.target = ctx.target + 1

    changing = on(on_train_batch_begin=change)
    expected = fit(callbacks=[changing])
    assert_same(weights(fit(data=user_dicts(), callbacks=[changing])), weights(expected))


def test_a_mapping_that_is_moved_keeps_its_type():
    """The finder keeps the batches that it validates on, on the CPU."""
    seen = set()
    looking = on(
        on_train_batch_begin=lambda ctx: seen.add(type(ctx.batch)),
        on_valid_batch_begin=lambda ctx: seen.add(type(ctx.batch)),
    )
    found = sweep(data=user_dicts(), valid_data=user_dicts(), callbacks=[looking])
    assert seen == {UserDict}
    assert found.loss.tolist() == sweep().loss.tolist()


@pytest.mark.gpu
def test_a_mapping_that_is_moved_to_a_gpu_keeps_its_type():
    seen = set()
    looking = on(
        on_train_batch_begin=lambda ctx: seen.add((type(ctx.batch), ctx.input.device.type))
    )
    fit(data=user_dicts(), callbacks=[looking], accelerator=luz.Accelerator())
    assert seen == {(UserDict, "cuda")}


# The specification, the result and their files -------------------------------------------------


@pytest.mark.parametrize("field", ["hparams", "opt_hparams"])
def test_the_mapping_of_a_specification_cannot_be_changed_in_place(field):
    model = spec().set_hparams(flip=True)
    with pytest.raises(TypeError):
        getattr(model, field)["flip"] = False
    with pytest.raises(TypeError):
        del getattr(model, field)["flip" if field == "hparams" else "lr"]


@pytest.mark.parametrize(
    "through", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_specification_can_be_copied_and_pickled(through):
    model = spec().set_hparams(flip=True)
    made = through(model)
    assert dict(made.hparams) == {"flip": True}
    assert dict(made.opt_hparams) == {"lr": 0.05}
    assert_same(weights(fit(made, epochs=1)), weights(fit(model, epochs=1)))


def test_reprs_begin_with_the_names_of_python():
    fitted = fit(epochs=1)
    assert repr(fitted).startswith("<FittedModule")
    assert repr(spec()).startswith("<LuzModule")
    assert repr(fitted.evaluate((X, Y), verbose=False)).startswith("<Evaluation")


def test_a_model_of_a_function_saved_again_does_not_name_a_class(tmp_path):
    """The class alone would make another model: one that does not flip."""

    def flipped():
        return Flippable(flip=True)

    fit(spec(flipped), epochs=1).save(tmp_path / "net.luz")
    luz.load(tmp_path / "net.luz", module=flipped).save(tmp_path / "again.luz")
    with pytest.raises(luz.LuzError, match="`module`"):
        luz.load(tmp_path / "again.luz")


@pytest.mark.skipif(not IO.exists(), reason="needs Linux' count of the bytes read")
def test_the_newest_checkpoint_is_found_without_reading_them_all(tmp_path):
    """The one that is taken is read twice at most: for its checksum, and for what it holds."""

    def wide():
        return nn.Linear(2, 100_000)

    def bytes_read():
        return int(IO.read_text().split()[1])

    data = (X, torch.zeros(16, 100_000))
    fit(spec(wide), data, epochs=6, callbacks=[cb.ModelCheckpoint(f"{tmp_path}/", "train_loss")])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    counts = []
    count = {"on_fit_begin": lambda ctx: counts.append(bytes_read())}
    first, last = on(float("-inf"), **count), on(float("inf"), **count)
    callbacks = [first, cb.ResumeFromCheckpoint(tmp_path), last]
    fit(spec(wide), data, epochs=1, callbacks=callbacks)
    size = files[-1].stat().st_size
    assert size > 1_000_000
    assert counts[1] - counts[0] < 3.5 * size


def test_a_checkpoint_holds_the_state_and_not_the_losses_of_items(tmp_path):
    """torch's `mse_loss` gives its mean in a storage as large as the loss of all items."""

    def wide():
        return nn.Linear(2, 10_000)

    keeping = cb.ModelCheckpoint(tmp_path / "net.pt", "train_loss")
    fit(spec(wide), (X, torch.zeros(16, 10_000)), epochs=1, callbacks=[keeping])
    model = 3 * 10_000 * 4
    assert model < (tmp_path / "net.pt").stat().st_size < 1.2 * model


# AutoResume ------------------------------------------------------------------------------------


class Walk(IterableDataset):
    """Every row depends on the one before it, and on numbers of torch's global generator."""

    def __init__(self, n_rows):
        self.n_rows = n_rows

    def __iter__(self):
        x = torch.zeros(2)
        for _ in range(self.n_rows):
            x = 0.5 * x + torch.rand(2)
            yield x, x.sum(0, keepdim=True)


def dropping():
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def kill(epoch, batch):
    def raising(ctx):
        raise Killed

    return on(on_train_batch_begin=at(epoch, batch, raising))


def test_the_state_file_keeps_no_random_state_of_each_batch(tmp_path):
    path = tmp_path / "state.pt"
    sizes = {}

    def look(ctx):
        if ctx.iter in (51, 401):  # batches 50 and 400 have been kept
            sizes[ctx.iter - 1] = path.stat().st_size

    fit(
        spec(dropping),
        Walk(802),
        epochs=1,
        callbacks=[cb.AutoResume(path, every_n_batches=50), on(on_train_batch_begin=look)],
        dataloader_options={"batch_size": 2},
    )
    # Something is left for what is gathered over a bounded number of batches.
    assert sizes[400] < 2 * sizes[50]


def test_a_run_over_a_random_stream_goes_on_bit_for_bit(tmp_path):
    model, options = spec(dropping), {"batch_size": 2}
    kwargs = {"data": Walk(60), "epochs": 3, "dataloader_options": options}
    torch.manual_seed(1)
    unbroken = fit(model, callbacks=[cb.AutoResume(tmp_path / "unbroken.pt")], **kwargs)
    after = torch.rand(3)
    torch.manual_seed(1)
    keeping = [cb.AutoResume(tmp_path / "state.pt", every_n_batches=10)]
    with pytest.raises(Killed):
        fit(model, callbacks=[*keeping, kill(2, 24)], **kwargs)
    torch.manual_seed(999)  # all random numbers must come from the file
    begun = []
    looking = on(on_train_batch_begin=lambda ctx: begun.append((ctx.epoch, ctx.iter)))
    resumed = fit(model, callbacks=[*keeping, looking], **kwargs)
    assert begun == [(2, n) for n in range(21, 31)] + [(3, n) for n in range(1, 31)]
    assert_same(weights(resumed), weights(unbroken))
    assert resumed.records["metrics"] == unbroken.records["metrics"]
    assert torch.equal(torch.rand(3), after)


class Counting(luz.Callback):
    """One with a state, which must be there after a kill whatever others come and go."""

    def on_fit_begin(self, ctx):
        self.batches = 0

    def on_train_batch_end(self, ctx):
        self.batches += 1

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state):
        self.batches = state["batches"]


class Stateless(luz.Callback):
    def on_train_batch_end(self, ctx):
        pass


@pytest.mark.parametrize(
    ("before", "afterwards"),
    [([], [Stateless]), ([Stateless], []), ([Stateless, Killed], [Stateless, Stateless])],
    ids=["added", "removed", "the one that killed"],
)
def test_a_callback_without_a_state_may_come_and_go(before, afterwards, tmp_path):
    path = tmp_path / "state.pt"
    expected = fit(epochs=3)

    def with_others(others, *more):
        made = [kill(2, 3) if kind is Killed else kind() for kind in others]
        return [*made, counting, cb.AutoResume(path, every_n_batches=1), *more]

    counting = Counting()
    # `kill` is a callback without a state itself: where none is to go, it stays, and does nothing.
    stays = Killed not in before
    with pytest.raises(Killed):
        fit(callbacks=with_others(before, *([kill(2, 3)] if stays else [])), epochs=3)
    counting = Counting()
    found = fit(callbacks=with_others(afterwards, *([kill(9, 9)] if stays else [])), epochs=3)
    assert counting.batches == 3 * BATCHES
    assert_same(weights(found), weights(expected))


SIGTERM = """
    import os, signal, torch
    from torch import nn
    import luzpy as luz

    def handlers():
        return [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)]

    def run(name):
        seen = []
        def end(ctx):
            os.kill(os.getpid(), signal.SIGTERM)
        hooks = {
            "on_train_batch_end": lambda ctx: seen.append("on_train_batch_end"),
            "on_fit_end": lambda ctx: seen.append("on_fit_end"),
        }
        callbacks = [
            luz.callbacks.AutoResume(f"{name}.pt"),
            luz.Callback.from_functions(on_train_batch_begin=end),
            luz.Callback.from_functions(**hooks),
        ]
        before = handlers()
        model = luz.setup(lambda: nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD)
        status = None
        try:
            model.set_opt_hparams(lr=0.1).fit(
                (torch.ones(64, 2), torch.ones(64, 1)), 2, callbacks, verbose=False
            )
        except SystemExit as err:
            status = err.code
        same = [str(a is b or a == b) for a, b in zip(before, handlers())]
        print(name, status, *same, os.path.exists(f"{name}.pt"), *seen)

    run("default")
    signal.signal(signal.SIGTERM, lambda signum, frame: None)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    run("own")
"""


@pytest.fixture(scope="module")
def told_to_end(tmp_path_factory):
    """What a process says of two runs that SIGTERM ended: with default handlers, with its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SIGTERM)],
        cwd=tmp_path_factory.mktemp("told"),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["default", "own"], done.stdout
    return {name: found for name, *found in lines}


@pytest.mark.reliability
@pytest.mark.parametrize("handlers", ["default", "own"])
def test_sigterm_leaves_the_handlers_of_signals_as_they_were(handlers, told_to_end):
    status, sigterm, sigchld, kept, *_ = told_to_end[handlers]
    assert status == "143"
    assert kept == "True"
    assert (sigterm, sigchld) == ("True", "True")


@pytest.mark.reliability
@pytest.mark.parametrize("handlers", ["default", "own"])
def test_sigterm_ends_a_run_as_any_stop_does(handlers, told_to_end):
    """After the batch, when every callback has had its hook, with `on_fit_end`."""
    assert told_to_end[handlers][4:] == ["on_train_batch_end", "on_fit_end"]


class Signalling(Counting):
    """A SIGTERM while the state is put back, once."""

    def __init__(self):
        self.told = False

    def load_state_dict(self, state):
        super().load_state_dict(state)
        if not self.told:
            self.told = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("batch", [2, 4])
def test_sigterm_while_the_state_is_put_back_loses_nothing(batch, tmp_path):
    expected = fit(epochs=3, callbacks=[Counting()], valid_data=(X, Y))
    signalling = Signalling()
    keeping = [signalling, cb.AutoResume(tmp_path / "state.pt", every_n_batches=1)]
    with pytest.raises(Killed):
        fit(epochs=3, callbacks=[*keeping, kill(2, batch)], valid_data=(X, Y))
    with pytest.raises(SystemExit):
        fit(epochs=3, callbacks=keeping, valid_data=(X, Y))
    assert signalling.told
    resumed = fit(epochs=3, callbacks=keeping, valid_data=(X, Y))
    assert_same(weights(resumed), weights(expected))
    assert resumed.records["metrics"] == expected.records["metrics"]


class LazyOrder(Sampler):
    """Draws the order of the rows while the epoch is under way."""

    def __iter__(self):
        for _ in range(16):
            yield int(torch.randint(16, ()))

    def __len__(self):
        return 16


class Noisy(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return X[index] + torch.rand(2), Y[index]


def test_a_sampler_that_draws_beside_random_rows_goes_on_bit_for_bit(tmp_path):
    loader = DataLoader(Noisy(), batch_size=4, sampler=LazyOrder())
    model = spec(dropping)
    torch.manual_seed(1)
    unbroken = fit(model, loader, 3, [cb.AutoResume(tmp_path / "unbroken.pt")])
    torch.manual_seed(1)
    keeping = cb.AutoResume(tmp_path / "state.pt", every_n_batches=2)
    with pytest.raises(Killed):
        fit(model, loader, 3, [keeping, kill(2, 4)])
    torch.manual_seed(999)
    resumed = fit(model, loader, 3, [keeping])
    assert_same(weights(resumed), weights(unbroken))
    assert resumed.records["metrics"] == unbroken.records["metrics"]


def test_a_run_that_is_killed_after_stopping_early_trains_no_more(tmp_path):
    stopping = cb.EarlyStopping("train_loss", baseline=0)
    keeping = [stopping, cb.AutoResume(tmp_path / "state.pt")]
    expected = fit(epochs=5, callbacks=[stopping])

    def killed(ctx):
        raise Killed

    with pytest.raises(Killed):
        fit(epochs=5, callbacks=[*keeping, on(on_fit_end=killed)])
    resumed = fit(epochs=5, callbacks=keeping)
    assert resumed.stopped == "early stopping"
    assert resumed.records["metrics"] == expected.records["metrics"]
    assert_same(weights(resumed), weights(expected))
    assert not (tmp_path / "state.pt").exists()


# The context in the module ---------------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_a_module_may_change_its_class_in_a_run():
    def register(ctx):
        parametrize.register_parametrization(ctx.model, "weight", Doubled())

    fitted = fit(spec(lambda: nn.Linear(2, 1)), callbacks=[on(on_fit_end=register)])
    assert not hasattr(fitted.model, "ctx")
    assert not hasattr(nn.Linear(2, 1), "ctx")


def test_a_reason_to_stop_is_a_word():
    with pytest.raises(ValueError, match="`reason` must not be empty"):
        fit(callbacks=[on(on_epoch_end=lambda ctx: ctx.stop(""))])
    with pytest.raises(TypeError, match="`reason` must be a string, got None"):
        fit(callbacks=[on(on_epoch_end=lambda ctx: ctx.stop(None))])


def test_in_evaluate_there_is_no_optimizer_at_hand():
    seen = []
    fit().evaluate(
        (X, Y), callbacks=[on(on_valid_end=lambda ctx: seen.append(hasattr(ctx, "opt")))]
    )
    assert seen == [False]


def test_callbacks_of_the_finder_find_their_buffers_when_it_validates():
    seen = []
    callback = on(
        on_fit_begin=lambda ctx: ctx.buffers.update(mine=1),
        on_valid_begin=lambda ctx: seen.append(ctx.buffers["mine"]),
    )
    sweep(callbacks=[callback], valid_data=(X, Y))
    assert seen == [1] * 6


class Dying(Dataset):
    """Its worker processes are told to end with the run, at the first row of an epoch."""

    dies = False

    def __len__(self):
        return 16

    def __getitem__(self, index):
        if self.dies:
            os.kill(os.getppid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGKILL)
        return X[index], Y[index]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_workers_that_die_at_the_first_batch_of_an_epoch_cost_nothing(accumulate, tmp_path):
    data = Dying()

    def die(ctx):
        data.dies = ctx.epoch == 2

    def run(path, *callbacks):
        data.dies = False
        loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=2)
        place = luz.Accelerator(cpu=True, accumulate=accumulate)
        keeping = cb.AutoResume(path)
        return fit(spec(dropping), loader, 3, [keeping, *callbacks], accelerator=place)

    torch.manual_seed(1)
    unbroken = run(tmp_path / "unbroken.pt")
    torch.manual_seed(1)
    with pytest.raises(SystemExit):
        run(tmp_path / "state.pt", on(on_epoch_begin=die))
    torch.manual_seed(999)
    resumed = run(tmp_path / "state.pt")
    assert_same(weights(resumed), weights(unbroken))
    assert resumed.records["metrics"] == unbroken.records["metrics"]
