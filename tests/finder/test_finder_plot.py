import inspect
import pydoc

import matplotlib.colors
import matplotlib.image
import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import torch
from plotnine import coord_cartesian, ggplot

import luzpy as luz
from luzpy.finder.plot import log_breaks

N = 60
LR = np.geomspace(1e-6, 1, N + 1)[1:]
X = np.log10(LR)


def curve(center=-3.0, rise=0.3):
    return 2 - 1 / (1 + np.exp(-4 * (X - center))) + rise * np.clip(X - center - 1, 0, None)


def averaged(loss, beta=0.9):
    """The bias-corrected exponential average, from its definition."""
    weights = beta ** np.arange(len(loss))
    return np.array(
        [weights[:n] @ loss[:n][::-1] / weights[:n].sum() for n in range(1, len(loss) + 1)]
    )


def single(loss=None, **columns):
    return luz.LRRecords({"lr": LR, "loss": curve() if loss is None else loss, **columns})


CENTERS = [-4, -3.5, -3, -2.5, -2]


def several_runs():
    return pd.concat([single(curve(c)).assign(run=i) for i, c in enumerate(CENTERS, 1)])


def diverging():
    return single(curve() + np.where(X > -1, 100 ** np.clip(X + 1, 0, None) - 1, 0) * 1e6)


@pytest.fixture
def axes():
    """Draws a plot and returns its axes."""
    drawn = []

    def draw(p):
        drawn.append(p.draw())
        return drawn[-1].axes[0]

    yield draw
    for figure in drawn:
        plt.close(figure)


def line(ax, colour):
    found = [
        artist
        for artist in ax.lines
        if artist.get_color() != "none"
        and matplotlib.colors.to_hex(artist.get_color()) == matplotlib.colors.to_hex(colour)
    ]
    assert len(found) == 1
    return found[0]


def texts(ax):
    return {text.get_text() for text in ax.figure.findobj(matplotlib.text.Text)}


# ---------------------------------------------------------------- what is drawn


def test_r_plot_is_the_raw_loss_dotted_and_the_smoothed_in_cyan(axes):
    # R: lr-finder.R, plot.lr_records() (test-lr-finder.R, "lr_finder works" draws it)
    ax = axes(single().plot())
    raw, smoothed = line(ax, "black"), line(ax, "cyan")
    assert raw.get_linestyle() == ":"
    assert smoothed.get_linestyle() == "-"
    assert np.asarray(raw.get_xdata()) == pytest.approx(X)
    assert np.asarray(raw.get_ydata()) == pytest.approx(curve())
    assert np.asarray(smoothed.get_ydata()) == pytest.approx(averaged(curve()))
    assert {"Learning Rate", "Loss"} <= texts(ax)


def test_method_and_function_draw_the_same(axes):
    a, b = axes(single().plot(beta=0.5)), axes(luz.plot(single(), beta=0.5))
    assert np.array_equal(line(a, "cyan").get_ydata(), line(b, "cyan").get_ydata())


def test_beta_changes_the_smoothed_line_alone(axes):
    ax = axes(single().plot(beta=0.5))
    assert np.asarray(line(ax, "cyan").get_ydata()) == pytest.approx(averaged(curve(), 0.5))
    assert np.asarray(line(ax, "black").get_ydata()) == pytest.approx(curve())


def test_a_linear_axis_on_request(axes):
    ax = axes(single().plot(log_x=False))
    assert np.asarray(line(ax, "cyan").get_xdata()) == pytest.approx(LR)


def test_the_axis_says_the_rates_themselves(axes):
    assert {"1e-06", "0.001", "1"} <= texts(axes(single().plot()))


def test_validation_is_a_line_of_its_own(axes):
    valid = curve(-2.5)
    ax = axes(single(valid_loss=valid).plot())
    assert np.asarray(line(ax, "#e67e22").get_ydata()) == pytest.approx(averaged(valid))


def test_runs_are_their_median_and_a_band_of_10_to_90_percent(axes):
    ax = axes(several_runs().plot())
    smoothed = np.array([averaged(curve(center)) for center in CENTERS])
    assert np.asarray(line(ax, "cyan").get_ydata()) == pytest.approx(np.median(smoothed, axis=0))
    corners = ax.collections[0].get_paths()[0].vertices
    for quantile in (0.1, 0.9):
        expected = np.quantile(smoothed, quantile, axis=0)
        distance = [
            np.abs(corners - point).sum(axis=1).min() for point in zip(X, expected, strict=True)
        ]
        assert max(distance) < 1e-9
    assert not [artist for artist in ax.lines if artist.get_linestyle() == ":"]


