"""Phantoms: solids, painted images and exact line integrals, against geometry, brute force and the projector."""

import math

import numpy as np
import pytest
from skimage.data import shepp_logan_phantom

from emrecon.projectors import ImageGrid, SPECTGeometry, SPECTProjector, linear_attenuation
from emrecon.sims import (
    Box,
    Cylinder,
    Ellipsoid,
    HalfSpace,
    Intersection,
    Oriented,
    Phantom,
    Region,
    random_brain,
    rotation_to,
    shepp_logan,
    spect_cylinder,
    uniform_cylinder,
)
from emrecon.sims.phantoms.ellipses import EllipseRanges, random_ellipses

SOLIDS = [
    Ellipsoid((3, -2, 1), 20),
    Ellipsoid((3, -2, 1), (30, 12, 20), 35),
    Cylinder((-4, 5, 2), (25, 15), 40, -20),
    Box((1, 2, -3), (30, 50, 24), 65),
    Oriented(Ellipsoid((2, 0, 3), (30, 12, 20), 35), rotation_to((1, -2, 0.5)), (3, -2, 1)),
    Oriented(Cylinder((0, 0, 0), (25, 15), 40), rotation_to((0, 0, -1)), (3, -2, 1)),
    Intersection((Ellipsoid((3, -2, 1), 30), HalfSpace((0, 0, 5), (1, 1, -2)), HalfSpace((0, 8, 0), (0, 1, 0)))),
]
PLANAR = [Cylinder((-4, 5, 0), (25, 15), angle=-20), Box((0, 3, 0), (30, 20, math.inf), 10)]
NESTED = Phantom(
    (
        Region("body", Ellipsoid((0, 0, 0), (80, 60, 70), 20), 1.0, "water"),
        Region("warm", Cylinder((20, 5, 0), (25, 15), 60, 40), 3.0),
        Region("bone", Box((-30, 0, 5), (20, 30, 40), -15), None, "bone-cortical"),
        Region("cold", Ellipsoid((25, 10, 5), 10), 0.0, mu=0.02),
        Region("hot", Ellipsoid((-25, 5, 0), (9, 14, 12)), 8.0),
    )
)


def random_lines(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-25, 25, (n, 3)), rng.normal(size=(n, 3))


def along(points, directions, reach=200.0, n=40000):
    """The middles of n steps along each line, (lines, n, 3), and the length of a step."""
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    t = (np.arange(n) + 0.5) / n * 2 * reach - reach
    return points[:, None] + t[:, None] * units[:, None], 2 * reach / n


# ---- solids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solid", SOLIDS + PLANAR, ids=repr)
def test_chord_is_the_length_of_the_line_inside(solid):
    points, directions = random_lines(60)
    if solid in PLANAR:
        directions[:, 2] *= 0.2
    samples, step = along(points, directions)
    brute = solid.contains(*np.moveaxis(samples, -1, 0)).sum(1) * step
    np.testing.assert_allclose(solid.chord(points, directions), brute, atol=2.01 * step)
    assert np.count_nonzero(brute) > 10


@pytest.mark.parametrize("solid", SOLIDS, ids=repr)
def test_lines_enter_and_leave_through_the_surface(solid):
    points, directions = random_lines()
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    enter, leave = solid.crossing(points, directions)
    for t, inwards in ((enter, 1e-6), (leave, -1e-6)):
        hit = leave > enter
        assert solid.contains(*(points + (t + inwards)[:, None] * units)[hit].T).all()
        assert not solid.contains(*(points + (t - inwards)[:, None] * units)[hit].T).any()


@pytest.mark.parametrize("solid", SOLIDS[:-1], ids=repr)
def test_volume_is_the_integral_of_chords(solid):
    geometry = SPECTGeometry.circular(1, 100, (160, 160), 0.5, start=33)
    image = Phantom((Region("solid", solid, 1.0),)).projection(geometry)
    assert image.sum(dtype=float) * 0.25 / 1000 == pytest.approx(solid.volume, rel=3e-4)


