"""Files that were damaged or forged, in every layer: read as they were written, or refused by name.

Each file is sealed again with a right checksum after the change, so that the reader has to see it.
"""

import copy
import hashlib
import io
import os
import struct
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from models import unrelated
from mutations import changed
from torch import nn

import luzpy as luz
from luzpy.files import container

X, Y = unrelated(32, 3)
EXAMPLES = 5000 if "LUZPY_SOAK" in os.environ else 25
KINDS = ["fitted model", "model's weights", "checkpoint"]


class Net(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.fc = nn.Linear(size, 1)
        self.register_buffer("count", torch.tensor(2))

    def forward(self, x):
        return self.fc(x)


def target():
    return luz.FittedModule(model=Net(), records={}, hparams={}, opt_hparams={}, stopped="")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bytes of a file of each kind, without its seal, and its content."""
    folder = tmp_path_factory.mktemp("whole")
    model = luz.setup(Net, nn.MSELoss(), torch.optim.Adam).set_hparams(size=3)
    keep = luz.callbacks.ModelCheckpoint(folder / "checkpoint.pt", monitor="train_loss")
    fitted = model.fit((X, Y), 1, callbacks=[keep], verbose=False)
    fitted.save(folder / "net.luz")
    luz.save_model_weights(fitted, folder / "weights.pt")
    paths = dict(zip(KINDS, ("net.luz", "weights.pt", "checkpoint.pt"), strict=True))
    found = {}
    for kind, name in paths.items():
        body = (folder / name).read_bytes()[:-42]
        found[kind] = body, torch.load(io.BytesIO(body), weights_only=True), folder / name
    return found


def resealed(path, body):
    head = b"LUZPY\x01"
    path.write_bytes(body + head + hashlib.sha256(body + head).digest() + b"UZPY")
    return path


def read_or_refused(path, kind):
    """Use the file as a user does: all of it, or an error that names it and no change at all."""
    fitted = target()
    before = copy.deepcopy(fitted.model.state_dict())
    read = {
        "fitted model": lambda: luz.load(path, module=Net),
        "model's weights": lambda: luz.load_model_weights(fitted, path),
        "checkpoint": lambda: luz.load_checkpoint(fitted, path),
    }[kind]
    try:
        loaded = read() or fitted
    except luz.LuzError as err:
        assert str(path) in str(err)  # noqa: PT017  (it may also be read)
        after = fitted.model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        return None
    assert [t.shape for t in loaded.model.state_dict().values()] == [(), (1, 3), (1,)]
    loaded.predict(X, verbose=False)
    assert repr(loaded)
    luz.get_metrics(loaded)
    return loaded


fuzzed = settings(
    max_examples=EXAMPLES,
    phases=set(Phase) - {Phase.explain},
    deadline=None,
    derandomize="LUZPY_SOAK" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_what_is_not_changed_is_read(files, tmp_path, kind):
    body, content, written = files[kind]
    found = read_or_refused(resealed(tmp_path / "same.pt", body), kind)
    weights = content["model" if kind == "checkpoint" else "state"]
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert (tmp_path / "same.pt").read_bytes() == written.read_bytes()


@each_kind
@fuzzed
@given(data=st.data())
def test_bytes(files, tmp_path_factory, kind, data):
    body = bytearray(files[kind][0])
    places = st.integers(0, len(body) - 1)
    # The directory and the pickle are where the reader decides; weights may hold any bytes.
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        start = archive.start_dir
    ends = st.integers(start, len(body) - 1)
    pickled = st.integers(0, body.find(b"PK", 4))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(places, ends, pickled))
        body[place] = data.draw(st.one_of(st.integers(0, 255), st.just(body[place] ^ 1)))
    if data.draw(st.booleans()):
        cut = data.draw(places)
        del body[cut : cut + data.draw(st.integers(1, 200))]
    read_or_refused(resealed(tmp_path_factory.mktemp("f") / "bytes.pt", bytes(body)), kind)


@each_kind
@fuzzed
@given(data=st.data())
def test_entries(files, tmp_path_factory, kind, data):
    with zipfile.ZipFile(io.BytesIO(files[kind][0])) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    some = st.integers(0, len(entries) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        index, other = data.draw(some), data.draw(some)
        name, content = entries[index]
        entries[index] = data.draw(
            st.sampled_from([
                (name, entries[other][1]),
                (entries[other][0], content),
                (name, content[: len(content) // 2]),
                (name, content * 2),
                (name, b""),
                (name.upper(), content),
                (name.replace("archive", "other"), content),
                ("/" + name, content),
            ])
        )  # fmt: skip
    if data.draw(st.booleans()):
        data.draw(st.randoms(use_true_random=False)).shuffle(entries)
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            if name not in archive.namelist():
                archive.writestr(name, content)
    path = tmp_path_factory.mktemp("f") / "entries.pt"
    read_or_refused(resealed(path, buffer.getvalue()), kind)


@each_kind
@fuzzed
@given(at=st.integers(0, 21), wide=st.integers(0, 97), value=st.integers(0, 2**32 - 1))
def test_records_at_the_end(files, tmp_path_factory, kind, at, wide, value):
    body = bytearray(files[kind][0])
    struct.pack_into("<H", body, len(body) - 22 + min(at, 20), value % 65536)
    struct.pack_into("<L", body, len(body) - 98 + min(wide, 94), value)
    read_or_refused(resealed(tmp_path_factory.mktemp("f") / "end.pt", bytes(body)), kind)


@each_kind
@fuzzed
@given(data=st.data())
def test_content(files, tmp_path_factory, kind, data):
    content = {name: item for name, item in files[kind][1].items() if name != "luzpy"}
    for _ in range(data.draw(st.integers(1, 2))):
        content = content and changed(content, lambda most: data.draw(st.integers(0, most)))
    path = tmp_path_factory.mktemp("f") / "content.pt"
    if not all(isinstance(name, str) for name in content):
        content = {str(name): item for name, item in content.items()}
    container.write(path, kind, {name: item for name, item in content.items() if name != "luzpy"})
    read_or_refused(path, kind)
