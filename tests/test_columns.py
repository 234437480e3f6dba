"""Frames in other verbs than `fit`: the columns' names, and values that are not finite."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from models import regression

import luzpy as luz

X, Y = torch.randn(64, 3), torch.randn(64, 1)
FRAMES = [kind(dict(zip("abc", X.numpy().T, strict=True))) for kind in (pd.DataFrame, pl.DataFrame)]


def fit(data, **options):
    return regression().fit(data, 1, verbose=False, **options)


@pytest.mark.parametrize("frame", FRAMES, ids=["pandas", "polars"])
def test_another_order_is_put_right(frame, tmp_path):
    fitted = fit((frame, Y))
    luz.save(fitted, tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=regression())
    turned = frame[["c", "a", "b"]]
    expected = fitted.predict(X)
    for one in (fitted, loaded):
        assert one.columns == [("a", "b", "c"), None]
        for newdata in (turned, (turned,), (turned, Y), {"x": turned}):
            assert torch.equal(one.predict(newdata), expected)
        found = one.evaluate((turned, Y))["loss"]
        assert found == pytest.approx(float(((expected - Y) ** 2).mean()))
    validated = fit((frame, Y), valid_data=(turned, Y))
    own = float(((validated.predict(X) - Y) ** 2).mean())
    assert validated.records["metrics"]["valid"][0]["loss"] == pytest.approx(own)


def test_inputs_of_several_frames_are_found_by_their_keys():
    class Sum(torch.nn.Linear):
        def __init__(self):
            super().__init__(3, 1)

        def forward(self, x):
            return super().forward(torch.cat([x["p"], x["q"]], 1))

    frame = FRAMES[0]
    fitted = regression(Sum).fit(({"p": frame[["a", "b"]], "q": frame[["c"]]}, Y), 1, verbose=False)
    turned = {"q": frame[["c"]], "p": frame[["b", "a"]]}
    assert torch.equal(fitted.predict((turned,)), fitted.predict((turned, Y)))
    assert torch.equal(
        fitted.predict((turned,)), fitted.model({"p": X[:, :2], "q": X[:, 2:]}).detach()
    )
    with pytest.raises(ValueError, match=r"`newdata\[0\]\['q'\]` .* 'c' missing and 'a' unknown"):
        fitted.predict(({"p": frame[["a", "b"]], "q": frame[["a"]]},))


@pytest.mark.parametrize("frame", FRAMES, ids=["pandas", "polars"])
def test_other_columns_are_named(frame):
    fitted = fit((frame, Y))
    with pytest.raises(ValueError, match=r"`newdata` must have the columns .* got 'b' missing"):
        fitted.predict(frame[["a", "c"]])
    wide = frame.assign(d=1.0) if hasattr(frame, "assign") else frame.with_columns(d=1.0)
    with pytest.raises(ValueError, match=r"`data\[0\]` must have .* got 'd' unknown"):
        fitted.evaluate((wide, Y))
    with pytest.raises(ValueError, match=r"`valid_data\[0\]` must have .* got 'd' unknown"):
        fit((frame, Y), valid_data=(wide, Y))
    with pytest.raises(ValueError, match="the 3 columns of the fit, 'a', 'b', 'c', got 2"):
        fitted.predict(X[:, :2])


def test_a_frame_after_an_array_and_one_without_names_are_fine():
    fitted = fit((X, Y))
    assert fitted.columns is None
    assert torch.equal(fitted.predict(FRAMES[0]), fitted.predict(X))
    named = fit((FRAMES[0], Y))
    assert torch.equal(named.predict(pd.DataFrame(X.numpy())), named.predict(X))
    assert fit((pd.DataFrame(X.numpy()), Y)).columns is None


def holes(kind=pd.DataFrame):
    x = X.numpy().copy()
    x[3:5, 1], x[7, 2], x[8, 1] = np.nan, np.inf, -np.inf
    return x if kind is np.array else kind(dict(zip("abc", x.T, strict=True)))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (holes(), r"`data\[0\]` holds values that are not finite: 'b' \(3\), 'c' \(1\)\."),
        (holes(pl.DataFrame), r"`data\[0\]` holds .*: 'b' \(3\), 'c' \(1\)\."),
        (holes(np.array), r"`data\[0\]` holds .*: column 1 \(3\), column 2 \(1\)\."),
        (torch.tensor(holes(np.array)), r"`data\[0\]` holds .*: column 1 \(3\), column 2 \(1\)"),
    ],
    ids=["pandas", "polars", "numpy", "torch"],
)
def test_what_is_not_finite_is_warned_of_by_column(x, said):
    fitted = fit((X, Y))
    with pytest.warns(UserWarning, match=said):
        fitted.evaluate((x, Y))
    lost = pytest.warns(UserWarning, match="The training loss is not finite")
    with pytest.warns(UserWarning, match=said), lost:
        fit((x, Y))
    with pytest.warns(UserWarning, match="`newdata` holds"):
        fitted.predict(x)


def test_targets_and_large_numbers():
    target = pd.Series(np.r_[np.nan, np.zeros(63)], name="price")
    with pytest.warns(UserWarning, match=r"`data\[1\]` holds .*: 'price' \(1\)"):
        fit((X, Y)).evaluate((X, pd.DataFrame(target)))
    large = torch.full((64, 3), 3e38)  # whose sum is not finite
    fit((X, Y)).predict(large)
