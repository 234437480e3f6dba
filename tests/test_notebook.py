"""What a notebook shows: the bar while it runs, then results as HTML."""

import re
from html.parser import HTMLParser

import nbclient
import nbformat
import pytest

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

CELLS = {
    "setup": """
import time
import torch
from torch import nn
import luzpy as luz

class Zero(nn.Module):
    '''Predicts 0, slowly, and learns nothing: of targets 0.5 the loss is 0.25, the error 0.5.'''
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
    def forward(self, x):
        time.sleep(0.02)
        return 0 * x * self.scale

data = (torch.ones(60, 1), torch.full((60, 1), 0.5))
options = {"batch_size": 5}
model = luz.setup(Zero, nn.MSELoss(), torch.optim.SGD, luz.metrics.MAE())
model = model.set_opt_hparams(lr=0.1)
""",
    "fit": "fitted = model.fit(data, 2, valid_data=data, dataloader_options=options)",
    "fitted": "fitted",
    "evaluation": "fitted.evaluate(data, dataloader_options=options)",
    "records": "model.lr_finder(data, 10, dataloader_options=options)",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def notebook():
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    return nbclient.NotebookClient(notebook, kernel_name="python3", timeout=300).execute()


@pytest.fixture(scope="module")
def outputs(notebook):
    """Name of a cell → its outputs."""
    return {name: cell.outputs for name, cell in zip(CELLS, notebook.cells, strict=True)}


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def words(outputs):
    """What the HTML of the last output says, word by word; every element must be closed."""

    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.words = [], []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            if self.open[-1:] != ["style"]:
                self.words += data.split()

    reader = Reader()
    reader.feed(outputs[-1]["data"]["text/html"])
    assert reader.open == []
    return reader.words


def test_the_bar_is_a_widget_with_the_batches(notebook, outputs):
    ids = {
        output["data"][WIDGET_VIEW]["model_id"]
        for output in outputs["fit"]
        if WIDGET_VIEW in output.get("data", {})
    }
    assert ids
    widgets = notebook.metadata.widgets[WIDGET_STATE]["state"]
    assert ids <= widgets.keys()
    bars = [w["state"] for w in widgets.values() if w["model_name"] == "FloatProgressModel"]
    assert {12.0} <= {bar["max"] for bar in bars} <= {12.0, 10.0}  # of the fit; of the finder
    texts = [w["state"]["value"] for w in widgets.values() if w["model_name"] == "HTMLModel"]
    live = re.compile(r"\d+/12\s.*\sLoss:\s0.25\s-\sMAE:\s0.5]")
    assert sum(bool(live.search(text)) for text in texts) >= 4  # two epochs of two sets


def test_the_epochs_are_printed_and_nothing_is_complained_of(outputs):
    metrics = "metrics: Loss: 0.25 - MAE: 0.5"
    epoch = [f"Train {metrics}", f"Valid {metrics} (<time>)"]
    text = re.sub(r"\d+(\.\d)?m?s\b", "<time>", printed(outputs["fit"]))
    assert text.splitlines() == [
        *("Epoch 1/2", *epoch, "Epoch 2/2", *epoch),
        "Total time: <time>",
    ]
    streams = {o.name for shown in outputs.values() for o in shown if o.output_type == "stream"}
    assert streams == {"stdout"}


def test_a_fitted_model_is_html(outputs):
    shown = words(outputs["fitted"])
    assert shown[:5] == ["A", "fitted", "luzpy", "model", "(completed)"]
    start = shown.index("set")
    rows = ["set", "train", "valid", "metric", "loss", "0.25", "0.25", "mae", "0.5", "0.5"]
    assert shown[start : start + len(rows)] == rows


def test_an_evaluation_is_html(outputs):
    assert words(outputs["evaluation"]) == ["metric", "value", "loss", "0.25", "mae", "0.50"]


def test_records_are_html_with_a_line_on_the_curve(outputs):
    text = " ".join(words(outputs["records"]))
    assert text.startswith("lr loss 0 ")
    assert " 9 1.000000e-01 0.25 Completed; no suggestion" in text
    assert "LRRecords" not in text
