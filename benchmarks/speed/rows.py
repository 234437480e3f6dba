"""The rows of the speed benchmark: who does which work, and what luzpy is to reach."""

from __future__ import annotations

from dataclasses import dataclass

PEERS = (
    "ignite",
    "fabric",
    "skorch",
    "poutyne",
    "accelerate",
    "pytorch_accelerated",
    "lightning",
    "fastai",
    "keras",
)
FINDERS = ("torch_lr_finder", "ignite_finder", "fastai_finder", "lightning_finder")


@dataclass(frozen=True)
class Row:
    """One piece of work.

    Attributes:
        title: What is done.
        work: `"W1"`, `"W2"`, or nothing for work that needs no data.
        base: The contestant that all are compared with, as `module.function`.
        ours: The contestant with the targets.
        others: The rest.
        targets: Contestant → the ratio to it that `ours` is not to exceed.
        memory: The same for peak memory.
        judged: Whether the work returns a trained model, whose loss is to be found.
        differ: Contestants whose result need not be that of `base`.
        most_rounds: More would take long and say little.
        peer_rounds: In how many of them other packages take part.
        repeats: How often a round does the work, of which the median counts: short work is
            otherwise at the mercy of what else the machine does.
    """

    title: str
    work: str
    base: str
    ours: str
    others: tuple[str, ...] = ()
    targets: tuple[tuple[str, float], ...] = ()
    memory: tuple[tuple[str, float], ...] = ()
    judged: bool = False
    differ: tuple[str, ...] = ()
    most_rounds: int = 100
    peer_rounds: int = 2
    repeats: int = 1

    @property
    def contestants(self) -> tuple[str, ...]:
        return (self.base, self.ours, *self.others)

    @property
    def threads(self) -> int:
        return 2 if self.work == "W2" else 1


def _peers(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"peers.{name}" for name in names)


ROWS = {
    "W1": Row(
        "`fit`, bar and metric on: MLP 10→32→1, 50,000 rows, batch 32, SGD, one thread",
        "W1",
        "raw.floor",
        "ours.fit",
        ("raw.dataloader", "ours.fit_shuffled", *_peers(PEERS)),
        (("raw.floor", 1.15), ("raw.dataloader", 0.65)),
        (("raw.dataloader", 1.05),),
        judged=True,
        differ=("ours.fit_shuffled",),
        repeats=3,
    ),
    "W2": Row(
        "`fit`, bar and metric on: LeNet, 6,400 images, batch 32, Adam, two threads",
        "W2",
        "raw.floor",
        "ours.fit",
        ("raw.dataloader",),
        (("raw.floor", 1.03),),
        (("raw.dataloader", 1.05),),
        judged=True,
        repeats=3,
    ),
    "evaluate": Row(
        "`evaluate`: W1's rows",
        "W1",
        "raw.evaluate",
        "ours.evaluate",
        targets=(("raw.evaluate", 0.25),),
        repeats=7,
    ),
    "evaluate_with_metric": Row(
        "`evaluate` with MAE: W1's rows",
        "W1",
        "raw.evaluate_with_metric",
        "ours.evaluate_with_metric",
        repeats=7,
    ),
    "predict": Row(
        "`predict`: W1's rows",
        "W1",
        "raw.predict",
        "ours.predict",
        targets=(("raw.predict", 0.25),),
        repeats=7,
    ),
    "dataset": Row(
        "`fit` on a Dataset of one's own: W1's model",
        "W1",
        "raw.own",
        "ours.fit_dataset",
        targets=(("raw.own", 1.05),),
        judged=True,
    ),
    "loader": Row(
        "`fit` on a DataLoader of one's own: W1's model",
        "W1",
        "raw.own",
        "ours.fit_loader",
        targets=(("raw.own", 1.05),),
        judged=True,
    ),
    "finder": Row(
        "`lr_finder`, 100 rungs: W2's model",
        "W2",
        "raw.hundred_steps",
        "ours.lr_finder",
        _peers(FINDERS),
        (("raw.hundred_steps", 1.05), *((name, 1.0) for name in _peers(FINDERS))),
        differ=_peers(FINDERS),
        peer_rounds=100,  # they are nearly as fast
        repeats=3,
    ),
    "import": Row(
        "`import luzpy`",
        "",
        "imports.torch_and_pandas",
        "imports.luzpy",
        targets=(("imports.torch_and_pandas", 1.10),),
    ),
    "compiled": Row(
        "`fit` of a module under `torch.compile`: W1",
        "W1",
        "raw.floor",
        "ours.fit_compiled",
        ("raw.compiled_floor",),
        judged=True,
        most_rounds=3,
    ),
}
