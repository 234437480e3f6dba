import io
import pty
import sys

import pytest

import luzpy as luz
from luzpy.callbacks import Metrics, Profile, Progress
from luzpy.distributed.accelerator import check_accelerator
from luzpy.verbs.arguments import check_epochs, check_options, check_verbose, with_defaults

CPU = luz.Accelerator(cpu=True)


@pytest.mark.parametrize(
    ("epochs", "limits"),
    [(1, (0, 1)), (10, (0, 10)), ((2, 5), (2, 5)), ([0, 3], (0, 3)), ((4, 4), (4, 4))],
)
def test_epochs_are_a_number_or_two(epochs, limits):
    assert check_epochs(epochs) == limits


@pytest.mark.parametrize(
    ("epochs", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        ((3, 2), ValueError),
        ((-1, 2), ValueError),
        ((0, 0), ValueError),
        (1.0, TypeError),
        (True, TypeError),
        ("3", TypeError),
        (None, TypeError),
        ((1, 2, 3), TypeError),
        ((1,), TypeError),
        ((1, 2.0), TypeError),
    ],
)
def test_other_epochs_are_refused(epochs, error):
    with pytest.raises(error, match="`epochs` must be an integer of at least 1, or a pair"):
        check_epochs(epochs)


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_may_be_said(verbose):
    assert check_verbose(verbose) is verbose


def test_without_a_word_it_is_verbose_in_a_terminal(monkeypatch):
    _, slave = pty.openpty()
    with open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert check_verbose(None) is True
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert check_verbose(None) is False


@pytest.mark.parametrize("verbose", [1, "yes"])
def test_other_words_are_refused(verbose):
    with pytest.raises(TypeError, match="`verbose` must be True, False or None"):
        check_verbose(verbose)


def test_an_accelerator_is_made_where_none_is_given():
    given = luz.Accelerator(cpu=True)
    assert check_accelerator(given) is given
    assert isinstance(check_accelerator(None), luz.Accelerator)


@pytest.mark.parametrize("accelerator", ["cpu", luz.Accelerator])
def test_other_accelerators_are_refused(accelerator):
    with pytest.raises(TypeError, match="`accelerator` must be a luzpy Accelerator, or "):
        check_accelerator(accelerator)


@pytest.mark.parametrize("options", [None, {}, {"batch_size": 2}])
def test_options_are_a_dict(options):
    assert check_options(options, None, None) == options


@pytest.mark.parametrize("options", [32, [("batch_size", 2)], "shuffle"])
def test_other_options_are_refused(options):
    with pytest.raises(TypeError, match="`dataloader_options` must be a dict of DataLoader's"):
        check_options(options, None, None)


def test_the_users_callbacks_come_after_the_defaults():
    mine = luz.Callback()
    kinds = [type(callback) for callback in with_defaults((Profile, Metrics), [mine], CPU)]
    assert kinds == [Profile, Metrics, luz.Callback]


def test_a_default_gives_way_to_the_users_own():
    mine = Progress()
    found = with_defaults((Profile, Progress, Metrics), mine, CPU)
    assert [type(callback) for callback in found] == [Profile, Metrics, Progress]
    assert found[-1] is mine


def test_every_run_has_defaults_of_its_own():
    assert with_defaults((Profile,), None, CPU)[0] is not with_defaults((Profile,), None, CPU)[0]


def test_the_users_list_is_not_changed():
    mine = [luz.Callback()]
    with_defaults((Profile,), mine, CPU)
    assert len(mine) == 1
