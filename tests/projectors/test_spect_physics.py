"""The SPECT projector against physics: mass, widths, profiles, attenuation, symmetry."""

import numpy as np
import pytest
from battery import relative_error
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.special import erf

from emrecon.projectors import AcquisitionModel, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.recon import PoissonLikelihood, osem, run

N = 128


def disc(n, radius, fine=8):
    """A disc of ones with anti-aliased edges, radius in voxels, (n, n, 1)."""
    axis = (np.arange(n * fine) - (n * fine - 1) / 2) / fine
    inside = axis[:, None] ** 2 + axis**2 < radius**2
    return inside.reshape(n, fine, n, fine).mean((1, 3))[..., None]


def chord(radius, sigma, n=N, fine=17):
    """The profile of a disc of ones, blurred by a Gaussian, in bins; voxel units."""
    u = (np.arange(n * fine) - (n * fine - 1) / 2) / fine
    profile = 2 * np.sqrt(np.maximum(radius**2 - u**2, 0))
    if sigma:
        profile = uniform_filter1d(gaussian_filter1d(profile, sigma * fine, truncate=6), fine)
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


def in_bins(distance, sigma, bin_size):
    """The integrals of a Gaussian over bins whose centres are `distance` away."""
    edges = (np.asarray(distance)[..., None] + bin_size * np.array([-0.5, 0.5])) / (np.sqrt(2) * sigma)
    return np.diff(erf(edges))[..., 0] / 2


def point_statistics(sigma, distance, angle, voxel, shift, pixel=4.0, slope=0.02, blur="planes"):
    """Total, widths along u and z and peak relative to a Gaussian's that the camera sees in bins, offset in pixels."""
    grid = ImageGrid((41, 41, 33), pixel)
    centre = (np.array(voxel) - 20) * pixel
    a = np.deg2rad(angle)
    radius = distance + centre @ [np.sin(a), np.cos(a)]
    camera = SPECTGeometry(np.array([angle]), radius, (75, 51), pixel, shift=shift)
    slope = min(slope, sigma / distance)
    response = LinearResponse(slope, max(sigma - slope * distance, 0.0))
    x = np.zeros(grid.shape)
    x[voxel[0], voxel[1], 16] = 1
    y = SPECTProjector(grid, camera, response=response, blur=blur)(x)[0]
    (u,), z = camera.bin_centres()
    along_u, along_z, total = y.sum(1), y.sum(0), y.sum()
    mean = along_u @ u / total
    widths = np.sqrt(along_u @ (u - mean) ** 2 / total), np.sqrt(along_z @ z**2 / total)
    true = centre @ [-np.cos(a), np.sin(a)]
    seen = np.outer(in_bins(u - true, sigma, pixel), in_bins(z, sigma, pixel))
    full = np.sqrt(sigma**2 + pixel**2 / 12)
    return total, widths[0] / full, widths[1] / full, y.max() / seen.max(), (mean - true) / pixel


@pytest.mark.parametrize("distance", [50, 100, 200, 300])
@pytest.mark.parametrize("sigma", [4.0, 5.0, 7.0, 12.0])
def test_a_point_has_the_width_and_peak_of_the_response_in_bins(distance, sigma):
    rng = np.random.default_rng(int(distance + sigma))
    for angle in (0.0, 17.0, 45.0, 73.0, 211.0):
        voxel, shift = rng.integers(12, 29, 2), rng.uniform(-2, 2)
        total, width_u, width_z, peak, offset = point_statistics(sigma, distance, angle, voxel, shift)
        assert total == pytest.approx(1, abs=1e-3)
        assert width_u == pytest.approx(1, abs=0.01)
        assert width_z == pytest.approx(1, abs=0.01)
        assert peak == pytest.approx(1, abs=0.02)
        assert offset == pytest.approx(0, abs=1e-6)


def test_a_direct_blur_has_the_width_and_peak_of_the_response_in_bins():
    total, width_u, width_z, peak, offset = point_statistics(5.0, 150, 17.0, (23, 15), 0.9, blur="direct")
    assert (total, width_u, width_z) == pytest.approx((1, 1, 1), abs=1e-3)
    assert peak == pytest.approx(1, abs=0.01)
    assert offset == pytest.approx(0, abs=1e-6)


def test_without_the_aperture_a_bin_samples_the_response():
    grid, camera = ImageGrid((33, 33, 21), 4.0), SPECTGeometry([0.0, 30.0], 100.0, (61, 41), 4.0)
    x = np.zeros(grid.shape)
    x[16, 16, 10] = 1
    for aperture, expected in ((True, np.sqrt(36 + 16 / 12)), (False, 6.0)):
        A = SPECTProjector(grid, camera, response=LinearResponse(0.0, 6.0), aperture=aperture)
        for view in A(x):
            along_u, along_z = view.sum(1), view.sum(0)
            for line, place in ((along_u, camera.bin_centres()[0][0]), (along_z, camera.bin_centres()[1])):
                assert np.sqrt(line @ place**2) == pytest.approx(expected, rel=1e-3)
        assert str(A).endswith("threads; CUDA for CuPy arrays and CUDA tensors")
        assert ("sample it" in str(A)) != aperture


