"""`llms.txt`: what the site has, in a form for language models (llmstxt.org)."""

from __future__ import annotations

import re
from pathlib import Path

import execution
from pages import EXAMPLES, GUIDES, Card

REFERENCE = {
    "reference": "Every public name.",
    "what-happens-in-fit": "The training loop on one page, with every hook.",
    "faq": "Frequently asked questions.",
    "from-r": "Every name in R's luz, and its name here.",
    "step-cost": "What a step costs, measured.",
    "reliability": "Killed runs: what is guaranteed on resuming, and what is not.",
    "stability": "Stability policy: what stays the same between versions.",
    "changelog": "What has changed.",
}


def llms_txt(root: Path) -> str:
    """The whole text, made of the README and the pages."""
    readme = (root / "README.md").read_text()
    summary = " ".join(readme.split("\n\n")[1].split())
    summary = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", summary)
    code = re.search(r"```python\n.*?```", readme, re.S).group(0)
    pages = [
        f"- [{first_heading(root / 'docs' / f'{name}.md')}]({name}.html): {sentence}"
        for name, sentence in REFERENCE.items()
    ]
    return "\n\n".join(
        [
            "# luzpy",
            f"> {summary}",
            "A whole program:",
            code,
            "## Guides",
            "\n".join([line(Card("get-started", "The five verbs.")), *map(line, GUIDES)]),
            "## Reference",
            "\n".join(pages),
            "## Examples",
            "\n".join(map(line, EXAMPLES)),
        ]
    ) + "\n"  # fmt: skip


def line(card: Card) -> str:
    title = first_heading(execution.HERE / f"{card.name}.md")
    return f"- [{title}](vignettes/{card.name}.html): {card.sentence}"


def first_heading(path: Path) -> str:
    found = re.search(r"^# (.+)$", path.read_text(), re.M)
    return found.group(1) if found else path.stem.capitalize()
