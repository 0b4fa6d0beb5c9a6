"""What a file of nuclear medicine says of patient, tracer, times and camera, as a `Study`."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from emrecon.projectors import Study, isotope
from emrecon.projectors.core.errors import naming

from ..attributes import date_time_of, items_of, moment_of, number_of, positive_or_none, text_of
from ..series import start_of
from .given import Given
from .header import tag
from .notes import Notes
from .place import position_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

COPIED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientAge", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "TimezoneOffsetFromUTC"),
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "BodyPartExamined"),
    *(
        "InstitutionName",
        "StationName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "ProtocolName",
        "Radiopharmaceutical",
    ),
)
"""Attributes that go with a scan, for images that are made of it."""

_LARGEST = 1e5  # MBq: a larger dose is one in Bq, because 100 GBq are given to nobody
_DAYLONG = 12 * 3600.0  # s: tracers of this half-life are imaged days after injection
_HEAVIEST, _TALLEST = 500.0, 3.0


def study_of(path: Path, header: Dataset, nuclide: str | None, given: Given, notes: Notes) -> Study:
    """Return the circumstances; the placement is not among them."""
    start = start_of(header) or moment_of(text_of(header, "AcquisitionDate"), "0000")
    tracers = items_of(header, "RadiopharmaceuticalInformationSequence")
    tracer = tracers[0] if tracers else header
    attributes = {name: text for name in COPIED if (text := text_of(header, name))}
    drug = text_of(tracer, "Radiopharmaceutical")
    if drug:
        attributes["Radiopharmaceutical"] = drug
    weight, height = _sizes(path, header, given, notes)
    with naming(path):
        return Study(
            frame_of_reference=text_of(header, "FrameOfReferenceUID"),
            patient_position=position_of(path, header, given),
            injected=given.positive("injected") or _injected(path, tracer, notes),
            injection=_injection(path, header, tracer, start, nuclide, notes),
            start=start_of(header),
            weight=weight,
            height=height,
            sex=sex if (sex := (text_of(header, "PatientSex") or "").upper()) in ("M", "F", "O") else None,
            collimator=_collimator(path, header, given, notes),
            manufacturer=text_of(header, "Manufacturer"),
            model=text_of(header, "ManufacturerModelName"),
            calibration=given.positive("calibration"),
            attributes=attributes,
        )


def _sizes(path: Path, header: Dataset, given: Given, notes: Notes) -> tuple[float | None, float | None]:
    weight, height = given.positive("weight"), given.positive("height")
    if weight is None:
        weight = _told(path, header, "PatientWeight", notes)
        if weight is not None and weight > _HEAVIEST:
            notes.add(path, f"{tag('PatientWeight')} is {weight:g} kg, which is left out; in grams? Pass weight= in kg")
            weight = None
    if height is None:
        height = _told(path, header, "PatientSize", notes)
        if height is not None and height > _TALLEST:
            notes.add(path, f"{tag('PatientSize')} is {height:g} m, taken as centimetres; pass height= in m")
            height = height / 100
    return weight, height


def _told(path: Path, header: Dataset, keyword: str, notes: Notes) -> float | None:
    """A positive number, None where there is none; zeros count as unknown, and nonsense is told."""
    number = number_of(header, keyword)
    said = text_of(header, keyword)
    if said and (number is None or number < 0):
        notes.add(path, f"{tag(keyword)} is {said[:20]!r}, which is left out")
    return positive_or_none(number)


def _injected(path: Path, tracer: Dataset, notes: Notes) -> float | None:
    """MBq, the unit of nuclear medicine; Bq where the number can be nothing else."""
    dose = _told(path, tracer, "RadionuclideTotalDose", notes)
    if dose is None or dose < _LARGEST:
        return dose
    notes.add(
        path,
        f"{tag('RadionuclideTotalDose')} is {dose:g}, taken as Bq ({dose / 1e6:g} MBq), though nuclear medicine has "
        "MBq; pass injected= in MBq to say otherwise",
    )
    return dose / 1e6


def _injection(
    path: Path, header: Dataset, tracer: Dataset, start: datetime | None, nuclide: str | None, notes: Notes
) -> datetime | None:
    """When it was injected: a date and time, or a time on the day of the scan or the day before."""
    offset = text_of(header, "TimezoneOffsetFromUTC")
    full = date_time_of(text_of(tracer, "RadiopharmaceuticalStartDateTime"), offset)
    time = text_of(tracer, "RadiopharmaceuticalStartTime")
    if full or not time or start is None:
        return full
    if nuclide is None or isotope(nuclide).half_life > _DAYLONG:
        notes.add(
            path,
            f"{tag('RadiopharmaceuticalStartTime')} has no date, and "
            f"{nuclide or 'an unknown nuclide'} may be imaged days after its injection: when that was is not known",
        )
        return None
    moment = moment_of(f"{start:%Y%m%d}", time)
    if moment is None or moment <= start:
        return moment
    before = moment - timedelta(days=1)
    hours = (start - before).total_seconds() / 3600
    notes.add(
        path,
        f"{tag('RadiopharmaceuticalStartTime')} is a time of day after the start of the scan, and is taken as that of "
        f"the day before, {hours:.1f} h before the scan; --injected-at says otherwise",
    )
    return before


def _collimator(path: Path, header: Dataset, given: Given, notes: Notes) -> str | None:
    chosen = given.text("collimator")
    if chosen is not None:
        return chosen
    items = (*items_of(header, "DetectorInformationSequence"), header)
    names = [*dict.fromkeys(name for item in items if (name := text_of(item, "CollimatorGridName")))]
    if len(names) > 1:
        notes.add(path, f"the heads have different collimators, {' and '.join(names)}; the first is taken for all")
    return names[0] if names else None
