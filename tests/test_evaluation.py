import random
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from models import Net, OwnLoss, Stream
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz
from luzpy.core.hooks import HOOKS
from luzpy.core.spec import Spec
from luzpy.metrics import MAE, MSE, RMSE, MetricSet

G = torch.Generator().manual_seed(1)
X = torch.randn(50, 3, generator=G)
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(50, 1, generator=G)


@pytest.fixture(scope="module")
def fitted():
    metrics = [MAE(), MSE(), RMSE()]
    return luz.setup(lambda: Net(3), nn.MSELoss(), torch.optim.Adam, metrics, seed=1).fit(
        (X, Y), epochs=1, verbose=False
    )


def expected(fitted, x=X, y=Y):
    """All rows at once, by hand."""
    with torch.no_grad():
        error = (fitted.model(x) - y).double().numpy()
    mse = (error**2).mean()
    return {"loss": mse, "mae": np.abs(error).mean(), "mse": mse, "rmse": mse**0.5}


def values(evaluation):
    frame = evaluation.get_metrics()
    return dict(zip(frame["metric"], frame["value"], strict=True))


def test_one_value_by_its_name(fitted):
    found = fitted.evaluate((X, Y))
    assert found["mae"] == pytest.approx(expected(fitted)["mae"])
    with pytest.raises(KeyError, match="`metric` must be one of loss, mae, mse, rmse, got 'acc'"):
        found["acc"]


# R: test-module.R, "evaluate works"
def test_it_is_a_frame_of_metrics_and_values(fitted):
    found = fitted.evaluate((X, Y))
    assert isinstance(found, luz.Evaluation)
    assert luz.get_metrics(found).shape == (4, 2)
    assert list(luz.get_metrics(found)) == ["metric", "value"]


@pytest.mark.parametrize("batch_size", [1, 7, 32, 49, 50, 100])
def test_every_row_counts_once_however_rows_are_batched(fitted, batch_size):
    found = fitted.evaluate((X, Y), dataloader_options={"batch_size": batch_size})
    assert values(found) == pytest.approx(expected(fitted), rel=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        [X, Y],
        {"x": X, "y": Y},
        (X.numpy(), Y.numpy()),
        (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=13, shuffle=True),
        Stream(list(zip(X, Y, strict=True))),
    ],
    ids=lambda data: type(data).__name__,
)
def test_data_of_any_kind_give_the_same(fitted, data):
    assert values(fitted.evaluate(data)) == pytest.approx(expected(fitted), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"drop_last": True, "batch_size": 32}, range(32)),
        ({"sampler": [5, 7, 1]}, [5, 7, 1]),
        ({"batch_sampler": [[5, 7], [1]]}, [5, 7, 1]),
        ({"shuffle": True, "drop_last": False}, range(len(X))),
    ],
)
def test_options_that_take_rows_say_which_ones_count(fitted, options, rows):
    seen = []
    look = luz.Callback.from_functions(on_valid_batch_end=lambda ctx: seen.append(ctx.input))
    found = fitted.evaluate((X, Y), callbacks=look, dataloader_options=options)
    rows = list(rows)
    found_rows = [row.tolist() for row in torch.cat(seen)]
    assert sorted(found_rows) == sorted(row.tolist() for row in X[rows])
    assert (found_rows == X[rows].tolist()) is not options.get("shuffle", False)
    assert values(found) == pytest.approx(values(fitted.evaluate((X[rows], Y[rows]))), rel=1e-5)


# R: test-module.R, "evaluate allows setting metrics for it"
def test_other_metrics_may_be_asked_for(fitted):
    first = values(fitted.evaluate((X, Y)))
    assert values(fitted.evaluate((X, Y), metrics=[MAE()])) == {
        name: first[name] for name in ("loss", "mae")
    }
    assert values(fitted.evaluate((X, Y))) == first


def worst(preds, target):
    return (preds - target).abs().max()


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        ([], ["loss"]),
        (worst, ["loss", "worst"]),
        (MetricSet(MAE(), train_metrics=MSE(), valid_metrics=RMSE()), ["loss", "mae", "rmse"]),
    ],
)
def test_metrics_may_be_given_as_to_setup(fitted, metrics, names):
    assert list(values(fitted.evaluate((X, Y), metrics=metrics))) == names


def test_the_hooks_of_validation_are_called(fitted):
    called = []
    hooks = {name: lambda ctx, name=name: called.append(name) for name in HOOKS}
    fitted.evaluate((X, Y), callbacks=luz.Callback.from_functions(**hooks))
    batch = ["begin", "after_pred", "after_loss", "end"]
    expected = [f"on_valid_batch_{part}" for part in batch] * 2
    assert called == ["on_valid_begin", *expected, "on_valid_end"]


def test_callbacks_can_read_the_context(fitted):
    seen = []
    look = luz.Callback.from_functions(
        on_valid_batch_end=lambda ctx: seen.append(
            (ctx.training, ctx.model.training, ctx.iter, len(ctx.pred), set(ctx.loss))
        )
    )
    fitted.evaluate((X, Y), callbacks=[look])
    assert seen == [(False, False, 1, 32, {"opt"}), (False, False, 2, 18, {"opt"})]