def places(ax):
    """Where on the x axis something begins, ends or stands: of each mark the places."""
    paths = [path for c in ax.collections for path in c.get_paths()]
    return [sorted(set(path.vertices[:, 0].round(6))) for path in paths]


def late():
    """Records whose steepest point lies below a tenth of the minimum."""
    return single(2 - np.clip((X + 5) / 3, 0, None) ** 0.5)


def test_the_suggested_rate_is_written_at_its_line(axes):
    ax = axes(late().plot(suggest=True))
    lr = late().suggest()
    assert places(ax) == [[round(np.log10(lr), 6)]]
    (words,) = (t for t in ax.texts if t.get_text() == f"suggested {lr:.1e}")
    span = np.ptp(np.log10(late()["lr"]))
    assert 0 < np.log10(lr) - words.get_position()[0] < 0.01 * span
    high = ax.get_ylim()[1]
    assert max(averaged(late()["loss"].to_numpy())) < words.get_position()[1] < high
    assert not axes(late().plot()).collections


def test_over_runs_the_range_of_their_suggestions_holds_the_line(axes):
    ax = axes(several_runs().plot(suggest=True))
    rates = [single(curve(center)).suggest() for center in CENTERS]
    low, lr, high = np.quantile(rates, [0.1, 0.5, 0.9])
    assert [round(np.log10(v), 6) for v in (low, high)] in places(ax)
    assert [round(np.log10(lr), 6)] in places(ax)
    assert f"runs suggest {low:.1e} to {high:.1e}" in texts(ax)


def test_the_range_of_the_study_is_drawn_when_asked_for_and_named(axes):
    low, high = late().suggestions().set_index("method").loc["range", ["low", "high"]]
    ax = axes(late().plot(study_range=True))
    assert places(ax) == [[round(np.log10(low), 6), round(np.log10(high), 6)]]
    assert f"Dataiku range {low:.1e} to {high:.1e}" in texts(ax)


@pytest.mark.parametrize(
    ("picture", "names"),
    [
        (lambda: single().plot(), {"raw loss", "smoothed"}),
        (lambda: single(valid_loss=curve()).plot(), {"raw loss", "smoothed", "validation"}),
        (lambda: several_runs().plot(), {"median of 5 runs", "10 to 90 %"}),
        (
            lambda: several_runs().assign(valid_loss=1.0).plot(),
            {"median of 5 runs", "10 to 90 %", "validation"},
        ),
    ],
)
def test_a_legend_says_what_each_line_is(axes, picture, names):
    every = {"raw loss", "smoothed", "validation", "median of 5 runs", "10 to 90 %"}
    assert texts(axes(picture())) & every == names


def test_lines_differ_by_more_than_their_colours(axes):
    ax = axes(single(valid_loss=curve(-2.5)).plot())
    assert line(ax, "black").get_linestyle() == ":"
    assert line(ax, "#e67e22").get_linestyle() == "--"
    ax = axes(luz.plot([single(curve(c)) for c in (-4, -3, -2)]))
    assert len({artist.get_linestyle() for artist in ax.lines}) == 3


def test_what_is_to_be_doubted_is_written_below(axes):
    never_rose = single(curve(-1, rise=0))
    assert never_rose.warnings == ["The loss never rose: raise end_lr"]
    assert "The loss never rose: raise end_lr." in texts(axes(never_rose.plot(suggest=True)))
    assert "The loss never rose: raise end_lr." not in texts(axes(never_rose.plot()))


def test_suggest_marks_nothing_where_there_is_nothing_to_suggest(axes):
    ax = axes(single(np.linspace(1, 2, N)).plot(suggest=True))
    assert not ax.collections
    assert any(text.startswith("No suggestion: The loss rises") for text in texts(ax))


# ---------------------------------------------------------------- the y range


def test_divergence_does_not_squash_the_plot(axes):
    low, high = axes(diverging().plot()).get_ylim()
    assert low < averaged(diverging()["loss"].to_numpy()).min()
    assert 2 < high < 4


def test_a_plot_that_fits_is_shown_whole(axes):
    low, high = axes(single().plot()).get_ylim()
    assert low < curve().min()
    assert high > curve().max()


def test_the_users_y_range_wins(axes):
    low, high = axes(diverging().plot() + coord_cartesian(ylim=(None, 50))).get_ylim()
    assert 50 <= high < 53
    assert low < 2


def test_a_negative_loss_is_shown_in_its_range(axes):
    shifted = diverging().assign(loss=lambda r: r["loss"] - 100)
    low, high = axes(shifted.plot()).get_ylim()
    assert -100 < low < -98
    assert -98 < high < -96


