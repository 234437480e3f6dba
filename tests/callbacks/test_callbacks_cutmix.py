"""CutMix in a run, pixel by pixel: every image is of one colour of its own."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import luzpy as luz
from luzpy.callbacks.cutmix import CutMix
from luzpy.nn import MixupLoss

ROWS, SIZE = 24, 12


class Net(nn.Module):
    def __init__(self, outputs=ROWS):
        super().__init__()
        self.fc = nn.Linear(2 * SIZE * SIZE, outputs)

    def forward(self, x):
        return self.fc(x.flatten(1)) / 100


def images(rows=ROWS):
    """Image i has the colour i everywhere; its class is i."""
    colours = torch.arange(rows)
    return colours.float()[:, None, None, None].expand(rows, 2, SIZE, SIZE), colours


class Spy(luz.Callback):
    def __init__(self):
        self.train, self.valid = [], []

    def on_train_batch_after_loss(self, ctx):
        self.train.append((ctx.input, ctx.target, ctx.pred.detach(), ctx.loss["opt"].item()))

    def on_valid_batch_after_loss(self, ctx):
        self.valid.append((ctx.input, ctx.target, ctx.pred, ctx.loss["opt"].item()))


def fit(*callbacks, loss=None, target=None, valid_data=None, batch_size=8, rows=ROWS, x=None):
    images_, colours = images(rows)
    model = luz.setup(Net, loss or nn.CrossEntropyLoss(), torch.optim.SGD).set_opt_hparams(lr=1e-3)
    return model.fit(
        (images_ if x is None else x, colours if target is None else target), 3, list(callbacks),
        valid_data, verbose=False, dataloader_options={"batch_size": batch_size},
    )  # fmt: skip


def test_the_weight_is_the_area_of_the_other_image():
    torch.manual_seed(0)
    spy = Spy()
    fit(CutMix(auto_loss=True), spy)
    weights = set()
    for x, ((own, other), weight), _, _ in spy.train:
        assert x.shape == (8, 2, SIZE, SIZE)
        assert weight.shape == (8,)
        for image, first, second, share in zip(x, own, other, weight, strict=True):
            assert (image == second).float().mean().item() == pytest.approx(share.item(), abs=1e-6)
            assert ((image == first) | (image == second)).all()
            pasted = torch.nonzero(image[0] == second)
            if len(pasted):  # one rectangle, in every channel
                sides = pasted.max(0).values - pasted.min(0).values + 1
                assert sides.prod() == len(pasted)
                assert torch.equal(image[0], image[1])
        weights.add(weight[0].item())
    assert len(weights) > 3


def test_the_loss_is_that_of_mixed_targets():
    spy = Spy()
    fit(CutMix(auto_loss=True), spy, valid_data=images())
    for _, ((own, other), weight), pred, value in spy.train:
        z = pred.numpy().astype(np.float64)
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        rows, w = np.arange(8), weight.numpy()
        expected = -((1 - w) * log_p[rows, own] + w * log_p[rows, other]).mean()
        assert value == pytest.approx(expected, rel=1e-4)
    for _, target, pred, value in spy.valid:
        assert value == pytest.approx(F.cross_entropy(pred, target).item(), rel=1e-5)


@pytest.mark.parametrize("run_valid", [False, True])
def test_validation_batches_are_mixed_if_asked_to(run_valid):
    spy = Spy()
    fit(CutMix(run_valid=run_valid, auto_loss=True), spy, valid_data=images())
    assert {isinstance(target, tuple) for _, target, _, _ in spy.valid} == {run_valid}


def test_the_loss_for_mixed_targets_can_be_given():
    fitted = fit(CutMix(), loss=MixupLoss(nn.CrossEntropyLoss()))
    assert len(fitted.records["metrics"]["train"]) == 3


def test_float_targets():
    spy, target = Spy(), torch.eye(ROWS)
    fit(CutMix(auto_loss=True), spy, target=target)
    for x, ((own, other), _), _, _ in spy.train:
        assert torch.equal(own.sum(1), torch.ones(8))
        for image, first, second in zip(x, own.argmax(1), other.argmax(1), strict=True):
            assert set(image.unique().tolist()) <= {float(first), float(second)}


def test_a_batch_of_one_image_stays_as_it_is():
    spy = Spy()
    fit(CutMix(auto_loss=True), spy, batch_size=1, rows=2)
    for x, ((own, other), weight), _, _ in spy.train:
        assert torch.equal(own, other)
        assert weight.item() == 0
        assert (x == own.item()).all()


def test_the_users_images_are_not_changed():
    x = images()[0].clone()
    fit(CutMix(auto_loss=True), x=x)
    assert torch.equal(x, images()[0])


def test_what_is_not_a_batch_of_images_is_refused():
    with pytest.raises(ValueError, match=r"`x` must be a batch of images, .* \(8, 288\)"):
        fit(CutMix(auto_loss=True), x=images()[0].flatten(1))


@pytest.mark.parametrize("alpha", [0, -1.0])
def test_alpha_is_positive(alpha):
    with pytest.raises(ValueError, match="`alpha` must be"):
        CutMix(alpha)
