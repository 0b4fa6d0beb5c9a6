"""Every example runs on tiny sizes, writes its picture, and stands in the gallery."""

import os
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.name != "common.py"]
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


@each_example
@pytest.mark.slow
def test_example_runs(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(sys, "argv", [str(path), "--quick", "--out", str(tmp_path)])
    runpy.run_path(str(path), run_name="__main__")
    assert (tmp_path / f"{path.stem}.png").stat().st_size > 1000


@each_example
def test_example_is_explained_and_shown(path):
    source, page = path.read_text(), (ROOT / "docs" / "gallery.md").read_text()
    assert source.startswith('"""')
    picture = ROOT / "docs" / "images" / "gallery" / f"{path.stem}.png"
    assert 1000 < picture.stat().st_size < 100_000
    assert picture.name in page
    assert path.name in page


def test_there_are_many():
    assert len(EXAMPLES) >= 8
