"""Recipes: typed TOML whose errors name the line, and samples that depend on nothing but their index."""

import json
import math
import os

import numpy as np
import pytest
from recipe_cases import SMALL_PET, SMALL_SPECT

from emrecon.projectors import DeadTime, ImageGrid, PETScanner, PETSinogram, collimator, isotope
from emrecon.projectors.core.errors import FormatError
from emrecon.sims import Cylinder, Phantom, Region, item_seed, random_torso, source_of
from emrecon.sims.recipes import recipe as recipes
from emrecon.sims.recipes.random_bodies import Drawn
from emrecon.sims.recipes.recipe_file import RecipeError, line_of


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


@pytest.mark.filterwarnings("ignore:.*reaches the edge of the grid")
def test_counts_are_even_in_their_logarithm():
    text = SMALL_SPECT.replace("[24, 24, 1]", "[12, 12, 1]").replace("[10.0, 10.0, 10.0]", "[20.0, 20.0, 10.0]")
    source = recipes.RecipeSource(recipes.parse_recipe(text.replace("[24, 1]", "[12, 1]")))
    decades = np.log10(source.samples(range(100))["level_counts"][:, 1])
    assert decades.mean() == pytest.approx(4.5, abs=4 * math.sqrt(1 / 12 / 100))  # 4.68 where counts are even
    assert decades.var() == pytest.approx(1 / 12, rel=0.4)


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


def test_numbers_of_a_ct_are_those_of_a_hundred_and_twenty_kilovolt():
    inside = Cylinder((0, 0, 0), 20.0, math.inf)
    grid = ImageGrid((1, 1, 1), 5.0)
    numbers = {
        name: Drawn(Phantom((Region("all", inside, 1.0, name),))).image("ct", grid).item()
        for name in ("water", "bone-cortical", "adipose")
    }
    # NIST at 70 keV: 0.194, 0.503 and 0.179 1/cm
    assert numbers["water"] == 0
    assert numbers["bone-cortical"] == pytest.approx(1590, rel=0.03)
    assert numbers["adipose"] == pytest.approx(-78, abs=15)


def test_slices_are_heights_of_the_patient():
    text = SMALL_SPECT.replace('"spectnet-brain"', '"torso"\nuptake = "fdg"\nslices = [120.0, 120.0]')
    source = recipes.RecipeSource(recipes.parse_recipe(text.replace("radius = 150.0", "radius = 350.0")))
    patient = random_torso(item_seed(3, 4, "phantom"), "fdg", (0, 6))
    seen, there = source.draw(4).phantom, ImageGrid((40, 40, 1), 10.0, (-195.0, -195.0, 120.0))
    at_zero = ImageGrid((40, 40, 1), 10.0, (-195.0, -195.0, 0.0))
    np.testing.assert_allclose(seen.activity(at_zero), patient.activity(there), atol=1e-5)
    assert not np.allclose(seen.activity(at_zero), patient.activity(at_zero))


@pytest.mark.parametrize("name", recipes.recipe_names())
@pytest.mark.slow
def test_recipes_of_the_library(name):
    found = recipes.load_recipe(name)
    assert found.name == name
    assert found.description
    source = source_of(found, reconstruct=lambda scans, table: np.zeros(1))
    assert sum(source.split.values()) == found.n
    assert source.fields


@pytest.mark.slow
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
    described = recipes.RecipeSource(recipes.parse_recipe(text)).describe()["phantom"]
    assert len(described["sha256"]) == 64
    np.savez(tmp_path / "labels.npz", labels=labels[:, ::2], voxel_mm=np.full(3, 10.0))
    other = text.replace("labels.npz", "./labels.npz")  # files are read once
    assert recipes.RecipeSource(recipes.parse_recipe(other)).describe()["phantom"]["sha256"] != described["sha256"]
    activities = [recipes.parse_recipe(text).phantom.draw(seed, True).phantom.table[1].activity for seed in range(30)]
    assert 1 <= min(activities) < 1.3
    assert 3 < max(activities) <= 4
    with pytest.raises(RecipeError, match="low to high"):
        recipes.parse_recipe(SMALL_SPECT.replace('"spectnet-brain"', '"torso"\nslices = [10.0, -10.0]'))


@pytest.mark.slow
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
    activity = {r.name: r.activity for r in recipes.RecipeSource(recipes.load_recipe("fbsem")).draw(0).phantom.regions}
    assert [activity[name] for name in ("grey", "white", "skin", "skull", "csf")] == [96, 32, 16, 8, 0]


