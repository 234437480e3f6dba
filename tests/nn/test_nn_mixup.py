"""Mixup and its loss against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from luzpy.nn import MixupLoss, mixup


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cross_entropies(logits, classes):
    """Of each row, in NumPy."""
    z = logits.numpy().astype(np.float64)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return -log_p[np.arange(len(z)), classes.numpy()]


# R: test-callbacks-mixup.R, "mixup logic works"
def test_equal_items_stay_as_they_are():
    x, y = torch.ones(10, 768), torch.ones(10)
    mixed, ((y1, y2), weight) = mixup(x, y, torch.full((10, 1), 0.9))
    assert torch.equal(mixed, x)
    assert torch.equal(y1, y2)
    assert weight.shape == (10,)


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_each_item_is_blended_with_the_item_of_its_second_target(shape, dtype):
    x, y = randn(*shape), torch.arange(6).to(dtype)
    given = torch.tensor([0.0, 0.1, 0.5, 0.6, 0.9, 1.0])
    mixed, ((y1, y2), weight) = mixup(x, y, given)
    assert torch.equal(y1, y)
    assert sorted(y2.tolist()) == y.tolist()
    assert torch.equal(weight, given)
    x, w = x.numpy().reshape(6, -1), given.numpy()[:, None]
    expected = (1 - w) * x + w * x[y2.long().numpy()]
    np.testing.assert_allclose(mixed.numpy().reshape(6, -1), expected, rtol=1e-5, atol=1e-6)


def test_the_order_comes_from_the_global_generator():
    x, y, weight = randn(8, 2), torch.arange(8), torch.full((8,), 0.5)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(mixup(x, y, weight)[1][0][1].tolist())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(
    ("x", "y", "weight", "error", "message"),
    [
        (
            torch.ones(3, dtype=torch.uint8),
            torch.ones(3),
            torch.ones(3),
            TypeError,
            "`x` must be a f",
        ),
        ([1.0], torch.ones(1), torch.ones(1), TypeError, "`x` must be a tensor"),
        (torch.ones(3), None, torch.ones(3), TypeError, "`y` must be a tensor"),
        (torch.ones(3), torch.ones(2), torch.ones(3), ValueError, "`y` must have as many"),
        (torch.ones(3), torch.ones(3), torch.ones(2), ValueError, "`weight` must have one"),
    ],
)
def test_what_cannot_be_mixed_is_refused(x, y, weight, error, message):
    with pytest.raises(error, match=message):
        mixup(x, y, weight)


# R: test_losses.R, "nn_mixup_loss works when used with cross entropy"
@pytest.mark.parametrize("weight", [0.9, 1.0])
def test_both_targets_losses_are_combined(weight):
    input, first, second = randn(7, 4), torch.zeros(7).long(), torch.full((7,), 3)
    loss = MixupLoss(nn.CrossEntropyLoss(ignore_index=222))
    l1, l2 = cross_entropies(input, first), cross_entropies(input, second)
    found = loss(input, ((first, second), torch.full((7,), weight)))
    assert found.item() == pytest.approx((l1 + weight * (l2 - l1)).mean(), rel=1e-5)


# R luz multiplies every item's loss with every item's weight when the input is an image.
@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 1, 1, 1)])
def test_each_item_has_its_own_weight(shape):
    input, first, second = randn(7, 4), torch.arange(7) % 4, torch.arange(7) % 3
    weight = torch.linspace(0, 1, 7)
    found = MixupLoss(nn.CrossEntropyLoss())(input, ((first, second), weight.reshape(shape)))
    w, l1, l2 = weight.numpy(), cross_entropies(input, first), cross_entropies(input, second)
    assert found.item() == pytest.approx(((1 - w) * l1 + w * l2).mean(), rel=1e-5)


def test_each_item_has_its_own_weight_in_losses_with_more_dimensions():
    input, first, second = randn(3, 2, 4), randn(3, 2, 4, seed=1), randn(3, 2, 4, seed=2)
    weight = torch.tensor([0.5, 0.7, 1.0])
    found = MixupLoss(nn.MSELoss())(input, [[first, second], weight])
    p, a, b, w = input.numpy(), first.numpy(), second.numpy(), weight.numpy()[:, None, None]
    expected = ((1 - w) * (p - a) ** 2 + w * (p - b) ** 2).mean()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_segmentation_maps_are_weighed_by_image():
    input, first, second = (
        randn(2, 3, 4, 4),
        torch.zeros(2, 4, 4).long(),
        torch.ones(2, 4, 4).long(),
    )
    found = MixupLoss(nn.CrossEntropyLoss())(input, ((first, second), torch.tensor([0.0, 1.0])))
    expected = (F.cross_entropy(input[:1], first[:1]) + F.cross_entropy(input[1:], second[1:])) / 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_plain_targets_get_the_loss_as_it_was(reduction):
    input, target = randn(5, 3), torch.arange(5) % 3
    found = MixupLoss(nn.CrossEntropyLoss(reduction=reduction))(input, target)
    assert found.item() == F.cross_entropy(input, target, reduction=reduction).item()


def test_the_reduction_is_restored_after_an_error():
    inner = nn.CrossEntropyLoss()
    with pytest.raises(IndexError):
        MixupLoss(inner)(randn(2, 3), ((torch.tensor([0, 9]), torch.tensor([0, 1])), torch.ones(2)))
    assert inner.reduction == "mean"


def test_gradients_flow():
    input = randn(4, 3).requires_grad_()
    target = ((torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])), torch.full((4,), 0.5))
    MixupLoss(nn.CrossEntropyLoss())(input, target).backward()
    # The gradient of a cross entropy is softmax minus one-hot; of the mean, a quarter of it.
    one_hot = (F.one_hot(target[0][0], 3) + F.one_hot(target[0][1], 3)) / 2
    expected = (input.detach().softmax(1) - one_hot) / 4
    torch.testing.assert_close(input.grad, expected)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (F.cross_entropy, TypeError, "`loss` must be an nn.Module"),
        (nn.Linear(1, 1), ValueError, "`loss` must have an attribute `reduction`"),
    ],
)
def test_the_loss_is_checked(loss, error, message):
    with pytest.raises(error, match=message):
        MixupLoss(loss)
