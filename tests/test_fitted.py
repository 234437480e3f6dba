import re
from html.parser import HTMLParser

import attrs
import pytest
import torch
from models import TwoParts, line
from torch import nn

import luzpy as luz

X, Y = line()


def fit(epochs=2, metrics=None, **kwargs):
    model = luz.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, metrics, seed=1)
    model = model.set_hparams(in_features=3, out_features=1).set_opt_hparams(lr=0.01)
    return model.fit((X, Y), epochs, verbose=False, **kwargs)


def interrupted_at(**hooks):
    """A fit that Ctrl-C has ended."""

    def interrupt(ctx):
        raise KeyboardInterrupt

    return fit(callbacks=luz.Callback.from_functions(**dict.fromkeys(hooks, interrupt)))


class Page(HTMLParser):
    """The tags of a page, which must nest, and its text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append(data.strip())


# R's order: time, results and model
LAYOUT = r"""<FittedModule of Linear>
\* Total time: \S+
\* Avg time per training epoch: \S+
\* Avg time per validation epoch: \S+
Training:
loss: {}
mae: {}
Validation:
loss: {}
mae: {}
Linear\(in_features=3, out_features=1, bias=True\)"""


# R: test-module-print.R, "print module generator" (the fitted model)
def test_it_prints_time_results_and_model():
    fitted = fit(metrics=luz.metrics.MAE(), valid_data=(X, Y))
    last = [fitted.records["metrics"][part][-1] for part in ("train", "valid")]
    numbers = [re.escape(f"{round(v, 4):g}") for rows in last for v in rows.values()]
    assert re.fullmatch(LAYOUT.format(*numbers), repr(fitted))


def test_without_validation_nothing_is_said_of_it():
    assert "alidation" not in repr(fit())


def test_an_unusual_end_is_said():
    stopped = interrupted_at(on_epoch_end=True)
    assert repr(stopped).splitlines()[1] == "Stopped after epoch 1: interrupted"
    assert "Stopped" not in repr(fit())


@pytest.mark.parametrize("hook", ["on_fit_begin", "on_train_batch_begin"])
def test_it_prints_when_not_one_epoch_was_completed(hook):
    fitted = interrupted_at(**{hook: True})
    assert "Stopped after epoch 0: interrupted" in repr(fitted)
    assert Page(fitted._repr_html_()).text[:2] == ["A fitted luzpy model", "(interrupted)"]
    assert fitted.get_metrics().empty


def losses(train, valid=None, callbacks=(), **kwargs):
    """A fit whose losses are as given, epoch by epoch."""

    def log(ctx):
        values = train if ctx.training else valid
        ctx.log_metric("loss", values[ctx.epoch - 1])

    script = luz.Callback.from_functions(on_train_end=log, on_valid_end=log)
    data = None if valid is None else (X, Y)
    return fit(len(train), valid_data=data, callbacks=[script, *callbacks], **kwargs)


@pytest.mark.parametrize(
    ("train", "valid", "epoch"),
    [
        ([3.0, 1.0, 2.0], None, 2),
        ([3.0, 1.0, 2.0], [1.0, 3.0, 2.0], 1),
        ([3.0, 2.0, 2.0], None, 2),
        ([1.0, 1.0, 1.0], [float("nan"), 5.0, 4.0], 3),
        ([1.0, 1.0], [float("nan"), float("nan")], None),
    ],
)
def test_the_best_epoch_is_that_of_the_lowest_valid_or_train_loss(train, valid, epoch):
    assert losses(train, valid).best_epoch == epoch


def test_the_best_epoch_is_the_one_that_was_put_back():
    def score(ctx):
        ctx.log_metric("score", [5.0, 7.0, 6.0][ctx.epoch - 1])

    callbacks = [
        luz.Callback.from_functions(on_valid_end=score),
        luz.callbacks.KeepBestModel("valid_score", mode="max"),
    ]
    fitted = losses([9.0, 8.0, 1.0], [0.1, 0.3, 0.2], callbacks)
    assert fitted.best_epoch == 2
    assert "* Best epoch: 2 of 3, by valid_score; these are its weights" in repr(fitted)
    shown = repr(fitted).splitlines()
    assert shown[shown.index("Training:") + 1] == "loss: 8"
    assert shown[shown.index("Validation:") + 1 :][:2] == ["loss: 0.3", "score: 7"]
    text = Page(fitted._repr_html_()).text
    assert "Best epoch: 2 of 3, by valid_score; these are its weights" in text
    assert text[text.index("loss") :][:3] == ["loss", "8", "0.3"]


def test_without_a_model_put_back_the_last_epoch_is_shown():
    fitted = losses([1.0, 2.0])
    assert "Best epoch" not in repr(fitted)
    assert "loss: 2" in repr(fitted)


def test_an_epoch_that_was_broken_off_is_not_the_best():
    def interrupt(ctx):
        if ctx.epoch == 3:
            raise KeyboardInterrupt

    callbacks = [luz.Callback.from_functions(on_train_batch_end=interrupt)]
    fitted = losses([-1.0, -2.0, -9.0], callbacks=callbacks)
    fitted.records["metrics"]["train"][2]["loss"] = -9.0
    assert fitted.records["partial"]["epoch"] == [3]
    assert fitted.best_epoch == 2


def test_several_losses_have_no_best_epoch():
    model = luz.setup(lambda: TwoParts(3), nn.MSELoss())
    assert model.fit((X, Y), 2, verbose=False).best_epoch is None


def test_the_best_epoch_is_kept_in_a_file(tmp_path):
    fitted = losses([2.0, 1.0, 3.0], callbacks=[luz.callbacks.KeepBestModel("train_loss")])
    fitted.save(tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz")
    assert loaded.best_epoch == fitted.best_epoch == 2
    assert "Best epoch: 2 of 3" in repr(loaded)


def test_its_html_has_a_table_of_the_last_epoch():
    fitted = fit(metrics=luz.metrics.MAE(), valid_data=(X, Y))
    text = Page(fitted._repr_html_()).text
    rows = text[text.index("set") : text.index("Model")]
    last = [fitted.records["metrics"][part][-1] for part in ("train", "valid")]
    assert rows == [
        *("set", "train", "valid", "metric"),
        *("loss", *(f"{values['loss']:.4g}" for values in last)),
        *("mae", *(f"{values['mae']:.4g}" for values in last)),
    ]


def test_its_html_shows_a_loss_that_is_not_a_number():
    def broken(preds, target):
        return float("nan")

    text = Page(fit(metrics=broken)._repr_html_()).text
    assert text[text.index("broken") + 1] == "NaN"


def test_its_html_escapes_names():
    page = Page(fit(metrics=lambda preds, target: 1.0)._repr_html_())
    assert "<lambda>" in page.text
    assert "lambda" not in page.tags


@pytest.mark.parametrize("verb", ["evaluate", "predict", "get_metrics", "save"])
def test_the_function_is_the_method(verb):
    assert getattr(luz.FittedModule, verb) is getattr(luz, verb)


def test_functions_and_methods_give_the_same():
    fitted = fit()
    assert luz.get_metrics(fitted).equals(fitted.get_metrics())
    assert torch.equal(luz.predict(fitted, X), fitted.predict(X))
    evaluations = luz.evaluate(fitted, (X, Y)), fitted.evaluate((X, Y))
    assert evaluations[0].get_metrics().equals(evaluations[1].get_metrics())


def test_it_holds_what_training_left():
    fitted = fit(epochs=3)
    assert isinstance(fitted.model, nn.Linear)
    assert not fitted.model.training
    assert fitted.stopped == "completed"
    assert [list(rows) for rows in fitted.records["metrics"]["train"]] == [["loss"]] * 3
    assert {name: len(s) for name, s in fitted.records["profile"].items()} == {
        "fit": 1,
        "epoch": 3,
        "train": 3,
        "valid": 0,
    }


def test_a_field_cannot_be_replaced():
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        fit().model = None
