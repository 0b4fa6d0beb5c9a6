"""Blurs of the image: battery, sums, borders, SciPy's filters as references, and the blur inside a PET model."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import check_operator, relative_error
from pet_cases import GRID, SINOGRAMS
from scipy.ndimage import convolve, convolve1d, correlate

from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    ListmodeProjector,
    PETProjector,
    PETScanner,
    PETSinogram,
    TimeOfFlight,
)
from emrecon.projectors.core.blur import GaussianBlur, MeasuredBlur, gaussian_kernel
from emrecon.recon import PoissonLikelihood, nrmse, osem, run

RNG = np.random.default_rng(0)
KERNEL = RNG.uniform(0, 1, (5, 3, 7))
PAIRS = [(RNG.uniform(0, 1, GRID.shape), RNG.uniform(0, 1, shape)) for shape in ((3, 3, 3), (5, 1, 7), (13, 3, 1))]


@pytest.mark.parametrize("fwhm", [9.0, (0, 12, 5), (30, 0, 0), 0])
def test_gaussian_battery(fwhm):
    A = GaussianBlur(GRID, fwhm)
    check_operator(A, positive=True)
    x = RNG.normal(size=GRID.shape)
    np.testing.assert_allclose(A(x), A.T(x), atol=1e-15)
    assert not np.shares_memory(A(x), x)


def test_a_gaussian_longer_than_a_block_passes_the_battery():
    check_operator(GaussianBlur(ImageGrid((150, 2, 2), 2.0), (11, 3, 3)), positive=True)


@pytest.mark.parametrize("shape", [(150, 70, 4), (5, 6, 131), (9, 8, 1)])
def test_gaussian_equals_scipy(shape):
    A, x = GaussianBlur(ImageGrid(shape, (2.0, 3.0, 2.5)), (7, 6, 5)), RNG.normal(size=shape)
    expected = x
    for axis, kernel in enumerate(A.kernels):
        expected = convolve1d(expected, kernel, axis, mode="reflect" if axis == 2 else "constant")
    np.testing.assert_allclose(A(x), expected, atol=1e-14)
    assert A.kernels[2].size == (1 if shape[2] == 1 else 9)


@pytest.mark.parametrize("fwhm", [1.5, 2.355, 6.1])
def test_the_kernel_is_a_gaussian_over_voxels(fwhm):
    kernel = gaussian_kernel(fwhm)
    n = np.arange(kernel.size) - kernel.size // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-14)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    assert (kernel * n**2).sum() == pytest.approx((fwhm / 2.35482) ** 2 + 1 / 12, rel=3e-3)


def test_what_leaves_the_image_sideways_is_lost():
    A, point = GaussianBlur(ImageGrid((41, 41, 41), 2.0), 8.0), np.zeros((41, 41, 41))
    point[20, 20, 20] = 1
    assert A(point).sum() == pytest.approx(1, abs=1e-12)
    corner = np.zeros_like(point)
    corner[0, 0, 0] = 1
    middle = A.kernels[0].max()
    assert A(corner).sum() == pytest.approx(((1 + middle) / 2) ** 2, abs=1e-12)  # along z it comes back


@pytest.mark.parametrize("size", [(21, 21, 9), (15, 15, 2)])
def test_a_body_that_goes_on_beyond_the_image_is_blurred_as_it_is(size):
    """The slices of a long image, and of a short one: the same, where the body is the same in all slices."""
    short, long = ImageGrid(size, 2.0), ImageGrid((*size[:2], size[2] + 40), 2.0)
    column = RNG.uniform(0, 1, (*size[:2], 1))
    kernel = RNG.uniform(0, 1, (3, 5, 13))
    for A, B in (
        (GaussianBlur(short, 9.0), GaussianBlur(long, 9.0)),
        (MeasuredBlur(short, kernel), MeasuredBlur(long, kernel)),
    ):
        expected = B(column * np.ones(long.shape))[..., 20 : 20 + size[2]]
        np.testing.assert_allclose(A(column * np.ones(short.shape)), expected, rtol=1e-12)
    total = RNG.uniform(0, 1, (41, 41, 3)) * (np.abs(np.arange(41) - 20) < 5)[:, None, None]
    kept = GaussianBlur(ImageGrid((41, 41, 3), 2.0), (6, 0, 15))(total)
    assert kept.sum() == pytest.approx(total.sum(), rel=1e-12)


def test_empty_ends():
    grid, x = ImageGrid((9, 8, 7), (2.0, 3.0, 2.5)), RNG.normal(size=(9, 8, 7))
    A, B = GaussianBlur(grid, (7, 6, 5), ends="empty"), MeasuredBlur(grid, KERNEL, ends="empty")
    check_operator(A, positive=True)
    check_operator(B, positive=True)
    expected = x
    for axis, kernel in enumerate(A.kernels):
        expected = convolve1d(expected, kernel, axis, mode="constant")
    np.testing.assert_allclose(A(x), expected, atol=1e-14)
    np.testing.assert_allclose(B(x), convolve(x, KERNEL, mode="constant"), atol=1e-13)
    np.testing.assert_allclose(B.T(x), correlate(x, KERNEL, mode="constant"), atol=1e-13)
    for make in (lambda: GaussianBlur(grid, 3, ends="open"), lambda: MeasuredBlur(grid, KERNEL, ends="open")):
        with pytest.raises(ValueError, match="ends must be one of mirrored, empty"):
            make()


def matched_pet(grid, blur, tof=None):
    """A scan of a cylinder longer than the scanner, and what a model on `grid` makes of it."""
    scanner = PETScanner.polygon(sides=12, crystals_per_side=4, radius=80, rings=6, ring_pitch=5)
    sinogram = PETSinogram(scanner, span=1, max_ring_difference=5, n_radial=33, tof=tof)
    grid = grid or sinogram.default_grid()
    nx, ny, nz = grid.shape
    x, y, z = grid.origin
    long = ImageGrid((nx, ny, nz + 24), grid.voxel_size, (x, y, z - 12 * grid.voxel_size[2]))
    X, Y, _ = long.coordinates()
    body = ((np.hypot(X, Y) < 35) * np.ones(long.shape)).astype(np.float32)
    counts = (PETProjector(long, sinogram) @ blur(long))(body)
    A = PETProjector(grid, sinogram) @ blur(grid)
    image = run(osem(PoissonLikelihood(counts, AcquisitionModel(A, background=1e-4)), n_subsets=6), 8)
    core = np.hypot(*np.broadcast_arrays(X, Y))[..., 0] < 18
    return image[core].mean(0)


@pytest.mark.parametrize("tof", [None, TimeOfFlight(5, 40.0, 60.0)], ids=["plain", "TOF"])
@pytest.mark.parametrize("kind", ["gaussian", "measured"])
def test_matched_data_of_a_long_body_are_even_in_every_slice(kind, tof):
    if kind == "gaussian":
        blur = lambda grid: GaussianBlur(grid, 9.0)  # noqa: E731
    else:
        lines = [gaussian_kernel(w) for w in (1.5, 1.5, 3.0)]
        kernel = lines[0][:, None, None] * lines[1][:, None] * lines[2]
        blur = lambda grid: MeasuredBlur(grid, kernel)  # noqa: E731
    np.testing.assert_allclose(matched_pet(None, blur, tof), 1, atol=0.02)


def test_what_leaves_the_image_sideways_is_projected():
    """An object that ends with the image: counts of its blurred rim beside the image are its own."""
    scanner = PETScanner.polygon(sides=12, crystals_per_side=4, radius=80, rings=2, ring_pitch=5)
    sinogram = PETSinogram(scanner, span=1, max_ring_difference=1, n_radial=33)
    wide = sinogram.default_grid()
    nx, ny, nz = wide.shape
    cut = 8
    origin = np.array(wide.origin) + np.array([cut, cut, 0]) * wide.voxel_size
    small = ImageGrid((nx - 2 * cut, ny - 2 * cut, nz), wide.voxel_size, origin)
    x = RNG.uniform(0.5, 1.5, small.shape)
    inside = np.pad(x, ((cut, cut), (cut, cut), (0, 0)))
    first = RNG.integers(0, scanner.n_crystals // 2, 50)
    lines = np.stack([first, first + scanner.n_crystals // 2], 1)
    kernel = RNG.uniform(0, 1, (5, 3, 3))
    weight = RNG.uniform(0, 1, small.shape)
    blurs = [
        (GaussianBlur(small, 12.0), GaussianBlur(wide, 12.0)),
        (MeasuredBlur(small, kernel), MeasuredBlur(wide, kernel)),
        (
            MeasuredBlur(small, [(weight, kernel)]),
            MeasuredBlur(wide, [(np.pad(weight, ((cut, cut), (cut, cut), (0, 0))), kernel)]),
        ),
    ]
    for blur, same in blurs:
        for make in (lambda g: PETProjector(g, sinogram), lambda g: ListmodeProjector(g, scanner, lines)):
            A = make(small) @ blur
            assert A.in_shape == small.shape
            np.testing.assert_allclose(A(x), make(wide)(same(inside)), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(A.subset(1, 3)(x), A(x)[1::3], rtol=1e-12)
    check_operator(PETProjector(small, sinogram) @ blurs[0][0], positive=True, gradients=False)


@pytest.mark.parametrize("fwhm", [-1, (1, 2), np.nan, (1, np.inf, 1)])
def test_refused_widths(fwhm):
    with pytest.raises(ValueError, match="fwhm must be one number or three"):
        GaussianBlur(GRID, fwhm)


@pytest.mark.parametrize("kernel", [KERNEL, PAIRS], ids=["stationary", "varying"])
def test_measured_battery(kernel):
    check_operator(MeasuredBlur(GRID, kernel), positive=True)


def with_ends(function, x, kernel):
    """SciPy's filter of an image that goes on mirrored along z."""
    beyond = kernel.shape[2] // 2
    wide = np.pad(x, ((0, 0), (0, 0), (beyond, beyond)), mode="symmetric")
    return function(wide, kernel, mode="constant")[..., beyond : beyond + x.shape[2]]


