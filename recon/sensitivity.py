"""The calibration of a camera or scanner from a source of known activity: a scan in air, or an image of a phantom."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from emrecon.projectors import (
    DeadTime,
    ImageGrid,
    Radionuclide,
    Scan,
    SPECTGeometry,
    WindowedScan,
    isotope,
    planar_sensitivity,
    scan_seconds,
    view_rates,
)
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.scan.window_choice import Peak

from .problem.problem import ArgumentError
from .problem.scatter import Scatter, separated

_MOST_HALF_LIVES = 10


@dataclass(frozen=True)
class SourceActivity:
    """The activity of a source.

    Args:
        activity : MBq.
        at : when it was that (default: during the scan, in the mean).
    """

    activity: float
    at: datetime | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.activity) and self.activity > 0):
            raise ValueError(f"SourceActivity activity must be positive MBq, got {self.activity}")

    def during(self, start: datetime | None, seconds: float, nuclide: Radionuclide) -> tuple[float, str]:
        """Return the mean activity in MBq during a scan, and how it was found.

        Raises ArgumentError where the times do not tell.
        """
        if self.at is None:
            return self.activity, f"{self.activity:g} MBq, taken as the mean during the scan"
        if start is None:
            raise ArgumentError("calibration_phantom", "the time when the phantom was scanned is not known")
        if (start.tzinfo is None) != (self.at.tzinfo is None):
            raise ArgumentError(
                "calibration_phantom", "both the time of the activity and that of the scan need a time zone, or neither"
            )
        elapsed = (start - self.at).total_seconds()
        if abs(elapsed) > _MOST_HALF_LIVES * nuclide.half_life:
            raise ArgumentError(
                "calibration_phantom",
                f"the time of the activity is {abs(elapsed) / nuclide.half_life:.3g} half-lives from the scan; a wrong "
                "date?",
            )
        mean = self.activity * nuclide.decay(elapsed) * nuclide.mean_decay(seconds)
        when = f"{self.at:%Y-%m-%d %H:%M:%S}, {mean:.6g} MBq during the scan at {start:%Y-%m-%d %H:%M:%S}"
        return mean, f"{self.activity:g} MBq at {when}"


@dataclass(frozen=True)
class MeasuredCalibration:
    """A calibration that was measured: `value` is the argument `calibration` of `quantify`.

    value : SPECT: counts/s/MBq of one head.  PET: Bq/mL for one unit of the image per second and emission.
    notes : how it was found, a line each.
    """

    value: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((f"calibration {self.value:.6g}", *self.notes))


def sensitivity_of_scan(
    scan: Scan | WindowedScan,
    source: SourceActivity,
    *,
    peak: Peak | None = None,
    scatter: Scatter = None,
    dead_time: DeadTime | None = None,
) -> MeasuredCalibration:
    """Return the sensitivity of one head in counts/s/MBq from planar or SPECT views of a source in air::

        sensitivity = (counts - scatter) / (views T activity)

    Args:
        scan : all of whose views see all of the source, without attenuation; several views are averaged.
        peak, scatter : as in `spect_problem`, which should be those of the patients.
        dead_time : counts are divided by the fraction of events that was counted, see `with_dead_time`.

    Raises ArgumentError where duration, radionuclide or times are not known, or no counts are left.
    """
    single = separated(scan, scatter, peak)
    found = single.scan
    if not isinstance(found, Scan) or not isinstance(found.geometry, SPECTGeometry):
        raise ArgumentError(
            "calibration_phantom", "sinograms give no sensitivity; reconstruct the phantom, give the image"
        )
    nuclide = _nuclide(found.radionuclide)
    if found.duration is None:
        raise ArgumentError("calibration_phantom", "the seconds per view of the phantom's scan are not known")
    start = found.study.start if found.study else None
    activity, how = source.during(start, scan_seconds(found), nuclide)
    by_view = np.asarray((to_numpy(found.counts) - to_numpy(found.background)).sum((-2, -1), dtype=float))
    if dead_time is not None:
        try:
            by_view = by_view / dead_time.live_fraction(view_rates(scan))
        except ValueError as error:
            raise ArgumentError("dead_time", f"the scan of the source: {error}") from None
    counts = float(by_view.mean())
    if not counts > 0:
        raise ArgumentError("calibration_phantom", "no counts of the source are left")
    corrected = "" if dead_time is None else ", corrected for dead time"
    n = found.geometry.n_views
    per_view = f"{counts:.6g} counts per view of {found.duration:g} s, in the mean of {n} views{corrected}"
    notes = (how, per_view, *filter(None, (" ".join(single.said.split()),)), *single.notes)
    return MeasuredCalibration(planar_sensitivity(counts, found.duration, activity), notes)


def sensitivity_of_image(
    image: Array,
    grid: ImageGrid,
    source: SourceActivity,
    radionuclide: str | None,
    seconds: float,
    *,
    total_seconds: float | None = None,
    start: datetime | None = None,
    pet: bool = False,
) -> MeasuredCalibration:
    """Return the calibration from an image, in counts, of a phantom that lies in it with all its activity.

    ::

        SPECT    sensitivity = sum(image) / (seconds activity)
        PET      factor = activity 1e6 seconds branching / (sum(image) V)

    Args:
        image : reconstructed with the corrections of the patients', without Bq/mL or SUV.
        seconds : per view, of the scan for PET.
        total_seconds : of the whole scan, during which the activity decays (default: seconds).
        start : when the scan began; needed where the source's activity is of another time.

    Raises ArgumentError where times do not fit, or the image holds nothing.
    """
    nuclide = _nuclide(radionuclide)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ArgumentError("calibration_phantom", f"the seconds must be positive, got {seconds}")
    activity, how = source.during(start, total_seconds or seconds, nuclide)
    total = float(to_numpy(image).sum(dtype=float))
    if not (math.isfinite(total) and total > 0):
        raise ArgumentError("calibration_phantom", "the image of the phantom holds no activity")
    said = f"sum of the image {total:.6g}, {seconds:g} s"
    if not pet:
        return MeasuredCalibration(planar_sensitivity(total, seconds, activity), (how, said))
    branching = nuclide.positron_fraction or 1.0
    return MeasuredCalibration(activity * 1e6 * seconds * branching / (total * grid.voxel_volume), (how, said))


def _nuclide(name: str | None) -> Radionuclide:
    if name is None:
        raise ArgumentError("calibration_phantom", "the radionuclide of the phantom's scan is not known")
    return isotope(name)
