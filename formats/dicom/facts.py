"""What a DICOM PET series says about itself: times, tracer, dose, patient and corrections, with names of our own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from emrecon.projectors import ImageGrid, isotope
from emrecon.projectors.physics.nuclides import ELEMENTS

from .attributes import (
    date_time_of,
    items_of,
    lenient,
    moment_of,
    number_of,
    patient_position_of,
    positive_or_none,
    private_of,
    text_of,
    texts_of,
)
from .series import modality_of, start_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code

_SMALLEST_BECQUEREL = 1e4  # a smaller "dose in Bq" is one in MBq: 10 kBq cannot be imaged, 10 GBq is not injected
_DAYLONG = 12 * 3600.0  # s: tracers of this half-life are scanned days after injection
_COPIED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientAge", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    "TimezoneOffsetFromUTC",
)


@dataclass(frozen=True)
class PETFacts:
    """What a PET series says about itself, None where it does not say; `dataclasses.replace` adds or corrects a fact.

    Args:
        units : of the values, as DICOM writes them: "BQML" (Bq/mL), "CNTS", "GML" (SUV in g/mL), "PROPCPS", ...
        suv_type : "BW", "LBMJAMES128", "LBMJANMA", "BSA", ... where the values are SUV already.
        decay_correction : "START", "ADMIN" or "NONE".
        corrections : as (0028,0051), such as "ATTN", "SCAT", "DECY".
        series_type : "STATIC", "DYNAMIC", "GATED" or "WHOLE BODY".
        radionuclide : such as "F-18".
        half_life : s.
        injected_dose : MBq.
        injection_time : date and time.
        series_time : of the series.
        acquisition_time : when the earliest image of the series began, None unless all images say when they did.
        frame_start : when the earliest image of this frame began.
        n_beds : how many different ones occur in it.
        frame_reference_time : s after series_time.
        frame_duration : s.
        decay_factor : what the values were multiplied by.
        n_frames : time frames or gates of the series.
        frame : the one that was read, 1 to n_frames.
        decay_reference : the moment the values are decay corrected to; None leaves it to `decay_reference_time`.
        siemens_decay_time, ge_scan_time, philips_suv_factor, philips_activity_factor : private attributes.
        weight : kg.
        height : m.
        sex : "M", "F" or "O".
        patient_position : such as "HFS".
        study : attributes of patient and study that a derived series shares (names and UIDs; not shown by repr).
    """

    units: str | None = None
    suv_type: str | None = None
    decay_correction: str | None = None
    corrections: tuple[str, ...] = ()
    series_type: str | None = None
    radionuclide: str | None = None
    radiopharmaceutical: str | None = None
    half_life: float | None = None
    injected_dose: float | None = None
    injection_time: datetime | None = None
    series_time: datetime | None = None
    acquisition_time: datetime | None = None
    frame_start: datetime | None = None
    n_beds: int = 1
    frame_reference_time: float | None = None
    frame_duration: float | None = None
    decay_factor: float | None = None
    n_frames: int = 1
    frame: int = 1
    decay_reference: datetime | None = None
    siemens_decay_time: datetime | None = None
    ge_scan_time: datetime | None = None
    philips_suv_factor: float | None = None
    philips_activity_factor: float | None = None
    weight: float | None = None
    height: float | None = None
    sex: str | None = None
    patient_position: str | None = None
    series_description: str | None = None
    series_number: int | None = None
    series_uid: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    study: Mapping[str, str] = field(default_factory=dict, repr=False)


class PETImage(NamedTuple):
    """A PET image (x, y, z), float32 in `facts.units`, on its grid (LPS, mm), with the facts of its series."""

    image: np.ndarray
    grid: ImageGrid
    facts: PETFacts


def facts_of(frame: list[Dataset], series: list[Dataset]) -> PETFacts:
    """Return the facts of a frame, from the headers of its slices and of the whole series."""
    starts = {start for header in frame if (start := start_of(header))}
    header = min(frame, key=lambda item: start_of(item) or datetime.max)
    begins = [start_of(item) for item in series]
    # one that does not say it may be the earliest
    begun = None if None in begins else min(filter(None, begins), default=None)
    series_time = moment_of(text_of(header, "SeriesDate"), text_of(header, "SeriesTime"))
    facts = PETFacts(
        units=text_of(header, "Units"),
        suv_type=text_of(header, "SUVType"),
        decay_correction=text_of(header, "DecayCorrection"),
        corrections=texts_of(header, "CorrectedImage"),
        series_type=text_of(header, "SeriesType"),
        series_time=series_time,
        acquisition_time=begun,
        frame_start=start_of(header),
        n_beds=max(len(starts), 1),
        frame_reference_time=_scaled(number_of(header, "FrameReferenceTime"), 1e-3),
        frame_duration=positive_or_none(number_of(header, "ActualFrameDuration"), 1e-3),
        decay_factor=positive_or_none(number_of(header, "DecayFactor")),
        siemens_decay_time=date_time_of(private_of(header, 0x0071, "SIEMENS MED PT", 0x22)),
        ge_scan_time=date_time_of(private_of(header, 0x0009, "GEMS_PETD_01", 0x0D)),
        philips_suv_factor=positive_or_none(_private_number(header, 0x00)),
        philips_activity_factor=positive_or_none(_private_number(header, 0x09)),
        weight=positive_or_none(number_of(header, "PatientWeight")),
        height=positive_or_none(number_of(header, "PatientSize")),
        sex=text_of(header, "PatientSex"),
        patient_position=patient_position_of(header),
        series_description=text_of(header, "SeriesDescription"),
        series_number=None if (number := number_of(header, "SeriesNumber")) is None else int(number),
        series_uid=text_of(header, "SeriesInstanceUID"),
        manufacturer=text_of(header, "Manufacturer"),
        model=text_of(header, "ManufacturerModelName"),
        study={name: value for name in _COPIED if (value := text_of(header, name))},
    )
    return replace(facts, **_tracer(header, facts))


def _scaled(number: float | None, scale: float) -> float | None:
    return None if number is None else number * scale


def _private_number(header: Dataset, element: int) -> float | None:
    with suppress(ValueError):
        return float(private_of(header, 0x7053, "Philips PET Private Group", element) or "")
    return None


class _Tracer(TypedDict, total=False):
    """The facts about the tracer."""

    radionuclide: str | None
    radiopharmaceutical: str | None
    half_life: float | None
    injected_dose: float | None
    injection_time: datetime | None


def _tracer(header: Dataset, facts: PETFacts) -> _Tracer:
    """What the file says of the one tracer that was injected."""
    items = items_of(header, "RadiopharmaceuticalInformationSequence")
    if len(items) != 1:
        return {}
    item = items[0]
    code = next(iter(items_of(item, "RadionuclideCodeSequence")), None)
    drug = next(iter(items_of(item, "RadiopharmaceuticalCodeSequence")), None)
    drug_name = text_of(item, "Radiopharmaceutical") or (text_of(drug, "CodeMeaning") if drug else None)
    name = radionuclide_of_text((text_of(code, "CodeMeaning") if code else None) or drug_name)
    half_life = positive_or_none(number_of(item, "RadionuclideHalfLife")) or known_half_life(name)
    dose = positive_or_none(number_of(item, "RadionuclideTotalDose"))
    return {
        "radionuclide": name,
        "radiopharmaceutical": drug_name,
        "half_life": half_life,
        "injected_dose": dose if dose is None or dose < _SMALLEST_BECQUEREL else dose / 1e6,
        "injection_time": _injection_time(header, item, facts, half_life),
    }


def _injection_time(header: Dataset, item: Dataset, facts: PETFacts, half_life: float | None) -> datetime | None:
    """The date and time of injection; where the file gives a time of day, that before the scan."""
    full = date_time_of(text_of(item, "RadiopharmaceuticalStartDateTime"), text_of(header, "TimezoneOffsetFromUTC"))
    # not SeriesTime, which may be when the series was made, days later
    notes = (facts.acquisition_time, facts.siemens_decay_time, facts.ge_scan_time)
    scan = min((moment for moment in notes if moment), default=None)
    if full or scan is None or (half_life or 0) > _DAYLONG:
        return full
    injected = moment_of(f"{scan:%Y%m%d}", text_of(item, "RadiopharmaceuticalStartTime"))
    if injected is None:
        return None
    # a dynamic scan begins before its injection; any other injection after the scan was the day before, over midnight
    allowed = timedelta(seconds=_DAYLONG if facts.series_type == "DYNAMIC" else 0)
    return injected - timedelta(days=1) if injected - scan > allowed else injected


def radionuclide_of_text(text: str | None) -> str | None:
    """Return the positron emitter in a text such as "^18^Fluorine", "F^18^" or "Fluorodeoxyglucose F-18", as "F-18"."""
    plain = re.sub(r"[\^\[\]]", " ", text or "")
    for elements, flags in (("|".join(ELEMENTS), re.IGNORECASE), ("|".join(ELEMENTS.values()), 0)):
        for pattern in (
            rf"(?<!\w)(?P<mass>\d{{1,3}}m?)[ -]*(?P<element>{elements})(?![a-z])",
            rf"(?<![A-Za-z])(?P<element>{elements})[ -]*(?P<mass>\d{{1,3}}m?)(?!\w)",
        ):
            for found in re.finditer(pattern, plain, flags):
                name = f"{ELEMENTS.get(found['element'].lower(), found['element'])}-{found['mass']}"
                if radionuclide_code(name):
                    return name
    return None


def radionuclide_code(name: str | None) -> Code | None:
    """Return DICOM's code (context group 4020) of a positron emitter, None where it has none."""
    from pydicom.sr.codedict import codes

    symbol, _, mass = (name or "").partition("-")
    element = next((element.capitalize() for element, known in ELEMENTS.items() if known == symbol), "")
    return getattr(codes.cid4020, f"_{mass}{element}", None)


def known_half_life(name: str | None) -> float | None:
    """Return the half-life of a radionuclide in s, None for one that the tables do not have."""
    with suppress(ValueError):
        return isotope(name).half_life if name else None
    return None


def facts_like(like: PETFacts | PETImage | Dataset | None) -> PETFacts:
    """Return the facts of what a new series is to be like; without it, values in Bq/mL without decay correction."""
    if like is None:
        return PETFacts(units="BQML", decay_correction="NONE")
    facts = like.facts if isinstance(like, PETImage) else like
    if isinstance(facts, PETFacts):
        return facts
    if not hasattr(facts, "private_block"):
        raise TypeError(f"like must be PETFacts, a PETImage or a pydicom dataset, got {type(like).__name__}")
    with lenient():
        modality = modality_of(facts)
        if modality != "PT":
            raise ValueError(
                f"write_dicom_pet writes PT images, but like= is {modality}: counts of SPECT are not Bq/mL of PET. "
                "Write NIfTI or HDF5, or give what is shared by hand: PETFacts(units=..., study={...})"
            )
        return facts_of([facts], [facts])
