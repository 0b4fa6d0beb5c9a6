"""The torso: volumes, places and sides of its organs, uptake, lesions, line integrals, and random patients."""

import math

import numpy as np
import pytest

from emrecon.projectors import ImageGrid, linear_attenuation
from emrecon.sims.phantoms.bodies import UPTAKES, Lesion, random_torso, torso, with_lesions
from emrecon.sims.phantoms.torso_parts import BONES, Build

TORSO = torso("fdg")
PI = math.pi
# half of an ellipsoid, ellipsoids, and the shell between two half ellipsoids, in mL
VOLUMES = {
    "liver": 2 / 3 * PI * 113 * 73 * 89 / 1000,
    "spleen": 4 / 3 * PI * 53 * 35 * 21 / 1000,
    "left kidney": 4 / 3 * PI * 28 * 24 * 54 / 1000,
    "right kidney": 4 / 3 * PI * 28 * 24 * 54 / 1000,
    "bladder": 4 / 3 * PI * 38 * 36 * 35 / 1000,
    "myocardium": 2 / 3 * PI * (35**2 * 90 - 25**2 * 80) / 1000,
}


def solids(phantom, name):
    return [region.shape for region in phantom.regions if region.name == name]


def around(phantom, name, spacing):
    """A grid around all regions of a name."""
    low = np.min([s.bounds[0] for s in solids(phantom, name)], axis=0)
    high = np.max([s.bounds[1] for s in solids(phantom, name)], axis=0)
    shape = np.ceil((high - low) / spacing).astype(int) + 2
    return ImageGrid(tuple(shape.tolist()), spacing, tuple((low - spacing / 2).tolist()))


def seen(phantom, name, spacing=4.0):
    """The volume in mL and the centre of what is seen of a region."""
    grid = around(phantom, name, spacing)
    fraction = phantom.fraction(grid, name, oversample=2).astype(float)
    x, y, z = grid.coordinates()
    centre = [(fraction * c).sum() / fraction.sum() for c in (x, y, z)]
    return fraction.sum() * grid.voxel_volume, np.array(centre)


def at(phantom, point):
    """The region that is seen at a point."""
    return next((r for r in reversed(phantom.regions) if r.shape.contains(*point)), None)


def names_at(phantom, points):
    """The names of what is seen at points (n, 3)."""
    names = np.full(len(points), "outside", dtype=object)
    for region in phantom.regions:
        names[region.shape.contains(*points.T)] = region.name
    return names


def inside(solid, n=10000, seed=0):
    rng = np.random.default_rng(seed)
    low, high = solid.bounds
    points = rng.uniform(low, high, (n, 3))
    return points[solid.contains(*points.T)]


# ---- anatomy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_of_organs(name):
    assert seen(TORSO, name)[0] == pytest.approx(VOLUMES[name], rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "low", "high"),
    [
        (("liver",), 1500, 1800),
        (("spleen",), 150, 200),
        (("left kidney",), 140, 160),
        (("left lung", "right lung"), 3000, 5000),
        (("bladder",), 180, 220),
        (("myocardium",), 110, 150),
        (("heart", "myocardium"), 500, 800),
    ],
)
def test_volumes_are_those_of_adults(names, low, high):
    assert low < sum(seen(TORSO, name, 6.0)[0] for name in names) < high


def test_the_lungs_weigh_less_than_the_rest():
    grid = ImageGrid((66, 40, 86), 8.0)
    mu = TORSO.attenuation(grid, 140.5, oversample=1)
    labels, names = TORSO.labels(grid)
    for organ, material, density in (
        ("left lung", "lung", 0.26),
        ("fat", "adipose", None),
        ("body", "water", None),
        ("liver", "muscle", None),
        ("rib", "bone-cortical", 1.40),
    ):
        expected = np.float32(linear_attenuation(material, 140.5, density))
        np.testing.assert_array_equal(np.unique(mu[labels == names.index(organ)]), expected)
    spine = np.unique(mu[labels == names.index("spine")])
    assert len(spine) == 3  # inside of vertebrae, flat bone, and their outside
    assert linear_attenuation("muscle", 140.5) < spine.min() < spine.max() < linear_attenuation("bone-cortical", 140.5)


