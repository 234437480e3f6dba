"""Changes of a nest of values, as a damaged or forged file may have them."""

import torch

ODD = [
    torch.zeros(0),
    torch.zeros(1).expand(10**6, 10**6),
    torch.zeros(1, 3, device="meta"),
    torch.zeros(1, 3, dtype=torch.complex64),
    torch.zeros(1, 3).to_sparse(),
    torch.full((1, 3), float("nan")),
    torch.tensor(3),
    None, True, -1, 10**30, float("inf"), "", "x" * 50, b"", [], {}, (), set(), 1j, {1: {2: 3}},
    [[[]]], {"numpy.ndarray": 3}, {"builtins.frozenset": [[1]]}, {"builtins.bytes": 1},
    {"numpy.ndarray": torch.zeros(2).to_sparse()}, torch.float16, torch.device("cuda:7"),
]  # fmt: skip
NAMES = ["other", 3, None, (1, (2,)), ""]


def changed(value, number, depth=0):
    """A copy of a nest with one thing in it replaced, renamed, removed or doubled."""
    if depth and number(3) == 0:
        return ODD[number(len(ODD) - 1)]
    what = number(4)
    if isinstance(value, dict) and value:
        key = list(value)[number(len(value) - 1)]
        made = {name: item for name, item in value.items() if what < 3 or name != key}
        if what < 3:
            made[key] = changed(value[key], number, depth + 1)
        elif what == 3:
            made[NAMES[number(len(NAMES) - 1)]] = value[key]
        return made
    if isinstance(value, (list, tuple)) and value:
        index = number(len(value) - 1)
        items = list(value)
        if what < 3:
            items[index] = changed(items[index], number, depth + 1)
        else:
            items[index : index + 1] = [items[index]] * (2 if what == 3 else 0)
        return type(value)(items)
    return ODD[number(len(ODD) - 1)]
