"""Steps of several batches, and gradients that are clipped."""

import pytest
import torch
from scenarios import (
    ROWS,
    B,
    NetWithLoss,
    by_row,
    check_same,
    fit,
    net,
    options,
    outcome,
    place,
    rows,
    setup,
    training,
)
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

import luzpy as luz

pytestmark = pytest.mark.slow


@training("one two three")
def accumulated():
    model = setup(optimizer=torch.optim.Adam, lr=0.05)
    loader = options(drop_last=False)
    return outcome(fit(rows(), model, accelerator=place(accumulate=4), loader=loader))


@training("one two")
def large_batch():
    model = setup(optimizer=torch.optim.Adam, lr=0.05)
    return outcome(fit(rows(), model, loader=options(drop_last=False) | {"batch_size": 4 * B}))


def test_several_batches_make_the_step_of_one_large_batch(ranks):
    for run in ("one", "two"):
        (found, *_), (expected, *_) = ranks(accumulated, run), ranks(large_batch, run)
        check_same(found, expected, rtol=2e-5, atol=2e-6)


def trained_by_hand(rows_of_step):
    """Two epochs of SGD in order, with the gradients clipped; weights and norms."""
    torch.manual_seed(3)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    norms = []
    for _ in range(2):
        for x, y in zip(*(part.split(rows_of_step) for part in rows()), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            clip_grad_norm_(model.parameters(), 0.5)
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
            optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights, torch.stack(norms)


@training("one two")
def accumulated_and_clipped():
    """What a hand-written loop in the tests does, too."""
    torch.manual_seed(3)
    loader = DataLoader(by_row(), B)
    norms = []

    def note(ctx):
        parts = [p.grad.flatten() for p in ctx.model.parameters()]
        norms.append(torch.cat(parts).norm())

    callbacks = [luz.callbacks.GradientClip(0.5)]
    callbacks.append(luz.Callback.from_functions(on_train_batch_after_step=note))
    fitted = fit(loader, setup(net()), accelerator=place(accumulate=4), callbacks=callbacks)
    return outcome(fitted, norms=torch.stack(norms))


@pytest.mark.parametrize("run", ["one", "two"])
def test_gradients_are_clipped_when_all_are_in(ranks, run):
    """Four batches of each rank make a step, and the five rows that are left make one too."""
    weights, norms = trained_by_hand(4 * ROWS)
    for found in ranks(accumulated_and_clipped, run):
        assert len(found["norms"]) == 6
        torch.testing.assert_close(found["norms"], norms, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["weights"].float(), weights, rtol=1e-4, atol=1e-6)


@training("one two")
def clipped():
    torch.manual_seed(3)
    clip = luz.callbacks.GradientClip(0.5)
    return outcome(fit(DataLoader(by_row(), B), setup(net()), callbacks=clip))


@pytest.mark.parametrize("run", ["one", "two"])
def test_gradients_are_clipped_after_they_are_averaged(ranks, run):
    weights, _ = trained_by_hand(ROWS)
    for found in ranks(clipped, run):
        torch.testing.assert_close(found["weights"].float(), weights, rtol=1e-4, atol=1e-6)


@training("one two")
def accumulated_own_loss():
    fitted = fit(
        rows(),
        setup(NetWithLoss, loss=None),
        accelerator=place(accumulate=4),
        loader=options(drop_last=False),
    )
    return outcome(fitted)
