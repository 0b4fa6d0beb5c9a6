"""Widths of peaks by parabola and straight lines, points in images, and the profile of a blurred sphere."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emrecon.projectors import ImageGrid
from emrecon.recon import Sphere, blurred_sphere, centroid, peak_width, point_response, region_of, sphere_profile

TO_FWHM = 2 * np.sqrt(2 * np.log(2))
GRID = ImageGrid((41, 37, 33), (1.0, 1.2, 1.5))


def gaussian(place, fwhm, grid=GRID):
    parts = [np.exp(-0.5 * ((c - p) * TO_FWHM / w) ** 2) for c, p, w in zip(grid.coordinates(), place, fwhm)]
    return parts[0] * parts[1] * parts[2]


def test_lines_and_parabola_by_hand():
    # top 4 between 2 and 3: vertex at +1/6 with 4 + 1/24; half 2.0208 and tenth 0.404 lie on straight lines
    found = peak_width([0, 0, 2, 4, 3, 0, 0], 2.0, first=10.0)
    top = 4 + 1 * (1 / 6) / 4
    left, right = (top / 2) / 2, 1 + (3 - top / 2) / 3  # both crossings of half, in samples from sample 1 and from 3
    assert found.position == pytest.approx(10 + 2 * (3 + 1 / 6))
    assert found.fwhm == pytest.approx(2 * ((3 - (1 + 0)) - left + right))
    tenth = top / 10
    assert found.fwtm == pytest.approx(2 * ((3 - 1) - tenth / 2 + 1 + (3 - tenth) / 3))


def test_a_gaussian_has_its_widths():
    x = np.arange(-30, 31) * 0.5
    found = peak_width(np.exp(-0.5 * ((x - 0.2) * TO_FWHM / 5.0) ** 2), 0.5, first=x[0])
    assert found.position == pytest.approx(0.2, abs=5e-3)
    assert (found.fwhm, found.fwtm) == pytest.approx((5.0, 5.0 * np.sqrt(np.log(10) / np.log(2))), rel=1e-2)


@pytest.mark.parametrize(
    ("profile", "words"),
    [([3, 2, 1], "at its end"), ([0, 3, 2], "does not fall"), ([-3, -1, -2], "positive"), ([1, 2], "3 or more")],
)
def test_profiles_without_a_peak_are_refused(profile, words):
    with pytest.raises(ValueError, match=words):
        peak_width(profile, 1.0)


def test_a_point_in_an_image():
    image = gaussian((3.3, -2.1, 0.4), (5.0, 6.0, 8.0)) + 0.6 * gaussian((-15, 10, 15), (4.0, 4.0, 4.0))
    found = point_response(image, GRID, (3, -2, 0), reach=16)
    assert found.position == pytest.approx((3.3, -2.1, 0.4), abs=0.03)
    assert found.fwhm == pytest.approx((5, 6, 8), rel=0.02)
    assert found.fwtm == pytest.approx(np.sqrt(np.log(10) / np.log(2)) * np.array([5, 6, 8]), rel=0.02)
    radial, tangential = found.radial_tangential((3.0, 8.0))
    assert (radial.fwhm, tangential.fwhm) == (found.fwhm[1], found.fwhm[0])
    with pytest.raises(ValueError, match="neither along x nor along y"):
        found.radial_tangential((0.0, 0.0))
    with pytest.raises(ValueError, match="fewer than 3 voxels"):
        point_response(image, GRID, (0, 0, 90))


def test_the_centroid_of_a_marker():
    image = gaussian((3.3, -2.1, 0.4), (5.0, 5.0, 5.0))
    assert centroid(image, GRID, (3, -2, 0)) == pytest.approx((3.3, -2.1, 0.4), abs=0.02)
    with pytest.raises(ValueError, match="reaches out"):
        centroid(image, GRID, (15, 0, 0))


def test_the_profile_is_that_of_a_blurred_painted_sphere():
    grid = ImageGrid((61, 61, 61), 1.0)
    hot, shell = (region_of("", Sphere((0, 0, 0), d), grid).weights for d in (22.0, 24.0))
    image = gaussian_filter(4 * hot + (1 - shell), 6.0 / TO_FWHM, truncate=6)
    x = np.arange(31.0)
    assert image[30, 30, 30:] == pytest.approx(blurred_sphere(x, 11.0, 6.0, 4.0, 1.0, 1.0), abs=0.02)
    found = sphere_profile(image, grid, Sphere((0, 0, 0), 22.0), 1.0, wall=1.0)
    assert (found.radius, found.fwhm, found.activity) == pytest.approx((11, 6, 4), rel=0.02)
    assert found.maximum == image.max()
    high = image[image >= 1 + 0.5 * (image.max() - 1)]
    assert found.isocontour == pytest.approx(high.mean())
    fixed = sphere_profile(image, grid, Sphere((0, 0, 0), 22.0), 1.0, fixed_radius=True)
    assert fixed.radius == 11
    with pytest.raises(ValueError, match="reach out"):
        sphere_profile(image, grid, Sphere((20, 0, 0), 22.0), 1.0)


def test_the_profile_is_smooth_at_the_centre():
    at = blurred_sphere([0.0, 1e-9, 1e-3], 5.0, 6.0, 4.0, 1.0, 1.0)
    assert at[1:] == pytest.approx(at[0], rel=1e-6)
