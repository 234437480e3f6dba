"""A loss that has something to learn itself, as ArcFace has."""

import pytest
import torch
from models import regression, unrelated
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

CPU = luz.Accelerator(cpu=True)
X = unrelated(48, 5)[0]
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
DATA = TensorDataset(X, Y)


class ArcFace(nn.Module):
    """The centre of each class is a parameter of the loss (Deng et al. 2019)."""

    def __init__(self, margin=0.2, scale=8.0):
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(-1, 1, 3 * 4).sin().reshape(3, 4))
        self.margin, self.scale = margin, scale

    def forward(self, embedding, target):
        cosine = F.normalize(embedding) @ F.normalize(self.centres).T
        angle = cosine.clamp(-0.999, 0.999).acos()
        angle = angle + self.margin * F.one_hot(target, 3)
        return F.cross_entropy(self.scale * angle.cos(), target)


def model(loss=None, **options):
    loss = ArcFace() if loss is None else loss
    return regression(lambda: nn.Linear(5, 4), torch.optim.Adam, loss=loss, lr=0.05, **options)


def fit(spec, epochs=4, data=None, **options):
    data = DataLoader(DATA, 8) if data is None else data
    return spec.fit(data, epochs, verbose=False, accelerator=CPU, **options)


def by_hand(start, epochs=4):
    loss_fn = ArcFace()
    optimizer = torch.optim.Adam([*start.parameters(), *loss_fn.parameters()], lr=0.05)
    for _ in range(epochs):
        for x, y in DataLoader(DATA, 8):
            optimizer.zero_grad()
            loss_fn(start(x), y).backward()
            optimizer.step()
    return start, loss_fn


def assert_same(one, two):
    for own, other in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(own, other)


def test_it_is_trained_with_the_module():
    loss = ArcFace()
    spec = model(loss)
    expected, expected_loss = by_hand(spec())
    fitted = fit(spec)
    assert_same(fitted.model, expected)
    assert_same(loss, ArcFace())  # the user's own stays as it is
    found = fitted.evaluate(DATA, verbose=False, accelerator=CPU)["loss"]
    assert found == pytest.approx(expected_loss(expected(X), Y).item())
    assert_same(fit(spec).model, expected)  # and the next fit begins anew
    assert len(spec.lr_finder(DATA, 3, runs=2, verbose=False, accelerator=CPU)) == 6
    assert_same(fit(spec).model, expected)


def test_what_is_frozen_stays():
    loss = ArcFace().requires_grad_(False)
    fitted = fit(model(loss, seed=1))
    plain = fit(model(lambda x, y: loss(x, y), seed=1))
    assert_same(fitted.model, plain.model)
    assert fitted.evaluate(DATA, verbose=False, accelerator=CPU)["loss"] == pytest.approx(
        loss(fitted.model(X), Y).item()
    )


def test_it_is_kept_in_files(tmp_path):
    spec = model()
    fitted = fit(spec)
    fitted.save(tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=spec)
    options = {"verbose": False, "accelerator": CPU}
    assert loaded.evaluate(DATA, **options)["loss"] == fitted.evaluate(DATA, **options)["loss"]
    assert_same(spec.loss, ArcFace())


class Killed(Exception):
    pass


@pytest.mark.parametrize("batch", [2, 6])
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, batch):
    spec = model()

    def kill(ctx):
        if (ctx.epoch, ctx.iter) == (3, batch):
            raise Killed

    resume = luz.callbacks.AutoResume(tmp_path / "state.pt", every_n_batches=1)
    with pytest.raises(Killed):
        fit(spec, callbacks=[resume, luz.Callback.from_functions(on_train_batch_end=kill)])
    fitted = fit(spec, callbacks=[luz.callbacks.AutoResume(tmp_path / "state.pt")])
    expected, expected_loss = by_hand(spec())
    assert_same(fitted.model, expected)
    assert fitted.evaluate(DATA, verbose=False, accelerator=CPU)["loss"] == pytest.approx(
        expected_loss(expected(X), Y).item()
    )


def test_a_checkpoint_has_it(tmp_path):
    spec = model()
    fit(spec, 2, callbacks=luz.callbacks.ModelCheckpoint(f"{tmp_path}/", monitor="train_loss"))
    go_on = luz.callbacks.ResumeFromCheckpoint(tmp_path, restore_optimizer_state=True)
    fitted = fit(spec, 2, callbacks=go_on)
    expected, _ = by_hand(spec())
    assert_same(fitted.model, expected)


def test_the_best_epoch_has_its_own():
    keep = luz.callbacks.KeepBestModel("valid_rising", mode="min")
    rising = luz.Callback.from_functions(
        on_valid_end=lambda ctx: ctx.log_metric("rising", float(ctx.epoch))
    )
    fitted = fit(model(seed=3), valid_data=DATA, callbacks=[rising, keep])
    first = fit(model(seed=3), 1, valid_data=DATA)
    options = {"verbose": False, "accelerator": CPU}
    assert_same(fitted.model, first.model)
    assert fitted.evaluate(DATA, **options)["loss"] == first.evaluate(DATA, **options)["loss"]


def test_with_optimizers_of_the_modules_own_it_is_an_error():
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(5, 4)

        def set_optimizers(self, lr=0.1):
            return torch.optim.SGD(self.parameters(), lr)

    with pytest.raises(ValueError, match=r"`loss` must have no parameters where .*make it a part"):
        fit(luz.setup(Net, ArcFace()))


def test_a_loss_that_is_a_part_of_the_module_is_trained_once():
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(5, 4)
            self.loss = ArcFace()

    spec = luz.setup(Net, None, torch.optim.Adam).set_opt_hparams(lr=0.05)
    start = spec()
    plain = nn.Linear(5, 4)
    plain.load_state_dict({"weight": start.weight, "bias": start.bias})
    expected, expected_loss = by_hand(plain)
    fitted = fit(spec)
    assert torch.equal(fitted.model.weight, expected.weight)
    assert_same(fitted.model.loss, expected_loss)


def test_a_fitted_model_that_is_trained_further_goes_on_with_it():
    spec = model(seed=8)
    further = fit(fit(spec, 2), 2)
    expected, expected_loss = by_hand(spec())
    assert_same(further.model, expected)
    assert further.evaluate(DATA, verbose=False, accelerator=CPU)["loss"] == pytest.approx(
        expected_loss(expected(X), Y).item()
    )


@pytest.mark.parametrize(
    ("clip", "by_hand"),
    [
        (luz.callbacks.GradientClip(0.5), lambda ps: nn.utils.clip_grad_norm_(ps, 0.5)),
        (
            luz.callbacks.GradientClip(clip_value=0.01),
            lambda ps: nn.utils.clip_grad_value_(ps, 0.01),
        ),
    ],
    ids=["norm", "value"],
)
def test_all_that_the_optimizer_steps_is_clipped(clip, by_hand):
    spec = regression(lambda: nn.Linear(5, 4), loss=ArcFace(), lr=0.5)
    module, loss_fn = spec(), ArcFace()
    parameters = [*module.parameters(), *loss_fn.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.5)
    for x, y in DataLoader(DATA, 8):
        optimizer.zero_grad()
        loss_fn(module(x), y).backward()
        by_hand(parameters)
        optimizer.step()
    fitted = fit(spec, 1, callbacks=clip)
    found = [*fitted.model.parameters(), *fitted.spec.loss.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(found, parameters, strict=True))
