"""The same work by luzpy."""

from __future__ import annotations

import resource
import time
from itertools import pairwise
from typing import Any

import torch
from torch import nn

import luzpy as luz
from benchmarks.speed.raw import Go, Rows, own_loader_of
from benchmarks.speed.workloads import BATCH_SIZE, SWEEP, SWEEP_STEPS, W1, Data, Workload

METRICS = {nn.MSELoss: luz.metrics.MAE, nn.CrossEntropyLoss: luz.metrics.Accuracy}


def _specification(work: Workload, metrics: Any = None, wrap: Any = None) -> luz.LuzModule:
    module = work.model if wrap is None else lambda: wrap(work.model())
    made = luz.setup(module, work.make_loss(), work.make_optimizer, metrics)
    return made.set_opt_hparams(lr=work.lr)


def _training(work: Workload, data: Any, options: Any = None, **kwargs: Any) -> Go:
    model = _specification(work, **kwargs)
    return lambda: model.fit(data, epochs=work.epochs, dataloader_options=options).model


def fit(work: Workload, data: Data) -> Go:
    """`fit` as in the tutorial, with a metric; only the order is given, so that all have it."""
    metric = METRICS[work.make_loss]()
    return _training(work, data, {"shuffle": False}, metrics=metric)


def fit_shuffled(work: Workload, data: Data) -> Go:
    """The default: other batches, so another loss."""
    return _training(work, data, metrics=METRICS[work.make_loss]())


def fit_dataset(work: Workload, data: Data) -> Go:
    return _training(work, Rows(data), {"shuffle": False})


def fit_loader(work: Workload, data: Data) -> Go:
    return _training(work, own_loader_of(data))


def fit_compiled(work: Workload, data: Data) -> Go:
    return _training(work, data, {"shuffle": False}, wrap=torch.compile)


def lr_finder(work: Workload, data: Data) -> Go:
    model = _specification(work)

    def go() -> float:
        records = model.lr_finder(
            data, steps=SWEEP_STEPS, **SWEEP, dataloader_options={"shuffle": False}
        )
        return float(records["loss"].iloc[-1])

    return go


def _fitted(work: Workload, metrics: Any = None) -> luz.FittedModule:
    """A fitted model with the initial weights."""
    x, y = work.data()
    model = _specification(work, metrics).set_opt_hparams(lr=0.0)
    return model.fit((x[:BATCH_SIZE], y[:BATCH_SIZE]), epochs=1)


def evaluate(work: Workload, data: Data) -> Go:
    fitted = _fitted(work)
    return lambda: fitted.evaluate(data).records["metrics"]["valid"][0]["loss"]


def evaluate_with_metric(work: Workload, data: Data) -> Go:
    fitted = _fitted(work, METRICS[work.make_loss]())
    return lambda: fitted.evaluate(data).records["metrics"]["valid"][0]["loss"]


def predict(work: Workload, data: Data) -> Go:
    fitted = _fitted(work)
    return lambda: float(fitted.predict(data[0]).abs().mean())


class Pace(luz.Callback):
    """Seconds and peak memory at the end of every epoch."""

    def on_fit_begin(self, ctx: luz.Context) -> None:
        self.seconds = [time.perf_counter()]
        self.peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]

    def on_epoch_end(self, ctx: luz.Context) -> None:
        self.seconds.append(time.perf_counter())
        self.peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def long_run(seconds: float) -> dict[str, float]:
    """A run of as many steps as fit into `seconds`, in epochs of 10,000.

    Returns:
        How many steps; how many times as long the fastest epoch of the last tenth took as that
        of the second; how many times the peak memory of then there is at the end.
    """
    per_epoch, batch_size = 10_000, 4
    x, y = W1.data()
    rows = torch.arange(per_epoch * batch_size)
    data = (x[rows], y[rows])
    model = _specification(W1, luz.metrics.MAE())
    options = {"batch_size": batch_size}
    pace = Pace()
    model.fit(data, epochs=1, callbacks=[pace], dataloader_options=options)
    epochs = max(20, round(seconds / (pace.seconds[1] - pace.seconds[0])))
    model.fit(data, epochs=epochs, callbacks=[pace], dataloader_options=options)
    times = [end - begin for begin, end in pairwise(pace.seconds)]
    tenth = max(1, epochs // 10)
    return {
        "steps": epochs * per_epoch,
        "pace": min(times[-tenth:]) / min(times[tenth : 2 * tenth]),
        "memory": pace.peaks[-1] / pace.peaks[tenth],
    }
