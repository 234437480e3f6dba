import collections
import contextlib
import os
import pty
import re
import termios
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from models import Scale, Stream, line
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz
from luzpy.core.hooks import HOOKS

X, Y = line(100, 10)
Pair = collections.namedtuple("Pair", "first second")


def fit(module, **hparams):
    model = luz.setup(module, lambda input, target: 0 * weight_of(input), torch.optim.SGD, seed=1)
    return model.set_hparams(**hparams).fit((X, Y), epochs=1, verbose=False)


def weight_of(output):
    """Some scalar with a graph, whatever the output's structure."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output.sum()


class Shaped(Scale):
    """Gives what `shape` makes of the rows."""

    def __init__(self, shape):
        super().__init__(2.0)
        self.shape = shape

    def forward(self, x):
        return self.shape(super().forward(x))


@pytest.fixture(scope="module")
def linear():
    return fit(nn.Linear, in_features=10, out_features=1)


def direct(fitted, x=X):
    with torch.no_grad():
        return fitted.model(x)


# R: test-module.R, "predict works for modules"
def test_there_is_a_row_for_every_row(linear):
    predictions = linear.predict(X)
    assert predictions.shape == (100, 1)
    assert torch.equal(predictions, linear.predict(X))
    assert not predictions.requires_grad


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100, 1000])
def test_rows_are_in_order_however_they_are_batched(linear, batch_size):
    predictions = linear.predict(X, dataloader_options={"batch_size": batch_size})
    assert torch.allclose(predictions, direct(linear), atol=1e-6)


@pytest.mark.parametrize(
    "newdata",
    [
        (X, Y),
        [X],
        {"x": X, "y": Y},
        X.double().numpy(),
        pd.DataFrame(X.numpy()),
        pl.DataFrame(X.numpy()),
        TensorDataset(X),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=9),
        DataLoader(X, batch_size=9),
        Stream(X),
    ],
    ids=lambda data: f"{type(data).__module__.partition('.')[0]} {type(data).__name__}",
)
def test_of_data_of_any_kind_the_input_is_used(linear, newdata):
    assert torch.allclose(linear.predict(newdata), direct(linear), atol=1e-6)


# Outputs that are not one tensor


def halves(x):
    return x[:, :5], x[:, 5:]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (lambda x: x[:, 0], 2 * X[:, 0]),
        (lambda x: x.reshape(-1, 5, 2), 2 * X.reshape(-1, 5, 2)),
        (lambda x: halves(x), halves(2 * X)),
        (lambda x: list(halves(x)), list(halves(2 * X))),
        (lambda x: {"a": x, "b": halves(x)}, {"a": 2 * X, "b": halves(2 * X)}),
        (lambda x: Pair(*halves(x)), Pair(*halves(2 * X))),
        (lambda x: (x, None), (2 * X, None)),
    ],
    ids=["vector", "3-d", "tuple", "list", "dict", "namedtuple", "None"],
)
def test_the_structure_of_the_output_is_kept(shape, expected):
    predictions = fit(Shaped, shape=shape).predict(X, dataloader_options={"batch_size": 30})
    assert_same(predictions, expected)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_same(tuple(found.values()), tuple(expected.values()))
    elif expected is not None:
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


def test_a_number_for_every_batch_is_a_vector_of_batches():
    predictions = fit(Shaped, shape=torch.sum).predict(X, dataloader_options={"batch_size": 50})
    expected = torch.stack([2 * X[:50].sum(), 2 * X[50:].sum()])
    assert torch.allclose(predictions, expected, atol=1e-3)


def test_stack_false_gives_the_batches(linear):
    parts = linear.predict(X, stack=False, dataloader_options={"batch_size": 30})
    assert [len(part) for part in parts] == [30, 30, 30, 10]
    assert torch.allclose(torch.cat(parts), direct(linear), atol=1e-6)


def test_predictions_that_do_not_fit_together_say_so():
    fitted = fit(Shaped, shape=lambda x: x @ x.T)  # (rows, rows)
    with pytest.raises(
        ValueError, match="`stack` must be False for predictions that have mismatched"
    ):
        fitted.predict(X)
    parts = fitted.predict(X, stack=False)
    assert [tuple(part.shape) for part in parts] == [(32, 32)] * 3 + [(4, 4)]


def test_predictions_that_are_no_tensors_say_so():
    fitted = fit(Shaped, shape=lambda x: x)
    fitted.model.shape = lambda x: ["text"]
    with pytest.raises(TypeError, match="`stack` must be False for predictions of type str"):
        fitted.predict(X)
    assert fitted.predict(X[:3], stack=False) == [["text"]]


# How it is computed


def test_the_modules_own_predict_is_used():
    class Classifier(nn.Linear):
        def predict(self, input):
            return self(input).argmax(1) + self.ctx.iter - self.ctx.iter

    fitted = fit(Classifier, in_features=10, out_features=3)
    assert torch.equal(fitted.predict(X), direct(fitted).argmax(1))


class Thresholded(nn.Linear):
    def predict(self, input, threshold=0.0, *, scale=1):
        return (self(input) * scale > threshold).float()


def test_further_arguments_go_to_the_modules_own_predict():
    fitted = fit(Thresholded, in_features=10, out_features=1)
    expected = (direct(fitted) * 2 > 0.7).float()
    assert torch.equal(fitted.predict(X, threshold=0.7, scale=2), expected)
    assert torch.equal(luz.predict(fitted, X, stack=True, threshold=0.7, scale=2), expected)


def test_further_arguments_that_nobody_takes_are_an_error(linear):
    with pytest.raises(
        TypeError, match=r"`threshold` is not an argument of .* Linear has no method"
    ):
        linear.predict(X, threshold=0.5)
    fitted = fit(Thresholded, in_features=10, out_features=1)
    with pytest.raises(TypeError, match=r"`predict` of Thresholded must take .* got scal=3"):
        fitted.predict(X, scal=3)


@pytest.mark.parametrize("fails", [False, True])
def test_the_models_modes_are_restored(fails):
    def look(ctx):
        assert not any(part.training for part in ctx.model.modules())
        assert not torch.is_grad_enabled()
        if fails:
            raise RuntimeError("no")

    fitted = fit(lambda: nn.Sequential(nn.Linear(10, 1), nn.Dropout(), nn.BatchNorm1d(1)))
    fitted.model[1].train()
    modes = [part.training for part in fitted.model.modules()]
    callback = luz.Callback.from_functions(on_predict_batch_end=look)
    if fails:
        with pytest.raises(RuntimeError, match=r"at iteration 1 \(prediction\)"):
            fitted.predict(X, callbacks=callback)
    else:
        fitted.predict(X, callbacks=callback)
    assert [part.training for part in fitted.model.modules()] == modes
    assert torch.is_grad_enabled()
    with pytest.raises(AttributeError):
        fitted.model.ctx  # noqa: B018


def test_the_hooks_of_prediction_are_called(linear):
    called = []
    hooks = {name: lambda ctx, name=name: called.append(name) for name in HOOKS}
    linear.predict(X[:40], callbacks=[luz.Callback.from_functions(**hooks)])
    batch = ["on_predict_batch_begin", "on_predict_batch_end"]
    assert called == ["on_predict_begin", *batch, *batch, "on_predict_end"]


def test_a_callback_may_change_a_prediction(linear):
    def double(ctx):
        ctx.pred = 2 * ctx.pred

    predictions = linear.predict(
        X, callbacks=luz.Callback.from_functions(on_predict_batch_end=double)
    )
    assert torch.allclose(predictions, 2 * direct(linear), atol=1e-6)


def test_a_callback_may_change_the_input(linear):
    def negate(ctx):
        ctx.input = -ctx.input

    callback = luz.Callback.from_functions(on_predict_batch_begin=negate)
    predictions = linear.predict((X, Y), callbacks=callback)
    assert torch.allclose(predictions, direct(linear, -X), atol=1e-6)


def test_predictions_are_on_the_cpu(linear):
    assert linear.predict(X, accelerator=luz.Accelerator(cpu=True)).device.type == "cpu"


# R: test-module.R, "predict can use a progress bar"
@pytest.mark.parametrize("verbose", [True, False])
def test_a_bar_is_drawn_in_a_terminal(linear, verbose):
    # What takes less than a tenth of a second has no bar.
    slow = luz.Callback.from_functions(on_predict_batch_begin=lambda ctx: time.sleep(0.02))
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    with open(slave, "w") as terminal, contextlib.redirect_stdout(terminal):
        linear.predict(X, slow, verbose=verbose, dataloader_options={"batch_size": 10})
        terminal.write("END")
        terminal.flush()
        text = ""
        while "END" not in text:
            text += os.read(master, 65536).decode()
    os.close(master)
    assert bool(re.search(r"Predict: \d+/10 ", text)) is verbose
    assert verbose or text == "END"


# R: test-module.R, "predict can use a progress bar" (its last lines)
def test_a_fitted_model_knows_its_hyperparameters():
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.Adam)
    model = model.set_hparams(in_features=10, out_features=1).set_opt_hparams(lr=0.001)
    fitted = model.fit((X, Y), epochs=1, verbose=False)
    assert fitted.hparams == {"in_features": 10, "out_features": 1}
    assert fitted.opt_hparams == {"lr": 0.001}


# Options and errors


# R: test-module.R, "we can pass dataloader_options"
@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"drop_last": True, "batch_size": 45}, range(90)),
        ({"drop_last": True, "batch_size": 50}, range(100)),
        ({"sampler": [5, 99, 7]}, [5, 99, 7]),
        ({"batch_sampler": [[5], [99, 7]]}, [5, 99, 7]),
    ],
)
def test_options_that_take_rows_say_what_comes_out(linear, options, rows):
    predictions = linear.predict((X, Y), dataloader_options=options)
    assert torch.allclose(predictions, direct(linear, X[list(rows)]), atol=1e-6)


def test_drop_last_that_drops_all_rows_is_an_error(linear):
    with pytest.raises(ValueError, match="`newdata` must give at least one batch, got none: `drop"):
        linear.predict(X, batch_size=1000, dataloader_options={"drop_last": True})


# R: test-module.R, "we can pass dataloader_options"
def test_shuffled_predictions_are_warned_of(linear):
    generator = torch.Generator().manual_seed(3)
    options = {"shuffle": True, "generator": generator}
    with pytest.warns(
        UserWarning, match="`shuffle=True` gives the predictions in a different order"
    ):
        predictions = linear.predict(X, dataloader_options=options)
    assert not torch.allclose(predictions, direct(linear), atol=1e-6)
    same = predictions.sort(dim=0).values
    assert torch.allclose(same, direct(linear).sort(dim=0).values, atol=1e-6)


# R: test-module.R, "we can pass dataloader_options" (R warns)
def test_options_beside_a_ready_dataloader_are_refused(linear):
    with pytest.raises(ValueError, match="must not be given with a DataLoader"):
        linear.predict(DataLoader(X), dataloader_options={"batch_size": 45})


def test_a_ready_dataloader_is_taken_as_it_is(linear):
    order = torch.arange(99, -1, -1)
    loader = DataLoader(X, batch_size=45, sampler=order.tolist(), drop_last=True)
    assert torch.allclose(linear.predict(loader), direct(linear, X[order[:90]]), atol=1e-6)


@pytest.mark.parametrize(
    "newdata",
    [X[:0], np.zeros((0, 10)), pd.DataFrame({"a": []}), TensorDataset(X[:0]), Stream(())],
    ids=lambda data: type(data).__name__,
)
def test_nothing_to_predict_on_is_an_error(linear, newdata):
    with pytest.raises(ValueError, match=r"`newdata` must (have|give) at least one .*, got none"):
        linear.predict(newdata)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"newdata": 3}, TypeError, "`newdata` must be a DataLoader"),
        ({"callbacks": [luz.Callback]}, TypeError, "must hold instances, got the class Callback"),
        ({"accelerator": "cpu"}, TypeError, "`accelerator` must be a luzpy Accelerator"),
        ({"verbose": 1}, TypeError, "`verbose` must be True, False or None, got 1"),
        ({"dataloader_options": [1]}, TypeError, "`dataloader_options` must be a dict"),
    ],
)
def test_a_bad_argument_is_refused(linear, arguments, error, message):
    with pytest.raises(error, match=message):
        linear.predict(**({"newdata": X} | arguments))


def test_a_failure_of_the_module_says_where(linear):
    with pytest.raises(RuntimeError) as caught:
        linear.predict(X[:, :4])
    assert "iteration 1 (prediction)" in caught.value.__notes__[0]


def test_a_failing_dataset_says_which_batch(linear):
    class Broken(TensorDataset):
        def __getitem__(self, index):
            if index == 40:
                raise KeyError("lost")
            return super().__getitem__(index)

    with pytest.raises(KeyError, match="in `newdata`, batch 2"):
        linear.predict(Broken(X))


# Predictions row by row ----------------------------------------------------------------------


class Detector(nn.Module):
    """As many boxes as an image has channels that are above zero on average, as torchvision's."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        found = [int((image.mean((1, 2)) > 0).sum()) for image in images]
        return [
            {"boxes": self.scale * torch.full((n, 4), float(n)), "scores": torch.ones(n)}
            for n in found
        ]


