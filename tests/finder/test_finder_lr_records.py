import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest

import luzpy as luz

LR = np.geomspace(1e-6, 1, 61)[1:]
METHODS = ["descent", "valley", "minimum", "steepest", "slide"]


def curve(center):
    x = np.log10(LR) - center
    return 2 - 1 / (1 + np.exp(-4 * x)) + np.clip(x - 1, 0, None) ** 2


def averaged(loss, beta=0.9):
    """The bias-corrected exponential average, from its definition."""
    weights = beta ** np.arange(len(loss))
    return np.array(
        [weights[:n] @ loss[:n][::-1] / weights[:n].sum() for n in range(1, len(loss) + 1)]
    )


def records(stopped="diverged"):
    return luz.LRRecords({"lr": LR, "loss": curve(-3)}, stopped=stopped)


CENTERS = [-3.6, -3.3, -3.0, -2.7, -2.4]


def runs(centers=CENTERS):
    return luz.LRRecords(
        {
            "run": np.repeat(np.arange(1, len(centers) + 1), len(LR)),
            "lr": np.tile(LR, len(centers)),
            "loss": np.concatenate([curve(center) for center in centers]),
        }
    )


# ---------------------------------------------------------------- a frame that stays one

KEEPING = {
    "copy": lambda r: r.copy(),
    "shallow copy": lambda r: r.copy(deep=False),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda r: pickle.loads(pickle.dumps(r)),
    "slice": lambda r: r[5:20],
    "iloc": lambda r: r.iloc[::2],
    "loc": lambda r: r.loc[r["lr"] > 1e-4],
    "mask": lambda r: r[r["loss"] < 2],
    "query": lambda r: r.query("lr < 0.1"),
    "head": lambda r: r.head(),
    "no rows": lambda r: r[:0],
    "columns": lambda r: r[["lr", "loss"]],
    "one column": lambda r: r[["lr"]],
    "assign": lambda r: r.assign(double=r["loss"] * 2),
    "rename": lambda r: r.rename(columns={"loss": "Loss"}),
    "drop": lambda r: r.drop(columns="loss"),
    "sort_values": lambda r: r.sort_values("loss"),
    "reset_index": lambda r: r.reset_index(drop=True),
    "astype": lambda r: r.astype("float32"),
    "dropna": lambda r: r.dropna(),
    "concat": lambda r: pd.concat([r, r]),
    "concat with others": lambda r: pd.concat([records("completed"), r], ignore_index=True),
    "constructor": lambda r: luz.LRRecords(r),
}


@pytest.mark.parametrize("how", KEEPING)
def test_records_stay_records_through(how):
    kept = KEEPING[how](records("diverged"))
    assert type(kept) is luz.LRRecords
    assert kept.stopped == "diverged"


def test_pickling_keeps_the_values():
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(records())), records())


def test_a_column_is_a_plain_series():
    assert type(records()["loss"]) is pd.Series


def test_a_copy_is_a_copy():
    original = records()
    copied = original.copy()
    copied.loc[0, "loss"] = 9
    copied.stopped = "completed"
    assert original["loss"][0] != 9
    assert original.stopped == "diverged"


def test_what_was_cut_and_copied_can_still_be_judged():
    kept = pickle.loads(pickle.dumps(records()[10:].copy()))
    assert kept.suggest("minimum") == pytest.approx(records().suggest("minimum"), rel=0.5)


def test_stopped_says_completed_unless_told():
    assert luz.LRRecords({"lr": LR, "loss": LR}).stopped == "completed"


# ---------------------------------------------------------------- smoothed


@pytest.mark.parametrize("beta", [0, 0.5, 0.9, 0.98])
def test_smoothed_is_the_exponential_average(beta):
    smoothed = records().smoothed(beta)
    assert isinstance(smoothed, pd.Series)
    assert smoothed.to_numpy() == pytest.approx(averaged(curve(-3), beta))


def test_smoothed_begins_anew_with_every_run():
    expected = np.concatenate([averaged(curve(center)) for center in CENTERS])
    assert runs().smoothed().to_numpy() == pytest.approx(expected)


