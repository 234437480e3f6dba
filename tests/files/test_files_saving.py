"""Saving, and loading weights: what is in the files, and that a misfit changes nothing."""

import warnings

import numpy as np
import pytest
import torch
from models import unrelated
from torch import nn

import luzpy as luz
from luzpy import LuzError
from luzpy.files import container

X, Y = unrelated(64, 10)


class Net(nn.Module):
    def __init__(self, input_size=10, output_size=1, scale=1.0, extra=None):
        super().__init__()
        self.fc = nn.Linear(input_size, output_size)
        self.norm = nn.BatchNorm1d(output_size)
        self.scale = scale

    def forward(self, x):
        return self.norm(self.fc(x)) * self.scale


def fit(module=Net, epochs=1, **hparams):
    model = luz.setup(module, nn.MSELoss(), torch.optim.Adam)
    if hparams:
        model = model.set_hparams(**hparams)
    return model.set_opt_hparams(lr=0.01).fit((X, Y), epochs, verbose=False)


def state(fitted):
    return {name: value.clone() for name, value in fitted.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_file_holds_plain_values_and_the_name_of_the_class(tmp_path):
    fitted = fit(scale=2.0)
    luz.save(fitted, tmp_path / "net.luz")
    found = torch.load(tmp_path / "net.luz", weights_only=True)
    assert found["module"] == f"{__name__}:Net"
    assert found["hparams"] == {"scale": 2.0}
    assert found["opt_hparams"] == {"lr": 0.01}
    assert found["stopped"] == "completed"
    assert found["records"] == fitted.records
    assert same(found["state"], state(fitted))


def test_method_and_function_write_the_same(tmp_path):
    fitted = fit()
    fitted.save(tmp_path / "a.luz")
    luz.save(fitted, tmp_path / "b.luz")
    assert (tmp_path / "a.luz").read_bytes() == (tmp_path / "b.luz").read_bytes()


def test_saving_changes_nothing(tmp_path):
    fitted = fit()
    before, random = state(fitted), torch.get_rng_state()
    luz.save(fitted, tmp_path / "net.luz")
    luz.save_model_weights(fitted, tmp_path / "weights.pt")
    assert same(before, state(fitted))
    assert torch.equal(random, torch.get_rng_state())


def test_saved_and_changed_weights_come_back(tmp_path):
    # R: test-serialization.R, "save and load model weights"
    fitted = fit()
    kept = state(fitted)
    luz.save_model_weights(fitted, tmp_path / "weights.pt")
    with torch.no_grad():
        fitted.model.fc.weight.add_(5)
    assert not same(kept, state(fitted))
    assert luz.load_model_weights(fitted, tmp_path / "weights.pt") is None
    assert same(kept, state(fitted))


def test_a_checkpoint_gives_its_weights(tmp_path):
    files = luz.callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt", monitor="train_loss")
    model = luz.setup(Net, nn.MSELoss(), torch.optim.Adam).set_opt_hparams(lr=0.1)
    kept = []
    keep = luz.Callback.from_functions(
        on_epoch_end=lambda ctx: kept.append(
            {name: value.clone() for name, value in ctx.model.state_dict().items()}
        )
    )
    fitted = model.fit((X, Y), 3, callbacks=[files, keep], verbose=False)
    for epoch in (1, 3, 2):
        assert luz.load_checkpoint(fitted, tmp_path / f"{epoch}.pt") is None
        assert same(kept[epoch - 1], state(fitted))


def test_the_file_of_a_run_that_can_be_resumed_gives_its_weights_too(tmp_path):
    resume = luz.callbacks.AutoResume(tmp_path / "state.pt")

    def fail(ctx):
        if ctx.epoch == 2:
            raise RuntimeError

    stop = luz.Callback.from_functions(on_epoch_begin=fail)
    model = luz.setup(Net, nn.MSELoss(), torch.optim.Adam, seed=1).set_opt_hparams(lr=0.1)
    options = {"dataloader_options": {"shuffle": False}, "verbose": False}
    with pytest.raises(RuntimeError):
        model.fit((X, Y), 3, callbacks=[resume, stop], **options)
    fitted = model.fit((X, Y), 3, **options)
    luz.load_checkpoint(fitted, tmp_path / "state.pt")
    assert same(state(fitted), state(model.fit((X, Y), 1, **options)))


LOADERS = {
    "weights": (luz.save_model_weights, luz.load_model_weights),
    "checkpoint": (
        lambda fitted, path: container.write(
            path,
            "checkpoint",
            {"epoch": 1, "records": {}, "model": fitted.model.state_dict(), "callbacks": []}
            | {"optimizers": {}, "optimizer_types": {}},
        ),
        luz.load_checkpoint,
    ),
}
EVERY = pytest.mark.parametrize("kind", LOADERS)


@EVERY
@pytest.mark.parametrize(
    ("made", "match"),
    [
        # of the model's seven tensors, and of the two in the file
        (lambda: nn.Linear(10, 1), r"'fc\.weight' is missing \(and 8 more\)"),
        (
            lambda: Net(output_size=2),
            r"'fc\.weight' has the shape \(2, 10\) instead of \(1, 10\) \(and 5 more\)",
        ),
        (lambda: nn.ModuleDict({"fc": nn.Linear(10, 1), "norm": nn.BatchNorm1d(1), "new": Net()}),
         r"'new\.fc\.weight' is not in the model \(and 6 more\)"),
    ],
)  # fmt: skip
def test_a_misfit_is_named_and_changes_nothing(tmp_path, kind, made, match):
    fitted, path = fit(), tmp_path / "file.pt"
    write, load = LOADERS[kind]
    write(luz.FittedModule(model=made(), records={}, hparams={}, opt_hparams={}, stopped=""), path)
    before = state(fitted)
    with pytest.raises(LuzError, match=rf"file\.pt does not fit the model: {match}"):
        load(fitted, path)
    assert same(before, state(fitted))


@EVERY
def test_a_damaged_file_changes_nothing(tmp_path, kind):
    fitted, path = fit(), tmp_path / "file.pt"
    write, load = LOADERS[kind]
    write(fit(), path)
    before = state(fitted)
    whole = path.read_bytes()
    for broken in (whole[:-100], whole[:500] + b"x" + whole[501:]):
        path.write_bytes(broken)
        with pytest.raises(LuzError, match=r"file\.pt is (truncated|damaged)"):
            load(fitted, path)
    assert same(before, state(fitted))


@EVERY
def test_a_file_of_another_kind_is_named(tmp_path, kind):
    fitted, path = fit(), tmp_path / "net.luz"
    luz.save(fitted, path)
    with pytest.raises(LuzError, match=r"must be a luzpy file with a .*, got one with a 'fitted"):
        LOADERS[kind][1](fitted, path)


@EVERY
def test_a_missing_file_is_not_found(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        LOADERS[kind][1](fit(), tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    "function", [luz.save, luz.save_model_weights, luz.load_model_weights, luz.load_checkpoint]
)
@pytest.mark.parametrize("thing", [None, "net.luz", nn.Linear(1, 1), luz.LuzModule])
def test_something_else_than_a_fitted_model_is_named(tmp_path, function, thing):
    with pytest.raises(TypeError, match="`fitted` must be a FittedModule, got"):
        function(thing, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_compiled_modules_are_saved_under_their_own_names(tmp_path):
    net = Net()
    fitted = luz.FittedModule(
        model=torch.compile(net), records={}, hparams={}, opt_hparams={}, stopped="completed"
    )
    luz.save_model_weights(fitted, tmp_path / "weights.pt")
    found = torch.load(tmp_path / "weights.pt", weights_only=True)["state"]
    assert sorted(found) == sorted(net.state_dict())
    plain = luz.FittedModule(model=Net(), records={}, hparams={}, opt_hparams={}, stopped="")
    luz.load_model_weights(plain, tmp_path / "weights.pt")
    assert same(state(plain), net.state_dict())
    luz.load_model_weights(fitted, tmp_path / "weights.pt")


def test_values_that_only_trust_can_read_are_warned_of(tmp_path):
    fitted = fit(extra=[1, nn.ReLU()])
    with pytest.warns(UserWarning, match=r"hparams\['extra'\]\[1\] \(ReLU\).*trusted=True"):
        luz.save(fitted, tmp_path / "net.luz")


def test_a_state_that_cannot_be_kept_is_an_error_and_no_file(tmp_path):
    class Odd(Net):
        def get_extra_state(self):
            return object()

    with pytest.raises(LuzError, match=r"tensors and plain values, got .*_extra_state.*object"):
        luz.save(fit(Odd), tmp_path / "net.luz")
    assert list(tmp_path.iterdir()) == []


def test_arrays_among_the_hyperparameters_come_back(tmp_path):
    extra = {"edges": np.arange(3.0), "known": frozenset({"a"}), "tag": b""}
    fitted = fit(extra=extra, scale=np.float32(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        luz.save(fitted, tmp_path / "net.luz")
    found = luz.load(tmp_path / "net.luz").hparams
    assert isinstance(found["extra"]["edges"], np.ndarray)
    assert found["extra"]["edges"].tolist() == [0, 1, 2]
    assert (found["extra"]["known"], found["extra"]["tag"]) == (frozenset({"a"}), b"")
    assert found["scale"] == 2
