"""How electrons slow down in water: stopping powers, ranges, and the bremsstrahlung that they give off."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import scipy
from numpy.typing import ArrayLike

from emrecon.projectors.core.tables import read_table

ELECTRON_MASS = 510.999
"""The rest energy of an electron, keV."""

FINE_STRUCTURE = 1 / 137.036
LOWEST, HIGHEST = 1.0, 3000.0
"""The energies in keV between which electrons are followed."""

ELECTRONS_PER_GRAM = 3.3428e23
"""Electrons in a gram of water."""

_MEAN_EXCITATION = 0.075  # keV, liquid water
_RADIUS = 2.8179403e-13  # cm, of an electron
_Z, _ATOMS = np.array([1.0, 8.0]), np.array([2.0, 1.0]) * 3.3428e22  # of hydrogen and oxygen, atoms in a gram


def bethe_stopping(energy_kev: ArrayLike) -> np.ndarray:
    """Return the collision stopping power of water without density effect, in keV cm2/g, by Bethe's formula::

        S = 2 pi r^2 m n / beta^2 (ln(E^2 / I^2) + ln(1 + tau / 2) + F(tau)),    tau = E / m
        F = (1 - beta^2) (1 + tau^2 / 8 - (2 tau + 1) ln 2)

    Below 550 keV, where liquid water has no density effect.  Source: Berger & Seltzer in ICRU Report 37, 1984.
    """
    energy = np.asarray(energy_kev, float)
    tau = energy / ELECTRON_MASS
    beta2 = tau * (tau + 2) / (tau + 1) ** 2
    extra = (1 - beta2) * (1 + tau**2 / 8 - (2 * tau + 1) * math.log(2))
    bracket = 2 * np.log(energy / _MEAN_EXCITATION) + np.log1p(tau / 2) + extra
    stopping: np.ndarray = 2 * math.pi * _RADIUS**2 * ELECTRON_MASS * ELECTRONS_PER_GRAM / beta2 * bracket
    return stopping


@cache
def _table() -> dict[str, np.ndarray]:
    """ESTAR's columns with Bethe's below 10 keV; ranges there by integration, from that of 10 keV down."""
    rows = read_table(__package__, "electrons.csv")
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    low = np.geomspace(LOWEST, columns["energy_kev"][0], 60)[:-1]
    stopping = bethe_stopping(low) / 1000
    first = columns["radiative_mev_cm2_g"][0]
    fine = np.geomspace(LOWEST, columns["energy_kev"][0], 2001)
    inverse = 1 / bethe_stopping(fine)
    steps = np.append(0.0, np.cumsum((inverse[1:] + inverse[:-1]) / 2 * np.diff(fine)))
    ranges = columns["range_g_cm2"][0] - steps[-1] + np.interp(low, fine, steps)
    return {
        "energy": np.append(low, columns["energy_kev"]),
        "collision": np.append(stopping, columns["collision_mev_cm2_g"]) * 1000,
        "radiative": np.append(np.full(low.size, first), columns["radiative_mev_cm2_g"]) * 1000,
        "range": np.append(ranges, columns["range_g_cm2"]),
        "yield": np.append(columns["radiation_yield"][0] * low / columns["energy_kev"][0], columns["radiation_yield"]),
    }


@cache
def _spline(name: str) -> scipy.interpolate.CubicSpline:
    table = _table()
    return scipy.interpolate.CubicSpline(np.log(table["energy"]), np.log(table[name]))


def _looked_up(name: str, energy_kev: ArrayLike) -> np.ndarray:
    energy = np.asarray(energy_kev, float)
    if not ((energy >= LOWEST) & (energy <= HIGHEST)).all():
        raise ValueError(f"electrons in water are tabulated from {LOWEST:g} to {HIGHEST:g} keV, got {energy_kev!r}")
    values: np.ndarray = np.exp(_spline(name)(np.log(energy)))
    return values


def collision_stopping(energy_kev: ArrayLike) -> np.ndarray:
    """Return the collision stopping power of water in keV cm2/g; ESTAR from 10 keV, Bethe's formula below."""
    return _looked_up("collision", energy_kev)