def test_neither_ten_thousand_at_the_end_nor_an_explosion_before_the_minimum_hides_the_descent(
    axes,
):
    end, middle = curve(), curve(-2.0)
    end[-1] = 1e4
    middle[20:23] = 1e4  # and the lowest loss comes after it
    for loss in (end, middle):
        for suggest in (False, True):
            low, high = axes(single(loss).plot(suggest=suggest, beta=0.0)).get_ylim()
            assert 1 <= (high - low) < 3


def with_a_run_that_diverges():
    """Five runs, two of which explode a decade before the others."""
    runs = several_runs()
    late = runs["run"].gt(3) & runs["lr"].gt(3e-3)
    return runs.assign(loss=runs["loss"].where(~late, runs["loss"] + 1e4))


def band_end(ax, index=0):
    return max(path.vertices[:, 0].max() for path in ax.collections[index].get_paths())


@pytest.mark.parametrize("draw", [luz.LRRecords.plot, lambda r: luz.plot([r, single()])])
def test_the_band_of_a_diverged_run_is_cut(axes, draw):
    ax = axes(draw(with_a_run_that_diverges()))
    high = ax.get_ylim()[1]
    assert high < 4
    assert max(p.vertices[:, 1].max() for p in ax.collections[0].get_paths()) <= high
    assert np.log10(1e-3) < band_end(ax) < np.log10(4e-3)


# ---------------------------------------------------------------- several records


def test_several_records_are_lines_with_labels(axes):
    others = [single(curve(-4)), single(curve(-2))[:40]]
    ax = axes(luz.plot(others, labels=["batch 32", "batch 512"]))
    first, second = ax.lines
    assert np.asarray(first.get_ydata()) == pytest.approx(averaged(curve(-4)))
    assert np.asarray(second.get_ydata()) == pytest.approx(averaged(curve(-2))[:40])
    assert first.get_color() != second.get_color()
    assert {"batch 32", "batch 512"} <= texts(ax)
    assert {"Learning Rate", "Loss"} <= texts(ax)


def test_several_records_are_numbered_without_labels(axes):
    assert {"1", "2"} <= texts(axes(luz.plot([single(curve(-4.2)), single(curve(-2.2))])))


def test_labels_keep_the_order_given(axes):
    ax = axes(luz.plot((single(curve(-4)), single(curve(-2))), labels=["z", "a"]))
    assert np.asarray(ax.lines[0].get_ydata()) == pytest.approx(averaged(curve(-4)))


@pytest.mark.parametrize(
    ("x", "labels", "error", "message"),
    [
        ([], None, ValueError, "`x` must hold at least one"),
        ([single()], ["a", "b"], ValueError, "`labels` must be as many as the 1 records, got 2"),
        (
            [single(), 3],
            None,
            TypeError,
            "`x` must hold either LRRecords or FittedModules, got LRRecords, int",
        ),
        (
            [pd.DataFrame(single())],
            None,
            TypeError,
            "`x` must hold either LRRecords or FittedModules, got DataFrame",
        ),
    ],
)
def test_a_list_that_cannot_be_drawn_is_an_error(x, labels, error, message):
    with pytest.raises(error, match=message):
        luz.plot(x, labels=labels)


# ---------------------------------------------------------------- every picture, saved


def real_records():
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    model = luz.setup(
        lambda: torch.nn.Linear(4, 1), lambda i, t: i.square().mean(), torch.optim.SGD, seed=1
    )
    return model.lr_finder(x, 30, 1e-3, 1e20, runs=2, valid_data=x, verbose=False)


NOT_FINITE = [2.0] * (N - 4) + [np.inf, np.nan, np.nan, np.nan]
PICTURES = {
    "one": lambda: single().plot(),
    "suggestion": lambda: single().plot(suggest=True),
    "linear": lambda: single().plot(log_x=False, suggest=True),
    "the study": lambda: late().plot(study_range=True, suggest=True),
    "runs": lambda: several_runs().plot(suggest=True),
    "validation": lambda: single(valid_loss=curve(-2)).plot(),
    "runs and validation": lambda: several_runs().assign(valid_loss=1.0).plot(),
    "diverging": lambda: diverging().plot(suggest=True),
    "zoomed": lambda: diverging().plot() + coord_cartesian(ylim=(None, 5)),
    "not finite": lambda: single(np.array(NOT_FINITE) - X).plot(),
    "validation not finite": lambda: single(valid_loss=NOT_FINITE).plot(),
    "constant": lambda: single(np.ones(N)).plot(suggest=True),
    "one rung": lambda: single()[:1].plot(suggest=True),
    "one rung of several runs": lambda: several_runs()[lambda r: r["lr"] < 1.3e-6].plot(),
    "one rung with validation": lambda: single(valid_loss=curve(-2))[:1].plot(log_x=False),
    "two rungs": lambda: single()[:2].plot(suggest=True),
    "several": lambda: luz.plot([single(curve(-4)), single()[:30]], labels=["a", "b"]),
    "several with runs": lambda: luz.plot([several_runs(), single(), diverging()]),
    "several of one rung": lambda: luz.plot([single()[:1], single(curve() + 1)[:1]]),
    "real": lambda: real_records().plot(suggest=True),
}


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_saved_as_a_picture_without_a_warning(name, tmp_path):
    p = PICTURES[name]()
    assert isinstance(p, ggplot)
    p.save(tmp_path / "plot.png", dpi=60, verbose=False)
    pixels = matplotlib.image.imread(tmp_path / "plot.png")
    assert pixels.shape[:2] == (240, 384)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    coloured = np.abs(red - green) + np.abs(green - blue) > 0.3
    assert coloured.sum() > 10


