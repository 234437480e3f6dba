"""`fit` and what it starts from and returns."""

import copy
import random
from itertools import chain

import numpy as np
import pytest
import torch
from models import CountingLoss, Raw, regression
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

X = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
Y = torch.randn(100, 1, generator=torch.Generator().manual_seed(1))
DATA = (X, Y)


def specification(module=nn.Linear, **kwargs):
    options = {"loss": nn.MSELoss(), "optimizer": torch.optim.Adam} | kwargs
    model = luz.setup(module, **options)
    if isinstance(module, type):
        model = model.set_hparams(in_features=10, out_features=1)
    return model


def fit(model=None, data=DATA, epochs=2, **kwargs):
    return (model or specification()).fit(data, epochs, **{"verbose": False} | kwargs)


def random_state():
    """What the three global generators would draw next, without drawing from them."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    return (
        torch.get_rng_state().tolist(),
        [part.tolist() if hasattr(part, "tolist") else part for part in numpy_state],
        python_state,
    )


def states(model):
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class InitialWeights(luz.Callback):
    """Keeps the weights, and the random state's first number, at the start of a run."""

    def __init__(self):
        self.kept = []

    def on_fit_begin(self, ctx):
        self.kept.append(states(ctx.model))


# Initial weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("instance", [False, True])
def test_every_fit_starts_from_bit_identical_weights(instance):
    model = specification(nn.Linear(10, 1) if instance else nn.Linear)
    spy = InitialWeights()
    for seed in (1, 2):
        torch.manual_seed(seed)
        fit(model, callbacks=spy)
    fit(model.set_opt_hparams(lr=0.5), callbacks=spy)
    assert same(spy.kept[0], spy.kept[1])
    assert same(spy.kept[0], spy.kept[2])
    assert same(spy.kept[0], states(model()))


def test_lr_finder_starts_where_fit_starts():
    model, spy = specification(), InitialWeights()
    fit(model, callbacks=spy)
    model.lr_finder(DATA, steps=3, callbacks=spy, verbose=False)
    fit(model, callbacks=spy)
    assert same(spy.kept[0], spy.kept[1])
    assert same(spy.kept[0], spy.kept[2])


def test_seed_gives_the_weights_that_torch_gives_for_it():
    torch.manual_seed(11)
    expected = states(nn.Linear(10, 1))
    assert same(expected, states(specification(seed=11)()))
    assert same(expected, states(specification().set_seed(11)()))


def test_seed_is_drawn_from_torchs_generator_once():
    torch.manual_seed(5)
    first = specification()
    torch.manual_seed(5)
    second = specification()
    third = specification()
    assert first.seed == second.seed != third.seed
    assert same(states(first()), states(second()))
    assert not same(states(first()), states(third()))


def test_set_seed_gives_other_weights():
    model = specification(seed=1)
    assert not same(states(model()), states(model.set_seed(2)()))
    assert same(states(model()), states(model.set_seed(2).set_seed(1)()))


def test_building_leaves_the_global_random_state_alone():
    def noisy():
        random.random(), np.random.rand(), torch.rand(3)
        return nn.Linear(10, 1)

    model = specification(noisy)
    before = random_state()
    seen = []
    model()
    assert random_state() == before
    look = luz.Callback.from_functions(on_fit_begin=lambda ctx: seen.append(random_state()))
    fit(model, callbacks=look)
    assert seen == [before]


def test_two_fits_from_one_random_state_are_bit_identical():
    model = specification(lambda: nn.Sequential(nn.Linear(10, 8), nn.Dropout(), nn.Linear(8, 1)))
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(fit(model, valid_data=0.2))
    first, again, other = (states(fitted.model) for fitted in results)
    assert same(first, again)
    assert results[0].records["metrics"] == results[1].records["metrics"]
    assert not same(first, other)


