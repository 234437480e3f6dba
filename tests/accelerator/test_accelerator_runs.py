"""Every verb on the accelerator gives what it gives on the CPU."""

import pytest
import torch
from comparison import IN_HALF, SEED, assert_same, devices, is_real, on_both, outcome
from models import Net, OwnLoss, Rows, TwoOptimizers, regression, unrelated
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz
from luzpy.ground.nested import to_cpu_copy
from luzpy.verbs.predict import concat

DATA = unrelated(200, 4)
VALID = unrelated(70, 4, seed=2)
METRICS = [luz.metrics.MAE(), luz.metrics.RMSE()]


class Deep(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


class OwnStep(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)

    def step(self):
        with self.ctx.autocast():
            self.ctx.pred = self(self.ctx.input)
            loss = self.ctx.loss_fn(self.ctx.pred, self.ctx.target)
        if self.ctx.training:
            self.ctx.opt.zero_grad()
            self.ctx.backward(loss)
            self.ctx.step_opt(self.ctx.opt)
        self.ctx.loss["opt"] = loss.detach()


def fit(
    accelerator, module=Deep, data=DATA, *, epochs=2, optimizer=torch.optim.SGD, lr=0.05, **options
):
    spec = regression(module, optimizer, METRICS, seed=4, lr=lr)
    return spec.fit(
        data, epochs, valid_data=VALID, accelerator=accelerator, verbose=False, **options
    )


def test_it_is_chosen_by_default(device):
    assert luz.Accelerator().device == device
    fitted = fit(None)
    assert devices(list(fitted.model.parameters())) == {device}


@pytest.mark.parametrize(
    "data",
    [
        DATA,
        TensorDataset(*DATA),
        Rows(*DATA),
        DataLoader(TensorDataset(*DATA), 32, shuffle=True),
        DataLoader(Rows(*DATA), 32, shuffle=True, num_workers=1),
        tuple(part.numpy() for part in DATA),
    ],
    ids=["memory", "dataset", "rows", "loader", "workers", "arrays"],
)
def test_fit(device, data):
    cpu, there = on_both(lambda accelerator: fit(accelerator, data=data))
    assert_same(outcome(cpu), outcome(there), device)
    assert devices(outcome(there)) == {device}


@pytest.mark.parametrize("module", [Deep, TwoOptimizers, OwnLoss, OwnStep])
def test_fit_of_modules_of_several_kinds(device, module):
    def run(accelerator):
        if module is TwoOptimizers:
            spec = luz.setup(lambda: TwoOptimizers(4, 1), nn.MSELoss(), metrics=METRICS, seed=4)
        elif module is OwnLoss:
            spec = luz.setup(lambda: OwnLoss(4, 1), optimizer=torch.optim.SGD, seed=4)
            spec = spec.set_opt_hparams(lr=0.1)
        else:
            spec = regression(module, seed=4)
        return spec.fit(DATA, 2, accelerator=accelerator, verbose=False)

    cpu, there = on_both(run)
    # The rest of an Adam over one tensor on a device is computed in another order.
    tolerance = 1e-5 if module is TwoOptimizers else None
    assert_same(outcome(cpu), outcome(there), device, tolerance)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_fit_of_convolutions(device, memory_format):
    images = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    target = torch.randint(3, (96,), generator=torch.Generator().manual_seed(1))

    def make():
        layers = nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(36, 3)),
        )
        return layers.to(memory_format=memory_format)

    spec = luz.setup(make, nn.CrossEntropyLoss(), torch.optim.SGD, [luz.metrics.Accuracy()], seed=1)
    spec = spec.set_opt_hparams(lr=0.1)
    cpu, there = on_both(
        lambda accelerator: spec.fit((images, target), 2, accelerator=accelerator, verbose=False)
    )
    assert_same(outcome(cpu), outcome(there), device, 1e-5)


def test_dropout_draws_from_the_device_and_can_be_repeated(device):
    first, second = (on_both(lambda a: fit(a, Net))[1] for _ in range(2))
    assert_same(outcome(first), outcome(second), device)


def test_evaluate_and_predict(device):
    fitted = fit(luz.Accelerator(cpu=True))

    def run(accelerator):
        evaluation = fitted.evaluate(VALID, accelerator=accelerator, verbose=False)
        prediction = fitted.predict(VALID[0], accelerator=accelerator, verbose=False)
        return evaluation.records["metrics"], prediction

    cpu, there = on_both(run)
    assert_same(cpu, there, device)
    assert there[1].device.type == "cpu"