def test_smoothed_is_on_the_records_index():
    shuffled = runs().sort_values(["lr", "run"])
    smoothed = shuffled.smoothed()
    assert smoothed.index.equals(shuffled.index)
    assert smoothed.sort_index().to_numpy() == pytest.approx(runs().smoothed().to_numpy())
    assert records()[7:].smoothed().index.tolist() == list(range(7, 60))


def test_smoothed_of_an_index_with_doubles():
    doubled = pd.concat([records()[:5].assign(run=1), records()[:5].assign(run=2)])
    smoothed = doubled.smoothed().tolist()
    assert smoothed[:5] == smoothed[5:] == pytest.approx(averaged(curve(-3)[:5]))


@pytest.mark.parametrize(
    ("beta", "error"),
    [(1, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("0.9", TypeError)],
)
@pytest.mark.parametrize("method", ["smoothed", "plot"])
def test_beta_is_in_0_to_1(beta, error, method):
    with pytest.raises(error, match=r"`beta` must be .*in \[0, 1\)"):
        getattr(records(), method)(beta=beta)


# ---------------------------------------------------------------- suggest, suggestions


def lowest_tenth(center):
    return LR[np.argmin(averaged(curve(center)))] / 10


def test_suggest_over_runs_is_their_median():
    expected = np.median([lowest_tenth(center) for center in CENTERS])
    assert runs().suggest("minimum") == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_suggest_of_one_run_is_that_of_the_plain_finder(method):
    one = runs([-3]).suggest(method)
    assert one == records().suggest(method)


def test_suggest_forgives_a_minority_of_runs_without_a_suggestion():
    some = runs()
    some.loc[some["run"] == 2, "loss"] = 1.0
    centers = [center for center in CENTERS if center != -3.3]
    expected = np.median([lowest_tenth(center) for center in centers])
    assert some.suggest("minimum") == pytest.approx(expected)


def test_suggest_refuses_when_most_runs_have_none():
    some = runs()
    some.loc[some["run"] > 2, "loss"] = 1.0
    with pytest.raises(luz.NoSuggestionError, match="never falls"):
        some.suggest()


def test_suggest_of_no_rungs_is_refused():
    with pytest.raises(luz.NoSuggestionError):
        records()[:0].suggest()


def test_an_unknown_method_is_an_error():
    with pytest.raises(ValueError, match=r"`method` must be one of .*valley.*, got 'best'\."):
        records().suggest("best")


@pytest.mark.parametrize("verb", ["suggest", "suggestions", "smoothed", "plot"])
def test_a_missing_column_is_named(verb):
    with pytest.raises(ValueError, match="loss is missing"):
        getattr(records()[["lr"]], verb)()


def test_suggestions_has_a_row_a_method_and_the_range():
    table = runs().suggestions()
    assert type(table) is pd.DataFrame
    assert table.columns.tolist() == ["method", "lr", "low", "high"]
    assert table["method"].tolist() == [*METHODS, "range"]
    table = table.set_index("method")
    for method in METHODS:
        assert table["lr"][method] == runs().suggest(method)
    alone = [lowest_tenth(center) for center in CENTERS]
    assert table["low"]["minimum"] == pytest.approx(np.quantile(alone, 0.1))
    assert table["high"]["minimum"] == pytest.approx(np.quantile(alone, 0.9))


def test_the_range_is_from_the_steepest_point_to_a_tenth_of_the_minimum():
    late = luz.LRRecords({"lr": LR, "loss": 2 - np.clip((np.log10(LR) + 5) / 3, 0, None) ** 0.5})
    row = late.suggestions().set_index("method").loc["range"]
    assert row["low"] == late.suggest("steepest")
    assert row["high"] == late.suggest("minimum") == 0.1
    assert math.isnan(row["lr"])


def test_suggestions_of_a_single_run_have_no_spread():
    table = records().suggestions().set_index("method").loc[METHODS]
    assert table["low"].equals(table["lr"])
    assert table["high"].equals(table["lr"])


def test_suggestions_are_nan_where_there_are_none():
    table = luz.LRRecords({"lr": LR, "loss": np.ones(60)}).suggestions()
    assert table[["lr", "low", "high"]].isna().all(axis=None)
    assert len(table) == len(METHODS) + 1
