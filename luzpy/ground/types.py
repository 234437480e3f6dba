"""Names for what users' code passes and takes, which may be anything."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

Batch = Any
"""A batch, a part of one, or what a module makes of it."""
Data = Any
"""Whatever `fit` takes as data; see `as_dataset`."""
Values = dict[str, Any]
"""Values by name: a state dict, hyperparameters, options."""
Loader = DataLoader[Any]
"""A DataLoader over data of any kind."""
Rows = Dataset[Any]
"""A dataset of rows of any kind."""
Array = npt.NDArray[Any]
"""A NumPy array of any dtype and shape."""
Where = Any
"""Where tensors go: the `map_location` of `torch.load`."""
Primitive = Any
"""A tensor, a primitive value, or a nest of these, as it may stand in a file."""
