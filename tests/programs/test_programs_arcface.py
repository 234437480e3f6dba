"""Embeddings of faces: the centre of each class is a parameter of the loss."""

import torch
from beside import CPU, Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 3


class ArcFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(0, 9, 12).cos().reshape(3, 4))

    def forward(self, embedding, target):
        cosine = F.normalize(embedding) @ F.normalize(self.centres).T
        angle = cosine.clamp(-0.999, 0.999).acos() + 0.2 * F.one_hot(target, 3)
        return F.cross_entropy(8 * angle.cos(), target)


def test_arcface():
    x = torch.randn(42, 5, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    data = DataLoader(TensorDataset(x, y), 8, shuffle=True)
    model = luz.setup(lambda: nn.Linear(5, 4), ArcFace(), torch.optim.AdamW)
    model = model.set_opt_hparams(lr=0.05)

    module, loss_fn = by_hand(model), ArcFace()
    optimizer = torch.optim.AdamW([*module.parameters(), *loss_fn.parameters()], lr=0.05)
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for images, names in data:
            optimizer.zero_grad()
            loss = loss_fn(module(images), names)
            loss.backward()
            optimizer.step()
            mean.add(loss, len(images))
        losses.append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    found = fitted.evaluate((x, y), verbose=False, accelerator=CPU, batch_size=42)["loss"]
    assert found == loss_fn(module(x), y).item()
