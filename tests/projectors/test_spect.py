"""The SPECT projector as an operator: every branch passes the battery; errors, batches, subsets, pickles."""

import pickle

import numpy as np
import pytest
import torch
from battery import check_operator, mismatch, relative_error
from scipy.special import ndtr
from spect_cases import OPTIONS, SHAPES, irregular_geometry, measured_response, projector

from emrecon.projectors import ImageGrid, LinearResponse, MeasuredResponse, SPECTGeometry, SPECTProjector


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", ["planar", "thin", "resampled", "anisotropic"])
def test_every_branch_passes_the_battery(shape, options):
    check_operator(projector(shape, options, nx=5, ny=4), positive=True, gradients=shape == "resampled")


@pytest.mark.parametrize("options", ["gaussian", "direct", "rays"])
def test_deep_images_and_no_attenuation(options):
    A = projector("deep", options, "none")
    assert mismatch(A, "float64") < 1e-12
    assert mismatch(A, "float32", batch=(2,)) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_one_attenuation_map_per_item(shape):
    A = projector(shape, "gaussian", "per item")
    x = np.random.default_rng(0).random((3, *A.in_shape))
    y = A(x)
    for i in range(3):
        alone = SPECTProjector(A.grid, A.geometry, A.attenuation[i], A.response)
        np.testing.assert_allclose(y[i], alone(x[i]), rtol=1e-12)
    assert mismatch(A, "float64", batch=(3,)) < 1e-12
    with pytest.raises(ValueError, match="3 attenuation maps"):
        A(x[:2])


def test_subsets_share_the_attenuation_cache():
    A = projector()
    part = A.subset(1, 3)
    part(np.ones(A.in_shape))
    assert part._absorbed is A._absorbed
    assert part.subset(0, 2).out_shape[0] == 1
    with pytest.raises(ValueError, match="does not exist"):
        A.subset(3, 3)
    with pytest.raises(ValueError, match="empty"):
        A.subset(0, 7)


def test_views_do_not_depend_on_each_other():
    A, x = projector(), np.random.default_rng(0).random((7, 6, 3))
    np.testing.assert_array_equal(A.subset(2, 6)(x), A(x)[2::6])


def test_pickles_leave_plans_behind():
    A = projector()
    y = A(np.ones(A.in_shape, np.float32))
    copy = pickle.loads(pickle.dumps(A))
    assert "_plan" not in copy.__dict__
    assert not copy._absorbed._plans
    np.testing.assert_array_equal(copy(np.ones(A.in_shape, np.float32)), y)


def test_printing_tells_what_it_is():
    A = projector()
    assert repr(A) == "<SPECTProjector (7,6,3) -> (6,9,3)>"
    text = str(A)
    for fact in ("7x6x3 voxels of 4 x 4 x 4 mm", "6 views", "/cm", "LinearResponse", "numba on"):
        assert fact in text


def test_torch_tensors_of_other_kinds():
    A = projector()
    half = A(torch.ones(A.in_shape, dtype=torch.float16))
    assert half.dtype == torch.float32
    with pytest.raises(TypeError, match="runs on NumPy"):
        A(torch.ones(A.in_shape, device="meta"))


def test_non_contiguous_arrays():
    A = projector()
    x = np.random.default_rng(0).random((3, 6, 7)).transpose(2, 1, 0)
    np.testing.assert_array_equal(A(x), A(np.ascontiguousarray(x)))
    y = np.random.default_rng(0).random((2, *A.out_shape))[:, :, ::-1]
    np.testing.assert_array_equal(A.T(y), A.T(np.ascontiguousarray(y)))


GRID, CAMERA = ImageGrid((8, 8, 2), 4.0), SPECTGeometry.circular(4, 50, (8, 2), 4.0)


