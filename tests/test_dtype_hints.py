"""An input whose dtype the module's weights cannot take: the note says what to write."""

import numpy as np
import pandas as pd
import pytest
import torch
from models import regression
from torch import nn

IMAGES = torch.zeros(8, 1, 4, 4, dtype=torch.uint8)
Y = torch.zeros(8, 1)


def note(data, module=3):
    with pytest.raises(RuntimeError) as caught:
        regression(module).fit(data, 1, batch_size=4, verbose=False)
    return "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    "x", [pd.DataFrame(np.ones((8, 3), int)), np.ones((8, 3), int)], ids=["frame", "array"]
)
def test_whole_numbers_in_a_frame(x):
    assert "torch.int64, and the module's weights torch.float32: give `x.float()`, or" in note(
        (x, Y)
    )
    assert '`x.astype("float32")`' in note((x, Y))
    regression(3).fit((x.astype("float32"), Y), 1, batch_size=4, verbose=False)


def test_bytes_of_images():
    def net():
        return nn.Sequential(nn.Conv2d(1, 1, 4), nn.Flatten())

    assert "torch.uint8, and the module's weights torch.float32: give `x.float()`" in note(
        (IMAGES, Y), net
    )


def test_a_tensor_of_doubles():
    x = torch.zeros(8, 3, dtype=torch.float64)
    assert "has torch.float64, and the module's weights torch.float32: give `x.float()`." in note(
        (x, Y)
    )
    fitted = regression(lambda: nn.Linear(3, 1).double()).fit((x, Y.double()), 1, batch_size=4)
    assert fitted.predict(x).dtype is torch.float64


def test_token_ids_stay_whole():
    def net():
        return nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 1))

    ids = pd.DataFrame({"a": [0, 1, 2, 3] * 2, "b": [4, 3, 2, 1] * 2})
    regression(net).fit((ids, Y), 1, batch_size=4, verbose=False)


def test_another_mistake_has_no_such_note():
    assert "give `" not in note((torch.zeros(8, 2), Y))
