"""Where compiled kernels are kept: also in a read-only installation, by a user without a home."""

import logging
import os
import shutil
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest

from emrecon.projectors.core import compiling

WHERE = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from emrecon.projectors.core.compiling import cache_folder
from emrecon.projectors.parallel import kernels as parallel
from emrecon.projectors.pet import kernels as pet
print(cache_folder())
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    """A copy of the package whose folders cannot hold a cache, for any user: a file has the cache's name."""
    root = tmp_path_factory.mktemp("site") / "emrecon"
    shutil.copytree(files("emrecon").joinpath(), root, ignore=shutil.ignore_patterns("__pycache__"))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(files("emrecon.projectors").joinpath(), root / "projectors", ignore=ignored)
    for folder in [path.parent for path in root.rglob("*.py")]:
        (folder / "__pycache__").touch()
    return root.parent


def imported(installation, temporary, **more):
    """The folder of the kernels and what was said, of an import in the installation without a home."""
    own = {"PYTHONPATH": str(installation), "HOME": "/dev/null/home", "XDG_CACHE_HOME": "/dev/null/cache", **more}
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | own
    command = [sys.executable, "-c", WHERE, str(temporary)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_a_read_only_installation_keeps_kernels_among_the_temporary_files(installation, tmp_path):
    folder, said = imported(installation, tmp_path)
    assert folder.startswith(str(tmp_path / "emrecon-kernels-"))
    assert said.count("NUMBA_CACHE_DIR") == 1
    assert said.count("\n") == 1
    again, said = imported(installation, tmp_path)
    assert again == folder
    assert said == "", "it is said when the folder is made"


def test_a_folder_of_the_users_choice_comes_first(installation, tmp_path):
    folder, said = imported(installation, tmp_path / "nowhere", NUMBA_CACHE_DIR=str(tmp_path / "own"))
    assert folder.startswith(str(tmp_path / "own"))
    assert said == ""


def test_without_any_folder_kernels_are_not_kept_and_a_warning_says_so(installation):
    folder, said = imported(installation, "/dev/null/temporary")
    assert folder == "None"
    assert "every run compiles them again" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners of files")
@pytest.mark.parametrize("trap", ["link", "open to all", "file"])
def test_a_spare_folder_that_others_can_write_is_not_used(tmp_path, monkeypatch, trap):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"emrecon-kernels-{os.getuid()}"
    if trap == "link":
        (tmp_path / "other").mkdir()
        folder.symlink_to(tmp_path / "other")
    elif trap == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    compiling.spare_folder.cache_clear()
    try:
        assert compiling.spare_folder() is None
    finally:
        compiling.spare_folder.cache_clear()


def test_functions_of_the_user_stay_where_numba_keeps_them(tmp_path):
    import numba

    before = numba.config.CACHE_DIR
    with compiling._kept_in(tmp_path):
        assert str(tmp_path) == numba.config.CACHE_DIR
    assert before == numba.config.CACHE_DIR


def test_the_log_says_once_for_each_module_that_kernels_compile(caplog):
    def doubled(x):
        return 2 * x

    doubled.__module__ = "emrecon.tests.doubled"
    plain = compiling.numba.njit(doubled)
    with caplog.at_level(logging.INFO, logger="emrecon"):
        assert plain(2) == 4
        assert plain(np.float32(2)) == 4
    said = [record.getMessage() for record in caplog.records if "compiling kernels" in record.getMessage()]
    assert said == ["compiling kernels of emrecon.tests.doubled, at their first use; it can take a minute"]
