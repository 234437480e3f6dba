"""What a user's module has by names that luzpy uses: `ctx`, `step`, `predict`."""

import pytest
import torch
from models import MSE, line
from torch import nn

import luzpy as luz

X, Y = line(32)


def setup(module):
    return luz.setup(module, MSE, torch.optim.SGD).set_opt_hparams(lr=0.1)


class OfTheClass(nn.Linear):
    ctx = None


class Computed(nn.Linear):
    @property
    def ctx(self):
        return 1


def having(set_ctx):
    class Having(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            set_ctx(self)

    return Having


def set_attribute(module):
    module.ctx = 3


KINDS = [
    set_attribute,
    lambda module: module.register_buffer("ctx", torch.zeros(1)),
    lambda module: module.register_parameter("ctx", nn.Parameter(torch.zeros(1))),
    lambda module: module.add_module("ctx", nn.Linear(1, 1)),
]
NO_CTX = r"`module` must not have an attribute `ctx` of its own, got one of \w+: .* Rename"


@pytest.mark.parametrize("kind", [OfTheClass, Computed, type("Derived", (OfTheClass,), {})])
def test_a_ctx_of_the_class_is_refused_at_setup(kind):
    with pytest.raises(TypeError, match=NO_CTX):
        setup(kind)
    with pytest.raises(TypeError, match=NO_CTX):
        setup(kind(3, 1))


@pytest.mark.parametrize(
    "kind", [having(set_ctx) for set_ctx in KINDS], ids=["attribute", "buffer", "parameter", "part"]
)
def test_a_ctx_of_the_module_is_refused_at_setup_or_when_it_is_made(kind):
    with pytest.raises(TypeError, match=NO_CTX):
        setup(kind())
    with pytest.raises(TypeError, match=NO_CTX):
        setup(kind).fit((X, Y), 1, verbose=False)
    with pytest.raises(TypeError, match=NO_CTX):
        setup(lambda: kind()).fit((X, Y), 1, verbose=False)


def test_an_annotation_is_no_attribute_and_a_run_within_a_run_is_none():
    class Annotated(nn.Linear):
        ctx: luz.Context

        def __init__(self):
            super().__init__(3, 1)

    model = setup(Annotated)
    again = luz.Callback.from_functions(
        on_epoch_end=lambda ctx: setup(Annotated).fit((X, Y), 1, verbose=False)
    )
    model.fit((X, Y), 1, again, verbose=False)


class Cell(nn.Linear):
    """A step of recurrence, which is not luzpy's."""

    def __init__(self):
        super().__init__(3, 1)

    def step(self, x, h):
        return x + h


class Counter(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)
        self.step = 0


def test_a_step_that_is_not_luzpys_is_refused():
    text = r"`step` of Cell must be a method without arguments, got step\(.*x, h\): luzpy calls "
    for module in (Cell, Cell()):
        with pytest.raises(TypeError, match=text):
            setup(module)
    with pytest.raises(TypeError, match=text):
        setup(lambda: Cell())()
    with pytest.raises(TypeError, match=r"`step` of Counter .* got 0: .* rename it"):
        setup(Counter)()


def test_a_step_with_defaults_is_luzpys():
    class Defaults(Cell):
        def step(self, scale=1.0):
            self.ctx.loss = MSE(self(self.ctx.input), self.ctx.target).detach() * scale

    fitted = setup(Defaults).fit((X, Y), 1, verbose=False)
    assert fitted.records["metrics"]["train"][0]["loss"] > 0


class Timed(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def predict(self, x, t):
        return self(x) + t


def test_a_predict_that_wants_more_says_what_luzpy_calls():
    fitted = setup(Timed).fit((X, Y), 1, verbose=False)
    with pytest.raises(TypeError, match=r"`predict` of Timed .* got predict\(x, t\): luzpy calls"):
        fitted.predict(X, verbose=False)
    found = fitted.predict(X, t=2.0, verbose=False)
    assert torch.allclose(found, fitted.model(X).detach() + 2)


def test_a_type_error_within_predict_is_the_users_own():
    class Failing(Timed):
        def predict(self, x):
            raise TypeError("mine")

    fitted = setup(Failing).fit((X, Y), 1, verbose=False)
    with pytest.raises(TypeError, match=r"^mine"):
        fitted.predict(X, verbose=False)
