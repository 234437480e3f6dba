"""Short training runs at rates around the suggestion, halved successively."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch.utils.data import DataLoader

from luzpy.data.dataset import length_of
from luzpy.data.loader import BATCH_SIZE, Options
from luzpy.finder.curves import Curves, paired, suggested_rates
from luzpy.finder.record_loss import Sweep
from luzpy.finder.runs import Runs
from luzpy.finder.verdict import Trial, Verdict, judge, rates_around, survivors
from luzpy.ground.errors import NoSuggestionError
from luzpy.ground.types import Data, Loader
from luzpy.verbs.prepare import prepare_data, prepare_model

# The last round is also run from other initial weights: the difference between two rates may be
# that of one draw.
LAST_SEEDS = 2
# How much is put aside to judge on, and how many batches of it are looked at at most.
SHARE, ROWS = 0.2, 1_000
MOST_BATCHES = 64


@attrs.frozen(kw_only=True)
class Confirmation:
    """The rounds of trainings of one call.

    Attributes:
        runs: How the sweep was run: the trainings are run alike.
        held_out: What they are judged on.
        rounds: How many.
        steps: How many steps each training of the last round has.
    """

    runs: Runs
    held_out: Data
    rounds: int
    steps: int

    def confirm(self, plain: float | None) -> tuple[list[Trial], Verdict | None]:
        """The trials and their verdict; None if the user or a callback stopped them.

        Args:
            plain: The suggestion of the curve. Without one the rates are spread over all that
                the sweep went through.
        """
        rates = self._spread() if plain is None else rates_around(plain, self.rounds)
        start = self._trials([0.0], 1, 1)
        if start is None:
            return [], None
        rounds: list[list[Trial]] = []
        for left in reversed(range(self.rounds)):
            steps = max(1, self.steps // 2**left)
            trials = self._trials(rates, steps, self._n_seeds() if left == 0 else 1)
            if trials is None:
                return [trial for trials in rounds for trial in trials], None
            rounds.append(trials)
            rates = survivors(trials, plain)
        every = [trial for trials in rounds for trial in trials]
        return every, judge(rounds, start[0].loss, plain)

    def _spread(self) -> list[float]:
        low, high = self.runs.rates[0], self.runs.rates[-1]
        return [float(rate) for rate in np.geomspace(low, high, 2**self.rounds)]

    def _n_seeds(self) -> int:
        try:
            prepare_model(self.runs.spec, self.runs.accelerator, 1)
        except ValueError:  # no other weights can be drawn
            return 1
        return LAST_SEEDS

    def _trials(self, rates: Sequence[float], steps: int, seeds: int) -> list[Trial] | None:
        """A training run per rate and set of initial weights; None if one was stopped."""
        pairs = [(lr, run) for run in range(seeds) for lr in rates]
        runs = attrs.evolve(self.runs, rates=[0.0] * steps, valid_data=None, stop_div=None)
        every = runs.trained(pairs, self.held_out)
        if every is None:
            return None
        seed = self.runs.spec.seed
        return [
            Trial(lr, steps, seed + run, np.array(found.losses), np.array(found.rows))
            for (lr, run), found in zip(pairs, every, strict=True)
        ]


def suggested(rates: Sequence[float], swept: Sequence[Sweep]) -> float | None:
    """What the curves of the sweeps suggest, if anything."""
    curves: Curves = []
    for one in swept:
        lr, loss = np.array(rates[: len(one.losses)]), np.array(one.losses)
        if one.initial_losses is not None:
            loss = paired(loss, np.array(one.initial_losses))
        curves.append((lr, loss))
    try:
        return float(np.median(suggested_rates(curves)))
    except NoSuggestionError:
        return None


def put_aside(
    data: Data, loader: Loader, options: Options | None, device: torch.device, seed: int
) -> tuple[Loader, Loader | None]:
    """The data in two parts, to train on and to judge on: a fifth, or about a thousand rows.

    Where fewer than a batch are left to train on, these are the batch.

    Raises:
        ValueError: If the data cannot be parted.
    """
    rows = length_of(loader.dataset)
    if isinstance(data, DataLoader) or rows is None:
        raise ValueError(
            "`valid_data` must be given with `confirm` for a DataLoader, or for data of unknown "
            "length: no rows can be held out."
        )
    share = min(SHARE, ROWS / rows)
    chosen, left = dict(options or {}), rows - int(rows * share)
    if "batch_sampler" not in chosen and (chosen.get("batch_size", BATCH_SIZE) or 0) > left:
        chosen["batch_size"] = left
    return prepare_data(data, share, chosen, device, seed)
