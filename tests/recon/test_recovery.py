"""Recovery coefficients: tables by volume, the fitted curve, and the image of a phantom."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from emrecon.projectors import GaussianBlur, ImageGrid, RecoveryCurve, RecoveryTable
from emrecon.recon import ImageQualityLayout, Sphere, nema_recovery, sphere_recovery
from emrecon.sims import nema_iec_body, nema_layout

SIZES = (10.0, 13.0, 17.0, 22.0, 28.0, 37.0)
VOLUMES = tuple(math.pi / 6 * d**3 / 1000 for d in SIZES)
CURVE = RecoveryCurve(2.0, 0.9)


def test_tables_by_volume():
    table = RecoveryTable.from_volumes(VOLUMES, CURVE.coefficient(VOLUMES))
    np.testing.assert_allclose(table.diameters, SIZES)
    np.testing.assert_allclose(table.volumes, VOLUMES)
    assert table.volumes[-1] == pytest.approx(26.5, rel=2e-3)
    assert table.coefficient_of_volume(5.0) == pytest.approx(
        table.coefficient(2 * (15 / (4 * math.pi)) ** (1 / 3) * 10)
    )
    assert table.correct_volume(3.0, VOLUMES[2], background=1.0) == pytest.approx(1 + 2 / CURVE.coefficient(VOLUMES[2]))
    assert "26.52" in str(table)


def test_a_known_curve_comes_back():
    assert CURVE.coefficient(2.0) == pytest.approx(0.5)
    fit = RecoveryTable.from_volumes(VOLUMES, CURVE.coefficient(VOLUMES)).fitted()
    assert fit.half_volume == pytest.approx(2.0, rel=1e-5)
    assert fit.exponent == pytest.approx(0.9, rel=1e-5)
    assert fit.measured == pytest.approx((VOLUMES[0], VOLUMES[-1]))
    lower = RecoveryCurve(1.0, 1.5, 0.9)
    free = RecoveryTable.from_volumes(VOLUMES, lower.coefficient(VOLUMES)).fitted(plateau=None)
    assert (free.half_volume, free.exponent, free.plateau) == pytest.approx((1.0, 1.5, 0.9), rel=1e-4)
    assert free.correct(0.45, 1.0, extrapolate=True) == pytest.approx(1.0)


def test_uncertainty_of_a_noisy_curve():
    rng = np.random.default_rng(0)
    fits = [
        RecoveryTable.from_volumes(VOLUMES, CURVE.coefficient(VOLUMES) + 0.02 * rng.normal(size=6)).fitted()
        for _ in range(60)
    ]
    spread = np.std([fit.half_volume for fit in fits])
    assert np.sqrt(np.mean([fit.uncertainties[0] ** 2 for fit in fits])) == pytest.approx(spread, rel=0.3)
    assert RecoveryTable.from_volumes(VOLUMES[:2], (0.3, 0.5)).fitted().uncertainties is None


def test_curves_refuse():
    fit = RecoveryTable.from_volumes(VOLUMES, CURVE.coefficient(VOLUMES)).fitted()
    with pytest.raises(ValueError, match=r"measured from 0\.5236 to 26\.52 mL"):
        fit.coefficient(100.0)
    assert fit.coefficient(1000.0, extrapolate=True) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(ValueError, match="positive mL"):
        fit.coefficient(0.0)
    with pytest.raises(ValueError, match="as many spheres"):
        RecoveryTable((10, 20), (0.3, 0.5)).fitted(plateau=None)
    with pytest.raises(ValueError, match="exponent"):
        RecoveryCurve(1.0, -1.0)


def spheres_in(shares, background=0.0, warm=1.0):
    """A grid, spheres, and an image that holds a share of 8 in each sphere."""
    grid = ImageGrid((60, 60, 20), 2.5)
    x, y, z = grid.coordinates()
    image, found = np.full(grid.shape, warm * background), []
    for k, (d, share) in enumerate(zip(SIZES, shares)):
        angle = k * math.pi / 3
        centre = (45 * math.cos(angle), 45 * math.sin(angle), 0.0)
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < (d / 2 + 5) ** 2
        image[inside] = warm * background + share * (8.0 - background)
        found.append(Sphere(centre, d))
    return grid, found, image


def test_spheres_of_an_image():
    shares = (0.2, 0.3, 0.5, 0.6, 0.7, 0.8)
    grid, spheres, image = spheres_in(shares)
    np.testing.assert_allclose(sphere_recovery(image, grid, spheres, 8.0).coefficients, shares)
    grid, spheres, image = spheres_in(shares, background=1.0, warm=0.9)
    table = sphere_recovery(image, grid, spheres, 8.0, background=1.0, measured_background=0.9)
    np.testing.assert_allclose(table.coefficients, shares)
    with pytest.raises(ValueError, match="measured_background"):
        sphere_recovery(image, grid, spheres, 8.0, background=1.0)
    with pytest.raises(ValueError, match="above the background"):
        sphere_recovery(image, grid, spheres, 8.0, background=9.0, measured_background=1.0)
    with pytest.raises(ValueError, match="reaches out"):
        sphere_recovery(image, grid, [Sphere((73, 0, 0), 20), *spheres], 8.0)
    with pytest.raises(ValueError, match="NaN"):
        sphere_recovery(image * np.nan, grid, spheres, 8.0)


def test_a_blurred_nema_phantom():
    """Of a Gaussian blur the recovery in a whole sphere is known: the mean over the sphere of the blurred one."""
    grid, sigma = ImageGrid((80, 64, 20), 4.0), 4.0
    image = GaussianBlur(grid, sigma * math.sqrt(8 * math.log(2)))(nema_iec_body(8, 1000.0, walls=False).activity(grid))
    table = nema_recovery(image, grid, ImageQualityLayout(**nema_layout(8)), 8000.0, background=1000.0)
    assert (np.diff(table.coefficients) > 0).all()
    width = math.sqrt(sigma**2 + 2 * 4.0**2 / 12)  # voxels blur what they hold, and what is measured in their parts
    expected = [gaussian_recovery(d / 2, width) for d in table.diameters]
    np.testing.assert_allclose(table.coefficients, expected, rtol=0.06)
    assert table.fitted().coefficient(10.0) == pytest.approx(table.coefficient_of_volume(10.0), rel=0.05)


def gaussian_recovery(R, sigma):
    """Mean over a sphere of radius R of the sphere blurred by sigma."""
    r = np.linspace(1e-6, R, 4000)
    below, above = (R - r) / sigma, (R + r) / sigma
    peak = sigma / (r * math.sqrt(2 * math.pi)) * (np.exp(-(below**2) / 2) - np.exp(-(above**2) / 2))
    blurred = ndtr(below) + ndtr(above) - 1 - peak
    return np.trapezoid(blurred * r**2, r) * 3 / R**3
