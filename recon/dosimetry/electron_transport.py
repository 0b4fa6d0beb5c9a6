"""A Monte Carlo of electrons in water, every collision that matters on its own: where the point kernels come from."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from emrecon.projectors.core.compiling import inline_kernel, kernel

from .stopping import (
    ELECTRON_MASS,
    ELECTRONS_PER_GRAM,
    FINE_STRUCTURE,
    HIGHEST,
    collision_stopping,
    radiative_stopping,
)

_CUT = 1.0  # keV: collisions that pass on more are followed one by one, and electrons below stop where they are
_POINTS = 400
_TRANSFER = 2 * math.pi * 2.8179403e-13**2 * ELECTRON_MASS * ELECTRONS_PER_GRAM  # keV cm2/g, 2 pi r^2 m n
_STACK = 256


def simulate_electrons(energy_kev: float, edges: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, float, float]:
    """Return where electrons that start at a point in water of 1 g/cm3 leave their energy, by Monte Carlo.

    Args:
        energy_kev : 2 to 3000, of each of them.
        edges : (shells + 1,) cm, increasing radii of spherical shells, the first one 0.
        n : electrons.
        seed : of the random numbers; the same one gives the same result.

    Returns (the share of the energy that is left in each shell, the share beyond the last one, the share radiated).

    Electrons scatter elastically from atom to atom (screened Rutherford with Moliere's angle and the spin factor of
    McKinley & Feshbach), lose energy in collisions above 1 keV one by one (Moller), whose secondary electrons are
    followed too, and by restricted stopping power in between. Bremsstrahlung leaves.

    Raises ValueError for an energy outside of 2 to 3000 keV.
    """
    if not 2 <= energy_kev <= HIGHEST:
        raise ValueError(f"electrons are simulated from 2 to {HIGHEST:g} keV, got {energy_kev}")
    random = np.random.default_rng(seed)
    deposited, radiated = _transport(energy_kev, np.asarray(edges, float), n, random, *_tables())
    shares = deposited / (n * energy_kev)
    return shares[:-1], float(shares[-1]), float(radiated / (n * energy_kev))


@cache
def _tables() -> tuple[np.ndarray, ...]:
    """Per energy, log spaced: keV, restricted and radiative stopping, the inverse ranges, elastic and Moller rates."""
    energy = np.geomspace(_CUT, HIGHEST, _POINTS)
    rate, loss = _moller(energy)
    restricted = np.maximum(collision_stopping(energy) - loss, 0.05 * collision_stopping(energy))
    elastic = np.array([_elastic(energy, Z, atoms) for Z, atoms in ((1.0, 2.0), (8.0, 1.0))])
    return np.log(energy), restricted, radiative_stopping(energy), rate, elastic[:, 0], elastic[:, 1]


def _moller(energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Collisions per g/cm2 that pass on more than the cut, and their loss in keV cm2/g; by integration of Moller's."""
    share = (np.arange(2000) + 0.5) / 2000
    top = energy / 2
    width = np.log(np.maximum(top / _CUT, 1.0))[:, None]
    T = _CUT * np.exp(width * share)
    values = _moller_density(energy[:, None], T) * T * width / 2000
    return values.sum(1), (values * T).sum(1)


def _moller_density(energy: np.ndarray, T: np.ndarray) -> np.ndarray:
    gamma = energy / ELECTRON_MASS + 1
    beta2 = 1 - 1 / gamma**2
    a = ((gamma - 1) / gamma) ** 2
    b = (2 * gamma - 1) / gamma**2
    left = np.maximum(energy - T, T)  # equal electrons: the one with less energy counts as the secondary
    density: np.ndarray = _TRANSFER / beta2 * (1 / T**2 + 1 / left**2 + a / energy**2 - b / (T * left))
    return density


def _elastic(energy: np.ndarray, Z: float, per_molecule: float) -> tuple[np.ndarray, np.ndarray]:
    """Collisions per g/cm2 with the atoms of an element, and Moliere's screening parameter.

    Scattering by the atom's electrons adds to Z^2, as far as it is not followed collision by collision.
    """
    gamma = energy / ELECTRON_MASS + 1
    p2 = gamma**2 - 1
    beta2 = p2 / gamma**2
    angle2 = (FINE_STRUCTURE * Z ** (1 / 3) / 0.885) ** 2 / p2
    eta = angle2 / 4 * (1.13 + 3.76 * (FINE_STRUCTURE * Z) ** 2 / beta2)
    followed = np.log(np.maximum(energy / (2 * _CUT), 1.0)) / (np.log1p(1 / eta) - 1)
    charge2 = Z * (Z + np.clip(1 - followed, 0, 1))
    molecules = ELECTRONS_PER_GRAM / 10
    section = math.pi * charge2 * 2.8179403e-13**2 / (p2 * beta2) / (eta * (1 + eta))
    return molecules * per_molecule * section, eta


@inline_kernel
def _at(table, place):
    i = int(place)
    return table[i] + (place - i) * (table[i + 1] - table[i])


@inline_kernel
def _shell(edges, x, y, z):
    """The shell of a point; the last one is what lies beyond."""
    return min(np.searchsorted(edges, math.sqrt(x * x + y * y + z * z), side="right") - 1, edges.size - 1)


