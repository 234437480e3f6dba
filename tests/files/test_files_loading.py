"""`load`: the model that was saved, and no code that the file names."""

import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from models import unrelated
from torch import nn

import luzpy as luz
from luzpy import LuzError
from luzpy.files import container

X, Y = unrelated(64, 10)


class Net(nn.Module):
    def __init__(self, input_size=10, output_size=1):
        super().__init__()
        self.fc = nn.Linear(input_size, output_size)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.fc(x))


class Reads(nn.Module):
    """Reads its context in `forward`, as long as there is a run."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(10, 1, bias=False)

    def forward(self, x):
        return self.fc(torch.ones_like(x) if self.ctx.training else torch.zeros_like(x))


class Outer:
    class Inner(Net):
        pass


class Demanding(Net):
    def __init__(self, needed):
        super().__init__()


def small():
    return nn.Linear(10, 1)


def fit(module=Net, **hparams):
    model = luz.setup(module, nn.MSELoss(), torch.optim.Adam, luz.metrics.MAE())
    if hparams:
        model = model.set_hparams(**hparams)
    return model.fit((X, Y), 1, valid_data=0.25, verbose=False)


def saved(folder, module=Net, **hparams):
    fitted = fit(module, **hparams)
    luz.save(fitted, folder / "net.luz")
    return fitted, folder / "net.luz"


def test_the_rows_of_validation_are_kept(tmp_path):
    fitted, path = saved(tmp_path)
    assert len(fitted.valid_rows) == len(X) // 4
    assert torch.equal(luz.load(path, module=Net).valid_rows, fitted.valid_rows)
    assert luz.load(written(tmp_path / "old.luz"), module=Net).valid_rows is None


def written(path, **changes):
    """A sealed file of a fitted model, with changes."""
    content = {
        "module": f"{__name__}:Net",
        "state": Net().state_dict(),
        "records": {"metrics": {"train": [], "valid": []}},
        "hparams": {},
        "opt_hparams": {},
        "stopped": "completed",
    }
    container.write(path, "fitted model", content | changes)
    return path


def predictions(fitted):
    return fitted.predict(X, verbose=False)


# The same model ------------------------------------------------------------------------------


def test_a_loaded_model_predicts_the_same(tmp_path):
    # R: test-serialization.R, "serialization works as expected"
    fitted, path = saved(tmp_path, input_size=10, output_size=1)
    loaded = luz.load(path)
    assert torch.equal(predictions(loaded), predictions(fitted))
    assert loaded.records == fitted.records
    assert luz.get_metrics(loaded).equals(luz.get_metrics(fitted))
    assert (loaded.hparams, loaded.stopped) == ({"input_size": 10, "output_size": 1}, "completed")
    assert not loaded.model.training


def test_a_model_that_reads_its_context_predicts_the_same(tmp_path):
    # R: test-serialization.R, "serialization works when model uses `ctx` in forward"
    fitted, path = saved(tmp_path, Reads)
    assert torch.equal(predictions(fitted), torch.zeros(64, 1))
    assert torch.equal(predictions(luz.load(path)), torch.zeros(64, 1))


def test_in_another_process_that_imports_the_class(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\nclass Small(nn.Module):\n"
        "    def __init__(self, n=1):\n        super().__init__()\n"
        "        self.fc = nn.Linear(n, 1)\n\n"
        "    def forward(self, x):\n        return self.fc(x)\n"
    )
    write = """
        import nets, torch, luzpy as luz
        model = luz.setup(nets.Small, torch.nn.MSELoss(), torch.optim.SGD).set_hparams(n=3)
        fitted = model.fit((torch.ones(32, 3), torch.ones(32, 1)), 1, verbose=False)
        luz.save(fitted, "net.luz")
        print(fitted.predict(torch.ones(1, 3)).item())
    """
    read = """
        import nets, torch, luzpy as luz
        print(luz.load("net.luz").predict(torch.ones(1, 3)).item())
    """
    found = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for code in (write, read)
    ]
    assert found[0] == found[1] != ""


def test_loaded_saved_and_loaded_again(tmp_path):
    fitted, path = saved(tmp_path)
    luz.load(path).save(tmp_path / "again.luz")
    again = luz.load(tmp_path / "again.luz")
    assert torch.equal(predictions(again), predictions(fitted))


def test_loading_disturbs_no_random_state(tmp_path):
    _, path = saved(tmp_path)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for module in (None, Net, Net(), lambda: Net(), luz.setup(Net, nn.MSELoss(), torch.optim.SGD)):
        torch.set_rng_state(before[0])
        luz.load(path, module=module)
        assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_weights_of_another_dtype_are_not_rounded(tmp_path):
    net = Net().double()
    fitted = luz.FittedModule(model=net, records={}, hparams={}, opt_hparams={}, stopped="")
    luz.save(fitted, tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz")
    assert loaded.model.fc.weight.dtype == torch.float64
    assert torch.equal(loaded.model.fc.weight, net.fc.weight)


def test_parameters_that_take_shape_at_the_first_batch(tmp_path):
    net = nn.Sequential(nn.LazyLinear(2))
    net(X)
    fitted = luz.FittedModule(model=net, records={}, hparams={}, opt_hparams={}, stopped="")
    luz.save(fitted, tmp_path / "net.luz")
    loaded = luz.load(tmp_path / "net.luz", module=lambda: nn.Sequential(nn.LazyLinear(2)))
    assert torch.equal(loaded.model(X), net(X))


# `module` ------------------------------------------------------------------------------------


def test_a_specification_brings_loss_and_metrics(tmp_path):
    fitted, path = saved(tmp_path)
    loaded = luz.load(path, module=fitted.spec)
    expected = fitted.evaluate((X, Y), verbose=False).get_metrics()
    assert loaded.evaluate((X, Y), verbose=False).get_metrics().equals(expected)
    assert list(expected["metric"]) == ["loss", "mae"]


def test_without_one_evaluate_says_that_it_needs_a_loss(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match="`loss` must be given"):
        luz.load(path).evaluate((X, Y), verbose=False)


@pytest.mark.parametrize("made", [small, nn.Linear(10, 1), lambda: nn.Linear(10, 1)])
def test_what_was_no_class_is_given_as_module(tmp_path, made):
    fitted, path = saved(tmp_path, made)
    with pytest.raises(LuzError, match=r"net\.luz does not say where its module comes from"):
        luz.load(path)
    assert torch.equal(predictions(luz.load(path, module=made)), predictions(fitted))


def test_a_module_that_is_given_is_not_changed(tmp_path):
    _, path = saved(tmp_path, small)
    own = nn.Linear(10, 1)
    before = own.weight.clone()
    for module in (own, lambda: own):
        loaded = luz.load(path, module=module)
        assert loaded.model is not own
    assert torch.equal(own.weight, before)


def test_nested_classes_are_found(tmp_path):
    fitted, path = saved(tmp_path, Outer.Inner)
    assert type(luz.load(path).model) is Outer.Inner
    assert torch.equal(predictions(luz.load(path)), predictions(fitted))


def test_local_classes_are_given_as_module(tmp_path):
    class Local(Net):
        pass

    fitted, path = saved(tmp_path, Local)
    with pytest.raises(LuzError, match="give the class or the LuzModule"):
        luz.load(path)
    assert torch.equal(predictions(luz.load(path, module=Local)), predictions(fitted))


def test_a_class_that_hides_behind_anothers_name_is_not_written_down(tmp_path):
    other = type("Net", (Net,), {"__module__": __name__})
    _, path = saved(tmp_path, other)
    with pytest.raises(LuzError, match="does not say where"):
        luz.load(path)


@pytest.mark.parametrize("module", [3, "Net", dict, int, [Net]])
def test_a_module_of_another_type_is_named(tmp_path, module):
    with pytest.raises(TypeError, match=r"`module` must be .*, got"):
        luz.load(written(tmp_path / "net.luz"), module=module)


def test_a_module_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(LuzError, match=r"net\.luz does not fit the model: 'weight'"):
        luz.load(written(tmp_path / "net.luz"), module=lambda: nn.Linear(10, 1))


@pytest.mark.parametrize("made", [lambda: 3, lambda: None])
def test_a_module_that_makes_something_else_is_named(tmp_path, made):
    with pytest.raises(LuzError, match=r"`module` must make an nn.Module"):
        luz.load(written(tmp_path / "net.luz"), module=made)


# Hostile files -------------------------------------------------------------------------------

NAMES = [
    "os:system",
    "builtins:eval",
    "subprocess:Popen",
    "torch:load",
    "torch.nn:functional",
    "torch.nn.functional:relu",
    "torch.nn:Module.__init__",
    "torch.nn:Module.__init__.__globals__",
    "torch.nn",
    "torch.nn:",
    ":Net",
    ":",
    "",
    "../evil:Net",
    "/tmp/evil:Net",
    "evil.py:Net",
    "a b:Net",
    "os;import sys:Net",
    "torch.nn:Linear()",
    "torch.nn:Linear:Linear",
    ".relative:Net",
    "..:Net",
    "torch..nn:Linear",
    "no.such.package:Net",
    "torch.nn:NoSuchClass",
    "__main__:NoSuchClass",
    "collections:OrderedDict",
    "unittest.mock:Mock",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_anything_but_a_module_class_are_refused(tmp_path, name):
    path = written(tmp_path / "net.luz", module=name)
    with pytest.raises(LuzError, match=r"net\.luz (names|needs|does not)"):
        luz.load(path)


def test_nothing_is_imported_for_a_file(tmp_path, monkeypatch):
    sentinel = tmp_path / "ran"
    makes = f"open({str(sentinel)!r}, 'w').close()\n"
    net = "from torch import nn\nclass Net(nn.Module):\n    class Inner(nn.Module): pass\n"
    (tmp_path / "evil_net.py").write_text(makes + net)
    (tmp_path / "helpers.py").write_text(makes + net)  # beside the file, in the current folder
    (tmp_path / "evil_package").mkdir()
    (tmp_path / "evil_package" / "__init__.py").write_text(makes + "from .part import Net\n")
    (tmp_path / "evil_package" / "part.py").write_text(net)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    for module in ("evil_net", "helpers", "evil_package", "evil_package.part", "antigravity"):
        for name in (f"{module}:Net", f"{module}.more:Net", f"{module}:Net.Inner"):
            with pytest.raises(LuzError, match="nothing is imported for a file"):
                luz.load(written(tmp_path / "net.luz", module=name))
    assert not sentinel.exists()
    assert set(sys.modules) == before


def test_an_installed_class_that_is_not_imported_is_refused(tmp_path):
    code = """
        import sys, torch, luzpy as luz
        assert "torchmetrics" not in sys.modules
        try:
            luz.load("net.luz")
        except luz.LuzError as err:
            print("refused", "torchmetrics" not in sys.modules, str(err).splitlines()[-2:])
    """
    written(tmp_path / "net.luz", module="torchmetrics.aggregation:MeanMetric")
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert "refused True" in found.stdout, found.stderr
    assert "from torchmetrics.aggregation import MeanMetric" in found.stdout
    assert "luz.load('net.luz', module=MeanMetric)" in found.stdout


def test_the_error_has_the_lines_that_load_the_file(tmp_path, monkeypatch):
    (tmp_path / "kept_nets.py").write_text(
        "from torch import nn\nclass Outer:\n    class Small(nn.Linear): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = {"hparams": {"in_features": 2, "out_features": 1}}
    options["state"] = nn.Linear(2, 1).state_dict()
    path = written(tmp_path / "net.luz", module="kept_nets:Outer.Small", **options)
    with pytest.raises(LuzError) as caught:
        luz.load(path)
    lines = [line.strip() for line in str(caught.value).splitlines()[-2:]]
    scope = {"luz": luz}
    exec(lines[0], scope)
    assert type(eval(lines[1], scope).model).__qualname__ == "Outer.Small"
    # Imported by now, it is found.
    assert type(luz.load(path).model).__qualname__ == "Outer.Small"


def test_a_trusted_file_may_name_a_class_to_import(tmp_path, monkeypatch):
    (tmp_path / "trusted_nets.py").write_text("from torch import nn\nclass Net(nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = {"hparams": {"in_features": 2, "out_features": 1}}
    options["state"] = nn.Linear(2, 1).state_dict()
    path = written(tmp_path / "net.luz", module="trusted_nets:Net", **options)
    assert type(luz.load(path, trusted=True).model).__name__ == "Net"
    path = written(tmp_path / "other.luz", module="no_such_nets:Net", **options)
    with pytest.raises(LuzError, match="needs the class 'no_such_nets:Net'"):
        luz.load(path, trusted=True)


@pytest.mark.parametrize(
    "name",
    [
        "torch.jit:ScriptModule",
        "torch.fx:GraphModule",
        "torch.fx.graph_module:GraphModule",
        "torch.distributed.nn.api.remote_module:RemoteModule",
        "torch:nn.Linear",
        f"{__name__}:nn.Linear",
        f"{__name__}:luz.nn.MixupLoss",
    ],
)
def test_torchs_other_classes_and_ways_through_modules_are_refused(tmp_path, name):
    path = written(tmp_path / "net.luz", module=name)
    with pytest.raises(LuzError, match="needs the class"):
        luz.load(path)


# Small files that ask for big models ----------------------------------------------------------


class Deep(nn.Module):
    def __init__(self, layers=1, size=1, rows=1):
        super().__init__()
        self.layers = nn.ModuleList(nn.ReLU() for _ in range(layers))
        self.register_buffer("mask", torch.ones(size, size), persistent=False)
        self.rows = torch.Tensor(rows, 1)
        self.fc = nn.Linear(10, 1)


@pytest.mark.parametrize(
    ("module", "hparams"),
    [
        ("torch.nn:Linear", {"in_features": 20_000, "out_features": 20_000}),
        ("torch.nn:Linear", {"in_features": 10**9, "out_features": 10**9}),
        ("torch.nn:Embedding", {"num_embeddings": 10**9, "embedding_dim": 1}),
        ("torch.nn:LSTM", {"input_size": 1, "hidden_size": 1, "num_layers": 10**6}),
        ("torch.nn:Conv2d", {"in_channels": 4096, "out_channels": 4096, "kernel_size": 9}),
        (f"{__name__}:Deep", {"layers": 10**7}),
        (f"{__name__}:Deep", {"size": 10**5}),
        (f"{__name__}:Deep", {"rows": 10**20}),
    ],
)
def test_hyperparameters_of_a_model_larger_than_the_file(tmp_path, module, hparams):
    path = written(tmp_path / "net.luz", module=module, hparams=hparams)
    assert path.stat().st_size < 4000
    with pytest.raises(LuzError, match=r"net\.luz could not be loaded(.|\n)*hyperparameters"):
        luz.load(path)
    nn.Linear(1, 1)  # nothing is left of the bounds


def test_what_a_model_makes_besides_its_weights_is_no_bomb(tmp_path):
    state = Deep().state_dict()
    hparams = {"layers": 5000, "size": 5000}
    path = written(tmp_path / "net.luz", module=f"{__name__}:Deep", hparams=hparams, state=state)
    loaded = luz.load(path).model
    assert len(loaded.layers) == 5000
    assert loaded.mask.sum() == 5000**2
    assert torch.equal(loaded.fc.weight, state["fc.weight"])


def test_a_shape_without_values_for_a_lazy_parameter(tmp_path):
    state = {"weight": torch.zeros(1).expand(10**6, 10**6), "bias": torch.zeros(10**6)}
    path = written(tmp_path / "net.luz", state=state)
    with pytest.raises(LuzError, match="'weight' is larger than its stored data"):
        luz.load(path, module=lambda: nn.LazyLinear(2))


@pytest.mark.parametrize(
    "records",
    [
        {"metrics": 3},
        {"metrics": {"train": 3}},
        {"metrics": {"train": [3]}},
        {"profile": [1]},
        {3: 4},
    ],
)
def test_records_of_another_layout_are_named(tmp_path, records):
    with pytest.raises(
        LuzError, match=r"net\.luz is not a fitted model that luzpy wrote: .*records"
    ):
        luz.load(written(tmp_path / "net.luz", records=records))


@pytest.mark.parametrize("forged", [{"numpy.ndarray": 3}, {"builtins.frozenset": [[1]]}])
def test_a_forged_array_or_set_is_named(tmp_path, forged):
    with pytest.raises(LuzError, match=r"net\.luz is not a fitted model that luzpy wrote"):
        luz.load(written(tmp_path / "net.luz", hparams={"input_size": forged}))


@pytest.mark.parametrize(
    ("hparams", "match"),
    [
        ({"no_such": 1}, "no_such"),
        ({1: 2}, "keywords must be strings"),
        ({"input_size": "many"}, "could not be made"),
        ({"input_size": -1}, "could not be made"),
    ],
)
def test_hyperparameters_that_make_no_model_are_named(tmp_path, hparams, match):
    path = written(tmp_path / "net.luz", hparams=hparams)
    with pytest.raises(LuzError, match=rf"net\.luz could not be loaded(.|\n)*{match}"):
        luz.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"hparams": [1]},
        {"state": [torch.zeros(1)]},
        {"records": None},
        {"module": 3},
        {"stopped": 1},
        {"opt_hparams": "lr"},
    ],
)
def test_parts_of_another_type_are_named(tmp_path, change):
    name = next(iter(change))
    with pytest.raises(LuzError, match=f"not a fitted model that luzpy wrote: its '{name}'"):
        luz.load(written(tmp_path / "net.luz", **change))


@pytest.mark.parametrize("value", [3, "x", [1.0], None])
def test_weights_that_are_no_tensors_are_named(tmp_path, value):
    state = {"fc.weight": value, "fc.bias": torch.zeros(1)}
    with pytest.raises(LuzError, match=r"does not fit the model: 'fc\.weight' is not a tensor"):
        luz.load(written(tmp_path / "net.luz", state=state))


# Options -------------------------------------------------------------------------------------


def test_trust_reads_what_is_not_plain(tmp_path):
    path = tmp_path / "net.luz"
    fitted = fit(Demanding, needed=nn.ReLU())
    with pytest.warns(UserWarning, match="trusted=True"):
        luz.save(fitted, path)
    with pytest.raises(LuzError, match=r"net\.luz holds more than tensors.*trusted=True"):
        luz.load(path)
    loaded = luz.load(path, trusted=True)
    assert isinstance(loaded.hparams["needed"], nn.ReLU)
    assert torch.equal(predictions(loaded), predictions(fitted))


@pytest.mark.parametrize("map_location", ["meta", torch.device("meta"), {"cpu": "meta"}])
def test_map_location_says_where_the_model_is(tmp_path, map_location):
    loaded = luz.load(written(tmp_path / "net.luz"), map_location=map_location)
    assert {p.device.type for p in loaded.model.parameters()} == {"meta"}


def test_map_location_may_be_a_function(tmp_path):
    seen = []

    def where(storage, location):
        seen.append(location)
        return storage

    loaded = luz.load(written(tmp_path / "net.luz"), map_location=where)
    assert seen == ["cpu", "cpu"]
    assert loaded.model.fc.weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("map_location", "nowhere", ValueError),
        ("map_location", 3.5, TypeError),
        ("trusted", "yes", TypeError),
        ("trusted", 1, TypeError),
    ],
)
def test_options_are_checked(tmp_path, option, value, error):
    with pytest.raises(error, match=f"`{option}` must be .*, got {value!r}"):
        luz.load(written(tmp_path / "net.luz"), **{option: value})


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.luz"):
        luz.load(tmp_path / "nothing.luz")
