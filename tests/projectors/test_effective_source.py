"""Effective source scatter: the kernel's formula, operator properties, an integral over a ball, and a Monte Carlo."""

import numpy as np
import pytest
from battery import check_operator
from scipy.ndimage import gaussian_filter1d

from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    LinearResponse,
    SPECTGeometry,
    SPECTProjector,
    accepted_fraction,
    klein_nishina,
    klein_nishina_total,
    linear_attenuation,
    scattered_energy,
)
from emrecon.projectors.spect.effective_source import EffectiveSource, SPECTScatterProjector

ENERGY, WINDOW, RESOLUTION = 140.511, (126.46, 154.56), 0.099
ELECTRONS = 3.343e22  # per cm2 and mm
WATER = linear_attenuation("water", ENERGY)
SINGLE = EffectiveSource(WINDOW, highest_order=1)
ALL = EffectiveSource(WINDOW, n_photons=100_000)
QUICK = EffectiveSource(WINDOW, highest_order=2, degree=4, n_photons=2000)


RESPONSE = LinearResponse(0.03, 3.0)


def accepted(energy):
    """The window's acceptance over that of primaries."""
    at_511 = RESOLUTION * np.sqrt(ENERGY / 510.999)
    return accepted_fraction(energy, WINDOW, at_511) / accepted_fraction(ENERGY, WINDOW, at_511)


def water_at(energy):
    """Attenuation of water in 1/mm."""
    nodes = np.linspace(60, 150, 40)
    return np.interp(energy, nodes, [linear_attenuation("water", float(e)) / 10 for e in nodes])


def small(voxel=(4.0, 4.0, 5.0), spacing=8.0, response=RESPONSE, source=QUICK):
    grid = ImageGrid((6, 5, 4), voxel, origin=(-8, -11, -6))
    mu = np.random.default_rng(2).random(grid.shape) * 0.2
    camera = SPECTGeometry(np.array([0, 37.0, 90, 200, 289]), np.full(5, 60.0), (7, 5), 4.0)
    return SPECTScatterProjector(SPECTProjector(grid, camera, mu, response), source, spacing=spacing)


def ball(radius, voxel=5.0, n_views=4, source=SINGLE, spacing=5.0, start=0.0):
    n = int(2 * radius / voxel) + 5
    grid = ImageGrid((n, n, n), voxel)
    fine = ImageGrid((3 * n, 3 * n, 3 * n), voxel / 3)
    x, y, z = fine.coordinates()
    inside = (x**2 + y**2 + z**2 < radius**2).reshape(n, 3, n, 3, n, 3).mean((1, 3, 5))
    camera = SPECTGeometry.circular(n_views=n_views, radius=1.5 * radius, n_bins=(n, n), pixel_size=voxel, start=start)
    projector = SPECTProjector(grid, camera, inside * WATER)
    return projector, SPECTScatterProjector(projector, source, spacing=spacing)


def point(grid, index):
    image = np.zeros(grid.shape)
    image[index] = 1
    return image, np.array([o + d * i for o, d, i in zip(grid.origin, grid.voxel_size, index)])


def way_out(position, direction, radius):
    """Distance to the surface of a ball around 0."""
    along = (position * direction).sum(-1)
    return -along + np.sqrt(np.maximum(along**2 + radius**2 - (position**2).sum(-1), 0))


# ---- the kernel -----------------------------------------------------------------------------------------------------


def test_the_kernel_of_single_scatter():
    cosine = np.linspace(-1, 1, 81)
    energy = scattered_energy(cosine, ENERGY)
    exact = np.exp(-5 * WATER) / 50**2 * ELECTRONS * klein_nishina(cosine, ENERGY) * accepted(energy)
    found = SINGLE.kernel(50.0, cosine)
    assert np.abs(found - exact).max() < 0.015 * exact.max()
    assert np.trapezoid(found, cosine) == pytest.approx(np.trapezoid(exact, cosine), rel=5e-3)
    assert found.min() > -1e-6 * found.max()
    assert 1.01 < SINGLE.attenuation_ratio < 1.04


def test_a_wide_window_counts_every_scatter_once():
    """With everything accepted, single scatter per length is the Compton coefficient times the fluence."""
    wide = EffectiveSource((1.0, 300.0), highest_order=1)
    cosine = np.linspace(-1, 1, 2001)
    per_length = 2 * np.pi * np.trapezoid(wide.kernel(10.0, cosine), cosine) * 100 * np.exp(WATER)
    assert per_length == pytest.approx(ELECTRONS * klein_nishina_total(ENERGY), rel=1e-3)


def test_higher_orders_add_more_with_distance():
    cosine = np.linspace(-1, 1, 101)
    more = [
        np.trapezoid(ALL.kernel(s, cosine), cosine) / np.trapezoid(SINGLE.kernel(s, cosine), cosine)
        for s in (5.0, 50.0, 100.0, 200.0)
    ]
    assert 1 < more[0] < 1.1
    assert (np.diff(more) > 0.05).all()
    assert EffectiveSource(WINDOW).kernel(30.0, 0.5) == EffectiveSource(WINDOW).kernel(30.0, 0.5)