class Noisy(torch.utils.data.Dataset):
    """Rows with noise, drawn where they are made."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        noise = torch.randn(10) + np.random.rand() + random.random()
        return X[index] + noise, Y[index]


def dropping():
    return nn.Sequential(nn.Linear(10, 8), nn.Dropout(), nn.Linear(8, 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_makes_a_fit_repeatable_and_leaves_the_global_state_alone(workers):
    model = specification(dropping, seed=3)
    options = {"num_workers": workers}
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(results))
        before = random_state()
        results.append(fit(model, Noisy(), seed=seed, dataloader_options=options))
        assert random_state() == before
    first, again, other = (states(fitted.model) for fitted in results)
    assert same(first, again)
    assert not same(first, other)


def test_a_seed_is_what_torch_draws_from_after_manual_seed():
    model = specification(dropping, seed=3)
    seeded = fit(model, seed=7)
    torch.manual_seed(7)
    assert same(states(seeded.model), states(fit(model).model))


def test_a_failed_fit_with_a_seed_leaves_the_global_state_alone():
    def fail(ctx):
        raise KeyError("of a callback")

    model = specification()
    before = random_state()
    with pytest.raises(KeyError):
        fit(model, seed=1, callbacks=luz.Callback.from_functions(on_epoch_end=fail))
    assert random_state() == before


def test_a_killed_run_with_a_seed_ends_as_one_that_was_not(tmp_path):
    model = specification(dropping, seed=3)
    resume = luz.callbacks.AutoResume(tmp_path / "state.pt")
    whole = fit(model, epochs=3, seed=5)

    def stop(ctx):
        if ctx.epoch == 2 and ctx.iter == 2:
            ctx.stop("killed")

    killer = luz.Callback.from_functions(on_train_batch_end=stop)
    fit(model, epochs=3, seed=5, callbacks=[killer, resume])
    before = random_state()
    again = fit(model, epochs=3, seed=5, callbacks=[resume])
    assert random_state() == before
    assert same(states(whole.model), states(again.model))


@pytest.mark.parametrize(
    ("seed", "error"),
    [(-1, ValueError), (2**63, ValueError), (1.5, TypeError), (True, TypeError)],
)
def test_a_seed_is_a_whole_number(seed, error):
    with pytest.raises(error, match=f"`seed` must be .* got {seed}"):
        fit(seed=seed)


def test_module_instance_is_never_changed():
    module = nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    module[1].eval()
    module[0].weight.requires_grad_(False)
    module[2].weight.grad = torch.ones(1, 4)
    before, modes = states(module), [part.training for part in module.modules()]
    model = specification(module).set_opt_hparams(lr=0.1)
    fitted = fit(model, callbacks=[], valid_data=0.2)
    model.lr_finder(DATA, steps=3, verbose=False)
    model.set_seed(3).fit(DATA, 1, verbose=False)
    assert same(before, states(module))
    assert [part.training for part in module.modules()] == modes
    assert torch.equal(module[2].weight.grad, torch.ones(1, 4))
    assert not hasattr(module, "ctx")
    assert torch.equal(fitted.model[0].weight, module[0].weight)  # frozen stays frozen
    assert not torch.equal(fitted.model[2].weight, module[2].weight)


def test_module_that_a_function_hands_out_is_never_changed():
    module = nn.Linear(10, 1)
    before = states(module)
    model = specification(lambda: module)
    spy = InitialWeights()
    fit(model, callbacks=spy)
    fit(model, callbacks=spy)
    assert same(before, states(module))
    assert same(spy.kept[0], spy.kept[1])


def test_seed_of_an_instance_re_initialises_a_copy():
    module = nn.Sequential(nn.Linear(10, 1))
    kept, other = specification(module), specification(module).set_seed(3)
    assert same(states(module), states(kept()))
    torch.manual_seed(3)
    assert same(states(nn.Linear(10, 1)), states(other()))


def test_instance_that_cannot_be_re_initialised_says_so():
    model = specification(Raw(10))
    fit(model)
    with pytest.raises(ValueError, match=r"`reset_parameters`.*Raw.*has none"):
        fit(model.set_seed(1))


def test_loss_module_given_to_setup_is_never_changed():
    loss = CountingLoss()
    fit(specification(loss=loss))
    assert loss.calls == 0


# What comes back -----------------------------------------------------------------------------


def test_fitted_module_holds_the_run():
    # R: test-module.R, "predict can use a progress bar", its last lines
    model = specification().set_opt_hparams(lr=0.001)
    fitted = fit(model)
    assert isinstance(fitted, luz.FittedModule)
    assert fitted.hparams == {"in_features": 10, "out_features": 1}
    assert fitted.opt_hparams == {"lr": 0.001}
    assert fitted.stopped == "completed"
    assert not fitted.model.training
    assert all(parameter.grad is None for parameter in fitted.model.parameters())
    with pytest.raises(AttributeError):
        fitted.stopped = "never"


@pytest.mark.parametrize("valid_data", [None, DATA])
def test_records_are_plain_dicts_and_lists(valid_data):
    fitted = fit(specification(metrics=luz.metrics.MAE()), epochs=3, valid_data=valid_data)
    n_valid = 0 if valid_data is None else 3
    metrics, profile = fitted.records["metrics"], fitted.records["profile"]
    assert set(fitted.records) == {"metrics", "profile", "lr"}
    assert {name: len(rows) for name, rows in metrics.items()} == {"train": 3, "valid": n_valid}
    assert all(type(row) is dict for rows in metrics.values() for row in rows)
    assert all(list(row) == ["loss", "mae"] for rows in metrics.values() for row in rows)
    assert all(type(v) is float for rows in metrics.values() for row in rows for v in row.values())
    assert {name: len(seconds) for name, seconds in profile.items()} == {
        "fit": 1,
        "epoch": 3,
        "train": 3,
        "valid": n_valid,
    }


def test_get_metrics_is_a_frame_with_a_row_per_set_metric_and_epoch():
    fitted = fit(specification(metrics=luz.metrics.MAE()), valid_data=DATA)
    frame = luz.get_metrics(fitted)
    assert list(frame.columns) == ["set", "metric", "epoch", "value"]
    rows = [tuple(row) for row in frame[["set", "metric", "epoch"]].values.tolist()]
    assert rows == [
        (split, metric, epoch)
        for split in ("train", "valid")
        for epoch in (1, 2)
        for metric in ("loss", "mae")
    ]
    last = fitted.model(X)
    values = frame[(frame["set"] == "valid") & (frame["epoch"] == 2)]["value"].tolist()
    assert values == pytest.approx(
        [((last - Y) ** 2).mean().item(), (last - Y).abs().mean().item()]
    )


def test_losses_of_several_optimizers_are_rows_of_their_own():
    class Two(nn.Linear):
        def set_optimizers(self):
            return {
                "Weights": torch.optim.SGD([self.weight], lr=0.01),
                "bias": torch.optim.SGD([self.bias], lr=0.01),
            }

    fitted = fit(specification(Two, optimizer=None), epochs=1)
    assert list(fitted.records["metrics"]["train"][0]) == ["loss_weights", "loss_bias"]


def test_a_fit_does_not_disturb_an_earlier_one():
    model = specification().set_opt_hparams(lr=0.1)
    first = fit(model)
    kept, rows = states(first.model), copy.deepcopy(first.records)
    fit(model)
    assert same(kept, states(first.model))
    assert first.records == rows


@pytest.mark.parametrize("epochs", [1, 3, (1, 3), (0, 3), [2, 3], (3, 3)])
def test_epochs_is_a_number_or_a_pair(epochs):
    last = epochs if isinstance(epochs, int) else epochs[1]
    assert len(fit(epochs=epochs).records["metrics"]["train"]) == last


@pytest.mark.parametrize("epochs", [0, -1, (3, 2), (-1, 2), (0, 0)])
def test_epochs_out_of_bounds_are_a_value_error(epochs):
    with pytest.raises(ValueError, match="`epochs` must be an integer of at least 1"):
        fit(epochs=epochs)


@pytest.mark.parametrize("epochs", [1.5, "3", None, True, (1, 2, 3), (1, 2.5), (1,)])
def test_epochs_of_another_type_are_a_type_error(epochs):
    with pytest.raises(TypeError, match="`epochs` must be an integer of at least 1"):
        fit(epochs=epochs)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("verbose", "yes"),
        ("verbose", 1),
        ("accelerator", "cpu"),
        ("dataloader_options", [("batch_size", 2)]),
    ],
)
def test_arguments_of_another_type_are_a_type_error(argument, value):
    with pytest.raises(TypeError, match=f"`{argument}` must be .*got"):
        fit(**{argument: value})


# Validation data and batches -----------------------------------------------------------------


def batch_sizes(**kwargs):
    seen = {"train": [], "valid": []}
    spy = luz.Callback.from_functions(
        on_train_batch_end=lambda ctx: seen["train"].append(len(ctx.input)),
        on_valid_batch_end=lambda ctx: seen["valid"].append(len(ctx.input)),
    )
    fit(epochs=1, callbacks=spy, **kwargs)
    return seen


def test_batches_are_of_32_rows_unless_said_otherwise():
    assert batch_sizes(valid_data=DATA) == {"train": [32] * 3, "valid": [32] * 3 + [4]}


def test_dataloader_options_are_used():
    # R: test-module.R, "we can pass dataloader_options"
    seen = batch_sizes(valid_data=0.1, dataloader_options={"batch_size": 2, "shuffle": False})
    assert seen == {"train": [2] * 45, "valid": [2] * 5}


def test_dataloader_options_with_a_ready_loader_are_an_error():
    # R: test-module.R, "we can pass dataloader_options"
    loader = DataLoader(TensorDataset(*DATA), batch_size=10)
    with pytest.raises(ValueError, match="must not be given with a DataLoader"):
        fit(data=loader, dataloader_options={"batch_size": 2})


def test_dataloader_options_beside_a_ready_validation_loader_are_for_data_alone():
    # R: test-module.R, "we can pass dataloader_options"
    loader = DataLoader(TensorDataset(*DATA), batch_size=50)
    with pytest.warns(UserWarning, match="`dataloader_options` apply to `data` alone"):
        seen = batch_sizes(valid_data=loader, dataloader_options={"batch_size": 25})
    assert seen == {"train": [25] * 4, "valid": [50] * 2}


def test_fraction_is_split_off_at_random_and_never_trained_on():
    # R: test-module.R, "valid_data works"
    rows = torch.arange(100.0).reshape(100, 1)
    seen = {True: [], False: []}

    def look(ctx):
        seen[ctx.training].append(ctx.input.flatten().tolist())

    spy = luz.Callback.from_functions(on_train_batch_begin=look, on_valid_batch_begin=look)
    model = luz.setup(lambda: nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD)
    options = {"batch_size": 5, "drop_last": False}
    fit(
        model.set_opt_hparams(lr=0.0),
        (rows, rows),
        callbacks=spy,
        valid_data=0.1,
        dataloader_options=options,
    )
    train = [sorted(chain(*seen[True][i : i + 18])) for i in (0, 18)]
    valid = [list(chain(*seen[False][i : i + 2])) for i in (0, 2)]
    assert train[0] == train[1]
    assert valid[0] == valid[1]  # in order, and the same rows in every epoch
    assert (len(train[0]), len(valid[0])) == (90, 10)
    assert sorted(train[0] + valid[0]) == list(range(100))
    assert seen[True][:18] != seen[True][18:]  # shuffled anew


def test_the_rows_of_a_fraction_are_the_models_own():
    model = specification(seed=4)
    seen = []

    def look(ctx):
        seen.append(ctx.input)

    spy = luz.Callback.from_functions(on_valid_batch_end=look)
    first = fit(model, epochs=1, callbacks=spy, valid_data=0.2)
    torch.rand(7)
    second = fit(model.set_opt_hparams(lr=0.3), epochs=1, callbacks=spy, valid_data=0.2)
    assert len(first.valid_rows) == len(DATA[0]) // 5
    assert torch.equal(first.valid_rows, second.valid_rows)
    assert torch.equal(torch.cat(seen), DATA[0][first.valid_rows].repeat(2, 1))
    other = fit(model.set_seed(5), epochs=1, valid_data=0.2)
    assert not torch.equal(other.valid_rows, first.valid_rows)
    assert fit(model, epochs=1, valid_data=DATA).valid_rows is None


def test_the_finder_validates_on_the_rows_of_the_fit():
    model, seen = specification(seed=4), []
    spy = luz.Callback.from_functions(on_valid_batch_end=lambda ctx: seen.append(ctx.input))
    model.lr_finder(DATA, 1, valid_data=0.2, valid_batches=None, callbacks=spy, verbose=False)
    assert torch.equal(torch.cat(seen), DATA[0][fit(model, epochs=1, valid_data=0.2).valid_rows])


def test_a_stratified_split_is_made_by_scikit_learn():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(200) % 10 == 0).long()
    parts = train_test_split(
        x.numpy(), labels.numpy(), test_size=0.2, stratify=labels.numpy(), random_state=0
    )
    seen = []
    spy = luz.Callback.from_functions(on_valid_batch_end=lambda ctx: seen.append(ctx.target))
    model = luz.setup(lambda: nn.Linear(3, 2), nn.CrossEntropyLoss(), torch.optim.SGD)
    x_train, x_valid, y_train, y_valid = parts
    fit(model, (x_train, y_train), epochs=1, callbacks=spy, valid_data=(x_valid, y_valid))
    assert torch.cat(seen).bincount().tolist() == [36, 4]


@pytest.mark.parametrize("fraction", [2, -1, 0, 1, 0.0, 1.0, 1.5, True])
def test_fraction_must_lie_between_0_and_1(fraction):
    # R: test-module.R, "valid_data works"
    with pytest.raises(ValueError, match=f"`valid_data` must be data, or a fraction .*{fraction}"):
        fit(valid_data=fraction)


def test_fraction_of_a_loader_is_an_error():
    # R: test-module.R, "valid_data works"
    with pytest.raises(ValueError, match="`valid_data` cannot be a fraction of a DataLoader"):
        fit(data=DataLoader(TensorDataset(*DATA)), valid_data=0.2)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((X[:20], Y[:20]), "`drop_last` drops the only batch, of fewer than 32 rows"),
        ((X[:0], Y[:0]), "at least one row"),
        ((X, Y[:50]), "equal length, got .*100.*50"),
    ],
)
def test_data_that_gives_no_batch_is_an_error(data, text):
    with pytest.raises(ValueError, match=f"`data` must .*{text}"):
        fit(data=data)


def test_in_memory_input_gathers_no_gradients():
    x, y = torch.zeros(32, 3, requires_grad=True), torch.zeros(32, 1, requires_grad=True)
    fitted = regression(3).fit((x, y), 1, verbose=False)
    fitted.predict(x)
    assert (x.grad, y.grad) == (None, None)
    assert x.requires_grad
