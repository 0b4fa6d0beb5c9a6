"""What the numbers of an image mean: from counts of a reconstruction to Bq/mL and SUV, and of which moment they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from emrecon.projectors import (
    BedScan,
    Calibration,
    DynamicScan,
    GatedScan,
    ImageGrid,
    PETSinogram,
    Radionuclide,
    Scan,
    Study,
    WindowedScan,
    WindowedSeries,
    isotope,
    scan_seconds,
    spect_calibration,
)
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.physics.quantities import COUNTS, IMAGE_UNITS, SUV, suv

from .methods import matching
from .problem.problem import ArgumentError

AnyScan = Scan | WindowedScan | DynamicScan | GatedScan
AnyAcquisition = AnyScan | WindowedSeries | BedScan

MOMENTS = ("injection", "start", "none")
"""What an activity can be decay corrected to, besides a date and time; "none" is the mean during the scan."""

_MOST_HALF_LIVES = 10
_SAME = 0.05  # relative; what norms and uneven views change the mean of factors by, at most
_USUAL = (0.1, 1000.0)  # counts/s/MBq of one head


@dataclass(frozen=True)
class Quantity:
    """What an image is multiplied by, and what it is then.

    Args:
        scale : of the image of a reconstruction.
        unit : "counts" (of a reconstruction as it is), "Bq/mL" or "SUV" (g/mL, by body weight).
        notes : the formula with its numbers, and what was assumed, a line each.
        decay_to : "injection", "start" or "none" (the mean during the scan), or "time": of what moment the values are.
        reference : that moment, None where no date and time is known.
    """

    scale: float = 1.0
    unit: str = COUNTS
    notes: tuple[str, ...] = ()
    decay_to: str = "none"
    reference: datetime | None = None

    def __post_init__(self) -> None:
        if self.unit not in IMAGE_UNITS:
            raise ValueError(f"unknown unit {self.unit!r}; choose from {', '.join(IMAGE_UNITS)}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"Quantity scale must be positive, got {self.scale}")

    def __call__(self, image: Array) -> Array:
        """Return the image in this unit."""
        return image if self.scale == 1 else image * self.scale

    def __str__(self) -> str:
        return "\n".join((f"{self.unit} = image x {self.scale:.6g}", *self.notes))


def quantify(
    scan: AnyAcquisition,
    grid: ImageGrid,
    unit: str = "Bq/mL",
    *,
    calibration: float | None = None,
    decay_to: str | datetime = "start",
    study: Study | None = None,
    timed_factors: bool | None = None,
) -> Quantity:
    """Return what turns the image of a reconstruction into Bq/mL or SUV::

        SPECT    Bq/mL = image / (sensitivity 1e-6 V T decay)
        PET      Bq/mL = image * factor / (T branching decay)
        both     SUV   = Bq/mL * weight / (injected activity at the same moment)

    V is a voxel's volume in mL, T the seconds per view (of the scan for PET), decay the mean of the activity during the
    scan over that at the moment `decay_to`.

    Args:
        scan : that was reconstructed, the whole of it.
        grid : of the image.
        unit : "Bq/mL", "SUV" or "counts"; case does not matter.
        calibration : SPECT: sensitivity of one head in counts/s/MBq, of this collimator and window, in air (default:
            the study's). PET: Bq/mL for one unit of the image per second and emission, as in `Calibration`.
        decay_to : "start" of the scan, "injection", a date and time, or "none" for the mean during the scan. SUV
            compares with the injected activity at the same moment, so it is the same for all.
        study : who was injected with what and when (default: the scan's).
        timed_factors : SPECT: whether the scan's own factors hold the seconds of a view. Asked for only where the
            factors do not tell: they do where they are 1, or about the scan's duration.

    A `DynamicScan`, a `GatedScan` and a `WindowedSeries` are reconstructed by their `model`; frames have the decay in
    it. Beds are reconstructed as `BedScan.timed` makes them, so that their image is like that of the bed
    `scan.reference`; `quantify_beds` is for beds that are not.

    Raises ArgumentError (a ValueError) that says what is missing, and for times that cannot be: an injection after the
    scan or more than ten half-lives before, and times with a zone beside ones without.
    """
    unit = matching(unit, IMAGE_UNITS, "unit")
    if unit == COUNTS:
        return Quantity()
    scan = reference_part(scan)
    about = (scan.study or Study()) if study is None else study
    nuclide = _nuclide(scan)
    if unit == SUV:
        _require_tracer(about)
    moment = _moment_of(decay_to, about)
    found = _pet(scan, calibration, nuclide, moment) if _is_pet(scan) else None
    if found is None:
        found = _spect(scan, grid, _sensitivity(calibration, about), moment, timed_factors)
    return _suv(found, scan, about, nuclide) if unit == SUV else found


def reference_part(scan: AnyAcquisition) -> AnyScan:
    """Return the part of an acquisition whose time and study its image has: the reference bed, any window's series."""
    if isinstance(scan, BedScan):
        return scan[scan.reference]
    return scan.series[0] if isinstance(scan, WindowedSeries) else scan  # type: ignore[return-value]  # of a kind here


def quantify_beds(
    scan: BedScan,
    grid: ImageGrid,
    unit: str = "Bq/mL",
    *,
    calibration: float | None = None,
    decay_to: str | datetime = "start",
    study: Study | None = None,
    timed_factors: bool | None = None,
) -> tuple[Quantity, ...]:
    """Return a `Quantity` for the image of each bed by itself, all of one moment; arguments are those of `quantify`.

    The start of the scan is that of the bed that was measured first. `study` replaces what is known of patient and
    tracer; the beds keep their own times.

    Raises ArgumentError where the time of a bed is not known, and as `quantify` does.
    """
    if matching(unit, IMAGE_UNITS, "unit") == COUNTS:
        return tuple(Quantity() for _ in scan)
    starts = [bed.study.start if bed.study else None for bed in scan]
    known = [start for start in starts if start is not None]
    if len(known) < len(starts) and decay_to != "none":
        raise ArgumentError(
            "decay_to", f"the time when bed {starts.index(None) + 1} of {len(starts)} was measured is not known"
        )
    first = min(known) if decay_to == "start" else decay_to
    found = []
    for bed, start in zip(scan, starts):
        about = (bed.study or Study()) if study is None else replace(study, start=start)
        own = quantify(
            bed, grid, unit, calibration=calibration, decay_to=first, study=about, timed_factors=timed_factors
        )
        found.append(replace(own, decay_to="start") if decay_to == "start" else own)
    return tuple(found)


@dataclass(frozen=True)
class _Moment:
    """What values are decay corrected to: seconds from there to the scan's start, None for no correction."""

    name: str
    seconds: float | None
    when: datetime | None

    def in_words(self) -> str:
        if self.seconds is None:
            return "of the mean activity during the scan"
        at = "" if self.when is None else f" ({self.when:%Y-%m-%d %H:%M:%S})"
        if self.name == "start":
            return f"decay corrected to the start of the scan{at}"
        where = "the injection" if self.name == "injection" else "the time given"
        before = "before" if self.seconds >= 0 else "after"
        return f"decay corrected to {where}{at}, {_minutes(abs(self.seconds))} {before} the start of the scan"


def _moment_of(decay_to: str | datetime, about: Study) -> _Moment:
    if isinstance(decay_to, datetime):
        return _Moment("time", _between("decay_to", decay_to, about.start, "the time to decay to"), decay_to)
    name = matching(decay_to, MOMENTS, "decay_to")
    if name == "injection":
        _require_order(about)
        seconds = _between("decay_to", about.injection, about.start, "the injection")
        return _Moment(name, seconds, about.injection)
    return _Moment(name, None if name == "none" else 0.0, None if name == "none" else about.start)


def _between(argument: str, first: datetime | None, start: datetime | None, what: str) -> float:
    """Seconds from a moment to the scan's start."""
    if first is None or start is None:
        missing = "the date and time of the injection" if first is None else "the date and time when the scan began"
        advice = "injection=, --injected-at" if first is None else "start=, --started-at"
        raise ArgumentError(argument, f"{missing} is not known; give it (Study {advice})")
    if (first.tzinfo is None) != (start.tzinfo is None):
        raise ArgumentError(
            argument,
            f"{what} ({first.isoformat()}) and the start of the scan ({start.isoformat()}) must both have a time zone, "
            "or neither: leave it out to mean the local time of the camera",
        )
    return (start - first).total_seconds()


def _require_order(about: Study) -> None:
    """Refuse an injection after the scan, where both times are known."""
    if about.injection is None or about.start is None:
        return
    seconds = _between("injected_at", about.injection, about.start, "the injection")
    if seconds < 0:
        raise ArgumentError(
            "injected_at",
            f"the injection ({about.injection}) is {_minutes(-seconds)} after the start of the scan ({about.start}); "
            "another time zone, or clocks that differ?",
        )


def _within_half_lives(seconds: float, nuclide: Radionuclide, what: str, argument: str = "decay_to") -> None:
    if abs(seconds) > _MOST_HALF_LIVES * nuclide.half_life:
        raise ArgumentError(
            argument,
            f"{what} is {abs(seconds) / nuclide.half_life:.3g} half-lives of {nuclide.name} from the start of the "
            "scan; a wrong date, or dates that an anonymiser changed?",
        )


def _spect(scan: AnyScan, grid: ImageGrid, sensitivity: float, moment: _Moment, timed_factors: bool | None) -> Quantity:
    nuclide = isotope(_nuclide(scan))
    if moment.seconds is not None:
        _within_half_lives(moment.seconds, nuclide, "the moment that values are decay corrected to")
    notes = [f"sensitivity {sensitivity:.6g} counts/s/MBq of one head, voxel {grid.voxel_volume:.6g} mL"]
    if not _USUAL[0] <= sensitivity <= _USUAL[1]:
        notes.append(f"a sensitivity of {sensitivity:.4g} counts/s/MBq is unusual for one head; another unit?")
    if isinstance(scan, DynamicScan):
        scale = spect_calibration(sensitivity, grid, scan).scale
        return _of_frames(scan, scale, nuclide, moment, notes)
    if isinstance(scan, GatedScan):
        whole = spect_calibration(sensitivity, grid, scan, start=moment.seconds or 0.0)
        time = "seconds of the gates are in the model"
    else:
        single = scan.scan(scan.windows[0].name) if isinstance(scan, WindowedScan) else scan
        _require_duration(single, "seconds per view")
        timed, how = _timed(single, timed_factors)
        notes += [how] if how else []
        whole = spect_calibration(sensitivity, grid, single, timed_factors=timed, start=moment.seconds or 0.0)
        own = "held by the factors" if timed else f"{single.duration:.6g} s per view"
        time = f"{own}, {scan_seconds(single):.6g} s in all"
    decay = 1.0 if moment.seconds is None else whole.decay
    scale = whole.scale * whole.decay / decay
    notes.append(f"time: {time}; decay of {nuclide.name} {decay:.6g}, values are {moment.in_words()}")
    return Quantity(scale, "Bq/mL", tuple(notes), moment.name, moment.when)


def _pet(scan: AnyScan, factor: float | None, nuclide_name: str, moment: _Moment) -> Quantity:
    if factor is None:
        raise ArgumentError(
            "calibration",
            "Bq/mL of PET needs the calibration factor: Bq/mL for one unit of the image per second and emission, "
            "which Calibration.from_phantom or --calibration-phantom finds",
        )
    if not (math.isfinite(factor) and factor > 0):
        raise ArgumentError("calibration", f"the calibration must be positive, got {factor}")
    nuclide = isotope(nuclide_name)
    branching = nuclide.positron_fraction or 1.0
    notes = [f"calibration factor {factor:.6g}, {branching:.4g} positrons per decay of {nuclide.name}"]
    if isinstance(scan, DynamicScan):
        return _of_frames(scan, factor / branching, nuclide, moment, notes)
    if isinstance(scan, GatedScan):
        seconds = timed = float(np.broadcast_to(scan.seconds.sum(0), scan.geometry.n_views).max())
    else:
        _require_duration(scan, "seconds of the scan")
        seconds, timed = float(scan.duration or 0), 1.0
    if moment.seconds is not None:
        _within_half_lives(moment.seconds, nuclide, "the moment that values are decay corrected to")
    whole = Calibration(factor * timed, nuclide.name, seconds, moment.seconds or 0.0, branching)
    decay = 1.0 if moment.seconds is None else whole.decay
    notes.append(f"time: {seconds:.6g} s; decay {decay:.6g}, values are {moment.in_words()}")
    return Quantity(whole.scale * whole.decay / decay, "Bq/mL", tuple(notes), moment.name, moment.when)


def _of_frames(scan: DynamicScan, scale: float, nuclide: Radionuclide, moment: _Moment, notes: list[str]) -> Quantity:
    """The quantity of images of frames, whose model holds time and decay: they are of the scan's reference time."""
    if moment.seconds is None:
        raise ArgumentError(
            "decay_to",
            "the model of frames holds their decay, so images are decay corrected; use start, injection or a time",
        )
    seconds = moment.seconds + scan.reference - float(scan.frames.starts[0])  # from the moment to the reference
    _within_half_lives(seconds, nuclide, "the moment that values are decay corrected to")
    decay = nuclide.decay(seconds)
    notes.append(f"time and decay of frames are in the model; decay to their reference {decay:.6g}")
    notes.append(f"values are {moment.in_words()}")
    return Quantity(scale / decay, "Bq/mL", tuple(notes), moment.name, moment.when)


def _suv(found: Quantity, scan: AnyScan, about: Study, nuclide_name: str) -> Quantity:
    """SUV of an image in Bq/mL: the injected activity is decayed to the same moment."""
    nuclide = isotope(nuclide_name)
    injection, reference = about.injection, found.reference
    if found.decay_to == "injection":
        left = 1.0
    else:
        _require_order(about)
        elapsed = _between("injected_at", injection, about.start, "the injection")
        _within_half_lives(elapsed, nuclide, f"the injection ({injection})", "injected_at")
        if found.decay_to == "none":
            left = nuclide.decay(elapsed) * nuclide.mean_decay(_seconds(scan))
        elif found.decay_to == "time" and injection is not None and reference is not None:
            left = nuclide.decay((reference - injection).total_seconds())
        else:
            left = nuclide.decay(elapsed)
    injected, weight = float(about.injected or 0), float(about.weight or 0)  # both were asked for
    activity = injected * left
    notes = (
        *found.notes,
        f"SUV by weight: {weight:g} kg, {injected:g} MBq injected, {activity:.6g} MBq at that moment",
        f"injected {_minutes((about.start - injection).total_seconds())} before the scan"
        if injection is not None and about.start is not None
        else "",
    )
    scale = float(suv(np.asarray(found.scale), activity, weight))
    return replace(found, scale=scale, unit=SUV, notes=tuple(note for note in notes if note))


def _require_tracer(about: Study) -> None:
    """Raise ArgumentError that lists everything that SUV needs and the study does not have."""
    needed = {
        "weight": "the patient's weight (Study weight=, --weight KG)",
        "injected": "the injected activity (Study injected=, --injected MBQ)",
        "injection": "the date and time of the injection (Study injection=, --injected-at TIME)",
        "start": "the date and time when the scan began (Study start=, --started-at TIME)",
    }
    missing = [meaning for name, meaning in needed.items() if getattr(about, name) is None]
    if missing:
        raise ArgumentError("unit", f"SUV needs {', '.join(missing)}")
    weight = float(about.weight or 0)
    if not 0.5 <= weight <= 500:
        raise ArgumentError("weight", f"the weight is {weight:g} kg; is it given in g?")


def _sensitivity(calibration: float | None, about: Study) -> float:
    value = about.calibration if calibration is None else calibration
    if value is None:
        raise ArgumentError(
            "calibration",
            "Bq/mL needs the sensitivity of one head in counts/s/MBq, and the file holds none; give it, or a scan of a "
            "source of known activity (--calibration-phantom)",
        )
    if not (math.isfinite(value) and value > 0):
        raise ArgumentError("calibration", f"the sensitivity must be positive counts/s/MBq, got {value}")
    return value


def _timed(scan: Scan, given: bool | None) -> tuple[bool, str]:
    """Whether the factors hold the time of a view, and what to say about it."""
    factors = to_numpy(scan.factors)
    if given is not None:
        return given, "the factors of the scan hold the seconds of a view, as given" if given else ""
    if np.all(factors == 1):
        return False, ""
    mean = float(np.mean(factors))
    if abs(mean - 1) <= _SAME:
        return False, f"the factors of the scan are about 1 (mean {mean:.4g}), so they do not hold the time of a view"
    if abs(mean / float(scan.duration or math.inf) - 1) <= _SAME:
        return True, f"the factors of the scan are about its {scan.duration:g} s per view, so they hold that time"
    raise ArgumentError(
        "timed_factors",
        f"the factors of the scan have the mean {mean:.4g}, and a view took {scan.duration:g} s; say whether they hold "
        "that time (timed_factors=, --timed-factors or --no-timed-factors)",
    )


def _require_duration(scan: Scan | WindowedScan, what: str) -> None:
    if scan.duration is None:
        raise ArgumentError(
            "unit", f"Bq/mL needs the {what}, which the scan does not give; set its duration (--header duration=...)"
        )


def _nuclide(scan: AnyScan) -> str:
    if scan.radionuclide is None:
        raise ArgumentError(
            "unit", "Bq/mL needs the radionuclide, which the scan does not name (--header radionuclide=NAME)"
        )
    return scan.radionuclide


def _is_pet(scan: AnyScan) -> bool:
    return isinstance(scan.geometry, PETSinogram)


def _seconds(scan: AnyScan) -> float:
    """How long the scan took."""
    if isinstance(scan, (DynamicScan, GatedScan)):
        return float(np.max(scan.seconds.sum(0)))
    if isinstance(scan.geometry, PETSinogram):
        return float(scan.duration or 0)
    return scan_seconds(scan.scan(scan.windows[0].name) if isinstance(scan, WindowedScan) else scan)


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 10800 else str(timedelta(seconds=round(seconds)))