def test_chords_known_by_heart():
    assert Ellipsoid((0, 0, 0), 10).chord((6, 0, 0), (0, 3, 0)) == pytest.approx(16)
    assert Ellipsoid((0, 0, 0), 10).chord((11, 0, 0), (0, 1, 0)) == 0
    assert Cylinder((0, 0, 0), 10, 8).chord((1, 1, 5), (0, 0, 1)) == pytest.approx(8)
    assert Cylinder((0, 0, 0), 10).chord((6, 0, 300), (0, 1, 0)) == pytest.approx(16)
    assert Cylinder((0, 0, 0), 10).chord((6, 0, 0), (0, 0, 1)) == math.inf
    assert Cylinder((0, 0, 0), 10).chord((11, 0, 0), (0, 0, 1)) == 0
    assert Box((0, 0, 0), 2).chord((0, 0, 0), (1, 1, 1)) == pytest.approx(2 * math.sqrt(3))


def test_chords_broadcast_and_do_not_depend_on_the_point_of_the_line():
    points, directions = random_lines(20)
    solid = SOLIDS[1]
    table = solid.chord(points[:, None], directions)
    assert table.shape == (20, 20)
    np.testing.assert_allclose(np.diag(table), solid.chord(points - 500 * directions, -2 * directions), atol=1e-8)


@pytest.mark.parametrize("solid", SOLIDS + PLANAR, ids=repr)
def test_bounds_and_straddles_miss_nothing(solid):
    rng = np.random.default_rng(1)
    points, half = rng.uniform(-60, 60, (4000, 3)), (2.0, 3.0, 1.5)
    inside = solid.contains(*points.T)
    low, high = solid.bounds
    assert np.all((points >= low) & (points <= high), axis=1)[inside].all()
    corners = points[:, None] + np.array([(i, j, k) for i in (-2, 2) for j in (-3, 3) for k in (-1.5, 1.5)])
    states = solid.contains(*np.moveaxis(corners, -1, 0))
    mixed = states.any(1) & ~states.all(1)
    straddles = solid.straddles(*points.T, half)
    assert straddles[mixed].all()
    assert straddles.mean() < 0.5


@pytest.mark.parametrize("solid", SOLIDS, ids=repr)
def test_moved_solids(solid):
    points, directions = random_lines()
    c, s = math.cos(0.7), math.sin(0.7)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    offset = (5.0, -7.0, 3.0)
    moved = solid.moved(offset, math.degrees(0.7))
    np.testing.assert_allclose(
        moved.chord(points @ turn.T + offset, directions @ turn.T), solid.chord(points, directions), atol=1e-6
    )


def test_rotations_take_the_axis_where_they_should():
    for direction in ((0, 0, 1), (0, 0, -1), (1, 0, 0), (1, -2, 0.5), (1e-9, 0, -1)):
        R = np.array(rotation_to(direction))
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) > 0
        np.testing.assert_allclose(R @ [0, 0, 1], np.array(direction) / np.linalg.norm(direction), atol=1e-8)