def test_what_no_kernel_reaches_is_exactly_zero():
    A, x = MeasuredBlur(ImageGrid((40, 30, 20), 2.0), KERNEL), np.zeros((40, 30, 20), np.float32)
    x[20, 15, 10] = 1e4
    for y in (A(x), A.T(x)):
        reached = np.zeros(x.shape, bool)
        reached[18:23, 14:17, 7:14] = True
        assert not y[~reached].any()
        assert y.min() >= 0
    signed = KERNEL - 0.5
    B = MeasuredBlur(ImageGrid((40, 30, 20), 2.0), signed)
    assert B(x).min() < 0


def test_measured_equals_scipy():
    A, x = MeasuredBlur(GRID, KERNEL), RNG.normal(size=GRID.shape)
    np.testing.assert_allclose(A(x), with_ends(convolve, x, KERNEL), atol=1e-13)
    inside = np.pad(x, ((0, 0), (0, 0), (9, 9)))  # far from the ends the transpose is the correlation
    far = MeasuredBlur(ImageGrid(inside.shape, GRID.voxel_size), KERNEL)
    np.testing.assert_allclose(far.T(inside), correlate(inside, KERNEL, mode="constant"), atol=1e-13)
    B = MeasuredBlur(GRID, PAIRS)
    expected = sum(with_ends(convolve, w * x, kernel) for w, kernel in PAIRS)
    np.testing.assert_allclose(B(x), expected, atol=1e-13)


