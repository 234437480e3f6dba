"""Nothing of the user's is disturbed by `lr_finder`, however it ends."""

import gc
import random
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from models import CountingLoss, regression, unrelated
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

import luzpy as luz

torch.manual_seed(0)
X, Y = unrelated(96, 4)


class Failure(Exception):
    pass


class Net(nn.Module):
    def __init__(self, fail=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 1)
        self.fail = fail
        self.calls = 0

    def forward(self, x):
        random.random()
        np.random.rand()
        self.calls += 1
        if self.fail and self.calls == 5:
            raise Failure
        return self.head(self.body(x))


class Rows(Dataset):
    """Draws from every random generator; row 70 may fail."""

    def __init__(self, fail=False):
        self.fail = fail

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        if self.fail and index == 70:
            raise Failure
        noise = random.random() + np.random.rand() + torch.rand(())
        return X[index] + 0.01 * noise, Y[index]


def failing(hook, error=Failure):
    def fail(ctx):
        if ctx.iter == 2:
            raise error

    return luz.Callback.from_functions(**{hook: fail})


def failing_loss():
    calls = []

    def loss(input, target):
        calls.append(1)
        if len(calls) == 5:
            raise Failure
        return nn.functional.mse_loss(input, target)

    return loss


def failing_optimizer(params, lr):
    raise Failure


