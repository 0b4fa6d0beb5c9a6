"""Folded brains: anatomy of plausible sizes, edges that converge, and mismatches only where the description says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from emrecon.projectors import ImageGrid, linear_attenuation
from emrecon.sims.phantoms.brain import UPTAKES, GuideRecipe, LesionRecipe, random_folded_brain
from emrecon.sims.phantoms.folds import Folded
from emrecon.sims.phantoms.phantom import Phantom, Region

PLANE = ImageGrid((128, 128, 1), 2.0)
HEAD = ImageGrid((72, 84, 80), 2.5, (-88.75, -103.75, -105))
LESIONS = LesionRecipe(both=3, emission_only=4, guide_only=5)
ANATOMY = {
    "skin", "skull", "csf", "grey", "white", "cerebellum", "cerebellar white", "brainstem", "thalamus", "putamen",
    "caudate", "ventricles",
}  # fmt: skip
BRAIN = random_folded_brain(3, 3)


def volumes(phantom, grid):
    labels, names = phantom.labels(grid)
    return dict(zip(names, np.bincount(labels.ravel(), minlength=len(names)) * grid.voxel_volume))


def folded(brain, name):
    return next(region.shape for region in brain.phantom.regions if region.name == name)


# ---- folds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grey", "white"])
@pytest.mark.parametrize("half", [(0.4, 0.4, 0.4), (1.0, 1.5, 0.0), (4.0, 4.0, 4.0), (12.0, 9.0, 15.0)])
def test_no_surface_is_missed(name, half):
    shape = folded(BRAIN, name)
    rng = np.random.default_rng(1)
    low, high = shape.bounds
    centres = rng.uniform(low - 5, high + 5, (1500, 3))
    points = centres[:, None] + rng.uniform(-1, 1, (1500, 60, 3)) * half
    inside = shape.contains(*np.moveaxis(points, -1, 0))
    crossed = inside.any(1) & ~inside.all(1)
    unsure = shape.straddles(*centres.T, half)
    assert crossed.sum() > 40
    assert np.all(unsure[crossed])
    if max(half) < 2:
        assert unsure.mean() < 0.8


def test_bounds_hold_the_folds():
    shape = folded(BRAIN, "grey")
    low, high = shape.bounds
    rng = np.random.default_rng(2)
    points = rng.uniform(low - 30, high + 30, (50_000, 3))
    outside = np.any((points < low) | (points > high), 1)
    assert not shape.contains(*points[outside].T).any()


def test_the_white_matter_lies_within_the_surface():
    pial, white = folded(BRAIN, "grey"), folded(BRAIN, "white")
    rng = np.random.default_rng(2)
    points = rng.uniform(-80, 80, (3, 50_000))
    assert pial.contains(*points)[white.contains(*points)].all()
    assert 2.6 <= white.level <= 3.2


@pytest.mark.slow
def test_the_cortex_has_an_even_thickness():
    pial, white = folded(BRAIN, "grey"), folded(BRAIN, "white")
    step = 0.5
    axes = np.arange(-75, 75, step), np.arange(-90, 90, step), np.arange(5, 17, step)
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance = distance_transform_edt(pial.contains(x, y, z), sampling=step)
    inside = white.contains(x, y, z)
    rim = inside & ~np.all([np.roll(inside, s, k) for k in range(3) for s in (-1, 1)], 0)
    thickness = distance[rim & (np.abs(z - 11) < 2)] - 0.8 * step  # from voxel centre to voxel centre, half way each
    low, median, high = np.percentile(thickness, [5, 50, 90])
    assert low > 2
    assert median == pytest.approx(white.level, abs=0.4)
    assert high < 4.6


def test_sulci_are_folds_and_not_a_smooth_hull():
    pial = folded(BRAIN, "grey")
    area = {level: Phantom((Region("r", replace(pial, level=level), 1.0),)) for level in (0.0, 2.0)}
    grid = ImageGrid((180, 200, 1), 1.0, (-89.5, -99.5, 12))
    outer, inner = (phantom.activity(grid).sum() for phantom in area.values())
    smooth = np.pi * (68 + 85)  # the circumference of the hull in mm, at most
    assert (outer - inner) / 2 > 2 * smooth


def test_moved_folds():
    shape = folded(BRAIN, "white")
    moved = shape.moved((3, -4, 5), 30).moved((1, 2, 3), -70)
    points = np.random.default_rng(3).uniform(-80, 80, (3, 5000))

    def turned(p, degrees, offset):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([c * p[0] - s * p[1], s * p[0] + c * p[1], p[2]]) + np.array(offset)[:, None]

    there = turned(turned(points, 30, (3, -4, 5)), -70, (1, 2, 3))
    assert np.mean(moved.contains(*there) == shape.contains(*points)) > 0.9999
    quarter = Phantom((Region("r", shape, 1.0),)).moved(angle=90)
    np.testing.assert_allclose(
        quarter.activity(PLANE), np.rot90(Phantom((Region("r", shape, 1.0),)).activity(PLANE)), atol=0.07
    )


def test_there_are_no_exact_line_integrals():
    with pytest.raises(ValueError, match="paint it on a fine grid"):
        BRAIN.phantom.line_integral((0, 0, 0), (1, 0, 0))
    with pytest.raises(ValueError, match="0 to 6 mm"):
        Folded(folded(BRAIN, "grey").folds, 7.0)


# ---- the brain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_sizes_are_those_of_a_head(seed):
    brain = random_folded_brain(seed, 3)
    v = volumes(brain.phantom, HEAD)
    grey = v["grey"] + v["cerebellum"] + v["caudate"] + v["putamen"] + v["thalamus"]
    white = v["white"] + v["cerebellar white"] + v["brainstem"]
    assert set(v) == {"outside", *ANATOMY}
    assert 1100 < grey + white < 1500
    assert 0.95 < grey / white < 1.65
    assert 15 < v["ventricles"] < 40
    assert 13 < v["caudate"] + v["putamen"] < 20
    assert 90 < v["cerebellum"] + v["cerebellar white"] < 160
    labels, _ = brain.phantom.labels(PLANE)
    assert not any(face.any() for face in (labels[0], labels[-1], labels[:, 0], labels[:, -1]))


def test_left_is_like_right_and_the_front_is_in_front():
    shapes = [(region.name, region.shape) for region in BRAIN.phantom.regions]
    turn = folded(BRAIN, "grey").angle
    x, y, z = np.meshgrid(*(c.ravel() for c in HEAD.coordinates()), indexing="ij", sparse=True)
    straight = [(name, shape.moved(tuple(-v for v in folded(BRAIN, "grey").offset))) for name, shape in shapes]
    centre = {}
    for name, shape in straight:
        shape = shape.moved(angle=-turn)
        inside = np.argwhere(shape.contains(x, y, z))
        centre.setdefault(name, []).append(np.array(HEAD.origin) + 2.5 * inside.mean(0))
    left, right = centre["putamen"]
    assert left[0] == pytest.approx(-right[0], abs=2.5)
    assert left[0] > 20
    assert np.mean(centre["caudate"], 0)[1] < np.mean(centre["putamen"], 0)[1] < np.mean(centre["thalamus"], 0)[1]
    assert np.mean(centre["cerebellum"], 0)[1] > 25
    assert np.mean(centre["cerebellum"], 0)[2] < -40


def test_seeds():
    first = random_folded_brain(12, lesions=LESIONS)
    np.random.default_rng(0).normal(size=10)
    random_folded_brain(13)
    assert random_folded_brain(12, lesions=LESIONS) == first
    assert random_folded_brain(13, lesions=LESIONS) != first
    # everything else leaves the anatomy as it is
    other = random_folded_brain(12, uptake="dat", guide=GuideRecipe(5, 5, 0.2, 0.1))
    assert [r.shape for r in other.phantom.regions] == [r.shape for r in first.phantom.regions][
        : len(other.phantom.regions)
    ]
    images = [random_folded_brain(seed).phantom.activity(PLANE) for seed in (1, 2)]
    assert np.mean(images[0] != images[1]) > 0.1


def test_two_dimensions_are_a_plane_of_three():
    flat, solid = random_folded_brain(5, 2), random_folded_brain(5, 3)
    height = folded(flat, "grey").offset[2]
    assert -30 <= height <= 10
    plane = ImageGrid(PLANE.shape, PLANE.voxel_size, (*PLANE.origin[:2], -height))
    np.testing.assert_allclose(solid.phantom.activity(plane), flat.phantom.activity(PLANE), atol=0.3)
    assert np.mean(solid.phantom.activity(plane) != flat.phantom.activity(PLANE)) < 1e-3


def test_fractions_fill_the_head():
    names = BRAIN.phantom.names[1:]
    total = sum(BRAIN.phantom.fraction(PLANE, name) for name in names)
    labels, _ = Phantom(BRAIN.phantom.regions[:2]).labels(PLANE)
    inside = np.all([np.roll(labels > 0, s, k) for k in range(2) for s in (-1, 0, 1)], 0)
    np.testing.assert_allclose(total[inside], 1, atol=1e-6)
    assert total.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["grey", "white", "ventricles", "skull"])
def test_painted_areas_converge(name):
    fine = ImageGrid((1024, 1024, 1), 0.25)
    coarse = BRAIN.phantom.fraction(PLANE, name).sum(dtype=float) * 2.0**2
    assert coarse == pytest.approx(BRAIN.phantom.fraction(fine, name, 1).sum(dtype=float) * 0.25**2, rel=5e-3)


def test_painted_volumes_converge():
    totals = [
        BRAIN.phantom.activity(grid, n).sum(dtype=float) * grid.voxel_volume
        for grid, n in ((ImageGrid((36, 42, 40), 5.0, (-87.5, -102.5, -102.5)), 4), (HEAD, 1))
    ]
    assert totals[0] == pytest.approx(totals[1], rel=5e-3)


def test_attenuation():
    for energy in (140.5, 511.0):
        mu = BRAIN.phantom.attenuation(PLANE, energy, oversample=1)
        labels, names = BRAIN.phantom.labels(PLANE)
        for name in set(names) & ANATOMY:
            material = {"skull": "bone-cortical", "csf": "water", "ventricles": "water"}.get(name, "muscle")
            expected = np.float32(linear_attenuation(material, energy))
            assert set(np.unique(mu[labels == names.index(name)])) <= {expected}
    assert not mu[labels == 0].any()


@pytest.mark.parametrize("uptake", UPTAKES)
def test_uptakes(uptake):
    brain = random_folded_brain(1, 3, uptake)
    image, (labels, names) = brain.phantom.activity(PLANE, oversample=1), brain.phantom.labels(PLANE)
    table = UPTAKES[uptake]
    for name, tissue in {"grey": "grey", "white": "white", "putamen": "striatum", "skin": "skin"}.items():
        np.testing.assert_array_equal(np.unique(image[labels == names.index(name)]), np.float32(table[tissue]))
    assert not image[labels == names.index("ventricles")].any()


def test_an_uptake_of_ones_own():
    table = dict.fromkeys(UPTAKES["fdg"], 1.0) | {"grey": 3.0, "other": 0.25}
    activity = {region.name: region.activity for region in random_folded_brain(1, 3, table).phantom.regions}
    assert [activity[name] for name in ("grey", "white", "skull", "csf")] == [3, 1, 0.25, 0]
    assert random_folded_brain(1, 3, UPTAKES["dat"]) == random_folded_brain(1, 3, "dat")
    with pytest.raises(ValueError, match=r"must have the tissues skin, grey.* got grey"):
        random_folded_brain(1, 3, {"grey": 1.0})
    with pytest.raises(ValueError, match="finite and >= 0"):
        random_folded_brain(1, 3, table | {"white": -1.0})


# ---- images together, guide, lesions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [None, GuideRecipe(bias=0.2, noise=0.05), GuideRecipe(shift=4, turn=5)])
@pytest.mark.parametrize("grid", [PLANE, ImageGrid((40, 44, 5), (5, 5, 4))], ids=str)
def test_images_are_those_of_the_phantoms(recipe, grid, monkeypatch):
    monkeypatch.setattr("emrecon.sims.phantoms.layers._VOXELS_AT_ONCE", 3000)
    brain = random_folded_brain(8, 3 if grid.shape[2] > 1 else 2, lesions=LESIONS, guide=recipe)
    images = brain.images(grid, 511.0, oversample=3)
    np.testing.assert_allclose(images.activity, brain.phantom.activity(grid, 3), atol=1e-6)
    np.testing.assert_allclose(images.attenuation, brain.phantom.attenuation(grid, 511.0, 3), atol=1e-6)
    np.testing.assert_allclose(images.guide, brain.guide(grid, 3), atol=1e-6)
    centres = brain.images(grid, 511.0, oversample=1)
    np.testing.assert_array_equal(centres.activity, brain.phantom.activity(grid, 1))
    np.testing.assert_array_equal(centres.guide, brain.guide(grid, 1))
    assert {image.dtype for image in images} == {np.dtype(np.float32)}


def near(lesions, grid, reach=2.9):
    x, y, z = grid.coordinates()
    mask = np.zeros(grid.shape, bool)
    for lesion in lesions:
        a, b, c = lesion.centre
        mask |= (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 <= (lesion.diameter / 2 + reach) ** 2
    return mask


@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_where_the_description_says_and_nowhere_else(seed):
    brain, plain = random_folded_brain(seed, lesions=LESIONS), random_folded_brain(seed)
    seen = {kind: [lesion for lesion in brain.lesions if lesion.seen == kind] for kind in ("both", "emission", "guide")}
    assert [len(found) for found in seen.values()] == [3, 4, 5]
    assert brain.mismatches.emission_only == tuple(lesion.name for lesion in seen["emission"])
    assert brain.mismatches.guide_only == tuple(lesion.name for lesion in seen["guide"])
    changed = brain.phantom.activity(PLANE) != plain.phantom.activity(PLANE)
    guide = brain.guide(PLANE) != plain.guide(PLANE)
    in_emission, in_guide = seen["both"] + seen["emission"], seen["both"] + seen["guide"]
    assert not changed[~near(in_emission, PLANE)].any()
    assert not guide[~near(in_guide, PLANE)].any()
    assert all(changed[near([lesion], PLANE, 0.0)].any() for lesion in in_emission if lesion.diameter > 4)
    assert all(guide[near([lesion], PLANE, 0.0)].any() for lesion in in_guide if lesion.diameter > 4)
    np.testing.assert_array_equal(brain.phantom.attenuation(PLANE, 511), plain.phantom.attenuation(PLANE, 511))


def test_lesions_lie_in_white_matter_and_apart():
    for seed in range(6):
        brain = random_folded_brain(seed, 3, lesions=LesionRecipe(15, 0, 15))
        base = Phantom(random_folded_brain(seed, 3).phantom.regions)
        values = {1.5 * UPTAKES["fdg"]["grey"], 0.5 * UPTAKES["fdg"]["white"]}
        for lesion in brain.lesions:
            assert 2 <= lesion.diameter <= 8
            labels, names = base.labels(
                ImageGrid((3, 3, 3), lesion.diameter / 3.5, np.array(lesion.centre) - lesion.diameter / 3.5)
            )
            assert set(labels[1].ravel()[1::2]) == {names.index("white")}
            assert lesion.activity in ({None} if lesion.seen == "guide" else values)
    hot = [
        lesion.activity == 6 for s in range(40) for lesion in random_folded_brain(s, lesions=LesionRecipe(8)).lesions
    ]
    assert np.mean(hot) == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / 320))


def test_lesions_in_grey_matter():
    brain = random_folded_brain(2, lesions=LesionRecipe(4, diameter=(6, 10), tissue="grey"))
    base = random_folded_brain(2).phantom
    for lesion in brain.lesions:
        labels, names = base.labels(ImageGrid((1, 1, 1), 0.1, lesion.centre))
        assert names[labels[0, 0, 0]] == "grey"


def test_displaced_guides():
    brain = random_folded_brain(6, guide=GuideRecipe(shift=5, turn=4))
    (x, y, z), angle = brain.mismatches.offset, brain.mismatches.angle
    assert max(abs(x), abs(y)) <= 5
    assert 0 < abs(angle) <= 4
    assert z == 0
    straight = random_folded_brain(6)
    np.testing.assert_array_equal(brain.phantom.activity(PLANE), straight.phantom.activity(PLANE))
    assert brain.anatomy == straight.anatomy.moved((x, y, z), angle)
    assert random_folded_brain(6, 3, guide=GuideRecipe(shift=5)).mismatches.offset[2] != 0


def test_bias_and_noise():
    plain, biased = random_folded_brain(6), random_folded_brain(6, guide=GuideRecipe(bias=0.3))
    ratio = biased.guide(PLANE)[plain.guide(PLANE) > 0] / plain.guide(PLANE)[plain.guide(PLANE) > 0]
    assert np.exp(-0.3) - 1e-5 < ratio.min() < 0.97 * ratio.max() < 0.97 * np.exp(0.3) + 1e-5
    noisy = random_folded_brain(6, guide=GuideRecipe(noise=0.05))
    np.testing.assert_array_equal(noisy.guide(PLANE), noisy.guide(PLANE))
    labels, names = plain.anatomy.labels(PLANE)
    assert np.std(noisy.guide(PLANE, 1)[labels == names.index("white")]) == pytest.approx(0.05, rel=0.1)
    background = noisy.guide(PLANE)[:10]
    assert background.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.05)  # Rayleigh


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_folded_brain(0, 4), "2 or 3"),
        (lambda: random_folded_brain(-1), "non-negative integer"),
        (lambda: random_folded_brain(0, 2, "water"), "choose from fdg, amyloid, dat, perfusion"),
        (lambda: LesionRecipe(-1), "both must not be negative"),
        (lambda: LesionRecipe(1, diameter=(3, 2)), "low, high"),
        (lambda: LesionRecipe(1, hot=2), "between 0 and 1"),
        (lambda: LesionRecipe(1, tissue="bone"), "'white' or 'grey'"),
        (lambda: GuideRecipe(noise=-1), "noise must be finite"),
        (lambda: random_folded_brain(0, lesions=LesionRecipe(2, diameter=(60, 70))), "no room for 2 lesions"),
        (lambda: BRAIN.images(PLANE, 511, 0), "at least 1"),
        (lambda: BRAIN.images(PLANE, 0.1), "energy must be"),
    ],
)
def test_errors_name_the_cause(make, message):
    with pytest.raises(ValueError, match=message):
        make()
