"""What of a batch is the input and what the target: `unpack`, mappings by keyword, and the rows."""

import pytest
import torch
from models import line, regression
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import luzpy as luz

CPU = luz.Accelerator(cpu=True)
X, Y = line(20)
WEIGHTS = torch.linspace(0.1, 2.0, 20).unsqueeze(1)
IDS = torch.arange(20)


def weighted(pred, target):
    y, weight = target
    return (weight * (pred - y) ** 2).mean()


def with_weights(batch):
    x, y, weight = batch
    return x, (y, weight)


def model(loss=weighted, unpack=with_weights, **options):
    return regression(3, loss=loss, lr=0.05, unpack=unpack, **{"seed": 5, **options})


def fit(spec, data, **options):
    options = {"epochs": 2, "batch_size": 8, "dataloader_options": {"shuffle": False}, **options}
    return spec.fit(data, verbose=False, accelerator=CPU, **options)


def by_hand(start, loss, epochs=2):
    optimizer = torch.optim.SGD(start.parameters(), lr=0.05)
    for _ in range(epochs):
        for rows in (slice(0, 8), slice(8, 16)):
            optimizer.zero_grad()
            loss(start, rows).backward()
            optimizer.step()
    return start


def assert_same_weights(one, two):
    for own, other in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(own, other)


def seen_in(verb):
    """What `ctx.input` and `ctx.target` are in every batch of a verb."""
    seen = []
    hooks = ("on_train_batch_begin", "on_valid_batch_begin", "on_predict_batch_begin")
    look = dict.fromkeys(hooks, lambda ctx: seen.append((ctx.input, ctx.target)))
    verb(
        callbacks=luz.Callback.from_functions(**look), verbose=False, accelerator=CPU, batch_size=8
    )
    return seen


# `unpack` --------------------------------------------------------------------------------------


def test_weights_of_rows_are_used():
    expected = by_hand(
        model()(), lambda m, rows: (WEIGHTS[rows] * (m(X[rows]) - Y[rows]) ** 2).mean()
    )
    fitted = fit(model(), (X, Y, WEIGHTS))
    assert_same_weights(fitted.model, expected)


def test_every_verb_takes_a_batch_apart_alike():
    data = {"id": IDS, "y": Y, "x": X}
    spec = model(nn.MSELoss(), lambda batch: (batch["x"], batch["y"]), metrics=luz.metrics.MAE())
    fitted = fit(spec, data)
    expected = fit(regression(3, lr=0.05, seed=spec.seed), (X, Y))
    assert_same_weights(fitted.model, expected.model)
    options = {"verbose": False, "accelerator": CPU}
    preds = expected.predict(X, **options)
    assert torch.equal(fitted.predict(data, **options), preds)
    mae = fitted.evaluate(data, **options)["mae"]
    assert mae == pytest.approx((preds - Y).abs().mean().item())
    torch.manual_seed(1)
    curve = spec.lr_finder(data, steps=4, **options, batch_size=8)
    plain = regression(3, lr=0.05, seed=spec.seed)
    torch.manual_seed(1)
    other = plain.lr_finder((X, Y), steps=4, **options, batch_size=8)
    assert curve["loss"].tolist() == other["loss"].tolist()
    several = spec.lr_finder(data, steps=4, runs=2, batch_size=8, **options)
    assert several.groupby("run")["loss"].count().tolist() == [4, 4]
    verbs = (
        lambda **o: spec.fit(data, 1, valid_data=data, **o),
        lambda **o: fitted.evaluate(data, **o),
        lambda **o: fitted.predict(data, **o),
        lambda **o: spec.lr_finder(data, steps=2, valid_data=data, **o),
    )
    for verb in verbs:
        for input, target in seen_in(verb):
            assert input.shape[1] == 3
            assert torch.allclose(input.sum(1, keepdim=True), target)


def test_it_may_be_a_method_of_the_module():
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def unpack(self, batch):
            return batch[2], batch[0]

    fitted = fit(regression(Net, seed=1, lr=0.05), (Y, IDS, X))
    expected = fit(regression(lambda: nn.Linear(3, 1), seed=1, lr=0.05), (X, Y))
    assert_same_weights(fitted.model, expected.model)


def test_it_is_called_once_a_batch():
    calls = []

    def unpack(batch):
        calls.append(batch)
        return with_weights(batch)

    fit(model(unpack=unpack), (X, Y, WEIGHTS))
    assert len(calls) == 4


