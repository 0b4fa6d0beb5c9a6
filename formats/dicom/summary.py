"""What `emrecon info` prints about DICOM: the series of a folder, and of a single one its image and facts."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from emrecon.projectors.core.errors import FormatError

from ..summary import image_summary
from .attributes import FilePath, lenient, text_of
from .ct import read_dicom_ct
from .facts import PETFacts
from .pet import read_dicom_pet
from .series import headers_of, modality_of
from .suv import suv_factor

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

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
_OTHER = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImageType",
    "Manufacturer",
    "ManufacturerModelName",
    "SeriesDescription",
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


def describe_dicom(path: FilePath) -> dict[str, object]:
    """Return the facts of a series; of several, what there is to choose from.

    Raises FormatError for a folder without DICOM images, and for damaged ones.
    """
    with lenient():
        headers, _ = headers_of(path)
        groups: dict[str, list[Dataset]] = {}
        for _, header in headers:
            groups.setdefault(text_of(header, "SeriesInstanceUID") or "", []).append(header)
        if not groups:
            raise FormatError(f"{path} holds no DICOM images")
        if len(groups) > 1:
            numbered = {f"series {i}": _line(uid, group) for i, (uid, group) in enumerate(groups.items(), 1)}
            return {"format": "DICOM", "holds": f"{len(groups)} series", **numbered}
        (group,) = groups.values()
        modality = modality_of(group[0])
        if text_of(group[0], "Modality") is None and text_of(group[0], "SOPClassUID") is None:
            raise FormatError(f"{path} does not say what it is (Modality, SOPClassUID); truncated or damaged?")
        if modality not in ("PT", "CT"):
            shown = {name: text_of(group[0], name) for name in _OTHER}
            what = f"{modality}, {len(group)} images, which are not read as PT or CT are"
            said: dict[str, object] = {name: value for name, value in shown.items() if value is not None}
            return {"format": "DICOM", "holds": what, **said}
        if modality == "CT":
            return {"format": "DICOM CT", "units": "HU", **image_summary(*read_dicom_ct(path))}
        image, grid, facts = read_dicom_pet(path, frame=1)
        return {"format": "DICOM PT", **image_summary(image, grid), **_facts(facts)}


def _facts(facts: PETFacts) -> dict[str, object]:
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


def _line(uid: str, group: list[Dataset]) -> str:
    text = text_of(group[0], "SeriesDescription") or ""
    number = text_of(group[0], "SeriesNumber") or "none"
    return f"{modality_of(group[0])}, number {number}, {len(group)} images, {uid} {text}".rstrip()
