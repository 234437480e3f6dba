"""The site: built with warnings as errors, its links followed, its pages opened in a browser."""

import functools
import http.server
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from filelock import FileLock

import luzpy as luz

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = 1280, 390
PATIENCE = 180_000  # milliseconds, on a busy machine
# One of each kind.
KINDS = [
    "index.html",
    "guides.html",
    "examples.html",
    "reference.html",
    "reference/callbacks.html",
    "what-happens-in-fit.html",
    "step-cost.html",
    "from-r.html",
    "search.html",
    "genindex.html",
    "vignettes/get-started.html",
    "vignettes/lr-finder.html",
    "vignettes/mnist-dcgan.html",
]


class Page(HTMLParser):
    """The ids of a page, where it links to, and its pictures."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.pictures, self.divs = set(), set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "div":
            self.divs.append(found.get("class") or "")
        self.ids.add(found.get("id"))
        if found.get("href") is not None:
            self.links.add(found["href"])
        if found.get("src") is not None:
            self.links.add(found["src"])
        if tag == "img":
            output = any("cell_output" in name for name in self.divs)
            self.pictures.append((found.get("src"), found.get("alt"), output))

    def handle_endtag(self, tag):
        if tag == "div":
            self.divs.pop()


@pytest.fixture(scope="session")
def site(fashion_mnist, tmp_path_factory):
    """The folder of the built site; all workers of pytest-xdist share one."""
    pytest.importorskip("sphinx")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    html = shared / "site"
    with FileLock(shared / "site.lock"):
        if not html.exists():
            build(shared / "unfinished", fashion_mnist)
            (shared / "unfinished").rename(html)
    return html


def build(html, data):
    environment = {**os.environ, "LUZPY_DATA": str(data)}
    environment.pop("COVERAGE_PROCESS_CONFIG", None)  # vignettes as fast as in a user's kernel
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", ROOT / "docs", html],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.fail(f"the site was not built: {done.stderr[-4000:]}")


@pytest.fixture(scope="session")
def pages(site):
    """Path within the site → what is on the page."""
    names = (path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return {name: Page(site / name) for name in names if not name.startswith("_static/")}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def url(site):
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not here: apt-get install chromium")
    with playwright.sync_playwright() as running:
        options = {"executable_path": CHROMIUM, "args": FLAGS, "timeout": PATIENCE}
        chromium = running.chromium.launch(**options)
        yield chromium
        chromium.close()


# The part with the text scrolls by itself, so that it may be too wide and the page is not.
LOOKS = """() => ({
    width: Math.max(document.documentElement.scrollWidth,
        ...[...document.querySelectorAll(".bd-article-container")].map(
            part => innerWidth + part.scrollWidth - part.clientWidth)),
    background: getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number),
    pictures: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
})"""


def faults(browser, url, names, width, scheme):
    """What is wrong with pages: what the console says, requests, and how they look."""
    found = []
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    ) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: m.type in ("error", "warning") and found.append(m.text))
        page.on("pageerror", lambda error: found.append(str(error)))
        # What is still under way when the next page is opened is aborted, and no fault.
        page.on(
            "requestfailed",
            lambda r: r.failure == "net::ERR_ABORTED" or found.append(f"{r.failure}: {r.url}"),
        )
        page.on("response", lambda r: r.status >= 400 and found.append(f"{r.status}: {r.url}"))
        page.on(
            "request",
            lambda r: r.url.startswith((url, "data:")) or found.append(f"elsewhere: {r.url}"),
        )
        for name in names:
            before = len(found)
            page.goto(url + name)
            looks = page.evaluate(LOOKS)
            if looks["width"] > width:
                found.append(f"{looks['width']} pixels wide")
            if (sum(looks["background"]) < 3 * 128) is not (scheme == "dark"):
                found.append(f"background {looks['background']}")
            found += [f"no picture: {picture}" for picture in looks["pictures"]]
            found[before:] = [f"{name}: {fault}" for fault in found[before:]]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_every_page_opens_without_a_fault(browser, url, pages, width):
    assert faults(browser, url, pages, width, "light") == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_pages_of_every_kind_are_dark_without_a_fault(browser, url, pages, width):
    assert set(KINDS) <= set(pages)
    assert faults(browser, url, KINDS, width, "dark") == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_search_finds_lr_finder(browser, url, width):
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.locator(".search-button__button:visible, .search-button:visible").first.click()
        page.keyboard.type("lr_finder")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=lr_finder*")
        result = page.locator('#search-results a[href*="#luzpy.lr_finder"]').first
        result.click()
        page.wait_for_url("**/reference/lr-finder.html*#luzpy.lr_finder")
        assert page.locator("dt[id='luzpy.lr_finder']").is_visible()


@pytest.mark.slow
def test_links_within_the_site_resolve(site, pages):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            target = urlsplit(urljoin(f"http://site/{name}", link))
            if target.netloc != "site":
                assert target.scheme in ("http", "https", "data"), link
                assert target.scheme == "data" or "." in target.netloc, link
                continue
            path = unquote(target.path).lstrip("/") or "index.html"
            if not (site / path).is_file():
                broken.append((name, link))
            elif target.fragment and path in pages:
                known = pages[path].ids
                if unquote(target.fragment) not in known:
                    broken.append((name, link))
    assert broken == []


@pytest.mark.slow
def test_pictures_say_what_they_show(pages):
    """Those that a cell has drawn are told of in the text beside them."""
    silent = [
        (name, src)
        for name, page in pages.items()
        for src, alt, is_output in page.pictures
        if not alt and not is_output
    ]
    assert silent == []
    assert any(is_output for *_, is_output in pages["vignettes/lr-finder.html"].pictures)


PUBLIC = [
    f"{namespace.__name__}.{name}"
    for namespace in (luz, luz.callbacks, luz.metrics, luz.nn, luz.sklearn)
    for name in namespace.__all__
    if not name.startswith("__") and not inspect.ismodule(getattr(namespace, name))
]
# One thing with two names has its entry under one of them.
ELSEWHERE = {"luzpy.callbacks.Callback": "luzpy.Callback", "luzpy.Metric": "luzpy.metrics.Metric"}


@pytest.mark.slow
def test_the_reference_has_every_public_name(pages):
    known = set().union(*(page.ids for name, page in pages.items() if "reference/" in name))
    assert {ELSEWHERE.get(name, name) for name in PUBLIC} - known == set()


@pytest.mark.slow
def test_examples_in_docstrings_are_shown(site):
    entries = "".join(path.read_text() for path in (site / "reference").glob("*.html"))
    shown = re.sub(r"<[^>]+>", "", entries)
    for name in PUBLIC:
        namespace, _, last = name.rpartition(".")
        doc = getattr(sys.modules[namespace], last).__doc__ or ""
        for line in re.findall(r"^ +>>> (\w+ = \w+|import \w+ as \w+)$", doc, re.M):
            assert f"&gt;&gt;&gt; {line}" in shown, (name, line)


@pytest.mark.slow
def test_every_vignette_can_be_downloaded_as_a_notebook(site, pages):
    for name, page in pages.items():
        if name.startswith("vignettes/"):
            stem = Path(name).stem
            assert f"../_sources/vignettes/{stem}.ipynb" in page.links


# Links within the repository ---------------------------------------------------------------------

WRITTEN_BY_THE_BUILD = {ROOT / "docs" / "guides.md", ROOT / "docs" / "examples.md"}
DOCUMENTS = [
    path
    for folder in (".", "docs", "docs/reference", "vignettes", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.md"))
    if path not in WRITTEN_BY_THE_BUILD
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_other_files_resolve(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [link for link in links if not re.match(r"[a-z]+://", link)]
    targets = {(path.parent / link).resolve() for link in local} - WRITTEN_BY_THE_BUILD
    assert [target for target in targets if not target.exists()] == []


def test_the_readme_gives_the_measured_costs():
    """Of the small step, as they stand in the table of what a step costs."""
    page = (ROOT / "docs" / "step-cost.md").read_text()
    table = page[page.index("<!-- contestants: begin -->") :].split("\n\n")[1]
    rows = dict(re.findall(r"^\| (.+?) \| .+? \| ([\d.]+) \(.+?\) \| \d+ \|$", table, re.M))
    readme = (ROOT / "README.md").read_text()
    (costs,) = re.findall(r"^\| Time of a small step.*?\| (.+) \|$", readme, re.M)
    names = ["**luzpy**", "fastai", "Lightning", "skorch", "Keras on torch"]
    assert costs.split(" | ") == [*(rows[name] for name in names), "1.00"]


def test_every_vignette_has_its_place():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import pages
    finally:
        sys.path.pop(0)
    placed = ["get-started", *(card.name for card in pages.GUIDES + pages.EXAMPLES)]
    assert sorted(placed) == sorted(path.stem for path in (ROOT / "vignettes").glob("*.md"))


@pytest.mark.slow
def test_the_pages_that_llms_txt_names_are_there(site):
    links = re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text())
    assert len(links) > 20
    assert [link for link in links if not (site / link).exists()] == []


@pytest.mark.slow
def test_the_first_page_has_figures_that_were_measured(site):
    page = (site / "index.html").read_text()
    kills = re.search(r"^(\d+) kills", (ROOT / "docs" / "reliability.md").read_text(), re.M)[1]
    assert f"{kills} kills, 0 lost" in page
    assert "times a bare step" in page
