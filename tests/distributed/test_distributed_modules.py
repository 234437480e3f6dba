"""What modules may be."""

import pytest
import torch
from scenarios import (
    RANK,
    NetWithLoss,
    check_same,
    fit,
    net,
    options,
    outcome,
    place,
    rows,
    scenario,
    setup,
    training,
)
from torch import nn

import luzpy as luz

pytestmark = pytest.mark.slow


@training("one two")
def own_loss():
    model = setup(NetWithLoss, loss=None)
    return outcome(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


class OwnStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def step(self):
        ctx = self.ctx
        ctx.pred = self(ctx.input)
        loss = nn.functional.mse_loss(ctx.pred, ctx.target)
        if ctx.training:
            optimizer = ctx.optimizers["opt"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ctx.loss = {"opt": loss.detach()}


@training("one two three")
def own_step():
    model = setup(OwnStep, loss=None)
    return outcome(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker, self.judge = net(), nn.Linear(4, 1)

    def set_optimizers(self, lr):
        return {
            "maker": torch.optim.SGD(self.maker.parameters(), lr),
            "judge": torch.optim.Adam(self.judge.parameters(), lr),
        }

    def forward(self, x):
        return x, self.maker(x)

    def loss(self, input, target):
        x, made = input
        like = nn.functional.softplus
        if self.ctx.opt_name == "maker":
            return like(-self.judge(torch.cat((x, made), 1))).mean()
        true = like(-self.judge(torch.cat((x, target), 1))).mean()
        return true + like(self.judge(torch.cat((x, made.detach()), 1))).mean()


@training("one two three")
def two_optimizers():
    model = setup(Gan, None, loss=None, lr=0.05)
    return outcome(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


@scenario("one two")
def accumulation_refused():
    said = []
    for module in (OwnStep, Gan):
        model = setup(module, None if module is Gan else torch.optim.SGD, loss=None)
        try:
            fit(rows(), model, accelerator=place(accumulate=2))
        except ValueError as err:
            said.append(str(err))
    return {"said": said}


@pytest.mark.parametrize("name", ["own_step", "two_optimizers"])
def test_accumulation_needs_luzpys_own_step_and_one_optimizer(ranks, name):
    for found in ranks(accumulation_refused, "one", "two"):
        own_step, several = found["said"]
        said = own_step if name == "own_step" else several
        reason = "own `step`" if name == "own_step" else "2 optimizers"
        assert said.startswith("`accumulate` must be 1, got 2: ")
        assert reason in said


class OverRows(NetWithLoss):
    """A loss that counts its rows itself."""

    def loss(self, input, target):
        return (input - target).square().sum() / len(target)


@training("one two three")
def loss_over_rows():
    model = setup(OverRows, loss=None)
    return outcome(fit(rows(), model, valid=0.2, loader=options(drop_last=False)))


class WithExtraState(NetWithLoss):
    def get_extra_state(self):
        return {"kind": "of a user's own", "sizes": [1, 2]}

    def set_extra_state(self, state):
        assert state["sizes"] == [1, 2]


@training("one two")
def extra_state():
    model = setup(WithExtraState, loss=None)
    return outcome(fit(rows(), model, 1, loader=options()))


class Wide(NetWithLoss):
    """Parameters of two dtypes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return (self.net(x) * self.scale).float()


@training("one two")
def two_dtypes():
    model = setup(Wide, loss=None)
    return outcome(fit(rows(), model, loader=options()))


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 1)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


@training("one two")
def frozen():
    fitted = fit(rows(), setup(TwoParts), loader=options())
    return outcome(fitted, body=fitted.model.body.weight.detach())


@training("one two")
def unfrozen():
    """Parts that are trained from the second epoch on."""

    def thaw(ctx):
        if ctx.epoch == 2:
            for parameter in ctx.model.parameters():
                parameter.requires_grad_(True)

    callback = luz.Callback.from_functions(on_epoch_begin=thaw)
    return outcome(fit(rows(), setup(TwoParts), 3, callbacks=callback, loader=options()))


def test_a_part_that_is_thawed_later_is_trained(ranks):
    still = ranks(frozen, "two")[0]["body"].flatten().double()
    for found in ranks(unfrozen, "two"):
        moved = found["weights"][: still.numel()]
        assert not torch.allclose(moved, still)


class Stranger(nn.Module):
    """A parameter that is optimized, but is not the model's."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.outside = [nn.Parameter(torch.ones(1))]

    def set_optimizers(self, lr):
        return torch.optim.SGD([*self.parameters(), *self.outside], lr)

    def forward(self, x):
        return self.net(x) * self.outside[0]


@training("one two three")
def stranger():
    model = setup(Stranger, None, lr=0.02)
    fitted = fit(rows(), model, loader=options(drop_last=False))
    return outcome(fitted, outside=fitted.model.outside[0].detach())


@scenario("two three", agree="weights")
def dropout():
    def noisy():
        return nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 1))

    masks = []

    def look(ctx):
        inner = getattr(ctx.model, "module", ctx.model)
        inner[1].register_forward_hook(lambda m, args, out: masks.append(out == 0))

    callback = luz.Callback.from_functions(on_fit_begin=look)
    fitted = fit(rows(), setup(noisy), 1, callbacks=callback, loader=options())
    return outcome(fitted, masks=torch.stack(masks[:5]))


@pytest.mark.parametrize("run", ["two", "three"])
def test_dropout_falls_on_other_units_on_each_rank(ranks, run):
    first, second = (found["masks"] for found in ranks(dropout, run)[:2])
    assert 0.4 < first.float().mean() < 0.6
    assert not torch.equal(first, second)


@scenario("two", agree="weights")
def batch_norm():
    """Statistics are each rank's own while it trains; what is validated and returned is one."""

    def normed():
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    return outcome(fit(rows(), setup(normed), 1, loader=options()))


@scenario("two", agree="weights")
def batch_norm_own_loss():
    class Normed(NetWithLoss):
        def __init__(self):
            super().__init__()
            self.net.insert(1, nn.BatchNorm1d(8))

    model = setup(Normed, loss=None)
    return outcome(fit(rows(), model, 1, loader=options()))


@scenario("one two")
def sync_batch_norm():
    def normed():
        plain = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        return nn.SyncBatchNorm.convert_sync_batchnorm(plain)

    try:
        return outcome(fit(rows(), setup(normed), loader=options()))
    except ValueError as err:  # torch has it for GPUs only
        return {"refused": str(err)}


def test_sync_batch_norm_is_that_of_one_process(ranks):
    expected = ranks(sync_batch_norm, "one")[0]
    for found in ranks(sync_batch_norm, "two"):
        if "refused" in found:
            pytest.skip(f"torch: {found['refused']}")
        check_same(found, expected, rtol=1e-4, atol=1e-5)


class Searching(NetWithLoss):
    """An optimizer that evaluates the loss as often as it likes."""

    def step(self):
        def closure():
            optimizer.zero_grad()
            loss = self.loss(self(self.ctx.input), self.ctx.target)
            loss.backward()
            return loss

        optimizer = self.ctx.optimizers["opt"]
        self.ctx.loss = optimizer.step(closure).detach()


@scenario("one two")
def closure_refused():
    model = setup(Searching, torch.optim.LBFGS, loss=None)
    try:
        return {"said": "", "stopped": fit(rows(), model, 1, loader=options()).stopped}
    except luz.LuzError as err:
        return {"said": str(err)}


def test_a_step_with_a_closure_is_refused_on_several_ranks(ranks):
    assert ranks(closure_refused, "one")[0] == {"said": "", "stopped": "completed"}
    for found in ranks(closure_refused, "two"):
        assert "without a closure" in found["said"]


@scenario("two")
def unused_parameter():
    """DistributedDataParallel's own rule: every parameter takes part in every step."""

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return self.used(x)

    try:
        return outcome(fit(rows(), setup(Unused), loader=options())) | {"said": ""}
    except Exception as err:
        return {"said": f"{type(err).__name__}: {err}"}


def test_an_unused_parameter_is_an_error_that_says_so(ranks):
    for found in ranks(unused_parameter, "two"):
        assert "find_unused_parameters" in found["said"]


@scenario("one two")
def each_alone():
    """`distributed=False`: every process trains by itself, on what it has."""
    alone = luz.Accelerator(cpu=True, distributed=False)
    torch.manual_seed(RANK)
    model = setup(seed=RANK)
    fitted = model.fit(rows(), 1, accelerator=alone, verbose=False)
    return outcome(fitted)


def test_each_rank_may_train_alone(ranks):
    first, second = ranks(each_alone, "two")
    check_same(first, ranks(each_alone, "one")[0], rtol=0, atol=0)
    assert not torch.equal(first["weights"], second["weights"])
