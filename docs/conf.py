"""Sphinx settings: Markdown pages, and the reference from the docstrings (`sphinx-build -W docs build/docs`)."""

import importlib
import inspect
import pkgutil
from importlib import metadata

project = "emrecon"
author = "The emrecon authors"
release = metadata.version("emrecon")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_design"]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"emrecon {release}"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "py:obj"  # `SPECTProjector` in a docstring is a link where the name is known
add_module_names = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_default_options = {"show-inheritance": True}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False


def public_names(module):
    """The names that a module exports, or the classes and functions that it defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return getattr(
        module, "__all__", [name for name in own if name[0] != "_" and inspect.getdoc(getattr(module, name))]
    )


def contents(package):
    """{page: {kind: names}} of a package and its modules; what the package exports is named as users import it."""
    whole = importlib.import_module(package)
    modules = [module.name for module in pkgutil.iter_modules(whole.__path__) if module.name[0] != "_"]
    pages = {package: {"modules": modules}}
    for inner in modules:
        module = importlib.import_module(f"{package}.{inner}")
        page = pages[f"{package}.{inner}"] = {"classes": [], "functions": []}
        for name in sorted(public_names(module), key=str.lower):
            value = getattr(module, name)
            kind = "classes" if inspect.isclass(value) else "functions" if inspect.isroutine(value) else None
            exported = name in whole.__all__ and getattr(whole, name) is value  # and not another one of that name
            page.get(kind, []).append(name if exported else f"{inner}.{name}")
    return pages


# The templates of the reference read this: a page for each module of each package, and one for each class.
autosummary_context = {
    "contents": {
        page: names
        for package in ("projectors", "recon", "unrolled", "sims", "formats", "figures", "evaluation")
        for page, names in contents(f"emrecon.{package}").items()
    }
}


def setup(app):
    """Let the sidebar of each page open the page's own branch alone.

    With all classes in the sidebar of each class, writing pages takes three quarters of the whole build.
    """

    def collapsed(app, page, template, context, doctree):
        toctree = context.get("toctree")
        if toctree is not None:
            context["toctree"] = lambda **options: toctree(**{**options, "collapse": True})

    app.connect("html-page-context", collapsed, priority=400)  # before the theme asks for it, at 500
