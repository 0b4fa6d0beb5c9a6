"""What PET counts are corrected for, of sinograms and of events: attenuation, normalisation, resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np

from emrecon.projectors import (
    GaussianBlur,
    ImageGrid,
    ListmodeProjector,
    Normalisation,
    PETProjector,
    PETSinogram,
    Projector,
    attenuation_factors,
)
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.memory import require_memory

from .attenuation import Attenuation, counts_by_slice, left_out


@dataclass(frozen=True, eq=False)
class Corrections:
    """What is known besides the counts: attenuation, normalisation, and resolution in the image."""

    grid: ImageGrid
    attenuation: Attenuation
    norm: Normalisation | None
    psf: GaussianBlur | None

    @property
    def mu(self) -> np.ndarray | None:
        """The attenuation map, float32."""
        return None if self.attenuation.mu is None else to_numpy(self.attenuation.mu).astype(np.float32)

    def blurred(self, projector: Projector) -> Projector:
        """Return the projector with the resolution before it."""
        return projector if self.psf is None else cast(Projector, projector @ self.psf)

    def system(self, sinogram: PETSinogram) -> Projector:
        """Return A of a sinogram: resolution, then line integrals."""
        return self.blurred(PETProjector(self.grid, sinogram))

    def factors(self, sinogram: PETSinogram, *, known: bool = False) -> np.ndarray:
        """Return attenuation x normalisation of every bin, without TOF.

        Without a normalisation the factor of a bin is its number of real crystal pairs.

        Args:
            known : leave out normalisation and crystal pairs, which the scan's own factors hold.
        """
        plain = sinogram.without_tof()
        if known:
            factors = np.ones(plain.shape, np.float32)
        else:
            factors = plain.multiplicity() if self.norm is None else self.norm.factors(plain)
        if self.mu is None:
            return factors
        survival: np.ndarray = factors * attenuation_factors(PETProjector(self.grid, plain), self.mu)
        return survival

    def of_events(self, sinogram: PETSinogram, lines: ListmodeProjector) -> np.ndarray | float:
        """Return attenuation x normalisation of every event."""
        own: np.ndarray | float = 1.0 if self.norm is None else self.norm.of_events(sinogram, lines.events)
        return own if self.mu is None else own * to_numpy(attenuation_factors(lines, self.mu))

    def components(self) -> tuple[np.ndarray | None, ...]:
        """Return everything that shapes the image, for a checksum."""
        norm = self.norm
        blur = [np.zeros(1)] if self.psf is None else [np.array(self.psf.fwhm), np.array([self.psf.ends == "mirrored"])]
        parts = () if norm is None else (norm.crystal, norm.geometric, norm.interference, norm.axial, norm.dead_time)
        return (self.mu, self.grid.affine, *blur, *parts)

    def notes(self, profile: np.ndarray) -> tuple[str, ...]:
        """Return what a user should know about the map, given the counts (z,) in each slice."""
        missing = None if self.mu is None else left_out(self.mu, profile)
        return (*self.attenuation.notes, *([missing] if missing else []))

    def __str__(self) -> str:
        psf = "none" if self.psf is None else f"{' x '.join(f'{w:g}' for w in dict.fromkeys(self.psf.fwhm))} mm"
        return f"  mu       {self.attenuation}\n  norm     {'given' if self.norm else 'none'}\n  psf      {psf}"


def require_factors(sinogram: PETSinogram) -> None:
    """Raise MemoryError where the factors of all bins, attenuation and normalisation, do not fit in memory."""
    plain = sinogram.without_tof()
    advice = "use a smaller max_ring_difference for list-mode, or a sinogram with a larger span"
    require_memory(3 * 4.0 * math.prod(plain.shape), f"the factors of {plain}", advice)


def profile_of(sinogram: PETSinogram, by_plane: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """Counts of the direct planes (and the nearly direct ones that share them) by slice of the image."""
    ends = sinogram.plane_ends
    direct = np.abs(ends[:, 0] - ends[:, 1]) <= np.abs(np.diff(sinogram.scanner.rings)).max(initial=0) * 1.5
    return counts_by_slice(grid, ends.mean(1)[direct], by_plane[direct])


def crystals_of(sinogram: PETSinogram) -> tuple[np.ndarray, ...]:
    """What tells scanners apart, for a checksum."""
    return sinogram.scanner.crystals, sinogram.scanner.virtual, sinogram.views
