"""The modules of an NM image that describe patient, study, tracer, energy windows and times."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from emrecon import __version__
from emrecon.projectors import Study
from emrecon.projectors.physics.nuclides import ELEMENTS

from ..writing import EMPTY_WHERE_UNKNOWN, code_item, decimal, patient_orientation, when

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NM_STORAGE = "1.2.840.10008.5.1.4.1.1.20"
_OWN = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "PixelData", "PatientPosition")


def put(dataset: Dataset, values: dict[str, object]) -> None:
    """Set attributes by keyword; None is left out."""
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)


def item(**values: object) -> Dataset:
    """Return an item of a sequence."""
    from pydicom.dataset import Dataset

    made = Dataset()
    put(made, values)
    return made


def milliseconds(seconds: float) -> int:
    """Return s as whole ms, which is what NM files hold."""
    return round(1000 * seconds)


def patient_and_study(study: Study, position: str = "codes") -> dict[str, object]:
    """The modules Patient, General Study, Patient Study, Frame of Reference and NM/PET Patient Orientation.

    Args:
        position : where the patient's position stands, as in `NMHabits.patient_position`.
    """
    from pydicom.datadict import tag_for_keyword
    from pydicom.uid import generate_uid

    unknown = [name for name in study.attributes if tag_for_keyword(name) is None]
    if unknown:
        raise ValueError(f"Study.attributes holds what is no DICOM keyword: {', '.join(unknown)}")
    lies = study.patient_position or "HFS"
    return {
        **dict.fromkeys(EMPTY_WHERE_UNKNOWN, ""),
        "StudyInstanceUID": generate_uid(None),
        **when("Study", study.start),
        **{name: value for name, value in study.attributes.items() if name not in _OWN},
        "FrameOfReferenceUID": study.frame_of_reference
        or study.attributes.get("FrameOfReferenceUID")
        or generate_uid(None),
        "PatientSex": study.sex or study.attributes.get("PatientSex", ""),
        "PatientWeight": decimal(study.weight) or study.attributes.get("PatientWeight"),
        "PatientSize": decimal(study.height) or study.attributes.get("PatientSize"),
        "PatientPosition": lies if position == "both" else None,
        **patient_orientation(None if position == "missing" else lies),
        "Laterality": None if study.attributes.get("BodyPartExamined") else "",
    }


def series_and_equipment(study: Study, description: str, manufacturer: str, model: str) -> dict[str, object]:
    """The modules General Series, General Equipment and SOP Common, and the times of General Image."""
    from pydicom.uid import generate_uid

    uid = generate_uid(None)
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": NM_STORAGE,
        "SOPInstanceUID": uid,
        "Modality": "NM",
        "SeriesInstanceUID": generate_uid(None),
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "SeriesDescription": description[:64],
        "Manufacturer": manufacturer,
        "ManufacturerModelName": model,
        "SoftwareVersions": f"emrecon {__version__}",
        **when("Series", study.start),
        **when("Acquisition", study.start),
        **when("Content", study.start or datetime.now()),
        "PatientOrientation": "",
    }


def image_pixel(rows: int, columns: int, spacing: tuple[float, float], frames: int) -> dict[str, object]:
    """The modules Image Pixel, NM Image Pixel and Multi-frame: unsigned, 16 bits.

    Args:
        spacing : mm of rows, then of columns.
    """
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "NumberOfFrames": frames,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelSpacing": [decimal(spacing[0]), decimal(spacing[1])],
    }


def energy_windows(windows: tuple[tuple[str, tuple[float, float] | None], ...]) -> list[Dataset]:
    """The items of EnergyWindowInformationSequence; windows without limits have no range."""
    return [
        item(
            EnergyWindowName=name[:16] or None,
            EnergyWindowRangeSequence=limits
            and [item(EnergyWindowLowerLimit=decimal(limits[0]), EnergyWindowUpperLimit=decimal(limits[1]))],
        )
        for name, limits in windows
    ]


def tracer(study: Study, radionuclide: str | None, dose_unit: str = "MBq") -> list[Dataset]:
    """The item of RadiopharmaceuticalInformationSequence, none where nothing is known of the tracer."""
    if radionuclide is None and study.injected is None and study.injection is None:
        return []
    dose = study.injected if dose_unit == "MBq" or study.injected is None else 1e6 * study.injected
    # the NM Isotope module has the time of day alone: the date is an addition, for tracers injected days before
    return [
        item(
            RadionuclideCodeSequence=nuclide_code(radionuclide),
            Radiopharmaceutical=radionuclide,
            RadionuclideTotalDose=decimal(dose),
            RadiopharmaceuticalStartTime=study.injection and f"{study.injection:%H%M%S.%f}",
            RadiopharmaceuticalStartDateTime=study.injection and f"{study.injection:%Y%m%d%H%M%S.%f}",
        )
    ]


def nuclide_code(name: str | None) -> list[Dataset]:
    """The item of RadionuclideCodeSequence of a nuclide (context groups 18 and 4020), none where it has no code."""
    from pydicom.sr.codedict import codes

    symbol, _, mass = (name or "").partition("-")
    element = next((element.capitalize() for element, known in ELEMENTS.items() if known == symbol), "")
    for group in (codes.cid18, codes.cid4020):
        code = getattr(group, f"_{mass}{element}", None)
        if code is not None:
            return [code_item(code)]
    return []


def ascii_text(text: str) -> str:
    """One line of a description without control characters."""
    return re.sub(r"\s+", " ", text).strip()
