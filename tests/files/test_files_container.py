"""The format: what is not whole, not ours or not plain is refused by name, and never run."""

import io
import os
import pickle
import re
import stat
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import luzpy as luz
from luzpy import LuzError
from luzpy.files import container

CONTENT = {"epoch": 3, "x": torch.arange(600.0), "names": ["a", ("b", None)], "ok": True}


def written(folder, content=CONTENT, kind="thing"):
    path = folder / "file.pt"
    container.write(path, kind, content)
    return path


def sealed(path, body):
    """Give `body` a valid end: mark, version, checksum."""
    import hashlib

    head = b"LUZPY" + bytes([1])
    path.write_bytes(body + head + hashlib.sha256(body + head).digest() + b"UZPY")
    return path


def refused(path, match, kind="thing", **kwargs):
    before = path.read_bytes()
    with pytest.raises(LuzError, match=match) as caught:
        container.read(path, kind, **kwargs)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    return caught.value


# What is written can be read -----------------------------------------------------------------


def test_content_comes_back(tmp_path):
    found = container.read(written(tmp_path), "thing")
    assert found["luzpy"] == "thing"
    assert torch.equal(found["x"], CONTENT["x"])
    assert [found[key] for key in ("epoch", "names", "ok")] == [3, ["a", ("b", None)], True]


