"""Who imports whom: the sources are parsed, and imports must point downwards."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "projectors": set(),
    "formats": {"projectors"},
    "sims": {"projectors", "formats"},
    "recon": {"projectors"},
    "unrolled": {"projectors", "recon"},
    "cli": {"projectors", "formats", "sims", "recon", "unrolled"},
}
SOURCES = [path for folder in ALLOWED for path in sorted((ROOT / folder).glob("*.py"))]


def imports(path):
    """Every module a file imports, as full dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_point_downwards(path):
    folder = path.parent.name
    used = {name.split(".")[1] for name in imports(path) if name.startswith("emrecon.")} - {folder}
    assert used & set(ALLOWED) <= ALLOWED[folder]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_torch_is_imported_in_few_places_or_lazily(path):
    if path.parent.name == "unrolled" or path.name == "_autograd.py":
        return
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom) and not node.level}
    assert not names & {"torch", "cupy", "cupyx"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_opens_with_one_sentence(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
