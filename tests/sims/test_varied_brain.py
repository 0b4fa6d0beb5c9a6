"""Brains whose guide does not tell the activity: what is drawn, fields inside tissues, labels, lesions, guides."""

import numpy as np
import pytest

from emrecon.projectors import ImageGrid
from emrecon.sims import (
    BrainVariety,
    Cylinder,
    GuideVariety,
    LesionVariety,
    Lobes,
    Modulated,
    Phantom,
    Region,
    SmoothField,
    Spot,
    random_varied_brain,
)
from emrecon.sims.phantoms.brain import head
from emrecon.sims.phantoms.fields import random_texture

GRID = ImageGrid((48, 48, 1), 5.0)
NO_LESIONS = LesionVariety(both=(0, 0), emission_only=(0, 0), guide_only=(0, 0))
STILL = GuideVariety(shift=0, turn=0, bias=0, noise=0, jitter=0, missing=0, absent=0, contrasts=("t1",))
FLAT = BrainVariety(lobes=0, asymmetry=0, reduced=(0, 0), smooth=0, texture=0)


def test_without_variety_activity_is_that_of_the_regions():
    brain = random_varied_brain(3, 2, FLAT, NO_LESIONS, STILL)
    np.testing.assert_allclose(brain.phantom.activity(GRID), brain.phantom.phantom.activity(GRID), atol=1e-5)
    activity, mu = brain.phantom.painted(GRID, 511.0)
    np.testing.assert_allclose(activity, brain.phantom.activity(GRID))
    np.testing.assert_allclose(mu, brain.phantom.attenuation(GRID, 511.0), atol=1e-6)


def test_fields_multiply_what_is_painted():
    bump = SmoothField(spots=(Spot((30.0, 0.0, 0.0), (25.0, 25.0, 25.0), 0.4, 4.0),))
    plain = Phantom(
        (Region("body", Cylinder((0, 0, 0), 90.0), 2.0, "water"), Region("core", Cylinder((0, 0, 0), 20.0), 5.0))
    )
    image, x = Modulated(plain, {"body": bump}).activity(GRID)[..., 0], GRID.coordinates()[0].ravel()
    assert image[24, 24] == 5.0, "another region keeps its own"
    middle, far = int(np.abs(x - 30).argmin()), int(np.abs(x + 60).argmin())
    assert image[middle, 24] == pytest.approx(2 * bump(x[middle], 2.5, 0.0), rel=1e-5)
    assert image[middle, 24] == pytest.approx(0.8, abs=0.02)
    assert image[far, 24] == pytest.approx(2.0, abs=1e-3)


def test_strength_of_textures_and_softness_of_lobes():
    waves, sigma = random_texture(np.random.default_rng(0), {14.0: 0.1, 40.0: 0.2})
    points = np.random.default_rng(1).uniform(-500, 500, (3, 20000))
    assert sigma == pytest.approx(np.hypot(0.1, 0.2))
    assert np.log(SmoothField(waves=waves, strength=sigma)(*points)).std() == pytest.approx(sigma, rel=0.1)
    two = Lobes(("left", "right"), ((40.0, 0.0, 0.0), (-40.0, 0.0, 0.0)), (1.0, 0.5), 9.0)
    assert two(0.0, 0.0, 0.0) == pytest.approx(0.75)
    assert two(30.0, 5.0, 0.0) == pytest.approx(1.0, abs=1e-3)
    assert two.nearest(np.array([5.0, -5.0]), 0.0, 0.0).tolist() == [0, 1]


def test_ratio_of_grey_and_white_is_even_in_its_logarithm():
    shapes = [random_varied_brain(seed, 2, FLAT, NO_LESIONS, STILL).uptake for seed in range(120)]
    logs = np.log([uptake["grey"] / uptake["white"] for uptake in shapes])
    assert np.log(1.5) <= logs.min() < np.log(1.7)
    assert np.log(5.2) < logs.max() <= np.log(6)
    assert logs.mean() == pytest.approx(np.log(3), abs=0.12)


def test_families_of_tracers():
    drawn = [random_varied_brain(s, 2, BrainVariety(("amyloid", "dat")), NO_LESIONS, STILL) for s in range(40)]
    amyloid = [b.uptake for b in drawn if b.tracer == "amyloid"]
    dat = [b.uptake for b in drawn if b.tracer == "dat"]
    assert min(len(amyloid), len(dat)) > 8
    assert np.mean([u["white"] > u["grey"] for u in amyloid]) > 0.3
    assert all(u["left putamen"] >= 1 and u["right caudate"] >= 1 for u in dat)
    sides = [abs(np.log(u["left putamen"] / u["right putamen"])) for u in dat]
    assert max(sides) > 0.5, "some lose one side"


