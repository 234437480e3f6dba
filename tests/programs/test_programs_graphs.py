"""Graphs of different sizes in one batch, an object of its own class, as torch-geometric's."""

import attrs
import torch
from beside import CPU, Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import luzpy as luz

EPOCHS = 3


@attrs.define
class Graphs:
    x: torch.Tensor
    edges: torch.Tensor
    graph: torch.Tensor
    y: torch.Tensor

    @property
    def num_graphs(self):
        return len(self.y)

    def to(self, device):
        return Graphs(*(part.to(device) for part in (self.x, self.edges, self.graph, self.y)))


def graphs():
    generator = torch.Generator().manual_seed(0)
    for row in range(14):
        nodes = 2 + row % 5
        edges = torch.randint(nodes, (2, 3 * nodes), generator=generator)
        yield torch.randn(nodes, 3, generator=generator), edges, row % 2


def together(rows):
    sizes = torch.tensor([len(x) for x, _, _ in rows])
    starts = sizes.cumsum(0) - sizes
    return Graphs(
        torch.cat([x for x, _, _ in rows]),
        torch.cat([edges + start for (_, edges, _), start in zip(rows, starts, strict=True)], 1),
        torch.arange(len(rows)).repeat_interleave(sizes),
        torch.tensor([y for _, _, y in rows]),
    )


class Gcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.near, self.own, self.out = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, batch):
        start, end = batch.edges
        gathered = torch.zeros(len(batch.x), 6).index_add(0, end, self.near(batch.x)[start])
        nodes = (gathered + self.own(batch.x)).relu()
        pooled = torch.zeros(batch.num_graphs, 6).index_add(0, batch.graph, nodes)
        return self.out(pooled)


def test_graphs():
    data = DataLoader(list(graphs()), 4, collate_fn=together)
    model = luz.setup(
        Gcn, nn.CrossEntropyLoss(), torch.optim.Adam, luz.metrics.Accuracy(),
        unpack=lambda batch: (batch, batch.y),
    ).set_opt_hparams(lr=0.01)  # fmt: skip

    module = by_hand(model)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses, accuracies = [], []
    for _ in range(EPOCHS):
        mean, right = Mean(), Mean()
        for batch in data:
            optimizer.zero_grad()
            output = module(batch)
            loss = F.cross_entropy(output, batch.y)
            loss.backward()
            optimizer.step()
            mean.add(loss, batch.num_graphs)
            right.add((output.argmax(1) == batch.y).float().mean(), batch.num_graphs)
        losses.append(mean.value)
        accuracies.append(right.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    assert_reported(fitted, accuracies, "acc")
    expected = torch.cat([module(batch) for batch in data]).detach()
    assert torch.equal(fitted.predict(data, verbose=False, accelerator=CPU), expected)
