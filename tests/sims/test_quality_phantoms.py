"""Jaszczak, Derenzo and Defrise phantoms: their rods, volumes, fillings and lines, and a real one seen by CT."""

import math
import zipfile

import numpy as np
import pytest
from real_data import real_data
from scipy import ndimage

from emrecon.projectors import ImageGrid, linear_attenuation
from emrecon.sims.phantoms.quality import JASZCZAK_MODELS, defrise, derenzo, jaszczak, spect_cylinder

INSIDE = math.pi * 108**2 / 100 * 18.6  # mL of a Jaszczak phantom
ROD_PHANTOMS = {**{name: (jaszczak(name), 108.0) for name in JASZCZAK_MODELS}, "derenzo": (derenzo(), 110.0)}
RNG = np.random.default_rng(5)


def rods_of(phantom):
    """Diameter -> centres (n, 2) in mm."""
    rods = [region for region in phantom.regions if region.name.startswith("rods")]
    diameters = dict.fromkeys(float(region.name.split()[1]) for region in rods)
    return {d: np.array([r.shape.centre[:2] for r in rods if r.name == f"rods {d:g} mm"]) for d in diameters}


def turned(points, degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray(points) @ np.array([[c, s], [-s, c]])


def volume(phantom, name, grid, oversample=4):
    return phantom.fraction(grid, name, oversample).sum(dtype=float) * grid.voxel_volume


# ---- rods ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROD_PHANTOMS)
def test_rods_fill_their_sectors(name):
    """Count the points of a whole hexagonal lattice that lie 6 mm inside the sector and 5 mm inside the wall."""
    phantom, radius = ROD_PHANTOMS[name]
    for sector, (d, centres) in enumerate(rods_of(phantom).items()):
        i, j = np.mgrid[-100:101, -100:101]
        # the first rod is in the tip of the sector; its neighbours are at 0, 60, ... degrees from the border
        x = d + 12 + 2 * d * (i + j) * math.cos(math.radians(30))
        y = 2 * d * (i - j) * math.sin(math.radians(30))
        to_border = x * math.sin(math.radians(30)) - np.abs(y) * math.cos(math.radians(30))
        fits = (to_border >= d / 2 + 6 - 1e-6) & (np.hypot(x, y) + d / 2 <= radius - 5)
        assert len(centres) == fits.sum()
        upright = turned(centres, -30 - 60 * sector)
        expected = np.stack([x[fits], y[fits]], 1)
        distance = np.linalg.norm(upright[:, None] - expected, axis=2)
        assert distance.min(0).max() < 1e-9
        assert distance.min(1).max() < 1e-9


@pytest.mark.parametrize("name", ROD_PHANTOMS)
def test_rods_keep_their_distances(name):
    phantom, radius = ROD_PHANTOMS[name]
    rods = rods_of(phantom)
    centres = np.concatenate(list(rods.values()))
    diameters = np.concatenate([np.full(len(c), d) for d, c in rods.items()])
    distance = np.linalg.norm(centres[:, None] - centres, axis=2) + 1e9 * np.eye(len(centres))
    gap = distance - (diameters[:, None] + diameters) / 2
    same = diameters[:, None] == diameters
    np.testing.assert_allclose(np.where(same, distance, 1e9).min(1), 2 * diameters)  # the pitch
    assert gap[same].min() >= diameters.min() - 1e-9
    assert gap[~same].min() >= 12 - 1e-9  # 6 mm to either side of a border
    assert np.all(np.linalg.norm(centres, axis=1) + diameters / 2 <= radius - 5 + 1e-9)
    angles = np.degrees(np.arctan2(*centres.T[::-1])) % 360
    np.testing.assert_array_equal(angles // 60, [k for k, c in enumerate(rods.values()) for _ in c])


@pytest.mark.parametrize("name", ROD_PHANTOMS)
def test_sectors_are_mirror_images_of_themselves(name):
    for sector, centres in enumerate(rods_of(ROD_PHANTOMS[name][0]).values()):
        upright = turned(centres, -30 - 60 * sector)
        distance = np.linalg.norm(upright[:, None] - upright * (1, -1), axis=2)
        assert distance.min(1).max() < 1e-9


def test_a_diameter_has_the_same_rods_in_every_model():
    deluxe, benchmark = rods_of(jaszczak("deluxe")), rods_of(jaszczak("benchmark"))
    for d in (9.5, 11.1, 12.7):
        steps = 60 * (list(benchmark).index(d) - list(deluxe).index(d))
        np.testing.assert_allclose(turned(deluxe[d], steps), benchmark[d], atol=1e-9)


@pytest.mark.parametrize("name", ROD_PHANTOMS)
def test_areas_of_rods_in_one_slice(name):
    phantom, radius = ROD_PHANTOMS[name]
    grid = ImageGrid((360, 360, 1), (0.63, 0.63, 5.0), (-113.085, -113.085, -50.0))
    pixel = 0.63**2
    for d, centres in rods_of(phantom).items():
        area = phantom.fraction(grid, f"rods {d:g} mm").sum(dtype=float) * pixel
        assert area == pytest.approx(len(centres) * math.pi * d**2 / 4, rel=5e-3)
    painted = phantom.fraction(grid, "background").sum(dtype=float) * pixel
    rods = sum(len(centres) * math.pi * d**2 / 4 for d, centres in rods_of(phantom).items())
    assert painted == pytest.approx(math.pi * radius**2 - rods, rel=5e-3)


# ---- volumes and activities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", JASZCZAK_MODELS)
def test_volumes_of_the_spheres(model):
    phantom = jaszczak(model, spheres=3.0)
    for k, d in enumerate(JASZCZAK_MODELS[model][1]):
        angle, n = math.radians(60 * k), int(d / 0.6) + 8
        centre = np.array([58 * math.cos(angle), 58 * math.sin(angle), 127 - 93])
        grid = ImageGrid((n, n, n), 0.6, tuple(centre - (n - 1) * 0.3))
        assert volume(phantom, f"sphere {d:g} mm", grid) == pytest.approx(math.pi / 6 * d**3 / 1000, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", JASZCZAK_MODELS)
def test_all_the_activity_of_a_jaszczak_phantom(model):
    grid = ImageGrid((88, 88, 78), 2.5)
    spheres = sum(math.pi / 6 * d**3 for d in JASZCZAK_MODELS[model][1]) / 1000
    rods = 8.8 * sum(len(c) * math.pi * d**2 / 400 for d, c in rods_of(jaszczak(model)).items())
    cold = jaszczak(model, 2.0).activity(grid).sum(dtype=float) * grid.voxel_volume
    assert cold == pytest.approx(2 * (INSIDE - spheres - rods), rel=5e-3)
    hot = jaszczak(model, 1.0, 4.0, 0.0, 8.0).activity(grid).sum(dtype=float) * grid.voxel_volume
    assert hot == pytest.approx(INSIDE * 98 / 186 + 4 * rods + 7 * spheres, rel=5e-3)


def test_heights_and_walls():
    phantom = jaszczak(section=0.5)
    grid = ImageGrid((1, 1, 400), 0.5, (14.0, 0.0, -99.75))  # between rods and spheres
    labels, names = phantom.labels(grid)
    z = grid.coordinates()[2].ravel()
    expected = np.where(z < -5, names.index("rod section"), names.index("background"))
    expected[np.abs(z) > 93] = names.index("wall")
    expected[np.abs(z) > 96.2] = 0
    np.testing.assert_array_equal(labels[0, 0], expected)
    across = ImageGrid((230, 1, 2), 1.0, (-114.5, 0.0, 0.0))
    x = np.abs(across.coordinates()[0].ravel())
    expected = np.where(x < 108, names.index("background"), np.where(x < 111.2, names.index("wall"), 0))
    np.testing.assert_array_equal(phantom.labels(across)[0][:, 0, 0], expected)
    assert "wall" not in jaszczak(walls=False).names


def test_names():
    names = ("outside", "wall", "background", "rods 12.7 mm", "rods 11.1 mm", "rods 9.5 mm", "rods 7.9 mm")
    assert jaszczak().names[:7] == names
    assert jaszczak("benchmark").names[-6:] == tuple(f"sphere {d} mm" for d in (38.1, 31.8, 25.4, 19.1, 15.9, 12.7))
    assert derenzo().names == ("outside", "background", *(f"rods {d} mm" for d in (11.1, 9.5, 7.9, 6.4, 4.8, 3.2)))
    assert defrise().names == ("outside", "background", *(f"disc {k}" for k in range(1, 14)))


@pytest.mark.parametrize("energy", [140.5, 511.0])
def test_solids_are_acrylic_and_the_rest_is_water(energy):
    acrylic, water = linear_attenuation("pmma", energy, 1.19), linear_attenuation("water", energy)
    cold, hot = jaszczak(), jaszczak(rods=4.0, section=0.0, spheres=2.0)
    expected = {"wall": (acrylic, acrylic), "background": (water, water), "rods": (acrylic, water)}
    expected |= {"rod section": (None, acrylic), "sphere": (acrylic, water)}
    for i, phantom in enumerate((cold, hot)):
        for region in phantom.regions:
            kind = region.name if region.name in expected else region.name.split()[0]
            assert region.attenuation(energy) == pytest.approx(expected[kind][i])
    solid = derenzo(background=0).regions[0]
    assert solid.attenuation(energy) == pytest.approx(acrylic)
    assert {region.attenuation(energy) for region in derenzo().regions} == {water}
    assert [region.attenuation(energy) for region in defrise().regions[:2]] == [acrylic, water]


@pytest.mark.parametrize(
    ("phantom", "z", "absent"),
    [
        (jaszczak(rods=4.0, section=0.5, spheres=8.0), -50.0, ("background", "sphere")),
        (jaszczak(rods=4.0, section=0.5, spheres=8.0), 34.0, ("rod",)),
        (derenzo(), 0.0, ()),
        (defrise(3.0, 0.5), 16.0, ("background", "disc")),
    ],
)
def test_means_of_regions(phantom, z, absent):
    grid = ImageGrid((240, 240, 1), (1.0, 1.0, 1.0), (-119.5, -119.5, z))
    activity, (labels, names) = phantom.activity(grid), phantom.labels(grid)
    value = {region.name: region.activity for region in phantom.regions}
    for name in names[1:]:
        whole = phantom.fraction(grid, name) > 1 - 1e-6
        assert np.all(labels[whole] == names.index(name))
        assert whole.any() != name.startswith(absent) or name == "disc 8"  # the one around z = 16
        np.testing.assert_allclose(activity[whole], value[name], rtol=1e-6)


def test_all_the_activity_of_a_derenzo_phantom():
    phantom, grid = derenzo(), ImageGrid((160, 160, 8), (1.4, 1.4, 20.3))
    rods = 16 * sum(len(c) * math.pi * d**2 / 400 for d, c in rods_of(phantom).items())
    total = phantom.activity(grid).sum(dtype=float) * grid.voxel_volume
    assert total == pytest.approx(math.pi * 11**2 * 16 + 9 * rods, rel=5e-3)


def test_discs():
    phantom, disc = defrise(3.0, 0.5), math.pi * 10**2 * 0.8
    grid = ImageGrid((80, 80, 60), (2.6, 2.6, 3.7))
    for k in (1, 7, 13):
        assert volume(phantom, f"disc {k}", grid) == pytest.approx(disc, rel=5e-3)
    total = phantom.activity(grid).sum(dtype=float) * grid.voxel_volume
    assert total == pytest.approx(disc * (13 * 3.0 + 14 * 0.5), rel=5e-3)
    profile = phantom.activity(ImageGrid((1, 1, 216), 1.0, (90.0, 0.0, -107.5)))[0, 0]
    gaps, discs = profile.reshape(27, 8)[::2], profile.reshape(27, 8)[1::2]
    assert (gaps.shape, discs.shape) == ((14, 8), (13, 8))
    assert np.all(gaps == 0.5)
    assert np.all(discs == 3.0)


def test_one_slice_shows_the_rods():
    flat = ImageGrid((128, 128, 1), 2.0, (-127.0, -127.0, -49.0))
    centred = ImageGrid((128, 128, 1), 2.0)
    seen = jaszczak().activity(flat)
    np.testing.assert_allclose(jaszczak().moved((0, 0, 49)).activity(centred), seen, atol=1e-6)
    deep = jaszczak().activity(ImageGrid((128, 128, 2), 2.0, (-127.0, -127.0, -50.0)))
    np.testing.assert_allclose(seen[..., 0], deep.mean(2), atol=0.1)  # other points at the edges
    assert seen.sum(dtype=float) == pytest.approx(deep.sum(dtype=float) / 2, rel=2e-3)


# ---- lines -----------------------------------------------------------------------------------------------------------


def sampled(phantom, points, directions, value, reach=260.0, n=26000):
    units = directions / np.linalg.norm(directions, axis=1)[:, None]
    t = (np.arange(n) + 0.5) / n * 2 * reach - reach
    samples = np.moveaxis(points[:, None] + t[:, None] * units[:, None], -1, 0)
    total = np.zeros(samples.shape[1:])
    for region in phantom.regions:
        if value(region) is not None:
            total[region.shape.contains(*samples)] = value(region)
    return total.sum(1) * 2 * reach / n


@pytest.mark.slow
@pytest.mark.parametrize(
    "phantom",
    [jaszczak(rods=4.0, section=0.5, spheres=2.0), derenzo(), defrise()],
    ids=["jaszczak", "derenzo", "defrise"],
)
def test_line_integrals_agree_with_samples(phantom):
    points, directions = RNG.uniform(-80, 80, (12, 3)), RNG.normal(size=(12, 3))
    exact = phantom.line_integral(points, directions)
    np.testing.assert_allclose(exact, sampled(phantom, points, directions, lambda r: r.activity), atol=2.0)
    depth = sampled(phantom, points, directions, lambda r: r.attenuation(140.5)) / 10
    np.testing.assert_allclose(phantom.attenuation_integral(points, directions, 140.5), depth, atol=2e-3)
    assert np.count_nonzero(exact) > 6


def test_line_integrals_known_by_heart():
    phantom = jaszczak(section=0.0)
    (x, y), *_ = rods_of(phantom)[12.7]
    assert jaszczak().line_integral((x, y, 0), (0, 0, 1)) == pytest.approx(98)
    assert jaszczak(rods=4.0).line_integral((x, y, 0), (0, 0, 1)) == pytest.approx(98 + 4 * 88)
    assert jaszczak().line_integral((58, 0, 0), (0, 0, 1)) == pytest.approx(186 - 31.8)
    assert phantom.line_integral((58, 0, 0), (0, 0, 1)) == pytest.approx(98 - 31.8)
    walls = 0.64 * linear_attenuation("pmma", 140.5, 1.19) + 21.6 * linear_attenuation("water", 140.5)
    assert jaszczak().attenuation_integral((0, 0, 10), (1, 0, 0), 140.5) == pytest.approx(walls)
    assert defrise().line_integral((30, -20, 0), (0, 0, 1)) == pytest.approx(13 * 8)
    assert defrise().line_integral((0, 0, 0), (0, 1, 0)) == pytest.approx(200)


def test_spect_cylinder_is_a_jaszczak_phantom_with_more_rods():
    simple, deluxe = rods_of(spect_cylinder()), rods_of(jaszczak())
    assert list(simple) == list(deluxe)
    assert all(len(simple[d]) >= len(deluxe[d]) for d in simple)
    spheres = [[r.shape for r in p.regions if r.name.startswith("sphere")] for p in (spect_cylinder(), jaszczak())]
    assert spheres[0] == spheres[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jaszczak("de luxe"), "unknown Jaszczak model 'de luxe'; choose from ultra-deluxe, deluxe"),
        (lambda: jaszczak(background=-1), "'background': activity"),
        (lambda: jaszczak(rods=-1), "'rods 12.7 mm': activity"),
        (lambda: jaszczak(section=float("nan")), "'rod section': activity"),
        (lambda: derenzo(math.inf), "'rods 11.1 mm': activity"),
        (lambda: defrise(background=-0.1), "'background': activity"),
    ],
)
def test_errors_name_the_cause(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- a real one ------------------------------------------------------------------------------------------------------

PIXEL, SLICE = 0.939453, 1.25


@pytest.fixture(scope="module")
def scanned():
    """What is solid in a deluxe phantom, 0 to 1, (slices, rows, columns), from its CT; the spheres come first."""
    with zipfile.ZipFile(real_data("phantoms", "Jaszczak_phantom.zip")) as archive:
        counts = np.frombuffer(archive.read("Jaszczak_238x237x134.i33"), "<u2").reshape(134, 237, 238)
    solid = 1 - counts / 10
    y, x = (np.indices((237, 238)) - 117.924) * PIXEL
    return np.where(np.hypot(x, y) < 107, solid, 0)


def discs(solid):
    """x, y and diameter in mm of what is solid in a slice."""
    labels, n = ndimage.label(solid > 0.15)
    found = []
    for k in range(1, n + 1):
        own = np.where(ndimage.binary_dilation(labels == k, iterations=2) & ((labels == k) | (labels == 0)), solid, 0)
        y, x = (np.array(ndimage.center_of_mass(own)) - 117.924) * PIXEL
        found.append((x, y, 2 * PIXEL * math.sqrt(own.sum() / math.pi)))
    return np.array(found)


def our_axes(xy):
    """Turn what the file shows upside down and into place: an angle of ours is 269.1 degrees minus one of the file."""
    angle, radius = np.radians(269.1) - np.arctan2(xy[:, 1], xy[:, 0]), np.hypot(*xy.T)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def test_rods_of_a_real_deluxe_phantom(scanned):
    found = discs(scanned[90:130].mean(0))
    places, rods = our_axes(found[:, :2]), rods_of(jaszczak("deluxe"))
    stems = np.abs(np.hypot(*places.T) - 58) < 1.5
    stems &= np.abs((np.degrees(np.arctan2(*places.T[::-1])) + 30) % 60 - 30) < 3
    assert stems.sum() == 6  # they hold the spheres, over the borders of the sectors
    assert len(found) - 6 == sum(map(len, rods.values()))
    sectors = np.degrees(np.arctan2(*places.T[::-1])) % 360 // 60
    for sector, (d, expected) in enumerate(rods.items()):
        mine = (sectors == sector) & ~stems
        assert mine.sum() == len(expected)
        assert np.median(found[mine, 2]) == pytest.approx(d, abs=0.15)
        here, there = turned(places[mine], -30 - 60 * sector), turned(expected, -30 - 60 * sector)
        apart = np.linalg.norm(here[:, None] - here, axis=2) + 1e9 * np.eye(len(here))
        assert apart[apart < 2.7 * d].mean() == pytest.approx(2 * d, rel=0.01)  # the pitch; the next are at 3.5 d
        shift = here.mean(0) - there.mean(0)  # along the sector's axis: how far from the border the lattice starts
        assert abs(shift[0]) < 5
        assert abs(shift[1]) < 1.5
        assert np.linalg.norm(here[:, None] - (there + shift), axis=2).min(1).max() < 0.6


def test_spheres_of_a_real_deluxe_phantom(scanned):
    """Areas of cuts through a sphere are pi (r^2 - z^2); below each of them is its stem."""
    ours = [r.shape for r in jaszczak("deluxe").regions if r.name.startswith("sphere")]
    places = our_axes(discs(scanned[44])[:, :2])
    assert len(places) == 6
    assert np.hypot(*places.T) == pytest.approx(58, abs=1.2)
    assert np.hypot(*places.T).mean() == pytest.approx(58, abs=0.5)
    largest = [discs(part)[:, 2] for part in scanned[40:49]]
    assert sorted(np.max(largest, 0)) == pytest.approx(sorted(2 * s.radii[0] for s in ours), abs=0.4)
    for shape in ours:
        near = np.linalg.norm(places - shape.centre[:2], axis=1)
        assert near.min() < 1.5
        assert discs(scanned[44])[near.argmin(), 2] == pytest.approx(2 * shape.radii[0], abs=0.5)


def test_a_real_phantom_has_its_spheres_a_little_further_from_its_rods(scanned):
    """45 mm instead of 127 - 88 = 39: the rods start above the base, or the stems are longer."""
    area = scanned[:60, 40:75, 100:135].sum((1, 2)) * PIXEL**2  # of the largest, pi (r^2 - (z - middle)^2)
    slices = np.flatnonzero(area > 100)
    curve = np.polynomial.Polynomial.fit(slices + 0.5, area[slices], 2)
    rods = np.flatnonzero(scanned[75:].sum((1, 2)) > 1000).min() + 75
    assert (rods - curve.deriv().roots()[0]) * SLICE == pytest.approx(45, abs=0.5)
