"""The left ventricle and its 17 segments, defects, polar maps, and the cardiac torso."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from emrecon.projectors import ImageGrid
from emrecon.sims import Phantom
from emrecon.sims.phantoms.cardiac import (
    PERFUSION,
    SEGMENTS,
    Defect,
    LeftVentricle,
    bullseye,
    cardiac_torso,
    random_cardiac_torso,
)

PI = math.pi
PLAIN = LeftVentricle()
TILTED = LeftVentricle((3, -5, 4), (-0.3, 0.8, 0.4), 22.0, 12.0, 84.0, cylinder=25.0, roll=-37.0)
VENTRICLES = [PLAIN, TILTED]


def painted(phantom, name, grid, oversample=2):
    return phantom.fraction(grid, name, oversample).sum(dtype=float) * grid.voxel_volume


def around(ventricle, spacing=2.0):
    n = math.ceil(1.2 * (ventricle.length + ventricle.radius) / spacing)
    return ImageGrid((n, n, n), spacing, tuple(np.array(ventricle.centre) - spacing * (n - 1) / 2))


def radius(s, wide, tip, straight):
    """The radius of a bullet at a distance s from its base: a cylinder, then half an ellipsoid."""
    if s > tip:
        return 0.0
    return wide * math.sqrt(1 - (max(s - straight, 0) / (tip - straight)) ** 2)


def shell(ventricle, low=0.0, high=1.0, inner=0.0, outer=1.0):
    """The volume in mL between two depths of the wall and two fractions of the axis, by quadrature."""
    v = ventricle

    def area(s):
        (wide, tip), (thin, end) = (
            (v.radius + depth * v.wall, v.length - (1 - depth) * v.wall) for depth in (outer, inner)
        )
        return PI * (radius(s, wide, tip, v.cylinder) ** 2 - radius(s, thin, end, v.cylinder) ** 2)

    ends = (low * v.length, high * v.length)
    kinks = [s for s in (v.cylinder, *(v.length - (1 - d) * v.wall for d in (inner, outer))) if ends[0] < s < ends[1]]
    return quad(area, *ends, points=kinks or None, limit=200)[0] / 1000


def frame(ventricle):
    """Unit vectors to the septum, the anterior wall and the apex, from the docstring."""
    axis = np.array(ventricle.direction) / np.linalg.norm(ventricle.direction)
    anterior = np.array((0, 0, 1.0)) - axis[2] * axis
    anterior /= np.linalg.norm(anterior)
    septum, turn = np.cross(axis, anterior), math.radians(ventricle.roll)
    return (
        math.cos(turn) * septum + math.sin(turn) * anterior,
        math.cos(turn) * anterior - math.sin(turn) * septum,
        axis,
    )


def in_the_wall(ventricle, place, angle, depth=0.5):
    """A point of the wall: fraction of the length, degrees from the septum over the anterior wall, and depth."""
    v = ventricle
    septum, anterior, axis = frame(v)
    s, turn = place * v.length, math.radians(angle)
    r = radius(s, v.radius + depth * v.wall, v.length - (1 - depth) * v.wall, v.cylinder)
    base = np.array(v.centre) - v.length / 2 * axis
    return base + s * axis + r * (math.cos(turn) * septum + math.sin(turn) * anterior)


def at(regions, point):
    return next((r for r in reversed(regions) if r.shape.contains(*point)), None)


# ---- ventricle -------------------------------------------------------------------------------------------------------


def test_volume_of_the_default():
    assert PLAIN.myocardial_volume == pytest.approx(2 / 3 * PI * (35**2 * 90 - 25**2 * 80) / 1000)
    assert PLAIN.cavity_volume == pytest.approx(2 / 3 * PI * 25**2 * 80 / 1000)
    assert 110 < PLAIN.myocardial_volume < 150


@pytest.mark.parametrize("ventricle", VENTRICLES)
def test_volumes(ventricle):
    v, grid = ventricle, around(ventricle, 2.5)
    straight = PI * ((v.radius + v.wall) ** 2 - v.radius**2) * v.cylinder
    outer, inner = (v.radius + v.wall) ** 2 * (v.length - v.cylinder), v.radius**2 * (v.length - v.wall - v.cylinder)
    exact = (straight + 2 / 3 * PI * (outer - inner)) / 1000
    assert v.myocardial_volume == pytest.approx(exact)
    assert shell(v) == pytest.approx(exact, rel=1e-6)
    phantom = Phantom(v.regions())
    assert painted(phantom, "cavity", grid) == pytest.approx(v.cavity_volume, rel=5e-3)
    # activity 1 in the myocardium alone
    assert phantom.activity(grid, 2).sum(dtype=float) * grid.voxel_volume == pytest.approx(exact, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ventricle", VENTRICLES)
def test_volumes_of_the_segments(ventricle):
    v = ventricle
    inside = (v.length - v.wall) / v.length
    rings = [(6, 0, 1 / 3), (6, 1 / 3, 2 / 3), (4, 2 / 3, 1)]
    exact = [shell(v, a * inside, b * inside) / n for n, a, b in rings for _ in range(n)] + [shell(v, inside, 1)]
    np.testing.assert_allclose([v.segment_volume(k) for k in range(1, 18)], exact, rtol=1e-5)
    assert sum(exact) == pytest.approx(v.myocardial_volume)
    grid, phantom = around(v, 2.0), Phantom(v.regions())
    for k in (1, 5, 8, 12, 14, 17):
        assert painted(phantom, SEGMENTS[k - 1], grid, 3) == pytest.approx(exact[k - 1], rel=5e-3)


@pytest.mark.parametrize("ventricle", VENTRICLES)
def test_segments_are_where_their_names_say(ventricle):
    regions, v = ventricle.regions(), ventricle
    walls = ("anterior", "anteroseptal", "inferoseptal", "inferior", "inferolateral", "anterolateral")
    # around from the middle of the septum over the anterior and the lateral to the inferior wall
    middle = dict(zip(walls, (90, 30, -30, -90, -150, 150)))
    third = (v.length - v.wall) / v.length / 3
    for depth in (0.05, 0.5, 0.95):
        for k, ring in enumerate(("basal", "mid")):
            for wall, angle in middle.items():
                for off in (-29, 0, 29):
                    for place in (k + 0.05, k + 0.95):
                        point = in_the_wall(v, place * third, angle + off, depth)
                        assert at(regions, point).name == f"{ring} {wall}"
        for wall, angle in (("anterior", 90), ("septal", 0), ("inferior", 270), ("lateral", 180)):
            for off in (-44, 0, 44):
                assert at(regions, in_the_wall(v, 2.05 * third, angle + off, depth)).name == f"apical {wall}"
    septum, anterior, axis = frame(v)
    tip = np.array(v.centre) + (v.length / 2 - v.wall / 2) * axis
    assert at(regions, tip).name == "apex"
    assert at(regions, np.array(v.centre)).name == "cavity"
    np.testing.assert_allclose(v.axes, np.stack([septum, anterior, axis], 1), atol=1e-12)


def test_numbers_are_those_of_the_heart_association():
    assert len(SEGMENTS) == 17
    assert [SEGMENTS[n - 1] for n in (1, 2, 6, 7, 9, 13, 14, 16, 17)] == [
        *("basal anterior", "basal anteroseptal", "basal anterolateral", "mid anterior", "mid inferoseptal"),
        *("apical anterior", "apical septal", "apical lateral", "apex"),
    ]


def test_seen_from_the_apex_the_anterior_wall_is_above_and_the_septum_at_the_left():
    toward = -np.array(PLAIN.direction)  # the eye at the apex looks at the base
    right = np.cross(toward, (0, 0, 1))
    anterior, septum, inferior, lateral = (in_the_wall(PLAIN, 0.3, angle) for angle in (90, 0, 270, 180))
    assert anterior[2] > septum[2] + 20
    assert septum[2] == pytest.approx(lateral[2])
    assert inferior[2] < septum[2] - 20
    assert septum @ right < min(anterior @ right, inferior @ right)
    assert lateral @ right > max(anterior @ right, inferior @ right)
    # the septum is to the right and the front, where the right ventricle is
    assert septum[0] < lateral[0] - 30
    assert septum[1] < lateral[1] - 30


def test_lines_through_the_ventricle():
    rng = np.random.default_rng(0)
    step = 0.02
    for ventricle in VENTRICLES:
        defects = [Defect((2, 13), severity=0.7), Defect(extent=(100, 330), place=(0.2, 0.7), transmural=0.4)]
        phantom = Phantom(ventricle.regions(4.0, defects, blood=0.5))
        points = ventricle.centre + rng.uniform(-30, 30, (25, 3))
        directions = rng.normal(size=(25, 3))
        units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        samples = points[:, None] + np.arange(-130, 130, step)[:, None] * units[:, None]
        brute = np.zeros(samples.shape[:2])
        for region in phantom.regions:
            brute[region.shape.contains(*np.moveaxis(samples, -1, 0))] = region.activity
        np.testing.assert_allclose(phantom.line_integral(points, directions), brute.sum(1) * step, atol=40 * step)


# ---- defects ---------------------------------------------------------------------------------------------------------


def test_defects_take_their_segments_and_no_others():
    grid, plain = around(PLAIN, 2.5), Phantom(PLAIN.regions(10.0))
    defect = Defect((1, 7, 13), severity=0.8)
    phantom = Phantom(PLAIN.regions(10.0, [defect]))
    taken = sum(plain.fraction(grid, SEGMENTS[n - 1], 2) for n in defect.segments)
    np.testing.assert_allclose(phantom.fraction(grid, "defect 1", 2), taken, atol=1e-5)
    for n in (1, 2, 6, 14):
        expected = 0 if n in defect.segments else plain.fraction(grid, SEGMENTS[n - 1], 2)
        np.testing.assert_allclose(phantom.fraction(grid, SEGMENTS[n - 1], 2), expected, atol=1e-5)
    less = plain.activity(grid, 2) - phantom.activity(grid, 2)
    np.testing.assert_allclose(less, 8.0 * taken, atol=1e-4)


def test_means_of_the_segments():
    grid = around(PLAIN, 2.0)
    # blood and outside as the healthy myocardium: only the edges of the defects are between two values
    image = Phantom(PLAIN.regions(1.0, [Defect((4, 10), severity=0.5), Defect((17,), severity=1)], blood=1.0))
    activity = image.activity(grid, 2)
    shape = Phantom(PLAIN.regions(1.0, blood=1.0)).activity(grid, 2)
    means = PLAIN.segment_means(activity + 1 - shape, grid, 2)
    expected = np.ones(17)
    expected[[3, 9]], expected[16] = 0.5, 0.0
    np.testing.assert_allclose(means, expected, atol=0.15)  # partial volume
    others = np.setdiff1d(np.arange(17), [3, 9, 16, 2, 4, 8, 10, 14, 12, 13, 15])
    np.testing.assert_allclose(means[others], 1, atol=1e-4)
    with pytest.raises(ValueError, match="the image has shape"):
        PLAIN.segment_means(activity[:-1], grid)
    with pytest.raises(ValueError, match="outside of the grid"):
        PLAIN.segment_means(np.zeros((4, 4, 4)), ImageGrid((4, 4, 4), 2.0))


@pytest.mark.parametrize("ventricle", VENTRICLES)
@pytest.mark.parametrize(
    ("extent", "place", "transmural"),
    [((20, 75), (0, 1), 1.0), ((-40, 40), (0.15, 0.8), 0.4), ((200, 455), (0.15, 0.8), 0.4), ((0, 360), (0, 1), 1.0)],
)
def test_volumes_of_extents(ventricle, extent, place, transmural):
    defect = Defect(extent=extent, place=place, severity=0.3, transmural=transmural)
    phantom = Phantom(ventricle.regions(1.0, [defect]))
    exact = shell(ventricle, *place, outer=transmural) * (extent[1] - extent[0]) / 360
    grid = around(ventricle, 3.0)
    assert painted(phantom, "defect 1", grid, 3) == pytest.approx(exact, rel=7e-3)
    lost = 1 - phantom.activity(grid, 3).sum(dtype=float) * grid.voxel_volume / ventricle.myocardial_volume
    assert lost == pytest.approx(0.3 * exact / ventricle.myocardial_volume, abs=2e-3)


def test_extents_are_where_they_are_told():
    defects = [Defect(extent=(350, 400), place=(0.2, 0.6), severity=1, transmural=0.5)]
    regions = TILTED.regions(1.0, defects)
    for angle, place, depth in ((355, 0.4, 0.3), (5, 0.25, 0.1), (39, 0.55, 0.45)):
        assert at(regions, in_the_wall(TILTED, place, angle, depth)).name == "defect 1"
    for angle, place, depth in ((345, 0.4, 0.3), (45, 0.4, 0.3), (5, 0.15, 0.3), (5, 0.65, 0.3), (5, 0.4, 0.6)):
        assert at(regions, in_the_wall(TILTED, place, angle, depth)).name in SEGMENTS


def test_the_last_defect_holds():
    regions = PLAIN.regions(10.0, [Defect((1,), severity=0.2), Defect(extent=(80, 100), severity=0.9)])
    assert at(regions, in_the_wall(PLAIN, 0.1, 90)).activity == pytest.approx(1.0)
    assert at(regions, in_the_wall(PLAIN, 0.1, 110)).activity == pytest.approx(8.0)
    assert at(regions, in_the_wall(PLAIN, 0.1, 130)).activity == 10.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Defect(), "either by segments or by its extent"),
        (lambda: Defect((1,), (0, 30)), "either by segments or by its extent"),
        (lambda: Defect((0,)), "segments are 1 to 17"),
        (lambda: Defect((18,)), "segments are 1 to 17"),
        (lambda: Defect(extent=(30, 0)), "must increase"),
        (lambda: Defect(extent=(0, 400)), "up to 360"),
        (lambda: Defect(extent=(0, 30), place=(0.5, 0.2)), "base to apex"),
        (lambda: Defect((1,), place=(0.5, 0.7)), "have their place"),
        (lambda: Defect((1,), severity=1.2), "severity must be 0 to 1"),
        (lambda: Defect((1,), transmural=0), "transmural"),
        (lambda: LeftVentricle(radius=0), "must be positive"),
        (lambda: LeftVentricle(cylinder=80), "cylinder must be"),
        (lambda: LeftVentricle(direction=(0, 0, -1)), "tilt it a little"),
        (lambda: PLAIN.segment_volume(0), "numbered 1 to 17"),
        (lambda: bullseye([1] * 16), "17 values"),
        (lambda: cardiac_torso(ratios="mibi"), "choose from tc-99m, tl-201"),
        (lambda: cardiac_torso(ratios={"body": 1}), '"myocardium" is missing'),
        (lambda: cardiac_torso(ratios={"myocardium": 1}), '"body" is missing'),
        (lambda: cardiac_torso(ratios={"myocardium": 1, "body": 1, "brain": 1}), "unknown organ brain"),
        (lambda: random_cardiac_torso(-1), "non-negative integer"),
        (lambda: random_cardiac_torso(0, defects=(2, 1)), "lowest <= highest"),
    ],
)
def test_errors_name_the_cause(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- polar map -------------------------------------------------------------------------------------------------------


def test_bullseye():
    size = 400
    image = bullseye(np.arange(1, 18), size)
    assert np.isnan(image[0, 0])

    def value(r, angle):
        """At a fraction of the radius and degrees from the left (the septum) over the top (the anterior wall)."""
        turn = math.radians(angle)
        return image[int(size / 2 * (1 - r * math.sin(turn))), int(size / 2 * (1 - r * math.cos(turn)))]

    assert [value(0.9, angle) for angle in (90, 30, -30, -90, -150, 150)] == [1, 2, 3, 4, 5, 6]
    assert [value(0.6, angle) for angle in (90, 30, -30, -90, -150, 150)] == [7, 8, 9, 10, 11, 12]
    assert [value(0.4, angle) for angle in (90, 0, 270, 180)] == [13, 14, 15, 16]
    assert value(0.1, 77) == 17
    area = np.array([np.sum(image == n) for n in range(1, 18)]) / (PI / 4 * size**2)
    exact = np.repeat([7 / 16 / 6, 5 / 16 / 6, 3 / 16 / 4, 1 / 16], [6, 6, 4, 1])
    np.testing.assert_allclose(area, exact, rtol=0.02)


def test_bullseye_shows_the_segments_as_seen_from_the_apex():
    regions = PLAIN.regions()
    image = bullseye(np.arange(17), 60)
    right, up = np.cross(-PLAIN.axes[:, 2], PLAIN.axes[:, 1]), PLAIN.axes[:, 1]
    for row, column in np.argwhere(~np.isnan(image))[::7]:
        x, y = (column + 0.5) / 30 - 1, 1 - (row + 0.5) / 30
        angle = math.degrees(math.atan2(y, -x))
        ring = 3 - int(4 * math.hypot(x, y))
        if ring == 3 or abs(x) == abs(y):  # the diagonals are edges of the apical segments
            continue
        point = in_the_wall(PLAIN, (ring + 0.5) / 3 * 80 / 90, angle)
        away = point - PLAIN.base
        assert (away @ right) * x >= -1e-9
        assert (away @ up) * y >= -1e-9
        assert at(regions, point).name == SEGMENTS[int(image[row, column])]


# ---- torso -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratios", PERFUSION)
def test_cardiac_torso(ratios):
    phantom, table = cardiac_torso(defects=[Defect((4,), severity=0.6)], ratios=ratios), PERFUSION[ratios]
    activity = {region.name: region.activity for region in phantom.regions}
    assert {activity[name] for name in SEGMENTS} == {table["myocardium"]}
    assert activity["defect 1"] == pytest.approx(0.4 * table["myocardium"])
    assert activity["cavity"] == activity["heart"] == activity["aorta"] == table["blood"]
    assert activity["right ventricle"] == table["right ventricle"]
    assert activity["left lung"] == table["lung"]
    assert max(activity.values()) == table["myocardium"] > activity["liver"] > activity["body"]
    assert not set(cardiac_torso(right_ventricle=False).names) & {"right ventricle", "defect 1"}


def test_nothing_covers_the_myocardium_of_the_torso():
    for phantom, ventricle in ((cardiac_torso(), PLAIN), (cardiac_torso(TILTED_IN_PLACE), TILTED_IN_PLACE)):
        names = {
            at(phantom.regions, in_the_wall(ventricle, p, a)).name for p in (0.05, 0.5, 0.9) for a in range(0, 360, 20)
        }
        assert names <= set(SEGMENTS)


TILTED_IN_PLACE = LeftVentricle(radius=22, wall=12, length=85, cylinder=15, roll=10)


def test_the_right_ventricle_is_beside_the_septum():
    phantom = cardiac_torso()
    septum, _, axis = frame(PLAIN)
    x = PLAIN.base + 25 * axis
    along = [at(phantom.regions, x + d * septum).name for d in (0, 28, 45, 65)]
    assert along[0] == "cavity"
    assert along[1].endswith("septal")
    assert along[2] == "heart"
    opposite = at(phantom.regions, x - 45 * septum).name
    assert opposite == "left lung"
    wall = {at(phantom.regions, x + d * septum).name for d in np.arange(55, 75, 0.5)}
    assert "right ventricle" in wall


def test_random_cardiac_torsos():
    assert random_cardiac_torso(4) == random_cardiac_torso(4)
    assert random_cardiac_torso(4) != random_cardiac_torso(5)
    numbers = set()
    for seed in range(40):
        phantom = random_cardiac_torso(seed)
        defects = {r.name: r for r in phantom.regions if r.name.startswith("defect")}
        numbers.add(len(defects))
        muscle = next(r.activity for r in phantom.regions if r.name == "basal anterior")
        assert 8 <= muscle <= 12.5
        for region in defects.values():
            assert 0.1 <= 1 - region.activity / muscle <= 0.9
        # not one point of the ventricle is outside of the chest
        chest = [r.shape for r in phantom.regions if r.name == "body"]
        for name in ("apex", "basal anterior", "basal inferior"):
            shape = next(r.shape for r in phantom.regions if r.name == name)
            low, high = shape.bounds
            points = np.random.default_rng(0).uniform(low, high, (200, 3))
            points = points[shape.contains(*points.T)]
            assert np.all(np.any([s.contains(*points.T) for s in chest], axis=0))
    assert numbers == {0, 1, 2}