@pytest.mark.parametrize("fails", [False, True])
def test_the_models_modes_are_restored(fitted, fails):
    def look(ctx):
        assert not any(part.training for part in ctx.model.modules())
        if fails:
            raise RuntimeError("no")

    model = fitted.model
    model[1].train()
    modes = [part.training for part in model.modules()]
    try:
        callback = luz.Callback.from_functions(on_valid_batch_end=look)
        if fails:
            with pytest.raises(RuntimeError, match="no"):
                fitted.evaluate((X, Y), callbacks=callback)
        else:
            fitted.evaluate((X, Y), callbacks=callback)
        assert [part.training for part in model.modules()] == modes
        with pytest.raises(AttributeError):
            model.ctx  # noqa: B018
    finally:
        model.eval()


def test_nothing_of_the_model_is_changed(fitted):
    before = {name: tensor.clone() for name, tensor in fitted.model.state_dict().items()}
    records = repr(fitted.records)
    fitted.evaluate((X, Y))
    assert all(torch.equal(before[k], v) for k, v in fitted.model.state_dict().items())
    assert all(p.grad is None for p in fitted.model.parameters())
    assert repr(fitted.records) == records


def test_random_draws_are_those_of_a_dataloader(fitted):
    # torch's DataLoader draws one number at every pass; nothing else is to be drawn.
    before = random.getstate(), np.random.get_state()[1].copy()
    torch.manual_seed(3)
    list(DataLoader(TensorDataset(X, Y), batch_size=32))
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    fitted.evaluate((X, Y))
    assert torch.equal(torch.get_rng_state(), expected)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_a_step_of_ones_own_is_used():
    class Own(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def step(self):
            ctx = self.ctx
            ctx.pred = self(ctx.input)
            loss = (ctx.pred - ctx.target).abs().mean()
            if ctx.training:
                loss.backward()
                ctx.optimizers["opt"].step()
            ctx.loss = loss.detach()

    own = luz.setup(Own, optimizer=torch.optim.SGD).fit((X, Y), epochs=1, verbose=False)
    expected = (own.model(X) - Y).abs().mean().item()
    assert values(own.evaluate((X, Y))) == pytest.approx({"loss": expected})


def bare(model):
    """A fitted model of which only the module is known."""
    records = {"metrics": {"train": [], "valid": []}}
    return luz.FittedModule(
        model=model,
        records=records,
        hparams={},
        opt_hparams={},
        stopped="completed",
        spec=Spec(module=model),
    )


def test_without_a_loss_it_says_so():
    with pytest.raises(ValueError, match="`loss` must be given to `setup`, or be a method"):
        bare(nn.Linear(3, 1)).evaluate((X, Y))


def test_the_modules_own_loss_is_enough():
    fitted = bare(OwnLoss())
    assert values(fitted.evaluate((X, Y), metrics=MAE())) == pytest.approx(
        {name: expected(fitted)[name] for name in ("loss", "mae")}, rel=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": (X[:0], Y[:0])}, ValueError, "`data` must have at least one row, got none"),
        ({"data": (X, Y[:5])}, ValueError, "must have parts of equal length"),
        ({"data": "rows"}, TypeError, "`data` must be a DataLoader, .* got str"),
        ({"metrics": MAE}, TypeError, "got the class MAE"),
        ({"metrics": [MAE(), MAE()]}, ValueError, "'mae' twice"),
        ({"callbacks": print}, TypeError, "`callbacks` must be a list of luzpy callbacks"),
        ({"accelerator": "cpu"}, TypeError, "`accelerator` must be a luzpy Accelerator"),
        ({"verbose": "yes"}, TypeError, "`verbose` must be True, False or None"),
        ({"dataloader_options": 32}, TypeError, "`dataloader_options` must be a dict"),
    ],
)
def test_a_bad_argument_is_refused(fitted, arguments, error, message):
    with pytest.raises(error, match=message):
        fitted.evaluate(**({"data": (X, Y)} | arguments))


def test_options_beside_a_ready_dataloader_are_refused(fitted):
    loader = DataLoader(TensorDataset(X, Y))
    with pytest.raises(ValueError, match="must not be given with a DataLoader"):
        fitted.evaluate(loader, dataloader_options={"batch_size": 3})


def test_a_failing_metric_says_where(fitted):
    def broken(preds, target):
        raise KeyError("lost")

    pattern = r"`update` of the metric 'broken', at epoch 1, iteration 1 \(validation\)"
    with pytest.raises(KeyError, match=pattern):
        fitted.evaluate((X, Y), metrics=broken)


# R: test-module.R, "evaluate works" (its snapshot)
def test_it_prints_its_values(fitted):
    lines = [f"{name}: {round(value, 4):g}" for name, value in expected(fitted).items()]
    assert repr(fitted.evaluate((X, Y))).splitlines() == [
        "<Evaluation>",
        *lines,
    ]


def test_its_html_is_a_table(fitted):
    class Cells(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.text = [], []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.text += data.split()

    parser = Cells()
    parser.feed(fitted.evaluate((X, Y), metrics=[])._repr_html_())
    assert parser.open == []
    assert parser.text[:3] == ["metric", "value", "loss"]
    assert float(parser.text[3]) == pytest.approx(expected(fitted)["loss"], rel=1e-4)
