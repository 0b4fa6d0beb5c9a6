"""What tissues do to electrons and photons: tables per gram, for a Monte Carlo in bodies that are not water."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from emrecon.projectors.core.grid import FrozenArrays
from emrecon.projectors.core.tables import read_table
from emrecon.projectors.physics import klein_nishina_total, linear_attenuation

from .photon_transport import compton_transfer, energy_absorption
from .stopping import (
    ELECTRON_MASS,
    ELECTRONS_PER_GRAM,
    FINE_STRUCTURE,
    HIGHEST,
    LOWEST,
    bremsstrahlung,
    collision_stopping,
    electron_range,
    radiative_stopping,
)

MEDIA = ("water", "lung", "adipose", "muscle", *(f"bone {tenth}0 %" for tenth in range(1, 11)))
"""The media by number; "bone 30 %" is muscle with 30 % cortical bone by mass."""

LEAST_BREMSSTRAHLUNG = 5.0
"""keV: bremsstrahlung below is absorbed where it arises."""

_LUNG, _ADIPOSE, _WATER_LIKE = 0.9, 0.985, 1.09  # g/mL that end lung tissue, fat, and soft tissue
_AVOGADRO = 6.02214e23
_RADIUS = 2.8179403e-13  # cm, of an electron
_ELEMENTS = {
    "H": (1, 1.008),
    "C": (6, 12.011),
    "N": (7, 14.007),
    "O": (8, 15.999),
    "Na": (11, 22.990),
    "Mg": (12, 24.305),
    "P": (15, 30.974),
    "S": (16, 32.06),
    "Cl": (17, 35.45),
    "K": (19, 39.098),
    "Ca": (20, 40.078),
}
_POINTS, _SHARES = 400, 65


@dataclass(frozen=True, eq=False)
class Medium(FrozenArrays):
    """A tissue.

    Args:
        name : as in `MEDIA`.
        weights : element -> share of the mass.
        excitation : mean excitation energy, eV.
        materials : name in `materials()` -> share of the mass, for attenuation.
    """

    name: str
    weights: dict[str, float]
    excitation: float
    materials: dict[str, float]

    @property
    def electrons(self) -> float:
        """Electrons in a gram."""
        return _AVOGADRO * self.moment(1)

    def moment(self, power: float) -> float:
        """Return the sum of w Z^power / A over the elements, mol/g."""
        return sum(w * _ELEMENTS[e][0] ** power / _ELEMENTS[e][1] for e, w in self.weights.items())

    def attenuation(self, energy: np.ndarray) -> np.ndarray:
        """Return the narrow-beam mass attenuation, cm2/g, coherent scatter included (`linear_attenuation`)."""
        found = np.zeros(energy.shape)
        for name, share in self.materials.items():
            found += share * np.array([linear_attenuation(name, e, 1.0) for e in energy])
        return found

    def absorption(self, energy: np.ndarray) -> np.ndarray:
        """Return what absorbs photons besides Compton scatter, cm2/g: attenuation less Compton and coherent scatter.

        Coherent scatter (and binding in Compton scatter) is that of water, scaled by the sum of w Z^2.8 / A, with which
        the energy absorption of bone is that of NIST within 3 %.
        """
        water = medium("water")
        own = np.maximum(energy_absorption(energy) - compton_transfer(energy), 0.0)
        if self.name == "water":
            return own
        compton = np.asarray(klein_nishina_total(energy))
        coherent = np.maximum(water.attenuation(energy) - ELECTRONS_PER_GRAM * compton - own, 0.0)
        coherent = coherent * self.moment(2.8) / water.moment(2.8)
        least = own * self.moment(4) / water.moment(4) * 0.5  # where differences of large numbers say nothing
        return np.maximum(self.attenuation(energy) - self.electrons * compton - coherent, least)

    def collision(self, energy: np.ndarray) -> np.ndarray:
        """Return the collision stopping power, keV cm2/g: that of water, scaled by Bethe's formula for both."""
        ratio = self.electrons / ELECTRONS_PER_GRAM * _bracket(energy, self.excitation) / _bracket(energy, 75.0)
        found: np.ndarray = collision_stopping(energy) * ratio
        return found

    @property
    def radiation(self) -> float:
        """How much more a gram radiates than one of water: the sum of w Z (Z + 1) / A against that of water."""
        water = medium("water")
        return (self.moment(2) + self.moment(1)) / (water.moment(2) + water.moment(1))

    def scattering(self, energy: np.ndarray) -> np.ndarray:
        """Return the first transport coefficient of elastic scattering, cm2/g: mean 1 - cosine per path.

        Screened Rutherford with Moliere's angle and the spin factor of McKinley & Feshbach; Z (Z + 1) for the atom's
        electrons.
        """
        found = np.zeros(energy.shape)
        for name, share in self.weights.items():
            found += share * _scattering(name, tuple(energy.tolist()))
        return found