def radiative_stopping(energy_kev: ArrayLike) -> np.ndarray:
    """Return the radiative stopping power of water in keV cm2/g; ESTAR, and that of 10 keV below."""
    return _looked_up("radiative", energy_kev)


def electron_range(energy_kev: ArrayLike) -> np.ndarray:
    """Return the range in water in continuous slowing down, g/cm2 (cm in water); ESTAR from 10 keV."""
    return _looked_up("range", energy_kev)


def radiation_yield(energy_kev: ArrayLike) -> np.ndarray:
    """Return the share of an electron's energy that it radiates until it stops in water; ESTAR from 10 keV."""
    return _looked_up("yield", energy_kev)


def bremsstrahlung(energy_kev: ArrayLike, photon_kev: ArrayLike) -> np.ndarray:
    """Return photons per path and photon energy of electrons in water, in cm2/g/keV; energies broadcast.

    The shape is that of Bethe and Heitler without screening, with Elwert's factor for the Coulomb field (Koch & Motz
    1959, formula 3BN); for each electron energy it is scaled to the radiative stopping power of ESTAR.
    """
    energy, photon = np.broadcast_arrays(np.asarray(energy_kev, float), np.asarray(photon_kev, float))
    grid = (np.arange(64) + 0.5) / 64
    emitted = np.mean(grid * energy[..., None] * _shape(energy[..., None], grid * energy[..., None]), -1) * energy
    found: np.ndarray = _shape(energy, photon) * radiative_stopping(energy) / emitted
    return found


def bethe_heitler_stopping(energy_kev: ArrayLike) -> np.ndarray:
    """Return the radiative stopping power of water in keV cm2/g as formula 3BN itself gives it: a check."""
    energy = np.asarray(energy_kev, float)
    grid = (np.arange(256) + 0.5) / 256
    stopping: np.ndarray = np.mean(grid * energy[..., None] * _shape(energy[..., None], grid * energy[..., None]), -1)
    return stopping * energy


def _shape(energy: np.ndarray, photon: np.ndarray) -> np.ndarray:
    """Formula 3BN with Elwert's factor, summed over the atoms of water, cm2/g/keV; 0 where k >= E."""
    allowed = photon < energy * (1 - 1e-9)
    k = np.where(allowed, photon, energy / 2) / ELECTRON_MASS
    E0 = energy / ELECTRON_MASS + 1
    E = E0 - k
    p0, p = np.sqrt(E0**2 - 1), np.sqrt(E**2 - 1)
    e0, e = 2 * np.log(E0 + p0), 2 * np.log(E + p)
    L = 2 * np.log((E0 * E + p0 * p - 1) / k)
    first = 4 / 3 - 2 * E0 * E * (p**2 + p0**2) / (p0**2 * p**2) + e0 * E / p0**3 + e * E0 / p**3 - e * e0 / (p0 * p)
    inner = (E0 * E + p0**2) / p0**3 * e0 - (E0 * E + p**2) / p**3 * e + 2 * k * E0 * E / (p0**2 * p**2)
    second = (
        8 * E0 * E / (3 * p0 * p) + k**2 * (E0**2 * E**2 + p0**2 * p**2) / (p0**3 * p**3) + k / (2 * p0 * p) * inner
    )
    b0, b = p0 / E0, p / E
    total = np.zeros(np.broadcast_shapes(energy.shape, photon.shape))
    for Z, atoms in zip(_Z, _ATOMS):
        coulomb = 2 * math.pi * Z * FINE_STRUCTURE
        elwert = b0 * np.expm1(-coulomb / b0) / (b * np.expm1(-coulomb / b))
        total = total + atoms * Z * (Z + 1) * elwert
    shape = total * FINE_STRUCTURE * _RADIUS**2 / (k * ELECTRON_MASS) * (p / p0) * (first + L * second)
    return np.where(allowed, shape, 0.0)
