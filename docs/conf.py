"""Sphinx settings: Markdown pages and the reference from the docstrings (`sphinx-build docs build/docs`)."""

import re
from importlib import metadata

project = "emrecon"
release = metadata.version("emrecon")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
exclude_patterns = ["_build"]
myst_heading_anchors = 2


def _as_written(app, what, name, obj, options, lines):
    """Docstrings are plain text, formulas and tables of arguments among them: show them line by line."""
    lines[:] = ["| " + re.sub(r"([\\*`|_])", r"\\\1", line) if line else "" for line in lines]


def setup(app):
    """Register the hook."""
    app.connect("autodoc-process-docstring", _as_written)
