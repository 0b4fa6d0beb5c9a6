"""Point kernels in water: how much energy a decay leaves within and at a distance from where it happens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy.special import gammainc

from emrecon.projectors.core.tables import read_table

from .decays import Emissions, emissions_of
from .photon_transport import energy_absorption, interaction
from .stopping import bremsstrahlung, collision_stopping, electron_range, radiation_yield, radiative_stopping

BUILD_UP = ((1, 1.5), (1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (2, 1.5))
"""Power and rate of the terms x^n exp(-a x) that add to exp(-x) in the build-up of photons."""

FARTHEST = 1.2
"""How far electrons reach, in ranges of the continuous slowing down approximation."""

_LOWEST_PHOTON = 5.0  # keV: bremsstrahlung below is absorbed with the electrons
_BREMSSTRAHLUNG_LINES = 24


@cache
def _electron_kernels() -> tuple[np.ndarray, scipy.interpolate.PchipInterpolator]:
    """Energies, and the share of the energy within a radius in ranges, (radius) -> (energies,)."""
    rows = read_table(__package__, "electron_kernels.csv")
    names = [name for name in rows[0] if name.startswith("kev_")]
    shares = np.array([[float(row[name]) for name in names] for row in rows])
    radii = np.array([0.0, *(float(row["outer_radius"]) for row in rows)])
    within = np.concatenate([np.zeros((1, len(names))), np.cumsum(shares, 0)])
    within = scipy.interpolate.PchipInterpolator(radii, within / within[-1], axis=0)
    return np.array([float(name[4:]) for name in names]), within


def electron_share(radius: ArrayLike, energy_kev: float) -> np.ndarray:
    """Return the share of an electron's collision losses within a radius in cm of water, 0 to 1.

    The table holds the library's own Monte Carlo at ten energies from 10 to 2300 keV, by radius in ranges; it is
    interpolated in the logarithm of energy, and below 10 keV the shape is that of 10 keV.
    """
    energies, within = _electron_kernels()
    scaled = np.clip(np.asarray(radius, float) / float(electron_range(energy_kev)), 0, FARTHEST)
    place = float(np.interp(np.log(energy_kev), np.log(energies), np.arange(energies.size)))
    low = min(int(place), energies.size - 2)
    both = within(scaled)[..., low : low + 2]
    share: np.ndarray = both[..., 0] + (place - low) * (both[..., 1] - both[..., 0])
    return share


@cache
def _build_up() -> tuple[np.ndarray, np.ndarray]:
    rows = read_table(__package__, "photon_kernels.csv")
    energies = np.array([float(row["energy_kev"]) for row in rows])
    return energies, np.array([[float(v) for name, v in row.items() if name != "energy_kev"] for row in rows])


@dataclass(frozen=True)
class PhotonKernel:
    """The point kernel of photons of one energy in water of 1 g/cm3, with r in cm::

        dE/dr = E mu_en exp(-mu r) B(mu r),     B(x) = 1 + sum_i c_i x^n_i exp((1 - a_i) x)

    Args:
        energy : keV.
        mu : 1/cm, Compton scatter and absorption.
        absorption : mu_en in 1/cm.
        coefficients : c of the terms of `BUILD_UP`; all energy is absorbed in water without end.
    """

    energy: float
    mu: float
    absorption: float
    coefficients: tuple[float, ...]

    def density(self, radius: ArrayLike) -> np.ndarray:
        """Return the share of the energy that is absorbed per cm at a radius in cm."""
        x = self.mu * np.asarray(radius, float)
        built = np.exp(-x)
        for c, (power, rate) in zip(self.coefficients, BUILD_UP):
            built = built + c * x**power * np.exp(-rate * x)
        return self.absorption * built

    def share(self, radius: ArrayLike) -> np.ndarray:
        """Return the share of the energy that is absorbed within a radius in cm, 0 to 1."""
        x = self.mu * np.asarray(radius, float)
        built = -np.expm1(-x)
        for c, (power, rate) in zip(self.coefficients, BUILD_UP):
            built = built + c * math.factorial(power) / rate ** (power + 1) * gammainc(power + 1, rate * x)
        share: np.ndarray = self.absorption / self.mu * built
        return share


def photon_kernel(energy_kev: float) -> PhotonKernel:
    """Return the point kernel of photons of an energy from 5 to 2500 keV.

    The build-up is fitted to the library's own Monte Carlo (Klein & Nishina's scatter, absorption of Hubbell & Seltzer
    1995) to within 3 % of the energy in any shell out to 8 mean free paths; between the table's energies it is
    interpolated in their logarithm and scaled so that all energy is absorbed.

    Source: the form of Berger (MIRD pamphlet 2, 1968), with more terms.
    """
    energies, table = _build_up()
    if not energies[0] <= energy_kev <= energies[-1]:
        raise ValueError(f"photon kernels cover {energies[0]:g} to {energies[-1]:g} keV, got {energy_kev}")
    found = np.array([np.interp(np.log(energy_kev), np.log(energies), column) for column in table.T])
    mu, absorption = float(interaction(energy_kev)), float(energy_absorption(energy_kev))
    whole = np.array([math.factorial(n) / a ** (n + 1) for n, a in BUILD_UP])
    wanted = mu / absorption - 1
    coefficients = found * (wanted / (found @ whole)) if found @ whole > 0 else found
    return PhotonKernel(float(energy_kev), mu, absorption, tuple(coefficients.tolist()))


@dataclass(frozen=True, eq=False)
class PointKernel:
    """The energy that a decay at a point leaves around it, in water of 1 g/cm3 without end.

    Args:
        emissions : of the nuclide.
        photons : kernels of its gamma and X rays and of bremsstrahlung.
        yields : photons per decay of each of them.
        electrons : (n, 2) keV and per decay of electrons, betas in bins.

    All energies are in keV per decay, all distances in cm.
    """

    emissions: Emissions
    photons: tuple[PhotonKernel, ...]
    yields: tuple[float, ...]
    electrons: np.ndarray

    @property
    def reach(self) -> float:
        """How far electrons reach, cm."""
        return FARTHEST * float(electron_range(self.electrons[:, 0].max())) if self.electrons.size else 0.0

    @property
    def radiated(self) -> float:
        """Energy of bremsstrahlung above 5 keV, keV per decay."""
        n = self.emissions.photon_energies.size
        return sum(photon.energy * y for photon, y in zip(self.photons[n:], self.yields[n:]))

    @property
    def electron_energy(self) -> float:
        """Energy that electrons leave by collisions, and what is absorbed where it arises, keV per decay."""
        return self.emissions.electron_energy - self.radiated

    @property
    def photon_energy(self) -> float:
        """Energy of all photons, bremsstrahlung included, keV per decay."""
        return self.emissions.photon_energy + self.radiated

    def electron_within(self, radius: ArrayLike) -> np.ndarray:
        """Return the energy that electrons leave within a radius."""
        radius = np.asarray(radius, float)
        energies, yields = self.electrons.T
        own = energies * yields
        within = self.emissions.local + sum(
            (e * electron_share(radius, float(k)) for e, k in zip(own, energies)), np.zeros(radius.shape)
        )
        total = self.emissions.local + float(own.sum())
        scaled: np.ndarray = within * (self.electron_energy / total)
        return np.where(radius > 0, scaled, 0.0)

    def photon_within(self, radius: ArrayLike) -> np.ndarray:
        """Return the energy of photons that is absorbed within a radius."""
        radius = np.asarray(radius, float)
        return sum((k.energy * y * k.share(radius) for k, y in zip(self.photons, self.yields)), np.zeros(radius.shape))

    def photon_density(self, radius: ArrayLike) -> np.ndarray:
        """Return the energy of photons that is absorbed per cm at a radius."""
        radius = np.asarray(radius, float)
        return sum(
            (k.energy * y * k.density(radius) for k, y in zip(self.photons, self.yields)), np.zeros(radius.shape)
        )


@cache
def point_kernel(nuclide: str) -> PointKernel:
    """Return the point kernel of a nuclide in water: betas, conversion and Auger electrons, photons, bremsstrahlung.

    Args:
        nuclide : one of `therapy_nuclides()`, any spelling.

    Bremsstrahlung comes from the electrons' paths in the continuous slowing down approximation and is treated as if it
    arose where the decay happens.
    """
    found = emissions_of(nuclide)
    electrons = np.column_stack(
        [
            np.append(found.beta_energies, found.electron_energies),
            np.append(found.beta_yields, found.electron_yields),
        ]
    )
    electrons = electrons[(electrons[:, 1] > 0) & (electrons[:, 0] >= 1.0)]
    lines, photons = _bremsstrahlung(electrons)
    energies = np.append(found.photon_energies, lines)
    yields = np.append(found.photon_yields, photons)
    kernels = tuple(photon_kernel(float(e)) for e in energies)
    return PointKernel(found, kernels, tuple(yields.tolist()), electrons)


def _bremsstrahlung(electrons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Photons above 5 keV as a few lines: keV and per decay, with the energy that electrons radiate."""
    energies, yields = electrons.T
    top = energies.max()
    T = np.linspace(_LOWEST_PHOTON, top, 400)
    above = np.array([yields[energies >= t].sum() for t in T])
    path = above / (collision_stopping(T) + radiative_stopping(T))  # g/cm2 per keV and decay
    edges = np.geomspace(_LOWEST_PHOTON, top, _BREMSSTRAHLUNG_LINES + 1)
    lines, photons = [], []
    for low, high in pairwise(edges):
        k = np.linspace(low, high, 9)[1::2]
        spectrum = np.trapezoid(path[:, None] * bremsstrahlung(T[:, None], k), T, axis=0)
        if spectrum.sum() > 0:
            lines.append(float((k * spectrum).sum() / spectrum.sum()))
            photons.append(float(spectrum.mean() * (high - low)))
    return np.array(lines), np.array(photons)


def radiated_energy(nuclide: str) -> float:
    """Return the energy of all bremsstrahlung by ESTAR's radiation yields, keV per decay; a check of the spectrum."""
    energies, yields = point_kernel(nuclide).electrons.T
    return float((energies * yields * radiation_yield(energies)).sum())
