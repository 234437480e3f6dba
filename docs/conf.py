"""The site: Sphinx with MyST notebooks."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import luzpy

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

# Sphinx reads only below its own folder: the vignettes are copied in.
shutil.copytree(ROOT / "vignettes", HERE / "vignettes", dirs_exist_ok=True)

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
exclude_patterns = ["_build", "vignettes/*.py"]
html_theme = "pydata_sphinx_theme"
html_title = "luzpy"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_static_path: list[str] = []
html_sidebars: dict[str, list[str]] = {"**": []}  # the few pages are all in the header

nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
