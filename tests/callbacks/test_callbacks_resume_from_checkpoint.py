"""`ResumeFromCheckpoint`: which parts of a checkpoint a run starts from."""

import os
import shutil

import pytest
import torch
from models import regression, unrelated
from torch import nn

import luzpy as luz
from luzpy import LuzError
from luzpy.callbacks.resume_from_checkpoint import newest_checkpoint
from luzpy.files import container
from luzpy.files.checkpoint import read_checkpoint

X, Y = unrelated(100, 10)


class Tracks(luz.Callback):
    """Weights, optimizer's steps and epoch at the start of each epoch; and a count as its state."""

    def __init__(self):
        self.count = 0

    def on_fit_begin(self, ctx):
        self.weights, self.steps, self.epochs = [], [], []

    def on_epoch_begin(self, ctx):
        self.weights.append(ctx.model.weight.detach().clone())
        state = ctx.optimizers["opt"].state_dict()["state"]
        self.steps.append(int(state[0]["step"]) if state else 0)
        self.epochs.append(ctx.epoch)

    def on_epoch_end(self, ctx):
        self.count += 1
        self.last = ctx.model.weight.detach().clone()

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def fit(*callbacks, epochs=3, seed=0, module=10, **kwargs):
    model = regression(module, torch.optim.Adam, seed=seed)
    return model.fit((X, Y), epochs, callbacks=list(callbacks), verbose=False, **kwargs)


def checkpoints(path, **kwargs):
    tracks = Tracks()
    files = luz.callbacks.ModelCheckpoint(path, monitor="train_loss")
    fitted = fit(tracks, files, **kwargs)
    return tracks, fitted


def resumed(path, epochs=1, **kwargs):
    tracks = Tracks()
    fitted = fit(tracks, luz.callbacks.ResumeFromCheckpoint(path, **kwargs), epochs=epochs, seed=1)
    return tracks, fitted


def test_a_run_starts_from_the_last_weights_of_another(tmp_path):
    # R: test-callbacks-resume.R, "can use the resume_from callback"
    before, _ = checkpoints(tmp_path / "a.pt")
    after, fitted = resumed(tmp_path / "a.pt")
    assert torch.equal(after.weights[0], before.last)
    assert (after.steps, after.epochs) == ([0], [1])
    assert len(fitted.records["metrics"]["train"]) == 1


@pytest.mark.parametrize("resume", ["ResumeFromCheckpoint", "AutoResume"])
def test_an_error_of_a_callback_that_takes_its_state_keeps_its_type(tmp_path, resume):
    class Other(Tracks):
        def load_state_dict(self, state):
            raise KeyError("other")

    def stop(ctx):
        if ctx.epoch == 2:
            ctx.stop("enough")

    path = tmp_path / "a.pt"
    Other.__name__ = "Tracks"
    if resume == "AutoResume":
        stopping = luz.Callback.from_functions(on_epoch_end=stop)
        fit(Tracks(), luz.callbacks.AutoResume(path), stopping)
        again = [luz.callbacks.AutoResume(path)]
    else:
        checkpoints(path)
        files = luz.callbacks.ModelCheckpoint(tmp_path / "b.pt", monitor="train_loss")
        again = [files, luz.callbacks.ResumeFromCheckpoint(path, restore_callbacks_state=True)]
    before = path.read_bytes()
    with pytest.raises(KeyError, match="other") as caught:
        fit(Other(), *again)
    (note,) = caught.value.__notes__
    assert note.startswith("luzpy: in the callback Tracks, load_state_dict, with what ")
    assert str(path) in note
    assert path.read_bytes() == before


def test_the_optimizers_state_on_request(tmp_path):
    checkpoints(tmp_path / "a.pt")
    after, _ = resumed(tmp_path / "a.pt", restore_optimizer_state=True)
    assert after.steps == [9]  # 3 epochs of 3 whole batches