@pytest.mark.parametrize(
    ("attenuation", "message"),
    [
        (np.zeros((8, 8)), "expects attenuation"),
        (np.full((8, 8, 2), -1000.0), "Hounsfield"),
        (np.full((8, 8, 2), 15.0), "scaled by a factor"),
        (np.full((8, 8, 2), np.nan), "NaN"),
    ],
)
def test_implausible_attenuation_is_refused(attenuation, message):
    with pytest.raises(ValueError, match=message):
        SPECTProjector(GRID, CAMERA, attenuation)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="sampling"):
        SPECTProjector(GRID, CAMERA, sampling="magic")
    with pytest.raises(ValueError, match="blur"):
        SPECTProjector(GRID, CAMERA, blur="magic")
    with pytest.raises(TypeError, match="sigma"):
        SPECTProjector(GRID, CAMERA, response=3.0)


class Narrowing:
    def sigma(self, distance):
        return 10 - 0.01 * np.asarray(distance)


class Broken:
    def sigma(self, distance):
        return np.full(np.shape(distance), np.nan)


@pytest.mark.parametrize(("response", "message"), [(Narrowing(), "narrower"), (Broken(), "finite sigma")])
def test_responses_that_make_no_sense_are_refused(response, message):
    with pytest.raises(ValueError, match=message):
        SPECTProjector(GRID, CAMERA, response=response)(np.ones(GRID.shape))


def test_direct_and_shared_blur_agree():
    grid, camera = ImageGrid((24, 24, 20), 4.0), SPECTGeometry.circular(5, 120, (24, 20), 4.0)
    x, mu = np.random.default_rng(0).random(grid.shape), np.full(grid.shape, 0.1)
    response = LinearResponse(0.03, 4.0)
    shared, direct = (SPECTProjector(grid, camera, mu, response, blur=blur)(x) for blur in ("planes", "direct"))
    assert relative_error(shared, direct) < 2e-3


def test_measured_kernels_that_are_gaussian_give_the_gaussian_response():
    grid, camera = ImageGrid((20, 20, 16), 4.0), SPECTGeometry.circular(4, 100, (20, 16), 4.0)
    distances = np.linspace(0, 200, 81)
    edges = 4.0 * (np.arange(-14, 16) - 0.5)
    lines = np.diff(ndtr(edges / (0.04 * distances + 5)[:, None]))  # a measured kernel holds counts in bins
    kernels = lines[:, :, None] * lines[:, None]
    x = np.random.default_rng(0).random(grid.shape)
    measured = SPECTProjector(grid, camera, response=MeasuredResponse(distances, kernels, 4.0))
    gaussian = SPECTProjector(grid, camera, response=LinearResponse(0.04, 5.0), blur="direct")
    assert relative_error(measured(x), gaussian(x)) < 2e-3


@pytest.mark.parametrize("pixel", [2.0, 4.0, 4.8, 6.0])
def test_measured_kernels_keep_their_width_and_are_nowhere_negative(pixel):
    """Kernels in bins of 4 mm, seen in bins of another size; with tails, and so narrow that they must be sharpened."""
    grid, camera = ImageGrid((24, 24, 18), 4.0), SPECTGeometry([0.0, 40.0], 80.0, (81, 61), pixel)
    edges = 4.0 * (np.arange(-12, 14) - 0.5)
    for sigma, tail in ((4.5, 0.0), (8.0, 0.0), (5.0, 1e-3)):
        line = np.diff(ndtr(edges / sigma))
        kernel = line[:, None] * line + tail / line.size**2
        A = SPECTProjector(grid, camera, response=MeasuredResponse([0.0, 100.0], np.stack([kernel] * 2), 4.0))
        x = np.zeros(grid.shape)
        x[12, 12, 9] = 1
        for dtype in (np.float32, np.float64):
            y = A(x.astype(dtype))
            assert y.min() >= 0
            np.testing.assert_allclose(y.sum((1, 2)), 1, rtol=1e-4)
        centre, place = 4.0 * (np.arange(25) - 12), camera.bin_centres()
        recorded = kernel.sum(1) @ centre**2 / kernel.sum()
        for view, (_, along) in enumerate(zip(*camera.directions)):
            wanted = recorded + (pixel**2 - 16) / 12
            off = place[0][view] - along @ [2.0, 2.0]
            assert y[view].sum(1) @ off**2 == pytest.approx(wanted, rel=0.01)
            assert y[view].sum(0) @ (place[1] - 2.0) ** 2 == pytest.approx(wanted, rel=0.01)


