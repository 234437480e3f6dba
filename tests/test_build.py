import functools
import random
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from models import CountingLoss, OwnLoss, Scale, line, regression
from torch import nn

import luzpy as luz

X, Y = line()


def sgd_model(module, **kwargs):
    return regression(module, lr=0.1, **kwargs)


def fit(model, **kwargs):
    return model.fit((X, Y), epochs=1, verbose=False, **kwargs)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


ONE_AND_THE_SAME = nn.Linear(3, 1)


# Kinds of modules


@pytest.mark.parametrize(
    "model",
    [
        sgd_model(nn.Linear).set_hparams(in_features=3, out_features=1),
        sgd_model(lambda width: nn.Linear(3, width)).set_hparams(width=1),
        sgd_model(functools.partial(nn.Linear, 3)).set_hparams(out_features=1),
        sgd_model(lambda: ONE_AND_THE_SAME),
        sgd_model(nn.Linear(3, 1)),
        sgd_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))),
    ],
    ids=["class", "lambda", "partial", "always the same", "instance", "nested"],
)
def test_every_fit_starts_from_the_same_weights_and_leaves_them(model):
    start = weights(model())
    starts = []
    look = luz.Callback.from_functions(on_fit_begin=lambda ctx: starts.append(weights(ctx.model)))
    fitted = fit(model, callbacks=look)
    fit(model, callbacks=look)
    assert not torch.equal(weights(fitted.model), start)
    assert torch.equal(starts[0], start)
    assert torch.equal(starts[1], start)
    assert torch.equal(weights(model()), start)


def test_a_module_instance_is_never_changed():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fitted = fit(sgd_model(module))
    fitted.evaluate((X, Y))
    assert fitted.model is not module
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not module.training
    assert all(p.grad is None for p in module.parameters())


def test_a_module_among_the_hyperparameters_is_never_changed():
    class Head(nn.Module):
        def __init__(self, body, *, layers=()):
            super().__init__()
            self.body, self.layers = body, nn.ModuleList(layers)

        def forward(self, x):
            return self.body(x) + sum(layer(x) for layer in self.layers)

    body, layer = nn.Linear(3, 1), nn.Linear(3, 1)
    before = torch.cat([weights(body), weights(layer)])
    model = sgd_model(Head).set_hparams(body=body, layers=[layer])
    one, two = fit(model), fit(model.set_opt_hparams(lr=0.0))
    assert torch.equal(torch.cat([weights(body), weights(layer)]), before)
    assert not torch.equal(weights(one.model), before)
    assert torch.equal(weights(two.model), before)


def test_a_function_must_make_a_module():
    with pytest.raises(TypeError, match=r"`module` must make an nn.Module, got int\."):
        fit(sgd_model(lambda: 3))


def test_an_argument_that_the_module_does_not_know_is_an_error():
    with pytest.raises(TypeError, match="colour"):
        fit(sgd_model(nn.Linear).set_hparams(in_features=3, out_features=1, colour="red"))


@pytest.mark.parametrize("fails", [False, True])
def test_building_leaves_the_global_random_state_alone(fails):
    def make():
        random.random(), np.random.rand(), torch.rand(1)
        if fails:
            raise RuntimeError("no")
        return nn.Linear(3, 1)

    model = sgd_model(make)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            model()
    else:
        model()
    after = random.getstate(), np.random.get_state()[1], torch.get_rng_state()
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


# Other weights for an instance


def test_set_seed_re_initialises_a_copy_of_an_instance():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    before = weights(module)
    model = sgd_model(module)
    one, two = model.set_seed(1), model.set_seed(2)
    assert torch.equal(weights(module), before)
    assert torch.equal(weights(model()), before)
    assert torch.equal(weights(one()), weights(one()))
    distinct = [weights(built()) for built in (model, one, two)]
    assert not any(torch.equal(distinct[i], distinct[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_re_initialised_running_statistics_start_anew():
    module = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))
    module(X)
    assert not torch.equal(module[1].running_mean, torch.zeros(1))
    assert torch.equal(sgd_model(module).set_seed(1)()[1].running_mean, torch.zeros(1))


def test_a_module_has_the_last_word_on_the_weights_of_its_parts():
    class Zeros(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 1)
            self.reset_parameters()

        def reset_parameters(self):
            nn.init.zeros_(self.inner.weight)

    built = sgd_model(nn.Sequential(Zeros())).set_seed(4)()
    assert torch.equal(built[0].inner.weight, torch.zeros(1, 3))


def test_a_part_without_reset_parameters_is_named():
    model = sgd_model(nn.Sequential(nn.Linear(3, 1), Scale())).set_seed(1)
    with pytest.raises(ValueError, match=r"`reset_parameters` method, .*; '1' \(Scale\) has none"):
        model()
    with pytest.raises(ValueError, match=r"; 'the module' \(Scale\) has none"):
        sgd_model(Scale()).set_seed(1)()


def test_such_an_instance_can_be_fitted_as_it_is():
    fitted = fit(sgd_model(nn.Sequential(nn.Linear(3, 1), Scale())))
    assert fitted.model[1].scale.item() != 1


def test_a_class_needs_no_reset_parameters():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 1))

    model = sgd_model(Free)
    assert not torch.equal(weights(model()), weights(model.set_seed(1)()))


