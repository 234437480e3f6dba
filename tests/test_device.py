"""The choice of a device, and the moves to it.

torch's `meta` device stands for a second device where there is no GPU: tensors really move there.
"""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import luzpy as luz
from luzpy.ground.nested import tensors_in, to_device

CPU = torch.device("cpu")
META = torch.device("meta")
Pair = namedtuple("Pair", "x y")


def test_cpu_is_always_there():
    accelerator = luz.Accelerator(cpu=True)
    assert accelerator.device == CPU
    assert repr(accelerator) == "<luzpy.Accelerator on cpu>"


def test_the_best_device_is_chosen():
    expected = "cpu"
    if torch.accelerator.is_available():
        expected = torch.accelerator.current_accelerator().type
    assert luz.Accelerator().device.type == expected


@pytest.mark.gpu
def test_a_cuda_device_is_chosen_by_its_index():
    assert luz.Accelerator(cuda_index=0).device == torch.device("cuda", 0)
    assert luz.Accelerator(cpu=True, cuda_index=0).device == CPU


@pytest.mark.parametrize("index", [-1, torch.cuda.device_count(), 99])
def test_a_cuda_index_that_is_not_there(index):
    count = torch.cuda.device_count()
    with pytest.raises(
        ValueError,
        match=rf"`cuda_index` must be the index of one of the {count} CUDA devices here, or None, "
        rf"got {index}\.",
    ):
        luz.Accelerator(cuda_index=index)


@pytest.mark.parametrize("index", ["0", 0.0, True])
def test_a_cuda_index_that_is_no_whole_number(index):
    with pytest.raises(TypeError, match=rf"`cuda_index` must be .*, got {index!r}\."):
        luz.Accelerator(cuda_index=index)


@pytest.mark.parametrize("name", ["cpu", "cpu:0", CPU])
def test_a_device_is_chosen_by_its_name(name):
    assert luz.Accelerator(device=name).device == CPU


@pytest.mark.parametrize("name", ["hpu:7", "meta", "nonsense", torch.device("xla", 3)])
def test_a_device_that_is_not_there(name):
    with pytest.raises(ValueError, match=rf"`device` must be one of .*cpu, got '{name}'\."):
        luz.Accelerator(device=name)


@pytest.mark.parametrize("name", [0, True, b"cpu"])
def test_a_device_that_is_no_name(name):
    with pytest.raises(TypeError, match=rf"`device` must be a torch.device, .*, got {name!r}\."):
        luz.Accelerator(device=name)


def test_one_device_is_chosen_in_one_way():
    with pytest.raises(ValueError, match=r"`device` must be None with cpu=True, got 'cpu'\."):
        luz.Accelerator(cpu=True, device="cpu")
    with pytest.raises(ValueError, match=r"`device` must be None with distributed=True, got 'cpu'"):
        luz.Accelerator(device="cpu", distributed=True)


@pytest.mark.gpu
def test_a_cuda_index_and_a_device_exclude_each_other():
    with pytest.raises(ValueError, match=r"`device` must be None with cuda_index=0, got 'cpu'\."):
        luz.Accelerator(cuda_index=0, device="cpu")


def test_the_model_is_moved():
    accelerator = luz.Accelerator(cpu=True)
    accelerator.device = META
    model = accelerator.prepare_model(nn.Linear(2, 1))
    assert {p.device for p in model.parameters()} == {META}


def test_without_placement_the_model_stays_and_batches_follow_it():
    accelerator = luz.Accelerator(device_placement=False, cpu=True)
    model = nn.Linear(2, 1, device="meta")
    assert accelerator.prepare_model(model) is model
    assert model.weight.device == META
    assert accelerator.device_of(model) == META
    assert accelerator.prepare_batch(torch.ones(2), META).device == META


def test_without_placement_a_model_without_parameters_changes_nothing():
    accelerator = luz.Accelerator(device_placement=False, cpu=True)
    accelerator.prepare_model(nn.ReLU())
    assert accelerator.device == CPU


def test_nothing_is_copied_on_the_same_device():
    x = torch.ones(2)
    assert luz.Accelerator(cpu=True).prepare_batch([x])[0] is x


def test_batches_keep_their_structure_on_the_way():
    # R: test-accelerator.R, "Device dataloader"
    x = torch.ones(2, 3)
    batch = ([x, (x,)], {"a": Pair(x, "name"), "b": OrderedDict(c=x)}, 3, None, "text")
    moved = to_device(batch, META)
    assert type(moved) is tuple
    assert type(moved[0]) is list
    assert type(moved[0][1]) is tuple
    assert type(moved[1]["a"]) is Pair
    assert moved[1]["a"].y == "name"
    assert moved[2:] == (3, None, "text")
    tensors = list(tensors_in(moved))
    assert [t.device for t in tensors] == [META] * 4
    assert {t.shape for t in tensors} == {x.shape}
    assert batch[0][0].device == CPU


def test_packed_sequences_are_moved_whole():
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = to_device(packed, META)
    assert type(moved) is PackedSequence
    assert moved.data.device == META
    assert torch.equal(moved.batch_sizes, torch.tensor([2, 2, 1]))  # stays on the CPU, for cuDNN


def test_named_results_of_torch_pass():
    result = to_device(torch.max(torch.eye(2), dim=1), CPU)
    assert torch.equal(result.values, torch.ones(2))
