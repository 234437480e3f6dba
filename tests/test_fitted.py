import re
from html.parser import HTMLParser

import attrs
import pytest
import torch
from models import line
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


@pytest.mark.parametrize("hook", ["on_fit_begin", "on_train_batch_end"])
def test_it_prints_when_not_one_epoch_was_completed(hook):
    fitted = interrupted_at(**{hook: True})
    assert "Stopped after epoch 0: interrupted" in repr(fitted)
    assert Page(fitted._repr_html_()).text[:2] == ["A fitted luzpy model", "(interrupted)"]
    assert fitted.get_metrics().empty


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
