"""Training a fitted model further: 5 epochs and 5 more are 10."""

import copy
import pickle
import re

import pytest
import torch
from models import TwoOptimizers, line, regression
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz
from luzpy.files import container

X, Y = line(noise=0.1)
LOADER = DataLoader(TensorDataset(X, Y), 16)
ADAM, SGD = torch.optim.Adam, torch.optim.SGD


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def specification(module=Net, optimizer=ADAM, **options):
    return regression(module, optimizer, luz.metrics.MAE(), seed=1, **options)


def two():
    spec = luz.setup(lambda: TwoOptimizers(3, 1), nn.MSELoss(), seed=1)
    return spec.set_opt_hparams(lr=0.01)


def fit(model, epochs, data=LOADER, **options):
    return luz.fit(model, data, epochs, verbose=False, **options)


def same(a, b):
    """Whether two nests of tensors and numbers are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def state(fitted):
    return {"weights": fitted.model.state_dict(), "optimizers": fitted.optimizer_states}


def untimed(records):
    return {what: kept for what, kept in records.items() if what != "profile"}


# Bit for bit -----------------------------------------------------------------------------------

SPECIFICATIONS = {
    "Adam": specification,
    "AdamW, amsgrad": lambda: specification(optimizer=torch.optim.AdamW).set_opt_hparams(
        amsgrad=True
    ),
    "SGD, momentum": lambda: specification(optimizer=SGD).set_opt_hparams(momentum=0.9),
    "RMSprop": lambda: specification(optimizer=torch.optim.RMSprop),
    "several optimizers": two,
}


@pytest.mark.parametrize("kind", SPECIFICATIONS)
@pytest.mark.parametrize("through", ["memory", "pickle", "file"])
def test_five_epochs_and_five_more_are_ten(kind, through, tmp_path):
    spec = SPECIFICATIONS[kind]()
    whole = fit(spec, 10, valid_data=LOADER)
    first = fit(spec, 5, valid_data=LOADER)
    if through == "pickle" and kind != "several optimizers":  # whose module is a lambda's
        first = pickle.loads(pickle.dumps(first))
    elif through == "file":
        luz.save(first, tmp_path / "net.luz")
        first = luz.load(tmp_path / "net.luz", module=spec)
    further = first.fit(LOADER, 5, valid_data=LOADER, verbose=False)
    assert same(state(whole), state(further))
    assert untimed(whole.records) == untimed(further.records)
    assert (further.hparams, further.opt_hparams) == (whole.hparams, whole.opt_hparams)


def test_the_state_is_that_of_an_optimizer_of_torchs():
    spec = specification(lambda: nn.Linear(3, 1))
    further = fit(fit(spec, 2), 1)
    module = spec()
    optimizer = ADAM(module.parameters(), lr=0.01)
    for _ in range(3):
        for x, y in LOADER:
            optimizer.zero_grad()
            nn.functional.mse_loss(module(x), y).backward()
            optimizer.step()
    assert same(further.model.state_dict(), module.state_dict())
    assert same(further.optimizer_states["opt"]["state"], optimizer.state_dict()["state"])


def test_the_fitted_model_that_is_given_stays_as_it_is():
    first = fit(specification(), 2)
    before = copy.deepcopy([state(first), first.records])
    further = fit(first, 3)
    assert same(before, [state(first), first.records])
    assert further is not first
    assert further.model is not first.model
    assert isinstance(further, luz.FittedModule)
    assert not further.model.training


class MasterSGD(SGD):
    """An optimizer whose state is more precise than the weights."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                kept = self.state[parameter]
                kept.setdefault("master", parameter.detach().double())
                assert kept["master"].dtype == torch.float64
                kept["master"] -= group["lr"] * parameter.grad.double()
                parameter.detach().copy_(kept["master"])


@pytest.mark.parametrize("through", ["memory", "file"])
def test_states_keep_their_dtypes(through, tmp_path):
    spec = specification(lambda: nn.Linear(3, 1), MasterSGD)
    whole, first = fit(spec, 4), fit(spec, 2)
    if through == "file":
        luz.save(first, tmp_path / "net.luz")
        first = luz.load(tmp_path / "net.luz", module=spec)
    assert same(state(whole), state(fit(first, 2)))


# Epochs and records ----------------------------------------------------------------------------


