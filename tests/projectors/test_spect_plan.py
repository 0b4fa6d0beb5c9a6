"""The tables of the SPECT projector: taps, resampling weights, bands, and blur levels of exact width."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from emrecon.projectors import CollimatorResponse, ImageGrid, LinearResponse, SPECTGeometry, collimator
from emrecon.projectors.core.mirror import folded, mirrored
from emrecon.projectors.spect.bands import make_bands, resampling, resampling_variance
from emrecon.projectors.spect.plan import RAY_VARIANCE, SPLAT_VARIANCE, make_plan
from emrecon.projectors.spect.taps import five_taps, gaussian_taps, n_passes, possible_cumulant


def moments(taps):
    """Sum, variance and fourth cumulant of symmetric taps."""
    t = np.arange(taps.size) - taps.size // 2
    variance = (taps * t**2).sum() / taps.sum()
    return taps.sum(), variance, (taps * t**4).sum() / taps.sum() - 3 * variance**2


@pytest.mark.parametrize("cumulant", [-0.3, -0.01, 0.0, 0.05])
@pytest.mark.parametrize("variance", [0.0, 1e-3, 0.1, 1 / 3, 0.5, 2 / 3])
def test_five_taps_have_exact_moments(variance, cumulant):
    taps = five_taps(variance, cumulant)
    assert taps.shape == (5,)
    assert_allclose(moments(taps), (1, variance, cumulant), atol=1e-14)
    np.testing.assert_array_equal(taps, taps[::-1])
    np.testing.assert_array_equal(gaussian_taps(variance, cumulant), taps)


@pytest.mark.parametrize("wanted", [-1.0, -0.1, 0.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_possible_cumulants_keep_taps_non_negative(wanted, dtype):
    for variance in np.linspace(0.0, 2 / 3, 401):
        cumulant = possible_cumulant(variance, wanted)
        assert cumulant >= wanted
        assert five_taps(variance, cumulant).min() >= 0
        assert five_taps(dtype(variance), dtype(cumulant)).min() >= 0
        if cumulant > wanted:
            assert five_taps(variance, cumulant - 1e-4).min() < 0, "a nearer one is possible"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_heavy_tail_is_given_as_far_as_taps_stay_non_negative(dtype):
    for variance in np.linspace(0.0, 2 / 3, 101):
        taps = five_taps(dtype(variance), dtype(possible_cumulant(variance, 5.0)))
        assert taps.min() >= 0
        assert moments(taps)[1] == pytest.approx(variance, abs=1e-6)


@pytest.mark.parametrize("variance", [0.67, 0.8, 1.0, 2.0, 7.3, 40.0])
def test_wider_gaussians_are_sampled(variance):
    total, second, fourth = moments(gaussian_taps(variance))
    assert total == pytest.approx(1, abs=1e-14)
    assert second == pytest.approx(variance, rel=2e-4)
    assert fourth == pytest.approx(0, abs=6e-3 * variance**2)
    assert gaussian_taps(variance).min() >= 0


@pytest.mark.parametrize("variance", [0.8, 2.0, 7.3])
def test_the_fourth_cumulant_of_wider_kernels_can_be_set(variance):
    _, second, fourth = moments(gaussian_taps(variance, -0.1 * variance))
    assert second == pytest.approx(variance, rel=2e-2)
    assert fourth == pytest.approx(-0.1 * variance, rel=0.2, abs=0.02)
    assert gaussian_taps(variance, -0.5 * variance**2).min() >= 0


def test_passes_are_two_thirds_at_most():
    variance = np.linspace(0, 5, 301)
    passes = n_passes(variance)
    assert np.all(variance <= passes * 2 / 3 + 1e-6)
    assert np.all(variance >= (passes - 1) * 2 / 3 - 1e-6)
    np.testing.assert_array_equal(n_passes(np.array([0.0, 0.5, 2 / 3, 0.7, 4 / 3, 2.0])), [0, 1, 1, 2, 2, 3])


@pytest.mark.parametrize("pixel", [2.0, 3.9, 4.0, 5.0, 9.7])
@pytest.mark.parametrize("offset", [0.0, 0.3, -1.7, 2.0])
def test_resampling_loses_nothing(pixel, offset):
    pitch, n_in, n_out = 4.0, 20, 80
    weights = resampling(n_in, pitch, n_out, pixel, offset)
    if pixel == pitch and offset == 0:
        assert weights is None
        return
    assert weights.shape == (n_out, n_in)
    assert weights.min() >= 0
    assert_allclose(weights.sum(0), 1, atol=1e-13)
    pixels = (np.arange(n_out) - (n_out - 1) / 2) * pixel + offset
    samples = (np.arange(n_in) - (n_in - 1) / 2) * pitch
    assert_allclose(pixels @ weights, samples, atol=1e-11)
    variance = (pixels**2) @ weights - samples**2
    assert_allclose(variance, resampling_variance(weights, pitch, pixel), rtol=1e-9)
    assert_allclose(variance, pitch**2 / 12 + pixel**2 / 4, rtol=1e-9)


@pytest.mark.parametrize("pixel", [2.0, 3.1, 5.0, 9.7])
def test_resampling_keeps_an_even_distribution_even(pixel):
    weights = resampling(60, 4.0, 9, pixel, 1.3)
    assert_allclose(weights.sum(1), pixel / 4.0, rtol=1e-12)


def test_lattices_that_coincide_are_not_resampled():
    assert resampling(10, 4.0, 8, 4.0, 0.0) is None
    assert resampling(10, 4.0, 8, 4.0, 8.0) is None
    assert resampling(9, 4.0, 8, 4.0, 2.0) is None
    assert resampling(9, 4.0, 8, 4.0, 0.0) is not None
    assert resampling_variance(None, 4.0, 4.0) == 0


def test_bands_reproduce_matrices():
    rng = np.random.default_rng(0)
    row, column = np.arange(9)[:, None], np.arange(14)
    matrices = [rng.random((9, 14)) * (np.abs(column - row - 2) <= width) for width in (0, 1, 3)]
    matrices.append(np.zeros((9, 14)))
    matrices[1][4] = 0
    start, weights = make_bands(matrices)
    assert start.min() >= 0
    assert start.max() + weights.shape[2] <= 14
    assert weights.shape == (4, 9, 7)
    for k, matrix in enumerate(matrices):
        again = np.zeros_like(matrix)
        for i in range(9):
            again[i, start[k, i] : start[k, i] + weights.shape[2]] += weights[k, i]
        np.testing.assert_array_equal(again, matrix)


def test_full_matrices_are_bands_too():
    full = np.random.default_rng(0).random((3, 5))
    start, weights = make_bands([full])
    assert not start.any()
    np.testing.assert_array_equal(weights[0], full)


def level_variances(made, camera):
    """Variance of every level in mm^2, (classes, levels, u or z), from the kernels that are applied."""
    plan = made.plan
    total = np.zeros((*plan.steps.shape[:2], 2))
    for c, k in np.ndindex(total.shape[:2]):
        if k < plan.z_taps.shape[1]:
            along_u = middle_column_variance(plan, c, k) * camera.pixel_size[0] ** 2
            total[c, k] = along_u, moments(plan.z_taps[c, k])[1] * made.widths.spacing[1] ** 2
        else:
            total[c, k] = total[c, k - 1] + plan.steps[c, k, :, 0] * made.widths.spacing**2
    return total


def middle_column_variance(plan, c, k):
    """The spread over bins, in bins squared, of what lies in the middle column."""
    bins, width = np.arange(plan.u_start.shape[2]), plan.u_weights.shape[3]
    index = plan.n_columns // 2 - plan.u_start[c, k]
    weights = plan.u_weights[c, k, bins, np.clip(index, 0, width - 1)] * ((index >= 0) & (index < width))
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    return weights @ (bins - weights @ bins) ** 2


RESPONSES = {
    "lehr": collimator("siemens-lehr").response(140.5),
    "hegp": collimator("ge-hegp").response(364.5),
    "wide": LinearResponse(0.12, 6.0),
    "flat": LinearResponse(0.0, 9.0),
    "quadrature": CollimatorResponse(0.05, 0.0, 3.0),
}


@pytest.mark.parametrize("ray_driven", [False, True])
@pytest.mark.parametrize(("axial", "pixel"), [(4.0, 4.0), (2.5, (4, 2.5)), (5.0, (4, 5)), (4.0, 4.8), (4.0, (2.4, 5))])
@pytest.mark.parametrize("name", RESPONSES)
def test_every_plane_gets_its_own_width(name, axial, pixel, ray_driven):
    """A plane is a mixture of two levels; its variance, with what sampling adds, is sigma(d)^2 and the bin's."""
    response, pitch, radius = RESPONSES[name], 4.0, np.array([120.0, 120, 70, 160])
    camera = SPECTGeometry(np.array([0, 90, 200, 300.0]), radius, (128, 16), pixel)
    made = make_plan(ImageGrid((32, 32, 16), (pitch, pitch, axial)), camera, response, ray_driven=ray_driven)
    plan, variances = made.plan, level_variances(made, camera)
    sampling = (RAY_VARIANCE if ray_driven else SPLAT_VARIANCE) * pitch**2
    assert len(set(plan.view_class)) == 3
    for view, c in enumerate(plan.view_class):
        lower, upper, share = plan.level[c], np.minimum(plan.level[c] + 1, variances.shape[1] - 1), plan.upper[c]
        assert np.all((share >= 0) & (share <= 1))
        mixture = (1 - share)[:, None] * variances[c, lower] + share[:, None] * variances[c, upper]
        sigma = response.sigma(made.distances[view])
        for axis, added in ((0, sampling), (1, made.widths.fixed[c, 1])):
            size = camera.pixel_size[axis]
            # Sampling itself is no sharper; what is narrower than a row stays in its row.
            wanted, clear = np.maximum(sigma**2 + size**2 / 12, made.widths.floor[c, axis]), sigma > 0.8 * size
            assert_allclose((mixture[:, axis] + added)[clear], wanted[clear], rtol=1e-3)


