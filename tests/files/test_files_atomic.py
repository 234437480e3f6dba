"""Writing: whole or not at all, under real kills and on really full disks."""

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from luzpy import LuzError
from luzpy.files import container
from luzpy.files.atomic import check_writable, written_atomically

MARK = "luzpy-partial"


def write(path, content=b"new"):
    with written_atomically(path) as file:
        file.write(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def python(code, **kwargs):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], **kwargs)


# What is written -----------------------------------------------------------------------------


def test_the_content_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"a longer old content")
    write(path)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.pt"]


def test_missing_folders_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "c.pt")
    assert (tmp_path / "a" / "b" / "c.pt").read_bytes() == b"new"


def test_relative_paths_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.pt")
    write(os.path.join("sub", "b.pt"))
    assert names(tmp_path) == ["a.pt", "sub"]
    assert names(tmp_path / "sub") == ["b.pt"]


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/a.pt")
    assert names(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_the_umask(tmp_path, umask):
    path = tmp_path / "a.pt"
    before = os.umask(umask)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "far" / "state.pt", tmp_path / "latest.pt"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["state.pt"]


def test_a_dangling_link_is_written_through(tmp_path):
    link = tmp_path / "latest.pt"
    link.symlink_to(tmp_path / "far" / "state.pt")
    write(link)
    assert (tmp_path / "far" / "state.pt").read_bytes() == b"new"


def test_the_longest_name_of_a_file_will_do(tmp_path):
    path = tmp_path / ("ä" * 126 + ".pt")  # 255 bytes
    write(path)
    assert names(tmp_path) == [path.name]


# What fails ----------------------------------------------------------------------------------


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), written_atomically(path) as file:  # noqa: PT012  (fails while writing)
        file.write(b"half of it")
        1 / 0  # noqa: B018  (what fails)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.pt"]


def test_ctrl_c_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), written_atomically(path) as file:  # noqa: PT012  (fails while writing)
        file.write(b"half of it")
        raise KeyboardInterrupt
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["a.pt"])


def test_a_folder_in_its_place_is_an_error(tmp_path):
    (tmp_path / "a.pt").mkdir()
    with pytest.raises(LuzError, match=r"`path` must name a file, got .*a\.pt"):
        write(tmp_path / "a.pt")
    assert names(tmp_path) == ["a.pt"]


def test_a_device_is_not_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(LuzError, match=r"fifo.*not a file"):
        write(fifo)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(LuzError, match=r"a/b\.pt could not be written"):
        write(tmp_path / "a" / "b.pt")


