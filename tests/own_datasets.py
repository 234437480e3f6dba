"""Datasets as users write them."""

import torch
from torch.utils.data import Dataset, IterableDataset


class Rows(Dataset):
    """A map-style dataset of a user's own."""

    def __init__(self, n_rows):
        self.n_rows = n_rows

    def __len__(self):
        return self.n_rows

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index


class Stream(IterableDataset):
    def __init__(self, n_rows=5):
        self.n_rows = n_rows

    def __iter__(self):
        return iter(torch.arange(float(self.n_rows)))
