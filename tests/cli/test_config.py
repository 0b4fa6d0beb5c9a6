"""Options of `emrecon reconstruct` in a file: typed, overruled by the command line, and written to repeat a run."""

from pathlib import Path

import numpy as np
import pytest
from cli_cases import emrecon, emrecon_or_raise
from typer.testing import CliRunner

from emrecon import formats
from emrecon.cli.main import app
from emrecon.cli.reconstruct import config
from emrecon.cli.reconstruct.settings import DataTable, MethodTable, PhysicsTable, Settings
from emrecon.projectors import ImageGrid, LinearResponse, Scan, SPECTGeometry, SPECTProjector
from emrecon.projectors.core.errors import FormatError
from emrecon.sims import poisson, uniform_cylinder
from emrecon.sims.recipes import RecipeError

GRID = ImageGrid((16, 16, 6), 5.0)
CAMERA = SPECTGeometry.circular(12, 70, (16, 6), 5.0)
PHANTOM = uniform_cylinder(radius=28, height=24)

TEXT = """
[data]
projections = "scan.h5"

[physics]
response = "0.03,2"
mu = "mu.nii.gz"

[method]
method = "SVRG"
prior = "RDP:0.05,2"
kappa = true
subsets = 4
iterations = 2

[output]
out = "first.h5"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small scan, its map and a file of options, in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    expected = SPECTProjector(GRID, CAMERA, None, LinearResponse(0.03, 2.0))(3 * PHANTOM.activity(GRID)) + 0.5
    formats.write_scan("scan.h5", Scan(poisson(expected, seed=0), CAMERA, background=0.5, radionuclide="Tc-99m"))
    formats.write_image("mu.nii.gz", PHANTOM.attenuation(GRID, 140.5), GRID)
    (tmp_path / "run.toml").write_text(TEXT)
    return tmp_path


def image(path):
    return formats.read_image(path)[0]


def test_a_file_is_what_the_options_say(folder):
    emrecon_or_raise("reconstruct", "--config", "run.toml", "--quiet")
    given = ("scan.h5", "--response", "0.03,2", "--mu", "mu.nii.gz", "--method", "svrg", "--prior", "rdp:0.05,2")
    more = ("--kappa", "--subsets", 4, "--iterations", 2, "--out", "second.h5", "--quiet")
    emrecon_or_raise("reconstruct", *given, *more)
    np.testing.assert_array_equal(image("first.h5"), image("second.h5"))


def test_the_command_line_wins(folder):
    emrecon_or_raise("reconstruct", "--config", "run.toml", "--subsets", 3, "--no-kappa", "--out", "x.h5", "--quiet")
    assert not (folder / "first.h5").exists()
    own = ("--response", "0.03,2", "--mu", "mu.nii.gz", "--method", "svrg", "--prior", "rdp:0.05,2")
    emrecon_or_raise("reconstruct", "scan.h5", *own, "--subsets", 3, "--iterations", 2, "--out", "y.h5", "--quiet")
    np.testing.assert_array_equal(image("x.h5"), image("y.h5"))


@pytest.mark.parametrize(
    "options",
    [
        ("--config", "run.toml"),
        ("scan.h5", "--mu-cylinder", "28:0.15", "--background", 0.2, "--voxel", 7),
        ("scan.h5", "--method", "kem", "--guide", "mu.nii.gz", "--kernel", "12,3", "--iterations", 1),
    ],
)
def test_a_written_file_repeats_the_run(folder, options):
    emrecon_or_raise("reconstruct", *options, "--out", "x.h5", "--write-config", "again.toml")
    before = image("x.h5")
    (folder / "x.h5").unlink()
    emrecon_or_raise("reconstruct", "--config", "again.toml", "--quiet", "--write-config", "third.toml")
    np.testing.assert_array_equal(before, image("x.h5"))
    again, third = ((folder / name).read_text() for name in ("again.toml", "third.toml"))
    assert third == again + "quiet = true\n"
    assert 'out = "x.h5"' in again


def test_files_of_options_never_replace_an_input(folder):
    before = (folder / "run.toml").read_text()
    for name in ("run.toml", "scan.h5", "first.h5"):
        done = emrecon("reconstruct", "--config", "run.toml", "--write-config", name, cwd=folder, check=4)
        assert "would replace an input or another output" in done.stderr
    assert (folder / "run.toml").read_text() == before
    assert not (folder / "first.h5").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[method]\n\nmethdo = 'osem'\n", ["line 3: method.methdo: unknown key 'methdo'; did you mean 'method'?"]),
        ("[metod]\n", ["line 1: unknown table 'metod'; did you mean 'method'? choose from data, physics"]),
        ("[data]\nmu = 'x'\n", ["line 2: data.mu: mu belongs into the table [physics]"]),
        ("subsets = 4\n", ["line 1: subsets belongs into the table [method]"]),
        ("[method]\nsubsets = 0\n", ["line 2: method.subsets: Input should be greater than or equal to 1, got 0"]),
        ("[method]\nkappa = 3\nsubsets = '4'\n", ["line 2: method.kappa: ", "line 3: method.subsets: "]),
        ("[physics]\npsf = nan\n", ["line 2: physics.psf: "]),
        ("method = [", ["not TOML"]),
    ],
)
def test_mistakes_name_the_line(folder, text, said):
    (folder / "bad.toml").write_text(text)
    with pytest.raises(RecipeError) as error:
        config.read_config(folder / "bad.toml")
    for part in said:
        assert part in str(error.value)
    done = emrecon("reconstruct", "scan.h5", "--config", "bad.toml", cwd=folder, check=3)
    assert "bad.toml" in done.stderr


def test_a_missing_file_is_named(folder):
    assert "nowhere.toml" in emrecon("reconstruct", "--config", "nowhere.toml", cwd=folder, check=3).stderr
    (folder / "latin.toml").write_bytes(b"[data]\nprojections = '\xe9'\n")
    with pytest.raises(FormatError, match="is not text in UTF-8"):
        config.read_config(folder / "latin.toml")


def test_text_comes_back_as_it_was(folder):
    settings = Settings(
        data=DataTable(projections=Path('a "quoted" \\ name\x7f.h5'), header=("radius=150",)),
        physics=PhysicsTable(background=0.0, mu_cylinder="99:0.15"),
        method=MethodTable(guide=(Path("mr.nii"), Path("ct.nii")), kappa=True),
    )
    config.write_config(folder / "written.toml", settings)
    found = config.read_config(folder / "written.toml")
    assert found["projections"] == 'a "quoted" \\ name\x7f.h5'
    assert found["header"] == ["radius=150"]
    assert (found["background"], found["mu_cylinder"]) == (0.0, "99:0.15")
    assert (found["guide"], found["kappa"]) == (["mr.nii", "ct.nii"], True)


def test_the_help_names_the_tables_of_a_file():
    shown = CliRunner().invoke(app, ["reconstruct", "--help"]).output
    for table in ("[data]", "[physics]", "[method]", "[output]", "[run]"):
        assert table in shown