# Optimizers


def with_optimizers(made):
    class Module(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def set_optimizers(self, **opt_hparams):
            return made(self, **opt_hparams)

    return luz.setup(Module, nn.MSELoss())


def sgd(module, **opt_hparams):
    return torch.optim.SGD(module.parameters(), **{"lr": 0.1, **opt_hparams})


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (sgd, ["opt"]),
        (lambda m: {"one": sgd(m)}, ["one"]),
        (lambda m: {"b": sgd(m), "a": sgd(m)}, ["b", "a"]),
    ],
)
def test_optimizers_have_names(made, names):
    seen = []
    look = luz.Callback.from_functions(on_fit_begin=lambda ctx: seen.extend(ctx.optimizers))
    fit(with_optimizers(made), callbacks=look)
    assert seen == names


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda m: None, TypeError, "'opt': NoneType"),
        (lambda m: [sgd(m)], TypeError, "'opt': list"),
        (lambda m: {"one": "sgd"}, TypeError, "'one': str"),
        (lambda m: {1: sgd(m)}, TypeError, "1: SGD"),
        (lambda m: {}, ValueError, "at least one optimizer, got an empty dict"),
    ],
)
def test_what_is_no_optimizer_is_refused(made, error, message):
    with pytest.raises(error, match=f"`set_optimizers` must make .*{message}"):
        fit(with_optimizers(made))


def test_an_optimizer_of_setup_is_checked_too():
    model = luz.setup(nn.Linear, nn.MSELoss(), lambda params, **_: list(params))
    with pytest.raises(TypeError, match=r"`optimizer` must make an optimizer, .* 'opt': list"):
        fit(model.set_hparams(in_features=3, out_features=1))


def test_an_optimizer_of_setup_goes_before_the_modules_own():
    seen = []
    look = luz.Callback.from_functions(
        on_fit_begin=lambda ctx: seen.append(type(ctx.optimizers["opt"]))
    )
    model = with_optimizers(sgd)
    fit(luz.setup(model.module, nn.MSELoss(), torch.optim.Adam), callbacks=look)
    assert seen == [torch.optim.Adam]


def test_an_argument_that_the_optimizer_does_not_know_is_an_error():
    with pytest.raises(TypeError, match="speed"):
        fit(sgd_model(nn.Linear(3, 1)).set_opt_hparams(speed=1))


@pytest.mark.parametrize(("lr", "error"), [("fast", TypeError), (-1, ValueError)])
def test_an_argument_that_the_optimizer_cannot_use_is_named(lr, error):
    with pytest.raises(error, match=f"`opt_hparams` must be arguments of SGD, got lr={lr!r}"):
        fit(sgd_model(nn.Linear(3, 1)).set_opt_hparams(lr=lr))


# The loss


def test_a_loss_may_be_a_function_or_a_module_or_the_modules_own():
    def make(loss, module=nn.Linear):
        made = luz.setup(module, loss, torch.optim.SGD, seed=1)
        return made.set_hparams(in_features=3, out_features=1).set_opt_hparams(lr=0.1)

    trained = []
    for model in (make(nn.MSELoss()), make(nn.functional.mse_loss), make(None, OwnLoss)):
        torch.manual_seed(0)
        trained.append(weights(fit(model).model))
    assert torch.allclose(trained[0], trained[1])
    assert torch.allclose(trained[0], trained[2])


def test_a_loss_module_is_copied_for_every_run():
    loss = CountingLoss()
    fit(luz.setup(nn.Linear(3, 1), loss, torch.optim.SGD))
    assert loss.calls.item() == 0


def test_a_function_that_makes_a_module_without_a_loss_is_found_out():
    with pytest.raises(ValueError, match="`loss` must be given to `setup`, or be a method"):
        fit(luz.setup(lambda: nn.Linear(3, 1), optimizer=torch.optim.SGD))


def test_a_step_that_calls_a_loss_that_is_not_there_says_so():
    class Step(nn.Linear):
        def step(self):
            self.ctx.loss_fn(self(self.ctx.input), self.ctx.target)

    model = luz.setup(Step, optimizer=torch.optim.SGD).set_hparams(in_features=3, out_features=1)
    with pytest.raises(ValueError, match=r"for a `step` that calls ctx\.loss_fn"):
        fit(model)


def test_models_that_threads_build_at_once_are_what_they_are_alone():
    specs = [regression(lambda: nn.Linear(64, 64), seed=i) for i in range(20)]
    alone = [spec().weight for spec in specs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda spec: spec().weight, specs * 5))
    assert all(torch.equal(a, b) for a, b in zip(alone * 5, found, strict=True))


# What a function has made


