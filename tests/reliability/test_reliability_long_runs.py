"""Many runs in one process: what they take they give back."""

import gc
import multiprocessing
import os
import weakref
from contextlib import nullcontext

import pytest
import torch
from models import regression
from torch.utils.data import DataLoader, TensorDataset

import luzpy as luz

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

RUNS = 1000 if "LUZPY_SOAK" in os.environ else 60
DATA = (torch.zeros(64, 10), torch.zeros(64, 1))
MODEL = regression(10, torch.optim.Adam, lr=0.1)


def objects():
    gc.collect()
    return len(gc.get_objects())


def fit(folder):
    resume = luz.callbacks.AutoResume(folder / "state.pt")
    MODEL.fit(DATA, 2, callbacks=[resume], valid_data=0.25, verbose=False)


def find(folder):
    MODEL.lr_finder(DATA, steps=5, verbose=False)


def fail(folder):
    def stop(ctx):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        MODEL.fit(
            DATA, 1, callbacks=[luz.Callback.from_functions(on_train_end=stop)], verbose=False
        )


@pytest.mark.parametrize("run", [fit, find, fail])
def test_many_runs_leave_no_objects_behind(run, tmp_path):
    for _ in range(10):
        run(tmp_path)
    before = objects()
    for _ in range(RUNS):
        run(tmp_path)
    # a leak of one object a run would show; caches may hold a few
    assert objects() - before < RUNS / 2


@pytest.mark.parametrize("end", ["completed", "failed", "interrupted"])
def test_worker_processes_end_with_the_run(end):
    seen = []

    def look(ctx):
        seen.append(len(multiprocessing.active_children()))
        if end == "failed":
            raise RuntimeError
        if end == "interrupted":
            raise KeyboardInterrupt

    data = DataLoader(TensorDataset(*DATA), 16, num_workers=2)
    callbacks = [luz.Callback.from_functions(on_train_batch_end=look)]
    try:
        MODEL.fit(data, 1, callbacks=callbacks, verbose=False)
    except RuntimeError:
        assert end == "failed"
    gc.collect()
    assert seen[0] == 2
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("verb", ["fit", "lr_finder"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_context_of_a_run_is_let_go(verb, fails):
    kept = []

    def remember(ctx):
        kept.append(weakref.ref(ctx))
        if fails:
            raise RuntimeError

    callbacks = [luz.Callback.from_functions(on_train_begin=remember)]
    with pytest.raises(RuntimeError) if fails else nullcontext():
        getattr(MODEL, verb)(DATA, 2, callbacks=callbacks, verbose=False)
    gc.collect()
    assert kept
    assert [reference() for reference in kept] == [None] * len(kept)
