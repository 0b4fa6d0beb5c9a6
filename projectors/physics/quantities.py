"""From counts to concentrations: decay, duration, calibration to Bq/mL, and SUV; attenuation factors of a PET scan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Required, TypedDict, Unpack

from ..core.arrays import Array, array_namespace, as_real
from ..core.operator import Projector
from .attenuation_maps import check_attenuation
from .nuclides import isotope

COUNTS, CONCENTRATION, SUV = "counts", "Bq/mL", "SUV"
IMAGE_UNITS = (COUNTS, CONCENTRATION, SUV)
"""What images are in: counts as a reconstruction gives them, activity concentration, SUV by body weight in g/mL."""


def attenuation_factors(projector: Projector, mu: Array) -> Array:
    """Return the fraction of photon pairs that leave the body along every line, exp(-integral of mu).

    Args:
        projector : one without TOF and without resolution (factors broadcast over TOF bins as factors[:, :, None]).
        mu : linear attenuation at 511 keV in 1/cm, of the projector's image shape.

    The attenuation correction factors (ACF) are their reciprocals.

    Raises ValueError for negative, infinite or implausible values (usual causes: Hounsfield units, 1/mm).
    """
    if getattr(getattr(projector, "sinogram", projector), "tof", None) is not None:
        raise ValueError(f"attenuation is the same in all TOF bins: give {projector!r} without time of flight")
    mu = as_real(mu)
    check_attenuation(mu, "mu")
    return array_namespace(mu).exp(projector(mu) / -10)


class _PhantomScan(TypedDict, total=False):
    """When and of what a phantom was scanned, as in `Calibration`."""

    radionuclide: Required[str]
    duration: Required[float]
    start: float
    branching: float | None


@dataclass(frozen=True)
class Calibration:
    """What turns an image of a PET or SPECT reconstruction into Bq/mL::

        Bq/mL = image * factor / (duration * branching * decay)

    Args:
        factor : Bq/mL for one unit of the image per second and emission; from a phantom of known activity:
            `from_phantom`.
        radionuclide : a name that `isotope` knows; its positron fraction is the branching for PET.
        duration : s of the scan.
        start : s from the reference time (injection, or scan start) to the scan's start; the concentration is that at
            the reference time.
        branching : emissions per decay (default: the positron fraction, or 1 where the nuclide has none).

    Raises ValueError for numbers that are not positive (start may have either sign).
    """

    factor: float
    radionuclide: str
    duration: float
    start: float = 0.0
    branching: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "radionuclide", isotope(self.radionuclide).name)
        if self.branching is None:
            object.__setattr__(self, "branching", isotope(self.radionuclide).positron_fraction or 1.0)
        for name in ("factor", "duration", "branching"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Calibration {name} must be positive, got {value}")
        if not math.isfinite(self.start):
            raise ValueError(f"Calibration start must be finite seconds, got {self.start}")

    @classmethod
    def from_phantom(cls, mean: float, concentration: float, **scan: Unpack[_PhantomScan]) -> Calibration:
        """Return the calibration that gives `concentration` Bq/mL (at the reference time) where the image has `mean`.

        Args:
            scan : radionuclide, duration, start and branching of the phantom's scan.
        """
        if not (mean > 0 and concentration > 0):
            raise ValueError(f"mean and concentration must be positive, got {mean} and {concentration}")
        return cls(concentration / (mean * cls(1.0, **scan).scale), **scan)

    @property
    def decay(self) -> float:
        """The mean fraction of the activity at the reference time that is left during the scan."""
        nuclide = isotope(self.radionuclide)
        return nuclide.decay(self.start) * nuclide.mean_decay(self.duration)

    @property
    def scale(self) -> float:
        """What to multiply the image by."""
        return self.factor / (self.duration * float(self.branching or 1) * self.decay)

    def __call__(self, image: Array) -> Array:
        """Return the image in Bq/mL."""
        return image * self.scale


def suv(concentration: Array, dose: float, weight: float) -> Array:
    """Return the standardised uptake value by body weight, concentration * weight / dose, in g/mL.

    Args:
        concentration : Bq/mL.
        dose : MBq, of the same moment as the concentration (both at injection, usually).
        weight : kg.

    Raises ValueError unless dose and weight are positive.
    """
    if not (0 < dose < math.inf and 0 < weight < math.inf):
        raise ValueError(f"SUV needs a positive dose (MBq) and weight (kg), got {dose} and {weight}")
    return concentration * (weight * 1000 / (dose * 1e6))
