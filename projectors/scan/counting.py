"""Counting: dead time, decay from view to view, calibration of SPECT from a sensitivity."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import lambertw

from ..core.grid import ImageGrid
from ..physics.nuclides import isotope
from ..physics.quantities import Calibration
from ..spect.camera import SPECTGeometry
from .dynamic import DynamicScan, GatedScan
from .scan import Scan


@dataclass(frozen=True)
class DeadTime:
    """A counter that is blind for a time tau after each event.

    Args:
        tau : s.
        paralysable : whether events in that time prolong it.

    At a true rate n, in counts/s, the measured rate m is::

        m = n / (1 + n tau)     not paralysable: it grows towards 1 / tau
        m = n exp(-n tau)       paralysable: it has a maximum, 1 / (e tau), at n = 1 / tau, and falls again

    Rates are numbers or NumPy arrays.  Raises ValueError for tau that is not positive.

    Source: Knoll, Radiation Detection and Measurement, on dead time models.
    """

    tau: float
    paralysable: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise ValueError(f"DeadTime tau must be positive seconds, got {self.tau}")

    @property
    def highest_rate(self) -> float:
        """The rate in counts/s that the measured one cannot exceed."""
        return 1 / (math.e * self.tau) if self.paralysable else 1 / self.tau

    def measured_rate(self, true_rate: ArrayLike) -> float | np.ndarray:
        """Return the measured rate at a true rate."""
        n = _rates(true_rate, "true")
        return n * np.exp(-n * self.tau) if self.paralysable else n / (1 + n * self.tau)

    def true_rate(self, measured_rate: ArrayLike) -> float | np.ndarray:
        """Return the true rate at a measured rate; of the two of a paralysable counter the lower.

        Raises ValueError where the measured rate is beyond the highest (usual causes: a wrong tau, or counts of several
        heads taken together).
        """
        m = _rates(measured_rate, "measured")
        beyond = m > self.highest_rate if self.paralysable else m >= self.highest_rate
        if np.any(beyond):
            raise ValueError(
                f"{self} cannot measure {np.max(m):.6g} counts/s, its limit is {self.highest_rate:.6g}; "
                "is tau wrong, or are these the counts of several heads?"
            )
        if self.paralysable:
            # a little short of the maximum, where W is not a number after rounding
            return -np.real(lambertw(-np.minimum(m * self.tau, (1 - 1e-14) / math.e))) / self.tau
        return m / (1 - m * self.tau)

    def live_fraction(self, measured_rate: ArrayLike) -> float | np.ndarray:
        """Return measured / true rate, which multiplies the `factors` of an acquisition model; 1 at a rate of 0."""
        n = self.true_rate(measured_rate)
        return np.exp(-n * self.tau) if self.paralysable else 1 / (1 + n * self.tau)


def scan_seconds(scan: Scan) -> float:
    """Return how long a SPECT scan took, in s: duration per view times the most views of any head; no pauses.

    Raises ValueError where the duration is unknown or the scan is not of a SPECT camera.
    """
    geometry, duration = _camera(scan)
    return duration * int(np.unique(geometry.head, return_counts=True)[1].max())


def view_decay(scan: Scan) -> np.ndarray:
    """Return the activity during each view over its mean during the scan, (views, 1, 1), to multiply `factors`::

        d_i = exp(-lambda i T) m(T) / m(n T),       m(t) = (1 - exp(-lambda t)) / (lambda t)

    Args:
        scan : the whole of it; take subsets of the factors, not of the scan.

    i counts the views of each head in their order, n is the most of any head, T the duration per view. Means are those
    of the scan, so a calibration with the scan's mean decay stays right.

    Raises ValueError where duration or radionuclide are unknown.
    """
    geometry, duration = _camera(scan)
    nuclide = isotope(_nuclide(scan))
    position = np.empty(geometry.n_views)
    for head in np.unique(geometry.head):
        views = geometry.head == head
        position[views] = np.arange(views.sum())
    share = nuclide.mean_decay(duration) / nuclide.mean_decay(scan_seconds(scan))
    return np.array([nuclide.decay(i * duration) * share for i in position])[:, None, None]


def planar_sensitivity(counts: float, duration: float, activity: float) -> float:
    """Return the sensitivity of one head in counts/s/MBq, from the counts of a source without attenuation.

    Args:
        counts : in the energy window, less background.
        duration : s.
        activity : MBq, the mean of that time.

    Raises ValueError unless all are positive.
    """
    for name, value in (("counts", counts), ("duration", duration), ("activity", activity)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"planar_sensitivity {name} must be positive, got {value}")
    return counts / (duration * activity)


def spect_calibration(
    sensitivity: float,
    grid: ImageGrid,
    scan: Scan | DynamicScan | GatedScan,
    *,
    timed_factors: bool = False,
    decayed_factors: bool = False,
    start: float = 0.0,
) -> Calibration:
    """Return what turns an image of a SPECT reconstruction into Bq/mL::

        Bq/mL = image / (sensitivity * 1e-6 * V * T * decay)

    Args:
        sensitivity : counts/s/MBq of one head, of this collimator and energy window, without attenuation.
        grid : of the image; V is its voxel's volume in mL.
        scan : whose duration T per view, radionuclide and number of views count; the whole scan, not a subset of its
            views. For the images of a `DynamicScan`'s model, whose factors hold time and decay, it gives Bq/mL at the
            scan's reference time; for those of a `GatedScan`'s, whose factors hold time, Bq/mL at the reference time by
            `start`. (For a single gate give the whole gated scan here: it decays during all the time that it is
            spread over.)
        timed_factors : whether the model's `factors` hold the time of a view in s; then T is 1 here. A `SPECTProjector`
            gives a voxel of 1 one count in every view, so with factors of 1 an image holds counts per view, and with
            factors of T counts per second.
        decayed_factors : whether they hold the decay, too, as those of the parts of a `DynamicScan` do
            (`scan.frame(i)`, `scan.summed()`); then decay is 1 here.
        start : s from the reference time of the concentration to the scan's start; decay is that from the reference to
            the mean of the scan.

    Attenuation belongs in the projector, and scatter in the background; dead time and `view_decay` in factors.

    Raises ValueError where the sensitivity is not positive, or duration or radionuclide are unknown.
    """
    if not (math.isfinite(sensitivity) and sensitivity > 0):
        raise ValueError(f"spect_calibration sensitivity must be positive counts/s/MBq, got {sensitivity}")
    concentration = 1e6 / (sensitivity * grid.voxel_volume)  # of one count per second
    if isinstance(scan, DynamicScan):
        return _without_decay(Calibration(concentration, _nuclide(scan), 1.0, branching=1.0))
    if isinstance(scan, GatedScan):
        total = _gated_seconds(scan)
        return Calibration(concentration * total, _nuclide(scan), total, start, branching=1.0)
    _, duration = _camera(scan)
    total = scan_seconds(scan)
    # Calibration divides by the whole scan's duration, which is that of its decay; counts belong to one view.
    factor = concentration * total / (1.0 if timed_factors else duration)
    calibration = Calibration(factor, _nuclide(scan), total, start, branching=1.0)
    return _without_decay(calibration) if decayed_factors else calibration


def _gated_seconds(scan: GatedScan) -> float:
    """How long a gated scan took, in s: the time of all gates, of the head that took longest."""
    per_view = np.broadcast_to(scan.seconds.sum(0), scan.geometry.n_views)
    if not isinstance(scan.geometry, SPECTGeometry):
        return float(per_view.max())
    return float(max(per_view[scan.geometry.head == head].sum() for head in np.unique(scan.geometry.head)))


def _without_decay(calibration: Calibration) -> Calibration:
    """The calibration of images whose decay is corrected already."""
    return replace(calibration, factor=calibration.factor * calibration.decay)


def _rates(rate: ArrayLike, what: str) -> float | np.ndarray:
    values = np.asarray(rate, float)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"{what} rates must be finite counts/s and not negative, got {rate!r}")
    return values if values.ndim else float(values)


def _camera(scan: Scan) -> tuple[SPECTGeometry, float]:
    """Return geometry and duration per view."""
    if not isinstance(scan.geometry, SPECTGeometry):
        raise ValueError(f"expected a scan of a SPECT camera, got one of {type(scan.geometry).__name__}")
    if scan.duration is None:
        raise ValueError("the scan has no duration; give the seconds per view, Scan(..., duration=...)")
    return scan.geometry, float(scan.duration)


def _nuclide(scan: Scan | DynamicScan | GatedScan) -> str:
    if scan.radionuclide is None:
        raise ValueError('the scan has no radionuclide; give its name, Scan(..., radionuclide="Tc-99m")')
    return scan.radionuclide