def test_epochs_and_records_go_on():
    seen = []
    look = luz.Callback.from_functions(on_epoch_begin=lambda ctx: seen.append(ctx.epoch))
    first = fit(specification(), 2, callbacks=[look])
    second = fit(first, 3, callbacks=[look], valid_data=LOADER)
    third = fit(second, 1, callbacks=[look])
    assert seen == [1, 2, 3, 4, 5, 6]
    train, valid = (third.records["metrics"][split] for split in ("train", "valid"))
    assert train[:2] == first.records["metrics"]["train"]
    assert train[:5] == second.records["metrics"]["train"]
    assert [len(rows) for rows in valid] == [0, 0, 2, 2, 2]
    assert {name: len(times) for name, times in third.records["profile"].items()} == {
        "fit": 3, "epoch": 6, "train": 6, "valid": 3,
    }  # fmt: skip
    frame = third.get_metrics()
    assert frame[frame["set"] == "train"]["epoch"].max() == 6


def test_what_is_printed_is_of_all_epochs():
    further = fit(fit(specification(), 2), 3)
    further.records["profile"]["fit"][:] = [60.0, 30.0]
    text = repr(further)
    assert "Total time: 1m 30s" in text
    assert f"loss: {round(further.records['metrics']['train'][4]['loss'], 4):g}" in text


def test_a_pair_of_epochs_counts_from_there():
    patience = luz.callbacks.EarlyStopping("train_loss", min_delta=1e9, patience=1)
    first = fit(specification(), 4)
    further = fit(first, (3, 9), callbacks=[patience])
    assert further.stopped == "early stopping"
    assert len(further.records["metrics"]["train"]) == 4 + 3


def test_a_schedule_begins_afresh():
    rates = []
    look = luz.Callback.from_functions(
        on_train_begin=lambda ctx: rates.append(ctx.opt.param_groups[0]["lr"])
    )
    callbacks = [luz.callbacks.LRScheduler(StepLR, step_size=1, gamma=0.5), look]
    first = fit(specification(), 3, callbacks=callbacks)
    fit(first, 3, callbacks=callbacks)
    assert rates == [0.01, 0.005, 0.0025] * 2


def test_the_best_epoch_of_an_earlier_run_is_not_that_of_the_weights_any_more():
    keep = luz.callbacks.KeepBestModel("train_loss")
    first = fit(specification(), 3, callbacks=[keep])
    assert "these are its weights" in repr(first)
    assert "these are its weights" not in repr(fit(first, 1))


def test_a_run_that_was_interrupted_goes_on_with_the_next_epoch():
    stop = luz.Callback.from_functions(
        on_train_batch_end=lambda ctx: ctx.stop("enough") if (ctx.epoch, ctx.iter) == (2, 3) else 0
    )
    first = fit(specification(), 5, callbacks=[stop])
    seen = []
    look = luz.Callback.from_functions(on_epoch_begin=lambda ctx: seen.append(ctx.epoch))
    assert fit(first, 2, callbacks=[look]).stopped == "completed"
    assert seen == [3, 4]


def test_a_killed_run_that_goes_on_ends_as_one_that_was_not(tmp_path):
    spec = specification()
    whole = fit(spec, 6)
    first = fit(spec, 2)
    resume = luz.callbacks.AutoResume(tmp_path / "state.pt")

    def stop(ctx):
        if ctx.epoch == 4 and ctx.iter == 2:
            ctx.stop("killed")

    fit(first, 4, callbacks=[luz.Callback.from_functions(on_train_batch_end=stop), resume])
    again = fit(first, 4, callbacks=[resume])
    assert same(state(whole), state(again))
    assert untimed(again.records)["metrics"] == whole.records["metrics"]
    assert not (tmp_path / "state.pt").exists()


# Files -----------------------------------------------------------------------------------------


def without_optimizers(path):
    """The file as an older luzpy wrote it."""
    content = container.read(path, container.FITTED)
    del content["optimizers"], content["luzpy"]
    container.write(path, container.FITTED, content)


@pytest.mark.parametrize("how", ["an older file", "optimizer=False"])
def test_without_the_optimizers_state_it_begins_afresh_with_a_warning(how, tmp_path):
    path, spec = tmp_path / "net.luz", specification()
    first = fit(spec, 2)
    if how == "an older file":
        luz.save(first, path)
        without_optimizers(path)
    else:
        luz.save(first, path, optimizer=False)
    loaded = luz.load(path, module=spec)
    with pytest.warns(UserWarning, match=r"The optimizer starts without a state.*saved without it"):
        further = fit(loaded, 1)
    assert len(further.records["metrics"]["train"]) == 3
    assert further.optimizer_states["opt"]["state"][0]["step"] == len(LOADER)


