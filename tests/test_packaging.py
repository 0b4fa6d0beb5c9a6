"""What is installed: every folder, every table, a clear error for a bare import, one version."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = SETUP["tool"]["setuptools"]["package-dir"]


def test_every_folder_with_an_init_is_packaged():
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(FOLDERS.values()) == found
    assert set(SETUP["tool"]["setuptools"]["packages"]) == set(FOLDERS)
    assert not list(ROOT.glob("[a-z]*/*/__init__.py")), "folders stay flat"


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_data_files_are_installed(folder):
    installed = {item.name for item in files(f"emrecon.{folder}").iterdir()}
    kinds = ("*.cu", "*.csv", "*.json", "*.toml", "*.safetensors", "py.typed")
    wanted = {path.name for kind in kinds for path in (ROOT / folder).glob(kind)}
    assert wanted <= installed
    assert "py.typed" in installed


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_bare_imports_say_what_to_do(folder):
    run = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "pip install" in run.stderr
    assert f"emrecon.{folder}" in run.stderr


def test_the_version_has_one_source():
    assert version("emrecon") == SETUP["project"]["version"]
    assert f"## {version('emrecon')}" in (ROOT / "CHANGELOG.md").read_text()


def test_importing_the_library_does_not_import_torch_or_cupy():
    code = (
        "import sys, emrecon.projectors, emrecon.recon, emrecon.sims, emrecon.formats;"
        "print(sorted({'torch', 'cupy', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
