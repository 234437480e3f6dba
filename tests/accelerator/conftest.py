"""The tests of this folder run on an accelerator, in a process of their own.

torch has one accelerator a process: no other test is to see the simulated one. A test is handed to
a second process of pytest's, which stays; its reports come back. With the environment variable
`LUZPY_TEST_DEVICE=simulated` the simulated device is taken though there is a real one.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import simulated
import torch

from luzpy.ground.devices import widest_float

HERE = Path(__file__).parent
PIPES = os.environ.get("LUZPY_ACCELERATOR_PIPES")  # set in the second process
SECONDS_TO_END = 600  # of a machine that is busy


def is_real():
    """Whether there is a real accelerator, and it is to be used."""
    wanted = os.environ.get("LUZPY_TEST_DEVICE")
    return wanted != simulated.NAME and torch.accelerator.is_available()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("accelerator")


@pytest.fixture(scope="session")
def device():
    """The accelerator."""
    if is_real():
        return torch.empty(0, device=torch.accelerator.current_accelerator()).device
    try:
        return simulated.load()
    except simulated.NoCompilerError as err:
        pytest.skip(str(err))


@pytest.fixture
def counted(device):
    """Counts what the simulated device is asked for; a real one does not tell."""
    if device.type != simulated.NAME:
        pytest.skip("only the simulated device counts")
    simulated.reset()
    return simulated.counts


@pytest.fixture
def no_float64(counted):
    """Nothing on the device may be of float64."""
    widest_float.cache_clear()
    simulated.refuse_float64(True)
    yield
    simulated.refuse_float64(False)
    widest_float.cache_clear()


# The first process ------------------------------------------------------------------------------


class Second:
    """The process with the accelerator."""

    def __init__(self):
        receive, answer = os.pipe()
        listen, send = os.pipe()
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the process ends)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                HERE,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=subprocess.STDOUT,
            pass_fds=[listen, answer],
            env=os.environ | {"LUZPY_ACCELERATOR_PIPES": f"{listen},{answer}"},
        )
        os.close(listen)
        os.close(answer)
        self.receive, self.send = os.fdopen(receive), os.fdopen(send, "w")

    def reports(self, nodeid):
        """What pytest reports of a test there; None if the process has died of it."""
        try:
            print(nodeid, file=self.send, flush=True)
        except BrokenPipeError:
            return None
        line = self.receive.readline()
        return json.loads(line) if line else None

    def end(self):
        with contextlib.suppress(BrokenPipeError):
            self.send.close()
        try:
            self.process.wait(SECONDS_TO_END)
        finally:
            self.process.kill()
            self.receive.close()
            self.said.seek(0)
            last_words = self.said.read().decode(errors="replace")
            self.said.close()
        return last_words


second = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if PIPES is not None or HERE not in item.path.parents:
        return None
    hook, stash = item.ihook, item.config.stash
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if second not in stash:
        stash[second] = Second()
    found = stash[second].reports(item.nodeid)
    if found is None:
        last_words = stash[second].end()
        del stash[second]
        reports = [
            pytest.TestReport(
                *(item.nodeid, item.location, {}, "failed"),
                *(f"The process with the accelerator has died:\n{last_words}", "call"),
            )
        ]
    else:
        reports = [
            hook.pytest_report_from_serializable(config=item.config, data=data) for data in found
        ]
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_unconfigure(config):
    if second in config.stash:
        config.stash[second].end()


# The second process -----------------------------------------------------------------------------


class Reports:
    """Keeps the reports of a test."""

    def __init__(self):
        self.kept = []

    def pytest_runtest_logreport(self, report):
        self.kept.append(report)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    if PIPES is None:
        return None
    listen, answer = map(int, PIPES.split(","))
    items = {item.nodeid: item for item in session.items}
    hook, reports = session.config.hook, Reports()
    session.config.pluginmanager.register(reports)
    with os.fdopen(listen) as asked, os.fdopen(answer, "w") as answers:
        for line in asked:
            reports.kept.clear()
            hook.pytest_runtest_protocol(item=items[line.rstrip("\n")], nextitem=None)
            data = [
                hook.pytest_report_to_serializable(config=session.config, report=report)
                for report in reports.kept
            ]
            print(json.dumps(data, default=str), file=answers, flush=True)
    return True