# ---- the operator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"voxel": (5.0, 3.0, 4.0), "spacing": 4.0}, {"response": None}])
def test_operator(options):
    check_operator(small(**options), positive=True)


def test_nothing_is_negative():
    scatter = small(source=SINGLE)
    columns, signed = (scatter(sign * np.eye(120).reshape(120, 6, 5, 4)) for sign in (1, -1))
    assert columns.min() >= 0
    np.testing.assert_allclose(signed, -columns, atol=1e-6 * columns.max())
    assert scatter.estimate(np.eye(120).reshape(120, 6, 5, 4)).min() >= 0


def test_directions_between_the_basis_are_exact():
    """The Dirichlet sum of the kernels of 2 n + 1 directions is the kernel of any direction."""
    scatter = small(source=SINGLE)
    toward, _ = scatter.geometry.directions
    weights = scatter._view_weights(np.zeros(1))[..., 0, 0]
    angles = scatter._directions
    r, phi = np.array([30.0, 8.0]), np.hypot(30.0, 8.0)
    basis = SINGLE.kernel(phi, (np.cos(angles) * r[0] + np.sin(angles) * r[1]) / phi)
    np.testing.assert_allclose(weights.T @ basis, SINGLE.kernel(phi, toward @ r / phi), rtol=1e-10)


def test_views_of_a_ball_look_alike():
    _, scatter = ball(40.0, n_views=7, start=11.0)
    middle = scatter.in_shape[0] // 2
    views = scatter(point(scatter.grid, (middle,) * 3)[0]).sum((1, 2))
    assert views.std() < 0.004 * views.mean()


def test_fewer_larger_cells_change_little():
    totals = []
    for spacing in (5.0, 10.0, 15.0):
        projector, scatter = ball(60.0, source=SINGLE, spacing=spacing)
        totals.append(scatter(np.asarray(projector.attenuation)).sum())
    np.testing.assert_allclose(totals[1], totals[0], rtol=0.035)
    np.testing.assert_allclose(totals[2], totals[0], rtol=0.065)


def test_as_a_background_and_as_a_sum():
    projector, scatter = ball(40.0, source=QUICK, spacing=10.0)
    image = np.asarray(projector.attenuation, np.float32)
    model = AcquisitionModel(projector, 2.0, 2.0 * scatter.estimate(image))
    both = AcquisitionModel(projector + scatter, 2.0)
    np.testing.assert_allclose(model(image), both(image), rtol=1e-4, atol=1e-5 * float(model(image).max()))
    assert "126.46 to 154.56 keV" in str(scatter)


# ---- against others -------------------------------------------------------------------------------------------------


def test_single_scatter_of_a_point_in_a_ball():
    """An integral in spherical coordinates around the point, without grid, FFT, expansion or mean attenuation."""
    radius = 60.0
    _, scatter = ball(radius, n_views=4)
    m = scatter.in_shape[0] // 2
    image, source = point(scatter.grid, (m + 4, m - 3, m + 2))
    found = scatter(image)
    distances = (np.arange(120) + 0.5) * (2 * radius / 120)
    cosines = (np.arange(48) + 0.5) / 24 - 1
    angles = np.arange(64) * (2 * np.pi / 64)
    toward, along = scatter.geometry.directions
    for v in range(4):
        n, u = (np.append(d[v], 0) for d in (toward, along))
        c, a = cosines[:, None, None], angles[None, :, None]
        line = c * n + np.sqrt(1 - c**2) * (np.cos(a) * u + np.sin(a) * np.array([0, 0, 1.0]))
        position = source + distances[:, None, None, None] * line
        energy = scattered_energy(cosines, ENERGY)[:, None]
        leave = np.exp(-water_at(energy) * way_out(position, n, radius))
        strength = ELECTRONS * klein_nishina(cosines, ENERGY)[:, None] * accepted(energy)
        value = np.exp(-WATER / 10 * distances)[:, None, None] * strength * leave
        value = (
            value * ((position**2).sum(-1) < radius**2) * (distances[1] - distances[0]) * (2 / 48) * (2 * np.pi / 64)
        )
        assert found[v].sum() == pytest.approx(value.sum(), rel=0.02)
        bins = scatter.geometry.bin_centres()[0][v]
        edges = np.append(bins - 2.5, bins[-1] + 2.5)
        profile = np.histogram((position @ u).ravel(), edges, weights=value.ravel())[0]
        # the splat and the cells blur by about a bin: compare both a little blurred
        profile, seen = (gaussian_filter1d(p, 2.0, mode="constant") for p in (profile, found[v].sum(1)))
        assert np.abs(seen - profile).max() < 0.05 * profile.max()