def test_a_new_input_or_batch_of_a_callback_counts():
    spec = model()
    zeroed = luz.Callback.from_functions(
        on_train_batch_begin=lambda ctx: setattr(ctx, "input", 0 * ctx.input)
    )
    fitted = fit(spec, (X, Y, WEIGHTS), callbacks=zeroed)
    assert_same_weights(fitted.model, fit(spec, (0 * X, Y, WEIGHTS)).model)
    batched = luz.Callback.from_functions(
        on_train_batch_begin=lambda ctx: setattr(ctx, "batch", [0 * ctx.batch[0], *ctx.batch[1:]])
    )
    assert_same_weights(fit(spec, (X, Y, WEIGHTS), callbacks=batched).model, fitted.model)
    targets = luz.Callback.from_functions(
        on_train_batch_begin=lambda ctx: setattr(ctx, "target", (2 * ctx.target[0], ctx.target[1]))
    )
    doubled = fit(spec, (X, Y, WEIGHTS), callbacks=targets)
    assert_same_weights(doubled.model, fit(spec, (X, 2 * Y, WEIGHTS)).model)


def test_predict_takes_an_input_alone():
    fitted = fit(model(), (X, Y, WEIGHTS))
    expected = fitted.model(X).detach()
    for data in (X, (X,), {"x": X}, (X, Y, WEIGHTS)):
        assert torch.equal(fitted.predict(data, verbose=False, accelerator=CPU), expected)
    with pytest.raises(ValueError, match="not enough values to unpack") as caught:
        fitted.predict((X, Y), verbose=False, accelerator=CPU)
    assert caught.value.__notes__ == ["luzpy: in `unpack`, which every batch passes through."]


@pytest.mark.parametrize(
    ("unpack", "error", "message"),
    [
        (lambda batch: batch[0], TypeError, "got Tensor"),
        (lambda batch: (batch[0],), ValueError, "got 1 parts"),
        (lambda batch: [*batch, 1], ValueError, "got 4 parts"),
        (lambda batch: (*batch[:2], "8"), None, None),
        (lambda batch: (*batch[:2], "many"), TypeError, "an integer, got 'many'"),
        (lambda batch: (*batch[:2], torch.tensor(8)), None, None),
    ],
)
def test_what_it_must_return(unpack, error, message):
    spec = model(nn.MSELoss(), unpack)
    if error is None:
        fit(spec, (X, Y, WEIGHTS))
        return
    rule = r"`unpack` must return \(input, target\) or \(input, target, n_rows\), "
    with pytest.raises(error, match=rule + message):
        fit(spec, (X, Y, WEIGHTS))


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="`unpack` must be a function, got 'x'"):
        model(unpack="x")


# Without it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["fit", "valid", "evaluate", "predict", "lr_finder"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, IDS, Y), r"got 3 parts \(Tensor, Tensor, Tensor\): .*\(\(batch\[0\], batch\[1\]\), b"),
        (
            {"x": X, "id": IDS, "y": Y},
            r"the 3 parts 'x', 'id', 'y': setup\(..., unpack=lambda batch: \(\{'x': batch\['x'\], "
            r"'id': batch\['id'\]\}, batch\['y'\]\)\), or a method `unpack\(self, batch\)`",
        ),
    ],
)
def test_a_batch_of_three_parts_is_an_error(verb, data, message):
    spec = regression(3)
    options = {"verbose": False, "accelerator": CPU, "batch_size": 4}
    verbs = {
        "fit": lambda: spec.fit(data, 1, **options),
        "valid": lambda: spec.fit((X, Y), 1, valid_data=data, **options),
        "evaluate": lambda: fit(spec, (X, Y)).evaluate(data, **options),
        "predict": lambda: fit(spec, (X, Y)).predict(data, **options),
        "lr_finder": lambda: spec.lr_finder(data, 3, **options),
    }
    with pytest.raises(ValueError, match=r"`unpack` must say which part.*" + message) as caught:
        verbs[verb]()
    assert any("batch 1 of epoch 1" in note for note in caught.value.__notes__)


