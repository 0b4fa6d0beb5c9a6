"""An acquisition in words: camera, windows with their roles, times, tracer; and what a quantitative image needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from emrecon.projectors import BedScan, DynamicScan, EnergyWindow, GatedScan, SPECTGeometry, Study, isotope
from emrecon.projectors.core.arrays import to_numpy

from .words import camera_in_words, n_of, seconds_in_words

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
    first = source[0] if isinstance(source, BedScan) else source
    nuclide = getattr(first, "radionuclide", None)
    if nuclide is not None:
        yield f"radionuclide {nuclide}, half-life {_half_life(isotope(nuclide).half_life)}"
    windows: Sequence[EnergyWindow] = getattr(first, "windows", ())
    if not windows and getattr(first, "energy_window", None) is not None:
        windows = (EnergyWindow(*first.energy_window),)
    for window, role in zip(windows, roles_of(windows, nuclide)):
        name = f" ({window.name})" if window.name else ""
        yield f"energy window {window.lower:.5g} to {window.upper:.5g} keV{name}: {role}"


def _times(source: Any) -> Iterator[str]:
    if isinstance(source, DynamicScan):
        yield f"dynamic: {source.frames}"
    elif isinstance(source, GatedScan):
        yield f"gated: {n_of(len(source), 'gate')}{', cyclic' if source.cyclic else ''}"
    beds = source.beds if isinstance(source, BedScan) else (source,)
    durations = dict.fromkeys(getattr(bed, "duration", None) for bed in beds)
    for duration in durations:
        if duration is not None:
            per = " per view" if isinstance(getattr(beds[0], "geometry", None), SPECTGeometry) else ""
            yield f"{seconds_in_words(duration)}{per}"


def _counts(source: Any) -> Iterator[str]:
    beds = source.beds if isinstance(source, BedScan) else (source,)
    for i, bed in enumerate(beds, 1):
        if not hasattr(bed, "counts"):
            continue
        where = f"bed {i}: " if len(beds) > 1 else ""
        totals = [_total(part) for part in (bed.counts if isinstance(bed.counts, tuple) else (bed.counts,))]
        if len(totals) == 1:
            yield f"{where}{_grouped(totals[0])} counts"
        else:
            by_window = (f"{window.name} {_grouped(total)}" for window, total in zip(bed.windows, totals))
            yield f"{where}counts by window: {', '.join(by_window)}"


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


def missing_for_quantities(source: Any, calibration: float | None = None) -> list[tuple[bool, str]]:
    """Return what a quantitative SPECT image needs, and whether the file has it: (has it, in words), in order."""
    first = source[0] if isinstance(source, BedScan) else source
    study: Study | None = getattr(source, "study", None)
    windows, nuclide = getattr(first, "windows", ()), getattr(first, "radionuclide", None)
    scatter = any("scatter" in role for role in roles_of(windows, nuclide))
    known = study or Study()
    sensitivity = calibration or known.calibration
    return [
        (nuclide is not None, "radionuclide" + (f": {nuclide}" if nuclide else ", with --header radionuclide=NAME")),
        (getattr(first, "duration", None) is not None or isinstance(first, (DynamicScan, GatedScan)), "time per view"),
        (
            scatter,
            "scatter windows" + ("" if scatter else ": none beside a peak; --scatter esse models scatter instead"),
        ),
        (known.collimator is not None, "collimator" + _said(known.collimator, "--collimator NAME")),
        (
            sensitivity is not None,
            "calibration" + _said(sensitivity and f"{sensitivity:.5g} counts/s/MBq", "--calibration CPS_PER_MBQ"),
        ),
        (known.injected is not None, "injected activity" + _said(_injected(known), "needed for SUV")),
        (known.weight is not None, "weight" + _said(known.weight and f"{known.weight:.4g} kg", "needed for SUV")),
        (False, "attenuation map: a file of projections holds none; --mu CT_FOLDER"),
    ]


def _said(value: object, otherwise: str) -> str:
    return f": {value}" if value else f": not in the file ({otherwise})"