def test_a_kernel_wider_than_the_image():
    grid, wide = ImageGrid((3, 4, 1), 2.0), RNG.uniform(0, 1, (11, 9, 5))
    A, x = MeasuredBlur(grid, wide), RNG.normal(size=(3, 4, 1))
    check_operator(A)
    np.testing.assert_allclose(A(x), with_ends(convolve, x, wide), atol=1e-13)


def test_a_measured_gaussian_is_the_gaussian():
    A = GaussianBlur(GRID, (11, 9, 6))
    x, y, z = A.kernels
    B, image = MeasuredBlur(GRID, x[:, None, None] * y[:, None] * z), RNG.normal(size=GRID.shape)
    np.testing.assert_allclose(A(image), B(image), atol=1e-14)


def test_refused_kernels():
    with pytest.raises(ValueError, match="odd lengths"):
        MeasuredBlur(GRID, np.ones((3, 4, 3)))
    with pytest.raises(ValueError, match="odd lengths"):
        MeasuredBlur(GRID, np.ones((3, 3)))
    with pytest.raises(ValueError, match="weight images of"):
        MeasuredBlur(GRID, [(np.ones((2, 2, 2)), KERNEL)])
    with pytest.raises(ValueError, match="NaN"):
        MeasuredBlur(GRID, np.full((3, 3, 3), np.nan))
    with pytest.raises(ValueError, match="list of pairs"):
        MeasuredBlur(GRID, [])
    with pytest.raises(ValueError, match="expects"):
        MeasuredBlur(GRID, KERNEL)(np.ones((3, 3, 3)))


@pytest.mark.parametrize("case", ["span 3", "flat TOF"])
@pytest.mark.slow
def test_composed_with_pet_it_is_a_projector(case):
    grid, sinogram = SINOGRAMS[case]
    check_operator(PETProjector(grid, sinogram) @ GaussianBlur(grid, 9.0), positive=True)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_osem_with_a_blur_recovers_the_image(library):
    grid, sinogram = SINOGRAMS["span 1"]
    A = PETProjector(grid, sinogram) @ GaussianBlur(grid, 5.0)
    truth = np.full(grid.shape, 0.5, np.float32)
    truth[2:5, 2:4, 1:4] = 3
    model = AcquisitionModel(A, 2.0, 1.0)
    as_array = torch.tensor if library == "torch" else np.asarray
    f = PoissonLikelihood(as_array(model(truth)), model)
    iterates = islice(osem(f, as_array(np.ones_like(truth)), n_subsets=4), 25)
    images = [np.asarray(iterate.image) for iterate in iterates]
    assert nrmse(images[-1], truth) < 0.6 * nrmse(images[0], truth)
    assert relative_error(model(images[-1]), model(truth)) < 0.02
