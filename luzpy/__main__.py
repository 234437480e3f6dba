"""`python -m luzpy`: the main job on real data, the prices of 53,940 diamonds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from plotnine import data
from torch import nn

import luzpy as luz

GRADES = ("cut", "color", "clarity")
MEASURES = ("carat", "depth", "table", "x", "y", "z")
HELD_OUT = 5_000


class PriceNet(nn.Module):
    """A multilayer perceptron from a diamond's features to the logarithm of its price.

    Args:
        n_features: Columns of the input.
        n_hidden: Width of the two hidden layers.
    """

    def __init__(self, n_features: int, n_hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log prices of shape (N,) for features of shape (N, n_features)."""
        return self.layers(x).squeeze(1)


def prepare(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[float]]:
    """Features as numbers (grades by their rank), and the logarithm of the price."""
    grades = pd.DataFrame({grade: frame[grade].cat.codes for grade in GRADES}, dtype=float)
    features = pd.concat([frame[list(MEASURES)], grades], axis=1)
    return features, cast("pd.Series[float]", np.log(frame["price"].astype(float)))


def r_squared(y: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> float:
    """The share of the variance that is explained."""
    return 1 - float(((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def linear_model_r_squared(
    x: pd.DataFrame, y: pd.Series[float], new_x: pd.DataFrame, new_y: pd.Series[float]
) -> float:
    """What least squares on the same features reaches on the same held-out rows."""
    design = np.column_stack([np.ones(len(x)), x])
    coefficients, *_ = np.linalg.lstsq(design, y.to_numpy(), rcond=None)
    return r_squared(new_y.to_numpy(), np.column_stack([np.ones(len(new_x)), new_x]) @ coefficients)


def main(arguments: list[str] | None = None) -> None:
    """Find a learning rate, fit, evaluate, predict and plot."""
    parser = argparse.ArgumentParser(prog="python -m luzpy", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="where to write the plots")
    parser.add_argument("--epochs", type=int, default=8, help="how long to train")
    chosen = parser.parse_args(arguments)

    torch.manual_seed(1)  # pyright: ignore[reportUnknownMemberType]  (torch's own lacks types)
    features, log_price = prepare(cast(Any, data).diamonds)
    rows = np.random.default_rng(1).permutation(len(features))
    test, train = rows[:HELD_OUT], rows[HELD_OUT:]
    mean, spread = features.iloc[train].mean(), features.iloc[train].std()
    centre = float(log_price.iloc[train].mean())
    features, log_price = (features - mean) / spread, log_price - centre
    x, y = features.iloc[train], log_price.iloc[train]
    new_x, new_y = features.iloc[test], log_price.iloc[test]
    print(f"Diamonds: {len(x)} rows to train on, {len(new_x)} held out, {x.shape[1]} features.\n")

    model = luz.setup(
        PriceNet, loss=nn.MSELoss(), optimizer=torch.optim.Adam, metrics=luz.metrics.MAE()
    ).set_hparams(n_features=x.shape[1])
    options = {"batch_size": 64}

    print("Learning rates from 1e-5 to 1, one batch each:")
    records = model.lr_finder((x, y), start_lr=1e-5, end_lr=1, dataloader_options=options)
    lr = records.suggest()
    print(f"suggested learning rate: {lr:.2g}\n")

    fitted = model.set_opt_hparams(lr=lr).fit(
        (x, y), epochs=chosen.epochs, valid_data=0.1, verbose=True, dataloader_options=options
    )
    print(f"\n{fitted.evaluate((new_x, new_y), verbose=False)}\n")

    predicted = fitted.predict(new_x, verbose=False).numpy()
    prices = pd.DataFrame(
        {
            "price": np.exp(new_y + centre).round().astype(int),
            "predicted": np.exp(predicted + centre).round().astype(int),
        }
    )
    print(f"Five of the held-out diamonds, in dollars:\n{prices.head()}\n")
    print(f"R² on the held-out rows:   {r_squared(new_y.to_numpy(), predicted):.4f}")
    print(f"R² of a linear model:      {linear_model_r_squared(x, y, new_x, new_y):.4f}\n")

    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, figure in (
        ("lr_finder.png", records.plot(suggest=True)),
        ("history.png", fitted.plot()),
    ):
        path = (chosen.out / name).resolve()
        figure.save(path, dpi=150, verbose=False)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
