"""Compton scatter of photons by free electrons: energy, angles, and what an energy window accepts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

ELECTRON_MASS = 510.999
"""The rest energy of an electron in keV, and the energy of annihilation photons."""

_ELECTRON_RADIUS = 2.8179403e-13  # cm

_FWHM = 2 * math.sqrt(2 * math.log(2))


def scattered_energy(cos_theta: ArrayLike, energy_kev: ArrayLike) -> np.ndarray:
    """Return the energy in keV of a photon that scattered through theta: E / (1 + E / 511 keV (1 - cos theta))."""
    k = _in_electron_masses(energy_kev)
    return np.asarray(energy_kev, float) / (1 + k * (1 - np.asarray(cos_theta, float)))


def klein_nishina(cos_theta: ArrayLike, energy_kev: ArrayLike) -> np.ndarray:
    """Return the differential cross section of a free electron in cm2/sr, for photons without polarisation::

        dsigma / dOmega = r^2 / 2 P^2 (P + 1 / P - sin^2 theta),     P = E' / E,  r = 2.818e-13 cm

    Arguments broadcast.  Source: Klein & Nishina 1929.
    """
    cos_theta = np.asarray(cos_theta, float)
    P = scattered_energy(cos_theta, energy_kev) / np.asarray(energy_kev, float)
    return _ELECTRON_RADIUS**2 / 2 * P**2 * (P + 1 / P - 1 + cos_theta**2)


def klein_nishina_total(energy_kev: ArrayLike) -> np.ndarray:
    """Return the cross section of a free electron in cm2, the integral of `klein_nishina` over all directions.

    With k = E / 511 keV it is::

        2 pi r^2 ((1 + k) / k^2 (2 (1 + k) / (1 + 2 k) - L / k) + L / (2 k) - (1 + 3 k) / (1 + 2 k)^2),  L = log(1 + 2k)

    Terms cancel at low energies: 10 digits are right at 1 keV, all at 100 keV.  Source: Klein & Nishina 1929.
    """
    k = _in_electron_masses(energy_kev)
    log = np.log1p(2 * k)
    first = (1 + k) / k**2 * (2 * (1 + k) / (1 + 2 * k) - log / k)
    return 2 * math.pi * _ELECTRON_RADIUS**2 * (first + log / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2)


def accepted_fraction(
    energy_kev: ArrayLike, energy_window: tuple[float, float], energy_resolution: float
) -> np.ndarray:
    """Return the fraction of photons of an energy that are measured inside an energy window.

    The measured energy is Gaussian with FWHM(E) = energy_resolution * sqrt(511 keV * E); energy_resolution is the FWHM
    at 511 keV as a fraction. Only the photopeak is modelled: no Compton scattering inside the crystal.
    """
    energy = np.asarray(energy_kev, float)
    sigma = energy_resolution * np.sqrt(ELECTRON_MASS * energy) / _FWHM
    low, high = energy_window
    fraction: np.ndarray = ndtr((high - energy) / sigma) - ndtr((low - energy) / sigma)
    return fraction


def _in_electron_masses(energy_kev: ArrayLike) -> np.ndarray:
    energy = np.asarray(energy_kev, float)
    if not (np.isfinite(energy).all() and (energy > 0).all()):
        raise ValueError(f"photon energies must be positive and finite, in keV, got {energy}")
    return energy / ELECTRON_MASS
