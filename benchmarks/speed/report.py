"""From what the contestants took to the tables of `docs/step-cost.md`."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.files import ROOT, write_table
from benchmarks.speed.measure import Outcome
from benchmarks.speed.rows import ROWS

PAGE = ROOT / "docs" / "step-cost.md"
NAMES = {
    "raw.floor": "bare loop over slices (the floor)",
    "raw.dataloader": "bare loop over a DataLoader",
    "raw.evaluate": "bare loop over a DataLoader",
    "raw.evaluate_with_metric": "bare loop over a DataLoader",
    "raw.predict": "bare loop over a DataLoader",
    "raw.own": "bare loop over the same DataLoader",
    "raw.hundred_steps": "100 bare steps over slices",
    "raw.compiled_floor": "bare loop, compiled",
    "imports.torch_and_pandas": "`import torch, pandas`",
    "ours.fit": "**luzpy**",
    "ours.fit_shuffled": "luzpy, shuffling (its default)",
    "ours.fit_compiled": "**luzpy**, compiled",
    "ours.lr_finder": "**luzpy**",
    "peers.ignite": "ignite",
    "peers.fabric": "Lightning Fabric",
    "peers.skorch": "skorch",
    "peers.poutyne": "poutyne",
    "peers.accelerate": "accelerate",
    "peers.pytorch_accelerated": "pytorch-accelerated",
    "peers.lightning": "Lightning",
    "peers.fastai": "fastai",
    "peers.keras": "Keras on torch",
    "peers.torch_lr_finder": "torch-lr-finder",
    "peers.ignite_finder": "ignite",
    "peers.fastai_finder": "fastai",
    "peers.lightning_finder": "Lightning",
}

Rows = dict[str, dict[str, Outcome]]
Facts = dict[str, dict[str, float]]


def ratios(outcome: Outcome, base: Outcome) -> list[float]:
    """Round by round, how many times as long as `base`."""
    return [ours / its for ours, its in zip(outcome.seconds, base.seconds, strict=False)]


def _ratio(outcome: Outcome, base: Outcome) -> str:
    """Median and range over the rounds."""
    each = ratios(outcome, base)
    return f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})" if each else "not measured"


def _of_minima(outcome: Outcome, base: Outcome) -> str:
    if not (outcome.seconds and base.seconds):
        return ""
    return f"{min(outcome.seconds) / min(base.seconds):.2f}"


def _verdict(value: float, target: float) -> str:
    return "yes" if value <= target else "no"


def targets_table(rows: Rows, facts: Facts) -> Iterator[str]:
    """luzpy beside what it is to reach."""
    yield "| work | beside | target | median ratio (range) | of the fastest | reached | rounds |"
    yield "| --- | --- | ---: | ---: | ---: | --- | ---: |"
    for name, outcomes in rows.items():
        row = ROWS[name]
        for other, target in row.targets or ((row.base, float("nan")),):
            ours, its = outcomes[row.ours], outcomes[other]
            each = ratios(ours, its)
            goal = f"≤ {target:.2f}" if row.targets else "none"
            reached = _verdict(median(each), target) if row.targets and each else ""
            yield (
                f"| {row.title} | {NAMES[other]} | {goal} | {_ratio(ours, its)} | "
                f"{_of_minima(ours, its)} | {reached} | {len(each)} |"
            )
    for name, outcomes in rows.items():
        row = ROWS[name]
        for other, target in row.memory:
            peak, its = median(outcomes[row.ours].peaks), median(outcomes[other].peaks)
            yield (
                f"| peak memory of the process, {name} | {NAMES[other]} | ≤ {target:.2f} | "
                f"{peak / its:.2f} | | {_verdict(peak / its, target)} | "
                f"{len(outcomes[row.ours].peaks)} |"
            )
    if "steps" in facts:
        took = facts["steps"]
        yield (
            f"| {took['steps']:,.0f} steps in one `fit`: the last tenth's | the second tenth's | "
            f"flat | time {took['pace']:.2f}, peak memory {took['memory']:.2f} | | | 1 |"
        )
    if "importtime" in facts:
        took = facts["importtime"]
        yield (
            f"| `-X importtime`: share of `import luzpy` in {took['modules']:.0f} modules beyond "
            f"those of torch and pandas ({took['own']:.0f} are luzpy's) | all of it | none | "
            f"{took['share']:.2f} | | | 1 |"
        )


def contestants_table(name: str, outcomes: dict[str, Outcome]) -> Iterator[str]:
    """All contestants of a row, the fastest first."""
    row = ROWS[name]
    bases = [row.base, *(other for other in ("raw.dataloader",) if other in outcomes)]
    yield f"{row.title}:"
    yield ""
    yield "| | " + " | ".join(f"÷ {NAMES[base]}" for base in bases) + " | rounds |"
    yield "| --- |" + " ---: |" * (len(bases) + 1)
    present = [who for who in row.contestants if outcomes[who].seconds]
    for who in sorted(present, key=lambda w: median(ratios(outcomes[w], outcomes[row.base]))):
        cells = " | ".join(_ratio(outcomes[who], outcomes[base]) for base in bases)
        yield f"| {NAMES[who]} | {cells} | {len(outcomes[who].seconds)} |"
    for who in row.contestants:
        if outcomes[who].missing:
            yield f"| {NAMES[who]} | not measured: {outcomes[who].missing} |" + " |" * len(bases)


def write_tables(rows: Rows, facts: Facts, *, in_docs: bool) -> None:
    """Print the tables, and put them into the page between their markers."""
    parts = {"targets": list(targets_table(rows, facts)), "contestants": []}
    for name, outcomes in rows.items():
        if len(outcomes) > 2:
            parts["contestants"] += ["", *contestants_table(name, outcomes)]
    for part, lines in parts.items():
        table = "\n".join(lines).strip()
        print(f"\n{table}")
        if in_docs:
            write_table(PAGE, part, table)
