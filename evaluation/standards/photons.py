"""Annihilation photons one by one, from a line source to the crystals: counting tests need no image, but events."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from emrecon.projectors import PETScanner, klein_nishina_total

from .photon_kernels import pairs

_AT_ONCE = 2_000_000
_POLYETHYLENE = 3.297e23  # electrons per mL at 0.96 g/mL


@dataclass(frozen=True)
class Source:
    """A straight line of activity along z in mm, or a point.

    Args:
        x, y, z : its middle.
        length : 0 for a point.
        radius : of the line.
        metal : mm of aluminium around it; photons that interact there are taken as lost.
    """

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    length: float = 0.0
    radius: float = 0.0
    metal: float = 0.0


@dataclass(frozen=True, eq=False)
class Detector:
    """A ring scanner for photons.

    Args:
        scanner : whose crystals count.
        inner : mm from the axis to the crystals' front; thickness : their length.
        energy_window : keV; energy_resolution : FWHM at 511 keV as a fraction.
        timing_fwhm : ps of the difference of two photons.
        full_energy : the part of the photons that interact in a crystal whose whole energy is found there (our choice,
            with the light guides, gaps and shields that are not modelled).
    """

    scanner: PETScanner
    inner: float = 410.0
    thickness: float = 20.0
    energy_window: tuple[float, float] = (435.0, 585.0)
    energy_resolution: float = 0.09
    timing_fwhm: float = 214.0
    full_energy: float = 0.68
    _azimuths: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        x, y = self.scanner.crystals[0, :, 0], self.scanner.crystals[0, :, 1]
        object.__setattr__(self, "_azimuths", np.arctan2(y, x))


def vision() -> Detector:
    """Return the Biograph Vision 600's rings: 3.2 mm crystals of LSO, 20 mm long, 26 cm along the axis, 214 ps."""
    return Detector(PETScanner.named("vision600"))


class Pairs(NamedTuple):
    """Coincidences.

    Args:
        crystals : (n, 2) crystal numbers.
        difference : (n,) arrival at the second less that at the first, ps.
        scattered : (n,) booleans.
        n_decays : how many positrons were followed for them, as if sent to all directions.
        singles : photons that were counted by themselves for each positron; two are sent out.
    """

    crystals: np.ndarray
    difference: np.ndarray
    scattered: np.ndarray
    n_decays: float
    singles: float


def photon_pairs(
    detector: Detector,
    source: Source,
    n: int,
    seed: int,
    *,
    cylinder: tuple[float, float] | None = None,
    steepest: float = 1.0,
) -> Pairs:
    """Follow n pairs of photons from a source to the crystals.

    Args:
        cylinder : (radius, length) mm of polyethylene around the axis, in which they scatter.
        steepest : the largest cosine between a photon and the axis that is sent out; less than 1 saves time where only
            small ring differences count, and then `singles` means nothing.

    Photons leave back to back but for 0.5 degrees (FWHM). In the cylinder they undergo Compton scatter after Klein and
    Nishina, any number of times. In the crystals they interact after an exponential depth, which is where the crystal
    is taken from (so there is parallax); measured energy and time have a Gaussian spread.
    Not followed: coherent scatter, scatter between crystals, the range of positrons, the bed.
    """
    if n < 1 or not 0 < steepest <= 1:
        raise ValueError(f"photon_pairs: n must be positive and steepest in (0, 1], got {n} and {steepest}")
    order = np.argsort(detector._azimuths)
    scanner = detector.scanner
    z = scanner.crystals[:, 0, 2]
    ring_order = np.argsort(z)
    radius, half = (0.0, 0.0) if cylinder is None else (cylinder[0], cylinder[1] / 2)
    camera = np.array([detector.inner, detector.thickness, *detector.energy_window, detector.energy_resolution,
                       detector.timing_fwhm / 2.3548 / math.sqrt(2), detector.full_energy])  # fmt: skip
    line = np.array([source.x, source.y, source.z, source.length, source.radius, source.metal])
    attenuation = _POLYETHYLENE * np.asarray(klein_nishina_total(_energies())) * 0.1  # 1/mm
    where = (np.sort(detector._azimuths), order.astype(np.int64), z[ring_order], ring_order.astype(np.int64))
    found, singles = [], 0
    for part in range(0, n, _AT_ONCE):
        size = min(_AT_ONCE, n - part)
        events, times, scattered = np.zeros((size, 2), np.int32), np.zeros(size), np.zeros(size, np.bool_)
        kept, alone = pairs(
            np.random.default_rng([seed, part]), size, line, float(steepest), float(radius), float(half), camera,
            *where, scanner.virtual.ravel(), attenuation, events, times, scattered,
        )  # fmt: skip
        found.append((events[:kept].copy(), times[:kept].copy(), scattered[:kept].copy()))
        singles += alone
    crystals, difference, bent = (np.concatenate(parts) for parts in zip(*found))
    return Pairs(crystals, difference, bent, n / steepest, singles / n)


def _energies() -> np.ndarray:
    return np.linspace(1.0, 512.0, 512)