def test_torch_opens_it_too(tmp_path):
    found = torch.load(written(tmp_path), weights_only=True)
    assert torch.equal(found["x"], CONTENT["x"])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0),
        torch.zeros((), dtype=torch.bfloat16),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([1 + 2j]),
        torch.tensor([True]),
        torch.full((1,), float("nan")),
        torch.nn.Parameter(torch.ones(2)),
        torch.zeros(3).expand(1000, 3),
    ],
)
def test_tensors_of_every_kind_come_back(tmp_path, tensor):
    found = container.read(written(tmp_path, {"x": tensor}), "thing")["x"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    torch.testing.assert_close(found, tensor, rtol=0, atol=0, equal_nan=True)


# What is not whole ---------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.pt"):
        container.read(tmp_path / "nothing.pt", "thing")


def test_every_length_that_is_too_short_is_refused(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    lengths = {0, 1, 41, 42, 43, *range(0, len(whole), 97), *range(len(whole) - 50, len(whole))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        refused(path, "truncated, or not a luzpy file")


def test_bytes_after_its_end_are_refused(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "truncated, or not a luzpy file")


def test_a_hole_in_the_middle_is_refused(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + whole[200:])
    refused(path, "damaged")


@settings(max_examples=200, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path_factory, position, bit):
    path = written(tmp_path_factory.mktemp("flip"), {"x": torch.arange(40.0)})
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    path.write_bytes(content)
    refused(path, "damaged|truncated|later luzpy")


@pytest.mark.parametrize("from_end", range(42))
def test_a_flipped_bit_at_the_end_is_refused(tmp_path, from_end):
    path = written(tmp_path)
    for bit in range(8):
        content = bytearray(path.read_bytes())
        content[-1 - from_end] ^= 1 << bit
        broken = tmp_path / f"{bit}.pt"
        broken.write_bytes(content)
        refused(broken, "damaged|truncated|later luzpy")


def test_a_file_of_a_later_version_is_refused(tmp_path):
    import hashlib

    path = written(tmp_path)
    body, head = path.read_bytes()[:-42], b"LUZPY" + bytes([container.VERSION + 1])
    path.write_bytes(body + head + hashlib.sha256(body + head).digest() + b"UZPY")
    refused(path, r"format 2, of a later luzpy; this one reads up to 1")


def test_a_file_of_another_kind_is_refused(tmp_path):
    refused(written(tmp_path), "must be a luzpy file with a checkpoint.*'thing'", "checkpoint")


@pytest.mark.parametrize("change", [{"epoch": "3"}, {"model": None}, {"callbacks": {}}])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path, change):
    parts = {"epoch": 1, "records": {}, "model": {}, "optimizers": {}, "optimizer_types": {}}
    whole = {**parts, "callbacks": []}
    assert container.read(written(tmp_path, whole, "checkpoint"), "checkpoint")["epoch"] == 1
    path = written(tmp_path, {**whole, **change}, "checkpoint")
    refused(path, f"not a checkpoint that luzpy wrote: its '{next(iter(change))}'", "checkpoint")


# Hostile files -------------------------------------------------------------------------------


class Calls:
    """Pickles into a call of any function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def hostile(sentinel):
    """Objects that make `sentinel` when they are unpickled, by name."""
    make = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {sentinel}"),
        "os.mkdir": Calls(os.mkdir, str(sentinel)),
        "eval": Calls(eval, make),
        "exec": Calls(exec, make),
        "open": Calls(open, str(sentinel), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "import": Calls(__import__, "antigravity"),
        "compile": Calls(compile, make, "x", "exec"),
        "numpy": Calls(np.memmap, str(sentinel), "uint8", "w+", 0, (1,)),
        "torch": Calls(torch.save, 1, str(sentinel)),
        "torch.hub": Calls(torch.hub.load_state_dict_from_url, f"file://{sentinel}"),
        "within a torch type": Calls(torch.nn.Parameter, Calls(os.mkdir, str(sentinel))),
    }


HOSTILE = sorted(hostile("x"))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["value", "key of a list", "tensor's place"])
def test_code_in_a_sealed_file_is_refused_and_not_run(tmp_path, name, where):
    sentinel = tmp_path / "ran"
    item = hostile(sentinel)[name]
    content = {
        "value": {"luzpy": "thing", "x": item},
        "key of a list": {"luzpy": "thing", "x": [1, (2, {"y": item})]},
        "tensor's place": {"luzpy": item},
    }[where]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    error = refused(sealed(tmp_path / "hostile.pt", buffer.getvalue()), "more than tensors")
    assert "none of it was run" in str(error)
    assert "trusted=True" in str(error)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["os.system", "eval"])
def test_code_in_the_older_format_of_torch_is_refused(tmp_path, name):
    sentinel = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(hostile(sentinel)[name], buffer, _use_new_zipfile_serialization=False)
    refused(sealed(tmp_path / "a.pt", buffer.getvalue()), "could not be read")
    assert not sentinel.exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_a_bare_pickle_is_refused(tmp_path, trusted):
    sentinel = tmp_path / "ran"
    bare = pickle.dumps(hostile(sentinel)["os.system"])
    unsealed = tmp_path / "a.pt"
    unsealed.write_bytes(bare)
    refused(unsealed, "truncated, or not a luzpy file", trusted=trusted)
    refused(sealed(tmp_path / "b.pt", bare), "could not be read", trusted=trusted)
    assert not sentinel.exists()


def test_a_file_of_torch_alone_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"x": torch.zeros(3)}, path)
    refused(path, "not a luzpy file")
    refused(path, "not a luzpy file", trusted=True)


def test_a_program_of_torchscript_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch deprecates it
        torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    sealed(path, path.read_bytes())
    refused(path, "TorchScript|compressed")


def rezipped(body, change):
    """The archive with the entries that `change` makes of (name, content)."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(body)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new,
    ):
        for entry in old.infolist():
            change(new, entry.filename, old.read(entry))
    return buffer.getvalue()


def test_a_bomb_is_refused(tmp_path):
    def change(archive, name, content):
        if name.endswith("data/0"):
            archive.writestr(name, bytes(200 << 20), zipfile.ZIP_DEFLATED)
        else:
            archive.writestr(name, content)

    body = rezipped(written(tmp_path).read_bytes()[:-42], change)
    assert len(body) < 1 << 20
    refused(sealed(tmp_path / "bomb.pt", body), "holds a compressed entry, .*data/0")


def test_a_bomb_that_claims_to_be_stored_is_refused(tmp_path):
    body = bytearray(written(tmp_path).read_bytes()[:-42])
    at = body.rfind(b"PK\x01\x02", 0, body.rfind(b"PK\x01\x02"))  # an entry of the directory
    body[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")  # its size
    refused(sealed(tmp_path / "bomb.pt", bytes(body)), "holds a compressed entry|could not be read")


def test_an_archive_of_paths_out_of_its_folder_writes_nothing(tmp_path):
    def change(archive, name, content):
        archive.writestr(name, content)
        if name.endswith("data.pkl"):
            archive.writestr("../../escaped", b"x")
            archive.writestr(str(tmp_path / "escaped"), b"x")

    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    body = rezipped(written(inner).read_bytes()[:-42], change)
    path = sealed(inner / "paths.pt", body)
    try:
        container.read(path, "thing")
    except LuzError as err:
        assert str(path) in str(err)  # noqa: PT017  (it may also be read)
    assert not list(tmp_path.rglob("escaped"))


def test_a_nest_that_would_never_end_is_refused(tmp_path):
    nest = [1]
    for _ in range(60):
        nest = [nest, nest]  # 2**60 numbers in a few hundred bytes
    refused(written(tmp_path, {"x": nest}), "nest")


def test_a_list_within_itself_is_refused(tmp_path):
    endless = []
    endless.append(endless)
    refused(written(tmp_path, {"x": endless}), "nest")


def test_a_nest_as_a_key_is_refused(tmp_path):
    key = (1,)
    for _ in range(60):
        key = (key, key)  # hashing it takes 2**60 steps

    class Keyed:  # a dict with that key, which cannot be made here
        def __reduce__(self):
            return dict, (), None, None, iter([(key, 1)])

    buffer = io.BytesIO()
    torch.save({"luzpy": "thing", "x": Keyed()}, buffer)
    # An empty dict in the place of a call of `dict`.
    body = pickle_replaced(buffer.getvalue(), b"c__builtin__\ndict\n", b"}")
    refused(sealed(tmp_path / "keys.pt", body), "nest")


def pickle_replaced(body, old, new):
    """The archive with a pickle in which the call of a global without arguments is `new`."""
    called = re.compile(re.escape(old) + rb"(q.|r....)?\)(q.)?R", re.DOTALL)

    def change(archive, name, content):
        if name.endswith("data.pkl"):
            content, n = called.subn(new, content)
            assert n == 1
        archive.writestr(name, content)

    return rezipped(body, change)


def as_pickled(code):
    """A content whose "x" is what the pickle `code` makes."""
    buffer = io.BytesIO()
    torch.save({"luzpy": "thing", "x": "here", "t": torch.ones(1)}, buffer)

    def change(archive, name, content):
        if name.endswith("data.pkl"):
            content, n = re.subn(rb"X\x04\0\0\0here(q.)?", lambda _: code, content, flags=re.DOTALL)
            assert n == 1
        archive.writestr(name, content)

    return rezipped(buffer.getvalue(), change)


MANY = b"\x8a\x06" + (10**12).to_bytes(6, "little")
META = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\nK\x02\x85K\x01\x85\x89tR"


@pytest.mark.parametrize(
    "code",
    [
        b"c__builtin__\nbytearray\n" + MANY + b"\x85R",
        b"cbuiltins\nbytearray\n" + MANY + b"\x85R",
        b"ctorch\nTensor\n" + MANY + b"\x85R",
        b"ctorch.storage\nUntypedStorage\n" + MANY + b"\x85R",
        b"c__builtin__\nset\n" + META + b"\x85R",
        b"ccollections\nCounter\n" + META + b"\x85R",
        b"ccollections\nOrderedDict\n" + META + b"\x85R",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(c__builtin__\nbytearray\nctorch\nTensor\n"
        + MANY + b"\x85}tR",
        META,
    ],
)  # fmt: skip
def test_calls_that_make_more_than_they_hold_are_refused(tmp_path, code):
    plain = sealed(tmp_path / "plain.pt", as_pickled(b"K\x07"))
    assert container.read(plain, "thing")["x"] == 7
    refused(sealed(tmp_path / "calls.pt", as_pickled(code)), "more than tensors")


def test_an_archive_with_two_directories_is_refused(tmp_path):
    def bomb(archive, name, content):
        archive.writestr(
            name, bytes(200 << 20) if "data/0" in name else content, zipfile.ZIP_DEFLATED
        )

    whole = written(tmp_path).read_bytes()[:-42]
    packed = rezipped(whole, bomb)
    plain = rezipped(whole, lambda archive, name, content: archive.writestr(name, content))
    assert len(packed) < 1 << 20
    # `zipfile` takes the directory that ends where the end record begins, torch the one at the
    # offset that the record says.
    record = bytearray(plain[-22:])
    record[16:20] = packed[-6:-2]
    body = packed[:-22] + plain[:-22] + bytes(record)
    refused(sealed(tmp_path / "two.pt", body), "could not be read: it is not an archive of torch's")


@pytest.mark.parametrize("at", [8, 10, 12, 16, 20])
def test_an_end_record_that_says_something_else_is_refused(tmp_path, at):
    body = bytearray(written(tmp_path).read_bytes()[:-42])
    body[at - 22] ^= 1
    refused(sealed(tmp_path / "end.pt", bytes(body)), "could not be read")


def test_entries_over_the_same_bytes_are_refused(tmp_path):
    content = {f"x{i}": torch.arange(2000.0) + i for i in range(40)}
    body = bytearray(written(tmp_path, content).read_bytes()[:-42])
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        entries, start = archive.infolist(), archive.start_dir
    first = next(entry for entry in entries if entry.filename.endswith("data/0"))
    position = start
    for entry in entries:  # every entry as long as all of them, from the first one on
        if "/data/" in entry.filename:
            length = (200_000).to_bytes(4, "little")
            body[position + 20 : position + 28] = length * 2
            body[position + 42 : position + 46] = first.header_offset.to_bytes(4, "little")
        n_name, n_extra, n_comment = (body[position + i] for i in (28, 30, 32))
        position += 46 + n_name + n_extra + n_comment
    refused(sealed(tmp_path / "same.pt", bytes(body)), "could not be read: it holds a compressed")


@pytest.mark.parametrize("trusted", [False, True])
def test_an_older_pickle_before_an_empty_archive_is_refused(tmp_path, trusted):
    buffer = io.BytesIO()
    torch.save({"luzpy": "thing"}, buffer, _use_new_zipfile_serialization=False)
    body = buffer.getvalue() + b"PK\x05\x06" + bytes(18)
    refused(sealed(tmp_path / "a.pt", body), "could not be read: it is no", trusted=trusted)


@pytest.mark.parametrize("name", ["archive/DATA.PKL", "archive/data.pkl\0x", "archive/d\u00e4ta"])
def test_entries_that_may_be_taken_for_another_are_refused(tmp_path, name):
    body = rezipped(written(tmp_path).read_bytes()[:-42], lambda a, n, c: a.writestr(n, c))
    with_more = io.BytesIO(body)
    with zipfile.ZipFile(with_more, "a") as archive:
        entry = zipfile.ZipInfo("archive/xxxx")
        entry.filename = name
        archive.writestr(entry, b"x")
    refused(sealed(tmp_path / "names.pt", with_more.getvalue()), "distinct names")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizers": {"opt": 3}},
        {"optimizers": {"opt": {"param_groups": [3]}}},
        {"callbacks": [3]},
        {"callbacks": [["A", 1, 2]]},
        {"records": {"metrics": 3}},
        {"model": {"w": {"numpy.ndarray": "x"}}},
    ],
)
def test_a_checkpoint_of_another_layout_is_refused(tmp_path, change):
    parts = {"epoch": 1, "records": {}, "model": {}, "optimizers": {}, "optimizer_types": {}}
    path = written(tmp_path, {**parts, "callbacks": [], **change}, "checkpoint")
    refused(path, "not a checkpoint that luzpy wrote", "checkpoint")


@pytest.mark.parametrize(
    "body", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02}.", bytes(5000)]
)
def test_a_seal_on_something_else_is_refused(tmp_path, body):
    refused(sealed(tmp_path / "a.pt", body), "could not be read|more than tensors")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_altered_and_sealed_again_is_read_or_refused_but_nothing_else(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("altered")
    body = bytearray(written(folder, {"x": torch.arange(4.0), "y": ["a"]}).read_bytes()[:-42])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        container.read(sealed(folder / "altered.pt", bytes(body)), "thing")
    except LuzError as err:
        assert "altered.pt" in str(err)  # noqa: PT017  (it may also be read)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    with pytest.raises(LuzError, match="fifo could not be read: it is not a file"):
        container.read(tmp_path / "fifo", "thing")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(LuzError, match="could not be read: it is not a file"):
        container.read(tmp_path, "thing")


@pytest.mark.parametrize("read", [luz.load, luz.callbacks.ResumeFromCheckpoint])
@pytest.mark.parametrize("path", ["", None, 7, b"a.pt"])
def test_what_is_no_path_is_named(read, path):
    with pytest.raises((TypeError, ValueError), match="`path` must be a path, got"):
        read(path)


# With trust ----------------------------------------------------------------------------------


def test_trust_unpickles(tmp_path):
    path = written(tmp_path, {"x": zlib.crc32})
    refused(path, "more than tensors")
    assert container.read(path, "thing", trusted=True)["x"] is zlib.crc32


def test_an_error_of_the_unpickled_code_names_the_path(tmp_path):
    path = written(tmp_path, {"x": Calls(divmod, 1, 0)})
    refused(path, "could not be read.*zero", trusted=True)
