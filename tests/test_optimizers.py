"""Optimizers that need more than a `step`: each beside the loop that one writes by hand."""

import math

import pytest
import torch
from models import Net, line
from torch import nn

import luzpy as luz

X, Y = line(64, 4)
OPTIONS = {"batch_size": 16, "shuffle": False}


class Sharp(torch.optim.Optimizer):
    """Sharpness-aware minimisation, which climbs before it asks for a second gradient."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def climb(self):
        params = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        self.before = [p.clone() for p in params]
        for p in params:
            p.add_(p.grad, alpha=self.param_groups[0]["rho"] / float(norm + 1e-12))
        self.zero_grad()

    @torch.no_grad()
    def descend(self):
        params = [p for group in self.param_groups for p in group["params"]]
        for p, before in zip(params, self.before, strict=True):
            p.copy_(before)
        self.base.step()


class SAM(Sharp):
    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "SAM requires a closure"
        self.climb()
        torch.enable_grad()(closure)()
        self.descend()


class SharpnessAware(Sharp):
    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        self.climb()
        with torch.enable_grad():
            closure()
        self.descend()
        return loss


class Plain:
    """An optimizer that derives from no class of torch's."""

    def __init__(self, params, lr=0.1):
        self.param_groups = [{"params": list(params), "lr": lr}]
        self.steps = 0

    def step(self):
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-group["lr"])

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def state_dict(self):
        groups = [{"lr": group["lr"], "params": []} for group in self.param_groups]
        return {"steps": self.steps, "param_groups": groups}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def spec(optimizer, module=Net, loss=None, **opt_hparams):
    model = luz.setup(module, loss or nn.MSELoss(), optimizer, seed=3)
    return model.set_opt_hparams(**opt_hparams)


def fitted(model, epochs=3, **options):
    torch.manual_seed(11)
    return model.fit((X, Y), epochs=epochs, verbose=False, dataloader_options=OPTIONS, **options)


def batches():
    torch.empty((), dtype=torch.int64).random_()  # the DataLoader's own draw
    return zip(X.split(16), Y.split(16), strict=True)


def by_hand(model, make, step, epochs=3):
    """The weights, and the mean loss of each epoch, of a loop written by hand."""
    net = model()
    optimizer = make(net.parameters())
    loss_fn = nn.MSELoss()
    torch.manual_seed(11)
    means = []
    for _ in range(epochs):
        net.train()
        losses = [step(net, optimizer, loss_fn, x, y) for x, y in batches()]
        means.append(sum(losses) / len(losses))
    return net, means


def with_closure(net, optimizer, loss_fn, x, y):
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = loss_fn(net(x), y)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    return losses[0]


def gradient_then_closure(net, optimizer, loss_fn, x, y):
    def closure():
        loss = loss_fn(net(x), y)
        loss.backward()
        return loss

    loss = closure()
    optimizer.step(closure)
    optimizer.zero_grad()
    return float(loss.detach())


def same_weights(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


CLOSURES = {
    "LBFGS": (torch.optim.LBFGS, {"lr": 0.1, "max_iter": 4}, with_closure),
    "LBFGS with a line search": (
        torch.optim.LBFGS,
        {"max_iter": 5, "line_search_fn": "strong_wolfe"},
        with_closure,
    ),
    "SAM": (SAM, {"base": torch.optim.SGD, "lr": 0.05, "momentum": 0.9}, gradient_then_closure),
    "a closure without a default": (
        SharpnessAware,
        {"base": torch.optim.SGD, "lr": 0.05},
        with_closure,
    ),
}


@pytest.mark.parametrize("name", CLOSURES)
def test_an_optimizer_that_wants_a_closure_is_given_one(name):
    kind, options, step = CLOSURES[name]
    model = spec(kind, **options)
    net, means = by_hand(model, lambda params: kind(params, **options), step)
    run = fitted(model)
    assert same_weights(run.model, net)
    losses = run.get_metrics()["value"].tolist()
    assert losses == pytest.approx(means, rel=1e-6)


def test_hooks_are_called_once_a_batch_however_often_the_closure_is():
    calls = dict.fromkeys(
        ("after_pred", "after_loss", "before_backward", "before_step", "after_step", "end"), 0
    )

    def count(name):
        def hook(ctx):
            calls[name] += 1

        return hook

    hooks = {f"on_train_batch_{name}": count(name) for name in calls}
    fitted(spec(torch.optim.LBFGS, max_iter=5), callbacks=luz.Callback.from_functions(**hooks))
    assert set(calls.values()) == {12}


def test_every_gradient_of_a_closure_is_clipped():
    norms = []

    class Watched(SAM):
        def descend(self):
            params = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.stack([g.norm() for g in params]).norm()))
            super().descend()

    model = spec(Watched, base=torch.optim.SGD, lr=0.05)
    fitted(model, callbacks=luz.callbacks.GradientClip(max_norm=0.01))
    assert max(norms) <= 0.01 * (1 + 1e-4)


