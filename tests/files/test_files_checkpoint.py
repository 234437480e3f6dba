"""Checkpoints: what is in them, and that one which does not fit changes nothing."""

import copy

import numpy as np
import pytest
import torch
from models import unrelated
from torch import nn

import luzpy as luz
from luzpy import LuzError
from luzpy.files.checkpoint import read_checkpoint, restore_checkpoint, write_checkpoint

X, Y = unrelated(64, 4)


class Counting(luz.Callback):
    def __init__(self, value=0):
        self.value = value

    def on_epoch_end(self, ctx):
        self.value = self.value + 1

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def at_end(function):
    class AtEnd(luz.Callback):
        weight = float("inf")

        def on_fit_end(self, ctx):
            function(ctx)

    return AtEnd()


def fit(function, *callbacks, module=None, optimizer=torch.optim.Adam, epochs=2, seed=0):
    """Call `function` with the context at the end of a run."""
    maker = module or (lambda: nn.Linear(4, 1))
    model = luz.setup(maker, nn.MSELoss(), optimizer, seed=seed)
    if optimizer is not None:
        model = model.set_opt_hparams(lr=0.01)
    return model.fit((X, Y), epochs, callbacks=[*callbacks, at_end(function)], verbose=False)


def written(path, *callbacks, **kwargs):
    fit(lambda ctx: write_checkpoint(ctx, path), *callbacks, **kwargs)
    return path


def frozen(ctx):
    """Everything that a checkpoint may change."""
    return copy.deepcopy(
        (
            [t.tolist() for t in ctx.model.state_dict().values()],
            {name: str(opt.state_dict()) for name, opt in ctx.optimizers.items()},
            ctx.records,
            [getattr(cb, "value", None) for cb in ctx.callbacks],
        )
    )


def test_a_checkpoint_holds_epoch_records_and_states(tmp_path):
    seen = {}

    def look(ctx):
        write_checkpoint(ctx, tmp_path / "a.pt")
        seen["weight"] = ctx.model.weight.detach().clone()
        seen["moment"] = ctx.optimizers["opt"].state_dict()["state"][0]["exp_avg"].clone()
        seen["records"] = copy.deepcopy(ctx.records)

    fit(look, Counting())
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert found["epoch"] == 2
    assert torch.equal(found["model"]["weight"], seen["weight"])
    assert torch.equal(found["optimizers"]["opt"]["state"][0]["exp_avg"], seen["moment"])
    assert found["records"] == seen["records"]
    assert ["Counting", {"value": 2}] in found["callbacks"]


@pytest.mark.parametrize("part", ["model", "optimizers", "records", "callbacks"])
def test_only_the_chosen_part_is_restored(tmp_path, part):
    path = written(tmp_path / "a.pt", Counting(5), epochs=3, seed=1)
    parts = dict.fromkeys(("model", "optimizers", "records", "callbacks"), False)
    found = {}

    def restore(ctx):
        before = frozen(ctx)
        restore_checkpoint(ctx, read_checkpoint(path), path, **parts | {part: True})
        found["changed"] = [a != b for a, b in zip(before, frozen(ctx), strict=True)]

    fit(restore, Counting())
    order = ["model", "optimizers", "records", "callbacks"]
    assert found["changed"] == [name == part for name in order]


class TwoOptimizers(nn.Linear):
    names = ("a", "b")

    def __init__(self):
        super().__init__(4, 1)

    def set_optimizers(self):
        a, b = self.names
        return {a: torch.optim.SGD([self.weight], 0.1), b: torch.optim.Adam([self.bias], 0.1)}


class OtherNames(TwoOptimizers):
    names = ("a", "c")


class OneGroupMore(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)

    def set_optimizers(self):
        return torch.optim.Adam([{"params": [self.weight]}, {"params": [self.bias]}], 0.01)


class Other(Counting):
    pass


