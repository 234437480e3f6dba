"""A module under `torch.compile` works wherever a plain one does."""

import pytest
import torch
from models import regression
from torch import nn

import luzpy as luz

X = torch.linspace(-1, 1, 64).reshape(32, 2)
Y = X.sum(1, keepdim=True)
RUNS = []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 1)

    def forward(self, x):
        return self.body(x)


class WithMethods(Net):
    def loss(self, input, target):
        assert self.ctx.training in (True, False)
        return nn.functional.mse_loss(input, target)

    def set_optimizers(self, lr=0.05):
        return torch.optim.SGD(self.parameters(), lr=lr)

    def predict(self, input):
        return self(input) + 100


def compiled_class():
    class Compiled(Net):
        pass

    return torch.compile(Compiled, backend=counting)


def counting(graph, inputs):
    """A backend that runs the graph as it is, and counts."""

    def run(*args):
        RUNS.append(True)
        return graph.forward(*args)

    return run


MAKERS = {
    "a function": lambda: lambda: torch.compile(Net(), backend=counting),
    "an instance": lambda: torch.compile(seeded(Net), backend=counting),
    "a class": compiled_class,
}


@pytest.fixture(autouse=True)
def forget_compiled_code():
    yield
    torch.compiler.reset()


def seeded(maker):
    torch.manual_seed(3)
    return maker()


def specification(module, seed=3, **kwargs):
    return regression(module, metrics=luz.metrics.MAE(), lr=0.05, seed=seed, **kwargs)


def fitted_by_hand(epochs):
    """What gradient descent on whole batches of 8 rows, in order, comes to."""
    model = seeded(Net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(epochs):
        for x, y in zip(X.split(8), Y.split(8), strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    return model


def fit(model, **kwargs):
    options = {"batch_size": 8, "shuffle": False}
    return model.fit((X, Y), epochs=2, dataloader_options=options, verbose=False, **kwargs)


@pytest.mark.parametrize("kind", MAKERS)
def test_fit_evaluate_and_predict_give_what_the_plain_module_gives(kind):
    fitted = fit(specification(MAKERS[kind]()))
    expected = fitted_by_hand(2)(X).detach()
    torch.testing.assert_close(fitted.predict(X), expected)
    loss = fitted.evaluate((X, Y), verbose=False).records["metrics"]["valid"][0]["loss"]
    assert loss == pytest.approx(float(nn.functional.mse_loss(expected, Y)))


@pytest.mark.parametrize("kind", MAKERS)
def test_the_compiled_code_is_what_runs(kind):
    module = MAKERS[kind]()
    RUNS.clear()
    fitted = fit(specification(module))
    assert len(RUNS) == 2 * 4
    fitted.predict(X)
    assert len(RUNS) == 2 * 4 + 1


@pytest.mark.parametrize("kind", MAKERS)
def test_the_finder_sees_the_losses_of_the_plain_module(kind):
    options = {"batch_size": 8, "shuffle": False}
    found = [
        specification(module).lr_finder((X, Y), steps=4, end_lr=1, dataloader_options=options)
        for module in (MAKERS[kind](), lambda: seeded(Net))
    ]
    assert found[0]["loss"].tolist() == pytest.approx(found[1]["loss"].tolist())


def test_the_users_own_module_is_not_trained():
    module = MAKERS["an instance"]()
    before = [parameter.clone() for parameter in module.parameters()]
    fit(specification(module))
    assert all(map(torch.equal, before, module.parameters()))


@pytest.mark.parametrize("kind", MAKERS)
def test_files_hold_the_plain_names(kind, tmp_path):
    module = MAKERS[kind]()
    checkpoints = luz.callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt", monitor="train_loss")
    fitted = fit(specification(module), callbacks=[checkpoints])
    luz.save(fitted, tmp_path / "net.luz")
    luz.save_model_weights(fitted, tmp_path / "weights.pt")
    plain = fit(specification(lambda: seeded(Net)).set_seed(9))
    expected = fitted.predict(X)
    for load, name in (
        (luz.load_model_weights, "weights.pt"),
        (luz.load_checkpoint, "2.pt"),
    ):
        with torch.no_grad():
            plain.model.body.weight.zero_()
        load(plain, tmp_path / name)
        torch.testing.assert_close(plain.predict(X), expected)
    torch.testing.assert_close(luz.load(tmp_path / "net.luz", module=Net).predict(X), expected)
    again = luz.load(tmp_path / "net.luz", module=specification(module))
    torch.testing.assert_close(again.predict(X), expected)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_seed_gives_other_weights(kind):
    model = specification(MAKERS[kind]())
    weights = [made.body.weight for made in (model(), model.set_seed(4)(), model.set_seed(4)())]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "a part"])
@pytest.mark.parametrize("kind", ["an instance", "a function"])
def test_a_module_that_was_compiled_in_place_stays_compiled(kind, whole):
    def compiled():
        module = seeded(Net)
        (module if whole else module.body).compile(backend=counting)
        return module

    RUNS.clear()
    fitted = fit(specification(compiled() if kind == "an instance" else compiled))
    assert len(RUNS) == 2 * 4
    torch.testing.assert_close(fitted.predict(X), fitted_by_hand(2)(X).detach())
    assert len(RUNS) == 2 * 4 + 1


def test_a_module_that_cannot_be_copied_compiled_says_so(monkeypatch):
    monkeypatch.delattr("torch._dynamo.eval_frame._TorchDynamoContext")
    module = seeded(Net)
    module.compile(backend="eager")
    with pytest.warns(UserWarning, match=r"runs uncompiled.*Give torch.compile\(module\)"):
        fitted = fit(specification(module))
    torch.testing.assert_close(fitted.predict(X), fitted_by_hand(2)(X).detach())


def test_the_methods_of_the_module_are_found():
    model = luz.setup(lambda: torch.compile(WithMethods(), backend="eager"), seed=3)
    fitted = fit(model)
    expected = fitted_by_hand(2)(X).detach() + 100
    torch.testing.assert_close(fitted.predict(X), expected)
    fitted.evaluate((X, Y), verbose=False)


def test_a_compiled_class_is_loaded_by_its_name(tmp_path):
    fitted = fit(specification(Importable))
    luz.save(fitted, tmp_path / "net.luz")
    torch.testing.assert_close(luz.load(tmp_path / "net.luz").predict(X), fitted.predict(X))


@torch.compile(backend="eager")
class Importable(Net):
    pass


def test_modes_and_gradients_are_those_of_the_inner_module():
    modes = []
    watch = luz.Callback.from_functions(
        on_train_batch_end=lambda ctx: modes.append(ctx.model._orig_mod.training),
        on_valid_batch_end=lambda ctx: modes.append(ctx.model._orig_mod.training),
    )
    fitted = fit(specification(MAKERS["a function"]()), callbacks=[watch], valid_data=(X, Y))
    assert modes[:8] == [True] * 4 + [False] * 4
    assert not fitted.model._orig_mod.training
    assert all(parameter.grad is None for parameter in fitted.model.parameters())