def test_the_kernels_follow_a_body_contour():
    grid = ImageGrid((9, 9, 9), 4.0)
    near, far = (SPECTGeometry(np.array([30.0]), r, (9, 9), 4.0) for r in (40, 200))
    both = SPECTGeometry(np.array([30.0, 30.0]), np.array([40, 200]), (9, 9), 4.0)
    x = np.zeros(grid.shape)
    x[4, 4, 4] = 1
    response = LinearResponse(0.05, 2.0)
    y = SPECTProjector(grid, both, response=response)(x)
    for view, geometry in enumerate((near, far)):
        np.testing.assert_allclose(y[view], SPECTProjector(grid, geometry, response=response)(x)[0], rtol=1e-3)
    assert y[0].max() > 3 * y[1].max()


def test_irregular_cameras_and_measured_kernels_build():
    assert irregular_geometry((9, 3), 4.0).n_views == 6
    assert measured_response().reach == (16.0, 12.0)


def test_pickled_subsets_are_what_they_were():
    A = projector("resampled", "gaussian", "shared")
    part = A.subset(1, 3)
    copy, x = pickle.loads(pickle.dumps(part)), np.random.default_rng(0).random(A.in_shape)
    np.testing.assert_array_equal(copy(x), part(x))
    np.testing.assert_array_equal(part(x), A(x)[1::3])
    np.testing.assert_array_equal(copy.subset(1, 2)(x), A(x)[4::6])


def test_the_attenuation_is_copied():
    mu = np.full(GRID.shape, 0.1)
    A = SPECTProjector(GRID, CAMERA, mu)
    before = A(np.ones(GRID.shape))
    mu[:] = 0
    np.testing.assert_array_equal(A(np.ones(GRID.shape)), before)
    np.testing.assert_allclose(A(np.ones(GRID.shape, np.float32)), before, rtol=1e-5)
    with pytest.raises(ValueError, match="read-only"):
        A.attenuation[:] = 0


def test_read_only_and_foreign_arrays():
    A = projector()
    x = np.random.default_rng(0).random(A.in_shape)
    expected = A(x)
    x.flags.writeable = False
    np.testing.assert_array_equal(A(x), expected)
    swapped = x.astype(x.dtype.newbyteorder())
    assert A(swapped).dtype == np.float64
    np.testing.assert_array_equal(A(swapped), expected)
    with pytest.raises(TypeError, match="numbers"):
        A(np.full(A.in_shape, "1"))
    with pytest.raises(TypeError, match="attenuation of <SPECTProjector"):
        SPECTProjector(GRID, CAMERA, 0.15)


def test_another_attenuation_shares_the_tables():
    grid = ImageGrid((12, 12, 6), 4.0)
    camera = SPECTGeometry.circular(8, 60, (12, 6), 4.0)
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0, 0.2, (2, *grid.shape)).astype(np.float32)
    x = rng.uniform(0, 1, grid.shape).astype(np.float32)
    for blur in ("planes", "direct"):
        A = SPECTProjector(grid, camera, first, LinearResponse(0.04, 2.0), blur=blur)
        before = A(x)
        B = A.with_attenuation(second)
        np.testing.assert_array_equal(
            B(x), SPECTProjector(grid, camera, second, LinearResponse(0.04, 2.0), blur=blur)(x)
        )
        np.testing.assert_array_equal(B.subset(1, 4)(x), B(x)[1::4])
        np.testing.assert_array_equal(
            A.with_attenuation(None)(x), SPECTProjector(grid, camera, None, A.response, blur=blur)(x)
        )
        np.testing.assert_array_equal(A(x), before)
        assert B._made is A._made
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(B))(x), B(x))
    with pytest.raises(ValueError, match="below zero"):
        A.with_attenuation(first - 1)
