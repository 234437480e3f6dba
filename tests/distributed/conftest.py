"""What the ranks of a launch found: each launch is made once, for all scenarios and tests."""

import functools
import shutil

import pytest
import torch
from filelock import FileLock
from launch import LAUNCHERS, end, start, torchrun
from scenarios import all_scenarios


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all of pytest's processes have."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def killed(shared):
    """The folder of a run on two ranks, one of which was killed when the third epoch began."""
    pytest.importorskip("accelerate", reason="luzpy[distributed] is not installed")
    from test_distributed_files import one_rank_dies

    folder = shared / "killed"
    with FileLock(shared / "killed.lock"):
        if not (folder / "status").exists():
            process = start(torchrun(2), folder, one_rank_dies)
            (folder / "status").write_text(str(end(process, folder)))
    return folder


@pytest.fixture(scope="session")
def launched(shared, killed):
    """The folder of a launch, in which there is the file of the run that was killed."""

    def make(launch):
        folder = shared / launch
        with FileLock(shared / f"{launch}.lock"):
            if not (folder / "status").exists():
                folder.mkdir()
                shutil.copy(killed / "state.pt", folder)
                functions = [s.function for s in all_scenarios() if launch in s.launches]
                status = end(start(LAUNCHERS[launch], folder, *functions), folder)
                (folder / "status").write_text(str(status))
        assert (folder / "status").read_text() == "0", (folder / "said").read_text()[-5000:]
        return folder

    return make


@pytest.fixture(scope="session")
def ranks(launched):
    """What a scenario found in some launches, rank by rank."""

    @functools.cache
    def of(launch):
        files = sorted(launched(launch).glob("rank-*.pt"))
        return [torch.load(file, weights_only=False) for file in files]

    def findings(scenario, *launches):
        results = [result[scenario.__name__] for launch in launches for result in of(launch)]
        for result in results:
            assert "failed" not in result, result["failed"]
        return results

    return findings