def test_one_finite_rung_is_a_point(axes):
    ax = axes(single(np.array(NOT_FINITE))[:1].plot())
    (points,) = ax.collections
    assert points.get_offsets().tolist() == [[pytest.approx(np.log10(LR[0])), 2.0]]
    assert matplotlib.colors.to_hex(points.get_facecolor()[0]) == "#00ffff"


def test_several_records_of_one_rung_are_points_beside_lines(axes):
    ax = axes(luz.plot([single(), single(curve() + 1)[:1], several_runs()]))
    points = [c for c in ax.collections if len(c.get_offsets()) == 1 and len(c.get_sizes())]
    assert [p.get_offsets().tolist() for p in points] == [
        [[pytest.approx(np.log10(LR[0])), pytest.approx(curve()[0] + 1)]]
    ]
    visible = [artist for artist in ax.lines if artist.get_color() != "none"]
    assert [len(artist.get_xdata()) for artist in visible] == [N, N]


@pytest.mark.parametrize("rows", [slice(0, 0), slice(N - 4, N)])
def test_not_one_finite_rung_cannot_be_drawn(rows):
    with pytest.raises(ValueError, match=r"`x` must have a rung with a finite loss, got none"):
        single(np.array(NOT_FINITE))[rows].plot()


@pytest.mark.parametrize(
    ("labels", "which"), [(None, "the records '2'"), (["good", "short"], "the records 'short'")]
)
def test_of_several_records_the_one_that_cannot_be_drawn_is_named(labels, which):
    with pytest.raises(ValueError, match=f"finite loss, got none in {which}"):
        luz.plot([single(), single()[:0]], labels=labels)


# ---------------------------------------------------------------- what may be asked for


OPTIONS = {"beta": 0.9, "suggest": False, "log_x": True, "study_range": False}


def options_of(function):
    parameters = list(inspect.signature(function).parameters.values())
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[1:])
    return {p.name: p.default for p in parameters[1:]}


def test_the_signature_says_the_options():
    assert options_of(luz.LRRecords.plot) == OPTIONS
    assert options_of(luz.FittedModule.plot) == {"metrics": None, "log_y": False}
    assert options_of(luz.plot) == {
        **OPTIONS,
        "labels": None,
        "metrics": None,
        "log_y": False,
    }


@pytest.mark.parametrize(
    ("draw", "option"),
    [
        (lambda: single().plot(bta=0.5), "bta"),
        (lambda: single().plot(labels=["a"]), "labels"),
        (lambda: luz.plot(single(), labels=["a"]), "labels"),
        (lambda: luz.plot(single(), bta=0.5), "bta"),
        (lambda: luz.plot([single()], suggest=True), "suggest"),
        (lambda: luz.plot([single()], bta=0.5), "bta"),
    ],
)
def test_an_option_that_does_not_exist_is_an_error(draw, option):
    with pytest.raises(TypeError, match=rf"plot.*\(\) got an unexpected keyword .*'{option}'"):
        draw()


def test_help_shows_what_is_luzpys_own():
    shown = pydoc.render_doc(luz.LRRecords, renderer=pydoc.plaintext)
    assert len(shown.splitlines()) < 300
    for method in ("plot", "suggest", "smoothed", "suggestions"):
        assert f"| {method}(" in shown.replace("|  ", "| ")
    assert "beta: 'float' = 0.9" in shown
    assert "pivot_table" not in shown


def test_records_complete_to_pandas_methods_too():
    assert {"plot", "suggest", "pivot_table", "lr"} <= set(dir(single()))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1.15e-6, 1), [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
        ((1e-9, 1), [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]),
        ((2e-3, 8e-3), [2e-3, 5e-3]),
        ((1e-3, 1e-2), [1e-3, 2e-3, 5e-3, 1e-2]),
    ],
)
def test_log_breaks_are_decades_or_finer_where_these_are_few(limits, expected):
    assert log_breaks(limits) == expected
