"""Names for what users' code gives and takes, which may be anything."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

Batch = Any
"""A batch, a part of one, or what a module makes of it."""
Data = Any
"""Whatever `fit` takes as data; see `as_dataset`."""
Values = dict[str, Any]
"""Values by name: a state dict, hyperparameters, options."""
Loader = DataLoader[Any]
"""A DataLoader over data of any kind."""
