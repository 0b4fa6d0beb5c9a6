"""A Monte Carlo of photons in water without end: where the build-up of the point kernels comes from."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors.core.compiling import inline_kernel, kernel
from emrecon.projectors.core.tables import read_table
from emrecon.projectors.physics import klein_nishina, klein_nishina_total

from .stopping import ELECTRON_MASS, ELECTRONS_PER_GRAM

LOWEST, HIGHEST = 1.0, 3000.0
"""The energies in keV between which absorption is tabulated."""

_END = 2.0  # keV: photons below are absorbed where they are
_POINTS = 300


@cache
def _absorption() -> tuple[np.ndarray, np.ndarray]:
    rows = read_table(__package__, "photon_absorption.csv")
    return tuple(np.array([float(row[name]) for row in rows]) for name in rows[0])  # type: ignore[return-value]


def energy_absorption(energy_kev: ArrayLike) -> np.ndarray:
    """Return the mass energy-absorption coefficient of water in cm2/g, interpolated in logarithms.

    Raises ValueError outside of 1 to 3000 keV.  Source: Hubbell & Seltzer 1995 (NIST).
    """
    energy = np.asarray(energy_kev, float)
    if not ((energy >= LOWEST) & (energy <= HIGHEST)).all():
        raise ValueError(f"absorption in water is tabulated from {LOWEST:g} to {HIGHEST:g} keV, got {energy_kev!r}")
    energies, values = _absorption()
    found: np.ndarray = np.exp(np.interp(np.log(energy), np.log(energies), np.log(values)))
    return found


def compton_transfer(energy_kev: ArrayLike) -> np.ndarray:
    """Return what Compton scatter by free electrons alone would give for the energy absorption of water, cm2/g."""
    energy = np.asarray(energy_kev, float)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    left = 1 / (1 + energy[..., None] / ELECTRON_MASS * (1 - nodes))
    sections = klein_nishina(nodes, energy[..., None]) * (1 - left)
    found: np.ndarray = 2 * math.pi * ELECTRONS_PER_GRAM * (sections * weights).sum(-1)
    return found


def interaction(energy_kev: ArrayLike) -> np.ndarray:
    """Return the attenuation of water in cm2/g as the kernels use it: Compton and absorption, no coherent scatter.

    Absorption is what the tabulated energy absorption has beyond Compton scatter.
    """
    energy = np.asarray(energy_kev, float)
    absorbed = np.maximum(energy_absorption(energy) - compton_transfer(energy), 0.0)
    found: np.ndarray = ELECTRONS_PER_GRAM * klein_nishina_total(energy) + absorbed
    return found


def simulate_photons(energy_kev: float, edges: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return the share of the energy that photons from a point leave in spherical shells of water, by Monte Carlo.

    Args:
        energy_kev : 5 to 3000.
        edges : (shells + 1,) cm in water of 1 g/cm3, increasing, the first one 0; the last value that is returned is
            the share beyond.
        n : photons.
        seed : of the random numbers.

    Photons are absorbed, or scattered by free electrons (Klein & Nishina 1929, sampled by Kahn's method); electrons
    leave their energy where they arise.
    """
    energies = np.geomspace(_END, HIGHEST, _POINTS)
    total = interaction(energies)
    scattered = ELECTRONS_PER_GRAM * klein_nishina_total(energies) / total
    random = np.random.default_rng(seed)
    deposited = _transport(energy_kev, np.asarray(edges, float), n, random, np.log(energies), total, scattered)
    return np.asarray(deposited) / (n * energy_kev)


@inline_kernel
def _kahn(k, random):
    """E / E' of Compton scatter of a photon of k electron masses (Kahn 1954)."""
    while True:
        a, b, c = random.random(), random.random(), random.random()
        if a * (2 * k + 9) <= 2 * k + 1:
            ratio = 1 + 2 * k * b
            if c <= 4 * (1 / ratio - 1 / (ratio * ratio)):
                return ratio
        else:
            ratio = (1 + 2 * k) / (1 + 2 * k * b)
            cosine = 1 - (ratio - 1) / k
            if 2 * c <= cosine * cosine + 1 / ratio:
                return ratio


@kernel
def _transport(start, edges, n, random, log_energy, total, scattered):
    deposited = np.zeros(edges.size)
    step = (log_energy[-1] - log_energy[0]) / (log_energy.size - 1)
    last = edges.size - 1
    for _ in range(n):
        x, y, z, energy = 0.0, 0.0, 0.0, start
        # the first direction is the z axis: shells do not know directions
        ux, uy, uz = 0.0, 0.0, 1.0
        while True:
            place = min(max((math.log(energy) - log_energy[0]) / step, 0.0), log_energy.size - 1.001)
            i = int(place)
            w = place - i
            mu = total[i] + w * (total[i + 1] - total[i])
            path = -math.log(1 - random.random()) / mu
            x, y, z = x + path * ux, y + path * uy, z + path * uz
            shell = min(np.searchsorted(edges, math.sqrt(x * x + y * y + z * z), side="right") - 1, last)
            if energy < _END or random.random() > scattered[i] + w * (scattered[i + 1] - scattered[i]):
                deposited[shell] += energy
                break
            k = energy / ELECTRON_MASS
            ratio = _kahn(k, random)
            deposited[shell] += energy * (1 - 1 / ratio)
            energy = energy / ratio
            cosine = 1 - (ratio - 1) / k
            sine = math.sqrt(max(1 - cosine * cosine, 0.0))
            azimuth = 2 * math.pi * random.random()
            c, s = math.cos(azimuth), math.sin(azimuth)
            across = math.sqrt(ux * ux + uy * uy)
            if across < 1e-9:
                ux, uy, uz = sine * c, sine * s, cosine * uz
            else:
                vx = ux * cosine + sine * (ux * uz * c - uy * s) / across
                vy = uy * cosine + sine * (uy * uz * c + ux * s) / across
                vz = uz * cosine - sine * across * c
                norm = 1 / math.sqrt(vx * vx + vy * vy + vz * vz)
                ux, uy, uz = vx * norm, vy * norm, vz * norm
    return deposited
