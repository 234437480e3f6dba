"""What data may be, and where its rows go."""

import pytest
import torch
from scenarios import (
    FOLDER,
    RANK,
    ROWS,
    SIZE,
    B,
    N,
    by_row,
    fit,
    net,
    options,
    outcome,
    place,
    rows,
    scenario,
    setup,
    stream,
    training,
    values,
)
from torch import nn
from torch.utils.data import DataLoader, WeightedRandomSampler

import luzpy as luz

pytestmark = pytest.mark.slow


@training("one two three accelerate")
def in_memory():
    model = setup(optimizer=torch.optim.Adam, lr=0.05, metrics=[luz.metrics.MAE()])
    fitted = fit(rows(), model, 3, valid=0.2, loader=options())
    evaluation = fitted.evaluate(
        rows(), accelerator=place(), verbose=False, dataloader_options={"batch_size": B}
    )
    preds = fitted.predict(rows()[0], accelerator=place(), dataloader_options={"batch_size": B})
    alone = luz.Accelerator(cpu=True, distributed=False)
    path = FOLDER / f"fitted-{RANK}.luz"
    luz.save(fitted, path)
    loaded = luz.load(path, module=net)
    listed = fitted.predict(
        rows()[0], accelerator=place(), stack=False, dataloader_options={"batch_size": B}
    )
    return outcome(
        fitted,
        evaluation=values(evaluation),
        preds=preds,
        alone=fitted.predict(rows()[0], accelerator=alone),
        loaded=loaded.predict(rows()[0], accelerator=alone),
        listed=[len(batch) for batch in listed],
        names=list(fitted.model.state_dict()),
        type=type(fitted.model).__name__,
    )


@pytest.mark.parametrize("run", ["one", "two", "three", "accelerate"])
def test_predictions_are_the_models_rows_in_order(ranks, run):
    for found in ranks(in_memory, run):
        model = net()
        sizes = [p.numel() for p in model.parameters()]
        parts = found["weights"].float().split(sizes)
        for parameter, part in zip(model.parameters(), parts, strict=True):
            parameter.data = part.reshape(parameter.shape)
        expected = model(rows()[0]).detach()
        for name in ("preds", "alone", "loaded"):
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
        assert sum(found["listed"]) == len(expected)


@pytest.mark.parametrize("run", ["one", "two", "three", "accelerate"])
def test_evaluation_counts_every_row_once(ranks, run):
    _, y = rows()
    for found in ranks(in_memory, run):
        errors = (found["preds"] - y).double()
        expected = torch.stack((errors.square().mean(), errors.abs().mean()))
        torch.testing.assert_close(found["evaluation"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_what_is_returned_is_the_users_own_module(ranks, run):
    for found in ranks(in_memory, run):
        assert found["type"] == "Sequential"
        assert found["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@training("one two three accelerate")
def ragged():
    fitted = fit(rows(), valid=0.2, loader=options(drop_last=False))
    return outcome(fitted)


@training("one two three")
def dataset():
    return outcome(fit(by_row(), valid=0.2, loader=options(drop_last=False)))


@training("one two")
def dataset_with_worker():
    fitted = fit(by_row(), epochs=1, valid=0.2, loader=options(drop_last=False, num_workers=1))
    evaluation = fitted.evaluate(
        by_row(),
        accelerator=place(),
        verbose=False,
        dataloader_options={"batch_size": B, "num_workers": 1},
    )
    return outcome(fitted, evaluation=values(evaluation))


@training("one two three")
def weighted_sampler():
    generator = torch.Generator().manual_seed(2)
    sampler = WeightedRandomSampler(torch.arange(N) + 1.0, 60, generator=generator)
    return outcome(fit(DataLoader(by_row(), B, sampler=sampler)))


class RowsByTen:
    """A batch sampler of a user's own: batches of several sizes in an order of its own."""

    def __iter__(self):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist()
        return (order[start : start + B] for start in range(0, 8 * ROWS, B))

    def __len__(self):
        return 8 * SIZE


@training("one two")
def own_batch_sampler():
    return outcome(fit(DataLoader(by_row(), batch_sampler=RowsByTen())))


class Doubling(DataLoader):
    """A DataLoader with a way of its own to go through the data."""

    def __iter__(self):
        return ((2 * x, y) for x, y in super().__iter__())


@training("one two")
def own_loader():
    return outcome(fit(Doubling(by_row(), B, shuffle=True)))


@training("one two")
def shuffled_loader():
    loader = DataLoader(by_row(), B, shuffle=True, generator=torch.Generator().manual_seed(4))
    return outcome(fit(loader))


@training("one two three")
def iterable():
    return outcome(fit(stream(), valid=stream(30), loader=options(drop_last=False)))


@training("one two")
def iterable_drop_last():
    fitted = fit(stream(), valid=stream(30), loader=options())
    preds = fitted.predict(stream(), accelerator=place(), dataloader_options={"batch_size": B})
    return outcome(fitted, preds=preds)


@training("one two")
def in_batches_already():
    """Without a batch size: items of the dataset are batches."""
    x, y = rows(8 * ROWS)
    pairs = list(zip(x.split(B), y.split(B), strict=True))
    return outcome(fit(DataLoader(pairs, batch_size=None)))


@training("one two three")
def parts_of_other_lengths():
    """The first tensor in a batch does not have its rows."""
    x, y = rows(8 * ROWS - 5)
    parts = zip(x.split(B), y.split(B), strict=True)
    pairs = [({"edges": torch.zeros(2, 7), "x": part}, target) for part, target in parts]

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, batch):
            return self.net(batch["x"])

    return outcome(fit(DataLoader(pairs, batch_size=None), setup(Graph)))


def without_bad_rows(items):
    """A user's `collate_fn`."""
    kept = [item for item in items if item[1] > -1] or items[:1]
    return torch.stack([x for x, _ in kept]), torch.stack([y for _, y in kept])


@training("one two three")
def collated_by_hand():
    loader = DataLoader(by_row(), B, collate_fn=without_bad_rows)
    return outcome(fit(loader, valid=loader))


@training("one two")
def dict_batches():
    x, y = rows()
    return outcome(fit({"x": x, "y": y}, valid=0.2, loader=options(drop_last=False)))


@training("one two three")
def few_rows():
    fitted = fit(rows(3), valid=rows(2), loader=options(drop_last=False))
    preds = fitted.predict(rows(1)[0], accelerator=place())
    return outcome(fitted, preds=preds)


@scenario("two three accelerate")
def seedless():
    torch.manual_seed(100 + RANK)
    seen = []
    note = luz.Callback.from_functions(on_train_batch_begin=lambda ctx: seen.append(ctx.target))
    x, _ = rows(96)
    model = setup(lr=0.01, seed=None)
    fitted = model.fit(
        (x, torch.arange(96.0).reshape(-1, 1)),
        1,
        note,
        0.25,
        place(),
        verbose=False,
        dataloader_options=options(),
    )
    return outcome(fitted, seen=torch.cat(seen).flatten())


@pytest.mark.parametrize("run", ["two", "three", "accelerate"])
def test_without_a_seed_ranks_have_one_split_and_no_row_twice(ranks, run):
    results = ranks(seedless, run)
    seen = torch.cat([result["seen"] for result in results]).tolist()
    assert len(seen) == len(set(seen)) == 72
    for result in results:
        assert torch.equal(result["weights"], results[0]["weights"])
        assert torch.equal(result["metrics"], results[0]["metrics"])