def test_a_step_of_the_users_own_takes_batches_apart_itself():
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def step(self):
            x, _, y = self.ctx.batch
            loss = F.mse_loss(self(x), y)
            if self.ctx.training:
                self.ctx.opt.zero_grad()
                loss.backward()
                self.ctx.opt.step()
            self.ctx.loss = {"opt": loss.detach()}

    spec = luz.setup(Net, None, torch.optim.SGD, seed=3).set_opt_hparams(lr=0.05)
    fitted = fit(spec, (X, IDS, Y), valid_data=(X, IDS, Y))
    assert_same_weights(fitted.model, fit(regression(3, lr=0.05, seed=3), (X, Y)).model)


class TwoInputs(nn.Module):
    """It names its inputs `left` and `right`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, right, left, scale=1):
        return self.linear(left) * scale + right.sum(1, keepdim=True)


def expected_of_two(seed=2):
    start = luz.setup(TwoInputs, nn.MSELoss(), torch.optim.SGD, seed=seed)()
    return by_hand(start, lambda m, rows: F.mse_loss(m(2 * X[rows], X[rows]), Y[rows]))


@pytest.mark.parametrize(
    ("data", "unpack"),
    [
        (({"left": X, "right": 2 * X}, Y), None),
        (
            {"left": X, "y": Y, "right": 2 * X},
            lambda b: ({k: b[k] for k in ("left", "right")}, b.get("y")),
        ),
    ],
)
def test_a_mapping_whose_keys_forward_names_is_passed_by_keyword(data, unpack):
    spec = luz.setup(TwoInputs, nn.MSELoss(), torch.optim.SGD, unpack=unpack, seed=2)
    fitted = fit(spec.set_opt_hparams(lr=0.05), data)
    assert_same_weights(fitted.model, expected_of_two())
    options = {"verbose": False, "accelerator": CPU}
    preds = fitted.model(2 * X, X).detach()
    assert torch.equal(fitted.predict(data, **options), preds)
    assert fitted.evaluate(data, **options)["loss"] == pytest.approx(F.mse_loss(preds, Y).item())
    assert len(spec.lr_finder(data, 3, runs=2, batch_size=8, **options)) == 6
    with_both = fitted.predict({"left": X, "right": 2 * X}, **options)
    assert torch.equal(with_both, preds)


def test_a_mapping_that_forward_does_not_name_is_one_argument():
    class Takes(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def forward(self, parts):
            return super().forward(parts["left"])

    fitted = fit(luz.setup(Takes, nn.MSELoss(), torch.optim.SGD, seed=4).set_opt_hparams(lr=0.05),
                 ({"left": X, "right": X}, Y))  # fmt: skip
    assert_same_weights(fitted.model, fit(regression(3, seed=4, lr=0.05), (X, Y)).model)


def test_label_is_a_target_too():
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def forward(self, x, label=None):
            pred = super().forward(x)
            return {"logits": pred} if label is None else {
                "loss": F.mse_loss(pred, label), "logits": pred,
            }  # fmt: skip

    spec = luz.setup(Net, None, torch.optim.SGD, luz.metrics.MAE(), seed=4).set_opt_hparams(lr=0.05)
    fitted = fit(spec, {"x": X, "label": Y})
    assert_same_weights(fitted.model, fit(regression(3, seed=4, lr=0.05), (X, Y)).model)
    preds = fitted.predict({"x": X, "label": Y}, verbose=False, accelerator=CPU)
    assert torch.equal(preds, fitted.model(X)["logits"].detach())
    assert fitted.evaluate({"x": X, "label": Y}, verbose=False, accelerator=CPU)[
        "mae"
    ] == pytest.approx((preds - Y).abs().mean().item())


# Rows ------------------------------------------------------------------------------------------


def epoch_loss(data, unpack, loss, module=None):
    """The mean loss that an epoch without learning reports."""
    maker = module or (lambda: nn.Linear(3, 1))
    spec = luz.setup(maker, loss, torch.optim.SGD, unpack=unpack).set_opt_hparams(lr=0.0)
    fitted = spec.fit(data, 1, valid_data=data, verbose=False, accelerator=CPU)
    values = fitted.get_metrics()["value"].tolist()
    assert values[0] == pytest.approx(values[1])
    return values[0]


class Graphs:
    """A batch of graphs as torch-geometric has it: all nodes in one tensor."""

    def __init__(self, x, y, **count):
        self.x, self.y, self.device = x, y, torch.device("cpu")
        vars(self).update(count)

    def to(self, device):
        moved = Graphs(self.x.to(device), self.y.to(device))
        vars(moved).update({k: v for k, v in vars(self).items() if k not in vars(moved)})
        moved.device = torch.device(device)
        return moved


class Counted(Graphs):
    def __len__(self):
        return len(self.y)


GRAPHS = [(torch.ones(7, 3), 1.0, 2), (torch.ones(2, 3), 3.0, 6)]  # nodes, loss, graphs


class OfGraphs(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def forward(self, graphs):
        return graphs.y + 0 * super().forward(graphs.x).sum()


@pytest.mark.parametrize("name", ["num_graphs", "batch_size", "shape", "len", "third"])
def test_the_rows_of_an_object_are_what_it_says(name):
    def graphs(x, loss, count):
        kind = Counted if name == "len" else Graphs
        says = {"shape": {"batch_size": torch.Size([count])}, "len": {}, "third": {}}
        return kind(x, torch.full((count,), loss), **says.get(name, {name: count}))

    def unpack(batch):
        return (batch, None, len(batch.y)) if name == "third" else (batch, None)

    data = DataLoader([graphs(*one) for one in GRAPHS], batch_size=None)
    found = epoch_loss(data, unpack, lambda pred, _: pred.mean(), OfGraphs)
    assert found == pytest.approx((2 * 1.0 + 6 * 3.0) / 8)


def test_an_object_is_moved_and_is_its_own_input():
    batch = Graphs(torch.ones(2, 3), torch.ones(2))
    moved = luz.Accelerator(cpu=True).prepare_batch([batch, torch.ones(2)], torch.device("meta"))
    assert moved[0].x.is_meta
    assert moved[0].device.type == "meta"
    assert moved[1].is_meta
    assert batch.device.type == "cpu"


def ctc_batches():
    """Two batches (T, N, C): 50 steps of 2 rows, 10 of 4, and targets of one length."""
    generator = torch.Generator().manual_seed(0)
    for steps, rows in ((50, 2), (10, 4)):
        x = torch.randn(steps, rows, 3, generator=generator)
        yield x, torch.randint(1, 3, (rows, 4), generator=generator)


class OfSteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return (self.scale * x).log_softmax(2)


def ctc(pred, target):
    steps, rows = pred.shape[:2]
    target = target.reshape(rows, -1)
    lengths = torch.full((rows,), steps), torch.full((rows,), target.shape[1])
    return F.ctc_loss(pred, target, *lengths, reduction="none").mean()


@pytest.mark.parametrize("form", ["rows", "joined"])
def test_time_steps_are_no_rows(form):
    batches = list(ctc_batches())
    losses = [ctc(x.log_softmax(2), y).item() for x, y in batches]
    expected = (2 * losses[0] + 4 * losses[1]) / 6
    unpack = None
    if form == "joined":  # of all rows' targets one after another only `unpack` can say it
        batches = [(x, y.flatten()) for x, y in batches]

        def unpack(batch):
            x, y = batch
            return x, y, x.shape[1]

    found = epoch_loss(DataLoader(batches, batch_size=None), unpack, ctc, OfSteps)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(reduction="sum"), __import__("functools").partial(F.mse_loss, reduction="sum")],
)
def test_a_sum_is_reported_per_sample(loss):
    spec = regression(3, loss=loss, lr=0.0)
    fitted = spec.fit(
        (X, Y), 1, valid_data=(X, Y), batch_size=8, verbose=False, accelerator=CPU,
        dataloader_options={"drop_last": False},
    )  # fmt: skip
    expected = (((fitted.model(X) - Y) ** 2).sum() / 20).item()
    assert fitted.get_metrics()["value"].tolist() == pytest.approx([expected] * 2)
    found = fitted.evaluate((X, Y), verbose=False, accelerator=CPU, batch_size=7)
    assert found["loss"] == pytest.approx(expected)


def test_rows_of_accumulated_batches_are_what_unpack_says():
    """Steps of two batches weigh each by its rows, which `unpack` knows."""
    batches = [(X[:4].T.contiguous(), Y[:4].T), (X[4:20].T.contiguous(), Y[4:20].T)]
    spec = regression(3, lr=0.05, seed=6, unpack=lambda b: (b[0].T, b[1].T))
    place = luz.Accelerator(cpu=True, accumulate=2)
    fitted = spec.fit(DataLoader(batches, batch_size=None), 1, verbose=False, accelerator=place)
    expected = spec()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    F.mse_loss(expected(X), Y).backward()
    optimizer.step()
    for own, other in zip(fitted.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other)
