"""Scatter: cross sections, hand-computed pairs of voxels, symmetries, a Monte Carlo, and the fit to the tails."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pet_cases import events_of_every_bin
from scipy.integrate import quad
from scipy.ndimage import map_coordinates

from emrecon.projectors import ImageGrid, PETProjector, PETScanner, PETSinogram, TimeOfFlight
from emrecon.projectors.pet.scatter import ScatterSampling, single_scatter
from emrecon.projectors.pet.tails import scale_to_tails, tail_mask
from emrecon.projectors.physics.compton import accepted_fraction, klein_nishina, klein_nishina_total, scattered_energy
from emrecon.sims import Cylinder, Phantom, Region

WATER = 0.096
EVERY = ScatterSampling(spacing=1, crystal_spacing=1, ring_spacing=1, voxel_size=1)  # nothing is joined, all crystals
TOF = TimeOfFlight(9, 40.0, 60.0)
SMALL = PETScanner.polygon(
    sides=8, crystals_per_side=3, radius=100, depth=4, rings=3, ring_pitch=15, energy_resolution=0.15
)
GRID = ImageGrid((8, 8, 4), 10.0)


def relative_difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def blobs(grid=GRID):
    """An activity and a mu without any symmetry."""
    x, y, z = grid.coordinates()
    activity = np.exp(-(((x - 12) / 15) ** 2 + ((y + 8) / 10) ** 2 + ((z - 4) / 15) ** 2))
    mu = WATER * np.exp(-(((x + 5) / 35) ** 2 + ((y - 6) / 25) ** 2 + ((z + 3) / 30) ** 2))
    return activity, mu


def cylinder(grid, radius, height, centre=(0.0, 0.0, 0.0), mu=WATER):
    phantom = Phantom((Region("water", Cylinder(centre, radius, height), activity=1.0, mu=mu),))
    return phantom.activity(grid), phantom.attenuation(grid, 511.0)


# ---- Compton scattering ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("energy", "total", "at_90"),
    [(140.5, 4.518e-25, 110.2), (208, 4.011e-25, 148.0), (364, 3.284e-25, 212.7), (511, 2.865e-25, 255.5)],
)
def test_cross_sections_and_energies(energy, total, at_90):
    assert klein_nishina_total(energy) == pytest.approx(total, rel=1e-3)
    integral = 2 * np.pi * quad(lambda c: klein_nishina(c, energy), -1, 1, epsabs=0)[0]
    assert klein_nishina_total(energy) == pytest.approx(integral, rel=1e-10)
    assert scattered_energy(0.0, energy) == pytest.approx(at_90, rel=2e-3)
    assert scattered_energy(1.0, energy) == energy


def test_limits_of_the_cross_section():
    thomson = 8 * np.pi / 3 * 2.8179403e-13**2
    assert klein_nishina_total(1.0) == pytest.approx(thomson * (1 - 2 / 511), rel=1e-4)
    assert klein_nishina(1.0, 511.0) == pytest.approx(2.8179403e-13**2)
    assert klein_nishina(np.zeros((2, 1)), np.array([100.0, 511.0])).shape == (2, 2)
    # electrons of water: what is known as its Compton coefficient at 511 keV
    assert 3.343e23 * klein_nishina_total(511.0) == pytest.approx(0.0958, abs=1e-4)


def test_the_energy_window():
    assert accepted_fraction(511.0, (0.0, 511.0), 0.15) == pytest.approx(0.5, abs=1e-9)
    fwhm = 0.15 * np.sqrt(511 * 400)
    assert accepted_fraction(400.0, (400 - fwhm / 2, 400 + fwhm / 2), 0.15) == pytest.approx(0.76097, abs=2e-5)
    assert (np.diff(accepted_fraction(np.arange(300, 500), (430, 610), 0.145)) > 0).all()


# ---- hand-computed --------------------------------------------------------------------------------------------------


def plain_leg(image, grid, start, end, n=4000):
    """Midpoints on a line, their distances from its start, and the trilinear image there times the step."""
    length = np.linalg.norm(end - start)
    t = (np.arange(n) + 0.5) / n * length
    index = (start + t[:, None] * (end - start) / length - grid.origin) / grid.voxel_size
    return t, map_coordinates(np.pad(image, 1), index.T + 1, order=1) * length / n


def plain_scatter(activity, mu, grid, A, B, window, resolution, tof=None):
    """The scatter in one line from A to B by the formula, scatter point by scatter point; TOF bins where asked for."""
    sigma = klein_nishina_total(511.0)
    facing = [-np.array([*end[:2], 0]) / np.hypot(*end[:2]) for end in (A, B)]
    AB = B - A
    total = 0.0
    for index in np.argwhere(mu > 0):
        S = grid.origin + index * np.array(grid.voxel_size)
        electrons = mu[tuple(index)] / 10 * np.prod(grid.voxel_size) / sigma
        a, b = np.linalg.norm(A - S), np.linalg.norm(B - S)
        cosine = -(A - S) @ (B - S) / (a * b)
        energy = 511 / (2 - cosine)
        q = klein_nishina_total(energy) / sigma
        accepted = accepted_fraction(energy, window, resolution) / accepted_fraction(511.0, window, resolution)
        (t1, f1), (t2, f2) = plain_leg(activity, grid, S, A), plain_leg(activity, grid, S, B)
        m1, m2 = (plain_leg(mu / 10, grid, S, end)[1].sum() for end in (A, B))
        if tof is not None:
            f1, f2 = (f1[:, None] * tof.weights((a - b) / 2 - t1), f2[:, None] * tof.weights((a - b) / 2 + t2))
        solid = facing[0] @ (S - A) / a * (facing[1] @ (S - B)) / b / (a * b) ** 2
        legs = f1.sum(0) * np.exp(-m1 - q * m2) + f2.sum(0) * np.exp(-q * m1 - m2)
        total = total + electrons * klein_nishina(cosine, 511.0) * accepted * solid * legs
    length = np.linalg.norm(AB)
    return total * length**4 / ((facing[0] @ AB) * (facing[1] @ -AB))


@pytest.mark.slow
def test_one_scatter_voxel_and_one_source_voxel():
    scanner = PETScanner.polygon(sides=24, crystals_per_side=1, radius=100, rings=3, ring_pitch=20)
    grid = ImageGrid((15, 15, 5), 6.0)
    activity, mu = np.zeros(grid.shape), np.zeros(grid.shape)
    activity[12, 7, 2], mu[9, 7, 2] = 5.0, 0.3  # at x = 30 and 12 mm: in a row with crystal 6, (100, 0, 0)
    for tof in (None, TOF):
        sinogram = PETSinogram(scanner, tof=tof)
        found = single_scatter(
            activity, mu, grid, sinogram, energy_window=(350, 650), energy_resolution=0.2, sampling=EVERY
        )
        A, S, checked = np.array([100.0, 0, 0]), np.array([12.0, 0, 0]), 0
        for second in range(24):
            for ring in range(3):
                if second == 6:
                    continue
                event = [[24 + 6, 24 * ring + second, *([0] if tof else [])]]
                v, r, *b, p = sinogram.bins_of(event)[0]
                turned = bool(b) and b[0] != 0
                B = scanner.positions[24 * ring + second]
                expected = by_hand(A, B, S, tof)
                here = found[v, r, :, p] if tof else found[v, r, p]
                np.testing.assert_allclose(here[::-1] if turned else here, expected, rtol=3e-3, atol=2e-5)
                checked += np.sum(expected) > 0.01
        assert checked > 12


def by_hand(A, B, S, tof):
    """Only decays between S and A are seen: 5 x 6 mm of them around t = 18 mm."""
    a, b, ab = np.linalg.norm(A - S), np.linalg.norm(B - S), np.linalg.norm(B - A)
    cosine = -(A - S) @ (B - S) / (a * b)
    energy = 510.999 / (2 - cosine)
    q = klein_nishina_total(energy) / klein_nishina_total(511.0)
    probability = klein_nishina(cosine, 511.0) / klein_nishina_total(511.0)
    probability *= accepted_fraction(energy, (350, 650), 0.2) / accepted_fraction(511.0, (350, 650), 0.2)
    near = B / np.hypot(*B[:2]) * [1, 1, 0]
    direction = np.abs(B - S) / b
    t = (np.arange(600) + 0.5) / 100
    through = np.prod(np.maximum(1 - t[:, None] * direction / 6, 0), axis=1).sum() / 100  # mm of the voxel's tent
    survival = np.exp(-0.03 * 3 - q * 0.03 * through)
    solid = ((A - S)[0] / a) * (near @ (B - S) / b) / (a * b) ** 2
    direct = ((A - B)[0] / ab) * (near @ (B - A) / ab) / ab**2
    value = 0.03 * 6**3 * probability * solid / direct * survival * 5 * 6
    if tof is None:
        return value
    offset = np.linspace(-6, 6, 601)
    weights = tof.weights((a - b) / 2 - 18 - offset) * (1 - np.abs(offset) / 6)[:, None]
    return value * weights.sum(0) * 0.02 / 6


@pytest.mark.slow
@pytest.mark.parametrize("tof", [None, TOF])
def test_equals_a_plain_implementation(tof):
    activity, mu = blobs()
    mu[mu < 0.03] = 0
    sinogram = PETSinogram(SMALL, tof=tof)
    found = single_scatter(activity, mu, GRID, sinogram, sampling=EVERY)
    first, second = sinogram.line_ends()
    whole = found.sum(2) if tof else found
    for v, r, p in np.random.default_rng(0).permutation(np.argwhere(whole > 0.1 * whole.max()))[:8]:
        A, B = first[v, r, p], second[v, r, p]
        expected = plain_scatter(activity, mu, GRID, A, B, (430.0, 610.0), 0.15, tof)
        here = found[v, r, :, p] if tof else found[v, r, p]
        np.testing.assert_allclose(here, expected, atol=(6e-3 if tof else 3e-3) * np.max(expected))


# ---- properties -----------------------------------------------------------------------------------------------------


def test_turned_images_give_turned_sinograms_and_ends_may_be_exchanged():
    activity, mu = blobs()
    sinogram = PETSinogram(SMALL, tof=TOF)
    straight = single_scatter(activity, mu, GRID, sinogram, sampling=EVERY)
    events = events_of_every_bin(sinogram)
    for quarters in (1, 2):
        turned = single_scatter(*(np.rot90(x, quarters) for x in (activity, mu)), GRID, sinogram, sampling=EVERY)
        moved = events.copy()
        ring, crystal = np.divmod(events[:, :2], 24)
        moved[:, :2] = 24 * ring + (crystal + 6 * quarters) % 24
        bins = sinogram.bins_of(moved)
        seen = bins[:, 0] >= 0
        assert seen.mean() > 0.9
        assert relative_difference(turned[tuple(bins[seen].T)], straight.ravel()[seen]) < 1e-5


def test_mirrored_along_the_axis():
    activity, mu = blobs()
    sinogram = PETSinogram(SMALL)
    straight = single_scatter(activity, mu, GRID, sinogram, sampling=EVERY)
    mirrored = single_scatter(activity[:, :, ::-1], mu[:, :, ::-1], GRID, sinogram, sampling=EVERY)
    swapped = sinogram.michelogram[::-1, ::-1][tuple(np.array([p[0] for p in sinogram.ring_pairs]).T)]
    assert relative_difference(mirrored, straight[..., swapped]) < 1e-5


@pytest.mark.parametrize("sampling", [EVERY, ScatterSampling(spacing=20, crystal_spacing=60, ring_spacing=40)])
def test_tof_bins_add_up_to_the_scatter_without(sampling):
    activity, mu = blobs()
    timed = single_scatter(activity, mu, GRID, PETSinogram(SMALL, tof=TOF), sampling=sampling)
    whole = single_scatter(activity, mu, GRID, PETSinogram(SMALL), sampling=sampling)
    assert timed.dtype == np.float32
    assert relative_difference(timed.sum(2), whole) < 2e-6


def test_linear_in_activity_and_zero_without_attenuation():
    activity, mu = blobs()
    other = activity[::-1] ** 2
    sinogram = PETSinogram(SMALL)

    def simulate(x):
        return single_scatter(x, mu, GRID, sinogram, sampling=EVERY)

    assert relative_difference(simulate(activity + 3 * other), simulate(activity) + 3 * simulate(other)) < 1e-5
    assert not single_scatter(activity, 0 * mu, GRID, sinogram).any()
    assert not simulate(0 * activity).any()


@pytest.mark.parametrize("tof", [None, TOF])
def test_subsets_are_parts_of_the_whole(tof):
    activity, mu = blobs()
    sampling = ScatterSampling(crystal_spacing=60, ring_spacing=40)
    sinogram = PETSinogram(SMALL, tof=tof, mashing=2, n_radial=13, max_ring_difference=1)
    whole = single_scatter(activity, mu, GRID, sinogram, sampling=sampling)
    for k in range(3):
        part = single_scatter(activity, mu, GRID, sinogram.subset(k, 3), sampling=sampling)
        np.testing.assert_array_equal(part, whole[k::3])


def test_tensors_are_taken():
    activity, mu = blobs()
    found = single_scatter(torch.from_numpy(activity), torch.from_numpy(mu), GRID, PETSinogram(SMALL))
    np.testing.assert_array_equal(found, single_scatter(activity, mu, GRID, PETSinogram(SMALL)))


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    activity, mu = blobs()
    found = []
    for n in ("1", "3"):
        monkeypatch.setenv("EMRECON_NUM_THREADS", n)
        found.append(single_scatter(activity, mu, GRID, PETSinogram(SMALL, tof=TOF)))
    np.testing.assert_array_equal(*found)


def test_compressed_bins_hold_the_mean_of_their_pairs():
    activity, mu = blobs()
    fine, coarse = PETSinogram(SMALL), PETSinogram(SMALL, span=3, mashing=2, n_radial=15)
    single = single_scatter(activity, mu, GRID, fine, sampling=EVERY)
    joined = single_scatter(activity, mu, GRID, coarse, sampling=EVERY)
    columns = slice(fine.n_radial // 2 - 7, fine.n_radial // 2 + 8)
    planes = [[fine.michelogram[a, b] for a, b in pairs] for pairs in coarse.ring_pairs]
    mean = np.stack([single[:, columns, group].mean(-1) for group in planes], -1)
    assert relative_difference(joined, (mean[::2] + mean[1::2]) / 2) < 0.03  # the mean line's length, not its mean


def test_a_flat_image_and_one_ring():
    scanner = PETScanner.polygon(sides=40, crystals_per_side=1, radius=300, rings=1, ring_pitch=5)
    grid = ImageGrid((40, 40, 1), 5.0)
    activity, mu = cylinder(grid, 80, 10)
    found = single_scatter(activity, mu, grid, PETSinogram(scanner), energy_resolution=0.1)
    assert found.shape == (20, 39, 1)
    middle = found[:, 19]
    assert middle.min() > 0.95 * middle.max() > 0


def test_random_scatter_points_repeat_and_agree():
    grid = ImageGrid((60, 60, 30), 4.0)
    activity, mu = cylinder(grid, 90, 100, (10.0, 0.0, 0.0))
    sinogram = PETSinogram(PETScanner.named("dmi"), n_radial=301).subset(2, 136)
    regular = single_scatter(activity, mu, grid, sinogram, sampling=ScatterSampling(spacing=16))
    one, again, other = (
        single_scatter(activity, mu, grid, sinogram, sampling=ScatterSampling(spacing=16, seed=s)) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert 1e-4 < relative_difference(one, other) < 0.05
    assert one.sum() == pytest.approx(regular.sum(), rel=0.01)


# ---- a whole scanner ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mmr():
    return PETSinogram(PETScanner.named("mmr"), span=11).subset(4, 126)


@pytest.mark.slow
def test_scatter_of_a_water_cylinder(mmr):
    fractions = []
    for length in (200, 700):
        grid = ImageGrid((54, 54, length // 5), (4.0, 4.0, 5.0))
        activity, mu = cylinder(grid, 100, length)
        A = PETProjector(grid, mmr)
        trues = A(activity) * np.exp(-A(mu / 10))
        scatter = single_scatter(activity, mu, grid, mmr)
        fractions.append(scatter.sum() / (scatter.sum() + trues.sum()))
        middle = scatter[:, 172, :64].mean(1)
        assert np.ptp(middle) < 0.01 * middle.mean()
        profile = scatter[0, :, 63]
        np.testing.assert_allclose(profile[1:], profile[:0:-1], atol=0.01 * profile.max())
    # Single scatter only. Measured fractions (37 % for a line source) hold multiple scatter too.
    assert fractions == pytest.approx([0.235, 0.265], abs=0.01)


@pytest.mark.slow
def test_halving_every_spacing_changes_little(mmr):
    grid = ImageGrid((40, 40, 40), 5.0)
    activity, mu = cylinder(grid, 60, 150, (15.0, -10.0, 20.0))
    activity[24:28, 16:20, 20:25] *= 5
    sinogram = replace(mmr, max_ring_difference=5)
    coarse = single_scatter(activity, mu, grid, sinogram)
    fine = single_scatter(activity, mu, grid, sinogram, sampling=ScatterSampling(10, 17.5, 12.5, 5))
    assert relative_difference(coarse, fine) < 0.02
    assert coarse.sum() == pytest.approx(fine.sum(), rel=0.01)


@pytest.mark.slow
def test_agrees_with_a_monte_carlo():
    scanner = PETScanner.polygon(sides=60, crystals_per_side=1, radius=250, rings=8, ring_pitch=25)
    sinogram = PETSinogram(scanner)
    grid = ImageGrid((44, 44, 40), 4.0, (20 - 86, 10 - 86, -78))
    activity, mu = cylinder(grid, 80, 160, (20.0, 10.0, 0.0))
    density = 1 / (np.pi * 80**2 * 160)
    expected = single_scatter(density * activity, mu, grid, sinogram, energy_resolution=0.15)
    expected = expected * lines_per_pair(sinogram, 250.0, 25.0) * accepted_fraction(511.0, (430, 610), 0.15) ** 2
    found, variance = monte_carlo(sinogram, 1_500_000)
    assert found.sum() == pytest.approx(expected.sum(), rel=4 * variance.sum() ** 0.5 / found.sum())
    assert variance.sum() ** 0.5 < 0.005 * found.sum()
    for axes in ((0, 2), (0, 1), (2,)):
        n, error, m = found.sum(axes), variance.sum(axes) ** 0.5, expected.sum(axes)
        seen = m > 0.02 * m.max()
        deviation = (n - m)[seen] / np.hypot(error, 0.01 * m)[seen]  # bins are 26 mm wide, and sampled at their middle
        assert (deviation**2).mean() < 1.3


def lines_per_pair(sinogram, radius, pitch):
    """a cos(A) b cos(B) / (2 pi |AB|^2) of every bin."""
    first, second = sinogram.line_ends()
    way = second - first
    cosines = [np.abs((way * end)[..., :2].sum(-1)) / radius for end in (first, second)]
    area = 2 * np.pi * radius / sinogram.scanner.n_crystals * pitch
    return area**2 * cosines[0] * cosines[1] / (2 * np.pi * (way**2).sum(-1) ** 2)


def monte_carlo(sinogram, n, radius=80.0, half=80.0, centre=(20.0, 10.0, 0.0), mu=0.0096, seed=0):
    """Single scatters per decay and their variance, (2, *sinogram.shape): uniform cylinder, forced to scatter once."""
    rng = np.random.default_rng(seed)

    def direction(cosine, phi):
        sine = np.sqrt(1 - cosine**2)
        return np.stack([sine * np.cos(phi), sine * np.sin(phi), cosine])

    def way_out(p, u):
        a, b, c = (u[:2] ** 2).sum(0), (p[:2] * u[:2]).sum(0), (p[:2] ** 2).sum(0) - radius**2
        return np.minimum((-b + np.sqrt(b * b - a * c)) / a, (np.sign(u[2]) * half - p[2]) / u[2])

    r, phi = radius * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    p = np.stack([r * np.cos(phi), r * np.sin(phi), half * rng.uniform(-1, 1, n)])
    u = direction(rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n))
    weight = 2 * np.exp(-mu * way_out(p, -u))  # either photon may be the one that scatters
    inside = 1 - np.exp(-mu * way_out(p, u))
    s = p - np.log(1 - inside * rng.random(n)) / mu * u
    c, table = angles()
    cosine, phi = np.interp(rng.random(n), table, c), rng.uniform(0, 2 * np.pi, n)
    x = np.cross(u.T, [0.6, 0.8, 0]).T
    x /= np.linalg.norm(x, axis=0)
    sine = np.sqrt(1 - cosine**2)
    turned = cosine * u + sine * (np.cos(phi) * x + np.sin(phi) * np.cross(u.T, x.T).T)
    energy = 511 / (2 - cosine)
    softer = np.interp(energy, [300, 350, 400, 450, 511], klein_nishina_total(np.array([300, 350, 400, 450, 511.0])))
    weight *= inside * np.exp(-mu * softer / klein_nishina_total(511.0) * way_out(s, turned))
    weight *= accepted_fraction(energy, (430, 610), 0.15) * accepted_fraction(511.0, (430, 610), 0.15)
    crystals = [crystal_hit(q + np.array(centre)[:, None], v) for q, v in ((p, -u), (s, turned))]
    seen = (crystals[0] >= 0) & (crystals[1] >= 0) & (crystals[0] % 60 != crystals[1] % 60)
    bins = sinogram.bins_of(np.stack(crystals, 1)[seen])
    flat, size = np.ravel_multi_index(tuple(bins.T), sinogram.shape), np.prod(sinogram.shape)
    sums = [np.bincount(flat, weight[seen] ** k, size).reshape(sinogram.shape) / n**k for k in (1, 2)]
    return sums[0], sums[1]


def angles():
    """A table of cos theta against the part of scatters below it, from the formula for 511 keV."""
    c = np.linspace(-1, 1, 20001)
    P = 1 / (2 - c)
    below = np.cumsum(P**2 * (P + 1 / P - 1 + c**2))
    return c, (below - below[0]) / (below[-1] - below[0])


def crystal_hit(p, u, radius=250.0, n=60, rings=8, pitch=25.0):
    """The number of the crystal that a photon meets, -1 for none."""
    a, b, c = (u[:2] ** 2).sum(0), (p[:2] * u[:2]).sum(0), (p[:2] ** 2).sum(0) - radius**2
    x, y, z = p + (-b + np.sqrt(b * b - a * c)) / a * u
    crystal = np.rint(np.arctan2(x, -y) * n / (2 * np.pi)).astype(int) % n
    ring = np.floor(z / pitch + rings / 2).astype(int)
    return np.where((ring >= 0) & (ring < rings), ring * n + crystal, -1)


# ---- tails ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tails():
    """A sinogram, its scatter, attenuation factors, normalisation, randoms and trues."""
    sinogram = PETSinogram(PETScanner.named("mmr"), span=11).subset(4, 126)
    grid = ImageGrid((54, 54, 50), 5.0)
    activity, mu = cylinder(grid, 90, 400)
    A = PETProjector(grid, sinogram)
    survival = np.exp(-A(mu / 10))
    norm = np.random.default_rng(0).uniform(0.5, 1.5, sinogram.shape)
    return sinogram, single_scatter(activity, mu, grid, sinogram), survival, norm, 2 + norm, A(activity) * survival


def test_scales_are_recovered(tails):
    sinogram, scatter, survival, norm, randoms, trues = tails
    mask = tail_mask(survival)
    assert not mask[:, 172, 10:117].any()
    assert (survival[mask] > 0.99).all()
    true_scale = 1.2 + 0.3 * np.cos(np.arange(sinogram.n_planes) / 400)
    measured = randoms + norm * (trues + true_scale * scatter)
    scaled, scales = scale_to_tails(scatter, measured, randoms, mask, sinogram, factors=norm, smoothing=0)
    tail = (norm * scatter * mask).sum((0, 1)) > 0
    assert tail.all()
    np.testing.assert_allclose(scales, true_scale, rtol=0.01)  # trues in the tails: factors of 0.99 are not quite 1
    np.testing.assert_allclose(scaled, scatter * scales, rtol=1e-5)
    assert scaled.dtype == np.float32


def test_noise_is_smoothed_away(tails):
    sinogram, scatter, survival, norm, randoms, trues = tails
    mask = tail_mask(survival)
    measured = np.random.default_rng(1).poisson(randoms + norm * (trues + 1.3 * scatter))
    errors = []
    for how in ({"smoothing": 0}, {"smoothing": 3}, {"per": "segment"}, {"per": "all"}):
        _, scales = scale_to_tails(scatter, measured, randoms, mask, sinogram, factors=norm, **how)
        errors.append(np.sqrt(((scales - 1.3) ** 2).mean()))
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.5 * errors[1]
    assert errors[3] < 0.02
    assert np.unique(scales).size == 1


def test_limits_hold(tails):
    sinogram, scatter, survival, _, _, _ = tails
    for factor, expected in ((0.0, 0.5), (1.0, 1.0), (100.0, 2.0)):
        _, scales = scale_to_tails(scatter, factor * scatter, 0.0, tail_mask(survival), sinogram, limits=(0.5, 2.0))
        np.testing.assert_allclose(scales, expected, rtol=1e-6)


def test_tails_with_time_of_flight():
    sinogram = PETSinogram(SMALL, tof=TOF)
    activity, mu = blobs()
    scatter = single_scatter(activity, mu, GRID, sinogram)
    mask = np.zeros(sinogram.without_tof().shape, bool)
    mask[:, :6] = mask[:, -6:] = True
    randoms = np.full((*sinogram.shape[:2], 1, sinogram.n_planes), 0.1)
    for given in (mask, np.broadcast_to(mask[:, :, None], sinogram.shape)):
        scaled, scales = scale_to_tails(scatter, 2 * scatter + randoms, randoms, given, sinogram)
        np.testing.assert_allclose(scales, 2, rtol=1e-5)
    assert scaled.shape == sinogram.shape


def test_the_mask_keeps_a_margin():
    factors = np.ones((1, 12, 1))
    factors[0, 5:7] = 0.5
    assert tail_mask(factors, margin=0)[0, :, 0].tolist() == [True] * 5 + [False] * 2 + [True] * 5
    assert tail_mask(factors, margin=2)[0, :, 0].tolist() == [True] * 3 + [False] * 6 + [True] * 3


def test_bad_tails_are_explained(tails):
    sinogram, scatter, survival, _, _, _ = tails
    mask = tail_mask(survival)
    with pytest.raises(ValueError, match="correction factors"):
        tail_mask(1 / survival)
    with pytest.raises(ValueError, match=r"\(views, radial, planes\)"):
        tail_mask(survival[0])
    with pytest.raises(ValueError, match="no bin of the mask"):
        scale_to_tails(scatter, scatter, 0.0, mask & False, sinogram)
    some = mask.copy()
    some[..., 5:40] = False
    with pytest.raises(ValueError, match="planes have no tail, the first is plane 5 of segment 0"):
        scale_to_tails(scatter, scatter, 0.0, some, sinogram, smoothing=0)
    assert scale_to_tails(scatter, scatter, 0.0, some, sinogram, per="segment")[1].shape == (837,)
    with pytest.raises(TypeError, match="booleans"):
        scale_to_tails(scatter, scatter, 0.0, survival, sinogram)
    with pytest.raises(ValueError, match="measured has shape"):
        scale_to_tails(scatter, scatter[:1], 0.0, mask, sinogram)
    with pytest.raises(ValueError, match="background of shape"):
        scale_to_tails(scatter, scatter, np.zeros(5), mask, sinogram)
    with pytest.raises(ValueError, match="per must be"):
        scale_to_tails(scatter, scatter, 0.0, mask, sinogram, per="view")
    with pytest.raises(ValueError, match="limits"):
        scale_to_tails(scatter, scatter, 0.0, mask, sinogram, limits=(2, 1))


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": lambda m: 100 * m}, "1/m, or in Hounsfield units"),
        ({"mu": lambda m: m / 10}, "1/mm"),
        ({"mu": lambda m: m - 0.01}, "mu is negative"),
        ({"activity": lambda a: -a}, "activity is negative"),
        ({"activity": lambda a: a[1:]}, r"activity has shape \(7, 8, 4\), but the grid has \(8, 8, 4\)"),
        ({"mu": lambda m: m * np.nan}, "mu holds NaN"),
        ({"grid": lambda g: ImageGrid(g.shape, 40.0)}, "as far from the axis as the crystals"),
        ({"energy_window": lambda w: (350, 500)}, "must contain the 511 keV"),
        ({"energy_window": lambda w: (520, 600)}, "must contain the 511 keV"),
        ({"energy_resolution": lambda e: 14.5}, "between 0 and 1"),
        ({"sinogram": lambda s: replace(s, scanner=replace(SMALL, energy_resolution=None))}, "no energy resolution"),
    ],
)
def test_bad_arguments_are_explained(change, message):
    activity, mu = blobs()
    given = {"activity": activity, "mu": mu, "grid": GRID, "sinogram": PETSinogram(SMALL)}
    given |= {name: make(given.get(name)) for name, make in change.items()}
    with pytest.raises(ValueError, match=message):
        single_scatter(**given)


def test_more_bad_arguments():
    activity, mu = blobs()
    with pytest.raises(TypeError, match="PETSinogram"):
        single_scatter(activity, mu, GRID, SMALL)
    with pytest.raises(ValueError, match="spacing must be positive"):
        ScatterSampling(spacing=0)
    with pytest.raises(ValueError, match="threshold"):
        ScatterSampling(threshold=-1)
    with pytest.raises(ValueError, match="photon energies"):
        klein_nishina_total(0.0)
