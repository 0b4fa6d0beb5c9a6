"""`emrecon simulate`: from a recipe to a folder of files, in one process, several, and several ranks."""

import hashlib

import numpy as np
import pytest
from cli_cases import emrecon
from recipe_cases import SMALL_PET, SMALL_SPECT
from typer.testing import CliRunner

from emrecon.cli.main import app
from emrecon.cli.simulate import reconstruct
from emrecon.sims import Dataset
from emrecon.sims.recipes import recipe as recipes

RUN = CliRunner()
SMALL = SMALL_SPECT.replace("n = 10", "n = 10\nbatch = 2")
RECONSTRUCTED = SMALL_PET.replace('"guide"]', '"guide", "reconstruction"]') + (
    "levels = [0.1, 1.0]\n\n[reconstruction]\niterations = 4\nsubsets = 4\nfilter_fwhm = 8.0\n"
)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def test_a_folder_of_samples(recipe, tmp_path):
    result = RUN.invoke(app, ["simulate", str(recipe), "--out", str(tmp_path / "set"), "--n", "5", "--shard-size", "2"])
    assert result.exit_code == 0, result.output
    assert "5 samples" in result.output
    data = Dataset(tmp_path / "set")
    assert len(data) == 5
    source = recipes.RecipeSource(recipes.load_recipe(recipe), 5)
    np.testing.assert_array_equal(data[3]["counts"], source.samples([3])["counts"][0])
    again = RUN.invoke(app, ["simulate", str(recipe), "--out", str(tmp_path / "set"), "--n", "5", "--shard-size", "2"])
    assert again.exit_code == 0
    other = RUN.invoke(app, ["simulate", str(recipe), "--out", str(tmp_path / "set"), "--n", "8", "--shard-size", "2"])
    assert other.exit_code != 0


def test_another_seed(recipe, tmp_path):
    for seed in ("1", "2"):
        RUN.invoke(app, ["simulate", str(recipe), "--out", str(tmp_path / seed), "--n", "2", "--seed", seed])
    first, second = (Dataset(tmp_path / seed)[0]["truth"] for seed in ("1", "2"))
    assert not np.array_equal(first, second)


def test_reconstructions_of_all_levels(tmp_path):
    source = recipes.RecipeSource(recipes.parse_recipe(RECONSTRUCTED), reconstruct=reconstruct)
    made = source.samples([0])
    few, many = made["reconstruction"][0]
    truth = made["truth"][0]
    assert few.shape == truth.shape
    errors = [np.linalg.norm(image - truth) / np.linalg.norm(truth) for image in (few, many)]
    assert errors[1] < errors[0] < 1
    assert few.sum() == pytest.approx(truth.sum(), rel=0.1)
    assert many.sum() == pytest.approx(truth.sum(), rel=0.1)
    plain = source.recipe.reconstruction.model_copy(update={"filter_fwhm": 0.0})
    rough = reconstruct(source.simulations(0), plain)[0]
    assert np.abs(np.diff(rough[..., 0], axis=0)).sum() > 1.2 * np.abs(np.diff(few, axis=0)).sum()
    sharp = plain.model_copy(update={"response": False})
    assert not np.allclose(reconstruct(source.simulations(0), sharp)[0], rough, rtol=0.01)


def test_voxels_that_no_line_crosses_are_zero():
    text = RECONSTRUCTED.replace("8.0, 8.0, 8.0", "12.0, 12.0, 8.0")  # the corners are outside of the ring
    image = recipes.RecipeSource(recipes.parse_recipe(text), reconstruct=reconstruct).samples([0])["reconstruction"]
    assert image[..., 0, 0].max() < 1e-9 * image.max()  # the filter rounds
    assert image[..., 14:18, 14:18].all()


def test_recipes_are_listed_and_shown(recipe):
    listed = RUN.invoke(app, ["simulate"])
    assert all(name in listed.output for name in recipes.recipe_names())
    shown = RUN.invoke(app, ["simulate", str(recipe), "--show"])
    assert '"views": 12' in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["{recipe}"], "--out"), (["nothing.toml", "--out", "x"], "unknown recipe"), (["{recipe}", "--n", "0"], "--n")],
)
def test_wrong_use(recipe, arguments, message):
    result = RUN.invoke(app, ["simulate", *(a.format(recipe=recipe) for a in arguments)])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)


def test_a_wrong_recipe_leaves_nothing_behind(recipe, tmp_path):
    recipe.write_text(SMALL.replace("views = 12", "vews = 12"), encoding="utf-8")
    done = emrecon("simulate", recipe, "--out", tmp_path / "set", check=3)
    assert "line 19: spect.vews: unknown key" in done.stderr
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_ranks_and_workers_write_what_one_process_writes(recipe, tmp_path, monkeypatch):
    def simulate(name, *more):
        """Make 4 samples in the folder of a name."""
        command = ["simulate", str(recipe), "--out", str(tmp_path / name), "--n", "4", "--shard-size", "2", *more]
        result = RUN.invoke(app, command)
        assert result.exit_code == 0, result.output

    simulate("one")
    simulate("workers", "--workers", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does; the tests of data sets start it
    for rank in ("1", "0"):
        assert not (tmp_path / "ranks").exists() or len(list((tmp_path / "ranks").glob("shard-*.h5"))) == 1
        monkeypatch.setenv("RANK", rank)
        simulate("ranks")
    assert digests(tmp_path / "one") == digests(tmp_path / "ranks") == digests(tmp_path / "workers")
