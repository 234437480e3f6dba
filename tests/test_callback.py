"""The `Callback` base class: its hooks, order and ways to make one."""

import inspect

import pytest
import torch
from models import regression

import luzpy as luz
from luzpy.core.hooks import HOOKS

DATA = (torch.ones(32, 2), torch.ones(32, 1))


def fit(callbacks, epochs=1):
    return regression(2).fit(DATA, epochs, callbacks=callbacks, verbose=False)


class Named(luz.Callback):
    def __init__(self, name, log, weight=0):
        self.name, self.log, self.weight = name, log, weight

    def on_epoch_end(self, ctx):
        self.log.append(self.name)


def test_every_hook_of_the_contract_is_a_method_that_takes_the_context():
    methods = {name for name in vars(luz.Callback) if name.startswith("on_")}
    assert methods == set(HOOKS)
    assert len(HOOKS) == 25
    for name in HOOKS:
        assert list(inspect.signature(getattr(luz.Callback, name)).parameters) == ["self", "ctx"]


def test_callbacks_run_by_weight_then_in_the_order_given():
    log = []
    fit(
        [
            Named("last", log, float("inf")),
            Named("b", log),
            Named("late", log, 2.5),
            Named("a", log),
            Named("first", log, -1),
        ]
    )
    assert log == ["first", "b", "a", "late", "last"]


def test_callbacks_of_weight_zero_run_after_the_defaults():
    seen = []

    def look(ctx):
        seen.append([type(callback).__name__ for callback in ctx.callbacks])
        seen.append(ctx.get_metric("loss", "train", 1))

    fitted = fit(luz.Callback.from_functions(on_train_end=look))
    defaults = ["Profile", "TrainValid", "Metrics", "LossWatch", "Progress", "Interrupt"]
    assert seen[0] == [*defaults, "_FunctionCallback", "ValidCheck"]
    assert seen[1] == fitted.records["metrics"]["train"][0]["loss"]  # logged before we looked


@pytest.mark.parametrize("default", ["Profile", "TrainValid", "Metrics", "Progress", "Interrupt"])
def test_users_own_takes_the_place_of_a_default(default):
    own = getattr(luz.callbacks, default)()
    seen = []
    fit([own, luz.Callback.from_functions(on_fit_begin=lambda ctx: seen.extend(ctx.callbacks))])
    assert [callback for callback in seen if type(callback) is type(own)] == [own]


def test_one_callback_may_be_given_without_a_list():
    log = []
    fit(Named("only", log), epochs=2)
    assert log == ["only", "only"]


def test_from_functions_makes_a_callback():
    seen = []
    callback = luz.Callback.from_functions(
        weight=3,
        on_epoch_begin=lambda ctx: seen.append(("begin", ctx.epoch)),
        on_epoch_end=lambda ctx: seen.append(("end", ctx.epoch)),
    )
    assert isinstance(callback, luz.Callback)
    assert callback.weight == 3
    assert repr(callback) == "<luzpy.Callback from on_epoch_begin, on_epoch_end>"
    fit(callback, epochs=2)
    assert seen == [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)]


def test_from_functions_refuses_what_is_not_a_hook():
    with pytest.raises(
        TypeError, match="`on_epoch_finish` is not a hook of luzpy: did you mean on_epoch_end"
    ):
        luz.Callback.from_functions(on_epoch_finish=print)
    with pytest.raises(TypeError, match=r"`on_epoch_end` must be a function .*, got 3"):
        luz.Callback.from_functions(on_epoch_end=3)


def test_hook_may_be_inherited_or_set_on_the_instance():
    log = []

    class Child(Named):
        pass

    child = Child("inherited", log)
    child.on_fit_end = lambda ctx: log.append("instance")
    fit(child)
    assert log == ["inherited", "instance"]


@pytest.mark.parametrize(
    ("callbacks", "text"),
    [
        (luz.callbacks.EarlyStopping, r"the class EarlyStopping: write\s+EarlyStopping\(\)"),
        ([luz.callbacks.EarlyStopping], r"the class EarlyStopping: write\s+EarlyStopping\(\)"),
        ([print], "luzpy callbacks, got <built-in function print>"),
        ("early", "a list of luzpy callbacks, got 'early'"),
        ({"a": 1}, "a list of luzpy callbacks"),
    ],
)
def test_what_is_not_a_callback_is_an_error(callbacks, text):
    # R: test-callbacks.R, "improve error message when you provide a unitinitilized callback"
    with pytest.raises(TypeError, match=f"`callbacks` must .*{text}"):
        fit(callbacks)
