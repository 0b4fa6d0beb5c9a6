"""Run mypy on the package: the folders are linked into a temporary `emrecon/`, where mypy can find them."""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
folders = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]

with tempfile.TemporaryDirectory() as box:
    package = Path(box) / "emrecon"
    package.mkdir()
    for path in (root / "emrecon").iterdir():
        (package / path.name).symlink_to(path)
    for name, folder in folders.items():
        if name != "emrecon":
            (package / name.rpartition(".")[2]).symlink_to(root / folder)
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), "-p", "emrecon"]
    sys.exit(subprocess.run(command, cwd=box, check=False).returncode)