@pytest.fixture
def detector():
    model = luz.setup(Detector, lambda out, y: torch.zeros(()), torch.optim.SGD)
    return luz.FittedModule(
        model=Detector(), records={"metrics": {"train": [], "valid": []}}, hparams={},
        opt_hparams={}, stopped="completed", spec=model,
    )  # fmt: skip


def listed(rows):
    """A collate function of detection: images and targets as lists."""
    return [row[0] for row in rows], [{"boxes": row[0]} for row in rows]


@pytest.mark.parametrize("form", ["tensor", "lists", "images alone"])
@pytest.mark.parametrize("rows", [4, 5, 7])
def test_a_list_with_a_dict_for_each_row_is_a_prediction_for_each_row(detector, form, rows):
    images = torch.randn(rows, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(images)
    collate = {
        "tensor": None,
        "lists": listed,
        "images alone": lambda items: [[item[0] for item in items]],
    }[form]
    options = {"collate_fn": collate, "batch_size": 4}
    found = detector.predict(data, dataloader_options=options, verbose=False)
    expected = detector.model(images)
    assert len(found) == rows
    for own, other in zip(found, expected, strict=True):
        assert own.keys() == other.keys()
        assert torch.equal(own["boxes"], other["boxes"])
        assert torch.equal(own["scores"], other["scores"])


def test_detections_of_two_parts_of_one_row_each_are_columns():
    class Heads(nn.Linear):
        def __init__(self):
            super().__init__(10, 1)

        def forward(self, x):
            return [{"a": super().forward(x)}, {"b": 2 * super().forward(x)}]

    fitted = luz.FittedModule(
        model=Heads(), records={"metrics": {"train": [], "valid": []}}, hparams={},
        opt_hparams={}, stopped="completed",
    )  # fmt: skip
    first, second = fitted.predict(X, verbose=False)
    assert torch.allclose(2 * first["a"], second["b"])
    assert len(first["a"]) == len(X)
