"""What the site shows of the vignettes: notebooks with their outputs, and two pages of cards.

Everything that is written here is made anew by every build, and ignored by git: `vignettes/`,
`guides.md` and `examples.md`.
"""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import execution
import nbformat

LEVELS = ("basic", "intermediate", "advanced")


class Card(NamedTuple):
    """A vignette on a page of cards.

    Attributes:
        name: The vignette's file, without its ending.
        sentence: What one learns from it.
        picture: Which of its pictures stands on the card, as a list counts.
        cropped: Whether the picture fills its frame, cut at the sides, as rows of images do best.
    """

    name: str
    sentence: str
    picture: int = 0
    cropped: bool = False


GUIDES = (
    Card("custom-loop", "Your own losses, steps and predictions, and several optimizers."),
    Card("accelerator", "Train on the CPU, one GPU or several."),
    Card("lr-finder", "Find a learning rate in a fraction of one epoch."),
    Card(
        "lr-finder-reliability",
        "Several initial weights, validation data, batch sizes: how far to trust a curve.",
    ),
    Card("checkpoints", "Keep the best weights, and resume a killed run."),
    Card(
        "notebook-to-cluster", "One program that grows: find a rate, fit, resume, distribute, save."
    ),
    Card("data", "Tensors, arrays, frames, datasets, streams: what `fit` accepts."),
    Card("metrics", "Metrics from luzpy or torchmetrics, a function, or your own class."),
    Card("scikit-learn", "A network in pipelines, grids and cross-validation."),
    Card("recipes", "Hugging Face, weights, several inputs, detection, streams, export."),
    Card("from-r-luz", "The same program in R's luz and in luzpy, side by side."),
    Card("from-other-libraries", "Programs for Lightning, fastai and Keras, ported to luzpy."),
)

EXAMPLES = (
    Card("mnist-cnn", "A convolutional network that classifies ten kinds of images.", 0, True),
    Card("mnist-autoencoder", "Compress images to a few numbers, and reconstruct them.", -1, True),
    Card("text-classification", "Classify a text by its words alone.", -1),
    Card("dogs-vs-cats", "Fine-tune a network that was trained on other images.", 0, True),
    Card("diamonds", "Predict prices from a data frame with numbers and categories.", 1),
    Card("time-series", "Forecast the next values of a series.", -1),
    Card("cyclical-rates", "Learning rates that rise and fall: from range test to schedule.", 1),
    Card("mnist-mixup", "Train on blends of two images and their labels.", 0, True),
    Card("mnist-dcgan", "Two networks compete until one draws images.", -1, True),
    Card("mnist-triplet", "Place images on a plane so that similar ones are close.", -1),
    Card("chargpt", "A small GPT that learns to write, character by character."),
    Card("pets-unet", "Segment the animal in a picture, pixel by pixel.", -1),
    Card("mnist-cnn-virtual-batch-size", "Steps over more rows than fit in memory at once."),
    Card("text-generation", "A language model that continues a text.", -1),
)


def write(docs: Path) -> None:
    """Write the notebooks of all vignettes, and the pages of cards, into `docs`."""
    folder = docs / "vignettes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for helper in execution.HERE.glob("*.py"):
        shutil.copy(helper, folder)
    notebooks = {}
    for path, notebook in execution.all_executed(execution.vignettes()):
        notebooks[path.stem] = notebook
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = vignette_in_site(cell.source)
        nbformat.write(notebook, folder / f"{path.stem}.ipynb")
    (docs / "guides.md").write_text(guides(notebooks))
    (docs / "examples.md").write_text(examples(notebooks, folder))


def vignette_in_site(text: str) -> str:
    """A vignette's links to other files of the repository, as links within the site."""
    text = text.replace("](../docs/", "](../")
    return re.sub(r"(\]\([\w-]+)\.md(?=[)#])", r"\1.ipynb", text)


def page_in_site(text: str) -> str:
    """The links of a page in `docs` to vignettes, as links within the site."""
    return re.sub(
        r"\]\(((?:\.\./)*)\.\./vignettes/([\w-]+)\.md(?=[)#])", r"](\1vignettes/\2.ipynb", text
    )


