"""The runs that the tests of this folder look at: each is launched once, for all of them."""

import shutil

import pytest
import torch
from filelock import FileLock
from runs import LAUNCHERS, RUNS, end, start, torchrun


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all of pytest's processes have."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def killed(shared):
    """A run on two ranks, one of which was killed when the third epoch began."""
    pytest.importorskip("accelerate", reason="luzpy[distributed] is not installed")
    folder = shared / "killed"
    with FileLock(shared / "killed.lock"):
        if not (folder / "status").exists():
            process = start(torchrun(2), folder, ["one_rank_dies"])
            (folder / "status").write_text(str(end(process, folder)))
    return folder


@pytest.fixture(scope="session")
def ranks(shared, killed):
    """What each rank found in one of `RUNS`."""

    def results(run):
        folder = shared / run
        with FileLock(shared / f"{run}.lock"):
            if not (folder / "status").exists():
                folder.mkdir()
                shutil.copy(killed / "state.pt", folder)
                status = end(start(LAUNCHERS[run], folder, RUNS[run]), folder)
                (folder / "status").write_text(str(status))
        assert (folder / "status").read_text() == "0", (folder / "said").read_text()[-5000:]
        files = sorted(folder.glob("rank-*.pt"))
        return [torch.load(file, weights_only=False) for file in files]

    return results
