"""The CSV file, read back with pandas and with the csv module."""

import csv

import pandas as pd
import pytest
import torch
from models import regression, unrelated

import luzpy as luz
from luzpy.callbacks.csv_logger import CSVLogger
from luzpy.resume.auto_resume import AutoResume


def fit(*callbacks, epochs=5, metrics=None, valid=False):
    return regression(10, metrics=metrics).fit(
        unrelated(20, 10),
        epochs,
        list(callbacks),
        unrelated(8, 10) if valid else None,
        verbose=False,
        dataloader_options={"batch_size": 10},
    )


def resuming(epoch, logger=None, state=None):
    """What a callback does that resumes a run after `epoch`."""

    def begin(ctx):
        ctx.epoch = epoch
        ctx.records["metrics"]["train"] = [{"loss": 0.0}] * epoch
        if logger is not None:
            logger.load_state_dict(state)

    return luz.Callback.from_functions(weight=float("inf"), on_fit_begin=begin)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


# R: test-callbacks.R, "csv callback"
def test_one_row_for_each_epoch_and_set(tmp_path):
    path = tmp_path / "log.csv"
    fitted = fit(CSVLogger(path))
    frame = pd.read_csv(path)
    assert list(frame.columns) == ["epoch", "set", "loss"]
    assert frame["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert set(frame["set"]) == {"train"}
    assert frame["loss"].tolist() == [row["loss"] for row in fitted.records["metrics"]["train"]]
    fit(CSVLogger(str(path)), valid=True)  # a fresh run, a fresh file
    frame = pd.read_csv(path)
    assert frame["epoch"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert frame["set"].tolist() == ["train", "valid"] * 5


def test_an_instance_starts_a_fresh_file_in_every_run(tmp_path):
    logger = CSVLogger(tmp_path / "log.csv")
    for epochs in (3, 2):
        fit(logger, epochs=epochs)
        assert len(pd.read_csv(tmp_path / "log.csv")) == epochs


def test_metrics_of_one_set_are_blank_in_the_other(tmp_path):
    path = tmp_path / "log.csv"
    metrics = luz.metrics.MetricSet(
        luz.metrics.MAE(), train_metrics=luz.metrics.MSE(), valid_metrics=luz.metrics.RMSE()
    )
    fitted = fit(CSVLogger(path), metrics=metrics, valid=True, epochs=2)
    header, train, valid, *_ = rows(path)
    assert header == ["epoch", "set", "loss", "mae", "mse", "rmse"]
    assert (train[5], valid[4]) == ("", "")
    assert float(valid[5]) == fitted.records["metrics"]["valid"][0]["rmse"]


def test_a_row_is_on_the_disk_before_the_next_epoch(tmp_path):
    path, lengths = tmp_path / "log.csv", []

    def look(ctx):
        lengths.append(len(rows(path)) if path.exists() else 0)

    fit(CSVLogger(path), luz.Callback.from_functions(on_epoch_begin=look), epochs=3)
    assert lengths == [0, 2, 3]


def test_a_resumed_run_goes_on_with_the_file(tmp_path):
    path = tmp_path / "log.csv"
    fit(CSVLogger(path), epochs=2)
    begun = rows(path)
    fit(CSVLogger(path), resuming(2), epochs=4)
    assert rows(path)[:3] == begun
    assert pd.read_csv(path)["epoch"].tolist() == [1, 2, 3, 4]


def test_a_run_that_failed_and_goes_on_leaves_the_file_of_an_unbroken_one(tmp_path):
    def run(name, fails):
        def fail(ctx):
            if fails and ctx.epoch == 3:
                raise RuntimeError("on purpose")

        # Fails after the row of epoch 3 was written, and before its state was saved.
        end = luz.Callback.from_functions(on_epoch_end=fail)
        logger, resume = CSVLogger(tmp_path / name), AutoResume(tmp_path / f"{name}.pt")
        fit(logger, end, resume, epochs=5, valid=True)

    torch.manual_seed(3)
    run("unbroken.csv", fails=False)
    torch.manual_seed(3)
    with pytest.raises(RuntimeError, match="on purpose"):
        run("broken.csv", fails=True)
    assert len(rows(tmp_path / "broken.csv")) == 1 + 3 * 2
    torch.manual_seed(4)  # weights and data are those of the file
    run("broken.csv", fails=False)
    assert rows(tmp_path / "broken.csv") == rows(tmp_path / "unbroken.csv")


def test_epochs_run_again_replace_their_rows(tmp_path):
    path = tmp_path / "log.csv"
    fit(CSVLogger(path), epochs=4)
    begun = rows(path)
    fit(CSVLogger(path), resuming(2), epochs=3)
    assert rows(path)[:3] == begun[:3]
    assert [row[0] for row in rows(path)] == ["epoch", "1", "2", "3"]
    assert rows(path)[3] != begun[3]


def test_resuming_leaves_a_foreign_file_alone(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("name,age\nAda,36\n")
    with pytest.raises(luz.LuzError, match="`path` must be a file that CSVLogger wrote"):
        fit(CSVLogger(path), resuming(2), epochs=3)
    assert path.read_text() == "name,age\nAda,36\n"


def test_a_metric_that_appears_late_gets_a_column(tmp_path):
    path = tmp_path / "log.csv"

    def log(ctx):
        if ctx.epoch == 2:
            ctx.log_metric("late", 7.0)

    fit(luz.Callback.from_functions(on_epoch_end=log), CSVLogger(path), epochs=3)
    assert [row[3] for row in rows(path)] == ["late", "", "7.0", ""]
    assert pd.read_csv(path)["epoch"].tolist() == [1, 2, 3]


def logging(**values):
    def log(ctx):
        for name, value in values.items():
            ctx.log_metric(name, value)

    return luz.Callback.from_functions(on_train_end=log)


@pytest.mark.parametrize("name", ["epoch", "set"])
def test_a_metric_with_the_name_of_a_column_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"other names than the columns .*, got '{name}'"):
        fit(logging(**{name: 1.0}), CSVLogger(tmp_path / "log.csv"))


def test_names_with_commas_quotes_and_line_breaks_are_read_back(tmp_path):
    names = ["a,b", 'a "b"', "a\nb"]
    fit(logging(**dict.fromkeys(names, 2.0)), CSVLogger(tmp_path / "log.csv"), epochs=1)
    header, row = rows(tmp_path / "log.csv")
    assert header[3:] == names
    assert row[3:] == ["2.0"] * 3


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_no_cell_is_a_formula(tmp_path, name):
    path = tmp_path / "log.csv"
    callbacks = logging(**{name: -2.0}, note="=HYPERLINK()"), CSVLogger(path)
    fit(*callbacks, epochs=1)
    fit(*callbacks, resuming(1), epochs=2)
    header, *found = rows(path)
    assert header[3:] == [f"'{name}", "note"]
    assert [row[3:] for row in found] == [["-2.0", "'=HYPERLINK()"]] * 2  # a number stays one


def test_its_folder_is_made_and_nothing_else_left_there(tmp_path):
    fit(CSVLogger(tmp_path / "a" / "log.csv"), epochs=1)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["log.csv"]


def test_a_path_is_needed():
    with pytest.raises(TypeError):
        CSVLogger(3)


def test_a_folder_that_takes_no_files_is_an_error_before_the_first_batch():
    seen = []
    counts = luz.Callback.from_functions(on_train_begin=lambda ctx: seen.append(1))
    x = torch.zeros(32, 3)
    with pytest.raises(luz.LuzError, match="`path` must be in a folder that can be written to"):
        regression(3).fit(
            (x, x[:, :1]), 1, [luz.callbacks.CSVLogger("/proc/a.csv"), counts], verbose=False
        )
    assert seen == []