@pytest.mark.parametrize(("name", "counts", "shape"), [("brain-pet", 2e5, (48, 111)), ("brain-spect", 6e4, (60, 64))])
def test_small_brains_for_networks(name, counts, shape):
    found = recipes.load_recipe(name)
    assert recipes.split_of(found, found.n) == {"train": 1000, "validation": 50, "test": 50}
    source = recipes.RecipeSource(found)
    fields = source.fields
    assert (fields["counts"].shape, fields["truth"].shape) == (shape, (64, 64))
    made = source.samples([1050])  # the first of the test
    assert made["counts"].sum() == pytest.approx(counts, rel=0.02)
    for image in ("truth", "mu", "guide"):
        assert not np.any(made[image][0, [0, -1]] > 0.2 * made[image].max()), "the head is inside of the slice"
    lesions = [region for region in source.draw(1050).phantom.regions if "lesion" in region.name]
    assert len(lesions) == 2, "the third is in the MR alone"


def test_a_named_scanner_with_fewer_rings_and_tof():
    text = SMALL_PET[: SMALL_PET.index("[pet.ring]")] + "[counts]\ntotal = 1e5\n"
    text = text.replace("[pet]\n", '[pet]\nscanner = "d690"\nrings = 3\ntof = true\ntof_mashing = 5\nmashing = 4\n')
    found = recipes.parse_recipe(text.replace("8.0, 8.0, 8.0", "12.0, 12.0, 6.54"))
    sinogram = recipes.simulator_of(found).geometry
    assert isinstance(sinogram, PETSinogram)
    assert (sinogram.scanner.n_rings, sinogram.tof.n_bins, sinogram.n_views) == (3, 11, 72)


def test_all_keys_of_a_camera_reach_it():
    more = 'collimator = "siemens-me"\nintrinsic_fwhm = 3.5\nradionuclide = "Lu-177"\nroom = 0.5\ndead_time = 1e-6\n'
    more += 'sensitivity = 50.0\nduration = 7.0\nstart = 30.0\nextent = 180.0\ndirection = "cw"'
    found = recipes.simulator_of(recipes.parse_recipe(SMALL_SPECT.replace("response = [0.04, 2.0]", more)))
    assert (found.room, found.sensitivity, found.duration, found.radionuclide) == (0.5, 50, 7, "Lu-177")
    assert found.dead_time == DeadTime(1e-6)
    expected = collimator("siemens-me").response(isotope("Lu-177").main_energy, 3.5)
    assert found.response.sigma(120.0) == pytest.approx(expected.sigma(120.0))
    np.testing.assert_allclose(found.geometry.angles % 360, (30 - 15.0 * np.arange(12)) % 360, atol=1e-4)


def test_all_keys_of_a_scanner_reach_it():
    text = SMALL_PET.replace("resolution = 6.0", "crystal_spread = 0.2\nnormalisation_error = 0.05\ndead_time = 1e-6")
    found = recipes.simulator_of(recipes.parse_recipe(text.replace("crystals_per_side = 8", "crystals_per_side = 40")))
    assert found.dead_time == DeadTime(1e-6)
    true, given = found.normalisation.crystal, found.given_normalisation.crystal
    assert np.std(np.log(true)) == pytest.approx(0.2, rel=0.2)
    assert np.std(np.log(given / true)) == pytest.approx(0.05, rel=0.2)
    whole = PETScanner.named("d690")
    text = SMALL_PET[: SMALL_PET.index("[pet.ring]")].replace("[pet]", '[pet]\nscanner = "d690"\nrings = 4')
    some = recipes.simulator_of(recipes.parse_recipe(text)).geometry.scanner
    assert some.rings.mean() == pytest.approx(whole.rings.mean())


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
    "no level": ("[0.5, 1.0]", "[]", 26, "at least 1"),
    "too many counts": ("[1e4, 1e5]", "1e300", 25, "less than or equal"),
    "nothing to see": ('"spectnet-brain"', '"torso"\nslices = [900.0, 950.0]', 16, "no activity"),
    "huge grid": ("[24, 24, 1]", "[100000, 100000, 1]", 11, "fit in memory"),
    "huge data": ("views = 12", "views = 900000000", 18, "fit in memory"),
    "more subsets than views": ("[counts]", "[reconstruction]\nsubsets = 13\n\n[counts]", 25, "12 views"),
}


