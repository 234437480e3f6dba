"""What several ranks find, against loops and numbers that are not luzpy's."""

import pytest
import torch
from scenarios import ROWS, binary_rows, class_rows, net, rows
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error, roc_auc_score
from torch.nn.utils import clip_grad_norm_

pytestmark = pytest.mark.slow


def trained_by_hand(rows_of_step):
    """Two epochs of SGD in order, with the gradients clipped; weights and norms."""
    torch.manual_seed(3)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    norms = []
    for _ in range(2):
        for x, y in zip(*(part.split(rows_of_step) for part in rows()), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            clip_grad_norm_(model.parameters(), 0.5)
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
            optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights, torch.stack(norms)


@pytest.mark.parametrize("run", ["one", "two"])
def test_gradients_are_clipped_when_all_are_in(ranks, run):
    """Four batches of each rank make a step, and the five rows that are left make one too."""
    weights, norms = trained_by_hand(4 * ROWS)
    for result in ranks(run):
        found = result["accumulated_and_clipped"]
        assert len(found["norms"]) == 6
        torch.testing.assert_close(found["norms"], norms, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["weights"].float(), weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("run", ["one", "two"])
def test_gradients_are_clipped_after_they_are_averaged(ranks, run):
    weights, _ = trained_by_hand(ROWS)
    for result in ranks(run):
        found = result["clipped"]["weights"].float()
        torch.testing.assert_close(found, weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("run", ["one", "two", "three", "accelerate"])
def test_predictions_are_the_models_rows_in_order(ranks, run):
    for result in ranks(run):
        found = result["in_memory"]
        model = net()
        sizes = [p.numel() for p in model.parameters()]
        parts = found["weights"].float().split(sizes)
        for parameter, part in zip(model.parameters(), parts, strict=True):
            parameter.data = part.reshape(parameter.shape)
        expected = model(rows()[0]).detach()
        for name in ("preds", "alone", "loaded"):
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
        assert sum(found["listed"]) == len(expected)


@pytest.mark.parametrize("run", ["one", "two", "three", "accelerate"])
def test_evaluation_counts_every_row_once(ranks, run):
    _, y = rows()
    for result in ranks(run):
        found = result["in_memory"]
        errors = (found["preds"] - y).double()
        expected = torch.stack((errors.square().mean(), errors.abs().mean()))
        torch.testing.assert_close(found["evaluation"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_what_is_returned_is_the_users_own_module(ranks, run):
    for result in ranks(run):
        assert result["in_memory"]["type"] == "Sequential"
        assert result["in_memory"]["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("run", ["one", "two", "three", "accelerate"])
def test_binary_metrics_are_sklearns(ranks, run):
    scores, target = (part.double().numpy() for part in binary_rows())
    area = roc_auc_score(target, scores)
    squared = mean_squared_error(target, scores)
    absolute = mean_absolute_error(target, scores)
    expected = {
        "loss": squared,
        "exact": area,
        "mae": absolute,
        "rmse": squared**0.5,
        "acc": accuracy_score(target, scores > 0.5),
        "absolute": absolute,
        "largest_value": scores.max(),
        "largest_rows": 101,
        "distinct_seen": len(set(scores)),
        "distinct_rows": 101,
        "distinct_square": (scores**2).mean(),
        "within": target.sum(),
        "tm_auc": area,
        "tm_mse": squared,
        "meanabsoluteerror": absolute,
    }
    for result in ranks(run):
        found = dict(result["binary_metrics"])
        assert found.pop("auc") == pytest.approx(area, abs=5e-3)  # at 200 thresholds
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("run", ["one", "two"])
def test_multiclass_metrics_are_sklearns(ranks, run):
    scores, target = (part.numpy() for part in class_rows())
    share = accuracy_score(target, scores.argmax(1))
    one_hot = torch.eye(3)[target]
    for result in ranks(run):
        found = result["class_metrics"]
        assert found["acc"] == pytest.approx(share)
        assert found["multiclassaccuracy"] == pytest.approx(share)
        for average in ("micro", "macro", "weighted"):
            area = roc_auc_score(one_hot, scores, average=average)
            assert found[f"{average}_none"] == pytest.approx(area, rel=1e-5)
            assert found[f"{average}_200"] == pytest.approx(area, abs=5e-3)


@pytest.mark.parametrize("run", ["one", "two"])
def test_a_rank_with_one_class_only_is_not_judged_by_itself(ranks, run):
    scores, _ = binary_rows()
    target = torch.arange(96) // 6 % 2
    area = roc_auc_score(target, scores[:96])
    for result in ranks(run):
        assert result["one_class_a_rank"]["exact"] == pytest.approx(area, rel=1e-5)
        assert result["one_class_a_rank"]["auc"] == pytest.approx(area, abs=5e-3)


@pytest.mark.parametrize("name", ["finder_one_rank_diverges", "finder_loss_raises_on_one_rank"])
@pytest.mark.parametrize("run", ["one", "two", "three"])
def test_the_loss_of_one_rank_stops_the_finder_on_all(ranks, run, name):
    """The last rank's rows of the seventh rung hold a value that is not a number."""
    for result in ranks(run):
        found = result[name]
        assert found["stopped"] == "not finite"
        assert len(found["loss"]) == 7
        assert found["loss"].isnan().tolist() == [False] * 6 + [True]


def test_the_finder_ends_where_a_diverged_models_loss_fails(ranks):
    for result in (*ranks("one"), *ranks("two")):
        found = result["finder_loss_raises"]
        assert found["stopped"] == "not finite"
        assert not found["loss"][-1].isfinite()
        assert found["loss"][:-1].isfinite().all()


def test_a_rung_is_a_step(ranks):
    """101 rows: eight batches of twelve, four steps of two batches."""
    for result in (*ranks("one"), *ranks("two")):
        assert len(result["finder_one_epoch"]["loss"]) == 8
        assert len(result["finder_accumulated"]["loss"]) == 4
        assert len(result["finder_several_runs"]["loss"]) == 50


@pytest.mark.parametrize("run", ["one", "two"])
def test_the_finder_leaves_the_random_state(ranks, run):
    assert all(result["finder_leaves_no_trace"]["same"] for result in ranks(run))


@pytest.mark.parametrize("run", ["one", "two"])
@pytest.mark.parametrize("name", ["bfloat16", "bfloat16_by_callback", "bfloat16_twice"])
def test_mixed_precision_applies_once(ranks, run, name):
    for result in ranks(run):
        found = result[name]
        assert found["dtypes"] == ["torch.bfloat16"]
        assert found["count"] == [1, 0]  # one callback, and no forward pass that Accelerate wraps
        assert found["pred_dtype"] == "torch.float32"
        assert torch.equal(found["weights"], result["bfloat16"]["weights"])
        torch.testing.assert_close(
            found["weights"], ranks("one")[0][name]["weights"], rtol=0.02, atol=0.01
        )


def test_float16_gradients_are_unscaled_before_they_are_clipped(ranks):
    for result in (*ranks("one"), *ranks("two")):
        found = result["float16_clipped"]
        before, after = found["norms"][0::2], found["norms"][1::2]
        assert (before > 0.1).all()
        torch.testing.assert_close(after, torch.full_like(after, 0.1), rtol=1e-3, atol=1e-5)
        assert found["scale"] == 256
        expected = ranks("one")[0]["float16_clipped"]["norms"]
        torch.testing.assert_close(found["norms"], expected, rtol=1e-2, atol=1e-3)


def test_a_step_that_is_skipped_leaves_the_others_averaged(ranks):
    expected = ranks("one")[0]["float16_skipped_step"]["weights"]
    for result in ranks("two"):
        found = result["float16_skipped_step"]["weights"]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_two_precisions_are_refused(ranks):
    for result in (*ranks("one"), *ranks("two")):
        said = result["two_precisions"]["said"]
        assert said.startswith("`mixed_precision` of the accelerator is torch.bfloat16")


def test_an_engine_of_accelerates_own_is_what_it_is_set_to(ranks):
    """In bfloat16 and with two batches a step; it comes out as it went in."""
    for result in ranks("accelerate"):
        found = result["engine"]
        assert found["dtypes"] == ["torch.bfloat16"]
        assert found["count"] == [1, 0]
        assert found["native_amp"]
        assert torch.equal(found["weights"], found["again"]["weights"])


def test_runs_in_a_row_open_nothing_that_stays(ranks):
    assert [result["engine"]["opened"] for result in ranks("accelerate")] == [0, 0]


def test_a_part_that_is_thawed_later_is_trained(ranks):
    still = ranks("two")[0]["frozen"]["body"].flatten().double()
    for result in ranks("two"):
        moved = result["unfrozen"]["weights"][: still.numel()]
        assert not torch.allclose(moved, still)


@pytest.mark.parametrize("name", ["own_step", "two_optimizers"])
def test_accumulation_needs_luzpys_own_step_and_one_optimizer(ranks, name):
    for result in (*ranks("one"), *ranks("two")):
        own_step, several = result["accumulation_refused"]["said"]
        said = own_step if name == "own_step" else several
        reason = "own `step`" if name == "own_step" else "2 optimizers"
        assert said.startswith("`accumulate` must be 1, got 2: ")
        assert reason in said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("split", "ValueError: `accelerator` must have split_batches=False"),
        ("sampler", "ValueError: `data` must be a DataLoader over all rows"),
        ("default", "LuzError: This is one of 2 processes"),
        ("default finder", "LuzError: This is one of 2 processes"),
        ("few", "ValueError: `data` must give each of the 2 ranks at least one batch, got 1"),
        ("batches", "LuzError: The callback AutoResume, on_fit_begin, failed"),
        ("cuda_index", "ValueError: `cuda_index` must be"),
    ],
)
def test_what_cannot_be_done_is_refused_on_all_ranks(ranks, what, said):
    for result in ranks("two"):
        assert result["refused"][what].startswith(said)


@pytest.mark.parametrize("run", ["one", "two"])
def test_engines_that_luzpy_does_not_run_on_are_refused(ranks, run):
    for result in ranks(run):
        kinds = [said.rpartition(" ")[2] for said in result["engines_refused"]["said"]]
        assert kinds == ["FSDP.", "DEEPSPEED.", "MEGATRON_LM."]


def test_the_precision_that_the_launcher_was_told(ranks):
    for result in ranks("bfloat16"):
        assert result["launchers_precision"]["dtypes"] == [torch.bfloat16, None]


def test_a_step_with_a_closure_is_refused_on_several_ranks(ranks):
    assert ranks("one")[0]["closure_refused"] == {"said": "", "stopped": "completed"}
    for result in ranks("two"):
        assert "without a closure" in result["closure_refused"]["said"]


def test_an_unused_parameter_is_an_error_that_says_so(ranks):
    for result in ranks("two"):
        assert "find_unused_parameters" in result["unused_parameter"]["said"]
