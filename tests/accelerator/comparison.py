"""The same on the CPU and on the accelerator."""

import math

import simulated
import torch

import luzpy as luz
from luzpy.ground.nested import tensors_in

SEED = 11
IN_HALF = 0.05  # how far apart results in half precision may be


def is_real(device):
    """Whether its kernels are its own."""
    return device.type != simulated.NAME


def on_both(function, **options):
    """What a function of an accelerator gives on the CPU and on the device, from the same seed."""
    results = []
    for cpu in (True, False):
        torch.manual_seed(SEED)
        results.append(function(luz.Accelerator(cpu=cpu, **options)))
    return results


def assert_same(expected, found, device, tolerance=None):
    """To rounding on the simulated device, whose kernels are the CPU's; nearly so on a real one.

    Not bit for bit: BLAS may add in another order where memory is aligned otherwise.
    """
    if tolerance is None:
        tolerance = 1e-3 if is_real(device) else 1e-6
    if isinstance(expected, dict):
        assert list(expected) == list(found)
        for key in expected:
            assert_same(expected[key], found[key], device, tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            assert_same(one, other, device, tolerance)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(
            found.cpu(), expected.cpu(), rtol=tolerance, atol=tolerance, equal_nan=True
        )
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance) or (
            math.isnan(found) and math.isnan(expected)
        )
    else:
        assert found == expected


def outcome(fitted):
    """What a run has come to: metrics of every epoch, and weights."""
    return fitted.records["metrics"], weights(fitted.model)


def weights(model):
    return dict(model.state_dict())


def devices(obj):
    return {tensor.device for tensor in tensors_in(obj)}