def test_a_loop_of_links_is_an_error(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(LuzError, match=r"a/c\.pt could not be written"):
        write(tmp_path / "a" / "c.pt")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_cannot_be_is_a_value_error(path):
    with pytest.raises(ValueError, match="`path` must be a path, got"):
        write(path)


@pytest.mark.parametrize("path", [None, 3, b"a.pt", ["a.pt"]])
def test_what_is_no_path_is_a_type_error(path):
    with pytest.raises(TypeError, match="`path` must be a path, got"):
        write(path)


# Full disks ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk():
    """A file system of one MiB."""
    folder = Path(tempfile.mkdtemp())
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        folder.rmdir()
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


@pytest.mark.parametrize("megabytes", [1, 2, 8])
def test_a_full_disk_is_an_error_and_loses_nothing(small_disk, megabytes):
    path = small_disk / "state.pt"
    container.write(path, "thing", {"x": torch.arange(1000)})
    before = path.read_bytes()
    with pytest.raises(LuzError, match=r"state\.pt could not be written.*No space left") as caught:
        container.write(path, "thing", {"x": torch.zeros(megabytes << 18)})
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert names(small_disk) == ["state.pt"]
    assert torch.equal(container.read(path, "thing")["x"], torch.arange(1000))


def test_the_limit_on_the_size_of_files_is_an_error_and_loses_nothing(tmp_path):
    path = tmp_path / "state.pt"
    container.write(path, "thing", {"x": 1})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(LuzError, match=r"state\.pt could not be written.*File too large"):
            container.write(path, "thing", {"x": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["state.pt"]


# Kills ---------------------------------------------------------------------------------------

ENDLESS = """
    import sys
    from luzpy.files.atomic import written_atomically
    with written_atomically(sys.argv[1]) as file:
        print("begun", flush=True)
        while True:
            file.write(b"x" * 100_000)
"""


def killed_while_writing(path):
    """Kill a process that is in the middle of a write; the names that it leaves."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ENDLESS), path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    deadline = time.monotonic() + 300
    while not any(p.stat().st_size > 1e6 for p in path.parent.iterdir() if MARK in p.name):
        assert time.monotonic() < deadline
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    return names(path.parent)


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.pt"
    container.write(path, "thing", {"x": torch.arange(9)})
    left = killed_while_writing(path)
    assert len(left) == 2
    assert torch.equal(container.read(path, "thing")["x"], torch.arange(9))


def test_what_a_kill_left_is_removed_at_the_next_write(tmp_path):
    path = tmp_path / "state.pt"
    assert len(killed_while_writing(path)) == 1
    write(path)
    assert names(tmp_path) == ["state.pt"]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    path = tmp_path / "state.pt"
    code = """
        import sys
        from luzpy.files.atomic import written_atomically
        with written_atomically(sys.argv[1]) as file:
            file.write(b"theirs")
            print("begun", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"begun\n"
    write(path)
    assert (path.read_bytes(), len(names(tmp_path))) == (b"new", 2)
    process.communicate(b"")
    assert process.returncode == 0
    assert (path.read_bytes(), names(tmp_path)) == (b"theirs", ["state.pt"])


def test_a_write_does_not_look_at_what_else_is_in_the_folder(tmp_path, monkeypatch):
    # of 100,000 files that takes as long as the write
    looked = []

    def note(event, args):
        if watching and event in ("os.listdir", "os.scandir"):
            looked.append(args)

    watching = True
    sys.addaudithook(note)
    write(tmp_path / "state.pt")
    watching = False
    assert looked == []


def test_a_place_is_tried_without_a_trace(tmp_path):
    check_writable(tmp_path / "folder" / "state.pt")
    assert names(tmp_path / "folder") == []
    with pytest.raises(LuzError, match="`path` must be in a folder that can be written to"):
        check_writable("/proc/state.pt")


def test_other_files_are_not_taken_for_leftovers(tmp_path):
    others = [
        f".other.pt.0.{MARK}",
        f".state.pt.x.{MARK}",
        ".state.pt.swp",
        "state.pt.bak",
        f"x{MARK}",
    ]
    for name in others:
        (tmp_path / name).touch()
    write(tmp_path / "state.pt")
    assert names(tmp_path) == sorted([*others, "state.pt"])


def test_threads_that_write_one_file_leave_one_of_their_contents(tmp_path):
    path = tmp_path / "state.pt"
    failures = []

    def repeatedly(content):
        try:
            for _ in range(50):
                write(path, content * 5000)
        except Exception as err:
            failures.append(err)

    threads = [threading.Thread(target=repeatedly, args=(c,)) for c in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    content = path.read_bytes()
    assert content in (b"a" * 5000, b"b" * 5000, b"c" * 5000)
    assert names(tmp_path) == ["state.pt"]


# On the disk ---------------------------------------------------------------------------------

SAVE = """
import torch
from luzpy.files import container
container.write({path!r}, "thing", {{"x": torch.zeros(1000)}})
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_file_then_name_then_folder_are_synchronised(tmp_path):
    path, log = tmp_path / "folder" / "state.pt", tmp_path / "log"
    path.parent.mkdir()
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2"
    traced = subprocess.run(
        ["strace", "-y", "-e", calls, "-o", log, sys.executable, "-c", SAVE.format(path=str(path))],
        capture_output=True,
        text=True,
    )
    if "ptrace" in traced.stderr:
        pytest.skip("strace may not trace here")
    lines = [line for line in log.read_text().splitlines() if "folder" in line]
    kinds = [line.partition("(")[0] for line in lines]
    assert kinds == ["fsync", "rename", "fsync"]
    assert MARK in lines[0]  # the file, before it has its name
    assert f"{path.parent}>" in lines[2]  # the folder, after it
    assert all(line.endswith("= 0") for line in lines)


def test_file_and_folder_are_synchronised_in_this_order(tmp_path, monkeypatch):
    # the same where there is no strace
    seen = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.fstat(fd).st_mode), real(fd)))
    write(tmp_path / "new" / "a.pt")
    kinds = ["folder" if stat.S_ISDIR(mode) else "file" for mode in seen]
    assert kinds == ["folder", "file", "folder"]  # the first: where the new folder's name is