def test_a_file_without_the_state_is_smaller(tmp_path):
    fitted = fit(specification(lambda: nn.Sequential(nn.Linear(3, 5000), nn.Linear(5000, 1))), 1)
    for name, keep in (("whole", True), ("small", False)):
        luz.save(fitted, tmp_path / name, optimizer=keep)
    sizes = [(tmp_path / name).stat().st_size for name in ("whole", "small")]
    assert sizes[0] > 2.9 * sizes[1]
    with pytest.raises(TypeError, match="`optimizer` must be True or False, got 1"):
        luz.save(fitted, tmp_path / "net", optimizer=1)


@pytest.mark.parametrize("module", [Net, None])
def test_one_loaded_without_its_loss_says_what_to_give(module, tmp_path):
    luz.save(fit(specification(), 1), tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=module)
    with pytest.raises(ValueError, match=r"luz\.load\(path, module=model\)"):
        fit(loaded, 1)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (specification(optimizer=SGD), "one of Adam, not of SGD"),
        (specification(optimizer=lambda p, lr: ADAM([{"params": [q]} for q in p], lr)), "groups"),
    ],
)
def test_with_another_optimizer_it_begins_afresh_with_a_warning(other, text, tmp_path):
    luz.save(fit(specification(), 2), tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=other)
    with pytest.warns(UserWarning, match=text):
        further = fit(loaded, 1)
    assert len(further.records["metrics"]["train"]) == 3


def test_hyperparameters_are_those_of_the_specification(tmp_path):
    spec, rates = specification(), []
    luz.save(fit(spec, 1), tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=spec.set_opt_hparams(lr=0.5))
    look = luz.Callback.from_functions(
        on_train_begin=lambda ctx: rates.append(ctx.opt.param_groups[0]["lr"])
    )
    further = fit(loaded, 1, callbacks=[look])
    assert (rates, further.opt_hparams) == ([0.5], {"lr": 0.5})


class OpaqueSGD(SGD):
    def step(self, closure=None):
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["own"] = re.compile("opaque")


def test_a_state_that_no_file_can_hold_is_left_out_with_a_warning(tmp_path):
    fitted = fit(specification(optimizer=OpaqueSGD), 1)
    with pytest.warns(UserWarning, match=r"without the state of the optimizers.*Pattern"):
        luz.save(fitted, tmp_path / "net.luz")
    assert luz.load(tmp_path / "net.luz", module=Net).optimizer_states is None


NO_STATE = {"opt": {"type": "Adam", "sizes": [6], "state": {0: 1}}}


@pytest.mark.parametrize("forged", [[1], {"opt": 1}, {"opt": {"type": "Adam"}}, NO_STATE])
def test_a_forged_state_is_refused(forged, tmp_path):
    luz.save(fit(specification(), 1), tmp_path / "net.luz")
    content = container.read(tmp_path / "net.luz", container.FITTED)
    del content["luzpy"]
    container.write(tmp_path / "net.luz", container.FITTED, content | {"optimizers": forged})
    with pytest.raises(luz.LuzError, match="'optimizers'"):
        luz.load(tmp_path / "net.luz", module=Net)


def test_a_state_of_other_shapes_is_refused_before_a_step(tmp_path):
    fitted = fit(specification(), 1)
    states = copy.deepcopy(fitted.optimizer_states)
    states["opt"]["state"][77] = states["opt"]["state"].pop(0)
    luz.save(fitted, tmp_path / "net.luz")
    content = container.read(tmp_path / "net.luz", container.FITTED)
    del content["luzpy"]
    container.write(tmp_path / "net.luz", container.FITTED, content | {"optimizers": states})
    with pytest.raises(luz.LuzError, match="The state of the optimizer 'opt' does not fit"):
        fit(luz.load(tmp_path / "net.luz", module=specification()), 1)


def test_rows_held_out_before_are_held_out_again(tmp_path):
    first = fit(specification(), 1, (X, Y), valid_data=0.25)
    first.save(tmp_path / "net.luz")
    other = regression(Net, ADAM, luz.metrics.MAE(), seed=99)  # which would draw other rows
    loaded = luz.load(tmp_path / "net.luz", module=other)
    further = fit(loaded, 1, (X, Y), valid_data=0.25)
    assert further.valid_rows.tolist() == first.valid_rows.tolist()
    assert fit(other, 1, (X, Y), valid_data=0.25).valid_rows.tolist() != first.valid_rows.tolist()
    # of other data a new part is drawn
    fewer = fit(loaded, 1, (X[:40], Y[:40]), valid_data=0.25, batch_size=8)
    assert len(fewer.valid_rows) == 10