def figures(root: Path) -> str:
    """Three measured figures, as cards that lead to how they were measured."""
    costs = (root / "docs" / "step-cost.md").read_text()
    table = costs[costs.index("<!-- contestants: begin -->") :].split("\n\n")[1]
    rows = dict(re.findall(r"^\| \**(.+?)\** \| ([\d.]+) \(", table, re.M))
    kills, lost = re.search(
        r"^(\d+) kills, (\d+) failures", (root / "docs" / "reliability.md").read_text(), re.M
    ).groups()
    reported = (root / "benchmarks" / "README.md").read_text()
    regret = re.search(r"\*\*luzpy descent\*\* .*?\| ([\d.]+) \|", reported).group(1)
    cards = [
        (
            f"{rows['luzpy']} times a bare step",
            "step-cost",
            f"A small step of `fit`, with bar and metric. fastai: {rows['fastai']}, Lightning: "
            f"{rows['Lightning']}.",
        ),
        (
            f"{kills} kills, {lost} lost",
            "reliability",
            "Every run ended bit for bit like an uninterrupted one.",
        ),
        (
            f"{100 * float(regret):.1f} % from the best rate",
            "vignettes/lr-finder-reliability",
            "The learning rate finder's median suggestion, on tasks that it was not tuned on.",
        ),
    ]
    boxes = [
        f":::{{grid-item-card}} {title}\n:link: {page}\n:link-type: doc\n\n{text}\n:::"
        for title, page, text in cards
    ]
    return "\n\n".join(
        ["::::{grid} 1 1 3 3\n:gutter: 3\n:class-container: figures", *boxes, "::::"]
    )


def guides(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """The page of the guides."""
    found = [card for card in GUIDES if card.name in notebooks]
    return "\n\n".join(
        [
            "# Guides",
            "One guide per subject. Read [Get started](vignettes/get-started.ipynb) first.",
            grid([box(card, title(notebooks[card.name])) for card in found]),
            contents(found),
        ]
    )


def examples(notebooks: dict[str, nbformat.NotebookNode], folder: Path) -> str:
    """The gallery, by level; the pictures of the cards are written into `folder`."""
    found = [card for card in EXAMPLES if card.name in notebooks]
    found.sort(key=lambda card: LEVELS.index(level(notebooks[card.name])))
    boxes: dict[str, list[str]] = {level: [] for level in LEVELS}
    for card in found:
        notebook = notebooks[card.name]
        png = execution.outputs(notebook, "image/png")[card.picture]
        (folder / f"{card.name}.png").write_bytes(base64.b64decode(png))
        picture = f":img-top: vignettes/{card.name}.png\n:img-alt: {card.sentence}\n"
        if card.cropped:
            picture += ":class-img-top: cropped\n"
        boxes[level(notebook)].append(box(card, title(notebook), picture))
    return "\n\n".join(
        [
            "# Examples",
            "Whole programs, from data to result, small enough for a CPU. Each says what "
            "to change for the full data. The images are drawn by "
            "[pictures.py](vignettes/pictures.py).",
            *(f"## {name.capitalize()}\n\n{grid(items)}" for name, items in boxes.items() if items),
            contents(found),
        ]
    )


def title(notebook: nbformat.NotebookNode) -> str:
    return re.search(r"^# (.+)$", text(notebook), re.M).group(1)


def level(notebook: nbformat.NotebookNode) -> str:
    """What the vignette says of itself."""
    return re.search(r"Level: (\w+)", text(notebook)).group(1)


def text(notebook: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def box(card: Card, title: str, options: str = "") -> str:
    return (
        f":::{{grid-item-card}} {title}\n:link: vignettes/{card.name}\n:link-type: doc\n{options}\n"
        f"{card.sentence}\n:::"
    )


def grid(boxes: list[str]) -> str:
    return "\n\n".join(["::::{grid} 1 2 2 2\n:gutter: 3", *boxes, "::::"])


def contents(cards: list[Card]) -> str:
    """What the sidebar lists."""
    names = "\n".join(f"vignettes/{card.name}" for card in cards)
    return f"```{{toctree}}\n:hidden:\n\n{names}\n```\n"
