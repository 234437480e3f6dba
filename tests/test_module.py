import copy

import attrs
import numpy as np
import pytest
import torch
from models import OwnLoss, TwoParts, line
from torch import nn

import luzpy as luz

X, Y = line()


def sgd_model(module=nn.Linear, **kwargs):
    return luz.setup(module, nn.MSELoss(), torch.optim.SGD, **kwargs)


def linear(**kwargs):
    return sgd_model(**kwargs).set_hparams(in_features=3, out_features=1)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class WithStep(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def step(self): ...


class WithOptimizers(OwnLoss):
    def set_optimizers(self, lr=0.01):
        return torch.optim.Adam(self.parameters(), lr=lr)


# setup


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"module": 3}, TypeError, "`module` must be an nn.Module class, .* got 3"),
        ({"module": dict}, TypeError, "`module` must derive from nn.Module, got the class dict"),
        ({"loss": nn.MSELoss}, TypeError, r"the class MSELoss: write MSELoss\(\)"),
        ({"loss": "mse"}, TypeError, "`loss` must be a function, got 'mse'"),
        ({"optimizer": None}, ValueError, "`optimizer` must be given, or the module have"),
        ({"optimizer": "adam"}, TypeError, "`optimizer` must be a function, got 'adam'"),
        (
            {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)},
            TypeError,
            "`optimizer` must be the class, got an instance: write optimizer=torch.optim.SGD",
        ),
        ({"backward": 1}, TypeError, "`backward` must be a function, got 1"),
        ({"metrics": luz.metrics.MAE}, TypeError, r"the class MAE: write MAE\(\)"),
        ({"metrics": [luz.metrics.MAE()] * 2}, ValueError, "'mae' twice"),
        ({"seed": 1.0}, TypeError, "`seed` must be an integer, got 1.0"),
        ({"seed": True}, TypeError, "`seed` must be an integer, got True"),
        ({"seed": -1}, ValueError, "`seed` must be between 0 and .* got -1"),
    ],
)
def test_a_bad_argument_is_refused_at_once(arguments, error, message):
    good = {"module": nn.Linear, "loss": nn.MSELoss(), "optimizer": torch.optim.SGD}
    with pytest.raises(error, match=message):
        luz.setup(**(good | arguments))


def test_what_setup_made_is_no_module():
    with pytest.raises(TypeError, match=r"must be a plain nn\.Module, got what `setup` made"):
        sgd_model(linear())


@pytest.mark.parametrize("module", [OwnLoss, WithStep, OwnLoss(), WithStep()])
def test_a_module_may_bring_its_own_loss(module):
    assert luz.setup(module, optimizer=torch.optim.SGD).loss is None


# R: test-module.R, "Custom optimizer"
@pytest.mark.parametrize("module", [WithOptimizers, WithOptimizers()])
def test_a_module_may_bring_its_own_optimizer(module):
    fitted = luz.setup(module).set_opt_hparams(lr=0.5).fit((X, Y), epochs=1, verbose=False)
    assert fitted.opt_hparams == {"lr": 0.5}


def test_one_metric_needs_no_list():
    assert [m.abbrev for m in sgd_model(metrics=luz.metrics.MAE()).metrics.train] == ["MAE"]


# R: test-module.R, "Fully managed", "can train without a validation dataset"
@pytest.mark.parametrize(("valid_data", "sets"), [(None, ["train"]), ((X, Y), ["train", "valid"])])
def test_a_plain_module_can_be_fitted(valid_data, sets):
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.Adam)
    assert isinstance(model, luz.LuzModule)
    fitted = model.set_hparams(in_features=3, out_features=1).fit(
        (X, Y), epochs=1, valid_data=valid_data, verbose=False
    )
    assert isinstance(fitted, luz.FittedModule)
    assert list(fitted.get_metrics()["set"]) == sets


# R: test-module.R, "Multiple optimizers"
def test_a_module_may_have_several_optimizers():
    model = luz.setup(TwoParts(3), nn.MSELoss())
    start, trained = model(), model.fit((X, Y), epochs=1, verbose=False).model
    assert not torch.equal(start.one.weight, trained.one.weight)
    assert not torch.equal(start.two.weight, trained.two.weight)


# R: test-module.R, "cutom backward"
def test_backward_may_be_replaced():
    seen = []

    def backward(loss):
        seen.append(loss.item())
        (2 * loss).backward()

    plain, doubled = linear(seed=1), linear(seed=1, backward=backward)
    torch.manual_seed(0)
    one = plain.set_opt_hparams(lr=0.02).fit((X, Y), epochs=1, verbose=False)
    torch.manual_seed(0)
    two = doubled.set_opt_hparams(lr=0.01).fit((X, Y), epochs=1, verbose=False)
    assert len(seen) == 2
    assert torch.allclose(weights(one.model), weights(two.model), atol=1e-6)


# set_hparams, set_opt_hparams


@pytest.mark.parametrize(
    ("verb", "field"), [(luz.set_hparams, "hparams"), (luz.set_opt_hparams, "opt_hparams")]
)
def test_arguments_are_merged_into_those_set_before(verb, field):
    first = verb(sgd_model(), a=1, b=2)
    second = verb(first, b=3, c=4)
    assert getattr(first, field) == {"a": 1, "b": 2}
    assert getattr(second, field) == {"a": 1, "b": 3, "c": 4}


@pytest.mark.parametrize("verb", ["set_hparams", "set_opt_hparams", "set_seed"])
def test_the_function_is_the_method(verb):
    assert getattr(luz.LuzModule, verb) is getattr(luz, verb)


@pytest.mark.parametrize("verb", ["fit", "lr_finder"])
def test_the_verbs_of_training_are_methods(verb):
    assert getattr(luz.LuzModule, verb) is getattr(luz, verb)