def test_every_axis_has_a_floor_of_its_own():
    """Along z, where samples are coarse, a narrow response is wider than it should be; along u it is not."""
    camera, response = SPECTGeometry([0.0, 50.0], 90.0, (64, 9), (2.0, 15.0)), LinearResponse(0.02, 2.5)
    made = make_plan(ImageGrid((32, 32, 9), (2.0, 2.0, 12.0)), camera, response, ray_driven=False)
    plan, variances = made.plan, level_variances(made, camera)
    for view, c in enumerate(plan.view_class):
        lower, share = plan.level[c], plan.upper[c][:, None]
        mixture = (1 - share) * variances[c, lower] + share * variances[c, lower + 1]
        sigma = response.sigma(made.distances[view])
        assert_allclose(mixture[:, 0] + made.widths.fixed[c, 0], sigma**2 + 4 / 12, rtol=1e-3)
        assert_allclose(mixture[:, 1], 0, atol=1e-9)
        assert made.widths.fixed[c, 1] > 2 * sigma.max() ** 2


def test_mirrored_lines():
    index = np.arange(-5, 9)
    np.testing.assert_array_equal(mirrored(index, 4, True, True), [3, 3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0, 0][-14:])
    np.testing.assert_array_equal(mirrored(index, 4, True, False)[:9], [-1, 3, 2, 1, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(mirrored(index, 4, False, True)[4:], [-1, 0, 1, 2, 3, 3, 2, 1, 0, -1])
    matrix = np.random.default_rng(0).random((3, 14))
    np.testing.assert_allclose(folded(matrix, -5, 4, True, True).sum(1), matrix.sum(1))
    np.testing.assert_allclose(folded(matrix, -5, 4, False, False), matrix[:, 5:9])


def test_planes_lie_at_their_distances():
    grid = ImageGrid((8, 8, 4), 4.0, origin=(20, -14, 0))
    camera = SPECTGeometry(np.array([0.0, 90, 45]), 100.0, (16, 4), 4.0)
    made = make_plan(grid, camera, None, ray_driven=False)
    x, y, _ = (v.ravel() for v in grid.coordinates())
    for view, direction in enumerate(camera.directions[0]):
        for i, j in ((0, 0), (7, 0), (3, 5)):
            plane = made.plan.to_frame[view, 0] @ [1, i, j]
            found = np.interp(plane, np.arange(made.plan.n_planes), made.distances[view])
            assert found == pytest.approx(100 - direction @ [x[i], y[j]], abs=1e-9)
            back = made.plan.to_image[view] @ [1, *(made.plan.to_frame[view] @ [1, i, j])]
            assert_allclose(back, [i, j], atol=1e-9)