def global_state():
    state = np.random.get_state()
    return (
        torch.get_rng_state().tolist(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in state],
        random.getstate(),
        signal.getsignal(signal.SIGINT),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


def state_of(net):
    return (
        {name: value.tolist() for name, value in net.state_dict().items()},
        [part.training for part in net.modules()],
        [(p.requires_grad, p.grad) for p in net.parameters()],
        sorted(vars(net)),
        net.calls,
    )


CASES = {
    "completes": {},
    "validates": {"valid_data": (X, Y)},
    "validates on a part": {"valid_data": 0.3, "valid_batches": None},
    "runs thrice": {"runs": 3},
    "diverges": {"end_lr": 1e30},
    "is interrupted": {"callbacks": failing("on_train_batch_end", KeyboardInterrupt)},
    "dataset fails": {"data": Rows(fail=True)},
    "valid_data fail": {"valid_data": Rows(fail=True)},
    "model fails": {"fail": True},
    "loss fails": {"loss": failing_loss},
    "callback fails": {"callbacks": failing("on_train_batch_begin")},
    "callback fails in validation": {
        "callbacks": failing("on_valid_batch_end"),
        "valid_data": (X, Y),
    },
    "optimizer fails": {"optimizer": failing_optimizer},
    "argument is bad": {"opt_name": "no such"},
}
FAILS = {name for name in CASES if "fail" in name or "bad" in name}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_disturbed_when_it(case):
    options = dict(CASES[case])
    net = Net(fail=options.pop("fail", False))
    net.body[0].eval()
    net.head.weight.requires_grad_(False)
    data = options.pop("data", Rows())
    model = luz.setup(
        net, options.pop("loss", nn.MSELoss)(), options.pop("optimizer", SGD), seed=1
    ).set_opt_hparams(lr=0.1)
    before = global_state(), state_of(net)
    arguments = {"steps": 30, "verbose": False, "dataloader_options": {"batch_size": 16}}
    if case in FAILS:
        with pytest.raises((Failure, luz.LuzError)):
            model.lr_finder(data, **arguments, **options)
    else:
        assert len(model.lr_finder(data, **arguments, **options)) > 0
    assert (global_state(), state_of(net)) == before
    assert dict(model.opt_hparams) == {"lr": 0.1}
    assert not hasattr(net, "ctx")


def loaders(generator):
    dataset = TensorDataset(X, Y)
    sampler = RandomSampler(dataset, generator=generator)
    return {
        "generator": DataLoader(dataset, batch_size=16, shuffle=True, generator=generator),
        "sampler": DataLoader(dataset, batch_size=16, sampler=sampler),
        "batch_sampler": DataLoader(dataset, batch_sampler=BatchSampler(sampler, 16, True)),
        "in order": DataLoader(dataset, batch_size=16, generator=generator),
    }


@pytest.mark.parametrize("kind", ["generator", "sampler", "batch_sampler", "in order"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "as_valid", [{}, {"valid_batches": 2}, {"valid_batches": None}], ids=["train", "few", "all"]
)
def test_a_loaders_own_generator_is_not_disturbed(kind, fails, as_valid):
    generator = torch.Generator().manual_seed(3)
    loader = loaders(generator)[kind]
    state = generator.get_state()
    data = {"data": (X, Y), "valid_data": loader, **as_valid} if as_valid else {"data": loader}
    model = luz.setup(Net, nn.MSELoss(), SGD)
    callbacks = [failing("on_train_batch_end")] if fails else []
    try:
        model.lr_finder(**data, steps=9, runs=2, verbose=False, callbacks=callbacks)
    except Failure:
        assert fails
    else:
        assert not fails
    assert torch.equal(generator.get_state(), state)


def weights_of_first_batch(found):
    def keep(ctx):
        if not found:
            found.extend(value.clone() for value in ctx.model.state_dict().values())

    return luz.Callback.from_functions(on_train_batch_begin=keep)


@pytest.mark.parametrize("instance", [False, True])
def test_the_next_fit_starts_from_the_weights_of_the_finder(instance):
    torch.manual_seed(21)
    net = Net()
    model = luz.setup(net if instance else Net, nn.MSELoss(), Adam, seed=21)
    of_finder, of_fit = [], []
    model.lr_finder((X, Y), 20, verbose=False, callbacks=weights_of_first_batch(of_finder))
    model.set_opt_hparams(lr=0.1).fit(
        (X, Y), 1, verbose=False, callbacks=weights_of_first_batch(of_fit)
    )
    expected = list(net.state_dict().values())
    for a, b, c in zip(expected, of_finder, of_fit, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("finder", [{}, {"runs": 2}, {"valid_data": 0.2}, {"end_lr": 1e30}])
def test_a_fit_after_the_finder_is_the_fit_without_it(finder):
    model = luz.setup(Net, nn.MSELoss(), SGD, seed=5).set_opt_hparams(lr=0.01, momentum=0.9)

    def fitted_loss(before):
        torch.manual_seed(4)
        before()
        return luz.get_metrics(model.fit(Rows(), 3, verbose=False))["value"].tolist()

    random.seed(1)
    np.random.seed(1)
    expected = fitted_loss(lambda: None)
    random.seed(1)
    np.random.seed(1)
    assert fitted_loss(lambda: model.lr_finder((X, Y), verbose=False, **finder)) == expected


def test_a_loss_with_buffers_is_not_disturbed():
    loss = CountingLoss()
    luz.setup(Net, loss, SGD).lr_finder((X, Y), 5, verbose=False)
    assert loss.calls == 0


def test_metrics_given_to_setup_are_not_disturbed():
    metric = luz.metrics.MAE()
    before = dict(vars(metric))
    callback = luz.Callback.from_functions(on_fit_begin=lambda ctx: None)
    luz.setup(Net, nn.MSELoss(), SGD, [metric]).lr_finder(
        (X, Y), 5, callbacks=callback, verbose=False
    )
    assert vars(metric) == before


class Augmented(Dataset):
    """Rows with noise from generators of the dataset's own."""

    def __init__(self):
        self.torch = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(2)
        self.python = random.Random(3)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        noise = torch.randn(4, generator=self.torch) + self.numpy.normal() + self.python.random()
        return noise.float(), torch.tensor([float(index)])

    def states(self):
        return (
            self.torch.get_state().tolist(),
            self.numpy.bit_generator.state,
            self.python.getstate(),
        )


@pytest.mark.parametrize("runs", [1, 2])
def test_the_generators_of_a_dataset_are_not_disturbed(runs):
    data = Augmented()
    model = regression(4, seed=1)
    before = data.states()
    torch.manual_seed(0)
    first = model.lr_finder(data, 12, 1e-4, 1e-2, runs=runs, verbose=False)
    assert data.states() == before
    torch.manual_seed(0)
    assert model.lr_finder(data, 12, 1e-4, 1e-2, runs=runs, verbose=False).equals(first)


# ---------------------------------------------------------------- nothing is kept


class Kept(nn.Linear):
    """Tells of every weight that was made; of a class, no copy is trained in its place."""

    weights: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__(4, 1)
        self.weights.append(weakref.ref(self.weight))


def bent_loss(input, target):
    if not input.isfinite().all():
        raise Failure
    return nn.functional.mse_loss(input, target)


KEEPS = {
    "one": {},
    "validates": {"valid_data": 0.2},
    "together": {"runs": 3},
    "apart": {"runs": 2, "callbacks": luz.Callback.from_functions(on_fit_end=lambda ctx: None)},
    "diverges": {"end_lr": 1e30},
    "raises as it diverges": {"end_lr": 1e30, "loss": bent_loss},
}


@pytest.mark.parametrize("how", KEEPS)
def test_models_and_optimizers_die_with_the_call(how):
    kept = Kept.weights
    kept.clear()

    def optimizer(params, lr):
        made = SGD(params, lr)
        kept.append(weakref.ref(made))
        return made

    options = dict(KEEPS[how])
    model = luz.setup(Kept, options.pop("loss", nn.MSELoss()), optimizer)
    gc.collect()
    gc.disable()  # by reference count alone
    try:
        model.lr_finder((X, Y), 20, verbose=False, **options)
        assert [reference() for reference in kept] == [None] * len(kept)
        assert len(kept) >= 2
    finally:
        gc.enable()


FIRST_CALL = """
import gc, sys, weakref
import torch
import luzpy as luz

x = torch.randn(64, 4)
kept = []

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        kept.append(weakref.ref(self.weight))

model = luz.setup(Net, torch.nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
gc.collect()
gc.disable()
getattr(model, sys.argv[1])((x, x), verbose=False)
print([reference() for reference in kept])
"""


@pytest.mark.parametrize("verb", ["lr_finder", "fit"])
def test_the_first_call_of_a_process_keeps_no_model_either(verb):
    # torch imports a part of itself when the first optimizer is made.
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL, verb], capture_output=True, text=True, check=False
    )
    assert done.stdout in ("[None]\n", "[None, None]\n"), done.stderr  # one model a pass
