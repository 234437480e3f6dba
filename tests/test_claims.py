"""Numbers in the README and the pages that no measurement writes, compared with their source."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

import luzpy as luz

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LIBRARIES = {
    "fastai 2.8": "fastai",
    "Lightning 2.6": "lightning",
    "skorch 1.4": "skorch",
    "Keras 3.15 on torch": "keras",
}


def page(path):
    return (ROOT / path).read_text()


def row(first):
    """The cells of the row of the README's table that begins with `first`."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def lines_of(files):
    """Of the Python files that are no tests, rounded to two digits."""
    own = [path for path in files if path.suffix == ".py"]
    own = [path for path in own if not re.search(r"(^|/)tests?/|test_\w+$|_test$", name_of(path))]
    n = sum(path.read_bytes().count(b"\n") for path in own)
    return int(float(f"{n:.1e}"))


def name_of(path):
    return path.with_suffix("").as_posix()


def test_the_lines_of_luzpy():
    folder = Path(luz.__file__).parent
    assert row("Lines of Python, without tests")[0] == f"{lines_of(folder.rglob('*.py')):,}"


@pytest.mark.parametrize("title", LIBRARIES)
def test_the_lines_of_other_libraries(title):
    """Where they are installed, in the version that the README names."""
    place = row("| luzpy |").index(title)
    try:
        distribution = importlib.metadata.distribution(LIBRARIES[title])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("it is not installed")
    if not distribution.version.startswith(title.split()[1] + "."):
        pytest.skip(f"version {distribution.version} is another one")
    files = [Path(distribution.locate_file(path)) for path in distribution.files]
    assert row("Lines of Python, without tests")[place] == f"{lines_of(files):,}"


def test_the_lowest_python_is_that_of_the_metadata():
    requires = tomllib.loads(page("pyproject.toml"))["project"]["requires-python"]
    assert re.search(r"Python (3\.\d+) or newer", README)[1] == requires.removeprefix(">=")


def test_the_coverage_in_contributing_is_the_one_that_is_asked_for():
    least = tomllib.loads(page("pyproject.toml"))["tool"]["coverage"]["report"]["fail_under"]
    assert re.search(r"coverage of at least (\d+) %", page("CONTRIBUTING.md"))[1] == str(least)


def test_the_kills_in_the_sentence_are_those_of_the_table():
    text = page("docs/reliability.md")
    begin, end = text.index("<!-- table: begin -->"), text.index("<!-- table: end -->")
    *_, total = re.findall(r"^\| \*\*all\*\* \| (.+) \|$", text[begin:end], re.M)
    numbers = [int(cell.strip("* ")) for cell in total.split("|")]
    kills, failures = re.search(r"^(\d+) kills, (\d+) failures", text, re.M).groups()
    assert (sum(numbers[:3]), numbers[-1]) == (int(kills), int(failures))


def test_what_is_said_of_the_speed_benchmark_is_how_it_is_run():
    rows = pytest.importorskip("benchmarks.speed.rows").ROWS
    text = " ".join(page("docs/step-cost.md").split())
    words = {3: "three", 7: "seven", 2: "two"}
    for names in (("evaluate", "predict"), ("finder", "W1", "W2")):
        (times,) = {rows[name].repeats for name in names}
        assert f"{words[times]} times" in text
    assert f"the first {words[rows['W1'].peer_rounds]} rounds only" in text
    target = dict(rows["W1"].targets)["raw.dataloader"]
    assert f"more than {target:.2f} of the time of the loop over a DataLoader" in text


def test_the_tasks_of_the_suggestion_benchmark_are_counted_right():
    measure = pytest.importorskip("benchmarks.suggestion.measure")
    from benchmarks.suggestion import report, tasks

    text = " ".join(page("benchmarks/README.md").split())
    rates = len(measure.grid(tasks.TASKS[0]))
    budgets = [task.steps for task in tasks.TASKS]
    seeds = len(measure.SEEDS)
    assert f"trains {len(tasks.TASKS)} tasks" in text
    assert f"for {min(budgets)} to {max(budgets):,} steps at {rates} rates from {seeds} in" in text
    assert f"The tuning half consists of the {len(tasks.TUNING)} tasks" in text
    assert f"The reported half consists of {len(tasks.REPORTED)} newly drawn tasks" in text
    assert (
        f"chosen on {len(tasks.TUNING)} tasks and [measured on {len(tasks.REPORTED)}"
        in " ".join(README.split())
    )
    article = " ".join(page("vignettes/lr-finder-reliability.md").split())
    assert f"trains {len(tasks.TASKS)} small tasks" in article
    assert f"on {len(tasks.TUNING)} of them" in article
    assert f"on the other {len(tasks.REPORTED)}, compared" in article
    assert f"{report.DRAWS:,} bootstrap samples" in text


