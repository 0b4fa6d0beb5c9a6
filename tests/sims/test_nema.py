"""The NEMA IEC body phantom: its outline, volumes, fillings and line integrals."""

import math

import numpy as np
import pytest

from emrecon.projectors import ImageGrid, linear_attenuation
from emrecon.sims.phantoms.nema import NEMA_SPHERES, nema_iec_body, nema_layout
from emrecon.sims.phantoms.shapes import Box, Cylinder, Ellipsoid, Intersection

INSIDE = math.pi * 147**2 / 2 + 2 * math.pi * 77**2 / 4 + 140 * 77  # mm2
RNG = np.random.default_rng(11)


def depth(x, y):
    """How far inside the outline points are, in mm; negative outside."""
    front, back = 147 - np.hypot(x, y - 35), 77 - np.hypot(np.maximum(np.abs(x) - 70, 0), y - 35)
    return np.where(y < 35, front, back)


def total(phantom, name, grid, oversample=4):
    return phantom.fraction(grid, name, oversample).sum(dtype=float) * grid.voxel_volume


def test_volume_of_the_torso():
    grid = ImageGrid((160, 125, 20), (2.0, 2.0, 10.0), (-159, -124, -115))
    volume = total(nema_iec_body(lung=False, walls=False), "background", grid)
    spheres = sum(math.pi / 6 * d**3 for d in NEMA_SPHERES) / 1000
    assert volume + spheres == pytest.approx(INSIDE * 180 / 1000, rel=1e-3)
    assert volume + spheres == pytest.approx(9700, rel=5e-3)


@pytest.mark.parametrize("diameter", NEMA_SPHERES)
def test_volumes_of_the_spheres(diameter):
    phantom = nema_iec_body()
    centre = nema_layout()["centres"][NEMA_SPHERES.index(diameter)]
    n = int(diameter / 0.5) + 8
    grid = ImageGrid((n, n, n), 0.5, tuple(centre - (n - 1) / 4))
    exact = math.pi / 6 * diameter**3 / 1000
    assert total(phantom, f"sphere {diameter:g} mm", grid) == pytest.approx(exact, rel=5e-3)
    shell = math.pi / 6 * (diameter + 2) ** 3 / 1000 - exact
    assert total(phantom, "wall", grid) == pytest.approx(shell, rel=1e-2)
    assert math.hypot(*centre) == pytest.approx(57.2)
    assert centre[2] == 0


def test_the_spheres_follow_over_the_front_by_size():
    centres = nema_layout()["centres"]
    angles = np.degrees(np.arctan2(-centres[:, 1], centres[:, 0])) % 360  # the front is at -y
    np.testing.assert_allclose(angles, 60.0 * np.arange(6), atol=1e-9)


def test_the_outline_is_that_of_the_standard():
    grid = ImageGrid((320, 240, 1), 1.0, (-159.5, -119.5, -50))
    labels, names = nema_iec_body(lung=False).labels(grid)
    x, y, _ = grid.coordinates()
    d = depth(x, y)
    expected = np.where(d > 0, names.index("background"), np.where(d > -3, names.index("wall"), 0))
    np.testing.assert_array_equal(labels[..., 0], expected[..., 0])
    inside = np.argwhere(labels[..., 0] == names.index("background"))
    assert np.ptp(inside, axis=0).tolist() == [293, 223]  # 294 x 224 mm
    # a patient on the back: flat behind, round in front
    flat, round_ = (labels[:, j, 0] == names.index("background") for j in (inside[:, 1].max(), inside[:, 1].min()))
    assert flat.sum() > 130 > 50 > round_.sum()


def test_the_ends():
    grid = ImageGrid((1, 1, 260), 1.0, (0, 100, -129.5))
    labels, names = nema_iec_body().labels(grid)
    z = grid.coordinates()[2].ravel()
    expected = np.where((z > -110) & (z < 70), names.index("background"), 0)
    expected[(z > -120) & (z < -110) | (z > 70) & (z < 80)] = names.index("wall")
    np.testing.assert_array_equal(labels[0, 0], expected)


