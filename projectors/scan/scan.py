"""What was measured: counts with the geometry, corrections and circumstances they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..core.arrays import Array, require_array, to_numpy
from ..core.grid import ImageGrid
from ..core.operator import Projector, broadcasts_to
from ..pet.sinogram import PETSinogram
from ..physics.nuclides import isotope
from ..spect.camera import SPECTGeometry
from .acquisition import AcquisitionModel, take_views
from .showing import shown_scan
from .study import Study


@dataclass(frozen=True, eq=False)
class Scan:
    """An acquisition: what a file holds and a reconstruction starts from.

    Args:
        counts : (..., ``*geometry.shape``) measured counts; not negative, fractions are allowed (weighted simulations).
        geometry : where the SPECT camera was, or the bins of a PET sinogram.
        background : expected scatter and other counts outside the model, a number or an array like counts.
        factors : time x calibration x normalisation, a number or an array that broadcasts to counts; of a PET sinogram
            an array also holds the number of crystal pairs of each bin (`PETSinogram.multiplicity`).
        duration : seconds, per view for SPECT and of the scan for PET, or None where unknown.
        radionuclide : a name `isotope` knows, or None.
        energy_window : (lower, upper) keV, or None.
        description : free text.
        study : what the file says of patient, tracer, times and place, or None.

    Raises ValueError where counts are negative or not finite, or shapes do not fit the geometry.
    """

    counts: Array
    geometry: SPECTGeometry | PETSinogram
    background: Array | float = 0.0
    factors: Array | float = 1.0
    duration: float | None = None
    radionuclide: str | None = None
    energy_window: tuple[float, float] | None = None
    description: str = field(default="", repr=False)  # free text, which may name the patient
    study: Study | None = None

    def __post_init__(self) -> None:
        require_array(self.counts, "Scan counts")
        shape = tuple(self.counts.shape)
        if shape[-len(self.geometry.shape) :] != self.geometry.shape:
            axes = "views, bins, rows" if isinstance(self.geometry, SPECTGeometry) else "views, radial, ..., planes"
            raise ValueError(f"Scan counts of shape {shape} do not fit a geometry of {self.geometry.shape} ({axes})")
        check_counts(self.counts, "Scan")
        for name in ("background", "factors"):
            if isinstance(getattr(self, name), (list, tuple)):
                raise TypeError(f"Scan {name} must be a number or an array, got a {type(getattr(self, name)).__name__}")
            values = np.asarray(to_numpy(getattr(self, name)))
            if not broadcasts_to(values.shape, shape):
                raise ValueError(f"Scan {name} of shape {values.shape} does not broadcast to counts of {shape}")
            if not np.isfinite(values).all() or np.any(values < 0):
                raise ValueError(f"Scan {name} must be finite and not negative")
        if self.duration is not None and not (np.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"Scan duration must be positive seconds, got {self.duration}")
        if self.study is not None and not isinstance(self.study, Study):
            raise TypeError(f"Scan study must be a Study, got {type(self.study).__name__}")
        if self.radionuclide is not None:
            object.__setattr__(self, "radionuclide", isotope(self.radionuclide).name)
        if self.energy_window is not None:
            low, high = map(float, self.energy_window)
            if not 0 <= low < high:
                raise ValueError(f"Scan energy_window must be (lower, upper) keV, got {self.energy_window}")
            object.__setattr__(self, "energy_window", (low, high))

    def _repr_html_(self) -> str:
        return shown_scan("Scan", self)

    def default_grid(self) -> ImageGrid:
        """Return the grid most reconstructions use: voxels of the size of the detector's or the sinogram's bins."""
        return self.geometry.default_grid()

    def photon_energy(self) -> float:
        """Return the energy in keV of the photons in the scan's energy window: the strongest line of its radionuclide.

        Without an energy window that is the nuclide's `main_energy`.

        Raises ValueError where the scan names no radionuclide, and where none of its lines lies in the window.
        """
        if self.radionuclide is None:
            raise ValueError("the scan names no radionuclide, so the energy of its photons is not known")
        return isotope(self.radionuclide).energy_in(self.energy_window)

    def model(self, projector: Projector) -> AcquisitionModel:
        """Return the expected counts of this scan under `projector`."""
        return AcquisitionModel(projector, self.factors, self.background)

    def subset(self, k: int, n: int) -> Scan:
        """Return the scan of views k, k + n, ..."""
        values = {
            name: take_views(getattr(self, name), k, n, -len(self.geometry.shape))
            for name in ("counts", "background", "factors")
        }
        return Scan(
            values["counts"],
            self.geometry.subset(k, n),
            values["background"],
            values["factors"],
            self.duration,
            self.radionuclide,
            self.energy_window,
            self.description,
            self.study,
        )


def check_counts(counts: Array, who: str) -> None:
    """Raise ValueError where counts are negative, NaN or infinite, and say how many."""
    host = to_numpy(counts)
    if host.dtype.kind not in "fiub":
        raise TypeError(f"{who}: counts must be real numbers, got {host.dtype}")
    if not np.isfinite(host).all():
        raise ValueError(f"{who}: {int((~np.isfinite(host)).sum())} counts are NaN or infinite")
    if host.size and host.min() < 0:
        raise ValueError(
            f"{who}: {int((host < 0).sum())} counts are negative (lowest {host.min():.4g}); are these corrected data?"
        )
