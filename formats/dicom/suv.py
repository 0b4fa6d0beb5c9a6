"""Standardised uptake values: the factor for an image by the facts of its series, and the moment it is decayed to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from emrecon.projectors import Radionuclide

from .facts import PETFacts, known_half_life

T = TypeVar("T")

_MOST_HALF_LIVES = 10
_SUV_KINDS = {
    "body weight": "BW",
    "james lean body mass": "LBMJAMES128",
    "janmahasatian lean body mass": "LBMJANMA",
    "ideal body weight": "IBW",
    "body surface area": "BSA",
}


# kg from weight (kg) and height (m), as DICOM names the formulas: LBM is the one with the misprint, 120 for 128
_BODIES: dict[tuple[str, str], Callable[[float, float], float]] = {
    ("LBM", "M"): lambda w, h: 1.10 * w - 120 * (w / (100 * h)) ** 2,
    ("LBM", "F"): lambda w, h: 1.07 * w - 148 * (w / (100 * h)) ** 2,
    ("LBMJAMES128", "M"): lambda w, h: 1.10 * w - 128 * (w / (100 * h)) ** 2,
    ("LBMJAMES128", "F"): lambda w, h: 1.07 * w - 148 * (w / (100 * h)) ** 2,
    ("LBMJANMA", "M"): lambda w, h: 9270 * w / (6680 + 216 * w / h**2),
    ("LBMJANMA", "F"): lambda w, h: 9270 * w / (8780 + 244 * w / h**2),
    ("IBW", "M"): lambda w, h: 48.0 + 1.06 * (100 * h - 152),
    ("IBW", "F"): lambda w, h: 45.5 + 0.91 * (100 * h - 152),
}


_NAMES = {
    "weight": ("the patient's weight in kg", "70.0"),
    "height": ("the patient's height in m", "1.75"),
    "sex": ("the patient's sex", '"F"'),
    "injected_dose": ("the injected dose in MBq", "350.0"),
    "injection_time": ("the date and time of the injection", "datetime(...)"),
    "half_life": ("the half-life in s", "6584.0"),
    "acquisition_time": ("the date and time when the first image began (AcquisitionDate, -Time)", "datetime(...)"),
    "series_time": ("the date and time of the series (SeriesDate, SeriesTime)", "datetime(...)"),
    "frame_start": ("the time the image began", "datetime(...)"),
    "frame_duration": ("the duration of the frame in s", "300.0"),
}


def suv_factor(facts: PETFacts, kind: str = "body weight") -> float:
    """Return what the image is multiplied by to be SUV: size / (dose * 2 ** (-(reference - injection) / half-life)).

    Args:
        kind : "body weight", "James lean body mass", "Janmahasatian lean body mass" or "ideal body weight" (size in g,
            SUV in g/mL), or "body surface area" (size in cm2, SUV in cm2/mL).

    The reference is `decay_reference_time(facts)`. Images in Philips' counts take the scanner's private factors, and
    images that are SUV already are converted between the kinds.

    James' lean body mass turns over for the obese (body mass index near 43 for men, 36 for women): beyond,
    it falls with rising weight.

    Raises ValueError that says which fact is missing or contradictory and how to replace it. Warns where DecayFactor
    says that the values were corrected to another time.

    Source: QIBA, vendor-neutral pseudo-code for SUV; James 1976; Janmahasatian et al. 2005; Du Bois & Du Bois 1916;
    Sugawara et al. 1999 (ideal body weight).
    """
    suv_type = _suv_type(kind)
    if facts.units in ("GML", "CM2ML"):
        return _relative_size(facts, suv_type, facts.suv_type or {"GML": "BW", "CM2ML": "BSA"}[facts.units])
    _check_corrections(facts)
    if facts.units == "CNTS" and facts.philips_suv_factor:
        return facts.philips_suv_factor * _relative_size(facts, suv_type, "BW")
    return _becquerel_per_ml(facts) * _size(facts, suv_type) / _decayed_dose(facts)


def decay_reference_time(facts: PETFacts) -> datetime:
    """Return the moment that the values are decay corrected to.

    What DecayCorrection says decides::

        ADMIN   the injection
        START   SeriesTime, unless an image began before it: then the series was made afterwards, and the reference
                is the scan time GE notes, or the earlier of the first AcquisitionTime and what FrameReferenceTime
                implies. Without the date and time of the acquisition the two cannot be told apart: refused
        NONE    the moment of mean activity during the frame

    `facts.decay_reference` and the moment Siemens notes come before these rules.

    Raises ValueError where times are not known, or where beds that are not decay corrected began at different times.

    Source: QIBA, vendor-neutral pseudo-code for SUV; DICOM PS3.3, PET Image module.
    """
    if facts.decay_reference is not None:
        return facts.decay_reference
    if facts.decay_correction == "ADMIN":
        return required_fact(facts.injection_time, "injection_time")
    if facts.decay_correction == "NONE":
        _check_one_bed(facts)
        return mean_activity_time(facts)
    if facts.decay_correction != "START":
        raise ValueError(
            f"DecayCorrection is {facts.decay_correction!r}, expected START, ADMIN or NONE; "
            + _advice("decay_correction", '"START"')
        )
    if facts.siemens_decay_time is not None:
        return facts.siemens_decay_time
    if facts.acquisition_time is None and facts.ge_scan_time is not None:
        return facts.ge_scan_time
    # without it SeriesTime cannot be told from the time when the series was made afterwards
    begun = required_fact(facts.acquisition_time, "acquisition_time")
    implied = _implied_by_frame_reference(facts)
    if facts.series_time is None:
        return facts.ge_scan_time or required_fact(implied, "series_time")
    if facts.series_time <= begun:
        return facts.series_time
    if facts.ge_scan_time is None and implied is None:
        warnings.warn(
            f"SUV: SeriesTime {facts.series_time} is after the scan and FrameReferenceTime is missing, so the values "
            f"are taken as decay corrected to the first AcquisitionTime, {begun}; where earlier beds were left out, "
            + _advice("decay_reference", "datetime(...)"),
            stacklevel=3,
        )
    return facts.ge_scan_time or min(begun, implied or begun)


def _suv_type(kind: str) -> str:
    suv_type = _SUV_KINDS.get(kind.lower())
    if suv_type is None:
        raise ValueError(f"unknown kind of SUV {kind!r}; choose from {', '.join(_SUV_KINDS)}")
    return suv_type


def _size(facts: PETFacts, suv_type: str) -> float:
    """What the dose is divided over: g, or cm2 for the body surface area."""
    weight = required_fact(facts.weight, "weight")
    if weight > 500:
        raise ValueError(f"the weight is {weight:g} kg; given in g? " + _advice("weight", "70.0"))
    if suv_type == "BW":
        return 1000 * weight
    height = required_fact(facts.height, "height")
    if not 0.2 <= height <= 2.6:
        raise ValueError(f"the height is {height:g} m; given in cm? " + _advice("height", "1.75"))
    if suv_type == "BSA":
        return 1e4 * 0.007184 * weight**0.425 * (100 * height) ** 0.725
    size = 1000 * _BODIES[suv_type, _sex(facts)](weight, height)
    if size <= 0:
        raise ValueError(f"no {suv_type} for {weight:g} kg and {height:g} m: the formula gives {size / 1000:g} kg")
    return size


def _sex(facts: PETFacts) -> str:
    sex = required_fact(facts.sex, "sex")
    if sex not in ("M", "F"):
        raise ValueError(f"the formulas of lean body mass need the sex M or F, got {sex!r}; " + _advice("sex", '"F"'))
    return sex


def _relative_size(facts: PETFacts, wanted: str, given: str) -> float:
    """The factor from SUV by `given` to SUV by `wanted`."""
    if wanted == given:
        return 1.0
    if given not in _SUV_KINDS.values() and given != "LBM":
        raise ValueError(f"the values are SUV of the unknown type {given!r}; " + _advice("suv_type", '"BW"'))
    return _size(facts, wanted) / _size(facts, given)


def _check_corrections(facts: PETFacts) -> None:
    needed = ("ATTN",) if facts.decay_correction == "NONE" else ("ATTN", "DECY")
    missing = [name for name in needed if name not in facts.corrections]
    if facts.corrections and missing:
        raise ValueError(
            f"CorrectedImage ({', '.join(facts.corrections)}) lacks {' and '.join(missing)}, which SUV needs; "
            + _advice("corrections", "()")
        )


def _becquerel_per_ml(facts: PETFacts) -> float:
    if facts.units == "BQML":
        return 1.0
    if facts.units == "CNTS" and facts.philips_activity_factor:
        return facts.philips_activity_factor
    raise ValueError(
        f"the image is in {facts.units} and the file does not give the factor to Bq/mL; multiply by your own and "
        + _advice("units", '"BQML"')
    )


def _decayed_dose(facts: PETFacts) -> float:
    """The injected dose in Bq at the moment the values are corrected to."""
    dose = 1e6 * required_fact(facts.injected_dose, "injected_dose")
    if facts.decay_correction == "ADMIN" and facts.decay_reference is None:
        return dose
    reference, injected, half_life = (
        decay_reference_time(facts),
        required_fact(facts.injection_time, "injection_time"),
        _half_life(facts),
    )
    elapsed = (reference - injected).total_seconds()
    if (elapsed < 0 and facts.series_type != "DYNAMIC") or abs(elapsed) > _MOST_HALF_LIVES * half_life:
        raise ValueError(
            f"the injection ({injected}) and the time of the image ({reference}) are {elapsed / half_life:.3g} "
            "half-lives apart; dates changed by an anonymiser, or clocks that differ? "
            + _advice("injection_time", "datetime(...)")
        )
    _compare_with_decay_factor(facts, reference, half_life)
    return float(dose * 2 ** (-elapsed / half_life))


def _half_life(facts: PETFacts) -> float:
    half_life, known = required_fact(facts.half_life, "half_life"), known_half_life(facts.radionuclide)
    if known and abs(half_life - known) > 0.05 * known:
        raise ValueError(
            f"the half-life is {half_life:g} s, that of {facts.radionuclide} is {known:g} s; given in minutes? "
            + _advice("half_life", f"{known:g}")
        )
    return half_life


def _compare_with_decay_factor(facts: PETFacts, reference: datetime, half_life: float) -> None:
    factor, duration = facts.decay_factor, facts.frame_duration
    if facts.decay_correction == "NONE" or not factor or factor == 1 or not duration or facts.frame_start is None:
        return
    implied = mean_activity_time(facts) - timedelta(seconds=half_life * math.log2(factor))
    # scanners differ in whether the factor contains the decay during the frame
    if abs((implied - reference).total_seconds()) > duration + 60:
        warnings.warn(
            f"SUV: the rules say that the values are decay corrected to {reference}, DecayFactor {factor:g} says "
            f"{implied:%Y-%m-%d %H:%M:%S}; if that is right, " + _advice("decay_reference", "datetime(...)"),
            stacklevel=4,
        )


def mean_activity_time(facts: PETFacts) -> datetime:
    """Return the moment t after the frame's start when the activity is its mean: 2 ** (-t / half-life) = mean decay."""
    start = required_fact(facts.frame_start, "frame_start")
    duration = required_fact(facts.frame_duration, "frame_duration")
    half_life = required_fact(facts.half_life, "half_life")
    return start - timedelta(seconds=half_life * math.log2(Radionuclide("", half_life).mean_decay(duration)))


def _check_one_bed(facts: PETFacts) -> None:
    if facts.n_beds > 1:
        raise ValueError(
            f"the {facts.n_beds} beds of this image are not decay corrected to one time (DecayCorrection NONE); "
            "correct each bed first"
        )


def _implied_by_frame_reference(facts: PETFacts) -> datetime | None:
    """The scan start FrameReferenceTime counts from: GE counts to the start of a frame, others to its mean activity."""
    start, offset = facts.frame_start, facts.frame_reference_time
    if start is None or offset is None or offset < 0:
        return None
    if (facts.manufacturer or "").upper().startswith("GE"):
        return start - timedelta(seconds=offset)
    with suppress(ValueError):
        return mean_activity_time(facts) - timedelta(seconds=offset)
    return None


def required_fact(value: T | None, name: str) -> T:
    """Return the value of a fact; raises ValueError that says how to give it where it is None."""
    if value is None:
        meaning, example = _NAMES[name]
        raise ValueError(f"{meaning} is needed, but the file does not give it for certain; {_advice(name, example)}")
    return value


def _advice(name: str, example: str) -> str:
    return f"pass dataclasses.replace(facts, {name}={example})"
