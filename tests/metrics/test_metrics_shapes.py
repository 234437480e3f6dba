import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luzpy.metrics.shapes import aligned

lengths = st.lists(st.integers(2, 4), max_size=3)


def with_ones(shape, places):
    """`shape` with a 1 put in at each place."""
    longer = list(shape)
    for place in places:
        longer.insert(min(place, len(longer)), 1)
    return longer


@given(lengths, st.lists(st.integers(0, 3), max_size=3), st.lists(st.integers(0, 3), max_size=3))
def test_dimensions_of_length_one_do_not_matter(shape, here, there):
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(with_ones(shape, here))
    like = torch.zeros(with_ones(shape, there))
    result = aligned(tensor, like, "target", "preds")
    assert result.shape == like.shape
    assert torch.equal(result.flatten(), tensor.flatten())


@given(lengths, lengths)
def test_any_other_difference_is_refused(one, other):
    if one == other:
        return
    with pytest.raises(ValueError, match="`target` must have the shape of preds"):
        aligned(torch.zeros(one), torch.zeros(other), "target", "preds")
