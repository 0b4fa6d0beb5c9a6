"""The first sample of every recipe of the library stays what it is: whoever trained on it can make it again."""

import numpy as np
import pytest

from emrecon.projectors import ImageGrid
from emrecon.sims import RecipeSource, load_recipe, recipe_names, source_of

GRID = ImageGrid((24, 24, 1), 18.0)
# of sample 0 on the grid: sum of the activity, mean of the voxels' numbers weighted by it, sum of mu at 140 keV
BODIES = {
    "bone-spect-1-7": (239.623, 285.57, 30.0453),
    "bone-spect-1-7-small": (279.557, 286.245, 33.5348),
    "fdg-levels-small": (182.558, 303.277, 27.8932),
    "brain-pet": (108.344, 282.602, 12.9964),
    "brain-spect": (272.25, 294.024, 13.0011),
    "deeppet": (138.12, 288.238, 30.6994),
    "fbsem": (2543.5, 291.059, 11.294),
    "fdg-levels": (139.993, 287.949, 29.953),
    "deeppet-small": (138.12, 288.238, 30.6994),
    "two-tracers": (138.12, 288.238, 30.6994),
    "spectnet": (83.3745, 284.929, 10.5206),
    "spectnet-small": (83.3745, 284.929, 10.5206),
    "evidence-brain-pet": (76.7976, 299.268, 12.3667),
    "evidence-brain-spect": (84.3245, 295.074, 11.4909),
    "evidence-torso-pet": (181.604, 289.282, 28.6014),
    "evidence-torso-spect": (138.197, 316.759, 31.3649),
    "evidence-bone-spect": (272.821, 294.087, 33.7555),
    "evidence-heart-spect": (389.612, 284.959, 32.1914),
    "evidence-shapes": (79.2372, 281.356, 8.64789),
    "evidence-volume-pet": (90.31, 277.862, 13.8261),
    "evidence-volume-spect": (68.5614, 292.768, 12.2823),
}
# sums of all fields of sample 0, where it is made in a second
SAMPLES = {
    "brain-pet": {
        "counts": 200388,
        "background": 88000.0,
        "factors": 4129.72,
        "truth": 2709.85,
        "mu": 194.946,
        "guide": 1206.96,
        "lesions": 11.125,
    },
    "brain-spect": {
        "counts": 60003,
        "background": 423.573,
        "factors": 316.363,
        "truth": 37425.1,
        "mu": 316.601,
        "guide": 1282.73,
        "lesions": 10.125,
    },
    "spectnet": {"counts": 1937860, "expected": 1937940, "mu": 852.659, "truth": 3128890},
}


def test_every_recipe_is_here():
    assert set(BODIES) == set(recipe_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_first_bodies(name):
    source = source_of(load_recipe(name), reconstruct=lambda scans, table: np.zeros(1))
    phantom = source.draw(0).phantom
    activity = phantom.activity(GRID).astype(float)
    place = (activity * np.arange(activity.size).reshape(activity.shape)).sum() / activity.sum()
    found = activity.sum(), place, phantom.attenuation(GRID, 140.0).sum(dtype=float)
    np.testing.assert_allclose(found, BODIES[name], rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLES)
def test_first_samples(name):
    made = RecipeSource(load_recipe(name)).samples([0])
    for field, total in SAMPLES[name].items():
        assert made[field].sum(dtype=float) == pytest.approx(total, rel=1e-4 if field == "counts" else 1e-5), field
