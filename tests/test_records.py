import json
import subprocess
import sys

import pandas as pd
import pytest
from models import line, regression
from torch import nn

import luzpy as luz
from luzpy.ground.records import metrics_frame, new_records

X, Y = line()


def fit(**kwargs):
    model = regression(metrics=luz.metrics.MAE())
    return model.fit((X, Y), epochs=2, valid_data=(X, Y), verbose=False, **kwargs)


def test_a_frame_has_a_row_for_every_set_epoch_and_metric():
    records = {
        "metrics": {
            "train": [{"loss": 3.0, "acc": 0.1}, {"loss": 2.0, "acc": 0.2}],
            "valid": [{"loss": 4.0}],
        }
    }
    expected = pd.DataFrame(
        [
            ("train", "loss", 1, 3.0),
            ("train", "acc", 1, 0.1),
            ("train", "loss", 2, 2.0),
            ("train", "acc", 2, 0.2),
            ("valid", "loss", 1, 4.0),
        ],
        columns=["set", "metric", "epoch", "value"],
    )
    pd.testing.assert_frame_equal(metrics_frame(records), expected)


def test_without_a_value_a_frame_keeps_its_columns():
    frame = metrics_frame(new_records())
    assert list(frame) == ["set", "metric", "epoch", "value"]
    assert frame.empty


def test_new_records_share_nothing():
    one, two = new_records(), new_records()
    one["metrics"]["train"].append({"loss": 1.0})
    assert two["metrics"]["train"] == []


def test_records_are_plain_data():
    records = fit().records
    assert json.loads(json.dumps(records)) == records


def test_metrics_of_a_fit_count_epochs_from_one():
    frame = luz.get_metrics(fit())
    assert list(zip(frame["set"], frame["epoch"], frame["metric"], strict=True)) == [
        (part, epoch, metric)
        for part in ("train", "valid")
        for epoch in (1, 2)
        for metric in ("loss", "mae")
    ]


def test_a_callback_can_read_the_metrics_so_far():
    seen = []
    look = luz.Callback.from_functions(
        on_epoch_end=lambda ctx: seen.append(luz.get_metrics(ctx)), weight=1
    )
    fitted = fit(callbacks=look)
    assert [len(frame) for frame in seen] == [4, 8]
    assert seen[1].equals(fitted.get_metrics())


def test_what_a_callback_logs_is_kept():
    look = luz.Callback.from_functions(
        on_epoch_end=lambda ctx: (
            ctx.log("lr", "train", ctx.epoch / 10),
            ctx.log_metric("extra", ctx.epoch),
        )
    )
    fitted = fit(callbacks=look)
    assert fitted.records["lr"] == {"opt": [[0.01], [0.01]], "train": [0.1, 0.2]}
    frame = fitted.get_metrics()
    assert list(frame[frame["metric"] == "extra"]["value"]) == [1, 2]


@pytest.mark.parametrize("x", [3, {"metrics": {}}, nn.Linear(1, 1)])
def test_what_has_no_metrics_is_refused(x):
    with pytest.raises(TypeError, match="`x` must be a FittedModule, an Evaluation or a Context"):
        luz.get_metrics(x)


def test_pandas_is_imported_when_a_frame_is_made():
    script = (
        "import sys, torch, luzpy as luz; from torch import nn; "
        "model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, luz.metrics.MAE()); "
        "model = model.set_hparams(in_features=1, out_features=1).set_opt_hparams(lr=0.1); "
        "x = torch.ones(64, 1); fitted = model.fit((x, x), 1, valid_data=0.5, verbose=False); "
        "fitted.evaluate((x, x), verbose=False); fitted.predict(x, verbose=False); "
        "print('pandas' in sys.modules); fitted.get_metrics(); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_what_is_imported_late_is_listed_all_the_same():
    assert set(luz.__all__) <= set(dir(luz))
    assert issubclass(luz.LRRecords, pd.DataFrame)
