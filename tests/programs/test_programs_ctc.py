"""Speech without alignment: inputs of time steps first, targets one after another, CTC."""

import torch
from beside import Mean, assert_reported, assert_same_weights, by_hand, fit
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import luzpy as luz

EPOCHS = 3


class Recognizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 8)
        self.letters = nn.Linear(8, 4)

    def forward(self, x):
        return self.letters(self.rnn(x)[0]).log_softmax(2)


def utterances():
    generator = torch.Generator().manual_seed(0)
    for row in range(10):
        steps = 30 if row < 6 else 8
        x = torch.randn(steps, 5, generator=generator)
        yield x, torch.randint(1, 4, (2 + row % 3,), generator=generator)


def joined(rows):
    """Four parts: (T, N, C), all targets in one vector, and the lengths of both."""
    xs, ys = zip(*rows, strict=True)
    lengths = [torch.tensor([len(part) for part in parts]) for parts in (xs, ys)]
    return nn.utils.rnn.pad_sequence(list(xs)), torch.cat(ys), *lengths


def ctc(pred, target):
    return F.ctc_loss(pred, *target)


def unpack(batch):
    x, y, x_lengths, y_lengths = batch
    return x, (y, x_lengths, y_lengths), len(x_lengths)


def test_ctc():
    data = DataLoader(list(utterances()), 4, collate_fn=joined)
    model = luz.setup(Recognizer, ctc, torch.optim.Adam, unpack=unpack).set_opt_hparams(lr=0.01)

    module = by_hand(model)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(EPOCHS):
        mean = Mean()
        for x, y, x_lengths, y_lengths in data:
            optimizer.zero_grad()
            loss = F.ctc_loss(module(x), y, x_lengths, y_lengths)
            loss.backward()
            optimizer.step()
            mean.add(loss, len(x_lengths))
        losses.append(mean.value)

    fitted = fit(model, data, EPOCHS)
    assert_same_weights(fitted, module)
    assert_reported(fitted, losses)