def test_lobes_differ_by_side_and_labels_tell_them_apart():
    brain = random_varied_brain(1, 2, BrainVariety(lobes=0.3, asymmetry=0.3), NO_LESIONS, STILL)
    labels, names = brain.phantom.labels(GRID)
    assert names == brain.phantom.names
    assert {"left frontal grey", "right occipital grey", "left putamen", "white"} <= set(names)
    x = GRID.coordinates()[0] + 0 * labels
    present = [name for name in names if name.endswith("frontal grey") and (labels == names.index(name)).any()]
    assert set(present) == {"left frontal grey", "right frontal grey"}
    for side, sign in (("left", 1), ("right", -1)):
        assert np.sign(x[labels == names.index(f"{side} frontal grey")].mean()) == sign, "left is +x"
    assert not (labels == names.index("grey")).any(), "every voxel of grey matter has a lobe"


def test_anatomy_is_that_of_the_folded_brain():
    shapes, _ = head(7, 2)
    assert [region.shape for region in random_varied_brain(7, 2, FLAT, NO_LESIONS, STILL).phantom.phantom.regions] == [
        shape for _, shape in shapes
    ]


def test_lesions_are_hot_or_cold_whatever_the_guide_shows():
    variety = LesionVariety(both=(1, 1), emission_only=(1, 1), guide_only=(1, 1), hot=0.5, diameter=(8.0, 12.0))
    brains = [random_varied_brain(seed, 2, FLAT, variety, STILL) for seed in range(25)]
    marked = [lesion for brain in brains for lesion in brain.lesions]
    assert len(marked) == 75
    assert {(m.in_emission, m.in_guide) for m in marked} == {(True, True), (True, False), (False, True)}
    assert all((m.hot is None) == (not m.in_emission) for m in marked)
    intensities = {True: [], False: []}
    for brain in brains:
        for lesion, drawn in zip(brain.lesions, brain.anatomy.lesions):
            assert lesion.diameter == drawn.diameter
            if lesion.hot is not None:
                below = [r for r in brain.phantom.phantom.regions if "lesion" not in r.name][::-1]
                around = next(r.activity for r in below if r.shape.contains(*lesion.centre))
                assert (drawn.activity > 1.49 * around) if lesion.hot else (drawn.activity <= 0.61 * around)
            if lesion.hot is not None and lesion.in_guide:
                intensities[lesion.hot].append(drawn.intensity)
    assert abs(np.mean(intensities[True]) - np.mean(intensities[False])) < 0.4


def test_guides_of_many_contrasts_some_without_a_border():
    variety = GuideVariety(0, 0, 0, 0, ("t1", "t2"), 0.0, missing=0.5, absent=0.2)
    drawn = [random_varied_brain(seed, 2, FLAT, NO_LESIONS, variety) for seed in range(40)]
    assert {brain.missing for brain in drawn} == {"", "cortex", "nuclei"}
    assert {brain.contrast for brain in drawn} == {"t1", "t2", "absent"}
    absent = next(brain for brain in drawn if brain.contrast == "absent")
    assert np.ptp(absent.guide(GRID)) == 0
    for brain in drawn:
        value = {region.name: region.activity for region in brain.anatomy.anatomy.regions}
        assert (value["grey"] == value["white"]) == (brain.missing == "cortex")
        assert (value["putamen"] == value["white"]) == (brain.missing == "nuclei")


def test_displacement_is_known():
    still = random_varied_brain(2, 2, FLAT, NO_LESIONS, STILL)
    moved = random_varied_brain(2, 2, FLAT, NO_LESIONS, GuideVariety(3, 3, 0, 0, ("t1",), 0, 0, 0))
    assert 0 < np.abs(moved.mismatches.offset).max() <= 3
    assert still.mismatches.offset == (0, 0, 0)
    assert np.array_equal(moved.phantom.activity(GRID), still.phantom.activity(GRID))
    assert not np.array_equal(moved.guide(GRID), still.guide(GRID))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BrainVariety(("ffdg",)), "unknown tracers.*choose"),
        (lambda: BrainVariety(ratio=(6.0, 1.5)), "ratio must be a range"),
        (lambda: BrainVariety(depth=(0.5, 1.5)), "depth must be a range"),
        (lambda: BrainVariety(lobes=-0.1), "lobes must be from 0 to 1"),
        (lambda: LesionVariety(hot=1.5), "hot is a part"),
        (lambda: LesionVariety(tissue="bone"), "tissue must be"),
        (lambda: GuideVariety(contrasts=()), "choose one or more"),
        (lambda: GuideVariety(missing=0.7, absent=0.7), "more than 1"),
        (lambda: Spot((0, 0, 0), (1, 1, 0), 0.5, 1), "positive radii"),
        (lambda: random_varied_brain(0, 4), "dimensions must be 2 or 3"),
        (lambda: random_varied_brain(0, 2, FLAT, LesionVariety(both=(20, 20), diameter=(30, 30))), "no room for"),
    ],
)
def test_what_cannot_be_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