def test_the_constants_that_the_pages_name():
    from luzpy.data import batches, loader
    from luzpy.distributed import stop_sync

    assert f"{batches.CHUNK_BYTES // 1024} KiB" in page("docs/step-cost.md")
    at_once = sys.modules["luzpy.verbs.predict"].AT_ONCE
    assert f"{at_once // 2**20} MiB of predictions" in page("docs/step-cost.md")
    assert loader.RESIDENT_SHARE == 0.5  # "at most half of its free memory"
    assert stop_sync.AGREE_EVERY == 10  # "at most ten batches later"
    assert "ten batches later" in " ".join(page("vignettes/accelerator.md").split())


def test_the_data_are_as_large_as_the_vignettes_say():
    datasets = pytest.importorskip("sklearn.datasets")
    from plotnine.data import diamonds, txhousing

    cells, digits = datasets.load_breast_cancer(), datasets.load_digits()
    metrics = page("vignettes/metrics.md")
    assert f"{len(cells.target)} tumours" in metrics
    assert f"{(cells.target == 0).sum()} of" in metrics
    for name in ("checkpoints", "custom-loop"):
        assert f"{len(digits.images):,}" in page(f"vignettes/{name}.md")
    for name in ("data", "diamonds"):
        assert f"{len(diamonds):,} diamonds" in page(f"vignettes/{name}.md")
    sales = txhousing.pivot(index="date", columns="city", values="sales").dropna(axis=1)
    assert f"{sales.shape[1]} Texan cities" in page("vignettes/time-series.md")


def test_the_article_says_what_the_benchmark_of_suggestions_reports():
    report = page("benchmarks/README.md").split("<!-- reported: begin -->")[1]
    table, confirmations = report.split("\n\n", 1)
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if " | " in line]
    rules = {cells[0].replace("*", ""): cells[1:] for cells in lines[2:]}
    default, valley = rules["luzpy descent (default)"], rules["fastai valley"]
    one_look, confirmed = rules["luzpy descent, one look"], rules["luzpy confirm=3, 12 sweeps"]
    text = " ".join(page("vignettes/lr-finder-reliability.md").split())
    readme, own = " ".join(README.split()), " ".join(page("benchmarks/README.md").split())
    of, high = default[-1], float(default[1])
    for place in (text, readme):
        assert f"loses {100 * float(default[0]):.1f} % of what the best rate gains" in place
    assert f"one in ten loses more than {100 * high:.0f} %." in text
    assert 1 / 3 < high < 0.4  # "more than a third"
    assert "one in ten loses more than a third" in readme
    assert f"these are {100 * float(valley[0]):.1f} % and {100 * float(valley[1]):.0f} %" in text
    assert f"{one_look[5]} of {of} sweeps were rejected without the second pass, and " in text
    assert f"and {default[5]} with it" in text
    assert f"{confirmed[5]} of {of} was rejected then" in text
    assert f"90th percentile fell from {high:.2f} to {float(confirmed[1]):.2f}" in text
    assert f"rejects {default[6]} of the" in own
    assert f"Of the {of} sweeps" in page("CHANGELOG.md")
    # "ahead of every rule of another library", in all three columns of regret
    others = [c for name, c in rules.items() if not re.search("sweeps|Prodigy|luzpy", name)]
    assert len(others) == 7
    for column in (0, 1, 2):
        assert float(default[column]) < min(float(cells[column]) for cells in others)
    # "on no task worse by more than 0.05", "by more than that on three tasks"
    worse = dict(re.findall(r"=3, (\d+) sweeps, against .*? on (\d+) of", confirmations))
    assert worse == {"12": "0", "4": "3"}
