"""Mixed precision, and engines of Accelerate's own."""

import os

import pytest
import torch
from models import TwoParts
from scenarios import fit, options, outcome, place, rows, scenario, setup
from torch import nn

import luzpy as luz

pytestmark = pytest.mark.slow


def precision(callbacks=None, **more):
    dtypes, count = [], []

    def look(ctx):
        inner = getattr(ctx.model, "module", ctx.model)
        inner[0].register_forward_hook(lambda m, args, out: dtypes.append(out.dtype))
        count.append(sum(isinstance(c, luz.callbacks.MixedPrecision) for c in ctx.callbacks))
        count.append(sum(hasattr(m, "_original_forward") for m in ctx.model.modules()))

    chosen = [luz.Callback.from_functions(on_fit_begin=look), *(callbacks or [])]
    fitted = fit(rows(), None, 1, callbacks=chosen, loader=options(), **more)
    preds = fitted.predict(rows()[0], callbacks, accelerator=more["accelerator"])
    kinds = sorted({str(dtype) for dtype in dtypes})
    return outcome(fitted, dtypes=kinds, count=count, pred_dtype=str(preds.dtype))


@scenario("one two")
def bfloat16():
    return precision(accelerator=place(mixed_precision="bf16"))


@scenario("one two")
def bfloat16_by_callback():
    callback = luz.callbacks.MixedPrecision(dtype=torch.bfloat16)
    return precision([callback], accelerator=place())


@scenario("one two")
def bfloat16_twice():
    callback = luz.callbacks.MixedPrecision(dtype=torch.bfloat16)
    return precision([callback], accelerator=place(mixed_precision="bf16"))


@pytest.mark.parametrize("run", ["one", "two"])
@pytest.mark.parametrize("scenario", [bfloat16, bfloat16_by_callback, bfloat16_twice])
def test_mixed_precision_applies_once(ranks, run, scenario):
    for found, plain in zip(ranks(scenario, run), ranks(bfloat16, run), strict=True):
        assert found["dtypes"] == ["torch.bfloat16"]
        assert found["count"] == [1, 0]  # one callback, and no forward pass that Accelerate wraps
        assert found["pred_dtype"] == "torch.float32"
        assert torch.equal(found["weights"], plain["weights"])
        torch.testing.assert_close(
            found["weights"], ranks(scenario, "one")[0]["weights"], rtol=0.02, atol=0.01
        )


@scenario("one two")
def float16_clipped():
    """The scaler's factor is taken out before the clipping, once over all ranks' gradients."""
    norms = []

    def note(ctx):
        norms.append(torch.cat([p.grad.flatten() for p in ctx.model.parameters()]).norm())

    callbacks = [
        luz.callbacks.MixedPrecision(dtype=torch.float16, init_scale=256.0),
        luz.Callback.from_functions(on_train_batch_before_step=note),
        luz.callbacks.GradientClip(0.1),
        luz.Callback.from_functions(on_train_batch_before_step=note),
    ]
    fitted = fit(rows(), None, 1, callbacks=callbacks, loader=options())
    return outcome(fitted, norms=torch.stack(norms), scale=callbacks[0].scaler.get_scale())


def test_float16_gradients_are_unscaled_before_they_are_clipped(ranks):
    for found in ranks(float16_clipped, "one", "two"):
        before, after = found["norms"][0::2], found["norms"][1::2]
        assert (before > 0.1).all()
        torch.testing.assert_close(after, torch.full_like(after, 0.1), rtol=1e-3, atol=1e-5)
        assert found["scale"] == 256
        expected = ranks(float16_clipped, "one")[0]["norms"]
        torch.testing.assert_close(found["norms"], expected, rtol=1e-2, atol=1e-3)


class TwoLines(TwoParts):
    """The first one's loss is too large once: its optimizer does not step."""

    def __init__(self):
        super().__init__(3)

    def forward(self, x):
        return x

    def loss(self, input, target):
        if self.ctx.opt_name == "two":
            return nn.functional.mse_loss(self.two(input), target)
        factor = float("inf") if self.ctx.iter == 1 else 1
        return nn.functional.mse_loss(self.one(input), target) * factor


@scenario("one two")
def float16_skipped_step():
    callback = luz.callbacks.MixedPrecision(dtype=torch.float16, init_scale=4.0)
    model = setup(TwoLines, None, loss=None, lr=0.05)
    return outcome(fit(rows(), model, 1, callbacks=callback, loader=options()))


def test_a_step_that_is_skipped_leaves_the_others_averaged(ranks):
    expected = ranks(float16_skipped_step, "one")[0]["weights"]
    for found in ranks(float16_skipped_step, "two"):
        torch.testing.assert_close(found["weights"], expected, rtol=1e-3, atol=1e-4)


@scenario("one two")
def two_precisions():
    callback = luz.callbacks.MixedPrecision(dtype=torch.float16)
    try:
        fit(rows(), callbacks=callback, accelerator=place(mixed_precision="bf16"))
    except ValueError as err:
        return {"said": str(err)}
    return {"said": ""}


def test_two_precisions_are_refused(ranks):
    for found in ranks(two_precisions, "one", "two"):
        assert found["said"].startswith("`mixed_precision` of the accelerator is torch.bfloat16")


@scenario("accelerate", first=True)
def engine():
    """An Accelerator of Accelerate's own, of whose precision all later ones must be."""
    import accelerate

    given = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    result = precision(accelerator=given)
    again = precision(accelerator=place(mixed_precision="bf16", accumulate=2))
    fitted = fit(rows(), None, 1, accelerator=given, loader=options())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        fitted.predict(rows()[0], accelerator=given)
        fitted.predict(rows()[0], accelerator=place())
    opened = len(os.listdir("/proc/self/fd")) - before
    return result | {"again": again, "opened": opened, "native_amp": given.native_amp}


def test_an_engine_of_accelerates_own_is_what_it_is_set_to(ranks):
    """In bfloat16 and with two batches a step; it comes out as it went in."""
    for found in ranks(engine, "accelerate"):
        assert found["dtypes"] == ["torch.bfloat16"]
        assert found["count"] == [1, 0]
        assert found["native_amp"]
        assert torch.equal(found["weights"], found["again"]["weights"])


def test_runs_in_a_row_open_nothing_that_stays(ranks):
    assert [found["opened"] for found in ranks(engine, "accelerate")] == [0, 0]


@scenario("bfloat16")
def launchers_precision():
    """What `accelerate launch` was told, where the program says nothing."""
    return {"dtypes": [place().dtype, place(mixed_precision="no").dtype]}


def test_the_precision_that_the_launcher_was_told(ranks):
    for found in ranks(launchers_precision, "bfloat16"):
        assert found["dtypes"] == [torch.bfloat16, None]
