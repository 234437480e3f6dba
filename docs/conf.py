"""The site: Sphinx, with the vignettes as executed notebooks."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "vignettes"), str(HERE)]

import llms  # noqa: E402  (found in the folders added above)
import pages  # noqa: E402

import luzpy  # noqa: E402

pages.write(HERE)

project = "luzpy"
author = "the luzpy authors"
copyright = "2026, the luzpy authors"
version = release = luzpy.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "luzpy"
html_static_path = ["_static"]
html_css_files = ["luzpy.css"]
html_sourcelink_suffix = ""  # so that a vignette's source is a notebook by its name, too
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {"**": ["page-toc", "notebook"], "index": []},
}
html_context = {"default_mode": "auto"}
html_favicon = "_static/favicon.svg"
# Only sections have a sidebar: on these pages it would be empty.
html_sidebars: dict[str, list[str]] = {
    page: []
    for page in (
        "index",
        "vignettes/get-started",
        "what-happens-in-fit",
        "step-cost",
        "reliability",
        "from-r",
        "stability",
        "faq",
        "changelog",
        "search",
        "genindex",
        "py-modindex",
    )
}

nb_execution_mode = "off"  # `pages.write` brings the outputs
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # which would come from another host
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "py:obj"  # names in docstrings
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_use_ivar = True  # attributes as a list


def setup(app):
    def resolve_links(app, docname, source):
        source[0] = pages.page_in_site(source[0])
        if docname == "index":
            source[0] = source[0].replace("<!-- figures -->", pages.figures(ROOT))

    app.connect("source-read", resolve_links)

    def write_llms_txt(app, exception):
        if exception is None and app.builder.format == "html":
            (Path(app.outdir) / "llms.txt").write_text(llms.llms_txt(ROOT))

    app.connect("build-finished", write_llms_txt)
