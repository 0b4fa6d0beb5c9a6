"""Images on other grids: identity, shifts, linear ramps, borders, refusals."""

import numpy as np
import pytest

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.resampling import resample

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
    inside = np.ones(shape, bool)
    for axis, values in enumerate(target.coordinates()):
        inside = inside & (np.abs(values) <= (GRID.shape[axis] - 1) / 2 * GRID.voxel_size[axis])
    assert inside.any()
    np.testing.assert_allclose(result[inside], ramp(target)[inside], rtol=1e-12)
    assert not result[~inside].any()


@pytest.mark.parametrize("size", [0.1, 0.3, 1 / 3, 2.21, 3.32, 4.7952])
def test_rounding_does_not_cut_off_the_border(size):
    for n in range(2, 40):
        grid = ImageGrid((n, 1, 1), size, origin=(0.1 * n, 0, 0))
        finer = ImageGrid((2 * n - 1, 1, 1), (size / 2, size, size), grid.origin)
        assert resample(np.ones(grid.shape), grid, finer).min() == pytest.approx(1)


def test_the_type_is_kept():
    target = ImageGrid((3, 3, 3), 2.0)
    assert resample(IMAGE.astype(np.float32), GRID, target).dtype == np.float32


def test_refusals():
    with pytest.raises(ValueError, match=r"image has shape \(6, 7\), but its grid has \(6, 7, 5\)"):
        resample(IMAGE[..., 0], GRID, GRID)
    for direction in (-1, 1):
        with pytest.raises(ValueError, match="do not overlap"):
            resample(IMAGE, GRID, ImageGrid((2, 2, 2), 1.0, origin=(0, direction * 20.0, 0)))
