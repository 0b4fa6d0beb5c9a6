"""Torsos and shapes whose guides do not tell the activity: organs, lesions, defects, what each image shows."""

import numpy as np
import pytest

from emrecon.projectors import ImageGrid
from emrecon.sims import (
    BodyGuideVariety,
    BodyLesions,
    ShapeVariety,
    TorsoVariety,
    load_recipe,
    random_varied_shapes,
    random_varied_torso,
)
from emrecon.sims.phantoms.bodies import UPTAKES

GRID = ImageGrid((48, 48, 1), 10.0)
NONE = BodyLesions((0, 0), guide_only=(0, 0))
STILL = BodyGuideVariety(0, 0, 0, 0, ("ct",), 0)
PLAIN = TorsoVariety(smooth=0, texture=0)


def activity_of(body, name):
    return next(region.activity for region in body.phantom.phantom.regions if region.name == name)


def test_every_organ_has_its_own_factor():
    bodies = [random_varied_torso(seed, 2, TorsoVariety("lu-177", 3.0, 0, 0), NONE, STILL) for seed in range(30)]
    logs = np.log(
        [
            [activity_of(b, n) / UPTAKES["lu-177"][n.split()[-1]] for n in ("liver", "left kidney", "right kidney")]
            for b in bodies
        ]
    )
    assert np.abs(logs).max() <= np.log(3) + 1e-6
    assert logs.std(0).min() > 0.4, "even in the logarithm: ln 3 / sqrt 3"
    assert np.abs(np.corrcoef(logs.T) - np.eye(3)).max() < 0.5, "independent, kidneys by side too"


def test_lesions_lie_in_their_organs_and_the_plane():
    variety = BodyLesions((3, 3), in_guide=0.5, guide_only=(1, 1), diameter=(15.0, 20.0), hot=0.5)
    bodies = [random_varied_torso(seed, 2, PLAIN, variety, STILL) for seed in range(12)]
    marked = [(b, m) for b in bodies for m in b.phantom.lesions]
    assert len(marked) >= 40
    assert all(m.centre[2] == 0 for _, m in marked)
    assert 0.25 < np.mean([m.in_guide for _, m in marked if m.in_emission]) < 0.75
    for body, lesion in marked:
        below = [r for r in body.phantom.phantom.regions if "lesion" not in r.name and r.shape.contains(*lesion.centre)]
        assert below[-1].name in ("liver", "left lung", "right lung", "body", "spine", "spleen")
        if lesion.in_emission:
            ratio = activity_of(body, lesion.name) / below[-1].activity
            assert (ratio >= 1.49) if lesion.hot else (ratio <= 0.61)
        else:
            assert lesion.name not in body.phantom.names
        assert lesion.in_guide == (lesion.name in [r.name for r in body.guide.anatomy.regions])


def test_guides_show_attenuation_or_intensities_of_their_own():
    ct = random_varied_torso(1, 2, PLAIN, NONE, STILL)
    image, mu = ct.guide(GRID), ct.phantom.attenuation(GRID, 70.0)
    np.testing.assert_allclose(image / image.max(), mu / mu.max(), atol=1e-4)
    mr = random_varied_torso(1, 2, PLAIN, NONE, BodyGuideVariety(0, 0, 0.2, 0.01, ("mr",), 0)).guide(GRID)
    assert np.corrcoef(mr.ravel(), image.ravel())[0, 1] < 0.99
    absent = random_varied_torso(1, 2, PLAIN, NONE, BodyGuideVariety(absent=1.0))
    assert np.ptp(absent.guide(GRID)) == 0
    assert absent.about["contrast"] == "absent"
    moved = random_varied_torso(1, 2, PLAIN, NONE, BodyGuideVariety(5, 0, 0, 0, ("ct",), 0))
    assert 0 < np.abs(moved.guide.offset).max() <= 5


def test_defects_of_the_myocardium_are_not_in_the_guide():
    variety = TorsoVariety("tc-99m", defects=(2, 2), slices=(95.0, 115.0))
    body = random_varied_torso(3, 2, variety, NONE, BodyGuideVariety(0, 0, 0, 0, ("mr",), 0))
    assert [m.name for m in body.phantom.lesions] == ["defect 1", "defect 2"]
    assert all(not m.in_guide and m.hot is False for m in body.phantom.lesions)
    assert not [r.name for r in body.guide.anatomy.regions if r.name.startswith("defect")]
    wall = max(r.activity for r in body.phantom.phantom.regions if r.name == "basal anterior")
    assert activity_of(body, "defect 1") < 0.95 * wall


def test_shapes_of_one_image_alone():
    variety = ShapeVariety((10, 10), emission_only=0.4, guide_only=0.3, smooth=0, texture=0)
    bodies = [
        random_varied_shapes(seed, 2, variety, NONE, BodyGuideVariety(0, 0, 0, 0, ("mr",), 0)) for seed in range(30)
    ]
    emission = [set(b.phantom.names[2:]) for b in bodies]
    guide = [{r.name for r in b.guide.anatomy.regions} - {"body"} for b in bodies]
    only_emission, only_guide = (
        np.mean([len(a - b) / 10 for a, b in pairs]) for pairs in (zip(emission, guide), zip(guide, emission))
    )
    assert only_emission == pytest.approx(0.4, abs=0.1)
    assert only_guide == pytest.approx(0.3, abs=0.1)
    kinds = {name.split()[0] for names in emission for name in names}
    assert kinds == {"ellipse", "blob", "polygon"}
    activities = np.log([r.activity for b in bodies for r in b.phantom.phantom.regions if r.name != "body"])
    assert np.log(0.2) <= activities.min() < np.log(0.3)
    assert np.log(4.5) < activities.max() <= np.log(6)


def test_shapes_are_solid_in_volumes_too():
    body = random_varied_shapes(2, 3, ShapeVariety((6, 6)), NONE, STILL)
    image = body.phantom.activity(ImageGrid((20, 20, 20), 12.0))
    assert image[..., 0].max() == 0
    assert image[..., 10].max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorsoVariety("fdgg"), "unknown uptake 'fdgg'; choose from"),
        (lambda: TorsoVariety(spread=0.5), "spread must be from 1 to 10"),
        (lambda: TorsoVariety(slices=(5.0, -5.0)), "slices must be a range"),
        (lambda: BodyLesions(hot=2.0), "hot is a part"),
        (lambda: BodyLesions((5, 1)), "number must be a range"),
        (lambda: BodyGuideVariety(contrasts=("us",)), "unknown contrasts"),
        (lambda: ShapeVariety(emission_only=0.7, guide_only=0.7), "exceed"),
        (lambda: random_varied_torso(0, 1), "dimensions must be 2 or 3"),
        (lambda: random_varied_shapes(-1), "non-negative"),
    ],
)
def test_what_cannot_be_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["evidence-torso-spect", "evidence-heart-spect", "evidence-shapes"])
def test_recipes_say_what_they_draw(name):
    drawn = load_recipe(name).phantom.draw(5, True)
    assert drawn.about["contrast"] in ("ct", "mr", "absent")
    assert drawn.phantom.names[0] == "outside"