def value(phantom, point, energy=511.0):
    """Activity and mu at a point."""
    grid = ImageGrid((1, 1, 2), 1e-3, tuple(map(float, point)))  # two slices: one would be two-dimensional
    return float(phantom.activity(grid, 1)[0, 0, 0]), float(phantom.attenuation(grid, energy, 1)[0, 0, 0])


def test_fillings():
    centres = nema_layout()["centres"]
    activities = [value(nema_iec_body(), c)[0] for c in centres]
    assert activities == [4.0] * 6
    old = nema_iec_body(8, 5.3, cold=(28, 37))
    assert [value(old, c)[0] for c in centres] == pytest.approx([0, 0, 42.4, 42.4, 42.4, 42.4])
    assert nema_layout(8, cold=(28, 37))["ratios"].tolist() == [0, 0, 8, 8, 8, 8]
    assert value(old, (0, 80, 0))[0] == pytest.approx(5.3)
    assert value(old, (0, 0, -60))[0] == 0
    assert value(nema_iec_body(lung=False), (0, 0, -60))[0] == 1
    for cold in ((12,), (28, 36)):
        with pytest.raises(ValueError, match="unknown spheres; choose diameters from 37, 28, 22"):
            nema_iec_body(cold=cold)
        with pytest.raises(ValueError, match="unknown spheres"):
            nema_layout(cold=cold)
    with pytest.raises(ValueError, match=">= 0"):
        nema_iec_body(-1)


def test_attenuation():
    phantom = nema_iec_body()
    points = {"water": (0, 80, 0), "lung": (0, 0, 0), "tube": (0, 23.7, 0), "wall": (0, 113.5, 0), "sphere": (0, 0, 0)}
    mu = {name: value(phantom, point)[1] for name, point in points.items()}
    assert mu["water"] == pytest.approx(0.0960, abs=2e-4)
    assert mu["lung"] == pytest.approx(0.0286, abs=2e-4)
    # mass attenuation of PMMA by NIST
    for energy, mass_attenuation in ((500, 0.09410), (150, 0.1456), (60, 0.1924)):
        assert value(phantom, points["wall"], energy)[1] == pytest.approx(1.18 * mass_attenuation, rel=1e-5)
    assert mu["tube"] == mu["wall"]
    assert value(phantom, (0, 0, 0), 140.5)[1] == pytest.approx(linear_attenuation("lung", 140.5, 0.30), rel=1e-5)
    assert value(nema_iec_body(walls=False), points["wall"]) == (0, 0)
    assert value(nema_iec_body(walls=False), points["tube"])[1] == mu["lung"]


def test_line_integrals():
    phantom = nema_iec_body(4, lung=False, walls=False)
    beside = 100.0
    chord = np.sqrt(147**2 - beside**2) + np.sqrt(77**2 - 30**2)
    assert phantom.line_integral((beside, 0, -50), (0, 3, 0)) == pytest.approx(chord)
    assert phantom.line_integral((0, 35, -50), (1, 0, 0)) == pytest.approx(294)  # along the seam of the parts
    assert phantom.line_integral((0, 100, 0), (0, 0, 1)) == pytest.approx(180)
    through = phantom.line_integral((57.2, 0, 0), (0, 1, 0))  # the sphere of 37 mm
    whole = np.sqrt(147**2 - 57.2**2) + 77
    assert through == pytest.approx(whole + 3 * 37)
    assert nema_iec_body().line_integral((0, 0, 0), (0, 0, 1)) == 0
    assert nema_iec_body(lung=False).line_integral((0, 0, 0), (0, 0, 1)) == pytest.approx(180)
    depth_of_lung = nema_iec_body(walls=False).attenuation_integral((0, 0, 0), (0, 0, 1), 511)
    assert depth_of_lung == pytest.approx(18 * linear_attenuation("lung", 511, 0.30))
    assert nema_iec_body().line_integral((0, 140, 0), (1, 0, 0)) == 0


