"""The context: what hooks see, batches' parts, logging, and its end."""

import gc
import weakref
from collections import namedtuple

import pandas as pd
import pytest
import torch
from torch import nn

import luzpy as luz

X, Y = torch.arange(40.0).reshape(10, 4) / 40, torch.ones(10, 1)


def specification(**kwargs):
    options = {"loss": nn.MSELoss(), "optimizer": torch.optim.SGD} | kwargs
    model = luz.setup(nn.Linear, **options).set_hparams(in_features=4, out_features=1)
    return model.set_opt_hparams(lr=0.125)


def fit(callbacks, **kwargs):
    options = {"epochs": 2, "verbose": False, "dataloader_options": {"batch_size": 4}} | kwargs
    return specification().fit((X, Y), callbacks=callbacks, **options)


def context(batch=None):
    return luz.Context(
        verbose=False, accelerator=luz.Accelerator(cpu=True), model=nn.Linear(1, 1), batch=batch
    )


def test_fields_describe_the_run():
    seen = {}

    def look(ctx):
        names = (
            "verbose accelerator device model optimizers opt opt_name data train_data valid_data "
            "min_epochs max_epochs epoch iter training callbacks batch input target "
            "pred loss_fn loss loss_grad step_opt metrics records hparams opt_hparams buffers"
        )
        seen.update({name: getattr(ctx, name) for name in names.split()})

    place = luz.Accelerator(cpu=True)
    spy = luz.Callback.from_functions(on_train_batch_before_step=look)
    fitted = fit([spy], epochs=(1, 2), valid_data=(X, Y), accelerator=place)

    assert (seen["verbose"], seen["min_epochs"], seen["max_epochs"]) == (False, 1, 2)
    assert (seen["epoch"], seen["iter"], seen["training"]) == (2, 2, True)
    assert seen["accelerator"] is place
    assert seen["device"] == torch.device("cpu")
    assert seen["model"] is fitted.model
    assert seen["optimizers"] == {"opt": seen["opt"]}
    assert isinstance(seen["opt"], torch.optim.SGD)
    assert seen["opt_name"] == "opt"
    assert seen["data"] is seen["train_data"] is not seen["valid_data"]
    assert (len(seen["train_data"]), len(seen["valid_data"])) == (2, 3)
    assert spy in seen["callbacks"]
    assert len(seen["input"]) == len(seen["target"]) == 4
    assert seen["pred"].shape == (4, 1)
    assert isinstance(seen["loss_fn"], nn.MSELoss)
    assert seen["loss_grad"].requires_grad
    assert not seen["loss"]["opt"].requires_grad
    assert seen["loss"]["opt"] == seen["loss_grad"]
    assert callable(seen["step_opt"])
    assert set(seen["metrics"]) == {"train", "valid"}
    assert seen["records"] is fitted.records
    assert seen["hparams"] == {"in_features": 4, "out_features": 1}
    assert seen["opt_hparams"] == {"lr": 0.125}
    assert seen["buffers"] == {}


def test_data_is_what_is_being_iterated():
    seen = []

    def look(ctx):
        assert ctx.data is (ctx.train_data if ctx.training else ctx.valid_data)
        seen.append((ctx.training, ctx.model.training))

    hooks = dict.fromkeys(
        ["on_train_begin", "on_train_end", "on_valid_begin", "on_valid_end"], look
    )
    fit(luz.Callback.from_functions(**hooks), epochs=1, valid_data=(X, Y))
    assert seen == [(True, True)] * 2 + [(False, False)] * 2


def test_epoch_and_iter_count_from_one():
    seen = []
    hooks = dict.fromkeys(
        ["on_fit_begin", "on_epoch_begin", "on_train_batch_begin", "on_valid_batch_end"],
        lambda ctx: seen.append((ctx.epoch, ctx.iter)),
    )
    fit(luz.Callback.from_functions(**hooks), valid_data=(X[:5], Y[:5]))
    iters = [0, 1, 2, 1, 2]
    assert seen == [(0, 0), *[(1, i) for i in iters], *[(2, i) for i in iters]]


Pair = namedtuple("Pair", "image label")


@pytest.mark.parametrize(
    ("batch", "input", "target"),
    [
        (X, X, None),
        ([X], X, None),
        ((), None, None),
        ([X, Y], X, Y),
        ((X, Y, "third"), X, Y),
        (Pair(X, Y), X, Y),
        ({"image": X, "label": Y}, X, Y),
        ({"image": X}, X, None),
        ({}, None, None),
        (({"a": X}, Y), {"a": X}, Y),
    ],
)
def test_input_and_target_are_the_batchs_first_two_parts(batch, input, target):
    ctx = context(batch)
    assert ctx.input is input or ctx.input == input
    assert ctx.target is target


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (X, ["new", "other"]),
        ([X, Y], ["new", "other"]),
        ((X, Y, 3), ["new", "other", 3]),
        ({"image": X, "label": Y}, {"image": "new", "label": "other"}),
        ({"image": X}, {"image": "new", "target": "other"}),
    ],
)
def test_input_and_target_may_be_replaced(batch, expected):
    kept = batch if isinstance(batch, torch.Tensor) else type(batch)(batch)
    ctx = context(batch)
    ctx.input = "new"
    ctx.target = "other"
    assert ctx.batch == expected
    assert (ctx.input, ctx.target) == ("new", "other")
    assert batch is kept or batch == kept  # the dataset's own object stays as it is


