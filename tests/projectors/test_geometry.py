"""Grids and cameras: where voxels, bins and detectors are, and what is refused."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from emrecon.projectors import ImageGrid, SPECTGeometry

INF, NAN = float("inf"), float("nan")


def camera(angles=(0.0, 90.0, 180.0, 270.0), radius=100.0, **more):
    return SPECTGeometry(np.array(angles), radius, (5, 4), (3.0, 2.0), **more)


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 1), (7, 2, 1)])
def test_a_grid_is_centred_unless_told_otherwise(shape):
    grid = ImageGrid(shape, (2.0, 3.0, 4.0))
    np.testing.assert_allclose(grid.centre, 0, atol=1e-12)
    for axis, values in enumerate(grid.coordinates()):
        assert values.shape == tuple(n if i == axis else 1 for i, n in enumerate(shape))
        np.testing.assert_allclose(values.ravel(), -values.ravel()[::-1])
        if shape[axis] > 1:
            np.testing.assert_allclose(np.diff(values.ravel()), grid.voxel_size[axis])
    moved = ImageGrid(shape, (2.0, 3.0, 4.0), origin=np.array([10, 20, 30]))
    np.testing.assert_allclose(moved.centre, np.array([10, 20, 30]) + (np.array(shape) - 1) / 2 * [2, 3, 4])


def test_the_affine_maps_indices_to_coordinates():
    grid = ImageGrid((3, 4, 5), (1.5, 2.5, 3.5), origin=(-7, 8, 9))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    np.testing.assert_allclose(points, np.stack(np.broadcast_arrays(*grid.coordinates()), -1))
    np.testing.assert_array_equal(grid.affine[3], [0, 0, 0, 1])
    assert grid.voxel_volume == pytest.approx(1.5 * 2.5 * 3.5 / 1000)


def test_grids_are_values():
    grid = ImageGrid((2, 3, 4), 2)
    assert grid == ImageGrid(np.array([2.0, 3, 4]), (2, 2, 2), origin=(-1, -2, -3))
    assert grid != ImageGrid((2, 3, 4), 2, origin=(0, 0, 0))
    assert len({grid, ImageGrid((2, 3, 4), 2.0)}) == 1
    assert str(grid) == "2x3x4 voxels of 2 x 2 x 2 mm"
    with pytest.raises(FrozenInstanceError):
        grid.shape = (1, 1, 1)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 0), (4, 4, -1), (4, 4, 2.5), (4, 4, NAN), (4, 4, INF), (1, 2, 3, 4)])
def test_shapes_are_positive_integers(shape):
    with pytest.raises(ValueError, match="ImageGrid shape must be 3 positive integers"):
        ImageGrid(shape, 1.0)


@pytest.mark.parametrize("size", [0, -1, NAN, INF, (1, 2), (1, 2, 0), (1, 2, 3, 4)])
def test_voxels_have_a_size(size):
    with pytest.raises(ValueError, match=r"voxel_size \(mm\) must be 3 positive numbers"):
        ImageGrid((4, 4, 4), size)


@pytest.mark.parametrize("origin", [(0, 0), (0, 0, NAN), (0, INF, 0), 5.0])
def test_origins_are_three_finite_numbers(origin):
    with pytest.raises(ValueError, match="origin must be 3 finite numbers"):
        ImageGrid((4, 4, 4), 1.0, origin)


def test_gantry_angles_are_those_of_dicom():
    toward, along = camera().directions
    back, left, front, right = (0, 1), (1, 0), (0, -1), (-1, 0)  # +y is the back, +x the patient's left
    np.testing.assert_allclose(toward, [back, left, front, right], atol=1e-12)
    np.testing.assert_allclose(along, [right, back, left, front], atol=1e-12)


def test_the_bin_axis_is_seen_from_behind_the_detector():
    toward, along = camera(angles=np.linspace(-400, 400, 37)).directions
    looking = -np.column_stack([toward, np.zeros(37)])
    np.testing.assert_allclose(np.cross(looking, [0, 0, 1]), np.column_stack([along, np.zeros(37)]), atol=1e-12)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [0, 90, 180, 270]),
        ({"direction": "CW"}, [0, -90, -180, -270]),
        ({"start": 45, "extent": 180}, [45, 90, 135, 180]),
        ({"start": 45, "extent": 180, "direction": "cw"}, [45, 0, -45, -90]),
    ],
)
def test_circular_orbits(more, expected):
    geometry = SPECTGeometry.circular(4, 100, (5, 4), 3.0, **more)
    np.testing.assert_allclose(geometry.angles, expected)
    np.testing.assert_array_equal(geometry.radius, [100] * 4)
    assert geometry.pixel_size == (3.0, 3.0)
    assert geometry.shape == (4, 5, 4)


def test_orbits_follow_the_body():
    radius = [100, 90, 80, 90]
    geometry = SPECTGeometry.circular(4, radius, (5, 4), 3.0, shift=1.0, axial_shift=2.0)
    np.testing.assert_array_equal(geometry.radius, radius)
    np.testing.assert_array_equal(geometry.shift, [1] * 4)
    assert "radius 80 to 100 mm" in str(geometry)
    assert str(camera()) == "4 views of 5x4 bins of 3 x 2 mm at radius 100 mm"


def test_bin_centres():
    u, z = camera(shift=[0, 1, 2, -3], axial_shift=10).bin_centres()
    np.testing.assert_allclose(u, np.array([-6, -3, 0, 3, 6]) + np.array([[0], [1], [2], [-3]]))
    np.testing.assert_allclose(z, [7, 9, 11, 13])


def test_heads_are_joined_in_order():
    first, second = camera((0, 10, 20), shift=1.0), camera((180, 190), radius=[50, 60])
    both = SPECTGeometry.heads(first, second)
    np.testing.assert_array_equal(both.angles, [0, 10, 20, 180, 190])
    np.testing.assert_array_equal(both.radius, [100, 100, 100, 50, 60])
    np.testing.assert_array_equal(both.shift, [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(both.head, [0, 0, 0, 1, 1])
    assert SPECTGeometry.heads(first) == first


@pytest.mark.parametrize("change", [{"n_bins": (6, 4)}, {"pixel_size": (3, 3)}, {"axial_shift": 1.0}])
def test_heads_must_be_alike(change):
    with pytest.raises(ValueError, match="must share n_bins, pixel_size and axial_shift"):
        SPECTGeometry.heads(camera(), replace(camera(), **change))
    with pytest.raises(ValueError, match="at least one geometry"):
        SPECTGeometry.heads()


def test_subsets_take_every_nth_view():
    whole = camera((0, 1, 2, 3, 4), radius=[1, 2, 3, 4, 5], shift=[5, 6, 7, 8, 9], head=[0, 0, 1, 1, 1])
    part = whole.subset(1, 2)
    for name, expected in {"angles": [1, 3], "radius": [2, 4], "shift": [6, 8], "head": [0, 1]}.items():
        np.testing.assert_array_equal(getattr(part, name), expected)
    np.testing.assert_array_equal(part.directions[0], whole.directions[0][1::2])
    assert part.shape == (2, 5, 4)
    for k, n in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"subset {k} of {n} does not exist"):
            whole.subset(k, n)
    with pytest.raises(ValueError, match="6 subsets of 5 views would leave subsets empty; use at most 5"):
        whole.subset(0, 6)


def test_cameras_are_equal_when_all_is_equal():
    assert camera() == camera()
    assert camera() != "camera"
    changes = {"angles": np.array([0, 90, 180, 271.0]), "radius": np.full(4, 101.0), "shift": np.ones(4)}
    changes |= {"n_bins": (5, 5), "pixel_size": (3.0, 2.5), "axial_shift": 1.0, "head": np.ones(4, int)}
    for name, value in changes.items():
        assert camera() != replace(camera(), **{name: value}), name
    with pytest.raises(TypeError, match="unhashable"):
        hash(camera())


def test_cameras_do_not_change():
    angles = np.array([0.0, 90, 180, 270])
    geometry = SPECTGeometry(angles, 100.0, (5, 4), 3.0)
    angles[0] = 45  # the caller's own array is a copy, and still writeable
    assert geometry.angles[0] == 0
    for name in ("angles", "radius", "shift", "head"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(geometry, name)[0] = 1
    with pytest.raises(FrozenInstanceError):
        geometry.radius = 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"angles": ()}, "at least one view"),
        ({"angles": (0, NAN)}, "angles .degrees. must be one finite number or a list"),
        ({"angles": ((0, 1), (2, 3))}, "angles .degrees. must be one finite number or a list"),
        ({"radius": (1, 2)}, "radius .mm. has 2 entries, but there are 4 views"),
        ({"radius": 0}, "radius must be positive"),
        ({"radius": (1, 2, 3, -4)}, "radius must be positive"),
        ({"radius": INF}, "radius .mm. must be one finite"),
        ({"shift": (1, 2, 3)}, "shift .mm. has 3 entries, but there are 4 views"),
        ({"shift": NAN}, "shift .mm. must be one finite"),
        ({"axial_shift": NAN}, "axial_shift .mm. must be one finite"),
        ({"head": (0, 1)}, "head has 2 entries, but there are 4 views"),
    ],
)
def test_cameras_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        camera(**arguments)


@pytest.mark.parametrize(
    ("n_bins", "pixel_size", "message"),
    [((5, 0), 1, "n_bins must be 2 positive"), (5, 1, "n_bins must be 2"), ((5, 4), (1, -2), "pixel_size .mm. must")],
)
def test_detectors_have_bins_and_a_size(n_bins, pixel_size, message):
    with pytest.raises(ValueError, match=message):
        SPECTGeometry(np.zeros(1), 10.0, n_bins, pixel_size)


@pytest.mark.parametrize("n_views", [0, -3, 2.5])
def test_orbits_need_views(n_views):
    with pytest.raises(ValueError, match="n_views must be a whole number, at least 1"):
        SPECTGeometry.circular(n_views, 100, (5, 4), 3.0)
    with pytest.raises(ValueError, match='direction must be "ccw" or "cw"'):
        SPECTGeometry.circular(4, 100, (5, 4), 3.0, direction="left")
