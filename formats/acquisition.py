"""An acquisition in words: camera, windows with their roles, times, tracer; and what a quantitative image needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from emrecon.projectors import BedScan, DynamicScan, EnergyWindow, GatedScan, SPECTGeometry, Study, isotope
from emrecon.projectors.core.arrays import to_numpy

from .words import camera_in_words, n_of, radius_in_words, seconds_in_words

_NEAR = 0.5  # of a peak's width: a scatter window is no further from it


def acquisition_in_words(source: Any) -> tuple[str, ...]:
    """Return what was measured and how, a line each: of a scan, windows, beds, frames, gates or list-mode events."""
    lines = [*_place(source), *_emission(source), *_times(source), *_counts(source)]
    return tuple(lines + study_in_words(getattr(source, "study", None)))


def _place(source: Any) -> list[str]:
    if isinstance(source, BedScan):
        lines = [f"SPECT at {len(source)} bed positions"]
        return lines + [f"bed {i}: {camera_in_words(camera)}" for i, camera in enumerate(source.geometries, 1)]
    geometry = getattr(source, "geometry", None)
    if isinstance(geometry, SPECTGeometry):
        return [f"SPECT: {camera_in_words(geometry)}"]
    if geometry is None:
        return [f"PET list-mode: {source.sinogram}"] if hasattr(source, "sinogram") else []
    return [f"PET: {geometry}"]


def _emission(source: Any) -> Iterator[str]:
    first: Any = source
    if isinstance(source, BedScan):
        first = source[0]
    nuclide = getattr(first, "radionuclide", None)
    if nuclide is not None:
        yield f"radionuclide {nuclide}, half-life {_half_life(isotope(nuclide).half_life)}"
    windows: Sequence[EnergyWindow] = getattr(first, "windows", ())
    if not windows and getattr(first, "energy_window", None) is not None:
        low, high = first.energy_window
        windows = (EnergyWindow(low, high),)
    for window, role in zip(windows, roles_of(windows, nuclide)):
        name = f" ({window.name})" if window.name else ""
        yield f"energy window {window.lower:.5g} to {window.upper:.5g} keV{name}: {role}"


def _times(source: Any) -> Iterator[str]:
    series = source.series[0] if hasattr(source, "series") else source
    if isinstance(series, DynamicScan):
        yield f"dynamic: {series.frames}"
    elif isinstance(series, GatedScan):
        yield f"gated: {n_of(len(series), 'gate')}{', cyclic' if series.cyclic else ''}"
    beds = source.beds if isinstance(source, BedScan) else (source,)
    durations = dict.fromkeys(getattr(bed, "duration", None) for bed in beds)
    for duration in durations:
        if duration is not None and not callable(duration):  # events would have to be read for it
            per = " per view" if isinstance(getattr(beds[0], "geometry", None), SPECTGeometry) else ""
            yield f"{seconds_in_words(duration)}{per}"


def _counts(source: Any) -> Iterator[str]:
    beds = source.beds if isinstance(source, BedScan) else (source,)
    for i, bed in enumerate(beds, 1):
        totals = [_total(part) for part in _arrays(bed)]
        where = f"bed {i}: " if len(beds) > 1 else ""
        if not totals:
            continue
        if len(totals) == 1:
            yield f"{where}{_grouped(totals[0])} counts"
        else:
            by_window = (f"{window.name} {_grouped(total)}" for window, total in zip(bed.windows, totals))
            yield f"{where}counts by window: {', '.join(by_window)}"


def _arrays(bed: Any) -> tuple[Any, ...]:
    """The counts of each energy window; none of events."""
    if hasattr(bed, "series"):
        return tuple(part.counts for part in bed.series)
    counts = getattr(bed, "counts", ())
    return counts if isinstance(counts, tuple) else (counts,)


def _total(counts: Any) -> float:
    return float(np.sum(to_numpy(counts), dtype=float))


def _grouped(total: float) -> str:
    """A number of counts with its thousands apart: "4 001 450"."""
    return f"{total:,.0f}".replace(",", " ") if total >= 1000 else f"{total:.6g}"


def _half_life(seconds: float) -> str:
    for size, name in ((86400 * 365.25, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.4g} {name}"
    return f"{seconds:.4g} s"


_NAMES = "radionuclide|energy window|camera|collimator|began|injected|patient|centre of the scan"
_LINES = (
    ("", r"(?P<name>SPECT|PET|PET list-mode|bed \d+|dynamic|gated|counts by window): (?P<rest>.*)"),
    ("", r"(?P<name>bed \d+: counts by window): (?P<rest>.*)"),
    ("", rf"(?P<name>{_NAMES}) (?P<rest>.*)"),
    ("counts", r"(?P<rest>[\d. ]+) counts"),
    ("time", r"(?P<rest>[\d.e+]+ (?:s|min|h)\b.*)"),
)


def named_line(line: str) -> tuple[str, str]:
    """Return a line of `acquisition_in_words` as a name and what it is: ("camera", "Maker Model"); else ("", line)."""
    for name, pattern in _LINES:
        found = re.fullmatch(pattern, line)
        if found:
            return found["name"] if "name" in found.groupdict() else name, found["rest"]
    return "", line


def roles_of(windows: Sequence[EnergyWindow], radionuclide: str | None) -> list[str]:
    """Return what each energy window is for: the peak of a line, the scatter below or above a peak, or neither.

    A window holds a peak where a line of the radionuclide lies in its middle half; of windows that share a line, the
    one whose centre is nearest.
    """
    lines = {} if radionuclide is None else isotope(radionuclide).photons
    peaks = _peaks(windows, {energy: share for energy, share in lines.items() if share >= 1e-3})
    return [
        f"peak of {radionuclide} {peaks[i]:.5g} keV" if i in peaks else _other_role(windows, i, peaks, radionuclide)
        for i in range(len(windows))
    ]


def _peaks(windows: Sequence[EnergyWindow], lines: dict[float, float]) -> dict[int, float]:
    """The windows of a line, and its energy: the strongest in the middle half."""
    found: dict[int, float] = {}
    for i, window in enumerate(windows):
        quarter = window.width / 4
        inside = [energy for energy in lines if window.lower + quarter <= energy <= window.upper - quarter]
        if inside:
            found[i] = max(inside, key=lambda energy: lines[energy])
    best: dict[float, int] = {}
    for i, energy in found.items():
        other = best.get(energy)
        if other is None or windows[i].width > windows[other].width:  # scatter windows are the narrow ones
            best[energy] = i
    return {i: energy for energy, i in best.items()}


def _other_role(windows: Sequence[EnergyWindow], i: int, peaks: dict[int, float], radionuclide: str | None) -> str:
    if not peaks:
        return "use not known" + (": the radionuclide is not known" if radionuclide is None else "")
    for k, energy in sorted(peaks.items(), key=lambda item: abs(_gap(windows[i], windows[item[0]]))):
        gap = _gap(windows[i], windows[k])
        if abs(gap) <= _NEAR * windows[k].width:
            return f"{'lower' if gap < 0 else 'upper'} scatter of {energy:.5g} keV"
        break
    return "no line of the radionuclide and beside no peak"


def _gap(window: EnergyWindow, peak: EnergyWindow) -> float:
    """Return keV from a peak to another window, negative where that is below; a little where they overlap."""
    below = window.lower + window.upper < peak.lower + peak.upper
    return -max(peak.lower - window.upper, 1e-9) if below else max(window.lower - peak.upper, 1e-9)


def study_in_words(study: Study | None) -> list[str]:
    """Return the circumstances of a scan that tell nobody's name, a line each."""
    if study is None:
        return []
    camera = " ".join(text for text in (study.manufacturer, study.model) if text)
    placed = None if study.placement is None else ", ".join(f"{mm:.5g}" for mm in study.placement)
    said = {
        "camera": camera or None,
        "collimator": study.collimator,
        "began": study.start and _moment(study.start),
        "injected": _injected(study),
        "patient": _body(study),
        "centre of the scan at": placed and f"({placed}) mm, LPS",
    }
    return [f"{name} {value}" for name, value in said.items() if value]


