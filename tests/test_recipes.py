"""Recipes: typed TOML whose errors name the line, and samples that depend on nothing but their index."""

import json
import math

import numpy as np
import pytest
from emrecon.projectors import PETSinogram
from emrecon.sims import recipes
from emrecon.sims.recipe_file import RecipeError, line_of

SMALL_SPECT = """\
name = "small"
n = 10
seed = 3
outputs = ["counts", "expected", "background", "factors", "truth", "mu", "ct", "labels", "lesions"]

[split]
train = 0.8
test = 0.2

[grid]
shape = [24, 24, 1]
voxel_size = [10.0, 10.0, 10.0]

[phantom]
kind = "spectnet-brain"

[spect]
views = 12
bins = [24, 1]
pixel_size = [10.0, 10.0]
radius = 150.0
response = [0.04, 2.0]

[counts]
total = [1e4, 1e5]
levels = [0.5, 1.0]
"""

SMALL_PET = """\
name = "small pet"
n = 6
outputs = ["counts", "background", "factors", "truth", "guide"]

[grid]
shape = [32, 32, 1]
voxel_size = [8.0, 8.0, 8.0]

[phantom]
kind = "brain"

[phantom.lesions]
both = 2

[pet]
resolution = 6.0
scatter_fraction = [0.2, 0.4]
randoms_fraction = [0.1, 0.3]

[pet.ring]
sides = 8
crystals_per_side = 8
radius = 200.0
rings = 1
ring_pitch = 8.0

[counts]
total = 2e5
"""


def test_samples_depend_on_their_index_alone():
    source = recipes.RecipeSource(recipes.parse_recipe(SMALL_SPECT))
    together, alone = source.samples([2, 5, 7]), source.samples([5])
    again = recipes.RecipeSource(recipes.parse_recipe(SMALL_SPECT), 400).samples([5])
    other = recipes.RecipeSource(recipes.parse_recipe(SMALL_SPECT.replace("seed = 3", "seed = 4"))).samples([5])
    for name, values in together.items():
        assert values[1].tobytes() == alone[name][0].tobytes() == again[name][0].tobytes()
    assert not np.array_equal(other["counts"], alone["counts"])


@pytest.mark.parametrize("text", [SMALL_SPECT, SMALL_PET])
def test_fields_say_what_samples_are(text):
    source = recipes.RecipeSource(recipes.parse_recipe(text))
    made = source.samples([0, 1, 2])
    assert set(made) == set(source.fields)
    for name, field in source.fields.items():
        assert made[name].shape == (3, *field.shape)
        assert made[name].dtype == field.dtype
        assert field.description
    json.dumps(source.describe())
    assert source.describe()["seed"] == source.recipe.seed


