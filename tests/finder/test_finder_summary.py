"""The line below printed records: how the sweep ended, the suggestion, the range, the doubts."""

import warnings

import numpy as np
import pytest

import luzpy as luz

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
    shown = records(curve())
    assert last_line(shown) == f"Completed; suggestion {shown.suggest():.2g}."
    assert shown.warnings == []


def test_of_several_runs_it_says_the_range_of_their_suggestions():
    shown = records(*shifted(-3.6, -3.3, -3.0, -2.7))
    low, lr, high = np.quantile(
        [records(c).suggest() for c in shifted(-3.6, -3.3, -3.0, -2.7)], [0.1, 0.5, 0.9]
    )
    assert last_line(shown) == (
        f"Completed; suggestion {lr:.2g}; {low:.2g} to {high:.2g} by 10 to 90 % of the runs."
    )


@pytest.mark.parametrize("stopped", ["diverged", "not finite", "interrupted"])
def test_it_says_how_the_sweep_ended(stopped):
    assert last_line(records(curve(), stopped=stopped)).startswith(stopped.capitalize() + ";")


def test_a_loss_that_never_rises():
    shown = records(curve(rise=5.0))
    assert last_line(shown).endswith("The loss never rose: raise end_lr.")
    assert shown.warnings == ["The loss never rose: raise end_lr"]


def test_a_loss_that_was_falling_before():
    falling = last_line(records(curve(centre=-5.8)))
    assert "The loss falls from the first rung on: lower start_lr." in falling


def test_few_rungs():
    few = luz.LRRecords({"lr": LR[::5], "loss": curve()[::5]})
    assert "Fewer than 30 rungs: raise steps." in last_line(few)


def test_no_suggestion_says_why():
    line = last_line(records(np.full(100, 2.0)))
    assert line.startswith("Completed; no suggestion: The loss never falls: it is the same")


def shifted(*centres):
    """Runs that suggest rates as far apart as their descents."""
    return [curve(centre, centre + 2) for centre in centres]


DOUBT = "The suggestion differs by more than a factor of 10 between initial weights: raise runs"


@pytest.mark.parametrize(
    ("centres", "doubted"),
    [
        # Their 10 % and 90 % quantiles are 0.96 and 1.04 decades apart.
        ([-4.2, -3.0], False),
        ([-4.3, -3.0], True),
        # One run of twenty lies apart: its range has no rate in common with any other.
        ([-3.0] * 19 + [-4.5], False),
        ([-3.0] * 10 + [-4.5] * 10, True),
    ],
)
def test_runs_are_doubted_where_their_suggestions_are_spread(centres, doubted):
    assert (DOUBT in last_line(records(*shifted(*centres)))) == doubted


def test_runs_without_a_suggestion_are_not_doubted_for_its_spread():
    assert DOUBT not in last_line(records(*[np.full(100, 2.0)] * 3))


def scaled(scale):
    """Needs a rate that is `scale` ** 2 times smaller."""
    import torch

    class Scaled(torch.nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            torch.nn.init.normal_(self.weight, std=0.1)
            self.scale = scale()

        def forward(self, x):
            return self.scale * super().forward(x)

    return Scaled


@pytest.mark.parametrize("spread", [False, True])
def test_the_finder_warns_of_runs_with_spread_suggestions(spread):
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 3, generator=generator)
    draw = (lambda: 10 ** float(2 * torch.rand(()) - 1)) if spread else (lambda: 1.0)
    model = luz.setup(scaled(draw), torch.nn.MSELoss(), torch.optim.SGD, seed=1)
    data = (x, x.sum(1, keepdim=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = model.lr_finder(data, 100, 1e-6, 10, runs=6, verbose=False)
    rates = [run.suggest() for _, run in found.groupby("run")]
    low, high = np.quantile(np.log10(rates), [0.1, 0.9])
    assert (high - low > 1) == spread
    said = [str(w.message) for w in caught if "depends on chance" in str(w.message)]
    assert len(said) == spread


@pytest.mark.parametrize("part", [slice(0, 0), slice(0, 3)])
def test_parts_of_records_are_shown_all_the_same(part):
    assert repr(records(curve())[part])
    assert repr(records(curve())[["lr"]]).splitlines()[-1] == "[100 rows x 1 columns]"


def test_in_a_notebook_the_line_is_a_paragraph():
    html = records(curve())._repr_html_()
    assert "<table" in html
    assert html.rstrip().endswith("</p>")
    assert "Completed; suggestion" in html