def test_organs_are_on_their_side():
    grid = ImageGrid((86, 50, 138), 5.0)
    labels, names = TORSO.labels(grid)
    points = np.stack(np.broadcast_arrays(*grid.coordinates()), -1)
    centre = {name: points[labels == label].mean(0) for label, name in enumerate(names)}
    assert centre["liver"][0] < -25  # x grows to the patient's left
    assert centre["spleen"][0] > 60
    assert centre["stomach"][0] > 40
    assert centre["myocardium"][0] > 20
    assert centre["myocardium"][1] < -20  # y grows to the back
    assert min(centre[name][1] for name in ("spleen", "left kidney", "right kidney", "spine", "left scapula")) > 25
    assert centre["sternum"][1] < -70
    from_below = ["bladder", "bowel", "liver", "heart", "right clavicle"]
    heights = [centre[name][2] for name in from_below]
    assert heights == sorted(heights)
    assert centre["right kidney"][2] < centre["left kidney"][2]
    for name in TORSO.names:
        if name.startswith("left "):
            assert centre[name][0] > 0 > centre[name.replace("left", "right")][0]


def test_the_apex_is_to_the_left_the_front_and_below():
    (muscle,) = solids(TORSO, "myocardium")
    points = inside(muscle)
    axis = np.array((0.62, -0.60, -0.50))
    apex, base = points[np.argmax(points @ axis)], points[np.argmin(points @ axis)]
    assert apex[0] > base[0] + 20
    assert apex[1] < base[1] - 20
    assert apex[2] < base[2]


def test_both_sides_have_the_same_bones():
    grid = ImageGrid((104, 64, 130), 5.0)
    for bone in ("scapula", "clavicle", "humerus", "femur"):
        left, right = (TORSO.fraction(grid, f"{side} {bone}", 1) for side in ("left", "right"))
        assert np.mean(left != right[::-1]) < 1e-4
        assert left.sum() > 50
    ribs = TORSO.fraction(grid, "rib", 1)
    assert np.mean(ribs != ribs[::-1]) < 1e-4


@pytest.mark.parametrize("phantom", [TORSO, *(random_torso(seed, lesions=(0, 0)) for seed in range(8))])
def test_organs_do_not_hide_each_other(phantom):
    reference = phantom is TORSO
    for name in ("liver", "spleen", "left kidney", "right kidney", "bladder"):
        (solid,) = solids(phantom, name)
        hidden = np.mean(names_at(phantom, inside(solid)) != name)
        assert hidden < (0.005 if reference else 0.02), name
    (muscle,) = solids(phantom, "myocardium")
    assert set(names_at(phantom, inside(muscle))) == {"myocardium", "heart"}


def test_all_organs_are_inside_of_the_body():
    soft = [r.shape for r in TORSO.regions if r.name == "body"]
    for region in TORSO.regions:
        if region.name != "fat":
            points = inside(region.shape, 20000)
            assert np.mean(np.any([s.contains(*points.T) for s in soft], axis=0)) > 0.99, region.name


def test_there_are_twelve_pairs_of_ribs():
    # a line that follows the cage down its right side, in the middle of the shell
    z = np.linspace(290, -60, 4000)
    x = -138.0 * np.sqrt(np.maximum(1 - ((z - 80) / 231) ** 2, 0))
    crossed = np.any([s.contains(x, np.full_like(z, -2.0), z) for s in solids(TORSO, "rib")], axis=0)
    assert np.count_nonzero(np.diff(crossed.astype(int)) == 1) == 10  # the last two do not come that far to the front
    assert len(solids(TORSO, "rib")) == 24


def test_the_spine_is_a_row_of_vertebrae():
    z = np.linspace(299, -175, 5000)
    y = np.interp(z, (-176, -100, -20, 60, 150, 230, 300), (38, 30, 46, 60, 64, 55, 38))
    bone = np.any([s.contains(np.zeros_like(z), y, z) for s in solids(TORSO, "spine")[:68]], axis=0)
    assert np.count_nonzero(np.diff(np.concatenate([[0], bone.astype(int)])) == 1) == 17


# ---- uptake and lesions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", UPTAKES)
def test_presets(preset):
    table, phantom = UPTAKES[preset], torso(preset)
    activity = {region.name: region.activity for region in phantom.regions}
    assert activity["left kidney"] == activity["right kidney"] == table["kidney"]
    assert activity["aorta"] == activity["heart"] == table["blood"]
    assert activity["rib"] == table.get("rib", table["bone"])
    assert activity["left femur"] == table["bone"]
    assert set(activity.values()) <= set(table.values())


def test_presets_look_as_they_are_known():
    bone, fdg, therapy = (UPTAKES[name] for name in ("bone-scan", "fdg", "lu-177"))
    assert min(bone["bone"], bone["kidney"], bone["bladder"]) > 5 * bone["liver"]
    assert max(fdg, key=fdg.__getitem__) == "bladder"
    assert 2 <= fdg["liver"] <= 3
    assert therapy["spleen"] > therapy["kidney"] > therapy["liver"] > 5 * therapy["blood"]