def test_half_a_ball_has_half_its_volume():
    half = Phantom((Region("half", Intersection((Ellipsoid((0, 0, 0), 20), HalfSpace((0, 0, 0), (1, 2, 3)))), 1.0),))
    grid = ImageGrid((40, 40, 40), 1.2)
    assert half.activity(grid).sum() * 1.2**3 == pytest.approx(2 / 3 * math.pi * 20**3, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HalfSpace((0, 0, 0), (0, 0, 0)), "length zero"),
        (lambda: Intersection(()), "at least one"),
        (lambda: Oriented(Ellipsoid((0, 0, 0), 1), np.eye(3) * 2), "rotation matrix"),
        (lambda: Oriented(Ellipsoid((0, 0, 0), 1), np.diag([1, 1, -1])), "rotation matrix"),
        (lambda: Ellipsoid((0, 0), 1), "3 finite numbers"),
        (lambda: Ellipsoid((0, 0, 0), (1, 0, 1)), "positive"),
        (lambda: Cylinder((0, 0, 0), (1, math.inf)), "finite"),
        (lambda: Cylinder((0, 0, 0), 1, -2), "height"),
        (lambda: Box((0, 0, 0), (1, 2)), "3 finite"),
        (lambda: Ellipsoid((0, 0, 0), 1).chord((0, 0, 0), (0, 0, 0)), "length zero"),
        (lambda: Ellipsoid((0, 0, 0), 1).chord((0, 0), (1, 0)), "z component"),
        (lambda: Region("a", SOLIDS[0], -1.0), "'a': activity"),
        (lambda: Region("a", SOLIDS[0], 1.0, "water", 0.15), "one of them"),
        (lambda: Region("a", SOLIDS[0], 1.0, "cheese"), "choose from water"),
        (lambda: Region("a", SOLIDS[0], 1.0, density=0.3), "'a' has a density but no material"),
        (lambda: Region("a", SOLIDS[0], mu=0.1, density=0.3), "density but no material"),
        (lambda: Region("a", SOLIDS[0], 1.0, "lung", density=0.0), "'a': density must be positive"),
        (lambda: Region("a", SOLIDS[0], 1.0, "lung", density=math.nan), "'a': density must be positive"),
        (lambda: NESTED.fraction(ImageGrid((4, 4, 4), 1), "liver"), "body, warm"),
        (lambda: NESTED.activity(ImageGrid((4, 4, 4), 1), oversample=0), "at least 1"),
        (lambda: random_brain(0, 4), "2 or 3"),
        (lambda: random_brain(-1), "non-negative integer"),
        (lambda: random_ellipses(0, 1), "2 or 3"),
        (lambda: random_ellipses(-1), "non-negative integer"),
        (lambda: EllipseRanges(number=(4, 3)), "number must be 0 <= low <= high"),
        (lambda: EllipseRanges(activity=(-1, 3)), "activity must be 0 <= low"),
        (lambda: EllipseRanges(bones=(-1, 3)), "bones must be"),
        (lambda: EllipseRanges(size=(0, 3)), "size must be positive"),
        (lambda: EllipseRanges(size=(20, 80)), "at most 60 mm"),
        (lambda: random_ellipses(0, 2, EllipseRanges((30, 30), (40, 50), overlap=False)), "no room for ellipse"),
        (lambda: random_brain(0).line_integral((0, 0, 0), (0, 0, 1)), "never leaves an infinite region"),
    ],
)
def test_errors_name_the_cause(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solid", SOLIDS[:-1], ids=repr)
def test_painted_volume(solid):
    grid = ImageGrid((40, 45, 35), (2, 1.8, 2.3), (-40, -38, -41))
    image = Phantom((Region("solid", solid, 2.0),)).activity(grid)
    assert image.dtype == np.float32
    assert image.sum(dtype=float) * grid.voxel_volume == pytest.approx(2 * solid.volume, rel=2e-3)


def test_finer_sampling_of_edges_converges():
    grid = ImageGrid((24, 24, 24), 3.0)
    images = {n: NESTED.moved((1.1, 0.7, 0.3)).activity(grid, n) for n in (1, 2, 4, 12)}
    errors = [np.sqrt(np.mean((images[n] - images[12]) ** 2)) for n in (1, 2, 4)]
    assert errors[0] > 2 * errors[1] > 3 * errors[2]
    assert errors[2] < 0.01 * 8


def test_only_edges_differ_from_the_value_at_the_centre():
    grid = ImageGrid((32, 32, 32), 2.5)
    fine, coarse = NESTED.activity(grid, 8), NESTED.activity(grid, 1)
    labels, names = NESTED.labels(grid)
    same = np.array([0, 1, 3, 0, 0, 8])[labels]
    assert names == ("outside", "body", "warm", "bone", "cold", "hot")
    np.testing.assert_array_equal(coarse[labels != 3], same[labels != 3])  # the bone keeps the activity below
    around = [np.roll(labels, steps, (0, 1, 2)) for steps in np.ndindex(3, 3, 3)]
    interior = np.roll(np.all([shifted == around[0] for shifted in around], axis=0), (-1, -1, -1), (0, 1, 2))
    difference = np.abs(fine - coarse)
    assert np.mean(difference[interior] > 0) < 1e-3  # a corner may be cut off where no neighbour's centre is
    assert difference[interior].max() < 0.1
    assert difference[~interior].max() > 2


def test_large_images_are_painted_in_pieces(monkeypatch):
    grid = ImageGrid((13, 14, 15), 8.0)
    whole = NESTED.activity(grid)
    monkeypatch.setattr("emrecon.sims.phantoms.painting._VOXELS_AT_ONCE", 500)
    np.testing.assert_array_equal(NESTED.activity(grid), whole)


def test_attenuation_map():
    grid = ImageGrid((64, 64, 64), 2.5)
    mu, (labels, names) = NESTED.attenuation(grid, 140.5, oversample=1), NESTED.labels(grid)
    water, bone = linear_attenuation("water", 140.5), linear_attenuation("bone-cortical", 140.5)
    expected = {"outside": (0.0,), "body": (water,), "bone": (bone,), "cold": (0.02,), "hot": (water, bone)}
    for name, values in expected.items():
        assert set(np.unique(mu[labels == names.index(name)])) <= {np.float32(v) for v in values}


def test_density_scales_the_attenuation_of_a_material():
    lung = Region("lung", Ellipsoid((0, 0, 0), 20), 0.0, "lung", density=0.30)
    for energy in (75.0, 140.5, 511.0):
        assert lung.attenuation(energy) == linear_attenuation("lung", energy, 0.30)
        depth = Phantom((lung,)).attenuation_integral((0, 0, 0), (0, 1, 0), energy)
        assert depth == pytest.approx(4 * linear_attenuation("lung", energy, 0.30))
    assert Region("lung", Ellipsoid((0, 0, 0), 20), 0.0, "lung").attenuation(511) == linear_attenuation("lung", 511)


def test_fractions_add_up():
    grid = ImageGrid((24, 24, 24), 4.0)
    parts = {name: NESTED.fraction(grid, name) for name in NESTED.names[1:]}
    total = sum(parts.values())
    assert total.max() <= 1 + 1e-6
    volume = parts["hot"].sum(dtype=float) * grid.voxel_volume
    assert volume == pytest.approx(4 / 3 * math.pi * 9 * 14 * 12 / 1000, rel=0.01)


def test_a_grid_of_one_slice_shows_the_plane_through_its_middle():
    sphere = Phantom((Region("sphere", Ellipsoid((0, 0, 0), 20), 1.0),))
    for z in (0.0, 12.0):
        disc = sphere.activity(ImageGrid((64, 64, 1), (1, 1, 30), (-31.5, -31.5, z)), oversample=8)
        assert disc.sum() == pytest.approx(math.pi * (400 - z**2), rel=2e-3)


@pytest.mark.parametrize(("depth", "tolerance"), [(1, 1e-6), (8, 8 * 4 / 64)])
def test_turning_the_phantom_by_a_quarter_turns_the_image(depth, tolerance):
    grid = ImageGrid((32, 32, depth), 6.0)
    image, turned = NESTED.activity(grid), NESTED.moved(angle=90).activity(grid)
    np.testing.assert_allclose(turned, np.rot90(image, 1, (0, 1)), atol=tolerance)


# ---- line integrals --------------------------------------------------------------------------------------------------


def painted_along(samples, value):
    total = np.zeros(samples.shape[:-1])
    for region in NESTED.regions:
        if value(region) is not None:
            total[region.shape.contains(*np.moveaxis(samples, -1, 0))] = value(region)
    return total


@pytest.mark.slow
def test_line_integrals_of_nested_regions():
    points, directions = random_lines(80)
    samples, step = along(points, directions)
    brute = painted_along(samples, lambda r: r.activity).sum(1) * step
    np.testing.assert_allclose(NESTED.line_integral(points, directions), brute, atol=20 * step)
    brute = painted_along(samples, lambda r: r.attenuation(140.5)).sum(1) * step / 10
    np.testing.assert_allclose(NESTED.attenuation_integral(points, directions, 140.5), brute, atol=0.1 * step)


def test_attenuated_line_integrals():
    points, directions = random_lines(80)
    samples, step = along(points, directions)
    depth = painted_along(samples, lambda r: r.attenuation(140.5)) * step / 10
    ahead = np.cumsum(depth[:, ::-1], 1)[:, ::-1] - depth / 2
    brute = (painted_along(samples, lambda r: r.activity) * np.exp(-ahead)).sum(1) * step
    np.testing.assert_allclose(NESTED.attenuated_integral(points, directions, 140.5), brute, atol=20 * step)


def test_line_integrals_in_pieces_and_shapes(monkeypatch):
    points, directions = random_lines(60)
    points = points.reshape(3, 4, 5, 3)
    whole = NESTED.line_integral(points, directions[0])
    assert whole.shape == (3, 4, 5)
    monkeypatch.setattr("emrecon.sims.phantoms.phantom._CROSSINGS_AT_ONCE", 35)
    np.testing.assert_allclose(NESTED.line_integral(points, directions[0]), whole, rtol=1e-12)


def test_an_empty_phantom_is_empty():
    assert not Phantom(()).activity(ImageGrid((3, 3, 3), 1.0)).any()
    assert Phantom(()).line_integral(np.zeros((4, 3)), (1, 0, 0)).tolist() == [0, 0, 0, 0]
    assert NESTED.line_integral((0, 500, 0), (1, 0, 0)) == 0


def test_every_view_holds_all_the_activity():
    phantom = spect_cylinder()
    geometry = SPECTGeometry.circular(3, 150, (180, 188), (1.3, 1.0), start=10)
    grid = ImageGrid((128, 128, 96), 2.0)
    total = phantom.activity(grid).sum(dtype=float) * grid.voxel_volume
    seen = phantom.projection(geometry).sum((1, 2), dtype=float) * 1.3 * 1.0 / 1000
    np.testing.assert_allclose(seen, total, rtol=2e-3)


def test_a_turned_phantom_looks_the_same_from_the_turned_angle():
    angles = np.array([0.0, 37.0, 110.0])
    geometry = SPECTGeometry(angles, 150, (40, 20), (5, 6), shift=3.0, axial_shift=-2.0)
    turned = SPECTGeometry(angles - 25, 150, (40, 20), (5, 6), shift=3.0, axial_shift=-2.0)
    for energy in (None, 140.5):
        expected = NESTED.projection(geometry, energy)
        np.testing.assert_allclose(NESTED.moved(angle=25).projection(turned, energy), expected, rtol=1e-5, atol=1e-4)


def test_finer_bins_average_to_coarse_ones():
    fine = NESTED.projection(SPECTGeometry.circular(2, 150, (64, 32), (2, 4)))
    coarse = NESTED.projection(SPECTGeometry.circular(2, 150, (32, 16), (4, 8)), oversample=2)
    np.testing.assert_allclose(coarse, fine.reshape(2, 32, 2, 16, 2).mean((2, 4)), rtol=1e-5)


def assert_close(counts, expected, worst, typical):
    """Compare with the largest value: everywhere (edges included) and in the root mean square; totals to 0.2 %."""
    difference = np.abs(counts - expected) / expected.max()
    assert difference.max() < worst
    assert np.sqrt(np.mean(difference**2)) < typical
    np.testing.assert_allclose(counts.sum((1, 2), dtype=float), expected.sum((1, 2), dtype=float), rtol=2e-3)


def blurred_ball():
    """A ball whose activity falls towards its surface in many small steps, so that sampling it is accurate."""
    shells = np.linspace(50, 2, 25)
    return Phantom(
        tuple(Region(f"{r:g}", Ellipsoid((8, -12, 4), (r, 0.8 * r, 0.9 * r), 25), 1 - (r / 50) ** 2) for r in shells)
    )


@pytest.mark.slow
def test_projection_agrees_with_the_projector():
    phantom, grid = blurred_ball(), ImageGrid((80, 80, 60), 2.0)
    angles = [0, 30, 77, 90, 200]
    geometry = SPECTGeometry(angles, 150, (70, 60), 2.0, shift=[0, 2, -3, 1, 0], axial_shift=4.0)
    counts = SPECTProjector(grid, geometry, sampling="rays")(phantom.activity(grid))
    expected = phantom.projection(geometry, oversample=3) * (2.0 * 2.0 / 2.0**3)
    assert_close(counts, expected, worst=0.01, typical=0.001)


def test_attenuated_projection_agrees_with_the_projector():
    body = Region("body", Cylinder((5, -3, 0), (80, 60), angle=20), 0.0, "water")
    lung = Region("lung", Cylinder((-30, 0, 0), (25, 35), angle=10), None, "lung")
    phantom = Phantom((body, lung, *blurred_ball().regions))
    grid = ImageGrid((100, 100, 16), (2.0, 2.0, 4.0))
    geometry = SPECTGeometry([0, 45, 100, 180, 260], 150, (80, 16), (2.0, 4.0))
    mu = phantom.attenuation(grid, 140.5)
    counts = SPECTProjector(grid, geometry, attenuation=mu, sampling="rays")(phantom.activity(grid))
    expected = phantom.projection(geometry, 140.5, oversample=3) * (2.0 * 4.0 / grid.voxel_volume / 1000)
    assert_close(counts, expected, worst=0.01, typical=0.001)


def test_planar_projection_agrees_with_the_projector():
    grid, geometry = ImageGrid((128, 128, 1), 2.0), SPECTGeometry.circular(16, 150, (128, 1), 2.0)
    phantom = random_brain(4)
    counts = SPECTProjector(grid, geometry, sampling="rays")(phantom.activity(grid))
    expected = phantom.projection(geometry, oversample=3) * (2.0 / 2.0**2)
    assert_close(counts, expected, worst=0.03, typical=0.005)


# ---- the named phantoms ----------------------------------------------------------------------------------------------


def test_uniform_cylinder_attenuates_as_known():
    cylinder = uniform_cylinder(100, 200, 2.0)
    mu = linear_attenuation("water", 140.5) / 10
    geometry = SPECTGeometry.circular(4, 150, (11, 1), 15.0)
    chord = 2 * np.sqrt(100**2 - np.minimum(geometry.bin_centres()[0], 100) ** 2)[..., None]
    np.testing.assert_allclose(cylinder.projection(geometry), 2 * chord, rtol=1e-6)
    np.testing.assert_allclose(cylinder.projection(geometry, 140.5), 2 * (1 - np.exp(-mu * chord)) / mu, rtol=1e-6)


def test_shepp_logan_is_the_classic_one():
    reference = shepp_logan_phantom()
    slice_ = shepp_logan(200).activity(ImageGrid((400, 400, 1), 0.5))[:, :, 0]
    agreement = np.corrcoef(slice_.T.ravel(), reference.ravel())[0, 1]
    assert agreement > 0.96
    for wrong in (slice_[::-1].T, slice_[:, ::-1].T, slice_):
        assert np.corrcoef(wrong.ravel(), reference.ravel())[0, 1] < agreement - 0.01
    # away from the pixels at edges only the overlaps differ: their values add up in the classic one
    assert np.mean(np.abs(slice_.T - reference) > 0.05) < 0.02


def test_shepp_logan_scales_and_has_depth():
    grid = ImageGrid((32, 32, 32), 8.0)
    small, large = shepp_logan(100, 3.0), shepp_logan(200)
    np.testing.assert_allclose(small.activity(ImageGrid((32, 32, 32), 4.0)), 3 * large.activity(grid), rtol=1e-5)
    assert large.regions[0].shape.volume == pytest.approx(4 / 3 * math.pi * 69 * 92 * 81 / 1000)


def test_shepp_logan_as_an_emission_phantom():
    phantom, classic = shepp_logan(200, 3.0, emission=True), shepp_logan(200)
    assert [r.shape for r in phantom.regions] == [r.shape for r in classic.regions]
    values = {region.name: region.activity / 3.0 for region in phantom.regions}
    assert (values["skull"], values["brain"], values["left ventricle"], values["right ventricle"]) == (0, 1, 0, 0)
    assert min(value for name, value in values.items() if "lesion" in name) > 1
    grid = ImageGrid((200, 200, 1), 1.0)
    activity, (labels, names) = phantom.activity(grid), phantom.labels(grid)
    for name in names[1:]:
        whole = phantom.fraction(grid, name) > 1 - 1e-6
        np.testing.assert_allclose(activity[whole], 3 * values[name], rtol=1e-6)
        assert whole.any()
    for energy in (140.5, 511.0):
        mu = phantom.attenuation(grid, energy, oversample=1)
        bone, water = (np.float32(linear_attenuation(m, energy)) for m in ("bone-cortical", "water"))
        assert np.all(mu[labels == names.index("skull")] == bone)
        assert np.all(mu[labels > names.index("skull")] == water)
    brain = phantom.fraction(grid, "brain").sum(dtype=float)
    rest = sum(phantom.fraction(grid, name).sum(dtype=float) for name in names[3:])
    assert brain + rest == pytest.approx(math.pi * 66.24 * 87.4, rel=5e-3)
    assert phantom.fraction(grid, "skull").sum(dtype=float) == pytest.approx(
        math.pi * (69 * 92 - 66.24 * 87.4), rel=5e-3
    )


def test_spect_cylinder_is_laid_out_without_overlaps():
    phantom = spect_cylinder()
    rods = [region for region in phantom.regions if region.name.startswith("rods")]
    counts = {name: sum(region.name == name for region in rods) for name in dict.fromkeys(r.name for r in rods)}
    assert list(counts) == [f"rods {d:g} mm" for d in (12.7, 11.1, 9.5, 7.9, 6.4, 4.8)]
    assert list(counts.values()) == sorted(counts.values())
    assert min(counts.values()) >= 6
    centres = np.array([region.shape.centre[:2] for region in rods])
    diameters = np.array([2 * region.shape.half_widths[0] for region in rods])
    distance = np.linalg.norm(centres[:, None] - centres, axis=2) + 1e9 * np.eye(len(rods))
    assert np.all(distance >= diameters[:, None] + diameters[None] - 1e-9)  # the gap is the mean of the diameters
    same = diameters[:, None] == diameters
    np.testing.assert_allclose(np.where(same, distance, 1e9).min(1), 2 * diameters)
    assert np.all(np.linalg.norm(centres, axis=1) + diameters <= 108 + 1e-9)


def test_spect_cylinder_volumes():
    phantom = spect_cylinder()
    background = math.pi * 108**2 * 98 - sum(math.pi / 6 * d**3 for d in (31.8, 25.4, 19.1, 15.9, 12.7, 9.5))
    rods = sum(region.shape.volume for region in phantom.regions if region.name.startswith("rods"))
    grid = ImageGrid((112, 112, 100), 2.0)
    total = phantom.activity(grid).sum(dtype=float) * grid.voxel_volume
    assert total == pytest.approx(background / 1000 + 4 * rods, rel=2e-3)
    cold = spect_cylinder(rods=0, section=1).activity(grid).sum(dtype=float) * grid.voxel_volume
    assert cold == pytest.approx((background + math.pi * 108**2 * 88) / 1000 - rods, rel=2e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_random_brains_keep_to_their_ranges(dimensions):
    brains = [random_brain(seed, dimensions) for seed in range(400)]
    hot = np.array([r.activity for b in brains for r in {r.name: r for r in b.regions[2:]}.values()])
    assert hot.min() >= 3
    assert hot.max() <= 9
    histogram, _ = np.histogram(hot, np.arange(3, 10))
    assert histogram.argmax() in (2, 3)
    assert hot.mean() == pytest.approx(6, abs=0.15)
    assert {len(b.names) - 3 for b in brains} == {2, 3, 4, 5, 6}
    skull, brain = np.array([[r.shape.half_widths for r in b.regions[:2]] for b in brains])[:, :, :2].swapaxes(0, 1)
    assert np.all((skull - brain > 2) & (skull - brain < 4))
    assert np.all((brain > (65, 80)) & (brain < (80, 100)))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_hot_regions_stay_in_the_brain(dimensions):
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 3)) * (np.arange(3) < dimensions)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for seed in range(40):
        brain, *hot = [r.shape for r in random_brain(seed, dimensions).regions[1:]]
        for shape in hot:
            _, leave = shape.crossing(shape.centre, directions)
            assert brain.contains(*(np.array(shape.centre) + leave[:, None] * directions).T).all()


