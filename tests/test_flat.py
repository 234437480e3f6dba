"""A long run costs a step what a short one does: nothing grows with the number of steps."""

import gc
import itertools
import statistics
import tracemalloc

import torch
from models import regression

import luzpy as luz


class AtBatches(luz.Callback):
    """Calls a function at some batches, and keeps what it gives."""

    def __init__(self, batches, function):
        self.batches, self.function = batches, function

    def on_fit_begin(self, ctx):
        self.found = []

    def on_train_batch_end(self, ctx):
        if ctx.iter in self.batches:
            gc.collect()
            self.found.append(self.function())


def run(n_batches, callbacks, epochs=1):
    x = torch.linspace(-1, 1, n_batches).reshape(-1, 1)
    metrics = [luz.metrics.MAE(), luz.metrics.RMSE(), lambda preds, target: 1.0]
    model = regression(1, metrics=metrics)
    options = {"batch_size": 1}
    return model.fit((x, x), epochs=epochs, callbacks=callbacks, dataloader_options=options)


def size_of(content):
    """How many values are in nested dicts and lists."""
    if isinstance(content, dict):
        return sum(map(size_of, content.values()))
    if isinstance(content, list):
        return sum(map(size_of, content))
    return 1


# Sums of batches are kept until there are 256: at equal distances from there as many are there.
EQUAL = [256 * n + 100 for n in range(2, 9)]  # torch makes some things at their first use


def growth(function):
    """How much what a function gives grows from one of these batches to the next.

    The median: what another thread of the test's process does shows once, a leak every time.
    """
    found = AtBatches(EQUAL, function)
    run(EQUAL[-1] + 1, [found])
    return statistics.median(late - early for early, late in itertools.pairwise(found.found))


def test_a_later_step_holds_no_more_objects_than_an_earlier_one():
    assert growth(lambda: len(gc.get_objects())) == 0


def test_a_later_step_holds_no_more_memory_than_an_earlier_one():
    tracemalloc.start()
    try:
        for _ in range(2):  # what is kept from the first use on fills up in the first run
            grown = growth(lambda: tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert grown < 256 * 8  # less than a pointer a step


def test_there_are_no_more_tensors_alive_later():
    assert growth(lambda: sum(type(item) is torch.Tensor for item in gc.get_objects())) == 0


def test_records_grow_with_epochs_not_with_steps():
    sizes = {
        (n, epochs): size_of(run(n, None, epochs=epochs).records)
        for n in (10, 300)
        for epochs in (1, 3)
    }
    assert sizes[10, 1] == sizes[300, 1]
    assert sizes[10, 3] == sizes[300, 3]
    # Of an epoch: the loss, three metrics, two timings and the rate; of the run: one timing.
    assert sizes[10, 3] - sizes[10, 1] == 2 * (4 + 2 + 1)