def test_the_records_on_request_and_epochs_go_on_from_there(tmp_path):
    _, first = checkpoints(tmp_path / "a.pt")
    after, fitted = resumed(tmp_path / "a.pt", epochs=5, restore_records=True)
    assert after.epochs == [4, 5]
    epochs = fitted.records["metrics"]["train"]
    assert len(epochs) == 5
    assert epochs[:3] == first.records["metrics"]["train"]


def test_without_the_model_the_weights_are_the_runs_own(tmp_path):
    checkpoints(tmp_path / "a.pt")
    after, fitted = resumed(tmp_path / "a.pt", restore_model_state=False)
    assert torch.equal(after.weights[0], fitted.spec().weight)


def test_the_states_of_callbacks_on_request(tmp_path):
    checkpoints(tmp_path / "{epoch}.pt")
    tracks = Tracks()
    files = luz.callbacks.ModelCheckpoint(tmp_path / "new.pt", monitor="train_loss")
    path = tmp_path / "2.pt"
    back = luz.callbacks.ResumeFromCheckpoint(path, restore_callbacks_state=True)
    fit(tracks, files, back, epochs=1)
    # at the end of epoch 2 the count stood at 2, and this run adds an epoch
    assert dict(read_checkpoint(path)["callbacks"])["Tracks"] == {"count": 2}
    assert tracks.count == 3


def test_other_callbacks_are_named(tmp_path):
    checkpoints(tmp_path / "a.pt")
    with pytest.raises(LuzError, match=r"callbacks .*ModelCheckpoint.*this run has"):
        resumed(tmp_path / "a.pt", restore_callbacks_state=True)


def test_another_model_is_named(tmp_path):
    checkpoints(tmp_path / "a.pt")
    back = luz.callbacks.ResumeFromCheckpoint(tmp_path / "a.pt")
    with pytest.raises(LuzError, match=r"a\.pt does not fit the model: 'bias' is not in"):
        fit(back, module=lambda: nn.Linear(10, 1, bias=False))


# Which file ----------------------------------------------------------------------------------


def test_of_a_folder_the_latest_epoch_by_number(tmp_path):
    # R luz takes the last by name: epoch-99 instead of epoch-100
    before, _ = checkpoints(tmp_path / "epoch-{epoch}.pt", epochs=11)
    assert newest_checkpoint(tmp_path)[0].name == "epoch-11.pt"
    after, _ = resumed(tmp_path)
    assert torch.equal(after.weights[0], before.last)


def test_of_one_epoch_the_file_that_was_written_last(tmp_path):
    checkpoints(tmp_path / "b.pt", epochs=1)
    for name in ("a.pt", "c.pt"):
        shutil.copy(tmp_path / "b.pt", tmp_path / name)
    os.utime(tmp_path / "b.pt", ns=(2**62, 2**62))
    assert newest_checkpoint(tmp_path)[0].name == "b.pt"


def test_of_several_runs_the_newest_runs_newest_epoch_and_a_warning_names_both(tmp_path):
    checkpoints(tmp_path / "old-{epoch}.pt", epochs=6)
    before, _ = checkpoints(tmp_path / "new-{epoch}.pt", epochs=3)
    with pytest.warns(UserWarning, match=r"2 runs: new-3\.pt.*is used, not old-6\.pt"):
        after, _ = resumed(tmp_path)
    assert torch.equal(after.weights[0], before.last)


