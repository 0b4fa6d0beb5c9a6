"""What `emrecon info` prints about DICOM: what every series of a folder holds, and of a single one all there is to say.

No patient's name is said unless it is asked for; texts that hold one lose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import Study
from emrecon.projectors.core.errors import FormatError

from ..acquisition import acquisition_in_words, named_line, needs_of_quantities, study_in_words
from ..records import patient_words, without_words
from ..summary import image_summary
from ..words import seconds_in_words
from .attributes import FilePath, lenient, text_of
from .contents import headline, region_names
from .ct import CTFacts, read_ct
from .facts import PETFacts
from .nm import is_nm, nm_kind, read_dicom_nm, read_dicom_nm_image, read_planar
from .pet import read_dicom_pet
from .series import headers_of, is_localizer, modality_of
from .suv import suv_factor

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Facts = dict[str, object]
_Group = list[tuple[Path, "Dataset"]]

_SHOWN = (
    ("units", "units"),
    ("radionuclide", "radionuclide"),
    ("half_life", "half-life (s)"),
    ("injected_dose", "injected dose (MBq)"),
    ("injection_time", "injected"),
    ("series_time", "series began"),
    ("frame_start", "frame began"),
    ("frame_duration", "frame duration (s)"),
    ("n_frames", "frames"),
    ("decay_correction", "decay corrected to"),
    ("corrections", "corrections"),
    ("weight", "weight (kg)"),
    ("height", "height (m)"),
    ("patient_position", "patient position"),
    ("series_description", "description"),
    ("manufacturer", "manufacturer"),
    ("model", "model"),
)
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_ABOUT = (
    ("description", "SeriesDescription"),
    ("study", "StudyDescription"),
    ("manufacturer", "Manufacturer"),
    ("model", "ManufacturerModelName"),
)


def is_dicom(path: FilePath) -> bool:
    """Whether a file is DICOM, by its first bytes or its suffix."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def describe_dicom(path: FilePath, names: bool = False, **overrides: object) -> Facts:
    """Return the facts of a series; of several, what there is to choose from, and those of projections among them.

    Args:
        names : say the patient's name and number, too.
        overrides : values that replace those of the header of projections.

    Raises FormatError for a folder without DICOM files, and for damaged ones; TypeError for overrides that do not
    exist, and for any where there are no projections.
    """
    with lenient():
        groups = _groups(path)
        hidden = {} if names else _words_of(groups)
        facts: Facts = {"format": "DICOM"}
        patient = _patient(groups) if names else None
        if patient:
            facts["name"] = patient
        if len(groups) > 1:
            facts |= _of_several(path, groups, overrides)
        else:
            facts |= _of_series(path, next(iter(groups.values())), overrides)
    return {name: _without(value, hidden) for name, value in facts.items() if value not in (None, (), "")}


def dicom_patient(path: FilePath) -> tuple[str, str]:
    """Return the patient's name and number in a DICOM file or folder, each empty where it is not there.

    Raises FileNotFoundError; FormatError for files that are not DICOM.
    """
    with lenient():
        header = next(iter(_groups(path).values()))[0][1]
        return text_of(header, "PatientName") or "", text_of(header, "PatientID") or ""


def _groups(path: FilePath) -> dict[str, _Group]:
    """The files of each series."""
    headers, _ = headers_of(path)
    groups: dict[str, _Group] = {}
    for file, header in headers:
        if text_of(header, "Modality") is None and text_of(header, "SOPClassUID") is None:
            raise FormatError(f"{file} does not say what it is (Modality, SOPClassUID); truncated or damaged?")
        groups.setdefault(text_of(header, "SeriesInstanceUID") or "", []).append((file, header))
    if not groups:
        raise FormatError(f"{path} holds no DICOM images")
    return groups


def _words_of(groups: Mapping[str, _Group]) -> dict[str, None]:
    """The words of names and numbers of patients, which are not said."""
    found: dict[str, None] = {}
    for group in groups.values():
        values = {keyword: text_of(group[0][1], keyword) or "" for keyword in _PATIENT[:2]}
        found |= dict.fromkeys(patient_words(Study(attributes=values)))
    return found


def _patient(groups: Mapping[str, _Group]) -> str:
    """Who it is, of each patient in the files."""
    each = (", ".join(filter(None, (text_of(group[0][1], name) for name in _PATIENT))) for group in groups.values())
    return "; ".join(dict.fromkeys(filter(None, each)))


def _without(value: object, hidden: Mapping[str, None]) -> object:
    return without_words(value, hidden) if isinstance(value, str) and hidden else value


# ---- several series --------------------------------------------------------------------------------------------------


def _of_several(path: FilePath, groups: Mapping[str, _Group], overrides: Mapping[str, object]) -> Facts:
    facts: Facts = {"holds": f"{len(groups)} series"}
    for i, (uid, group) in enumerate(groups.items(), 1):
        number = text_of(group[0][1], "SeriesNumber")
        about = [text_of(group[0][1], "SeriesDescription"), f"number {number}" if number else None, uid or None]
        facts[f"series {i}"] = "; ".join(filter(None, [headline([header for _, header in group]), *about]))
    with_ct = any(modality_of(group[0][1]) == "CT" and not is_localizer(group[0][1]) for group in groups.values())
    if nm_kind(path) == "tomo":
        return facts | _of_projections(path, overrides, with_ct)
    _refuse(path, overrides)
    return facts