def _injected(study: Study) -> str | None:
    if study.injected is None:
        return None
    when = f" at {_moment(study.injection)}" if study.injection else ", time not known"
    return f"{study.injected:.6g} MBq{when}"


def _body(study: Study) -> str | None:
    parts = [
        study.patient_position,
        study.weight and f"{study.weight:.4g} kg",
        study.height and f"{study.height:.3g} m",
    ]
    return ", ".join(part for part in parts if part) or None


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True)
class Need:
    """Something that an image in Bq/mL or SUV needs.

    Args:
        said : what the file says of it, None where it is missing.
        otherwise : how to give it then.
    """

    name: str
    said: str | None
    otherwise: str

    def __str__(self) -> str:
        return f"MISSING: {self.otherwise}" if self.said is None else f"yes{f', {self.said}' if self.said else ''}"


def needs_of_quantities(source: Any, *, with_ct: bool = False) -> list[Need]:
    """Return what an image in Bq/mL and SUV needs of SPECT, in order, and whether it is there.

    Args:
        with_ct : whether there is a CT for the attenuation.
    """
    first = source[0] if isinstance(source, BedScan) else source
    known: Study = getattr(source, "study", None) or Study()
    windows, nuclide = getattr(first, "windows", ()), getattr(first, "radionuclide", None)
    scatter = [role for role in roles_of(windows, nuclide) if "scatter" in role]
    duration = getattr(first, "duration", None)
    time = "" if not hasattr(first, "duration") else duration and seconds_in_words(duration)
    camera = getattr(first, "geometry", None)
    radius = None if camera is None else radius_in_words(camera).removeprefix("radius ")
    beside = f"{n_of(len(scatter), 'window')} beside a peak" if scatter else None
    calibration = None if known.calibration is None else f"{known.calibration:.5g} counts/s/MBq"
    injected = None if known.injected is None else f"{known.injected:.6g} MBq"
    when = None if known.injection is None else _moment(known.injection)
    weight = None if known.weight is None else f"{known.weight:.4g} kg"
    return [
        Need("radionuclide", nuclide, "--header radionuclide=NAME"),
        Need("time per view", time, "--header duration=SECONDS"),
        Need("radius", radius, "--header radius=MM"),
        Need("attenuation", "a CT" if with_ct else None, "projections hold none; --mu CT_FOLDER"),
        Need("scatter", beside, "no windows beside a peak; --scatter esse models it"),
        Need("collimator", known.collimator, "--collimator NAME"),
        Need("calibration", calibration, "not in the file; --calibration CPS_PER_MBQ"),
        Need("injected activity", injected, "for SUV: --injected MBQ"),
        Need("injection time", when, "for SUV: --injected-at TIME"),
        Need("weight", weight, "for SUV: --weight KG"),
    ]
