"""How a test of several processes is written: in one place, beside what it checks.

A scenario is a function that each rank of a launch runs, and what it returns are that rank's
findings. The decorator says in which launches it runs, and what is expected of it in all of them:

    @training("one two three")
    def dict_batches():
        x, y = rows()
        return outcome(fit({"x": x, "y": y}, valid=0.2, loader=options(drop_last=False)))

The tests in test_distributed_equality.py then hold its findings on two and on three ranks against
those of one process. What is more to say about it is a test of the same file, which asks for the
findings of a launch:

    def test_something(ranks):
        for result in ranks(dict_batches, "two"):
            assert result["stopped"] == "completed"

Each launch (launch.py) is made once for all scenarios that are in it. Ranks take batches that
together have `ROWS` rows, so that the findings are those of one process. The modules of scenarios
are imported by the ranks, too: what takes long to import is imported where it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from models import Rows, Stream, line, regression
from torch import nn
from torch.utils.data import DataLoader

import luzpy as luz

# Which there are -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    function: Callable[[], dict]
    launches: list[str]
    like_one: dict | None
    agree: str | None
    first: bool

    @property
    def name(self):
        """What a rank imports."""
        return f"{self.function.__module__}.{self.function.__name__}"


SCENARIOS = {}


def scenario(launches="", *, like_one=None, agree=None, first=False):
    """A function that each rank of some launches runs; without any, a test launches it itself.

    `like_one` are the tolerances within which each rank finds what one process finds. Of
    `agree`, "weights" or "everything", all ranks find the same to the last bit. In a launch the
    scenarios run by file and in the order in which they are written, but for the `first` ones.
    """

    def register(function):
        assert function.__name__ not in SCENARIOS, function
        SCENARIOS[function.__name__] = Scenario(function, launches.split(), like_one, agree, first)
        return function

    return register


training = partial(scenario, like_one={"rtol": 2e-5, "atol": 2e-6}, agree="weights")
sweep = partial(scenario, like_one={"rtol": 2e-4, "atol": 1e-5}, agree="everything")
metric = partial(scenario, like_one={"rtol": 1e-5, "atol": 1e-6})


def all_scenarios():
    for path in sorted(Path(__file__).parent.glob("test_distributed_*.py")):
        import_module(path.stem)
    return sorted(
        SCENARIOS.values(), key=lambda each: (not each.first, each.function.__module__)
    )  # whichever file pytest has imported first


# What they are made of -----------------------------------------------------------------------

SIZE = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
FOLDER = Path(os.environ.get("LUZPY_SCENARIO_FOLDER", ""))
ROWS = 12
B = ROWS // SIZE
N = 101  # rows: the last group is short, and has no batch for the last rank


def place(**options):
    return luz.Accelerator(cpu=True, distributed=True, **options)


def rows(n=N):
    return line(n, seed=5, noise=0.1)


def by_row(n=N):
    return Rows(*rows(n))


def stream(n=N):
    return Stream(list(zip(*rows(n), strict=True)))


def net():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def setup(module=net, optimizer=torch.optim.SGD, metrics=None, *, lr=0.1, seed=1, **more):
    return regression(module, optimizer, metrics, lr=lr, seed=seed, **more)


def options(drop_last=True, **more):
    return {"batch_size": B, "drop_last": drop_last, **more}


def fit(data, model=None, epochs=2, *, accelerator=None, loader=None, callbacks=None, valid=None):
    torch.manual_seed(11)
    return (setup() if model is None else model).fit(
        data,
        epochs,
        callbacks,
        valid,
        place() if accelerator is None else accelerator,
        verbose=False,
        dataloader_options=loader,
    )


def finder(data, model=None, accelerator=None, **more):
    torch.manual_seed(11)
    chosen = {"steps": 25, "end_lr": 1.0, "dataloader_options": options()} | more
    if isinstance(data, DataLoader):
        chosen.pop("dataloader_options")
    records = (setup() if model is None else model).lr_finder(
        data, accelerator=place() if accelerator is None else accelerator, verbose=False, **chosen
    )
    kept = {name: torch.tensor(records[name].tolist()) for name in records.columns}
    return kept | {"stopped": records.stopped}


def weights(fitted):
    tensors = filter(torch.is_tensor, fitted.model.state_dict().values())
    return torch.cat([p.detach().flatten().double() for p in tensors])


def values(fitted):
    return torch.tensor(fitted.get_metrics()["value"].tolist(), dtype=torch.float64)


def outcome(fitted, **more):
    assert type(fitted.model) is not nn.parallel.DistributedDataParallel
    return {"metrics": values(fitted), "weights": weights(fitted), "stopped": fitted.stopped} | more


class NetWithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def loss(self, input, target):
        return nn.functional.huber_loss(input, target) + 0.01 * self.net[0].weight.square().sum()


# What they are checked with ------------------------------------------------------------------


def check_same(found, expected, **tolerance):
    """Everything that `expected` holds, a nest of dicts and lists."""
    torch.testing.assert_close(
        _plain(found), _plain(expected), equal_nan=True, check_dtype=False, **tolerance
    )


def _plain(item):
    """Text and sizes as they are would not be compared."""
    if isinstance(item, dict):
        return {key: _plain(part) for key, part in sorted(item.items())}
    if isinstance(item, (list, tuple)):
        return [_plain(part) for part in item]
    if isinstance(item, str):
        return torch.tensor(list(item.encode()))
    return item
