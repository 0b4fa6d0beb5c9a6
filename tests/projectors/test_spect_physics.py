"""The SPECT projector against physics: mass, widths, profiles, attenuation, symmetry."""

import numpy as np
import pytest
from battery import relative_error
from scipy.ndimage import gaussian_filter1d

from emrecon.projectors import ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector

N = 128


def disc(n, radius, fine=8):
    """A disc of ones with anti-aliased edges, radius in voxels, (n, n, 1)."""
    axis = (np.arange(n * fine) - (n * fine - 1) / 2) / fine
    inside = axis[:, None] ** 2 + axis**2 < radius**2
    return inside.reshape(n, fine, n, fine).mean((1, 3))[..., None]


def chord(radius, sigma, n=N, fine=16):
    """The profile of a disc of ones at bin centres, blurred by a Gaussian; voxel units."""
    u = (np.arange(n * fine) - (n * fine - 1) / 2) / fine
    profile = 2 * np.sqrt(np.maximum(radius**2 - u**2, 0))
    if sigma:
        profile = gaussian_filter1d(profile, sigma * fine, truncate=6)
    return np.interp(np.arange(n) - (n - 1) / 2, u, profile)


@pytest.mark.parametrize("response", [None, LinearResponse(0.02, 2.0)])
def test_a_point_counts_the_same_in_every_view(response):
    grid = ImageGrid((32, 32, 16), 4.0)
    camera = SPECTGeometry.circular(64, 100, (40, 32), 4.0)
    A = SPECTProjector(grid, camera, response=response)
    for index in ((16, 16, 8), (5, 20, 8), (27, 11, 8), (16, 3, 7)):
        x = np.zeros(grid.shape)
        x[index] = 1
        np.testing.assert_allclose(A(x).sum((1, 2)), 1, atol=1e-3)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.5])
def test_uniform_cylinder_matches_the_analytic_profile(sigma):
    camera = SPECTGeometry.circular(60, 250, (N, 1), 4.0)
    A = SPECTProjector(ImageGrid((N, N, 1), 4.0), camera, response=LinearResponse(0.0, 4 * sigma))
    y = A(disc(N, 40))[..., 0]
    assert np.abs(y - chord(40, sigma)).max() < 0.005 * 80


def test_rays_match_the_analytic_profile_without_a_response():
    camera = SPECTGeometry.circular(60, 250, (N, 1), 4.0)
    y = SPECTProjector(ImageGrid((N, N, 1), 4.0), camera, sampling="rays")(disc(N, 40))[..., 0]
    expected = chord(40, 0)
    inside = np.abs(np.arange(N) - (N - 1) / 2) < 0.9 * 40  # the last voxels of the rim are limited by the image itself
    assert np.abs(y / np.maximum(expected, 1) - 1)[:, inside].max() < 0.01
    assert relative_error(y, np.broadcast_to(expected, y.shape)) < 0.006


def point_statistics(sigma, distance, angle, voxel, shift, pixel=4.0, slope=0.02):
    """Total, widths along u and z relative to sigma, peak relative to a Gaussian's, offset in pixels."""
    grid = ImageGrid((41, 41, 33), pixel)
    centre = (np.array(voxel) - 20) * pixel
    a = np.deg2rad(angle)
    radius = distance + centre @ [np.sin(a), np.cos(a)]
    camera = SPECTGeometry(np.array([angle]), radius, (75, 51), pixel, shift=shift)
    slope = min(slope, sigma / distance)
    response = LinearResponse(slope, max(sigma - slope * distance, 0.0))
    x = np.zeros(grid.shape)
    x[voxel[0], voxel[1], 16] = 1
    y = SPECTProjector(grid, camera, response=response)(x)[0]
    (u,), z = camera.bin_centres()
    along_u, along_z, total = y.sum(1), y.sum(0), y.sum()
    mean = along_u @ u / total
    widths = np.sqrt(along_u @ (u - mean) ** 2 / total), np.sqrt(along_z @ z**2 / total)
    true = centre @ [-np.cos(a), np.sin(a)]
    gaussian = np.exp(-((u[:, None] - true) ** 2 + z**2) / (2 * sigma**2)) * pixel**2 / (2 * np.pi * sigma**2)
    return total, widths[0] / sigma, widths[1] / sigma, y.max() / gaussian.max(), (mean - true) / pixel


@pytest.mark.parametrize("distance", [50, 100, 200, 300])
@pytest.mark.parametrize("sigma", [4.0, 5.0, 7.0, 12.0])
def test_a_point_has_the_width_and_peak_of_the_response(distance, sigma):
    rng = np.random.default_rng(int(distance + sigma))
    for angle in (0.0, 17.0, 45.0, 73.0, 211.0):
        voxel, shift = rng.integers(12, 29, 2), rng.uniform(-2, 2)
        total, width_u, width_z, peak, offset = point_statistics(sigma, distance, angle, voxel, shift)
        assert total == pytest.approx(1, abs=1e-3)
        assert width_u == pytest.approx(1, abs=0.01)
        assert width_z == pytest.approx(1, abs=0.01)
        assert peak == pytest.approx(1, abs=0.02)
        assert offset == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("voxel", "pixel"), [(4.0, 3.0), (3.0, 4.0), (2.0, 4.4), (4.0, 4.4)])