def test_random_brain_images():
    grid = ImageGrid((128, 128, 1), 2.0)
    phantom = random_brain(7)
    image, mu = phantom.activity(grid, oversample=1), phantom.attenuation(grid, 140.5, oversample=1)
    inside = image > 0
    assert image[inside].min() == 1
    assert image.max() >= 3
    np.testing.assert_array_equal(np.unique(mu[inside]), np.float32(linear_attenuation("water", 140.5)))
    ring = (mu > 0) & ~inside
    np.testing.assert_array_equal(np.unique(mu[ring]), np.float32(linear_attenuation("bone-cortical", 140.5)))
    assert not mu[[0, -1]].any()
    assert not mu[:, [0, -1]].any()


def test_random_brains_depend_on_their_seed_alone():
    first = random_brain(12)
    np.random.default_rng(0).normal(size=10)
    random_brain(13)
    assert random_brain(12) == first
    assert random_brain(13) != first
    assert random_brain(12, 3) != first


RANGES = EllipseRanges((4, 9), (4.0, 14.0), (2.0, 5.0), overlap=False, bones=(1, 2), lungs=(2, 2))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_random_ellipses_keep_to_their_ranges(dimensions):
    phantoms = [random_ellipses(seed, dimensions, RANGES) for seed in range(60)]
    found = [[region for region in p.regions if region.name.startswith("ellipse")] for p in phantoms]
    assert {len(f) for f in found} == set(range(4, 10))
    sizes = np.array([r.shape.half_widths[:dimensions] for f in found for r in f])
    activities = np.array([r.activity for f in found for r in f])
    for values, low, high in ((sizes, 4, 14), (activities, 2, 5)):
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high
    assert activities.mean() == pytest.approx(3.5, abs=0.2)
    body = np.array([p.regions[0].shape.half_widths[:dimensions] for p in phantoms])
    assert np.all((body >= (85, 70, 70)[:dimensions]) & (body <= (115, 100, 100)[:dimensions]))
    for phantom in phantoms:
        materials = [region.material for region in phantom.regions[1:]]
        assert materials.count("lung") == 2
        assert materials.count("bone-cortical") in (1, 2)
        inserts = [r for r in phantom.regions if r.material in ("lung", "bone-cortical")]
        assert all(r.activity is None for r in inserts)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_random_ellipses_lie_in_the_body_and_apart(dimensions):
    directions = np.random.default_rng(0).normal(size=(60, 3)) * (np.arange(3) < dimensions)
    for seed in range(25):
        body, *shapes = [r.shape for r in random_ellipses(seed, dimensions, RANGES).regions]
        surfaces = []
        for shape in shapes:
            _, leave = shape.crossing(shape.centre, directions)
            units = directions / np.linalg.norm(directions, axis=1)[:, None]
            surfaces.append(np.array(shape.centre) + leave[:, None] * units)
            assert body.contains(*surfaces[-1].T).all()
        ellipses = [i for i, r in enumerate(random_ellipses(seed, dimensions, RANGES).regions[1:]) if r.activity]
        for i in ellipses:
            assert not any(shapes[i].contains(*surfaces[j].T).any() for j in ellipses if j != i)