def keeping(how):
    """A function that makes a module, and what it keeps of it: tensors, or a NumPy array."""
    kept = nn.Linear(3, 1)
    if how == "a module in a list":
        modules = [nn.Sequential(kept)]
        return lambda: modules[0], kept.weight
    if how == "a module in a cache":
        make = functools.lru_cache(lambda: nn.Sequential(nn.Linear(3, 1)))
        return make, make()[0].weight
    if how == "a part":
        return lambda: nn.Sequential(nn.Linear(3, 3), kept), kept.weight
    array = np.ones((1, 3), dtype=np.float32)
    tensor = torch.ones(2, 3)
    given = {
        "a parameter": lambda: kept.weight,
        "a tensor": lambda: nn.Parameter(kept.weight.data),
        "a part of a tensor": lambda: nn.Parameter(tensor[:1]),
        "an array": lambda: nn.Parameter(torch.from_numpy(array)),
    }
    if how in given:

        def make():
            module = nn.Linear(3, 1)
            module.weight = given[how]()
            return module

        outside = {"a part of a tensor": tensor, "an array": array}
        return make, outside.get(how, kept.weight)
    loose = []

    def make():
        module = nn.Linear(3, 1)
        if how == "a list of parameters":
            loose[:] = [module.weight]
        elif how == "a graph":
            loose[:] = [module.weight.square().sum()]
        elif how == "a weak reference":
            loose[:] = [weakref.ref(module.weight)]
        elif how == "a function":
            module.register_forward_pre_hook(lambda *args, weight=module.weight: None)
            loose[:] = module._forward_pre_hooks.values()
        return module

    return make, loose


@pytest.mark.parametrize(
    "how",
    [
        "a module in a list",
        "a module in a cache",
        "a part",
        "a parameter",
        "a tensor",
        "a part of a tensor",
        "an array",
    ],
)
def test_what_a_function_keeps_is_not_trained(how):
    make, outside = keeping(how)
    outside = outside if isinstance(outside, np.ndarray) else outside.detach().numpy()
    before = outside.copy()
    fitted = fit(sgd_model(make))
    assert not np.array_equal(weights(fitted.model)[:3], before.ravel()[:3])
    assert np.array_equal(outside, before)


@pytest.mark.parametrize(
    "how", ["a list of parameters", "a graph", "a weak reference", "a function", "nothing"]
)
def test_a_tensor_is_taken_over_only_where_nobody_else_has_it(how):
    """A graph of a weight, say, or a function would see it change."""
    memory = []
    make, kept = keeping(how)

    def remembering():
        module = make()
        memory[:] = [p.data_ptr() for p in module.parameters()]
        return module

    model = sgd_model(remembering)()
    assert (model.weight.data_ptr() == memory[0]) is (how == "nothing")
    assert bool(kept) is (how != "nothing")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
        lambda: nn.TransformerEncoderLayer(4, 2, batch_first=True),
        lambda: nn.LSTM(3, 4, 2),
    ],
    ids=["nested", "attention", "recurrent"],
)
def test_a_module_that_was_just_made_keeps_its_tensors(make):
    memory = {}

    def remembering():
        module = make()
        memory.update((name, t.data_ptr()) for name, t in module.state_dict().items())
        return module

    model = luz.setup(remembering, nn.MSELoss(), torch.optim.SGD)()
    assert {name: t.data_ptr() for name, t in model.state_dict().items()} == memory


def test_after_torch_has_compiled_something_too():
    """It refers weakly to every new module from then on."""
    torch.compile(nn.Linear(3, 1), backend="eager")(torch.ones(2, 3))
    assert weakref.getweakrefs(nn.Linear(3, 1))
    test_a_module_that_was_just_made_keeps_its_tensors(lambda: nn.Linear(3, 1))


def test_where_torch_does_not_count_references_a_module_is_copied(monkeypatch):
    monkeypatch.delattr(torch._C, "_storage_Use_Count")
    made = []

    def remembering():
        module = nn.Linear(3, 1)
        made.append(module.weight.data_ptr())
        return module

    model = sgd_model(remembering)()
    assert model.weight.data_ptr() != made[0]


PEAK = """
from pathlib import Path
import torch
from torch import nn
import luzpy as luz

class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.rows = nn.Linear(3, 1), nn.Parameter(torch.ones(50, 2**20), False)

    def forward(self, x):
        return self.fc(x)

def fit(make):
    model = luz.setup(make, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    return model.fit((torch.ones(32, 3), torch.ones(32, 1)), 1, verbose=False)

def peak():  # of this program: `ru_maxrss` begins with that of the process that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

fit(lambda: nn.Linear(3, 1))  # what the first step imports
torch.ones(50, 2**20)  # the peak is at least that of one model from here on
before = peak()
kept = []
fitted = fit(MAKE)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    ("make", "least", "most"),
    [("lambda: Large()", -1, 100), ("lambda: kept.append(Large()) or kept[0]", 150, 300)],
    ids=["just made", "kept elsewhere"],
)
def test_a_module_that_a_function_makes_takes_its_memory_once(make, least, most):
    """A model of 200 MB, of which a copy is made only where it is held by others too."""
    program = [sys.executable, "-c", PEAK.replace("MAKE", make)]
    ran = subprocess.run(program, capture_output=True, text=True, check=True)
    assert least < int(ran.stdout) / 1024 < most
