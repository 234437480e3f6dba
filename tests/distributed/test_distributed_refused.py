"""What cannot be done on several ranks."""

import pytest
import torch
from scenarios import FOLDER, RANK, SIZE, B, by_row, fit, rows, scenario, setup
from torch.utils.data import DataLoader

import luzpy as luz

pytestmark = pytest.mark.slow


@scenario("two")
def refused():
    import accelerate

    said = {}

    def note(name, function):
        try:
            function()
            said[name] = ""
        except Exception as err:
            said[name] = f"{type(err).__name__}: {err}"

    split = accelerate.DataLoaderConfiguration(split_batches=True)
    given = accelerate.Accelerator(cpu=True, dataloader_config=split)
    note("split", lambda: fit(rows(), accelerator=given))
    sampler = torch.utils.data.DistributedSampler(by_row(), SIZE, RANK)
    note("sampler", lambda: fit(DataLoader(by_row(), B, sampler=sampler)))
    note("default", lambda: setup().fit(rows(), 1, verbose=False))
    note("default finder", lambda: setup().lr_finder(rows(), 1))
    note("few", lambda: fit(DataLoader(by_row(5), 5, drop_last=True)))
    note(
        "batches",
        lambda: fit(rows(), callbacks=luz.callbacks.AutoResume(FOLDER / "none.pt", 2)),
    )
    note("cuda_index", lambda: luz.Accelerator(cuda_index=0, distributed=True))
    return said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("split", "ValueError: `accelerator` must have split_batches=False"),
        ("sampler", "ValueError: `data` must be a DataLoader over all rows"),
        ("default", "LuzError: This is one of 2 processes"),
        ("default finder", "LuzError: This is one of 2 processes"),
        ("few", "ValueError: `data` must give each of the 2 ranks at least one batch, got 1"),
        ("batches", "ValueError: `every_n_batches` must be None with several processes"),
        ("cuda_index", "ValueError: `cuda_index` must be"),
    ],
)
def test_what_cannot_be_done_is_refused_on_all_ranks(ranks, what, said):
    for found in ranks(refused, "two"):
        assert found[what].startswith(said)


@scenario("one two")
def engines_refused():
    """Engines of kinds that cannot be had on a CPU: one is told that it is of that kind."""
    import accelerate

    said = []
    given = accelerate.Accelerator(cpu=True)
    own = given.state.distributed_type
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        given.state.distributed_type = accelerate.DistributedType(kind)
        try:
            fit(rows(), accelerator=given)
        except ValueError as err:
            said.append(str(err))
    given.state.distributed_type = own
    return {"said": said}


@pytest.mark.parametrize("run", ["one", "two"])
def test_engines_that_luzpy_does_not_run_on_are_refused(ranks, run):
    for found in ranks(engines_refused, run):
        kinds = [said.rpartition(" ")[2] for said in found["said"]]
        assert kinds == ["FSDP.", "DEEPSPEED.", "MEGATRON_LM."]