def test_random_ellipses_depend_on_their_seed_alone():
    first = random_ellipses(12)
    random_ellipses(13)
    assert random_ellipses(12) == first
    assert random_ellipses(13) != first
    assert random_ellipses(12, 3) != first
    assert random_ellipses(12, ranges=EllipseRanges(activity=(0, 1))) != first
    crowded = EllipseRanges((20, 20), (20.0, 30.0))
    assert len(random_ellipses(3, ranges=crowded).regions) == 21  # they may overlap


def test_areas_and_attenuation_of_random_ellipses():
    phantom, grid = random_ellipses(5, 2, RANGES), ImageGrid((260, 260, 1), 1.0)
    activity, mu = phantom.activity(grid), phantom.attenuation(grid, 511, oversample=1)
    ellipses = [r for r in phantom.regions if r.name.startswith("ellipse")]
    areas = [math.pi * math.prod(r.shape.half_widths[:2]) for r in ellipses]
    for region, area in zip(ellipses, areas):
        assert phantom.fraction(grid, region.name).sum(dtype=float) == pytest.approx(area, rel=5e-3)
    whole = math.pi * math.prod(phantom.regions[0].shape.half_widths[:2])
    expected = whole + sum((r.activity - 1) * area for r, area in zip(ellipses, areas))
    assert activity.sum(dtype=float) == pytest.approx(expected, rel=5e-3)
    known = [np.float32(linear_attenuation(m, 511)) for m in ("lung", "water", "bone-cortical")]
    assert np.unique(mu[mu > 0]).tolist() == sorted(known)
    plain = random_ellipses(5).attenuation(grid, 511, oversample=1)
    assert np.unique(plain[plain > 0]).tolist() == [known[1]]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_line_integrals_of_random_ellipses(dimensions):
    phantom = random_ellipses(2, dimensions, RANGES)
    grid = ImageGrid((130, 130, 1 if dimensions == 2 else 110), 2.0)
    geometry = SPECTGeometry.circular(4, 150, (130, grid.shape[2]), 2.0, start=20)
    seen = phantom.projection(geometry, oversample=3).sum((1, 2), dtype=float) * 2.0
    if dimensions == 3:
        seen *= 2.0
    volume = math.prod(grid.voxel_size[:dimensions])
    np.testing.assert_allclose(seen, phantom.activity(grid).sum(dtype=float) * volume, rtol=3e-3)