def test_line_integrals_of_any_line_agree_with_samples():
    phantom = nema_iec_body()
    points, directions = RNG.uniform(-60, 60, (40, 3)), RNG.normal(size=(40, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    t = np.arange(-250, 250, 0.05)
    samples = points[:, None] + t[:, None] * directions[:, None]
    activity = np.zeros(samples.shape[:2])
    for region in phantom.regions:
        if region.activity is not None:
            activity[region.shape.contains(*np.moveaxis(samples, -1, 0))] = region.activity
    np.testing.assert_allclose(phantom.line_integral(points, directions), activity.sum(1) * 0.05, atol=1.5)


def test_moved_phantoms_keep_their_shape():
    phantom, (dx, dy) = nema_iec_body(), (7.0, -4.0)
    moved = phantom.moved((dx, dy, 3.0), 90)  # (x, y) turns into (-y, x)
    points, directions = RNG.uniform(-60, 60, (20, 3)), RNG.normal(size=(20, 3))

    def turned(v):
        return np.stack([-v[:, 1], v[:, 0], v[:, 2]], 1)

    expected = phantom.line_integral(points, directions)
    again = moved.line_integral(turned(points) + np.array([dx, dy, 3.0]), turned(directions))
    np.testing.assert_allclose(again, expected, rtol=1e-9)


def test_what_is_common_to_solids():
    ball, box = Ellipsoid((0, 0, 0), 10), Box((5, 0, 0), (10, 30, 30))  # half a ball
    half = Intersection((ball, box))
    np.testing.assert_allclose(half.bounds, ([0, -10, -10], [10, 10, 10]))
    points = RNG.uniform(-12, 12, (3, 2000))
    inside = half.contains(*points)
    np.testing.assert_array_equal(inside, ball.contains(*points) & box.contains(*points))
    enter, leave = half.crossing((0, 0, 0), (2, 0, 0))
    assert (float(enter), float(leave)) == pytest.approx((0, 10))
    enter, leave = half.crossing((-50, 9, 9), (0, 1, 0))
    assert enter == leave
    # crosses both, but not at the same place
    enter, leave = half.crossing((-5, 0, 0), (1, 12, 0))
    assert enter == leave
    edge = half.straddles(*points, (1.0, 1.0, 1.0))
    for corner in RNG.uniform(-1, 1, (40, 3)):
        different = half.contains(*(points + corner[:, None])) != inside
        assert not (different & ~edge).any()
    assert not half.straddles(5.0, 0.0, 0.0, (1.0, 1.0, 1.0))
    assert not half.straddles(-5.0, 9.0, 9.0, (0.5, 0.5, 0.5))
    enter, leave = Intersection((ball, Cylinder((0, 0, 0), 20))).crossing(
        (0, 0, 0), (0, 0, 1)
    )  # infinite in the cylinder
    assert (float(enter), float(leave)) == pytest.approx((-10, 10))


def test_background_regions_keep_their_distances():
    layout = nema_layout()
    x, y = layout["background_centres"].T
    assert x.size == 12
    assert depth(x, y).min() - 18.5 >= 15
    to_spheres = np.hypot(*(layout["background_centres"][:, None] - layout["centres"][:, :2]).T)
    assert to_spheres.min() - 18.5 - (37 / 2 + 1) >= 1.5  # also if the largest sphere were anywhere on the ring
    assert np.hypot(x, y).min() - 18.5 > 25
    i, j = np.triu_indices(12, 1)
    assert np.hypot(x[i] - x[j], y[i] - y[j]).min() > 37
    assert layout["slices"].tolist() == [-20, -10, 0, 10, 20]
    assert nema_layout(lung=False)["lung_centre"] is None