@pytest.mark.parametrize("blur", ["planes", "direct"])
@pytest.mark.parametrize(
    ("voxel", "pixel", "rows", "axial_shift"),
    [((2, 2, 12), (2, 12), 9, 6), ((2, 2, 4), (2, 10), 11, 0), ((2, 6, 2), (2, 2), 33, 0), ((4, 4, 5), (4, 10), 11, 0)],
)
def test_a_coarse_axis_does_not_blur_the_fine_one(voxel, pixel, rows, axial_shift, blur):
    grid = ImageGrid((33, 33, 9), voxel)
    camera = SPECTGeometry([0.0], 100.0, (65, rows), pixel, axial_shift=axial_shift)
    x = np.zeros(grid.shape)
    x[16, 16, 4] = 1
    sigma = 1.5 * pixel[0]
    view = SPECTProjector(grid, camera, response=LinearResponse(0.0, sigma), blur=blur)(x)[0]
    u, line = camera.bin_centres()[0][0], view.sum(1)
    assert np.sqrt(line @ u**2 / line.sum()) == pytest.approx(np.sqrt(sigma**2 + pixel[0] ** 2 / 12), rel=2e-3)


def test_voxels_longer_than_the_bins_look_even():
    grid, camera = ImageGrid((60, 24, 1), (2.0, 5.0, 2.0)), SPECTGeometry([0.0, 60.0, 90.0], 100.0, (30, 1), 2.0)
    for response in (None, LinearResponse(0.0, 3.0)):
        y = SPECTProjector(grid, camera, response=response)(np.ones(grid.shape))[:, 10:20, 0]
        assert np.ptp(y, axis=1).max() < 0.03 * y.min()


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
        full = np.hypot(sigma, pixel / np.sqrt(12))
        assert np.sqrt(y.sum(1) @ (u - along @ point) ** 2) == pytest.approx(full, rel=0.01)
        assert np.sqrt(y.sum(0) @ z**2) == pytest.approx(full, rel=0.01)


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
    grid, camera = ImageGrid((9, 9, 32), 4.0), SPECTGeometry(np.array([0.0]), 100, (21, 12), 4.0)
    sigma = 8.0
    A = SPECTProjector(grid, camera, response=LinearResponse(0.0, sigma))
    for k in (0, 1, 3):
        x = np.zeros(grid.shape)
        x[4, 4, 10 + k] = 1
        edge = (k + 0.5) * 4.0 / (np.sqrt(2) * sigma)
        assert A(x).sum() == pytest.approx(0.5 * (1 + erf(edge)), abs=5e-3)


ENDS = {
    "planes": {"response": LinearResponse(0.03, 4.0)},
    "direct": {"response": LinearResponse(0.03, 4.0), "blur": "direct"},
    "no response": {},
}


@pytest.mark.parametrize("options", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("slices", "rows", "row"), [(12, 12, 4.0), (12, 10, 4.8), (14, 12, 4.0), (5, 5, 4.0)])
def test_a_body_that_goes_on_beyond_the_camera_is_even_up_to_the_last_row(slices, rows, row, options):
    camera = SPECTGeometry([0.0, 40.0], 60.0, (16, rows), (4.0, row))
    mu = np.full((10, 10, 1), 0.1)
    short, long = (
        SPECTProjector(ImageGrid((10, 10, n), 4.0), camera, np.tile(mu, n), **options) for n in (slices, slices + 60)
    )
    even, whole = short(np.ones(short.in_shape)), long(np.ones(long.in_shape))
    np.testing.assert_allclose(even, np.broadcast_to(even[..., :1], even.shape), rtol=1e-9)
    np.testing.assert_allclose(even, whole, rtol=2e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("blur", ["planes", "direct"])
def test_matched_data_of_a_long_body_give_an_even_image(blur):
    camera, response = SPECTGeometry.circular(16, 60.0, (16, 10), 4.0), LinearResponse(0.03, 3.0)
    short, long = (ImageGrid((16, 16, n), 4.0) for n in (10, 40))
    X, Y, _ = long.coordinates()
    body = ((np.hypot(X, Y) < 25) * np.ones(long.shape)).astype(np.float32)
    counts = SPECTProjector(long, camera, 0.1 * body, response, blur=blur)(body)
    A = SPECTProjector(short, camera, 0.1 * body[..., :10], response, blur=blur)
    f = PoissonLikelihood(counts, AcquisitionModel(A, background=1e-5))
    image = run(osem(f, A.ones_image(), n_subsets=4), 10)
    slices = image[np.hypot(*np.broadcast_arrays(X, Y))[..., 0] < 15].mean(0)
    np.testing.assert_allclose(slices / slices[5], 1, atol=0.02)


def test_where_the_camera_sees_past_the_image_there_is_nothing():
    camera, response = SPECTGeometry([0.0], 60.0, (21, 30), 4.0), LinearResponse(0.0, 6.0)
    short, long = (ImageGrid((9, 9, n), 4.0) for n in (10, 30))
    x = np.random.default_rng(0).random(short.shape)
    seen = SPECTProjector(short, camera, response=response)(x)
    inside = np.pad(x, ((0, 0), (0, 0), (10, 10)))
    np.testing.assert_allclose(seen, SPECTProjector(long, camera, response=response)(inside), atol=2e-4 * seen.max())


def test_detector_shift_moves_the_picture():
    grid = ImageGrid((15, 15, 1), 4.0)
    x = np.zeros(grid.shape)
    x[7, 7] = 1
    camera = SPECTGeometry(np.zeros(2), 80, (15, 1), 4.0, shift=np.array([0.0, 8.0]))
    y = SPECTProjector(grid, camera)(x)[..., 0]
    np.testing.assert_allclose(y[1, :-2], y[0, 2:], atol=1e-12)
