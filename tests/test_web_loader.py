"""Loaders such as webdataset's: an iterable dataset that gives batches, around a DataLoader."""

import random
from itertools import islice

import pytest
import torch
from models import MSE, Stream, line
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import luzpy as luz

X, Y = line(40)
ROWS = list(TensorDataset(X, Y))


class WebLoader(IterableDataset):
    """What webdataset's class of that name is: stages, of which the first is a DataLoader.

    It has no length, and its epochs may be cut (`with_epoch`).
    """

    def __init__(self, *args, **kwargs):
        self.pipeline = [DataLoader(*args, **kwargs)]
        self.n_batches = None

    def __iter__(self):
        source = iter(self.pipeline[0])
        for stage in self.pipeline[1:]:
            source = stage(source)
        return islice(source, self.n_batches)

    def compose(self, stage):
        self.pipeline.append(stage)
        return self

    def with_epoch(self, n_batches):
        self.n_batches = n_batches
        return self


def unbatched(batches):
    for x, y in batches:
        yield from zip(x, y, strict=True)


def shuffled(rows):
    rows = list(rows)
    random.Random(0).shuffle(rows)
    return iter(rows)


def batched(rows):
    while group := list(islice(rows, 5)):
        yield [torch.stack(column) for column in zip(*group, strict=True)]


LOADERS = {
    "plain": lambda: WebLoader(Stream(ROWS), batch_size=8),
    "batched within": lambda: WebLoader(Stream(list(batched(iter(ROWS)))), batch_size=None),
    "cut": lambda: WebLoader(Stream(ROWS), batch_size=8).with_epoch(3),
    "mixed again": lambda: (
        WebLoader(Stream(ROWS), batch_size=8).compose(unbatched).compose(shuffled).compose(batched)
    ),
}
MODEL = luz.setup(lambda: nn.Linear(3, 1), MSE, torch.optim.SGD, seed=1).set_opt_hparams(lr=0.1)


def batches(name):
    return [tuple(batch) for batch in LOADERS[name]()]


@pytest.mark.parametrize("name", LOADERS)
def test_all_verbs_take_its_batches_as_they_are(name):
    fitted = MODEL.fit(LOADERS[name](), 2, valid_data=LOADERS[name](), verbose=False)

    module = MODEL()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        for x, y in batches(name):
            optimizer.zero_grad()
            MSE(module(x), y).backward()
            optimizer.step()
    assert torch.equal(fitted.model.weight, module.weight)

    x, y = (torch.cat(parts) for parts in zip(*batches(name), strict=True))
    loss = MSE(module(x), y).item()
    rows = fitted.get_metrics()
    assert rows[rows["set"] == "valid"]["value"].iloc[-1] == pytest.approx(loss)
    evaluation = fitted.evaluate(LOADERS[name](), verbose=False)
    assert evaluation["loss"] == pytest.approx(loss)
    predicted = fitted.predict(LOADERS[name](), verbose=False)
    assert torch.allclose(predicted, module(x).detach(), atol=1e-6)


def test_the_finder_takes_it():
    records = MODEL.lr_finder(LOADERS["plain"](), 5, start_lr=1e-9, end_lr=1e-8, verbose=False)
    start = MODEL()
    expected = [MSE(start(x), y).item() for x, y in batches("plain")]
    assert records["loss"].tolist() == pytest.approx(expected, rel=1e-4)


def test_options_beside_it_are_refused_as_beside_any_loader():
    with pytest.raises(ValueError, match="must not be given with a DataLoader"):
        MODEL.fit(LOADERS["plain"](), 1, batch_size=4, verbose=False)


def test_a_pipeline_of_rows_is_a_dataset():
    rows = WebLoader(Stream(ROWS), batch_size=8)
    rows.pipeline = [Stream(ROWS)]
    fitted = MODEL.fit(rows, 1, batch_size=8, verbose=False)
    plain = MODEL.fit(Stream(ROWS), 1, batch_size=8, verbose=False)
    assert torch.equal(fitted.model.weight, plain.model.weight)