def tracked(radius, source, toward, n, orders, seed=4):
    """Return scatter over primaries by order, of a point in a ball of water: analogue tracks, forced detection."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    position, energy, weight = np.tile(source, (n, 1)), np.full(n, ENERGY), np.ones(n)
    primary = np.exp(-WATER / 10 * way_out(source, toward, radius))
    found = []
    for _ in range(orders):
        mu = water_at(energy)
        position = position + direction * (rng.exponential(size=energy.size) / mu)[:, None]
        inside = (position**2).sum(1) < radius**2
        position, direction, energy, weight, mu = (v[inside] for v in (position, direction, energy, weight, mu))
        cosine = direction @ toward
        left = scattered_energy(cosine, energy)
        score = 4 * np.pi * ELECTRONS * klein_nishina(cosine, energy) / mu * accepted(left)
        score = score * np.exp(-water_at(left) * way_out(position, toward, radius))
        found.append((weight * score).sum() / n / primary)
        trial = rng.normal(size=position.shape)  # a new direction, any; its chance goes into the weight
        trial /= np.linalg.norm(trial, axis=1, keepdims=True)
        turn = (direction * trial).sum(1)
        weight = weight * 4 * np.pi * ELECTRONS * klein_nishina(turn, energy) / mu
        direction, energy = trial, scattered_energy(turn, energy)
        kept = energy > 90
        position, direction, energy, weight = position[kept], direction[kept], energy[kept], weight[kept]
    return np.array(found)


@pytest.mark.parametrize("shift", [0, 8])
def test_all_orders_of_a_point_in_a_ball(shift):
    radius = 80.0
    projector, single = ball(radius, source=SINGLE, spacing=10.0)
    scatter = SPECTScatterProjector(projector, ALL, spacing=10.0)
    m = single.in_shape[0] // 2
    image, source = point(single.grid, (m, m + shift, m))
    v = int(np.argmax(single.geometry.directions[0][:, 1]))  # the camera at +y
    orders = tracked(radius, source, np.array([0, 1.0, 0]), 150_000, 4)
    primary = projector(image)[v].sum()
    assert single(image)[v].sum() / primary == pytest.approx(orders[0], rel=0.03)
    assert scatter(image)[v].sum() / primary == pytest.approx(orders.sum(), rel=0.06)


def test_scatter_of_a_cylinder_is_in_the_known_range():
    """20 cm of water in diameter and length, Tc-99m, 20 % window: scatter over primaries about a quarter to a third."""
    grid = ImageGrid((44, 44, 40), 6.0)
    x, y, z = grid.coordinates()
    water = ((x**2 + y**2 < 100**2) & (np.abs(z) < 100)).astype(np.float32)
    camera = SPECTGeometry.circular(n_views=8, radius=150, n_bins=(48, 48), pixel_size=6.0)
    projector = SPECTProjector(grid, camera, water * WATER, LinearResponse(0.03, 2.0))
    ratio = SPECTScatterProjector(projector, ALL, spacing=12.0)(water).sum() / projector(water).sum()
    assert 0.22 < ratio < 0.40


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_sources_that_cannot_be():
    with pytest.raises(ValueError, match="must contain the emission"):
        EffectiveSource((92.0, 125.0))
    with pytest.raises(ValueError, match="30 to 1000 keV"):
        EffectiveSource((1.0, 30.0), energy=20.0)
    with pytest.raises(ValueError, match="fraction"):
        EffectiveSource(WINDOW, energy_resolution=9.9)
    for name in ("highest_order", "degree", "n_photons"):
        with pytest.raises(ValueError, match=name):
            EffectiveSource(WINDOW, **{name: 0})


def test_projectors_that_cannot_scatter():
    grid, camera = ImageGrid((6, 6, 4), 4.0), SPECTGeometry.circular(n_views=3, radius=60, n_bins=(6, 4), pixel_size=4)
    for mu, fact in ((None, "none"), (np.zeros(grid.shape), "all zero"), (np.ones((2, *grid.shape)), "one per item")):
        with pytest.raises(ValueError, match=fact):
            SPECTScatterProjector(SPECTProjector(grid, camera, mu), SINGLE)
    projector = SPECTProjector(grid, camera, np.ones(grid.shape))
    with pytest.raises(ValueError, match="spacing"):
        SPECTScatterProjector(projector, SINGLE, spacing=0.0)
    with pytest.raises(TypeError, match="SPECTProjector"):
        SPECTScatterProjector(projector @ projector.T @ projector, SINGLE)
    with pytest.raises(TypeError, match="EffectiveSource"):
        SPECTScatterProjector(projector, WINDOW)
    flat, row = ImageGrid((6, 6, 1), 4.0), SPECTGeometry.circular(n_views=3, radius=60, n_bins=(6, 1), pixel_size=4)
    with pytest.raises(ValueError, match="one slice"):
        SPECTScatterProjector(SPECTProjector(flat, row, np.ones(flat.shape)), SINGLE)