@inline_kernel
def _turn(ux, uy, uz, cosine, random):
    """A direction after scattering by an angle, any azimuth."""
    sine, azimuth = math.sqrt(max(1 - cosine * cosine, 0.0)), 2 * math.pi * random.random()
    c, s = math.cos(azimuth), math.sin(azimuth)
    across = math.sqrt(ux * ux + uy * uy)
    if across < 1e-9:
        return sine * c, sine * s, cosine if uz > 0 else -cosine
    x = ux * cosine + sine * (ux * uz * c - uy * s) / across
    y = uy * cosine + sine * (uy * uz * c + ux * s) / across
    z = uz * cosine - sine * across * c
    norm = 1 / math.sqrt(x * x + y * y + z * z)
    return x * norm, y * norm, z * norm


@inline_kernel
def _transfer(energy, a, b, random):
    """The energy that a collision passes on, above the cut: 1 / T^2, and rejection to Moller's."""
    top, cut = energy / 2, _CUT
    while True:
        T = 1 / (1 / cut - random.random() * (1 / cut - 1 / top))
        x = T / (energy - T)
        if random.random() * (2 + a / 4) < 1 + x * x + a * (T / energy) ** 2 - b * x:
            return T


@inline_kernel
def _deflection(eta, beta2, spin, random):
    """The cosine of elastic scattering: screened Rutherford, and rejection to the spin factor."""
    u = random.random()
    cosine = 1 - 2 * eta * u / (1 + eta - u)
    half = math.sqrt(max((1 - cosine) / 2, 0.0))
    factor = 1 - beta2 * half * half + spin * half * (1 - half)
    return cosine if random.random() * 1.05 < factor else 1.0


@kernel
def _transport(start, edges, n, random, log_energy, restricted, radiative, moller, elastic, screening):
    deposited = np.zeros(edges.size)
    radiated = 0.0
    step = (log_energy[-1] - log_energy[0]) / (log_energy.size - 1)
    stack = np.zeros((_STACK, 7))
    for _ in range(n):
        cosine, azimuth = 2 * random.random() - 1, 2 * math.pi * random.random()
        sine = math.sqrt(1 - cosine * cosine)
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = start, 0.0, 0.0, 0.0
        stack[0, 4], stack[0, 5], stack[0, 6] = sine * math.cos(azimuth), sine * math.sin(azimuth), cosine
        waiting = 1
        while waiting > 0:
            waiting -= 1
            energy, x, y, z = stack[waiting, 0], stack[waiting, 1], stack[waiting, 2], stack[waiting, 3]
            ux, uy, uz = stack[waiting, 4], stack[waiting, 5], stack[waiting, 6]
            while True:
                if energy <= _CUT:
                    deposited[_shell(edges, x, y, z)] += energy
                    break
                place = (math.log(energy) - log_energy[0]) / step
                place = min(max(place, 0.0), log_energy.size - 1.001)
                h, o, m = _at(elastic[0], place), _at(elastic[1], place), _at(moller, place)
                h, o = 1.05 * h, 1.05 * o  # some of these collisions are refused by `_deflection`
                path = -math.log(1 - random.random()) / (h + o + m)
                loss, lost = _at(restricted, place), _at(radiative, place)
                whole = True
                if path * (loss + lost) > energy - _CUT + 1e-9:
                    path, whole = (energy - _CUT + 1e-9) / (loss + lost), False
                # where along the step the energy is left: anywhere, with the same probability
                part = path * random.random()
                deposited[_shell(edges, x + part * ux, y + part * uy, z + part * uz)] += path * loss
                radiated += path * lost
                x, y, z = x + path * ux, y + path * uy, z + path * uz
                energy -= path * (loss + lost)
                if not whole or energy <= _CUT:
                    continue
                gamma = energy / ELECTRON_MASS + 1
                beta2 = 1 - 1 / (gamma * gamma)
                choice = random.random() * (h + o + m)
                if choice < h + o:
                    Z, eta = (1, _at(screening[0], place)) if choice < h else (8, _at(screening[1], place))
                    spin = math.pi * Z * FINE_STRUCTURE * math.sqrt(beta2)
                    ux, uy, uz = _turn(ux, uy, uz, _deflection(eta, beta2, spin, random), random)
                elif energy > 2 * _CUT:
                    T = _transfer(energy, ((gamma - 1) / gamma) ** 2, (2 * gamma - 1) / gamma**2, random)
                    cosine = math.sqrt(T * (energy + 2 * ELECTRON_MASS) / (energy * (T + 2 * ELECTRON_MASS)))
                    vx, vy, vz = _turn(ux, uy, uz, min(cosine, 1.0), random)
                    if waiting < stack.shape[0]:
                        stack[waiting, 0], stack[waiting, 1], stack[waiting, 2], stack[waiting, 3] = T, x, y, z
                        stack[waiting, 4], stack[waiting, 5], stack[waiting, 6] = vx, vy, vz
                        waiting += 1
                    else:
                        deposited[_shell(edges, x, y, z)] += T
                    # momentum is kept: the primary turns away from the secondary
                    before = math.sqrt(energy * (energy + 2 * ELECTRON_MASS))
                    given = math.sqrt(T * (T + 2 * ELECTRON_MASS))
                    wx, wy, wz = before * ux - given * vx, before * uy - given * vy, before * uz - given * vz
                    norm = 1 / math.sqrt(wx * wx + wy * wy + wz * wz)
                    ux, uy, uz = wx * norm, wy * norm, wz * norm
                    energy -= T
    return deposited, radiated
