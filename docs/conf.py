"""Sphinx configuration; `make docs` builds with warnings as errors and needs no network."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import metadata
from typing import Any

from sphinx.ext.napoleon import NumpyDocstring

info = metadata("sclm")
project = info["Name"]
author = "sclm contributors"
project_copyright = f"2026, {author}"
version = release = info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints", "Thumbs.db", ".DS_Store"]
default_role = "literal"

# Links into other projects' pages need their inventories from the network: the hosted builds have it, a laptop on a
# train does not and must still build without a warning.
if os.environ.get("READTHEDOCS") or os.environ.get("CI"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    }

# -- docstrings ---------------------------------------------------------------
autosummary_generate = True
autosummary_imported_members = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_include_init_with_doc = False
napoleon_use_param = True
napoleon_use_rtype = True
typehints_defaults = "braces"
always_use_bars_union = True
# Names imported under TYPE_CHECKING stay text where the import cannot be repeated at build time.
suppress_warnings = ["sphinx_autodoc_typehints.forward_reference", "sphinx_autodoc_typehints.guarded_import"]

# sphinx-autodoc-typehints calls it once an object; nothing that a writer of these pages could change.
warnings.filterwarnings("ignore", message=".*_RstSnippetParser.set_application.*")

# -- notebooks ----------------------------------------------------------------
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars and notes of libraries; what a page is about is printed

# -- pages --------------------------------------------------------------------
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["sclm.css"]
html_show_sourcelink = False
html_theme_options = {
    "repository_url": "https://github.com/sclm/sclm",
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_edit_page_button": True,
    "show_navbar_depth": 1,
}


def skip_tuple_fields(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out `Alias for field number 0`: the fields of a NamedTuple are described in its docstring."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def returns_as_written(self: NumpyDocstring, section: str) -> list[str]:
    """Take *Returns* as the reStructuredText that it is: plain text, or a definition list of keys and what they hold.

    Napoleon would take the first line of a plain text for a type; the types are in the signature already.
    """
    lines = self._dedent(self._consume_to_next_section())
    if lines and lines[0] == ":":  # put there by sphinx-autodoc-typehints against the same habit of napoleon
        lines = self._dedent(lines[1:])
    return [":returns:", "", *self._indent(lines, 4), ""]


def setup(app: Any) -> None:
    NumpyDocstring._parse_returns_section = returns_as_written
    app.connect("autodoc-skip-member", skip_tuple_fields)