def test_replaced_input_is_what_the_model_gets():
    class Zeroed(luz.Callback):
        def on_train_batch_begin(self, ctx):
            ctx.input = torch.zeros_like(ctx.input)

    fitted = fit(Zeroed(), epochs=1)
    # where inputs are zero, the weights get no gradient, and the bias does
    assert torch.equal(fitted.model.weight, fitted.spec().weight)
    assert not torch.equal(fitted.model.bias, fitted.spec().bias)


@pytest.mark.parametrize("name", ["optimisers", "epochs", "losss"])
def test_mistyped_attribute_is_an_error(name):
    ctx = context()
    with pytest.raises(AttributeError, match=name):
        getattr(ctx, name)
    with pytest.raises(AttributeError, match=name):
        setattr(ctx, name, 1)


def test_unknown_hook_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"`hook` must be one of .*on_fit_begin.* 'on_fit_start'"):
        context().call("on_fit_start")


# Logging -------------------------------------------------------------------------------------


def test_log_appends_to_the_records():
    def log(ctx):
        ctx.log("norms", "train", ctx.epoch * 10)

    fitted = fit(luz.Callback.from_functions(on_train_end=log), epochs=3)
    assert fitted.records["norms"] == {"train": [10, 20, 30]}


def test_log_metric_joins_the_epochs_metrics():
    log = luz.Callback.from_functions(
        on_train_end=lambda ctx: ctx.log_metric("speed", 10.0 * ctx.epoch),
        on_valid_end=lambda ctx: ctx.log_metric("speed", -1.0 * ctx.epoch),
    )
    frame = fit(log, valid_data=(X, Y)).get_metrics()
    rows = frame[frame["metric"] == "speed"]
    assert list(rows.itertuples(index=False, name=None)) == [
        ("train", "speed", 1, 10.0),
        ("train", "speed", 2, 20.0),
        ("valid", "speed", 1, -1.0),
        ("valid", "speed", 2, -2.0),
    ]


def test_metric_logged_in_some_epochs_only_stays_in_its_epoch():
    def log(ctx):
        if ctx.epoch == 2:
            ctx.log_metric("rare", 5.0)

    fitted = fit(luz.Callback.from_functions(on_epoch_begin=log), epochs=3, valid_data=(X, Y))
    rows = fitted.records["metrics"]["train"]
    assert ["rare" in row for row in rows] == [False, True, False]
    assert not any("rare" in row for row in fitted.records["metrics"]["valid"])


def test_get_metric_reads_the_records():
    ctx = context()
    ctx.records["metrics"]["train"] = [{"loss": 3.0}, {"loss": 2.0, "acc": 0.5}]
    assert ctx.get_metric("loss", "train") == 2.0
    assert ctx.get_metric("loss", "train", 1) == 3.0
    assert ctx.get_metric("acc", "train", epoch=2) == 0.5
    for missing in [
        ("acc", "train", 1),
        ("loss", "train", 3),
        ("loss", "train", 0),
        ("loss", "valid"),
    ]:
        assert ctx.get_metric(*missing) is None
    assert ctx.get_metric("loss", "test") is None


def test_get_metrics_df_is_the_frame_of_the_run_so_far():
    frames = []
    spy = luz.Callback.from_functions(on_epoch_end=lambda ctx: frames.append(ctx.get_metrics_df()))
    fitted = fit(spy)
    assert [len(frame) for frame in frames] == [1, 2]
    pd.testing.assert_frame_equal(frames[1], fitted.get_metrics())


def test_get_metrics_takes_a_context():
    ctx = context()
    ctx.records["metrics"]["valid"] = [{"loss": 0.5}]
    frame = luz.get_metrics(ctx)
    assert list(frame.columns) == ["set", "metric", "epoch", "value"]
    assert frame.values.tolist() == [["valid", "loss", 1, 0.5]]


# The end -------------------------------------------------------------------------------------


def spying(contexts, hook):
    return luz.Callback.from_functions(**{hook: lambda ctx: contexts.append(weakref.ref(ctx))})


@pytest.mark.parametrize("verb", ["fit", "evaluate", "predict"])
def test_context_is_gone_after_a_run(verb):
    # R luz's context leaks through the environments that it is bound into
    contexts = []
    callbacks = [
        spying(contexts, "on_train_batch_end"),
        spying(contexts, "on_valid_batch_end"),
        spying(contexts, "on_predict_batch_end"),
        luz.callbacks.LRScheduler(torch.optim.lr_scheduler.ConstantLR),
        luz.callbacks.EarlyStopping("train_loss"),
    ]
    if verb == "fit":
        fitted = fit(callbacks, valid_data=(X, Y))
    else:
        fitted = fit([])
        result = getattr(fitted, verb)((X, Y), callbacks=callbacks[:3], verbose=False)
        assert result is not None
    gc.collect()
    assert contexts
    assert {ref() for ref in contexts} == {None}
    assert callbacks
    assert fitted.model.weight.grad is None


def test_context_is_gone_after_a_failed_run():
    contexts = []

    def fail(ctx):
        raise RuntimeError("enough")

    failing = luz.Callback.from_functions(on_valid_end=fail)
    with pytest.raises(RuntimeError, match="enough"):
        fit([spying(contexts, "on_train_batch_end"), failing], valid_data=(X, Y))
    gc.collect()
    assert contexts
    assert {ref() for ref in contexts} == {None}