MISFITS = {
    "a callback more": ({"callbacks": [Counting(), Other()]}, "callbacks .*Counting, Other"),
    "a callback less": ({"callbacks": []}, "callbacks .*Counting, this run has"),
    "another callback": ({"callbacks": [Other()]}, "callbacks .*Counting.*this run has .*Other"),
    "another optimizer": ({"optimizer": torch.optim.SGD}, r"optimizers opt \(Adam\).*opt \(SGD\)"),
    "other optimizers": (
        {"module": TwoOptimizers, "optimizer": None},
        r"optimizers opt \(Adam\).*a \(SGD\), b \(Adam\)",
    ),
    "other groups": (
        {"module": OneGroupMore, "optimizer": None},
        "parameter groups of the optimizer 'opt' 2, this run has 1, 1",
    ),
    "another model": (
        {"module": lambda: nn.Linear(4, 1, bias=False)},
        "'bias' is not in the model",
    ),
    "another shape": (
        {"module": lambda: nn.Sequential(nn.Linear(4, 1))},
        "'0.weight' is missing",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, name):
    path = written(tmp_path / "old.pt", Counting(7), epochs=1, seed=9)
    change, match = MISFITS[name]
    found = {}

    def restore(ctx):
        found["before"] = frozen(ctx)
        try:
            restore_checkpoint(ctx, read_checkpoint(path), path)
        finally:
            found["after"] = frozen(ctx)

    callbacks = change.get("callbacks", [Counting()])
    kwargs = {key: value for key, value in change.items() if key != "callbacks"}
    with pytest.raises(LuzError, match=rf"old\.pt does not fit .*{match}"):
        fit(restore, *callbacks, **kwargs)
    assert found["before"] == found["after"]


def test_optimizers_of_other_names_are_named(tmp_path):
    path = written(tmp_path / "old.pt", module=TwoOptimizers, optimizer=None)
    with pytest.raises(LuzError, match=r"a \(SGD\), b \(Adam\), this run has a \(SGD\), c \(Adam"):
        fit(
            lambda ctx: restore_checkpoint(ctx, read_checkpoint(path), path),
            module=OtherNames,
            optimizer=None,
        )


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"a": object()}, r"Counting .*state_dict\(\)\['value'\]\['a'\] \(object\)"),
        (nn.Linear(1, 1), "Counting .*Linear"),
        (lambda: 3, "Counting .*function"),
    ],
)
def test_a_state_that_cannot_be_kept_is_named_and_no_file(tmp_path, state, named):
    class Holder(Counting):
        def on_epoch_end(self, ctx):
            pass

    Holder.__name__ = "Counting"
    with pytest.raises(LuzError, match=f"The callback {named}"):
        written(tmp_path / "a.pt", Holder(state))
    assert list(tmp_path.iterdir()) == []


def test_records_that_cannot_be_kept_are_named(tmp_path):
    odd = luz.Callback.from_functions(on_epoch_end=lambda ctx: ctx.log("odd", "train", object()))
    with pytest.raises(LuzError, match=r"The records .*ctx\.records\['odd'\]\['train'\]\[0\]"):
        written(tmp_path / "a.pt", odd)


def test_arrays_in_a_callbacks_state_come_back(tmp_path):
    class Holder(Counting):
        def on_epoch_end(self, ctx):
            pass

    path = written(tmp_path / "a.pt", Holder(np.arange(3.0)), epochs=1)
    other = Holder()
    fit(lambda ctx: restore_checkpoint(ctx, read_checkpoint(path), path), other)
    assert isinstance(other.value, np.ndarray)
    assert other.value.tolist() == [0, 1, 2]


def test_a_state_without_a_way_back_is_named(tmp_path):
    class OneWay(luz.Callback):
        def state_dict(self):
            return {"a": 1}

    path = written(tmp_path / "a.pt", OneWay())
    with pytest.raises(LuzError, match="OneWay has a `state_dict` but no `load_state_dict`"):
        fit(lambda ctx: restore_checkpoint(ctx, read_checkpoint(path), path), OneWay())


def test_writing_changes_nothing(tmp_path):
    found = {}

    def write(ctx):
        before = frozen(ctx), torch.get_rng_state().tolist()
        write_checkpoint(ctx, tmp_path / "a.pt")
        found["same"] = before == (frozen(ctx), torch.get_rng_state().tolist())

    fit(write, Counting())
    assert found["same"]
