"""Mixup in a run: what is mixed, when, and the loss."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn import functional as F

import luzpy as luz
from luzpy.callbacks.mixup import Mixup
from luzpy.nn import MixupLoss


class Flat(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.fc(x.flatten(1))


class OwnLoss(Flat):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.loss = nn.CrossEntropyLoss()


def data(shape=(10,), classes=2, rows=40):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, *shape, generator=generator)
    return x, torch.randint(classes, (rows,), generator=generator)


def fit(
    callbacks, loss=None, *, shape=(10,), classes=2, module=Flat, metrics=None, rows=40, **options
):
    x, y = data(shape, classes, rows)
    y = options.pop("target", y)
    model = luz.setup(module, loss, torch.optim.SGD, metrics)
    model = model.set_hparams(inputs=x[0].numel(), outputs=classes).set_opt_hparams(lr=0.01)
    given = {"epochs": 2, "dataloader_options": {"batch_size": 10}} | options
    return model.fit((x, y), callbacks=callbacks, verbose=False, **given)


class Spy(luz.Callback):
    """Keeps what the loss was made of."""

    def __init__(self):
        self.batches = {"train": [], "valid": []}

    def on_train_batch_after_loss(self, ctx):
        self.batches["train"].append((ctx.pred.detach(), ctx.target, ctx.loss["opt"].item()))

    def on_valid_batch_after_loss(self, ctx):
        self.batches["valid"].append((ctx.pred, ctx.target, ctx.loss["opt"].item()))


def expected_loss(pred, target):
    """The mixed cross entropy, in NumPy."""
    (first, second), weight = target
    log_p = log_softmax(pred.numpy().astype(np.float64))
    rows = np.arange(len(log_p))
    own, other = -log_p[rows, first.numpy()], -log_p[rows, second.numpy()]
    w = weight.numpy().reshape(-1)
    return ((1 - w) * own + w * other).mean()


def log_softmax(z):
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def per_item(input, target):
    return F.cross_entropy(input, target, reduction="none")


# R: test-callbacks-mixup.R, "mixup callback successful for 1d input", "mixup works for 2d input",
# "mixup works for 3d input"
@pytest.mark.parametrize(
    ("shape", "classes"), [((768,), 10), ((28, 28), 3), ((3, 28, 28), 33)], ids=["1d", "2d", "3d"]
)
def test_the_training_loss_is_that_of_mixed_targets(shape, classes):
    spy = Spy()
    loss = MixupLoss(nn.CrossEntropyLoss(ignore_index=222))
    valid = data(shape, classes)
    fit([Mixup(), spy], loss, shape=shape, classes=classes, valid_data=valid)
    assert len(spy.batches["train"]) == 8
    for pred, target, value in spy.batches["train"]:
        assert value == pytest.approx(expected_loss(pred, target), rel=1e-4)
    for pred, target, value in spy.batches["valid"]:
        assert value == pytest.approx(F.cross_entropy(pred, target).item(), rel=1e-5)


# R: test-callbacks-mixup.R, "can use mixup with accuracy"
def test_accuracy_is_there_for_the_validation_set():
    fitted = fit(
        [Mixup(auto_loss=True)], nn.CrossEntropyLoss(reduction="none"), valid_data=0.2,
        metrics=luz.metrics.MetricSet(valid_metrics=luz.metrics.Accuracy()),
    )  # fmt: skip
    frame = luz.get_metrics(fitted)
    assert set(frame.loc[frame["metric"] == "acc", "set"]) == {"valid"}


@pytest.mark.parametrize(
    ("loss", "module"),
    [
        (nn.CrossEntropyLoss(), Flat),
        (nn.CrossEntropyLoss(reduction="none"), Flat),
        (F.cross_entropy, Flat),
        (per_item, Flat),
        (None, lambda inputs, outputs: OwnLoss(inputs, outputs)),
    ],
    ids=["module", "unreduced module", "function", "unreduced function", "the module's own"],
)
@pytest.mark.parametrize("run_valid", [False, True])
def test_any_loss_is_made_to_fit(loss, module, run_valid):
    spy = Spy()
    fitted = fit(
        [Mixup(run_valid=run_valid, auto_loss=True), spy], loss, module=module, valid_data=data()
    )
    for split, mixed in (("train", True), ("valid", run_valid)):
        for pred, target, value in spy.batches[split]:
            assert isinstance(target, tuple) == mixed
            wanted = expected_loss(pred, target) if mixed else F.cross_entropy(pred, target).item()
            assert value == pytest.approx(wanted, rel=1e-4)
    if loss is None:
        assert fitted.model.loss.reduction == "mean"


def test_evaluate_mixes_if_asked_to():
    fitted, spy = fit(None, nn.CrossEntropyLoss()), Spy()
    callbacks = [Mixup(run_valid=True, auto_loss=True), spy]
    fitted.evaluate(data(), callbacks=callbacks, verbose=False)
    for pred, target, value in spy.batches["valid"]:
        assert value == pytest.approx(expected_loss(pred, target), rel=1e-4)


def test_float_targets():
    spy, y = Spy(), torch.linspace(-1, 1, 40)[:, None]
    fit([Mixup(auto_loss=True), spy], nn.MSELoss(), classes=1, target=y)
    for pred, ((first, second), weight), value in spy.batches["train"]:
        p, a, b, w = (t.numpy().reshape(-1) for t in (pred, first, second, weight))
        assert value == pytest.approx(((1 - w) * (p - a) ** 2 + w * (p - b) ** 2).mean(), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.4, 2])
def test_weights_are_folded_beta_draws(alpha):
    torch.manual_seed(0)
    spy = Spy()
    options = {"epochs": 1, "dataloader_options": {"batch_size": 500}}
    fit([Mixup(alpha, auto_loss=True), spy], nn.CrossEntropyLoss(), rows=4000, **options)
    weights = torch.cat([target[1] for _, target, _ in spy.batches["train"]]).numpy()
    assert len(weights) == 4000
    beta = stats.beta(alpha, alpha)
    folded = stats.kstest(weights, lambda w: np.where(w < 0.5, 0, beta.cdf(w) - beta.cdf(1 - w)))
    assert folded.pvalue > 0.01
    mean = integrate.quad(lambda w: 2 * w * beta.pdf(w), 0.5, 1)[0]
    assert weights.mean() == pytest.approx(mean, abs=0.01)


def test_two_runs_from_one_random_state_are_alike():
    losses = []
    for _ in range(2):
        torch.manual_seed(8)
        fitted = fit([Mixup(auto_loss=True)], nn.CrossEntropyLoss())
        losses.append(fitted.records["metrics"]["train"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("failing", [False, True])
def test_the_users_loss_is_never_changed(failing):
    def fail(ctx):
        if failing:
            raise RuntimeError("on purpose")

    loss, callback = nn.CrossEntropyLoss(), Mixup(auto_loss=True)
    later = luz.Callback.from_functions(on_train_batch_end=fail)
    for _ in range(2):  # also when the instance is used again
        try:
            fitted = fit([callback, later], loss)
        except RuntimeError:
            assert failing
        assert loss.reduction == "mean"
    if not failing:
        plain = fitted.evaluate(data(), verbose=False).records["metrics"]["valid"][0]["loss"]
        with torch.no_grad():
            expected = F.cross_entropy(fitted.model(data()[0]), data()[1]).item()
        assert plain == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_reduces_is_refused():
    with pytest.raises(ValueError, match="one value for each of the 10 items"):
        fit([Mixup(auto_loss=True)], lambda input, target: F.cross_entropy(input, target))


def test_batches_without_a_target_are_refused():
    model = luz.setup(nn.Linear, lambda input, target: input.mean(), torch.optim.SGD)
    model = model.set_hparams(in_features=3, out_features=1).set_opt_hparams(lr=0.1)
    with pytest.raises(TypeError, match="`y` must be a tensor of items"):
        model.fit(torch.ones(32, 3), 1, [Mixup()], verbose=False)


def test_the_finder_takes_it():
    model = luz.setup(Flat, nn.CrossEntropyLoss(), torch.optim.SGD)
    model = model.set_hparams(inputs=10, outputs=2).set_opt_hparams(lr=0.1)
    callback = Mixup(auto_loss=True)
    records = model.lr_finder(data(), steps=5, callbacks=[callback], verbose=False)
    assert len(records) == 5


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"alpha": 0}, ValueError),
        ({"alpha": "a"}, TypeError),
        ({"run_valid": 1}, TypeError),
        ({"auto_loss": None}, TypeError),
    ],
)
def test_arguments_are_checked(arguments, error):
    with pytest.raises(error, match=f"`{next(iter(arguments))}` must be"):
        Mixup(**arguments)