def test_uptake_by_organ():
    phantom = torso({"body": 1, "kidney": 5, "left kidney": 6, "bone": 3, "spine": 4})
    activity = {region.name: region.activity for region in phantom.regions}
    assert (activity["left kidney"], activity["right kidney"]) == (6, 5)
    assert (activity["spine"], activity["rib"], activity["liver"]) == (4, 3, 1)
    assert all(activity[n] == 3 for n in activity if n.split()[-1] in BONES and n != "spine")


def test_lesions():
    lesions = (
        Lesion((-60, 0, 40), 20, 4.0),
        Lesion((90, 0, 180), (10, 14, 18), 10.0, "nodule", "muscle"),
        Lesion((-90, 0, 180), 10, 0.0),
    )
    phantom = torso("fdg", lesions)
    assert phantom.names[-3:] == ("lesion 1", "nodule", "lesion 3")
    hot, nodule, cold = phantom.regions[-3:]
    assert hot.activity == pytest.approx(4 * UPTAKES["fdg"]["liver"])
    assert nodule.activity == pytest.approx(10 * UPTAKES["fdg"]["lung"])
    assert cold.activity == 0
    assert hot.shape.volume == pytest.approx(PI / 6 * 8000 / 1000)
    assert nodule.shape.half_widths == (5, 7, 9)
    assert nodule.attenuation(140.5) == pytest.approx(linear_attenuation("muscle", 140.5))
    assert with_lesions(TORSO, lesions) == phantom
    assert seen(phantom, "lesion 1", 1.0)[0] == pytest.approx(hot.shape.volume, rel=5e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torso("mibi"), "unknown uptake 'mibi'; choose from bone-scan, fdg, lu-177"),
        (lambda: torso({"body": 1, "brain": 2}), "unknown organ brain; choose from"),
        (lambda: torso({"liver": 1}), '"body" is missing'),
        (lambda: torso({"body": -1}), ">= 0"),
        (lambda: torso(lesions=[Lesion((300, 0, 0), 10, 2)]), "lesion 1 is centred outside of the body"),
        (lambda: Lesion((0, 0, 0), 10, -1), "ratio must be finite and >= 0"),
        (lambda: torso(lesions=[Lesion((0, 0, 0), 0, 2)]), "must be positive"),
        (lambda: Build(scale=(1, 1, 3)), "0.5 to 2"),
        (lambda: Build(scale=(1, 1)), "0.5 to 2"),
        (lambda: Build(fat=-1), "fat must be 0 to 80 mm"),
        (lambda: Build(shift={"heart": (1, 0, 0)}), "cannot move heart"),
        (lambda: random_torso(-1), "non-negative integer"),
        (lambda: random_torso(0, lesions=(3, 2)), "lowest <= highest"),
        (lambda: random_torso(0, lesions=(0, 1000)), "<= 40"),
        (lambda: random_torso(0, "mibi"), "choose from bone-scan"),
    ],
)
def test_errors_name_the_cause(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- build -----------------------------------------------------------------------------------------------------------


def test_volumes_follow_the_scale():
    scale = (1.06, 0.93, 1.1)
    stretched = torso(build=Build(scale))
    for name in ("liver", "spleen", "left kidney", "bladder"):
        volume, centre = seen(stretched, name)
        assert volume == pytest.approx(VOLUMES[name] * math.prod(scale), rel=6e-3)
        np.testing.assert_allclose(centre, seen(TORSO, name)[1] * scale, atol=0.5)


def test_organs_can_be_moved_and_grown():
    build = Build(shift={"kidney": (0, 0, -10), "left kidney": (3, 0, 0)}, growth={"liver": 0.9, "bladder": 0.5})
    phantom = torso(build=build)
    assert seen(phantom, "liver")[0] == pytest.approx(0.9**3 * VOLUMES["liver"], rel=5e-3)
    assert seen(phantom, "bladder")[0] == pytest.approx(0.5**3 * VOLUMES["bladder"], rel=5e-3)
    for name, moved in (("left kidney", (3, 0, 0)), ("right kidney", (0, 0, -10))):
        np.testing.assert_allclose(seen(phantom, name)[1] - seen(TORSO, name)[1], moved, atol=0.2)


def test_fat_is_under_the_skin():
    lean, stout = torso(build=Build(fat=0)), torso(build=Build(fat=30))
    width = {}
    for name, phantom in (("lean", lean), ("stout", stout)):
        mu = phantom.attenuation(ImageGrid((400, 1, 1), (1, 1, 1), (-199.5, 0, -40)), 140.5, 1).ravel()
        width[name] = np.count_nonzero(mu)
    assert width["stout"] - width["lean"] == pytest.approx(60, abs=1)


def test_arms():
    grid = ImageGrid((80, 40, 90), 8.0)
    without, with_arms = TORSO.activity(grid, 1), torso(arms=True).activity(grid, 1)
    x = np.abs(grid.coordinates()[0].ravel())
    assert not without[x > 220].any()
    assert with_arms[x > 220].any()
    assert not with_arms[x > 263].any()
    assert set(torso(arms=True).names) - set(TORSO.names) == {"left forearm", "right forearm"}


# ---- images and lines ------------------------------------------------------------------------------------------------


def test_line_integrals():
    rng = np.random.default_rng(3)
    points, directions = rng.uniform((-120, -80, -300), (120, 80, 280), (20, 3)), rng.normal(size=(20, 3))
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    step = 0.25
    samples = points[:, None] + np.arange(-900, 900, step)[:, None] * units[:, None]
    activity, mu = np.zeros(samples.shape[:2]), np.zeros(samples.shape[:2])
    for region in TORSO.regions:
        within = region.shape.contains(*np.moveaxis(samples, -1, 0))
        activity[within], mu[within] = region.activity, region.attenuation(140.5)
    np.testing.assert_allclose(TORSO.line_integral(points, directions), activity.sum(1) * step, atol=4)
    depth = mu.sum(1) * step / 10
    np.testing.assert_allclose(TORSO.attenuation_integral(points, directions, 140.5), depth, atol=0.02)


def test_one_slice_is_the_plane_of_the_volume():
    for z in (-260.0, -40.0, 125.0):
        origin = (-215.0, -125.0, z)
        plane = TORSO.activity(ImageGrid((108, 64, 1), 4.0, origin))[..., 0]
        thin = TORSO.activity(ImageGrid((108, 64, 2), (4.0, 4.0, 1e-3), origin))[..., 0]
        assert np.sqrt(np.mean((plane - thin) ** 2)) < 0.02 * thin.max()


# ---- random patients -------------------------------------------------------------------------------------------------


def lesions_of(phantom):
    return [region for region in phantom.regions if region.name.startswith("lesion")]


def test_random_torsos_depend_on_their_seed_alone():
    first = random_torso(5)
    assert first == random_torso(5)
    assert first != random_torso(6)
    reordered = dict(reversed(UPTAKES["fdg"].items()))
    assert random_torso(5, reordered).regions == first.regions


@pytest.mark.slow
@pytest.mark.parametrize("uptake", UPTAKES)
def test_random_lesions_are_in_suited_organs(uptake):
    places = set()
    for seed in range(12):
        phantom = random_torso(seed, uptake, (4, 6))
        lesions = lesions_of(phantom)
        assert [region.name for region in lesions] == [f"lesion {k + 1}" for k in range(len(lesions))]
        assert 4 <= len(lesions) <= 6
        plain = type(phantom)(phantom.regions[: -len(lesions)])
        for region in lesions:
            below = at(plain, region.shape.centre)
            places.add(below.name.removeprefix("left ").removeprefix("right "))
            assert region.activity > 1.4 * below.activity
            surface = np.array(region.shape.centre) + np.diag(region.shape.half_widths)
            assert all(at(plain, point) is not None for point in surface)
        for i, one in enumerate(lesions):
            for other in lesions[:i]:
                gap = math.dist(one.shape.centre, other.shape.centre)
                assert gap > max(one.shape.half_widths) + max(other.shape.half_widths)
    expected = {
        "bone-scan": {"spine", "rib", "pelvis"},
        "fdg": {"liver", "lung", "body"},
        "lu-177": {"liver", "body", "spine"},
    }[uptake]
    assert expected <= places
    assert places <= expected | ({*BONES} if uptake != "fdg" else set())


@pytest.mark.slow
def test_random_torsos_keep_to_their_ranges():
    phantoms = [random_torso(seed, "fdg") for seed in range(30)]
    counts = {len(lesions_of(phantom)) for phantom in phantoms}
    assert counts == set(range(7))
    for name, table in (("liver", 2.2), ("bladder", 20.0)):
        activity = np.array([next(r.activity for r in p.regions if r.name == name) for p in phantoms])
        assert np.all((activity > 0.8 * table) & (activity < 1.25 * table))
        assert np.ptp(activity) > 0.3 * table
    arms = np.mean(["left forearm" in phantom.names for phantom in phantoms])
    assert 0.05 < arms < 0.4
