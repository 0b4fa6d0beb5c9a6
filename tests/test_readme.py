"""The README's Python runs as printed, and its links and commands exist."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

from emrecon import formats, projectors
from emrecon.evaluation import Section, Suite, Text, Unit

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [page for page in PAGES if "```python" in page.read_text()]


def names_the_pages_use():
    """A scan, an image and files of the names that the pages take for granted."""
    grid = projectors.ImageGrid((12, 12, 4), 4.0)
    camera = projectors.SPECTGeometry.circular(n_views=8, radius=150, n_bins=(12, 4), pixel_size=4.0)
    mu = np.full(grid.shape, 0.15, np.float32)
    scan = projectors.Scan(np.ones(camera.shape, np.float32), camera)
    formats.write_scan("study.hs", scan)
    formats.write_scan("scan.h5", scan)
    formats.write_image("phantom.h33", mu, grid)
    Path("simind.h00").write_text(Path("study.hs").read_text())
    ring = projectors.PETScanner.polygon(sides=8, crystals_per_side=3, radius=80, rings=3, ring_pitch=6)
    sinogram = projectors.PETSinogram(ring)
    two = (
        Path("study.hs")
        .read_text()
        .replace("study.s", "two_heads.s")
        .replace("orbit", "number of detector heads := 2\norbit")
    )
    Path("two_heads.hs").write_text(two)
    Path("two_heads.s").write_bytes(2 * Path("study.s").read_bytes())
    formats.write_interfile_pet("prompts.hs", np.ones(sinogram.shape, np.float32), sinogram, approximate=True)
    return {"scan": scan, "mu": mu, "grid": grid}


def tiny_suite():
    """A suite of two units in place of `quick`, which takes minutes, and which tests/evaluation runs by parts."""
    units = [Unit("first", lambda folder: {"one": 1.0}), Unit("second", lambda folder: {"two": 2.0}, needs=("first",))]
    section = Section("Numbers", (Text("What was found", ("Two numbers.",)),))
    return Suite("quick", "two units", 1.0, lambda options: units, lambda results, options: [section])


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
@pytest.mark.slow
def test_python_blocks_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.name == "benchmark.md":
        monkeypatch.setattr("emrecon.evaluation.quick.SUITE", tiny_suite())
    names = names_the_pages_use()
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_both_commands_are_marked():
    lines = (ROOT / "README.md").read_text().splitlines()
    for name in ("demo", "test"):
        position = lines.index(f"<!-- newcomer: {name} -->")
        assert lines[position + 1] == "```bash"