def test_batches_are_not_accumulated_for_a_closure():
    with pytest.raises(ValueError, match="`accumulate` must be 1, got 2: LBFGS"):
        fitted(spec(torch.optim.LBFGS), accelerator=luz.Accelerator(cpu=True, accumulate=2))


def test_the_finder_varies_the_rate_of_an_optimizer_with_a_closure():
    records = spec(torch.optim.LBFGS, max_iter=2).lr_finder(
        (X, Y), steps=5, start_lr=1e-4, end_lr=1e-2, verbose=False
    )
    assert len(records) == 5


def test_an_optimizer_of_no_class_of_torchs():
    model = spec(Plain, lr=0.05)

    def step(net, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(net(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    net, means = by_hand(model, lambda params: Plain(params, lr=0.05), step)
    run = fitted(model)
    assert same_weights(run.model, net)
    assert run.get_metrics()["value"].tolist() == pytest.approx(means, rel=1e-6)


def test_the_finder_varies_an_optimizer_of_no_class_of_torchs():
    seen = []

    class Noted(Plain):
        def step(self):
            seen.append(self.param_groups[0]["lr"])
            super().step()

    records = spec(Noted).lr_finder((X, Y), steps=4, start_lr=1e-4, end_lr=1e-2, verbose=False)
    assert records["lr"].tolist() == seen
    assert len(seen) == 4


def test_an_optimizer_of_no_class_of_torchs_goes_on_after_a_kill(tmp_path):
    class Killed(Exception):
        pass

    def kill(ctx):
        if ctx.epoch == 2:
            raise Killed

    path = tmp_path / "state.pt"
    model = spec(Plain, lr=0.05)
    whole = fitted(model)
    with pytest.raises(Killed):
        fitted(
            model,
            callbacks=[
                luz.callbacks.AutoResume(path),
                luz.Callback.from_functions(on_train_end=kill),
            ],
        )
    assert same_weights(fitted(model, callbacks=luz.callbacks.AutoResume(path)).model, whole.model)


def test_what_lacks_a_part_of_the_interface_is_refused():
    class Half:
        def __init__(self, params):
            self.param_groups = [{"params": list(params)}]

        def step(self):
            pass

    with pytest.raises(TypeError, match=r"`optimizer` must make an optimizer.*lacks zero_grad"):
        fitted(spec(Half))


# Several at once ------------------------------------------------------------------------------


class Together(Net):
    """Matrices with one optimizer, vectors with another: one loss for both."""

    def set_optimizers(self, lr=0.05):
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        return (
            torch.optim.SGD(matrices, lr=lr, momentum=0.9),
            torch.optim.AdamW(vectors, lr=lr / 10),
        )


def test_optimizers_in_a_tuple_step_on_one_loss():
    forward = []

    class Counting(Together):
        def forward(self, x):
            forward.append(len(x))
            return super().forward(x)

    model = luz.setup(Counting, nn.MSELoss(), seed=3).set_opt_hparams(lr=0.02)
    net = model()
    optimizers = net.set_optimizers(lr=0.02)
    torch.manual_seed(11)
    losses = []
    for _ in range(3):
        for x, y in batches():
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = nn.MSELoss()(net(x), y)
            loss.backward()
            losses.append(float(loss.detach()))
            for optimizer in optimizers:
                optimizer.step()
    forward.clear()
    run = fitted(model)
    assert len(forward) == 3 * 4
    assert same_weights(run.model, net)
    frame = run.get_metrics()
    assert frame["metric"].unique().tolist() == ["loss"]
    assert frame["value"].tolist() == pytest.approx(
        [sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)], rel=1e-6
    )
    forward.clear()
    assert run.evaluate((X, Y), dataloader_options={"batch_size": 32}).get_metrics()[
        "metric"
    ].tolist() == ["loss"]
    assert len(forward) == 2


def test_optimizers_in_a_tuple_have_names_for_schedules_and_the_finder():
    model = luz.setup(Together, nn.MSELoss(), seed=3)
    names = []
    fitted(
        model,
        epochs=1,
        callbacks=[
            luz.Callback.from_functions(on_fit_begin=lambda ctx: names.extend(ctx.optimizers)),
            luz.callbacks.LRScheduler(
                torch.optim.lr_scheduler.StepLR, step_size=1, opt_name="opt_2"
            ),
        ],
    )
    assert names == ["opt_1", "opt_2"]
    records = model.lr_finder((X, Y), steps=4, opt_name="opt_1", verbose=False)
    assert len(records) == 4


def test_of_optimizers_in_a_tuple_none_is_the_one_at_hand():
    def ask(ctx):
        ctx.opt  # noqa: B018

    model = luz.setup(Together, nn.MSELoss(), seed=3)
    with pytest.raises(AttributeError, match=r"use one of `ctx.optimizers` \('opt_1', 'opt_2'\)"):
        fitted(model, callbacks=luz.Callback.from_functions(on_train_batch_before_step=ask))


def test_optimizers_in_a_tuple_accumulate():
    options = {"accelerator": luz.Accelerator(cpu=True, accumulate=2)}
    run = fitted(luz.setup(nn.Linear(4, 1), nn.MSELoss(), torch.optim.SGD), epochs=1, **options)
    assert run.stopped == "completed"

    class Line(nn.Linear):
        def set_optimizers(self, lr=0.05):
            return (
                torch.optim.SGD([self.weight], lr=lr),
                torch.optim.SGD([self.bias], lr=lr),
            )

    base = nn.Linear(4, 1)
    line = Line(4, 1)
    line.load_state_dict(base.state_dict())
    one = luz.setup(base, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.05)
    together = fitted(luz.setup(line, nn.MSELoss()), **options)
    assert same_weights(together.model, fitted(one, **options).model)


# Schedule-free --------------------------------------------------------------------------------


def test_schedule_free_optimizers_are_put_in_their_modes():
    schedulefree = pytest.importorskip("schedulefree")
    model = luz.setup(lambda: nn.Linear(4, 1), nn.MSELoss(), schedulefree.AdamWScheduleFree, seed=3)
    model = model.set_opt_hparams(lr=0.05, warmup_steps=3)
    net = model()
    optimizer = schedulefree.AdamWScheduleFree(net.parameters(), lr=0.05, warmup_steps=3)
    torch.manual_seed(11)
    valid_losses = []
    for _ in range(3):
        net.train()
        optimizer.train()
        for x, y in batches():
            optimizer.zero_grad()
            nn.MSELoss()(net(x), y).backward()
            optimizer.step()
        net.eval()
        optimizer.eval()
        with torch.no_grad():
            valid_losses.append(float(nn.MSELoss()(net(X), Y)))
    run = fitted(model, valid_data=(X, Y))
    assert same_weights(run.model, net)
    frame = run.get_metrics()
    valid = frame[frame["set"] == "valid"]["value"].tolist()
    assert valid == pytest.approx(valid_losses, rel=1e-6)
    assert same_weights(fitted(model).model, net)  # without validation


def test_schedule_free_weights_in_files_are_those_of_evaluation(tmp_path):
    schedulefree = pytest.importorskip("schedulefree")
    model = luz.setup(lambda: nn.Linear(4, 1), nn.MSELoss(), schedulefree.SGDScheduleFree, seed=3)
    model = model.set_opt_hparams(lr=0.05)
    run = fitted(model, callbacks=luz.callbacks.ModelCheckpoint(tmp_path / "last.pt", "train_loss"))
    other = fitted(model, epochs=1)
    luz.load_checkpoint(other, tmp_path / "last.pt")
    assert same_weights(run.model, other.model)
    # A run that is stopped within an epoch ends with them, too.
    stop = luz.Callback.from_functions(
        on_train_batch_end=lambda ctx: ctx.stop("enough") if ctx.iter == 2 else None
    )
    stopped = fitted(model, callbacks=stop)
    net = model()
    optimizer = schedulefree.SGDScheduleFree(net.parameters(), lr=0.05)
    optimizer.train()
    for x, y in list(batches())[:2]:
        optimizer.zero_grad()
        nn.MSELoss()(net(x), y).backward()
        optimizer.step()
    optimizer.eval()
    assert same_weights(stopped.model, net)


def test_a_schedule_free_model_is_trained_further_as_if_it_had_not_ended():
    schedulefree = pytest.importorskip("schedulefree")
    model = luz.setup(lambda: nn.Linear(4, 1), nn.MSELoss(), schedulefree.AdamWScheduleFree, seed=3)
    model = model.set_opt_hparams(lr=0.05, warmup_steps=3)
    whole = fitted(model, epochs=4)
    further = fitted(fitted(model, epochs=2), epochs=2)
    assert same_weights(further.model, whole.model)


def test_an_optimizer_of_no_class_of_torchs_goes_on_in_a_further_fit(tmp_path):
    counts = []

    class Counting(Plain):
        def step(self):
            super().step()
            counts.append(self.steps)

    luz.save(fitted(spec(Counting, lr=0.05), epochs=2), tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=spec(Counting, lr=0.05))
    fitted(loaded, epochs=1)
    assert counts == list(range(1, 13))


@pytest.mark.parametrize("every_n_batches", [None, 3])
def test_a_schedule_free_run_that_was_killed_ends_bit_for_bit(tmp_path, every_n_batches):
    schedulefree = pytest.importorskip("schedulefree")
    model = luz.setup(Net, nn.MSELoss(), schedulefree.AdamWScheduleFree, seed=3)
    model = model.set_opt_hparams(lr=0.05)
    whole = fitted(model, valid_data=(X, Y))

    class Killed(Exception):
        pass

    def kill(ctx):
        if ctx.epoch == 2 and ctx.iter == 4:
            raise Killed

    def callbacks(*more):
        path = tmp_path / "state.pt"
        return [luz.callbacks.AutoResume(path, every_n_batches=every_n_batches), *more]

    with pytest.raises(Killed):
        fitted(
            model,
            valid_data=(X, Y),
            callbacks=callbacks(luz.Callback.from_functions(on_train_batch_begin=kill)),
        )
    again = fitted(model, valid_data=(X, Y), callbacks=callbacks())
    assert same_weights(again.model, whole.model)
    assert again.get_metrics().equals(whole.get_metrics())


def test_a_finder_that_validates_leaves_schedule_free_weights_as_they_are():
    schedulefree = pytest.importorskip("schedulefree")
    model = luz.setup(lambda: nn.Linear(4, 1), nn.MSELoss(), schedulefree.SGDScheduleFree, seed=3)
    options = {"steps": 8, "start_lr": 1e-3, "end_lr": 1e-1, "verbose": False}
    torch.manual_seed(11)
    alone = model.lr_finder((X, Y), **options)
    torch.manual_seed(11)
    validated = model.lr_finder((X, Y), valid_data=(X, Y), **options)
    assert validated["loss"].tolist() == alone["loss"].tolist()
    # The validation loss is that of the weights for evaluation.
    assert math.isfinite(validated["valid_loss"].iloc[-1])


# Nothing steps --------------------------------------------------------------------------------


def test_the_finder_fails_at_the_first_batch_when_nothing_steps():
    batches_seen = []

    class Elsewhere(nn.Linear):
        """It trains by an optimizer that luzpy does not know of."""

        def __init__(self):
            super().__init__(4, 1)
            object.__setattr__(self, "own", torch.optim.SGD(self.parameters(), lr=0.1))

        def step(self):
            batches_seen.append(self.ctx.iter)
            loss = nn.functional.mse_loss(self(self.ctx.input), self.ctx.target)
            if self.ctx.training:
                loss.backward()
                self.own.step()
                self.own.zero_grad()
            self.ctx.loss = loss.detach()

    model = luz.setup(Elsewhere, optimizer=torch.optim.SGD)
    with pytest.raises(luz.LuzError, match="must step the optimizer"):
        model.lr_finder((X, Y), steps=5, verbose=False)
    assert len(batches_seen) == 1


def test_an_own_step_may_gather_gradients_over_many_batches():
    class Gathering(nn.Linear):
        def __init__(self):
            super().__init__(4, 1)
            self.batches = 0

        def step(self):
            ctx = self.ctx
            loss = nn.functional.mse_loss(self(ctx.input), ctx.target)
            loss.backward()
            self.batches += 1
            if self.batches % 20 == 0:
                ctx.opt.step()
                ctx.opt.zero_grad()
            ctx.loss = loss.detach()

    model = luz.setup(Gathering, optimizer=torch.optim.SGD)
    assert len(model.lr_finder((X, Y), steps=3, verbose=False)) == 3