class Outputs(nn.Module):
    """Predictions of many kinds, in memory that the next ones may be written to."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(4, 3), kind

    def forward(self, x):
        return self.layer(x)

    def predict(self, x):
        if not hasattr(self, "memory"):
            self.memory = torch.zeros(32, 3, device=x.device)
        out = self.memory[: len(x)].copy_(self.layer(x))
        if self.kind == "dict":
            return {"scores": out, "class": out.argmax(1), "none": None}
        if self.kind == "tuple":
            return out.T.T, (out > 0, out.sum().half())
        return [{"box": row, "on host": row.cpu()} for row in out]


@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize("kind", ["dict", "tuple", "rows"])
def test_predictions_of_many_kinds(device, kind, stack):
    spec = luz.setup(lambda: Outputs(kind), nn.MSELoss(), torch.optim.SGD, seed=4)
    target = torch.zeros(len(DATA[0]), 3)
    cpu = luz.Accelerator(cpu=True)
    fitted = spec.fit((DATA[0], target), 1, accelerator=cpu, verbose=False)

    def run(accelerator):
        vars(fitted.model).pop("memory", None)
        options = {"accelerator": accelerator, "verbose": False, "stack": stack}
        return fitted.predict(VALID[0], **options)

    there = on_both(run)[1]
    assert devices(there) == {torch.device("cpu")}
    module = fitted.model.to("cpu")
    vars(module).pop("memory", None)
    with torch.no_grad():
        expected = [to_cpu_copy(module.predict(x)) for x in VALID[0].split(32)]
    if stack:
        rows = kind == "rows"
        expected = [row for batch in expected for row in batch] if rows else concat(expected)
    assert_same(expected, there, device)


@pytest.mark.parametrize("options", [{}, {"valid_data": VALID}, {"runs": 3}, {"runs": 2}])
def test_lr_finder(device, options):
    module = (lambda: nn.Linear(4, 1)) if options == {"runs": 3} else Deep  # together, one by one

    def run(accelerator):
        records = regression(module, seed=4).lr_finder(
            DATA, 25, 1e-4, 1.0, accelerator=accelerator, verbose=False, **options
        )
        return {name: records[name].tolist() for name in records}

    cpu, there = on_both(run)
    tolerance = 1e-5 if "runs" in options else None
    assert_same(cpu, there, device, tolerance)


def test_runs_with_dropout_are_trained_together(device, capsys):
    """If their losses are those of each run alone: the device's generator is set back for each."""
    regression(Net, seed=4).lr_finder(DATA, 25, runs=2, verbose=True)
    assert "2 runs together" in capsys.readouterr().out


class OwnLosses(nn.Linear):
    """Its step tells some losses as numbers, some as tensors of the device."""

    def __init__(self):
        super().__init__(4, 1)

    def step(self):
        ctx = self.ctx
        ctx.pred = self(ctx.input)
        loss = ctx.loss_fn(ctx.pred, ctx.target)
        if ctx.training:
            ctx.opt.zero_grad()
            loss.backward()
            ctx.opt.step()
        ctx.loss = {"whole": loss.detach() if ctx.iter % 2 else loss.item(), "penalty": 0.5}


def test_losses_that_are_partly_on_the_host(device):
    def run(accelerator):
        return fit(accelerator, OwnLosses, callbacks=luz.callbacks.StopOnNaN())

    cpu, there = on_both(run)
    assert_same(outcome(cpu), outcome(there), device)


def test_accumulation(device):
    cpu, there = on_both(fit, accumulate=3)
    assert_same(outcome(cpu), outcome(there), device)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(device, precision):
    seen = set()

    def run(accelerator):
        look = luz.Callback.from_functions(
            on_train_batch_after_pred=lambda ctx: seen.add((ctx.device.type, ctx.pred.dtype))
        )
        return fit(accelerator, callbacks=look)

    cpu, there = on_both(run, mixed_precision=precision)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert seen == {("cpu", dtype), (device.type, dtype)}
    assert_same(outcome(cpu), outcome(there), device, IN_HALF if is_real(device) else None)


def test_a_second_device_by_its_name(device):
    if torch.accelerator.device_count() < 2:
        pytest.skip("there is one device")
    other = torch.device(device.type, 1)
    accelerator = luz.Accelerator(device=str(other))
    assert accelerator.device == other
    cpu, _ = on_both(lambda accelerator: fit(accelerator, data=Rows(*DATA)))
    torch.manual_seed(SEED)
    there = fit(accelerator, data=Rows(*DATA))
    assert devices(outcome(there)) == {other}
    assert torch.empty(0, device=device.type).device == device  # the current one is the first still
    assert_same(outcome(cpu), outcome(there), device)


def test_devices_that_are_not_there(device):
    names = [f"{device.type}:{i}" for i in range(torch.accelerator.device_count())]
    absent = f"{device.type}:{len(names)}"
    for name in (absent, "hpu:0", "meta", "nonsense"):
        with pytest.raises(
            ValueError, match=rf"`device` must be one of {', '.join(names)}, cpu, got '{name}'"
        ):
            luz.Accelerator(device=name)
    assert luz.Accelerator(device=device.type).device == device
    assert luz.Accelerator(device="cpu").device == torch.device("cpu")


def test_without_placement_batches_follow_the_model(device):
    accelerator = luz.Accelerator(device_placement=False)
    cpu = fit(accelerator)
    assert devices(outcome(cpu)) == {torch.device("cpu")}
    there = fit(accelerator, lambda: Deep().to(device))
    assert devices(outcome(there)) == {device}


def test_an_optimizer_that_asks_for_the_loss_again(device):
    def run(accelerator):
        return fit(accelerator, optimizer=torch.optim.LBFGS, lr=1e-3)

    try:
        cpu, there = on_both(run)
    except TypeError as err:
        if "closure" not in str(err):
            raise
        pytest.skip("luzpy gives no closure to an optimizer's step")
    assert_same(outcome(cpu), outcome(there), device, 0.01 if is_real(device) else 1e-5)
