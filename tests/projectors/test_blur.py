"""Blurs of the image: battery, sums, borders, SciPy's filters as references, and the blur inside a PET model."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import check_operator, relative_error
from pet_cases import GRID, SINOGRAMS
from scipy.ndimage import convolve, convolve1d, correlate

from emrecon.projectors import AcquisitionModel, ImageGrid, PETProjector
from emrecon.projectors.core.blur import GaussianBlur, MeasuredBlur, gaussian_kernel
from emrecon.recon import PoissonLikelihood, nrmse, osem

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
        expected = convolve1d(expected, kernel, axis, mode="constant")
    np.testing.assert_allclose(A(x), expected, atol=1e-14)
    assert A.kernels[2].size == (1 if shape[2] == 1 else 9)


@pytest.mark.parametrize("fwhm", [1.5, 2.355, 6.1])
def test_the_kernel_is_a_gaussian_over_voxels(fwhm):
    kernel = gaussian_kernel(fwhm)
    n = np.arange(kernel.size) - kernel.size // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-14)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    assert (kernel * n**2).sum() == pytest.approx((fwhm / 2.35482) ** 2 + 1 / 12, rel=3e-3)


def test_what_leaves_the_image_is_lost():
    A, point = GaussianBlur(ImageGrid((41, 41, 41), 2.0), 8.0), np.zeros((41, 41, 41))
    point[20, 20, 20] = 1
    assert A(point).sum() == pytest.approx(1, abs=1e-12)
    corner = np.zeros_like(point)
    corner[0, 0, 0] = 1
    middle = A.kernels[0].max()
    assert A(corner).sum() == pytest.approx(((1 + middle) / 2) ** 3, abs=1e-12)


@pytest.mark.parametrize("fwhm", [-1, (1, 2), np.nan, (1, np.inf, 1)])
def test_refused_widths(fwhm):
    with pytest.raises(ValueError, match="fwhm must be one number or three"):
        GaussianBlur(GRID, fwhm)


@pytest.mark.parametrize("kernel", [KERNEL, PAIRS], ids=["stationary", "varying"])
def test_measured_battery(kernel):
    check_operator(MeasuredBlur(GRID, kernel))


def test_measured_equals_scipy():
    A, x = MeasuredBlur(GRID, KERNEL), RNG.normal(size=GRID.shape)
    np.testing.assert_allclose(A(x), convolve(x, KERNEL, mode="constant"), atol=1e-13)
    np.testing.assert_allclose(A.T(x), correlate(x, KERNEL, mode="constant"), atol=1e-13)
    B = MeasuredBlur(GRID, PAIRS)
    expected = sum(convolve(w * x, kernel, mode="constant") for w, kernel in PAIRS)
    np.testing.assert_allclose(B(x), expected, atol=1e-13)


def test_a_kernel_wider_than_the_image():
    grid, wide = ImageGrid((3, 4, 1), 2.0), RNG.uniform(0, 1, (11, 9, 5))
    A, x = MeasuredBlur(grid, wide), RNG.normal(size=(3, 4, 1))
    check_operator(A)
    np.testing.assert_allclose(A(x), convolve(x, wide, mode="constant"), atol=1e-13)


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