@pytest.mark.parametrize(("old", "new", "line", "message"), WRONG.values(), ids=WRONG.keys())
def test_errors_name_the_line(old, new, line, message):
    assert old in SMALL_SPECT
    with pytest.raises(RecipeError) as error:
        recipes.parse_recipe(SMALL_SPECT.replace(old, new), "my.toml")
    assert f"my.toml, line {line}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("scatter_fraction = [0.2, 0.4]", "scatter_fraction = 1.5", 17, "less than 1"),
        ("resolution = 6.0", 'scatter = "none"', 16, "nothing to scale"),
        ("sides = 8", "sides = 90000000", 21, "fit in memory"),
        ('kind = "brain"', 'kind = "brain"\nuptake = { grey = 1.0 }', 11, "must have the tissues"),
    ],
)
def test_errors_of_pet_name_the_line_once(old, new, line, message):
    with pytest.raises(RecipeError) as error:
        recipes.parse_recipe(SMALL_PET.replace(old, new), "my.toml")
    assert f"my.toml, line {line}: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_mistakes_are_told_at_once():
    text = SMALL_SPECT.replace("views = 12", "views = 0").replace("n = 10", "n = -1")
    with pytest.raises(RecipeError, match=r"(?s)line 2: n.*line 18: spect.views"):
        recipes.parse_recipe(text, "my.toml")


def test_what_is_not_toml_and_what_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match=r"not TOML.*line 1"):
        recipes.parse_recipe("name = \n")
    for hostile in ("a = " + "[" * 5000, ".".join("a" * 3000) + " = 1", "n = " + "9" * 5000):
        with pytest.raises(RecipeError, match=r"not TOML|nested too deeply"):
            recipes.parse_recipe(hostile)
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match=r"noise\.toml is not text in UTF-8"):
        recipes.load_recipe(tmp_path / "noise.toml")
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + SMALL_SPECT.encode())  # as some editors save it
    assert recipes.load_recipe(tmp_path / "marked.toml") == recipes.parse_recipe(SMALL_SPECT)
    with pytest.raises(FileNotFoundError, match=r"choose from .*spectnet"):
        recipes.load_recipe(tmp_path / "nothing.toml")
    with pytest.raises(RecipeError, match="one scanner"):
        recipes.parse_recipe(SMALL_SPECT[: SMALL_SPECT.index("[spect]")])
    with pytest.raises(ValueError, match="needs reconstructions"):
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


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_pipes_and_devices_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path / "pipe.toml", "/dev/zero"):
        with pytest.raises(FormatError, match="folder or a device"):
            recipes.load_recipe(path)


def text_of_pet(pet):
    """The small PET recipe with another table [pet]."""
    table = SMALL_PET[SMALL_PET.index("[pet]") : SMALL_PET.index("[counts]")]
    return SMALL_PET.replace(table, pet + "\n\n")


@pytest.mark.parametrize(("rings", "real"), [(1, 1), (2, 2), (13, 13), (14, 13)])
def test_some_rings_are_real_ones(rings, real):
    source = recipes.RecipeSource(
        recipes.parse_recipe(text_of_pet(f'[pet]\nscanner = "mct"\nrings = {rings}\nmashing = 8\nn_radial = 101'))
    )
    scanner = source.simulator.sinogram.scanner
    assert scanner.n_rings == rings
    assert (~scanner.virtual.all(axis=1)).sum() == real


def test_one_ring_of_a_scanner_with_gap_rings_makes_samples():
    text = text_of_pet('[pet]\nscanner = "mct"\nrings = 1\nmashing = 8\nn_radial = 101')
    assert recipes.RecipeSource(recipes.parse_recipe(text)).samples([0])["counts"].sum() > 1e4


def test_a_ring_of_ones_own_may_have_time_of_flight():
    text = SMALL_PET.replace("ring_pitch = 8.0\n", "ring_pitch = 8.0\ntof = [9, 300.0, 400.0]\n")
    text = text.replace("[pet]\n", "[pet]\ntof = true\ntof_mashing = 3\n")
    tof = recipes.RecipeSource(recipes.parse_recipe(text)).simulator.sinogram.tof
    assert (tof.n_bins, tof.bin_width) == (3, pytest.approx(900 * 0.299792458 / 2))  # ps to mm along the line
    with pytest.raises(RecipeError, match=r"has no time of flight; give \[pet.ring\] a key tof"):
        recipes.parse_recipe(SMALL_PET.replace("[pet]\n", "[pet]\ntof = true\n"))
    with pytest.raises(RecipeError, match="choose a scanner that has it"):
        recipes.parse_recipe(text_of_pet('[pet]\nscanner = "mmr"\nrings = 1\ntof = true'))
    with pytest.raises(RecipeError, match="has rings of its own"):
        recipes.parse_recipe(SMALL_PET.replace("[pet]\n", "[pet]\nrings = 1\n"))