def test_widths_hold_for_bins_of_another_size(voxel, pixel):
    grid = ImageGrid((33, 33, 25), voxel)
    camera = SPECTGeometry(np.array([0.0, 33.0, 76.0]), 150, (61, 61), pixel, shift=1.1, axial_shift=0.7)
    response = LinearResponse(0.02, 1.3 * max(voxel, pixel))
    x = np.zeros(grid.shape)
    x[20, 13, 12] = 1
    for view, y in enumerate(SPECTProjector(grid, camera, response=response)(x)):
        u, z = camera.bin_centres()[0][view], camera.bin_centres()[1]
        toward, along = (directions[view] for directions in camera.directions)
        point = np.array([(20 - 16) * voxel, (13 - 16) * voxel])
        sigma = response.sigma(150 - toward @ point)
        assert y.sum() == pytest.approx(1, abs=1e-3)
        assert y.sum(1) @ u == pytest.approx(along @ point, abs=1e-3)
        assert np.sqrt(y.sum(1) @ (u - along @ point) ** 2) == pytest.approx(sigma, rel=0.01)
        assert np.sqrt(y.sum(0) @ z**2) == pytest.approx(sigma, rel=0.01)


def test_attenuation_from_the_centre_of_a_water_cylinder():
    grid, camera = ImageGrid((64, 64, 1), 4.0), SPECTGeometry.circular(60, 150, (64, 1), 4.0)
    A = SPECTProjector(grid, camera, 0.15 * disc(64, 25))
    x = np.zeros(grid.shape)
    x[31:33, 31:33] = 0.25
    np.testing.assert_allclose(A(x).sum((1, 2)), np.exp(-0.15 * 10.0), rtol=0.005)


def test_half_of_the_own_voxel_is_counted():
    grid, camera = ImageGrid((9, 9, 1), 4.0), SPECTGeometry(np.array([0.0]), 50, (9, 1), 4.0)
    mu = np.zeros(grid.shape)
    mu[4, 4] = 0.5
    x = mu / 0.5
    assert SPECTProjector(grid, camera, mu, sampling="rays")(x).sum() == pytest.approx(np.exp(-0.5 * 0.2), rel=1e-6)


def test_attenuation_counts_only_between_source_and_detector():
    grid = ImageGrid((9, 9, 1), 4.0)
    camera = SPECTGeometry(np.array([0.0, 180.0]), 50, (9, 1), 4.0)
    mu, x = np.zeros(grid.shape), np.zeros(grid.shape)
    x[4, 2] = 1  # towards the front, -y
    mu[:, 6] = 0.4  # a wall at the back, +y
    back, front = SPECTProjector(grid, camera, mu, sampling="rays")(x).sum((1, 2))
    assert back == pytest.approx(np.exp(-0.4 * 0.4), rel=1e-6)
    assert front == pytest.approx(1, rel=1e-6)


def test_directions_are_those_of_a_patient():
    grid = ImageGrid((9, 9, 9), 4.0)
    x = np.zeros(grid.shape)
    x[7, 4, 6] = 1  # patient's left (+x), towards the head (+z)
    camera = SPECTGeometry(np.array([0.0, 180.0]), 60, (9, 9), 4.0)  # posterior and anterior view
    posterior, anterior = SPECTProjector(grid, camera)(x)
    assert np.unravel_index(posterior.argmax(), (9, 9)) == (1, 6)  # seen from behind, left is on the left
    assert np.unravel_index(anterior.argmax(), (9, 9)) == (7, 6)


def test_quarter_turns_of_the_image_are_quarter_turns_of_the_camera():
    rng = np.random.default_rng(0)
    grid, x = ImageGrid((16, 16, 3), 4.0), rng.random((16, 16, 3))
    camera = SPECTGeometry(np.array([20.0, 110.0]), 80, (16, 3), 4.0)
    A = SPECTProjector(grid, camera, rng.random((1, 1, 3)) * np.full(grid.shape, 0.3), LinearResponse(0.03, 3.0))
    turned = np.rot90(x, -1)
    np.testing.assert_allclose(A(turned)[1], A(x)[0], rtol=1e-10)


def test_mirrored_images_give_mirrored_views():
    grid, x = ImageGrid((15, 15, 2), 4.0), np.random.default_rng(0).random((15, 15, 2))
    plus, minus = (SPECTGeometry(np.array([angle]), 80, (15, 2), 4.0) for angle in (25.0, -25.0))
    response = LinearResponse(0.03, 3.0)
    there = SPECTProjector(grid, plus, response=response)(x)
    back = SPECTProjector(grid, minus, response=response)(x[::-1])
    np.testing.assert_allclose(back[:, ::-1], there, rtol=1e-10)


def test_counts_that_leave_the_axial_field_are_lost_as_a_gaussian_says():
    from scipy.special import erf

    grid, camera = ImageGrid((9, 9, 12), 4.0), SPECTGeometry(np.array([0.0]), 100, (21, 12), 4.0)
    sigma = 8.0
    A = SPECTProjector(grid, camera, response=LinearResponse(0.0, sigma))
    for k in (0, 1, 3):
        x = np.zeros(grid.shape)
        x[4, 4, k] = 1
        edge = (k + 0.5) * 4.0 / (np.sqrt(2) * sigma)
        assert A(x).sum() == pytest.approx(0.5 * (1 + erf(edge)), abs=5e-3)


def test_detector_shift_moves_the_picture():
    grid = ImageGrid((15, 15, 1), 4.0)
    x = np.zeros(grid.shape)
    x[7, 7] = 1
    camera = SPECTGeometry(np.zeros(2), 80, (15, 1), 4.0, shift=np.array([0.0, 8.0]))
    y = SPECTProjector(grid, camera)(x)[..., 0]
    np.testing.assert_allclose(y[1, :-2], y[0, 2:], atol=1e-12)