@dataclass(frozen=True, eq=False)
class MediaTables(FrozenArrays):
    """Tables of all media for the Monte Carlo, per g/cm2, on one grid of energies.

    Args:
        log_energy : (n,) of keV.
        loss : (media, n) keV cm2/g that electrons leave along their path: collisions, and soft bremsstrahlung.
        scattering : (media, n) cm2/g, see `Medium.scattering`.
        radiated : (media, n) photons of bremsstrahlung per g/cm2.
        radiated_energy : (n, shares) keV, the photons' energies at equal steps of their cumulative share.
        ranges : (n,) g/cm2 in water.
        attenuation : (media, n) cm2/g of photons, Compton and absorption.
        compton : (media, n) the share of Compton scatter.
    """

    log_energy: np.ndarray
    loss: np.ndarray
    scattering: np.ndarray
    radiated: np.ndarray
    radiated_energy: np.ndarray
    ranges: np.ndarray
    attenuation: np.ndarray
    compton: np.ndarray


@cache
def medium(name: str) -> Medium:
    """Return a medium of `MEDIA` by its name.

    Raises ValueError for another name.

    Source: compositions and excitation energies of ICRU Report 44 (1989), as in Hubbell & Seltzer 1995.
    """
    if name not in MEDIA:
        raise ValueError(f"unknown medium {name!r}; choose from {', '.join(MEDIA)}")
    rows = {row["medium"]: row for row in read_table(__package__, "media.csv")}
    share = int(name.split()[1]) / 100 if name.startswith("bone") else 0.0
    parts = {"muscle": 1 - share, "bone": share} if share else {name: 1.0}
    weights = {e: sum(w * float(rows[part][e]) for part, w in parts.items()) for e in _ELEMENTS}
    Z_A = {part: sum(float(rows[part][e]) * Z / A for e, (Z, A) in _ELEMENTS.items()) for part in parts}
    log_excitation = sum(w * Z_A[part] * math.log(float(rows[part]["mean_excitation_ev"])) for part, w in parts.items())
    log_excitation /= sum(w * Z_A[part] for part, w in parts.items())
    materials = {rows[part]["material"]: w for part, w in parts.items() if w > 0}
    return Medium(name, {e: w for e, w in weights.items() if w > 0}, math.exp(log_excitation), materials)


def media_of(density: np.ndarray) -> np.ndarray:
    """Return the number in `MEDIA` of tissue of a density in g/mL.

    Below 0.9 it is lung tissue (of any inflation, air included), to 0.985 fat, to 1.09 soft tissue; above, muscle and
    cortical bone share the volume so that the density comes out, and the mass share is rounded to tenths; from 1.92 on
    all is bone.
    """
    rho = np.asarray(density, float)
    bone = np.clip((rho - 1.05) / (1.92 - 1.05), 0, 1) * 1.92 / np.clip(rho, 1.05, 1.92)
    tenths = np.clip(np.rint(10 * bone), 1, 10).astype(np.int64) + MEDIA.index("muscle")
    soft = np.where(rho < _LUNG, 1, np.where(rho < _ADIPOSE, 2, 3))
    found: np.ndarray = np.where(rho < _WATER_LIKE, soft, tenths)
    return found


