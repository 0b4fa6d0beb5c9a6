"""Attenuation factors, calibration and SUV against closed forms."""

import numpy as np
import pytest

from emrecon.projectors import (
    Calibration,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    TimeOfFlight,
    attenuation_factors,
    isotope,
    suv,
)
from emrecon.sims import Cylinder, Phantom, Region


def test_attenuation_factors_of_a_water_cylinder():
    scanner = PETScanner.polygon(sides=40, crystals_per_side=5, radius=300, rings=3, ring_pitch=5)
    sinogram, grid = PETSinogram(scanner, n_radial=101).subset(0, 10), ImageGrid((120, 120, 5), (2.5, 2.5, 2.5))
    phantom = Phantom((Region("water", Cylinder((0, 0, 0), 100, np.inf), mu=0.096),))
    first, second = sinogram.line_ends()
    exact = np.exp(-phantom.attenuation_integral(first, second - first, 511))
    found = attenuation_factors(PETProjector(grid, sinogram), phantom.attenuation(grid, 511))
    central = exact < np.exp(-0.096 * 10)
    np.testing.assert_allclose(found[central], exact[central], rtol=0.01)
    assert found.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "message"), [(-0.1, "below zero"), (-500, "Hounsfield"), (1000.0, "Hounsfield"), (np.nan, "NaN")]
)
def test_implausible_attenuation_is_refused(value, message):
    scanner = PETScanner.polygon(sides=8, crystals_per_side=2, radius=30, rings=1, ring_pitch=5)
    A = PETProjector(ImageGrid((4, 4, 1), 5.0), PETSinogram(scanner))
    with pytest.raises(ValueError, match=message):
        attenuation_factors(A, np.full(A.in_shape, value, float))


def test_calibration_inverts_the_counting_of_decays():
    half_life = isotope("F-18").half_life
    concentration, start, duration = 5000.0, 3600.0, 1200.0  # Bq/mL at injection
    decays = (
        concentration * half_life / np.log(2) * (2 ** (-start / half_life) - 2 ** (-(start + duration) / half_life))
    )
    pairs = decays * isotope("F-18").positron_fraction
    image = np.full((2, 2, 2), 3e-4 * pairs)  # the system sees that many of them
    calibration = Calibration(1 / 3e-4, "F-18", duration, start)
    np.testing.assert_allclose(calibration(image), concentration, rtol=1e-12)
    other = Calibration.from_phantom(3e-4 * pairs, concentration, radionuclide="F18", duration=duration, start=start)
    assert other.factor == pytest.approx(1 / 3e-4, rel=1e-12)
    assert Calibration(1.0, "Tc-99m", 10).branching == 1


def test_suv_is_one_where_the_dose_is_spread_evenly():
    assert suv(np.array([350e6 / 70e3]), dose=350, weight=70) == pytest.approx(1)
    for dose, weight in ((0, 70), (100, -1)):
        with pytest.raises(ValueError, match="positive dose"):
            suv(np.ones(1), dose, weight)


def test_impossible_calibrations_are_refused():
    for arguments in ((0, "F-18", 10), (1, "F-18", 0), (1, "F-18", 10, np.nan), (1, "F-18", 10, 0, -1)):
        with pytest.raises(ValueError):
            Calibration(*arguments)
    with pytest.raises(ValueError):
        Calibration.from_phantom(0, 1, radionuclide="F-18", duration=1)


def test_attenuation_has_no_time_of_flight():
    scanner = PETScanner.polygon(sides=8, crystals_per_side=2, radius=30, rings=1, ring_pitch=5)
    A = PETProjector(ImageGrid((4, 4, 1), 5.0), PETSinogram(scanner, tof=TimeOfFlight(3, 20.0, 30.0)))
    with pytest.raises(ValueError, match="without time of flight"):
        attenuation_factors(A, np.zeros(A.in_shape))
