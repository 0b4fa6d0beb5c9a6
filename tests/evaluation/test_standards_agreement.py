"""NEMA image quality equals ChameleonIQ, and profiles of spheres equal pynemaiqpet, on one image made here."""

import numpy as np
import pytest

from emrecon.evaluation.standards import SAMPLE_GRID, sample_image, snapped_layout
from emrecon.projectors import ImageGrid
from emrecon.recon import ImageQualityLayout, Sphere, nema_image_quality, sphere_profile
from emrecon.sims import nema_layout

# ChameleonIQ 3.0.1 on `sample_image()` in float32, as `benchmarks/agreement_nema.py` runs it; it prints two decimals
CHAMELEONIQ = {  # mm: contrast, background variability (%)
    37: (84.26, 0.58),
    28: (82.60, 0.77),
    22: (75.07, 0.97),
    17: (63.81, 1.21),
    13: (53.76, 1.46),
    10: (42.28, 1.73),
}
N_REGIONS = 60

# pynemaiqpet 0.5.4 on the same image: the part of it that it cut out for each sphere and the centre that it found there
BACKGROUND = 5.298679694179298
PYNEMAIQPET = {  # mm: start and end of the part, centre in mm from its first voxel, and the fit to six digits
    37: (
        [(94, 125), (65, 96), (41, 72)],
        (57.213443, 0.008954, -0.027650),
        (18.5205, 6.09551, 21.1133, 18.9517, 18.1368, 21.4278),
    ),
    28: (
        [(82, 108), (43, 69), (44, 70)],
        (28.575820, -49.505107, 0.037890),
        (13.9964, 6.16031, 21.2678, 18.3638, 17.3545, 21.5054),
    ),
    22: (
        [(55, 78), (44, 67), (45, 69)],
        (-28.611574, -49.579386, 0.001347),
        (10.9971, 6.16643, 21.2809, 17.6705, 16.2725, 21.3144),
    ),
    17: (
        [(42, 62), (70, 91), (47, 67)],
        (-57.275168, 0.149051, 0.021113),
        (8.49708, 6.14514, 21.127, 16.5811, 14.8203, 20.8144),
    ),
    13: (
        [(57, 75), (96, 114), (48, 66)],
        (-28.745012, 49.584752, 0.080127),
        (6.47151, 6.33068, 21.8601, 15.0386, 13.3091, 19.3673),
    ),
    10: (
        [(87, 103), (97, 114), (49, 65)],
        (28.737720, 49.779474, 0.028286),
        (5.01874, 6.23718, 21.9727, 12.3705, 11.562, 15.7889),
    ),
}
FITTED = ("radius", "fwhm", "activity", "isocontour", "mean", "maximum")


@pytest.fixture(scope="module")
def image():
    """What the programs were given: NIfTI holds float32."""
    return sample_image().astype(np.float32).astype(float)


def test_image_quality_equals_chameleoniq_to_its_last_digit(image):
    """Its way: whole pixels, the highest mean within 10 voxels, and a standard deviation over 60, not 59."""
    found = nema_image_quality(image, SAMPLE_GRID, snapped_layout(), pixels="whole", search=20.0)
    for sphere in found.spheres:
        contrast, variability = CHAMELEONIQ[sphere.diameter]
        assert sphere.contrast == pytest.approx(contrast, abs=0.0051)
        assert sphere.variability * np.sqrt((N_REGIONS - 1) / N_REGIONS) == pytest.approx(variability, abs=0.0051)


def test_the_standard_differs_from_it_by_parts_of_pixels(image):
    """So much do whole pixels of 2 mm and centres on pixels matter: up to 3 per cent of contrast."""
    found = nema_image_quality(image, SAMPLE_GRID, ImageQualityLayout(**nema_layout()))
    apart = [abs(sphere.contrast - CHAMELEONIQ[sphere.diameter][0]) for sphere in found.spheres]
    assert 0.5 < max(apart) < 3
    noise = [abs(sphere.variability / CHAMELEONIQ[sphere.diameter][1] - 1) for sphere in found.spheres]
    assert max(noise) < 0.03


@pytest.mark.parametrize("diameter", PYNEMAIQPET)
def test_profiles_of_spheres_equal_pynemaiqpet(image, diameter):
    box, centre, theirs = PYNEMAIQPET[diameter]
    start, size = np.array([a for a, _ in box]), np.array(SAMPLE_GRID.voxel_size)
    part = image[tuple(slice(a, b) for a, b in box)]
    grid = ImageGrid(part.shape, SAMPLE_GRID.voxel_size, tuple(SAMPLE_GRID.origin + start * size))
    reach = (min(part.shape) - 1) * 2.0 / 2
    ours = sphere_profile(part, grid, Sphere(centre, diameter), BACKGROUND, wall=1.0, reach=reach)
    assert [getattr(ours, name) for name in FITTED] == pytest.approx(theirs, rel=2e-5)
