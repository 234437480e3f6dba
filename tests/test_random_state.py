"""The global random state: read, restored, preserved, seeded."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from luzpy.ground.random_state import RandomState, generators_in, preserved_random_state, seed_all


def draws():
    """A few numbers from every global generator."""
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.random(),
        np.random.standard_normal(),  # keeps half of a pair back in the state
        torch.rand(()).item(),
        torch.randn(()).item(),
    )


def test_a_restored_state_draws_the_same_numbers():
    draws()  # so that gauss and standard_normal hold a number back
    state = RandomState.current()
    first = draws(), draws()
    state.restore()
    assert (draws(), draws()) == first


def test_a_state_is_a_copy_and_can_be_restored_again():
    state = RandomState.current()
    first = draws()
    for _ in range(700):  # past a whole block of the Mersenne twister
        draws()
    state.restore()
    assert draws() == first
    state.restore()
    assert draws() == first


def test_a_state_comes_back_from_a_file(tmp_path):
    draws()
    state = RandomState.current()
    first = draws()
    torch.save(state.to_primitives(), tmp_path / "state.pt")
    RandomState.from_primitives(torch.load(tmp_path / "state.pt", weights_only=True)).restore()
    assert draws() == first


def test_reading_the_state_draws_nothing():
    seed_all(3)
    expected = draws()
    seed_all(3)
    RandomState.current()
    assert draws() == expected


def test_the_state_is_preserved_over_a_block():
    seed_all(3)
    expected = draws()
    seed_all(3)
    with preserved_random_state():
        seed_all(9)
        draws()
    assert draws() == expected


def fail_after_draws():
    with preserved_random_state():
        draws()
        raise KeyError("x")


def test_the_state_is_preserved_after_an_exception():
    seed_all(3)
    expected = draws()
    seed_all(3)
    with pytest.raises(KeyError):
        fail_after_draws()
    assert draws() == expected


def test_the_block_gets_the_state_at_its_start():
    with preserved_random_state() as state:
        first = draws()
        state.restore()
        assert draws() == first


def test_seed_all_seeds_each_generator_as_its_own_library_does():
    seed_all(42)
    assert random.random() == random.Random(42).random()
    assert np.random.random() == np.random.RandomState(42).random_sample()
    generator = torch.Generator().manual_seed(42)
    assert torch.rand(()).item() == torch.rand((), generator=generator).item()


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_every_seed_that_torch_takes_works(seed):
    seed_all(seed)
    first = draws()
    seed_all(seed)
    assert draws() == first


def held(loader):
    """The generators found in a loader, in no order."""
    return sorted(id(generator) for generator in generators_in({"loader": loader}).values())


def test_the_generators_of_a_loader_each_once():
    own, samplers, inner = (torch.Generator() for _ in range(3))
    rows = range(8)
    assert held(DataLoader(rows, 2, shuffle=True, generator=own)) == [id(own)]
    sampler = RandomSampler(rows, generator=samplers)
    both = DataLoader(rows, 2, sampler=sampler, generator=own)
    assert held(both) == sorted([id(own), id(samplers)])
    batched = BatchSampler(RandomSampler(rows, generator=inner), 2, False)
    assert held(DataLoader(rows, batch_sampler=batched)) == [id(inner)]
    assert held(DataLoader(rows, 2, shuffle=True)) == []
    assert held([1, 2]) == []


def test_a_state_of_luzpy_0_1_is_read():
    state = RandomState.current()
    fields = state.to_primitives()
    del fields["torch_devices"]
    expected = draws()
    of_cuda, of_mps = torch.arange(3), torch.arange(4)
    for cuda, mps, devices in (
        ([], None, {}),
        ([of_cuda], None, {"cuda": [of_cuda]}),
        ([], of_mps, {"mps": [of_mps]}),
    ):
        read = RandomState.from_primitives({**fields, "torch_cuda": cuda, "torch_mps": mps})
        assert read.torch_devices == devices
    read = RandomState.from_primitives({**fields, "torch_cuda": [], "torch_mps": None})
    read.restore()
    assert draws() == expected
