"""A model of which each rank holds a part, against one process that holds it whole."""

import contextlib
import unittest.mock

import pytest
import torch
from models import OwnLoss
from scenarios import FOLDER, SIZE, fit, options, outcome, place, rows, scenario, setup, weights

import luzpy as luz
from luzpy.files.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


def fsdp():
    """FSDP of version 2, which Accelerate has for GPUs only: it is told to take it here, too."""
    if SIZE == 1:
        return place()
    import accelerate

    plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2)
    given = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    given.state.distributed_type = accelerate.DistributedType.FSDP
    given.state.fsdp_plugin = plugin
    return given


@scenario("one spread")
def spread():
    kinds = []

    def note(ctx):
        kinds.append(type(ctx.optimizers["opt"].param_groups[0]["params"][0]).__name__)

    def fail(ctx):
        if ctx.epoch == 3:
            raise RuntimeError("on purpose")

    def run(path, on_epoch_begin):
        callbacks = [
            luz.callbacks.AutoResume(path),
            luz.callbacks.GradientClip(0.5),
            luz.callbacks.KeepBestModel("valid_loss"),
            luz.callbacks.ModelCheckpoint(FOLDER / "spread/{epoch}.pt"),
            luz.Callback.from_functions(on_epoch_begin=on_epoch_begin),
        ]
        model = setup(optimizer=torch.optim.Adam, lr=0.05, metrics=[luz.metrics.MAE()])
        data = {"valid": 0.2, "loader": options(drop_last=False)}
        return fit(rows(), model, 4, accelerator=fsdp(), callbacks=callbacks, **data)

    unbroken = run(FOLDER / "unbroken.pt", note)
    with contextlib.suppress(RuntimeError):
        run(FOLDER / "broken.pt", fail)
    resumed = run(FOLDER / "broken.pt", note)
    torch.manual_seed(11)
    records = setup().lr_finder(
        rows(), 20, end_lr=1, accelerator=fsdp(), dataloader_options=options(), verbose=False
    )
    return outcome(
        unbroken,
        kinds=kinds,
        names=list(unbroken.model.state_dict()),
        resumed=weights(resumed),
        losses=torch.tensor(records["loss"].tolist()),
        preds=unbroken.predict(rows()[0], accelerator=fsdp(), verbose=False),
    )


@pytest.fixture
def expected(ranks):
    return ranks(spread, "one")[0]


@pytest.fixture(params=[0, 1])
def found(ranks, request):
    return ranks(spread, "spread")[request.param]


def test_each_rank_holds_a_part(found):
    assert set(found["kinds"]) == {"DTensor"}


@pytest.mark.parametrize("what", ["metrics", "weights", "losses", "preds"])
def test_training_is_that_of_one_process(found, expected, what):
    torch.testing.assert_close(found[what], expected[what], rtol=1e-4, atol=1e-5)


def test_the_fitted_model_is_whole_and_plain(found):
    assert found["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_run_that_fails_goes_on_as_the_unbroken_one(found):
    assert torch.equal(found["resumed"], found["weights"])


def test_checkpoints_hold_whole_tensors(launched):
    parts, alone = (read_checkpoint(launched(run) / "spread/4.pt") for run in ("spread", "one"))
    assert list(parts["model"]) == list(alone["model"])
    for name, tensor in alone["model"].items():
        torch.testing.assert_close(parts["model"][name], tensor, rtol=1e-4, atol=1e-5)


@scenario("spread")
def spread_refused():
    said = []
    for model, callbacks in (
        (setup(OwnLoss, loss=None), None),
        (setup(), luz.callbacks.MixedPrecision()),
        (setup(), luz.callbacks.TFEvents(FOLDER / "logs", histograms=True)),
    ):
        try:
            fit(rows(), model, 1, accelerator=fsdp(), callbacks=callbacks, loader=options())
        except (ValueError, luz.LuzError) as err:
            said.append(str(err))
    with unittest.mock.patch("luzpy.distributed.accelerator.new_accelerate", return_value=fsdp()):
        try:
            place(mixed_precision="bf16")
        except ValueError as err:
            said.append(str(err))
    return {"said": said}


def test_what_it_cannot_train_is_refused(ranks):
    for found in ranks(spread_refused, "spread"):
        own_loss, precision, histograms, other = found["said"]
        assert "must not use FSDP for a module with its own `step` or `loss`" in own_loss
        assert "must not hold MixedPrecision with FSDP" in precision
        assert "`histograms` must be False with FSDP" in histograms
        assert "`mixed_precision` must be passed to the launcher for FSDP, got 'bf16'" in other