def test_setting_arguments_keeps_all_else():
    model = sgd_model(metrics=luz.metrics.MAE(), seed=5)
    other = model.set_hparams(in_features=3).set_opt_hparams(lr=1)
    same = ("module", "loss", "optimizer", "metrics", "backward", "seed")
    assert all(getattr(other, name) is getattr(model, name) for name in same)


@pytest.mark.parametrize("name", ["hparams", "seed", "module", "new"])
def test_a_field_cannot_be_changed(name):
    with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
        setattr(linear(), name, 1)


def test_a_callback_cannot_change_the_specification():
    def meddle(ctx):
        ctx.hparams["in_features"] = 99
        ctx.opt_hparams["lr"] = 99.0

    model = linear().set_opt_hparams(lr=0.1)
    callback = luz.Callback.from_functions(on_fit_begin=meddle)
    fitted = model.fit((X, Y), epochs=1, callbacks=callback, verbose=False)
    assert model.hparams == {"in_features": 3, "out_features": 1}
    assert model.opt_hparams == {"lr": 0.1}
    callback = luz.Callback.from_functions(on_valid_begin=meddle, on_predict_begin=meddle)
    before = copy.deepcopy((fitted.hparams, fitted.opt_hparams))
    fitted.evaluate((X, Y), callbacks=callback)
    fitted.predict(X, callbacks=callback)
    assert (fitted.hparams, fitted.opt_hparams) == before


def test_an_instance_takes_no_hyperparameters():
    model = sgd_model(nn.Linear(3, 1))
    with pytest.raises(ValueError, match="for a module instance, got in_features"):
        model.set_hparams(in_features=3)
    with pytest.raises(ValueError, match="for a module instance, got in_features"):
        model(in_features=3)


def test_optimizer_hyperparameters_reach_the_optimizer():
    found = []
    look = luz.Callback.from_functions(
        on_fit_begin=lambda ctx: found.append(dict(ctx.optimizers["opt"].defaults))
    )
    model = linear().set_opt_hparams(momentum=0.9).set_opt_hparams(lr=0.25, weight_decay=0.1)
    model.fit((X, Y), epochs=1, callbacks=look, verbose=False)
    assert (found[0]["lr"], found[0]["momentum"], found[0]["weight_decay"]) == (0.25, 0.9, 0.1)


# The initial weights


def test_calling_it_builds_the_plain_module():
    module = linear()()
    assert type(module) is nn.Linear
    assert (module.in_features, module.out_features) == (3, 1)


def test_calling_it_may_change_hyperparameters():
    model = linear()
    assert model(out_features=5).out_features == 5
    assert model.hparams["out_features"] == 1


def test_every_build_has_the_same_weights():
    model = linear()
    assert torch.equal(weights(model()), weights(model()))


def test_every_run_starts_from_the_weights_of_the_specification():
    starts = []
    look = luz.Callback.from_functions(on_fit_begin=lambda ctx: starts.append(weights(ctx.model)))
    model = linear()
    model.fit((X, Y), epochs=1, callbacks=look, verbose=False)
    model.set_opt_hparams(lr=0.5).fit((X, Y), epochs=1, callbacks=look, verbose=False)
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], weights(model()))


def test_the_seed_is_that_of_torch():
    model = linear(seed=7)
    torch.manual_seed(7)
    assert torch.equal(weights(model()), weights(nn.Linear(3, 1)))


def test_another_seed_gives_other_weights():
    model = linear(seed=1)
    other = model.set_seed(2)
    assert model.seed == 1
    assert not torch.equal(weights(model()), weights(other()))
    assert torch.equal(weights(other()), weights(linear(seed=2)()))


@pytest.mark.parametrize(("seed", "error"), [(0.5, TypeError), ("1", TypeError), (-1, ValueError)])
def test_set_seed_refuses_what_is_no_seed(seed, error):
    with pytest.raises(error, match="`seed` must be"):
        linear().set_seed(seed)


def test_the_seed_is_drawn_once_from_torchs_generator():
    torch.manual_seed(0)
    one, two = linear(), linear()
    torch.manual_seed(0)
    again = linear()
    assert one.seed == again.seed != two.seed
    assert one.set_hparams(bias=False).seed == one.seed


def test_a_given_seed_draws_nothing():
    before = torch.get_rng_state()
    linear(seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_numpys_and_pythons_draws_are_seeded_too():
    class Noisy(nn.Linear):
        def __init__(self):
            super().__init__(1, 1)
            self.weight.data.fill_(np.random.rand())

    model = sgd_model(Noisy)
    assert torch.equal(weights(model()), weights(model()))


# Printing


# R: test-module-print.R, "print module generator"
def test_it_says_what_it_is_made_of():
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.Adam, [luz.metrics.MAE()])
    assert repr(model.set_hparams(in_features=3).set_opt_hparams(lr=0.1)).splitlines() == [
        "<LuzModule of Linear>",
        "* Loss: MSELoss",
        "* Optimizer: Adam",
        "* Hyperparameters: in_features=3",
        "* Optimizer's hyperparameters: lr=0.1",
        "* Metrics: MAE",
    ]


@pytest.mark.parametrize(
    ("module", "name"),
    [(WithOptimizers, "WithOptimizers"), (WithOptimizers(), "WithOptimizers")],
)
def test_what_the_module_brings_itself_is_not_named(module, name):
    assert repr(luz.setup(module)) == f"<LuzModule of {name}>"


def test_a_function_prints_its_name():
    model = luz.setup(lambda: nn.Linear(3, 1), nn.functional.mse_loss, torch.optim.SGD)
    assert repr(model).splitlines()[:2] == [
        "<LuzModule of <lambda>>",
        "* Loss: mse_loss",
    ]
