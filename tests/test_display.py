import pytest
from hypothesis import given
from hypothesis import strategies as st

from luzpy.verbs.display import metric_lines, pretty_seconds, result_lines, time_lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0123, "12ms"),
        (0.34, "340ms"),
        (1, "1.0s"),
        (1.54, "1.5s"),
        (59.9, "59.9s"),
        (60, "1m 0s"),
        (123, "2m 3s"),
        (3599, "59m 59s"),
        (3600, "1h 0m 0s"),
        (3723, "1h 2m 3s"),
        (90000, "25h 0m 0s"),
    ],
)
def test_durations_are_for_people(seconds, text):
    assert pretty_seconds(seconds) == text


UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}


@given(st.floats(0, 1e6))
def test_a_duration_can_be_read_back(seconds):
    parts = pretty_seconds(seconds).split()
    units = [part.lstrip("0123456789.") for part in parts]
    total = sum(
        float(part[: -len(unit)]) * UNITS[unit] for part, unit in zip(parts, units, strict=True)
    )
    assert total == pytest.approx(seconds, abs=0.51 if seconds >= 60 else 0.051, rel=1e-9)


def test_a_metric_has_a_line():
    assert metric_lines({"loss": 0.123456, "acc": 1.0}) == ["loss: 0.1235", "acc: 1"]


def test_times_are_means_over_epochs():
    records = {"profile": {"fit": [60.0], "epoch": [], "train": [1.0, 2.0], "valid": [0.1, 0.2]}}
    assert time_lines(records) == [
        "* Total time: 1m 0s",
        "* Avg time per training epoch: 1.5s",
        "* Avg time per validation epoch: 150ms",
    ]


@pytest.mark.parametrize("records", [{}, {"profile": {}}, {"profile": {"fit": [], "train": []}}])
def test_times_that_were_not_taken_are_left_out(records):
    assert time_lines(records) == []


def test_results_are_those_of_the_last_epoch():
    records = {"metrics": {"train": [{"loss": 3.0}, {"loss": 2.0}], "valid": [{"loss": 2.5}]}}
    assert result_lines(records) == ["Training:", "loss: 2", "Validation:", "loss: 2.5"]


def test_a_set_without_results_is_left_out():
    assert result_lines({"metrics": {"train": [{"loss": 3.0}], "valid": []}}) == [
        "Training:",
        "loss: 3",
    ]
