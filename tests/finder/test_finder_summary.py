"""The line below printed records: how the sweep ended, the suggestion, the range, the doubts."""

import numpy as np
import pytest

import luzpy as luz
from luzpy.finder.summary import ranges_disagree, warnings_of

LR = np.geomspace(1e-6, 1, 100)
X = np.log10(LR)


def curve(centre=-3.0, rise=-1.0, noise=0.0):
    """A plateau at 2, a fall to 0.2 around 10^centre, and a rise from 10^rise on."""
    fall = 1.8 / (1 + np.exp(-6 * (X - centre)))
    blow_up = np.exp(np.clip(8 * (X - rise), -50, 6))
    return 2 - fall + blow_up + noise * np.random.default_rng(1).standard_normal(len(X))


def records(*losses, stopped="completed"):
    columns = {"lr": np.tile(LR, len(losses)), "loss": np.concatenate(losses)}
    if len(losses) > 1:
        columns = {"run": np.repeat(np.arange(1, len(losses) + 1), len(LR)), **columns}
    return luz.LRRecords(columns, stopped=stopped)


def last_line(shown):
    return repr(shown).splitlines()[-1]


def test_a_good_curve_leaves_nothing_to_doubt():
    line = last_line(records(curve()))
    shown = records(curve())
    low, high = shown.suggestions().set_index("method").loc["range", ["low", "high"]]
    assert line == (f"Completed; suggestion {shown.suggest():.2g}; range {low:.2g} to {high:.2g}.")


@pytest.mark.parametrize("stopped", ["diverged", "not finite", "interrupted"])
def test_it_says_how_the_sweep_ended(stopped):
    assert last_line(records(curve(), stopped=stopped)).startswith(stopped.capitalize() + ";")


def test_a_loss_that_never_rises():
    assert last_line(records(curve(rise=5.0))).endswith("The loss never rose: raise end_lr.")


def test_a_loss_that_was_falling_before():
    falling = last_line(records(curve(centre=-5.8)))
    assert "The loss falls from the first rung on: lower start_lr." in falling


def test_few_rungs():
    few = luz.LRRecords({"lr": LR[::5], "loss": curve()[::5]})
    assert "Fewer than 30 rungs: raise steps." in last_line(few)


def test_no_suggestion_says_why():
    line = last_line(records(np.full(100, 2.0)))
    assert line.startswith("Completed; no suggestion: The loss never falls: it is the same")


def test_runs_with_a_range_in_common_and_without():
    near, far = [(LR, curve(-3.0)), (LR, curve(-2.8))], [(LR, curve(-4.5, -3.5)), (LR, curve(-2))]
    assert not ranges_disagree(near)
    assert ranges_disagree(far)
    assert any("without a rate in common" in doubt for doubt in warnings_of(far))


def test_the_finder_warns_of_runs_with_disjoint_ranges(monkeypatch):
    import torch

    x = torch.randn(64, 3)
    model = luz.setup(lambda: torch.nn.Linear(3, 1), torch.nn.MSELoss(), torch.optim.SGD)
    data = (x, x.sum(1, keepdim=True))
    monkeypatch.setattr("luzpy.finder.finder.ranges_disagree", lambda curves: len(curves) == 2)
    with pytest.warns(UserWarning, match="ranges of learning rates that have none in common"):
        model.lr_finder(data, 10, runs=2, verbose=False)


@pytest.mark.parametrize("part", [slice(0, 0), slice(0, 3)])
def test_parts_of_records_are_shown_all_the_same(part):
    assert repr(records(curve())[part])
    assert repr(records(curve())[["lr"]]).splitlines()[-1] == "[100 rows x 1 columns]"


def test_in_a_notebook_the_line_is_a_paragraph():
    html = records(curve())._repr_html_()
    assert "<table" in html
    assert html.rstrip().endswith("</p>")
    assert "Completed; suggestion" in html