def _of_series(path: FilePath, group: _Group, overrides: Mapping[str, object]) -> Facts:
    headers = [header for _, header in group]
    modality = modality_of(headers[0])
    if is_nm(headers[0]):
        return _of_nm(path, headers, overrides)
    _refuse(path, overrides)
    if modality == "CT":
        ct = read_ct(path)
        facts: Facts = {"format": "DICOM CT", "units": ct.facts.rescale_type, **image_summary(ct.image, ct.grid)}
        return facts | _of_ct(ct.facts) | _about(headers[0])
    if modality == "PT":
        image, grid, found = read_dicom_pet(path, frame=1)
        return {"format": "DICOM PT", **image_summary(image, grid), **_pet_facts(found)}
    facts = {"holds": headline(headers), **_about(headers[0])}
    facts |= {f"region {i}": said for i, said in enumerate(region_names(headers[0]), 1)}
    return facts


def _refuse(path: FilePath, overrides: Mapping[str, object]) -> None:
    if overrides:
        raise TypeError(f"{path} has no header whose values can be replaced, got {', '.join(overrides)}")


def _about(header: Dataset) -> Facts:
    return {name: text_of(header, keyword) for name, keyword in _ABOUT}


# ---- nuclear medicine ------------------------------------------------------------------------------------------------


def _of_nm(path: FilePath, headers: list[Dataset], overrides: Mapping[str, object]) -> Facts:
    kind = nm_kind(path)
    about = {"format": "DICOM NM"} | {name: _about(headers[0])[name] for name in ("description", "study")}
    if kind == "tomo":
        return about | _of_projections(path, overrides, with_ct=False)
    _refuse(path, overrides)
    facts: Facts = {"holds": headline(headers)}
    try:
        if kind == "image":
            return about | _of_nm_image(path)
        if kind == "planar":
            return about | facts | _of_planar(path)
    except FormatError as error:
        return about | facts | {"not usable": str(error)}
    return about | facts


def _of_projections(path: FilePath, overrides: Mapping[str, object], with_ct: bool) -> Facts:
    """What was measured, and what an image in Bq/mL still needs; where it cannot be read, why."""
    try:
        scan = read_dicom_nm(path, **overrides)
    except FormatError as error:
        return {"projections": "cannot be reconstructed as they are", "because": str(error)}
    facts: Facts = {"projections": _kind_of(scan)}
    for line in acquisition_in_words(scan):
        name, said = named_line(line)
        facts[_free(name or "and", facts)] = said
    return facts | {f"needs {need.name}": str(need) for need in needs_of_quantities(scan, with_ct=with_ct)}


def _kind_of(scan: object) -> str:
    names = {"WindowedScan": "a scan of several energy windows", "WindowedSeries": "frames or gates in several windows"}
    names |= {"DynamicScan": "a dynamic scan", "GatedScan": "a gated scan", "BedScan": "a scan of several beds"}
    return names.get(type(scan).__name__, "a scan")


def _free(name: str, taken: Mapping[str, object]) -> str:
    """The name, or with a number behind it where it is taken."""
    if name not in taken:
        return name
    return next(other for i in range(2, len(taken) + 3) if (other := f"{name} {i}") not in taken)


def _of_planar(path: FilePath) -> Facts:
    images = read_planar(path)
    seconds = images.durations[np.isfinite(images.durations)]
    windows = dict.fromkeys(str(window) for window in images.windows if window is not None)
    return {
        "images": str(images),
        "views": ", ".join(dict.fromkeys(images.views)),
        "frames or gates": len(np.unique(images.parts)) if len(np.unique(images.parts)) > 1 else None,
        "energy windows": ", ".join(windows),
        "total counts": float(images.counts.sum(dtype=float)),
        "seconds an image": None if not seconds.size else _span(seconds),
        "radionuclide": images.radionuclide,
        **_circumstances(images.study),
        "use": "planar images are not reconstructed; formats.read_planar reads them",
    }


def _of_nm_image(path: FilePath) -> Facts:
    found = read_dicom_nm_image(path)
    return {
        "kind": found.kind,
        "units": found.unit,
        **image_summary(found.image, found.grid),
        "radionuclide": found.radionuclide,
        **_circumstances(found.study),
    }


def _circumstances(study: Study | None) -> Facts:
    return dict(map(named_line, study_in_words(study)))


def _span(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return seconds_in_words(low) if low == high else f"{seconds_in_words(low)} to {seconds_in_words(high)}"


# ---- CT and PET ------------------------------------------------------------------------------------------------------


def _of_ct(facts: CTFacts) -> Facts:
    return {
        "tube voltage": f"{facts.kvp:g} kV" if facts.kvp else "not in the file; an attenuation map needs it (--mu-kvp)",
        "contrast agent": "yes: it makes attenuation too high where it is dense" if facts.contrast else "none named",
        "patient position": facts.patient_position,
        "table height (mm)": facts.table_height,
        "use": "an attenuation map: emrecon reconstruct SCAN --mu FOLDER",
    }


def _pet_facts(facts: PETFacts) -> Facts:
    found = {shown: getattr(facts, name) for name, shown in _SHOWN}
    try:
        found["SUV, body weight"] = f"value x {suv_factor(facts):.6g}"
    except ValueError as error:
        found["SUV, body weight"] = f"unknown: {error}"
    return {name: _plain(value) for name, value in found.items() if value not in (None, (), "")}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value
