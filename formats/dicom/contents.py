"""What a DICOM file or series holds, in a line, from its header alone: nothing of it need be readable as an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..words import n_of
from .attributes import items_of, number_of, text_of, texts_of
from .series import modality_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MEANING = {
    "NM": "gamma camera",
    "RTDOSE": "dose",
    "RTPLAN": "treatment plan",
    "RTSTRUCT": "contours of regions",
    "SEG": "segmentation",
    "SR": "structured report",
    "REG": "registration",
    "OT": "other",
    "SC": "secondary capture",
    "MR": "magnetic resonance",
}
_MOST_NAMES = 8


def headline(headers: Sequence[Dataset]) -> str:
    """Return what a series holds: "NM TOMO: 360 frames of 128 x 128, 3 energy windows, 2 heads"."""
    first = headers[0]
    modality = modality_of(first)
    if modality == "NM":
        return _nm(headers)
    if modality in ("RTSTRUCT", "SEG"):
        names = region_names(first)
        listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        return f"{modality}, {_MEANING[modality]}: {n_of(len(names), 'region')}{f': {listed}' if names else ''}"
    if modality in ("CT", "PT", "MR"):
        return _slices(headers, modality)
    what = _MEANING.get(modality, "") or _class_name(first)
    return f"{modality}{f', {what}' if what else ''}: {n_of(len(headers), 'file')}"


def region_names(header: Dataset) -> list[str]:
    """Return the names of the regions of contours or a segmentation, none of other files."""
    rois = [text_of(item, "ROIName") or "without a name" for item in items_of(header, "StructureSetROISequence")]
    segments = [text_of(item, "SegmentLabel") or "without a name" for item in items_of(header, "SegmentSequence")]
    return rois + segments


def _nm(headers: Sequence[Dataset]) -> str:
    first = headers[0]
    kind = next(iter(texts_of(first, "ImageType")[2:]), "").upper() or "of unknown type"
    parts = [n_of(len(headers), "file") if len(headers) > 1 else "", _frames(first)]
    counted = (
        ("energy window", "NumberOfEnergyWindows"),
        ("head", "NumberOfDetectors"),
        ("rotation", "NumberOfRotations"),
        ("gate", "NumberOfTimeSlots"),
        ("slice", "NumberOfSlices"),
    )
    for name, keyword in counted:
        n = number_of(first, keyword)
        if n is not None and (n > 1 or name in ("energy window", "head")):
            parts.append(n_of(int(n), name))
    return f"NM {kind}: {', '.join(part for part in parts if part)}"


def _frames(header: Dataset) -> str:
    n, rows, columns = (number_of(header, keyword) for keyword in ("NumberOfFrames", "Rows", "Columns"))
    size = f" of {columns:g} x {rows:g}" if rows and columns else ""
    return f"{n_of(int(n or 1), 'frame')}{size}"


def _slices(headers: Sequence[Dataset], modality: str) -> str:
    first = headers[0]
    rows, columns = (number_of(first, keyword) for keyword in ("Rows", "Columns"))
    spacing = [f"{float(text):.4g}" for text in texts_of(first, "PixelSpacing") if _is_number(text)]
    thick = number_of(first, "SliceThickness")
    kind = " localizer" if "LOCALIZER" in [text.upper() for text in texts_of(first, "ImageType")] else ""
    parts = [n_of(len(headers), "slice") + (f" of {columns:g} x {rows:g}" if rows and columns else "")]
    parts += [f"{' x '.join(spacing)} mm" if spacing else "", f"{thick:g} mm thick" if thick else ""]
    voltage, units = number_of(first, "KVP"), text_of(first, "Units")
    parts += [f"{voltage:g} kV" if voltage else "", units or ""]
    return f"{modality}{kind}: {', '.join(part for part in parts if part)}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _class_name(header: Dataset) -> str:
    from pydicom.uid import UID

    uid = text_of(header, "SOPClassUID")
    return "" if uid is None else UID(uid).name
