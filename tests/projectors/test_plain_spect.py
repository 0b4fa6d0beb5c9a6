"""The SPECT projector against the same sum written plainly in NumPy."""

import numpy as np
import pytest
from plain_spect import plain_spect

from emrecon.projectors import ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector

GRID = ImageGrid((9, 8, 5), (4.0, 4.0, 5.0))
# Any angles, a radius for each view, a detector off the axis; bins and rows coincide with columns and slices.
GEOMETRY = SPECTGeometry([0, 33, 90, 211.5], [110, 95, 120, 104], (14, 7), (4.0, 5.0), shift=[0, 3, -1.3, 0])
RESPONSE = LinearResponse(0.04, 4.0)  # sigma of 7 to 10 mm here: at least 1.4 samples along u and z


def images():
    """Activity everywhere, and a single voxel, which shows the shape of the response."""
    point = np.zeros(GRID.shape)
    point[2, 5, 3] = 1
    return {"everywhere": np.random.default_rng(0).random(GRID.shape), "point": point}


@pytest.fixture(params=["no attenuation", "attenuation"])
def attenuation(request):
    return np.random.default_rng(1).uniform(0, 0.6, GRID.shape) if request.param == "attenuation" else None


def largest_error(projector, image, response=None):
    """The largest difference from the plain sum, as a share of the largest count of its view."""
    expected = plain_spect(image, GRID, GEOMETRY, projector.attenuation, response)
    return np.max(np.abs(projector(image) - expected) / expected.max(axis=(1, 2), keepdims=True))


@pytest.mark.parametrize("image", images().values(), ids=images())
def test_without_a_response_it_is_the_plain_sum(image, attenuation):
    # Both compute the same sum: only the order of its terms differs, hence rounding in float64.
    assert largest_error(SPECTProjector(GRID, GEOMETRY, attenuation), image) < 1e-12


@pytest.mark.parametrize("image", images().values(), ids=images())
def test_a_direct_blur_is_the_plain_sum(image, attenuation):
    # The kernels have the variance and the fourth cumulant of a Gaussian in bins; what is left is of sixth order, and
    # largest for a single voxel.
    projector = SPECTProjector(GRID, GEOMETRY, attenuation, RESPONSE, blur="direct")
    assert largest_error(projector, image, RESPONSE) < 3e-4


@pytest.mark.parametrize("image", images().values(), ids=images())
def test_planes_that_share_their_blur_are_nearly_the_plain_sum(image, attenuation):
    # A plane between two levels is a mixture of two Gaussians with the right variance, made of kernels of five taps:
    # the plan promises a point's peak within 2 % of a Gaussian's. What is wide is better, which 1 % leaves room for.
    projector = SPECTProjector(GRID, GEOMETRY, attenuation, RESPONSE, blur="planes")
    assert largest_error(projector, image, RESPONSE) < 0.01