@cache
def media_tables() -> MediaTables:
    """Return the tables of all media."""
    energy = np.geomspace(LOWEST, HIGHEST * (1 - 1e-12), _POINTS)
    hard, hard_loss, inverse = _hard_bremsstrahlung(energy)
    found = [medium(name) for name in MEDIA]
    compton = np.asarray(klein_nishina_total(energy))
    scattered = np.stack([m.electrons * compton for m in found])
    absorbed = np.stack([m.absorption(energy) for m in found])
    soft = radiative_stopping(energy) - hard_loss
    return MediaTables(
        np.log(energy),
        np.stack([m.collision(energy) + m.radiation * soft for m in found]),
        np.stack([m.scattering(energy) for m in found]),
        np.stack([m.radiation * hard for m in found]),
        inverse,
        electron_range(energy),
        scattered + absorbed,
        scattered / (scattered + absorbed),
    )


def _bracket(energy: np.ndarray, excitation: float) -> np.ndarray:
    tau = energy / ELECTRON_MASS
    beta2 = tau * (tau + 2) / (tau + 1) ** 2
    extra = (1 - beta2) * (1 + tau**2 / 8 - (2 * tau + 1) * math.log(2))
    found: np.ndarray = 2 * np.log(energy * 1000 / excitation) + np.log1p(tau / 2) + extra
    return found


@cache
def _scattering(element: str, energies: tuple[float, ...]) -> np.ndarray:
    """The first transport coefficient of an element, cm2/g: the integral of (1 - c) over cosines c."""
    Z, A = _ELEMENTS[element]
    energy = np.array(energies)
    p2 = (energy / ELECTRON_MASS + 1) ** 2 - 1
    beta2 = p2 / (p2 + 1)
    angle2 = (FINE_STRUCTURE * Z ** (1 / 3) / 0.885) ** 2 / p2
    eta = angle2 / 4 * (1.13 + 3.76 * (FINE_STRUCTURE * Z) ** 2 / beta2)
    x = np.geomspace(1e-12, 1.0, 800)  # (1 - c) / 2
    half = np.sqrt(x)
    spin = math.pi * Z * FINE_STRUCTURE * np.sqrt(beta2)[:, None]
    values = (x / (x + eta[:, None])) ** 2 * (1 - beta2[:, None] * x + spin * half * (1 - half))
    integral = np.trapezoid(values, np.log(x), axis=1)
    found: np.ndarray = _AVOGADRO / A * Z * (Z + 1) * 2 * math.pi * _RADIUS**2 / (p2 * beta2) * integral
    return found


def _hard_bremsstrahlung(energy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of water: photons above the least energy per g/cm2, their keV cm2/g, and their energies by cumulative share."""
    shares = np.linspace(0, 1, _SHARES)
    rate, loss = np.zeros(energy.size), np.zeros(energy.size)
    inverse = np.full((energy.size, _SHARES), LEAST_BREMSSTRAHLUNG)
    for i, T in enumerate(energy):
        if T <= 1.05 * LEAST_BREMSSTRAHLUNG:
            continue
        k = np.geomspace(LEAST_BREMSSTRAHLUNG, T * (1 - 1e-9), 400)
        spectrum = bremsstrahlung(np.full(k.shape, T), k) * k  # per logarithm
        steps = (spectrum[1:] + spectrum[:-1]) / 2 * np.diff(np.log(k))
        cumulative = np.append(0.0, np.cumsum(steps))
        rate[i] = cumulative[-1]
        inverse[i] = np.interp(shares * rate[i], cumulative, k)
        loss[i] = rate[i] * float(np.mean((inverse[i, 1:] + inverse[i, :-1]) / 2))
    return rate, loss, inverse