def test_levels_are_parts_of_each_other_and_counts_are_as_asked():
    source = recipes.RecipeSource(recipes.parse_recipe(SMALL_SPECT))
    made = source.samples(range(20))
    half, whole = np.moveaxis(made["counts"].astype(int), 1, 0)
    assert np.all(half <= whole)
    assert half.sum() == pytest.approx(0.5 * whole.sum(), rel=0.01)
    np.testing.assert_allclose(made["level_counts"][:, 1], made["expected"].sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(made["level_counts"][:, 0], 0.5 * made["level_counts"][:, 1], rtol=1e-6)
    drawn = made["level_counts"][:, 1]
    assert drawn.min() >= 1e4 * 0.999
    assert drawn.max() <= 1e5 * 1.001
    assert np.ptp(np.log(drawn)) > 1


def test_fractions_are_drawn_from_their_ranges():
    source = recipes.RecipeSource(recipes.parse_recipe(SMALL_PET))
    scatter, randoms = zip(*(source.simulations(i)[0].expectation.fractions for i in range(6)))
    assert np.ptp(scatter) > 0.02
    assert 0.2 <= min(scatter) <= max(scatter) <= 0.4
    assert 0.1 <= min(randoms) <= max(randoms) <= 0.3
    assert source.simulations(0)[0].expectation.total.sum() == pytest.approx(2e5, rel=1e-4)


def test_the_model_that_is_given_explains_the_counts():
    source = recipes.RecipeSource(recipes.parse_recipe(SMALL_SPECT))
    for simulation in source.simulations(1):
        expected = simulation.expectation.total
        given = simulation.model()(simulation.truth)
        assert np.linalg.norm(given - expected) < 0.15 * np.linalg.norm(expected)
        many = expected > 5
        chi2 = ((simulation.scan.counts - expected)[many] ** 2 / expected[many]).mean()
        assert chi2 == pytest.approx(1, abs=4 * math.sqrt(2 / many.sum()))


def test_expected_counts_without_noise():
    text = SMALL_SPECT.replace("levels = [0.5, 1.0]", "noise = false")
    source = recipes.RecipeSource(recipes.parse_recipe(text))
    made = source.samples([0])
    assert source.fields["counts"].dtype == "float32"
    np.testing.assert_array_equal(made["counts"], made["expected"])


def test_images_that_go_with_the_phantom():
    made = recipes.RecipeSource(recipes.parse_recipe(SMALL_SPECT)).samples([0])
    assert made["ct"].min() == -1000  # air
    assert made["ct"].max() > 200  # some bone
    assert set(np.unique(made["labels"])) <= set(range(10))
    inside = made["labels"] > 0
    assert made["mu"][inside].mean() > 0.1
    guide = recipes.RecipeSource(recipes.parse_recipe(SMALL_PET)).samples([0])["guide"]
    assert 0.3 < guide.max() <= 1.5


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_recipes_of_the_library(name):
    found = recipes.load_recipe(name)
    assert found.name == name
    assert found.description
    source = recipes.RecipeSource(found, reconstruct=lambda scans, table: np.zeros(1))
    assert sum(source.split.values()) == found.n
    assert source.fields


def test_kinds_of_phantoms(tmp_path):
    labels = np.zeros((10, 24, 24), np.uint8)
    labels[2:8, 4:20, 4:20] = 1
    np.savez(tmp_path / "labels.npz", labels=labels, voxel_mm=np.full(3, 10.0))
    (tmp_path / "tissues.csv").write_text("label,name,activity,material\n0,air,0,\n1,body,2,water\n")
    kinds = {
        "ellipses": "number = [2, 4]",
        "torso": 'uptake = "bone-scan"\nslices = [-100.0, 100.0]',
        "cardiac": "slices = [80.0, 90.0]",
        "label-map": f'file = "{tmp_path}/labels.npz"\ntissues = "{tmp_path}/tissues.csv"\nspread = 2.0\nshift = 5.0',
    }
    for kind, more in kinds.items():
        text = SMALL_SPECT.replace('kind = "spectnet-brain"', f'kind = "{kind}"\n{more}')
        text = text.replace("radius = 150.0", "radius = 350.0").replace("10.0, 10.0, 10.0", "25.0, 25.0, 25.0")
        made = recipes.RecipeSource(recipes.parse_recipe(text)).samples([0, 1])
        assert made["truth"].max() > 0
        assert made["mu"].max() > 0.05
        assert not np.array_equal(made["truth"][0], made["truth"][1])
    with pytest.raises(RecipeError, match="low to high"):
        recipes.parse_recipe(SMALL_SPECT.replace('"spectnet-brain"', '"torso"\nslices = [10.0, -10.0]'))


def test_published_numbers():
    spectnet, deeppet = recipes.load_recipe("spectnet"), recipes.load_recipe("deeppet")
    assert recipes.split_of(spectnet, spectnet.n) == {"train": 16000, "validation": 2000, "test": 2000}
    fields = recipes.RecipeSource(spectnet).fields
    assert (fields["counts"].shape, fields["truth"].shape) == ((120, 128), (128, 128))
    fields = recipes.RecipeSource(deeppet).fields
    assert (fields["counts"].shape, fields["truth"].shape) == ((288, 269), (128, 128))
    assert [round(840 * f) for f in recipes.load_recipe("fdg-levels").counts.levels[1:]] == [
        420, 300, 240, 180, 120, 60, 45, 30
    ]  # fmt: skip
    assert recipes.load_recipe("bone-spect-1-7").counts.levels[1] == 1 / 7


def test_a_named_scanner_with_fewer_rings_and_tof():
    text = SMALL_PET[: SMALL_PET.index("[pet.ring]")] + "[counts]\ntotal = 1e5\n"
    text = text.replace("[pet]\n", '[pet]\nscanner = "d690"\nrings = 3\ntof = true\ntof_mashing = 5\nmashing = 4\n')
    found = recipes.parse_recipe(text.replace("8.0, 8.0, 8.0", "12.0, 12.0, 6.54"))
    sinogram = recipes.simulator_of(found).geometry
    assert isinstance(sinogram, PETSinogram)
    assert (sinogram.scanner.n_rings, sinogram.tof.n_bins, sinogram.n_views) == (3, 11, 72)


WRONG = {
    "unknown key": ("views = 12", "vews = 12", 18, "unknown key"),
    "missing key": ("views = 12\n", "", 17, "spect.views: missing"),
    "unknown table": ("[counts]", "[count]", 24, "unknown key"),
    "wrong type": ("views = 12", 'views = "12"', 18, "valid integer"),
    "negative number": ("radius = 150.0", "radius = -150.0", 21, "greater than 0"),
    "impossible orbit": ("radius = 150.0", "radius = 50.0", 21, "behind the collimator"),
    "falling range": ("[1e4, 1e5]", "[1e5, 1e4]", 25, "from low to high"),
    "level above one": ("[0.5, 1.0]", "[0.5, 2.0]", 26, "less than or equal to 1"),
    "unknown kind": ('"spectnet-brain"', '"brian"', 14, "brian"),
    "unknown output": ('"lesions"]', '"lesion"]', 4, "unknown output"),
    "no guide": ('"lesions"]', '"guide"]', 4, "have no guide"),
    "no reconstruction": ('"lesions"]', '"reconstruction"]', 4, "needs a table"),
    "split": ("test = 0.2", "test = 0.3", 6, "add up to 1"),
    "both collimator and response": ("response =", 'collimator = "siemens-lehr"\nresponse =', 22, "not both"),
    "unknown radionuclide": ("response =", 'radionuclide = "Xx-1"\nresponse =', 22, "Xx-1"),
    "scatter in a slice": ("response =", "scatter = true\nenergy_window = [126.0, 154.0]\nresponse =", 22, "slices"),
    "scatter without window": ("response =", "scatter = true\nresponse =", 22, "energy_window"),
    "not a number": ("radius = 150.0", "radius = nan", 21, "finite"),
}


@pytest.mark.parametrize(("old", "new", "line", "message"), WRONG.values(), ids=WRONG.keys())
def test_errors_name_the_line(old, new, line, message):
    assert old in SMALL_SPECT
    with pytest.raises(RecipeError) as error:
        recipes.parse_recipe(SMALL_SPECT.replace(old, new), "my.toml")
    assert f"my.toml, line {line}: " in str(error.value)
    assert message in str(error.value)


def test_all_mistakes_are_told_at_once():
    text = SMALL_SPECT.replace("views = 12", "views = 0").replace("n = 10", "n = -1")
    with pytest.raises(RecipeError, match=r"(?s)line 2: n.*line 18: spect.views"):
        recipes.parse_recipe(text, "my.toml")


def test_what_is_not_toml_and_what_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"not TOML.*line 1"):
        recipes.parse_recipe("name = \n")
    with pytest.raises(FileNotFoundError, match=r"not one of .*spectnet"):
        recipes.load_recipe(tmp_path / "nothing.toml")
    with pytest.raises(RecipeError, match="one scanner"):
        recipes.parse_recipe(SMALL_SPECT[: SMALL_SPECT.index("[spect]")])
    with pytest.raises(ValueError, match="wants reconstructions"):
        recipes.RecipeSource(recipes.load_recipe("bone-spect-1-7"))


def test_lines_of_keys():
    text = 'a = 1\n# b = 2\n[t]\n"c d" = 3\nx.y = 4\n[[u]]\nz = 5\n'
    assert [line_of(text, keys) for keys in (["a"], ["t"], ["t", "c d"], ["t", "x", "y"], ["u", "z"])] == [
        1,
        3,
        4,
        5,
        7,
    ]
    assert line_of(text, ["t", "unknown"]) == 3
    assert line_of(text, ["b"]) is None


def test_split_gives_the_rest_to_the_largest_part():
    small = recipes.parse_recipe(SMALL_SPECT)
    assert recipes.split_of(small, 7) == {"train": 6, "test": 1}
    assert math.isclose(sum(small.split.values()), 1)
