"""What the programs share: a luzpy program ends as its plain loop, and reports its losses."""

import pytest
import torch

import luzpy as luz

CPU = luz.Accelerator(cpu=True)


class Mean:
    """The mean of losses over rows."""

    def __init__(self):
        self.total, self.rows = 0.0, 0

    def add(self, loss, rows):
        self.total += float(loss.detach()) * rows
        self.rows += rows

    @property
    def value(self):
        return self.total / self.rows


def fit(model, data, epochs, **options):
    """Fitted on the CPU, from the random state of the plain loop."""
    torch.manual_seed(0)
    return model.fit(data, epochs, **{"verbose": False, "accelerator": CPU, **options})


def by_hand(model):
    """The module to train in a plain loop, from the weights and the random state of `fit`."""
    module = model().train()
    torch.manual_seed(0)
    return module


def assert_same_weights(fitted, module):
    own, other = fitted.model.state_dict(), module.state_dict()
    assert own.keys() == other.keys()
    for name, tensor in own.items():
        assert torch.equal(tensor, other[name]), name


def assert_reported(fitted, losses, name="loss", split="train"):
    """That a loss of every epoch is what the plain loop found."""
    rows = fitted.get_metrics()
    found = rows[(rows["set"] == split) & (rows["metric"] == name)]
    assert found["value"].tolist() == pytest.approx(losses, rel=1e-5)
