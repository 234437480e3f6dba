"""Boxes in images of different sizes: lists in, a list of dicts out."""

import torch
from beside import CPU, Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import luzpy as luz

EPOCHS = 3


class Detector(nn.Module):
    """As many boxes as an image has bright rows."""

    def __init__(self):
        super().__init__()
        self.score, self.box = nn.Linear(3, 1), nn.Linear(3, 4)

    def forward(self, images):
        found = []
        for image in images:
            rows = image.mean(2).T  # of every row the mean of each channel
            keep = rows.sum(1) > 0
            keep[0] = True
            found.append({"boxes": self.box(rows[keep]), "scores": self.score(rows[keep])[:, 0]})
        return found


def pictures():
    generator = torch.Generator().manual_seed(0)
    for row in range(14):
        image = torch.randn(3, 4 + row % 3, 5, generator=generator)
        yield image, {"box": torch.rand(4, generator=generator)}


def listed(rows):
    return tuple(zip(*rows, strict=True))


def loss(found, targets):
    values = [
        F.l1_loss(one["boxes"].mean(0), target["box"]) + one["scores"].sigmoid().mean()
        for one, target in zip(found, targets, strict=True)
    ]
    return torch.stack(values).mean()


def test_detection():
    data = DataLoader(list(pictures()), 4, collate_fn=listed)
    model = luz.setup(Detector, loss, torch.optim.SGD).set_opt_hparams(lr=0.1, momentum=0.9)

    module = by_hand(model)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for images, targets in data:
            optimizer.zero_grad()
            value = loss(module(images), targets)
            value.backward()
            optimizer.step()
            mean.add(value, len(images))
        losses.append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    found = fitted.predict(data, verbose=False, accelerator=CPU)
    assert len(found) == 14
    for (image, _), one in zip(pictures(), found, strict=True):
        (expected,) = module([image])
        assert torch.equal(one["boxes"], expected["boxes"])
        assert torch.equal(one["scores"], expected["scores"])
