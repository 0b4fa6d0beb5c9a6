"""Images on other grids: identity, shifts, linear ramps, borders, refusals."""

import numpy as np
import pytest
import torch
from battery import check_operator

from emrecon.projectors import ImageGrid, Resampling, resample

GRID = ImageGrid((6, 7, 5), (4.0, 3.0, 2.0))
IMAGE = np.random.default_rng(0).random(GRID.shape)


def ramp(grid):
    x, y, z = grid.coordinates()
    return 1000 + 2 * x - 3 * y + 5 * z


def test_the_same_grid_changes_nothing():
    assert resample(IMAGE, GRID, ImageGrid(GRID.shape, GRID.voxel_size)) is IMAGE


@pytest.mark.parametrize("axis", range(3))
def test_a_shift_by_a_voxel(axis):
    origin = np.array(GRID.origin)
    origin[axis] += GRID.voxel_size[axis]
    moved = resample(IMAGE, GRID, ImageGrid(GRID.shape, GRID.voxel_size, origin))
    expected = np.roll(IMAGE, -1, axis)
    np.moveaxis(expected, axis, 0)[-1] = 0
    np.testing.assert_allclose(moved, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 7, 5), (1, 1, 1), (11, 13, 17)])
@pytest.mark.parametrize("size", [(4.0, 3.0, 2.0), (1.1, 0.7, 0.3), (0.01, 0.01, 0.01)])
def test_a_linear_ramp_stays_one_inside(shape, size):
    target = ImageGrid(shape, size, origin=(-9.0, -8.5, -3.9))
    result = resample(ramp(GRID), GRID, target)
    inside, covered = np.ones(shape, bool), np.ones(shape, bool)
    for axis, values in enumerate(target.coordinates()):
        inside = inside & (np.abs(values) <= (GRID.shape[axis] - 1) / 2 * GRID.voxel_size[axis])
        covered = covered & (np.abs(values) <= GRID.shape[axis] / 2 * GRID.voxel_size[axis])
    assert inside.any()
    np.testing.assert_allclose(result[inside], ramp(target)[inside], rtol=1e-12)
    assert not result[~covered].any()
    assert result[covered].min() > 900  # between the last centre and the voxel's face


@pytest.mark.parametrize("size", [0.1, 0.3, 1 / 3, 2.21, 3.32, 4.7952])
def test_rounding_does_not_cut_off_the_border(size):
    for n in range(2, 40):
        grid = ImageGrid((n, 1, 1), size, origin=(0.1 * n, 0, 0))
        finer = ImageGrid((2 * n - 1, 1, 1), (size / 2, size, size), grid.origin)
        assert resample(np.ones(grid.shape), grid, finer).min() == pytest.approx(1)


OTHERS = {
    "coarser": ImageGrid((3, 2, 2), (9.0, 8.0, 7.0), (-8.0, -3.0, -1.0)),
    "finer": ImageGrid((9, 8, 11), (2.5, 1.7, 0.9), (-9.0, -8.5, -3.9)),
    "coarser and finer": ImageGrid((5, 2, 9), (4.0, 7.0, 1.3), (-7.0, -3.0, -5.0)),
}


@pytest.mark.parametrize("target", OTHERS.values(), ids=OTHERS)
def test_it_is_an_operator(target):
    A = Resampling(GRID, target)
    check_operator(A, positive=True)
    np.testing.assert_array_equal(resample(IMAGE, GRID, target), A(IMAGE))
    leaf = torch.tensor(IMAGE, requires_grad=True)
    resample(leaf, GRID, target).sum().backward()
    np.testing.assert_allclose(leaf.grad, A.T(np.ones(target.shape)), rtol=1e-12)


def test_coarser_voxels_get_the_mean_over_them():
    fine = ImageGrid((12, 9, 10), (1.0, 2.0, 1.5))
    image = np.random.default_rng(1).normal(size=fine.shape)
    blocks = image.reshape(4, 3, 3, 3, 5, 2).mean((1, 3, 5))
    np.testing.assert_allclose(resample(image, fine, ImageGrid((4, 3, 5), (3.0, 6.0, 3.0))), blocks, atol=1e-12)
    moved = ImageGrid((3, 3, 5), (3.0, 6.0, 3.0), (-4.5 + 1.2, -6.0, -6.0))  # from 0.2 of a voxel on
    expected = np.stack([(0.8 * image[i] + image[i + 1] + image[i + 2] + 0.2 * image[i + 3]) / 3 for i in (1, 4, 7)])
    np.testing.assert_allclose(resample(image, fine, moved), expected.reshape(3, 3, 3, 5, 2).mean((2, 4)), atol=1e-12)


def test_the_noise_of_a_ct_averages_out():
    ct, scan = ImageGrid((60, 60, 30), (1.0, 1.0, 1.5)), ImageGrid((15, 15, 10), (4.0, 4.0, 4.5))
    noisy = 0.15 + 0.02 * np.random.default_rng(0).normal(size=ct.shape)
    assert np.std(resample(noisy, ct, scan)) == pytest.approx(0.02 / np.sqrt(48), rel=0.1)
    assert resample(noisy, ct, scan).sum() * scan.voxel_volume == pytest.approx(noisy.sum() * ct.voxel_volume)


def test_a_voxel_that_is_half_outside_has_half_of_the_mean():
    target = ImageGrid((2, 1, 1), (8.0, 21.0, 10.0), (-12.0, 0, 0))
    np.testing.assert_allclose(resample(np.ones(GRID.shape), GRID, target).ravel(), [0.5, 1.0])


def test_the_type_is_kept():
    target = ImageGrid((3, 3, 3), 2.0)
    assert resample(IMAGE.astype(np.float32), GRID, target).dtype == np.float32


def test_refusals():
    with pytest.raises(ValueError, match=r"image has shape \(6, 7\), but its grid has \(6, 7, 5\)"):
        resample(IMAGE[..., 0], GRID, GRID)
    for direction in (-1, 1):
        with pytest.raises(ValueError, match="do not overlap"):
            resample(IMAGE, GRID, ImageGrid((2, 2, 2), 1.0, origin=(0, direction * 20.0, 0)))
