"""Regions of interest: what they hold of an image, and how masks, labels and shapes become one."""

import math
import pickle

import array_api_strict
import numpy as np
import pytest
import torch

from emrecon.projectors import ImageGrid
from emrecon.recon.metrics.regions import RegionOfInterest, Sphere, _offsets, region_means, region_of, regions_of
from emrecon.sims import Box, Cylinder, Ellipsoid, Phantom, nema_iec_body
from emrecon.sims import Region as Painted

RNG = np.random.default_rng(3)
SHAPE = (7, 6, 5)
IMAGE = RNG.random((2, 3, *SHAPE))
MASK = RNG.random(SHAPE) < 0.3
WEIGHTS = np.where(MASK, RNG.uniform(0.1, 1, SHAPE), 0)
GRID = ImageGrid((40, 36, 30), (2.0, 2.5, 3.0), (-30.0, -40.0, 12.0))


# ---- what a region holds ---------------------------------------------------------------------------------------------


def test_a_mask_gives_the_numbers_of_its_voxels():
    region = RegionOfInterest("lesion", MASK)
    values = IMAGE[:, :, MASK]
    np.testing.assert_array_equal(region.values(IMAGE), values)
    np.testing.assert_allclose(region.mean(IMAGE), values.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(region.sd(IMAGE), values.std(-1, ddof=1), rtol=1e-12)
    np.testing.assert_array_equal(region.max(IMAGE), values.max(-1))
    assert region.volume(ImageGrid(SHAPE, (2, 3, 4))) == pytest.approx(MASK.sum() * 0.024)
    np.testing.assert_array_equal(region.weights, MASK)
    assert "'lesion'" in repr(region)
    assert "7x6x5" in repr(region)


def test_parts_of_voxels_are_weights():
    region, w = RegionOfInterest("lesion", WEIGHTS), WEIGHTS[MASK]
    values = IMAGE[1, 2][MASK]
    mean = np.average(values, weights=w)
    assert region.mean(IMAGE[1, 2]) == pytest.approx(mean, rel=1e-12)
    variance = (w * (values - mean) ** 2).sum() / (w.sum() - (w**2).sum() / w.sum())
    assert region.sd(IMAGE[1, 2]) == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert region.max(IMAGE[1, 2]) == values[w >= 0.5].max()
    assert region.n_voxels == pytest.approx(w.sum())
    np.testing.assert_array_equal(region.weights, WEIGHTS)


def test_the_deviation_of_independent_voxels_is_unbiased():
    region, x = RegionOfInterest("lesion", WEIGHTS), RNG.normal(size=(4000, *SHAPE))
    assert np.mean(region.sd(x) ** 2) == pytest.approx(1, abs=0.03)


def test_a_region_that_is_mostly_outside_of_all_its_voxels_has_a_maximum():
    weights = np.zeros(SHAPE)
    weights[2, 3, 1:3] = 0.2
    assert RegionOfInterest("small", weights).max(IMAGE[0, 0]) == IMAGE[0, 0, 2, 3, 1:3].max()


@pytest.mark.parametrize("method", ["mean", "sd", "max", "values"])
def test_libraries(method):
    region = RegionOfInterest("lesion", WEIGHTS)
    expected = getattr(region, method)(IMAGE)
    tensor = torch.tensor(IMAGE).requires_grad_()
    found = getattr(region, method)(tensor)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(getattr(region, method), (tensor,), fast_mode=True)
    strict = getattr(region, method)(array_api_strict.asarray(IMAGE))
    np.testing.assert_allclose(np.asarray(strict), expected, rtol=1e-12)
    single = getattr(region, method)(IMAGE.astype(np.float32))
    np.testing.assert_allclose(single, expected, rtol=1e-6)
    fortran = getattr(region, method)(np.asfortranarray(IMAGE))
    np.testing.assert_array_equal(fortran, expected)


def test_gradients_of_a_uniform_region_are_finite():
    image = torch.ones(SHAPE, dtype=torch.float64, requires_grad=True)
    RegionOfInterest("lesion", MASK).sd(image).backward()
    assert torch.isfinite(image.grad).all()


def test_masks_of_any_library_and_pickles():
    for weights in (torch.tensor(WEIGHTS), np.asfortranarray(WEIGHTS), WEIGHTS.astype(np.float64)):
        region = RegionOfInterest("lesion", weights)
        assert region.mean(IMAGE[0, 0]) == RegionOfInterest("lesion", WEIGHTS).mean(IMAGE[0, 0])
    assert RegionOfInterest("lesion", MASK.astype(np.uint8)).n_voxels == MASK.sum()
    region.mean(torch.tensor(IMAGE))
    copy = pickle.loads(pickle.dumps(region))
    np.testing.assert_array_equal(copy.mean(IMAGE), region.mean(IMAGE))
    assert copy.name == "lesion"


def test_regions_are_frozen_and_their_own():
    weights = WEIGHTS.copy()
    region = RegionOfInterest("lesion", weights)
    weights[:] = 1
    np.testing.assert_array_equal(region.weights, WEIGHTS)
    with pytest.raises(AttributeError):
        region.name = "other"
    with pytest.raises(ValueError, match="read-only"):
        region.parts[0] = 1


def test_impossible_regions():
    for bad, message in (
        (np.zeros(SHAPE), "'x' holds no voxel"),
        (2 * WEIGHTS, "weights run from"),
        (-WEIGHTS, "weights run from"),
        (np.where(MASK, np.nan, 0), "weights run from nan"),
        (3 * MASK.astype(int), "of a label map, `regions_of` makes regions"),
    ):
        with pytest.raises(ValueError, match=message):
            RegionOfInterest("x", bad)
    with pytest.raises(TypeError, match="region 'x' expects an array"):
        RegionOfInterest("x", [[1, 0]])
    region = RegionOfInterest("x", MASK)
    with pytest.raises(
        ValueError, match=r"<RegionOfInterest 'x', .*> was made for images of \(7, 6, 5\), got \(7, 6, 4\)"
    ):
        region.mean(IMAGE[0, 0, ..., 1:])
    with pytest.raises(ValueError, match=r"not for a grid of \(40, 36, 30\)"):
        region.volume(GRID)
    single = np.zeros(SHAPE)
    single[1, 2, 3] = 0.7
    with pytest.raises(ValueError, match="one value has no standard deviation"):
        RegionOfInterest("x", single).sd(IMAGE)


# ---- shapes ----------------------------------------------------------------------------------------------------------

CENTRE = (8.3, 1.1, 55.7)


@pytest.mark.parametrize("diameter", [44.0, 20.0, 8.0])
def test_a_sphere_has_its_volume_and_its_centre(diameter):
    region = region_of("sphere", Sphere(CENTRE, diameter), GRID)
    assert region.volume(GRID) == pytest.approx(math.pi * diameter**3 / 6000, rel=2e-3)
    for c, coordinates in zip(CENTRE, GRID.coordinates()):
        assert region.mean(np.broadcast_to(coordinates, GRID.shape)) == pytest.approx(c, abs=0.02)


@pytest.mark.parametrize(
    "solid",
    [
        Ellipsoid(CENTRE, (17, 9, 12), 30),
        Cylinder(CENTRE, (15, 8), 31.3, 20),
        Box(CENTRE, (20.3, 11.1, 13.7)),
        Box(CENTRE, (20.3, 1.1, 13.7), 40),
    ],
    ids=["ellipsoid", "cylinder", "box", "plate"],
)
def test_the_solids_of_phantoms(solid):
    region = region_of("solid", solid, GRID)
    assert region.volume(GRID) == pytest.approx(solid.volume, rel=3e-3)
    painted = Phantom((Painted("solid", solid, 1.0),)).activity(GRID, 8)
    np.testing.assert_allclose(region.weights, painted, atol=0.06)
    assert np.abs(region.weights - painted).mean() < 2e-4


class Duck:
    """A ring with a hole, which no solid is: only `contains`, and bounds from a method."""

    def bounds(self):
        return (-15, -15, 40), (15, 15, 50)

    def contains(self, x, y, z):
        r = np.hypot(x, y)
        return (r > 9) & (r < 15) & (np.abs(z - 45) < 5)


def test_any_shape_will_do():
    region = region_of("ring", Duck(), GRID)
    assert region.volume(GRID) == pytest.approx(math.pi * (15**2 - 9**2) * 10 / 1000, rel=3e-3)


def test_a_sphere_and_an_ellipsoid_are_the_same():
    ours, theirs = (region_of("a", shape, GRID) for shape in (Sphere(CENTRE, 22), Ellipsoid(CENTRE, 11)))
    np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_a_shape_that_hits_no_centre_is_found():
    grid = ImageGrid((8, 8, 8), 10.0)
    region = region_of("small", Sphere((2.0, 1.5, -1.5), 3.0), grid)
    assert region.volume(grid) == pytest.approx(math.pi * 27 / 6000, rel=0.15)
    with pytest.raises(ValueError, match="'small' holds no voxel"):
        region_of("small", Sphere((2.0, 1.5, -1.5), 3.0), grid, oversample=1)


def test_what_reaches_out_of_the_grid_is_cut_off():
    half = region_of("half", Sphere((-31.0, 0.0, 55.0), 30.0), GRID)
    assert half.volume(GRID) == pytest.approx(math.pi * 30**3 / 12000, rel=3e-3)
    long = region_of("long", Cylinder((5, 0, 0), 20), GRID)
    assert long.volume(GRID) == pytest.approx(math.pi * 400 * 90 / 1000, rel=3e-3)


def test_one_slice_shows_the_plane_through_its_middle():
    flat = ImageGrid((60, 60, 1), (1.0, 1.0, 8.0))
    for solid in (Cylinder((2.2, 1, 0), 13), Ellipsoid((2.2, 1, 0), 13)):
        region = region_of("disc", solid, flat)
        assert region.n_voxels == pytest.approx(math.pi * 169, rel=2e-3)
    painted = nema_iec_body().fraction(ImageGrid((200, 160, 1), 2.0), "background")
    assert RegionOfInterest("background", painted).n_voxels > 1000


def test_faces_are_resolved_to_the_square_of_the_samples():
    x, y, z = _offsets((1.0, 2.0, 3.0), 8).T
    for offsets, half in ((x, 1), (y, 2), (z, 3)):
        assert np.abs(offsets).max() < half
        assert len(np.unique(np.round(offsets, 9))) == 64
    points = np.stack([x, y, z], 1)
    assert {tuple(p) for p in np.round(points, 9)} == {tuple(p) for p in np.round(-points, 9) + 0.0}
    flat = _offsets((1.0, 2.0, 0.0), 8)
    assert flat.shape == (64, 3)
    assert np.all(flat[:, 2] == 0)


def test_impossible_shapes():
    with pytest.raises(ValueError, match="'far' holds no voxel: is it empty, or outside of the grid"):
        region_of("far", Sphere((500, 0, 0), 20), GRID)
    with pytest.raises(ValueError, match="oversample must be at least 1"):
        region_of("a", Sphere(CENTRE, 20), GRID, oversample=0)
    for diameter in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="diameter must be positive"):
            Sphere(CENTRE, diameter)
    with pytest.raises(ValueError, match="3 finite numbers"):
        Sphere((0, 0), 3)


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_labels_become_regions():
    labels = RNG.integers(0, 4, SHAPE)
    regions = regions_of(labels, ("outside", "a", "b", "c"))
    assert [region.name for region in regions] == ["a", "b", "c"]
    for k, region in enumerate(regions, 1):
        np.testing.assert_array_equal(region.weights, labels == k)
    assert [region.name for region in regions_of(labels)] == ["1", "2", "3"]
    assert [region.name for region in regions_of(torch.tensor(labels), {3: "c", 1: "a", 9: "none"})] == ["a", "c"]
    assert len(regions_of(labels.astype(float))) == 3
    means = region_means(IMAGE, regions)
    assert means.shape == (2, 3, 3)
    assert means[1, 2, 0] == pytest.approx(IMAGE[1, 2][labels == 1].mean())


def test_labels_of_a_phantom():
    phantom = nema_iec_body()
    grid = ImageGrid((90, 70, 12), 4.0)
    regions = regions_of(*phantom.labels(grid))
    assert "background" in {region.name for region in regions}
    assert sum(region.n_voxels for region in regions) == (phantom.labels(grid)[0] > 0).sum()


def test_impossible_labels():
    labels = RNG.integers(0, 4, SHAPE)
    with pytest.raises(ValueError, match="labels run from 1 to 3, but there are 2 names"):
        regions_of(labels, ("outside", "a"))
    with pytest.raises(ValueError, match="labels run from -1"):
        regions_of(np.where(labels == 1, -1, 0), ("outside", "a"))
    with pytest.raises(ValueError, match="whole numbers; was the label map interpolated"):
        regions_of(labels + 0.5)
    with pytest.raises(ValueError, match="no voxel has a label"):
        regions_of(0 * labels)
    with pytest.raises(ValueError, match="no voxel has a label"):
        regions_of(labels, {7: "seven"})
    with pytest.raises(ValueError, match="region_means got no regions"):
        region_means(IMAGE, ())
