"""Gradient clipping against norms computed by hand."""

import numpy as np
import pytest
import torch
from models import regression
from torch import nn

import luzpy as luz
from luzpy.callbacks.gradient_clip import GradientClip


class Net(nn.Module):
    """Two parts, one of which gets no gradient."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.used(x)


class TwoOptimizers(Net):
    def set_optimizers(self, lr):
        return {
            name: torch.optim.SGD([getattr(self.used, name)], lr) for name in ("weight", "bias")
        }


def data(rows=40):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, generator=generator)
    return x, 10 * torch.randn(rows, 2, generator=generator)


def model(module=Net, optimizer=torch.optim.SGD):
    return regression(module, optimizer, lr=0.1, seed=1)


def fit(spec, *callbacks, **options):
    options = {"epochs": 1, "verbose": False, "dataloader_options": {"batch_size": 8}} | options
    return spec.fit(data(), callbacks=list(callbacks), **options)


def gradients(ctx):
    parts = [p.grad.flatten() for p in ctx.model.parameters() if p.grad is not None]
    return torch.cat(parts).numpy().copy()


def before_and_after(clip, spec=None):
    """The gradients of all parameters in one vector, before and after `clip`, step by step."""
    found = {"before": [], "after": []}
    around = [
        luz.Callback.from_functions(
            on_train_batch_before_step=lambda ctx, key=key: found[key].append(gradients(ctx))
        )
        for key in found
    ]
    fit(model() if spec is None else spec, around[0], clip, around[1])
    return zip(found["before"], found["after"], strict=True)


# R: test-callbacks.R, "gradient clip works correctly"
def test_nothing_is_learned_with_a_norm_of_zero():
    fitted = fit(model(), GradientClip(max_norm=0), epochs=2, valid_data=data())
    valid = [row["loss"] for row in fitted.records["metrics"]["valid"]]
    assert valid[0] == valid[1]
    for ours, initial in zip(fitted.model.parameters(), model()().parameters(), strict=True):
        assert torch.equal(ours, initial)


@pytest.mark.parametrize(("norm_type", "order"), [(2, 2), (1.0, 1), (float("inf"), np.inf)])
def test_the_norm_over_all_parameters_is_clipped(norm_type, order):
    steps = list(before_and_after(GradientClip(1, norm_type)))
    assert len(steps) == 5
    for before, after in steps:
        norm = np.linalg.norm(before, order)
        assert norm > 1
        np.testing.assert_allclose(after, before / norm, rtol=1e-4)


def test_small_gradients_are_left_alone():
    for before, after in before_and_after(GradientClip(max_norm=1e6)):
        np.testing.assert_array_equal(before, after)


def test_the_norm_counts_the_parameters_of_every_optimizer():
    steps = list(before_and_after(GradientClip(1), model(TwoOptimizers, None)))
    assert len(steps) == 10
    for before, after in steps:
        assert len(before) == 4 * 2 + 2
        np.testing.assert_allclose(after, before / np.linalg.norm(before), rtol=1e-4)


# R: test-callbacks.R, "gradient clip works correctly"
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_norm": "a"}, TypeError),
        ({"norm_type": "a"}, TypeError),
        ({"max_norm": True}, TypeError),
        ({"max_norm": -1}, ValueError),
        ({"norm_type": 0}, ValueError),
        ({"norm_type": float("nan")}, ValueError),
    ],
)
def test_arguments_are_checked(arguments, error):
    with pytest.raises(error, match=f"`{next(iter(arguments))}` must be"):
        GradientClip(**arguments)


def test_a_whole_number_is_a_number():
    assert (GradientClip(max_norm=1).max_norm, GradientClip().norm_type) == (1, 2)


def test_values_are_clipped_one_by_one():
    for before, after in before_and_after(GradientClip(clip_value=0.5)):
        assert np.abs(before).max() > 0.5
        assert after == pytest.approx(np.clip(before, -0.5, 0.5))


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"clip_value": 0}, ValueError, "`clip_value` must be positive, got 0"),
        ({"clip_value": "x"}, TypeError, "`clip_value` must be"),
        ({"max_norm": 2, "clip_value": 1}, ValueError, "`clip_value` must be None where a norm"),
    ],
)
def test_wrong_clip_values_are_refused(options, kind, text):
    with pytest.raises(kind, match=text):
        GradientClip(**options)


def test_clip_value_is_printed():
    assert repr(GradientClip(clip_value=0.5)) == "<luzpy.callbacks.GradientClip: clip_value 0.5>"