def test_a_run_that_was_resumed_is_the_same_run(tmp_path):
    def fail(ctx):
        raise RuntimeError

    def run(*extra):
        files = luz.callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt", "train_loss")
        return fit(files, luz.callbacks.AutoResume(tmp_path / "state" / "a.pt"), *extra)

    with pytest.raises(RuntimeError):
        run(luz.Callback.from_functions(on_train_end=lambda c: c.epoch > 1 and fail(c)))
    run()
    back = luz.callbacks.ResumeFromCheckpoint(tmp_path, restore_records=True)
    fit(back, luz.callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt", "train_loss"), epochs=5)
    began = {read_checkpoint(tmp_path / f"{epoch}.pt")["began"] for epoch in range(1, 6)}
    assert len(began) == 1
    assert newest_checkpoint(tmp_path)[0].name == "5.pt"  # and no warning


def test_files_of_the_first_luzpy_are_an_older_run(tmp_path):
    for name, epochs in (("old.pt", 4), ("new.pt", 2)):
        checkpoints(tmp_path / name, epochs=epochs)
    content = read_checkpoint(tmp_path / "old.pt")
    del content["luzpy"], content["began"]
    container.write(tmp_path / "old.pt", container.CHECKPOINT, content)
    with pytest.warns(UserWarning, match=r"new\.pt.* not old\.pt"):
        assert newest_checkpoint(tmp_path)[0].name == "new.pt"


def test_a_file_that_cannot_be_opened_is_passed_over_with_a_warning(tmp_path):
    checkpoints(tmp_path / "{epoch}.pt", epochs=2)
    (tmp_path / "3.pt").symlink_to("/proc/self/mem")  # whose first bytes cannot be read
    with pytest.warns(UserWarning, match="Passed over: "):
        assert newest_checkpoint(tmp_path)[0].name == "2.pt"


def test_with_the_records_and_nothing_left_to_train_there_is_a_warning(tmp_path):
    checkpoints(tmp_path / "a.pt", epochs=3)
    with pytest.warns(UserWarning, match=r"nothing left to train: .*a\.pt is of epoch 3"):
        after, fitted = resumed(tmp_path / "a.pt", epochs=2, restore_records=True)
    assert after.epochs == []
    assert len(fitted.records["metrics"]["train"]) == 3


def test_other_files_in_the_folder_are_passed_over(tmp_path):
    checkpoints(tmp_path / "{epoch}.pt", epochs=2)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").write_bytes((tmp_path / "2.pt").read_bytes())
    assert newest_checkpoint(tmp_path)[0].name == "2.pt"


def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path):
    checkpoints(tmp_path / "{epoch}.pt", epochs=3)
    content = bytearray((tmp_path / "3.pt").read_bytes())
    content[300] ^= 1
    (tmp_path / "3.pt").write_bytes(content)
    with pytest.warns(UserWarning, match=r"Passed over: .*3\.pt is damaged"):
        assert newest_checkpoint(tmp_path)[0].name == "2.pt"


def test_a_damaged_file_that_is_asked_for_is_an_error(tmp_path):
    checkpoints(tmp_path / "a.pt", epochs=1)
    content = (tmp_path / "a.pt").read_bytes()[:-1]
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(LuzError, match=r"a\.pt is truncated"):
        resumed(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == content


@pytest.mark.parametrize("name", ["nothing.pt", "empty folder"])
def test_nothing_there_is_a_warning_and_a_fresh_start(tmp_path, name):
    # as R luz warns
    (tmp_path / "empty folder").mkdir()
    with pytest.warns(UserWarning, match=f"no checkpoint at .*{name}: the run starts from scratch"):
        after, fitted = resumed(tmp_path / name)
    assert torch.equal(after.weights[0], fitted.spec().weight)


def test_of_a_run_that_stopped_within_an_epoch_that_epoch_is_run_again(tmp_path):
    resume = luz.callbacks.AutoResume(tmp_path / "state.pt", every_n_batches=1)

    def fail(ctx):
        if (ctx.epoch, ctx.iter) == (2, 2):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(resume, luz.Callback.from_functions(on_train_batch_begin=fail))
    after, _ = resumed(tmp_path / "state.pt", epochs=3, restore_records=True)
    assert after.epochs == [2, 3]


@pytest.mark.parametrize(
    "option",
    ["model_state", "records", "optimizer_state", "callbacks_state"],
)
def test_flags_are_checked(option):
    with pytest.raises(TypeError, match=f"`restore_{option}` must be True or False, got 1"):
        luz.callbacks.ResumeFromCheckpoint("a.pt", **{f"restore_{option}": 1})
