"""Images of three classes: a network with batch norm and dropout, a schedule, validation."""

import torch
from beside import Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

EPOCHS = 3


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2),
            nn.Flatten(), nn.Linear(4 * 9, 3),
        )  # fmt: skip


def images(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (rows,), generator=generator)
    x = torch.randn(rows, 1, 8, 8, generator=generator)
    return TensorDataset(x + y.reshape(-1, 1, 1, 1), y)


def test_cnn():
    train = DataLoader(images(70, 1), 16, shuffle=True)
    valid = DataLoader(images(30, 2), 16)
    model = luz.setup(Net, nn.CrossEntropyLoss(), torch.optim.Adam, luz.metrics.Accuracy())
    model = model.set_opt_hparams(lr=0.01)

    module = by_hand(model)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    losses, valid_losses, accuracies = [], [], []
    for _ in range(EPOCHS):
        module.train()
        mean = Mean()
        for x, y in train:
            optimizer.zero_grad()
            loss = F.cross_entropy(module(x), y)
            loss.backward()
            optimizer.step()
            mean.add(loss, len(x))
        losses.append(mean.value)
        module.eval()
        mean, right = Mean(), 0
        with torch.no_grad():
            for x, y in valid:
                output = module(x)
                mean.add(F.cross_entropy(output, y), len(x))
                right += int((output.argmax(1) == y).sum())
        valid_losses.append(mean.value)
        accuracies.append(right / 30)
        scheduler.step()

    schedule = luz.callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, 1, gamma=0.5)
    fitted = fit(model, train, EPOCHS, valid_data=valid, callbacks=schedule)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
    assert_reported(fitted, valid_losses, split="valid")
    assert_reported(fitted, accuracies, "acc", "valid")
