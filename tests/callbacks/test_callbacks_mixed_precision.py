"""Mixed precision against loops written by hand with torch's own autocast and scaler."""

import pickle

import pytest
import torch
from models import line
from torch import nn

import luzpy as luz
from luzpy.callbacks.gradient_clip import GradientClip
from luzpy.callbacks.mixed_precision import MixedPrecision
from luzpy.resume.auto_resume import AutoResume

SEED = 3
CPU = luz.Accelerator(cpu=True)
SCALED = {"dtype": torch.float16, "init_scale": 64.0}
TOO_LARGE = {"dtype": torch.float16, "init_scale": 2.0**40}  # float16 ends at 65504


def data(rows=32):
    return line(rows, 4, seed=0)


class Net(nn.Module):
    """Two parts, with an optimizer for each if asked for."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.second(self.first(x).relu())


class TwoOptimizers(Net):
    def set_optimizers(self, lr=0.1):
        return {
            "first": torch.optim.SGD(self.first.parameters(), lr=lr),
            "second": torch.optim.SGD(self.second.parameters(), lr=lr),
        }


def spec(module=Net, **options):
    model = luz.setup(module, loss=nn.MSELoss(), seed=SEED, **options)
    return model.set_opt_hparams(lr=0.1)


def single(module=Net, **options):
    return spec(module, optimizer=torch.optim.SGD, **options)


def fit(model, callbacks, epochs=1, valid_data=None, batch_size=8):
    options = {"batch_size": batch_size, "shuffle": False}
    return model.fit(
        data(), epochs, callbacks, valid_data, CPU, verbose=False, dataloader_options=options
    )


def hand_fit(dtype, scale, max_norm=None, epochs=1):
    net = spec(Net, optimizer=torch.optim.SGD)()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=dtype == torch.float16)
    x, y = data()
    for _ in range(epochs):
        for rows in range(0, 32, 8):
            opt.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = nn.functional.mse_loss(net(x[rows : rows + 8]), y[rows : rows + 8])
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            if max_norm is not None:
                nn.utils.clip_grad_norm_(net.parameters(), max_norm)
            scaler.step(opt)
            scaler.update()
    return net


class Fails(Exception):
    pass


def fail(*_):
    raise Fails


def assert_same_weights(model, other):
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def at(**hooks):
    return luz.Callback.from_functions(**hooks)


# R: test-callbacks-amp.R, "Can use mixed precision callback"
@pytest.mark.parametrize(
    "model", [single(), spec(TwoOptimizers)], ids=["one optimizer", "two optimizers"]
)
def test_autocast_encloses_forward_and_loss_only(model):
    seen = {}
    x = torch.randn(3, 3)

    def look(hook):
        return lambda ctx: seen.setdefault(hook, set()).add((x @ x).dtype)

    hooks = [
        "on_train_batch_begin",
        "on_train_batch_after_pred",
        "on_train_batch_after_loss",
        "on_train_batch_before_backward",
        "on_train_batch_end",
        "on_valid_batch_begin",
        "on_valid_batch_after_pred",
        "on_valid_batch_after_loss",
        "on_valid_batch_end",
        "on_fit_end",
    ]
    replaced = []
    fit(
        model,
        [
            MixedPrecision(),
            at(**{hook: look(hook) for hook in hooks}),
            at(on_fit_begin=lambda ctx: replaced.append(hasattr(ctx.step_opt, "__self__"))),
        ],
        valid_data=data(),
    )
    inside = {"on_train_batch_after_pred", "on_valid_batch_after_pred"}
    expected = {h: {torch.bfloat16 if h in inside else torch.float32} for h in hooks}
    assert seen == expected
    assert replaced == [True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_weights_are_those_of_a_loop_by_hand(dtype, max_norm):
    # R luz clips gradients that are still scaled, which this would show.
    options = {} if dtype == torch.bfloat16 else SCALED
    callbacks = [] if max_norm is None else [GradientClip(max_norm)]
    fitted = fit(single(), [*callbacks, MixedPrecision(**options)], epochs=3)
    assert_same_weights(fitted.model, hand_fit(dtype, 64.0, max_norm, epochs=3))


def test_recorded_loss_is_unscaled():
    fitted = fit(single(), [MixedPrecision(**SCALED)], batch_size=32)
    net, (x, y) = single()(), data()
    with torch.autocast("cpu", dtype=torch.float16), torch.no_grad():
        expected = nn.functional.mse_loss(net(x), y).item()
    assert fitted.records["metrics"]["train"][0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_gradients_of_other_optimizers_are_unscaled_too():
    differences = []

    def compare(ctx):
        with torch.enable_grad(), torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.mse_loss(ctx.model(ctx.input), ctx.target)
            expected = torch.autograd.grad(loss, list(ctx.model.parameters()))
        for parameter, gradient in zip(ctx.model.parameters(), expected, strict=True):
            differences.append((parameter.grad - gradient).abs().max() / gradient.abs().max())

    fit(spec(TwoOptimizers), [at(on_train_batch_before_step=compare), MixedPrecision(**SCALED)])
    assert len(differences) == 4 * 2 * 4  # batches, optimizers, parameters
    assert max(differences) < 0.01


@pytest.mark.parametrize("model", [single(), spec(TwoOptimizers)], ids=["one", "two"])
def test_a_step_with_infinite_gradients_is_skipped(model):
    callback = MixedPrecision(**TOO_LARGE)
    fitted = fit(model, [callback, GradientClip(1)], batch_size=32)
    assert_same_weights(fitted.model, model())
    steps = len(model.module().set_optimizers()) if model.optimizer is None else 1
    assert callback.state_dict()["scale"] == 2.0**40 * 0.5**steps


def test_parameters_outside_the_model_are_unscaled_too():
    extra = nn.Parameter(torch.zeros(1))

    def optimizer(params, lr):
        return torch.optim.SGD([*params, extra], lr=lr)

    def loss(input, target):
        return (input + extra).mean()  # its gradient by `extra` is 1

    model = luz.setup(Net, loss, optimizer, seed=SEED).set_opt_hparams(lr=0.25)
    fit(model, [MixedPrecision(**SCALED)], batch_size=32)
    assert extra.item() == -0.25


def test_another_callbacks_way_of_stepping_is_kept():
    stepped = []

    def step(opt):
        stepped.append(opt)
        opt.step()

    first = luz.Callback.from_functions(
        weight=float("-inf"), on_fit_begin=lambda ctx: setattr(ctx, "step_opt", step)
    )
    fitted = fit(single(), [first, MixedPrecision()])
    assert len(stepped) == 4
    assert_same_weights(fitted.model, hand_fit(torch.bfloat16, 1.0))


def test_scaler_goes_on_from_a_checkpoint():
    begun = MixedPrecision(dtype=torch.float16, init_scale=256.0, growth_interval=2)
    fit(single(), [begun])  # 4 steps: grown twice
    state = begun.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (1024.0, 0)
    resumed = MixedPrecision(dtype=torch.float16, init_scale=2.0, growth_interval=2)
    restore = luz.Callback.from_functions(
        weight=float("inf"), on_fit_begin=lambda ctx: resumed.load_state_dict(state)
    )
    fit(single(), [resumed, restore])
    assert resumed.state_dict()["scale"] == 4096.0


def test_a_run_that_failed_and_goes_on_ends_as_an_unbroken_one(tmp_path):
    def run(fails):
        def fail(ctx):
            if fails and ctx.epoch == 2:
                raise Fails

        # The scale grows at every third step: within epochs, not at their ends.
        callback = MixedPrecision(dtype=torch.float16, init_scale=8.0, growth_interval=3)
        resume = AutoResume(tmp_path / "state.pt")
        fitted = fit(single(), [callback, resume, at(on_train_begin=fail)], epochs=3)
        return fitted.model, callback.state_dict()

    unbroken, state = run(fails=False)
    with pytest.raises(Fails):
        run(fails=True)
    resumed, resumed_state = run(fails=False)
    assert_same_weights(resumed, unbroken)
    assert resumed_state == state
    assert state["scale"] == 8.0 * 2**4  # 12 steps


def test_bfloat16_has_no_state():
    callback = MixedPrecision()
    fit(single(), [callback])
    assert callback.state_dict() == {}
    callback.load_state_dict({})


def test_an_instance_starts_afresh_in_every_run_and_pickles_after():
    callback = MixedPrecision(dtype=torch.float16, init_scale=256.0, growth_interval=2)
    for _ in range(2):
        fit(single(), [callback])
        assert callback.state_dict()["scale"] == 1024.0
    assert pickle.loads(pickle.dumps(callback)).state_dict()["scale"] == 1024.0


@pytest.mark.parametrize(
    ("model", "callbacks"),
    [
        (luz.setup(Net, fail, torch.optim.SGD).set_opt_hparams(lr=0.1), []),
        (single(), [at(on_train_batch_after_pred=fail)]),
        (single(), [at(on_train_batch_before_step=fail)]),
    ],
    ids=["the loss", "a callback inside", "a callback outside"],
)
def test_autocast_is_left_when_something_raises(model, callbacks):
    with pytest.raises(Fails):
        fit(model, [MixedPrecision(), *callbacks])
    assert not torch.is_autocast_enabled("cpu")


def test_evaluate_and_predict_are_under_autocast():
    fitted, (x, y) = fit(single(), None), data()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        pred = fitted.model(x)
        loss = nn.functional.mse_loss(pred, y).item()
    options = {"dataloader_options": {"batch_size": 32}, "accelerator": CPU, "verbose": False}
    evaluation = fitted.evaluate((x, y), callbacks=[MixedPrecision()], **options)
    assert evaluation.records["metrics"]["valid"][0]["loss"] == pytest.approx(loss, rel=1e-6)
    predicted = fitted.predict(x, callbacks=[MixedPrecision()], **options)
    assert predicted.dtype == torch.float32
    assert torch.equal(predicted, pred.float())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_without_a_dtype_it_is_the_accelerators(precision):
    place = luz.Accelerator(cpu=True, mixed_precision=precision)
    found = []
    look = luz.Callback.from_functions(
        on_train_batch_after_pred=lambda ctx: found.append(ctx.pred.dtype)
    )
    single().fit(data(), 1, [MixedPrecision(), look], accelerator=place, verbose=False)
    assert set(found) == {place.dtype}


class FollowsTheProtocol(TwoOptimizers):
    """One backward pass, then both optimizers step."""

    def step(self):
        ctx = self.ctx
        with ctx.autocast():
            loss = nn.functional.mse_loss(self(ctx.input), ctx.target)
        ctx.loss = {"all": loss.detach()}
        if not ctx.training:
            return
        for opt in ctx.optimizers.values():
            opt.zero_grad()
        ctx.loss_grad = loss
        ctx.call("on_train_batch_before_backward")
        ctx.backward(ctx.loss_grad)
        ctx.call("on_train_batch_before_step")
        for opt in ctx.optimizers.values():
            ctx.step_opt(opt)


class StepsWithoutTheHook(FollowsTheProtocol):
    """As above, but leaves it to `step_opt` to unscale."""

    def step(self):
        ctx = self.ctx
        with ctx.autocast():
            ctx.loss_grad = nn.functional.mse_loss(self(ctx.input), ctx.target)
        ctx.loss = {"all": ctx.loss_grad.detach()}
        for opt in ctx.optimizers.values():
            opt.zero_grad()
        ctx.call("on_train_batch_before_backward")
        ctx.backward(ctx.loss_grad)
        for opt in ctx.optimizers.values():
            ctx.step_opt(opt)


@pytest.mark.parametrize("module", [FollowsTheProtocol, StepsWithoutTheHook])
def test_a_custom_step_is_scaled(module):
    fitted = fit(spec(module), [MixedPrecision(**SCALED)], epochs=2)
    assert_same_weights(fitted.model, hand_fit(torch.float16, 64.0, epochs=2))


@pytest.mark.parametrize("module", [FollowsTheProtocol, StepsWithoutTheHook])
def test_no_optimizer_of_a_custom_step_takes_infinite_gradients(module):
    fitted = fit(spec(module), [MixedPrecision(**TOO_LARGE)], batch_size=32)
    assert_same_weights(fitted.model, spec(module)())


class StepsInItsOwnWay(TwoOptimizers):
    def step(self):
        loss = nn.functional.mse_loss(self(self.ctx.input), self.ctx.target)
        self.zero_grad()
        loss.backward()
        self.ctx.loss = {"all": loss.detach()}
        for opt in self.ctx.optimizers.values():
            self.ctx.step_opt(opt)


def test_a_custom_step_of_its_own_way_trains_unscaled():
    fitted = fit(spec(StepsInItsOwnWay), [MixedPrecision(**SCALED)])
    plain = fit(single(), None)
    assert_same_weights(fitted.model, plain.model)


def test_the_finder_keeps_its_ladder():
    records = single().lr_finder(
        data(), steps=4, start_lr=1e-4, end_lr=1e-1, callbacks=[MixedPrecision(**SCALED)],
        accelerator=CPU, verbose=False, dataloader_options={"batch_size": 8},
    )  # fmt: skip
    assert records["lr"].tolist() == pytest.approx([1e-4 * 1000 ** (t / 4) for t in (1, 2, 3, 4)])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": torch.float32}, ValueError, "`dtype` must be torch.float16"),
        ({"initial_scale": 2.0}, TypeError, "initial_scale"),
    ],
)
def test_bad_options_are_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        MixedPrecision(**options)


@pytest.mark.gpu
def test_float16_with_a_scaler_on_cuda():
    callback, dtypes = MixedPrecision(), set()
    single().fit(
        data(), 1, [callback, at(on_train_batch_end=lambda ctx: dtypes.add(ctx.pred.dtype))],
        verbose=False,
    )  # fmt: skip
    assert dtypes == {torch.float16}
    assert callback.state_dict()["scale"] > 0
