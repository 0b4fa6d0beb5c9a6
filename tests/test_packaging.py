"""What is installed: every folder and room, every table, a clear error for a bare import, one version."""

import shutil
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
NAMES = {folder: package for package, folder in FOLDERS.items()}
KINDS = ("*.cu", "*.csv", "*.json", "*.toml", "*.safetensors", "py.typed")
BESIDE = {"tests", "benchmarks", "docs", "examples", "build"}


def packages():
    """Every folder of the tree with an `__init__.py`, as (package, folder)."""
    for init in sorted(ROOT.rglob("__init__.py")):
        top, *rooms = init.parent.relative_to(ROOT).parts
        if top not in BESIDE and not top.startswith("."):
            yield ".".join([NAMES.get(top, top), *rooms]), init.parent


FOUND = dict(packages())


def test_every_folder_with_an_init_is_packaged():
    assert set(SETUP["tool"]["setuptools"]["packages"]) == set(FOUND)


def test_data_files_are_installed():
    for package, folder in FOUND.items():
        installed = {item.name for item in files(package).iterdir()}
        wanted = {path.name for kind in KINDS for path in folder.glob(kind)}
        assert wanted <= installed, package
        assert package not in FOLDERS or "py.typed" in installed, package


def test_no_data_file_lies_outside_the_packages():
    lying = {path.parent for folder in FOLDERS.values() for kind in KINDS for path in (ROOT / folder).rglob(kind)}
    assert lying <= set(FOUND.values())


def test_bare_imports_say_what_to_do():
    code = "import sys\nfor name in sys.argv[1:]:\n try: __import__(name)\n except ImportError as e: print(name, e)"
    folders = [folder for folder in FOLDERS.values() if folder != "emrecon"]
    run = subprocess.run([sys.executable, "-c", code, *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    said = run.stdout.splitlines()
    assert len(said) == len(folders)
    for folder, line in zip(folders, said, strict=True):
        assert line.startswith(folder)
        assert "pip install" in line
        assert f"emrecon.{folder}" in line


def test_the_folder_of_the_package_does_not_hide_what_is_installed():
    code = "import emrecon, emrecon.projectors; print(emrecon.__version__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == version("emrecon")


def test_a_source_tree_that_is_not_installed_says_what_to_do(tmp_path):
    shutil.copytree(ROOT / "emrecon", tmp_path / "emrecon")
    run = subprocess.run(
        [sys.executable, "-S", "-c", "import emrecon"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "pip install" in run.stderr


def test_the_version_has_one_source():
    assert version("emrecon") == SETUP["project"]["version"]
    assert f"## {version('emrecon')}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_module_is_the_command():
    run = subprocess.run(
        [sys.executable, "-m", "emrecon", "--version"], cwd="/", capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == f"emrecon {version('emrecon')}"


STOPPED = """
import sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "emrecon.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from emrecon.__main__ import main
main()
"""


def test_whoever_stops_the_command_while_it_loads_sees_no_traceback():
    assert SETUP["project"]["scripts"]["emrecon"] == "emrecon.__main__:main"
    run = subprocess.run([sys.executable, "-c", STOPPED], cwd="/", capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "emrecon: interrupted\n")


def test_importing_the_library_does_not_import_torch_or_cupy():
    code = (
        "import sys, emrecon.projectors, emrecon.recon, emrecon.sims, emrecon.formats, emrecon.evaluation;"
        "print(sorted({'torch', 'cupy', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "former", "today"),
    [
        ("recon", "Bowsher", "BowsherWeights"),
        ("projectors", "Isotope", "Radionuclide"),
        ("unrolled", "PnPEM", "PlugAndPlayEM"),
    ],
)
def test_former_names_are_found_with_a_warning(package, former, today):
    module = __import__(f"emrecon.{package}", fromlist=["x"])
    with pytest.warns(DeprecationWarning, match=today):
        assert getattr(module, former) is getattr(module, today)
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018
