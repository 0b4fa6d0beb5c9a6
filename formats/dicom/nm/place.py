"""Where a scan lies in the patient: the axis of rotation and the middle of the rows in LPS, and how rows and bins run.

ImagePositionPatient of projections means one of three things, and files do not say which:

* "detector" : what DICOM defines, the centre of the first pixel of the first frame of a head, in the plane of its
  detector at the radius;
* "corner" : the first voxel of the volume that the projections become, x and y at its corner and z at the first row
  (Siemens, Mediso);
* "centre" : x and y of the axis, y counted from the table (GE, which writes 0 and 0), z at the first row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.errors import FormatError

from ..attributes import items_of, text_of
from .given import Given
from .header import floats_of, single_of, tag
from .notes import Notes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_POSITIONS = ("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL")
_ALIGNED = 0.02  # of direction cosines: about a degree
_ZERO = 1e-3  # mm
_CONTRADICTION = 10.0  # mm between the axes that the heads say
_CORNERS = ("SIEMENS", "MEDISO")
_GANTRY = {"F-10470": "HF", "102540005": "HF", "F-10480": "FF", "102541009": "FF"}
_LYING = {"F-10340": "S", "40199007": "S", "F-10310": "P", "1240000": "P"}


@dataclass(frozen=True)
class Place:
    """Where the first rotation of a file lies.

    Args:
        axis : (x, y) mm of the axis of rotation, None where unknown.
        middle : z mm of the middle of the rows, None where unknown.
        rows_up : whether rows run from the feet to the head; bins are then turned, too.
    """

    axis: tuple[float, float] | None
    middle: float | None
    rows_up: bool


def position_of(path: Path, header: Dataset, given: Given) -> str | None:
    """Return HFS, HFP, ..., None where the file does not say how the patient lies."""
    chosen = given.choice("patient_position", *_POSITIONS)
    if chosen is not None:
        return chosen
    said = (text_of(header, "PatientPosition") or "").upper()
    if said in _POSITIONS:
        return said
    gantry = _code(header, "PatientGantryRelationshipCodeSequence", _GANTRY, {"head": "HF", "feet": "FF"})
    outer = next(iter(items_of(header, "PatientOrientationCodeSequence")), None)
    lying = (
        None
        if outer is None
        else _code(outer, "PatientOrientationModifierCodeSequence", _LYING, {"supine": "S", "prone": "P"})
    )
    return gantry + lying if gantry and lying else None


def _code(header: Dataset, keyword: str, codes: dict[str, str], words: dict[str, str]) -> str | None:
    for item in items_of(header, keyword):
        meaning = (text_of(item, "CodeMeaning") or "").lower()
        found = codes.get(text_of(item, "CodeValue") or "")
        return found or next((value for word, value in words.items() if meaning.startswith(word)), None)
    return None


def place_of(
    path: Path,
    header: Dataset,
    shape: tuple[int, int],
    pixel: tuple[float, float],
    first_view: Callable[[int], tuple[float, float, float]],
    given: Given,
    notes: Notes,
) -> Place:
    """Return where projections lie.

    Args:
        shape : (bins, rows).  pixel : their size in mm.
        first_view : of a head, from 0: the angle in degrees, the radius, and the shift along the columns in mm.
    """
    detectors = items_of(header, "DetectorInformationSequence") or [header]
    placed = [i for i, one in enumerate(detectors) if floats_of(path, one, "ImagePositionPatient") is not None]
    head = placed[0] if placed else 0
    item = detectors[head] if placed else header
    corner = _triple(path, item, "ImagePositionPatient", 3)
    axes = _triple(path, detectors[head], "ImageOrientationPatient", 6)
    if axes is None:
        axes = _triple(path, header, "ImageOrientationPatient", 6)
    rows_up = _rows_up(path, axes, given, notes)
    if not given.has("row_order"):
        ways = {_along(path, one) for one in detectors} - {0}
        if len(ways) > 1:
            raise FormatError(
                f"{path}: the rows run to the head in one detector and to the feet in another "
                f"({tag('ImageOrientationPatient')}); pass row_order=head or feet"
            )
    if corner is None:
        notes.add(
            path,
            f"{tag('ImagePositionPatient')} is missing: where the patient lay is not known; pass placement=(x, y, z) "
            "in mm (LPS)",
        )
        return Place(None, None, rows_up)
    rows = (shape[1] - 1) / 2 * pixel[1]
    middle = float(corner[2] + (rows if rows_up else -rows))
    start, radius, shift = first_view(head)
    same = len(placed) > 1 and all(
        np.array_equal(floats_of(path, detectors[i], "ImagePositionPatient"), corner)  # type: ignore[arg-type]  # placed
        for i in placed
    )
    meaning = given.choice("position", "detector", "corner", "centre") or _meaning(
        path, header, corner, axes, start, same
    )
    half = (shape[0] - 1) / 2 * pixel[0]
    x, y, said = float(corner[0]), float(corner[1]), ""
    if meaning == "detector" and not given.has("position"):
        found = [
            _axis(_triple(path, detectors[i], "ImagePositionPatient", 3), first_view(i), half, rows_up) for i in placed
        ]
        if len(found) > 1 and np.ptp(found, axis=0).max() > max(_CONTRADICTION, 2 * max(pixel)):
            notes.add(
                path,
                f"{tag('ImagePositionPatient')} of the detectors puts the axis of rotation at "
                f"{' and '.join(f'({a:.1f}, {b:.1f})' for a, b in found)} mm; the first is taken, pass "
                "placement=(x, y, z) or position= to say otherwise",
            )
    if meaning == "detector":
        x, y = _axis(corner, (start, radius, shift), half, rows_up)
    elif meaning == "corner":
        right = -1 if axes is not None and axes[0] < -0.5 else 1
        x, y = x + right * half, y + half
        said = "the corner of the reconstructed volume, as Siemens and Mediso have it"
        said += ", and as it is the same for all heads" if same else ""
    else:
        height = _table_height(path, header)
        y -= height or 0.0
        said = f"the axis of rotation, as GE has it, y from the table ({tag('TableHeight')} {height or 0.0:g} mm)"
    if meaning == "detector" and len(placed) == 1 and axes is not None and abs(axes[0] - 1) <= _ALIGNED:
        notes.add(
            path,
            f"{tag('ImagePositionPatient')} is taken as DICOM defines it, the first pixel of the detector, whose first "
            f"view is from the front: the axis is at ({x:.1f}, {y:.1f}) mm; pass position=corner where it is "
            "that of the volume",
        )
    if meaning != "detector":
        notes.add(
            path,
            f"{tag('ImagePositionPatient')} is taken as {said}: the axis is at ({x:.1f}, {y:.1f}) mm; pass position= "
            "or placement= to say otherwise",
        )
    return Place((float(x), float(y)), middle, rows_up)


def _axis(
    corner: np.ndarray | None, view: tuple[float, float, float], half: float, rows_up: bool
) -> tuple[float, float]:
    """The axis of rotation (x, y) mm, where `corner` is the centre of the first pixel of a detector in a view.

    view : angle in degrees, radius and shift along the columns in mm.  half : of the detector's width, mm.
    """
    start, radius, shift = view
    a, sign = np.deg2rad(start), -1 if rows_up else 1
    # the columns run along sign x (-cos a, sin a); the first is half a detector before its centre
    first = sign * (shift - half)
    x, y = (0.0, 0.0) if corner is None else (float(corner[0]), float(corner[1]))
    return float(x - radius * np.sin(a) + first * np.cos(a)), float(y - radius * np.cos(a) - first * np.sin(a))


def _along(path: Path, detector: Dataset) -> int:
    """1 where the rows of a detector run to the head, -1 to the feet, 0 where it does not say."""
    axes = floats_of(path, detector, "ImageOrientationPatient")
    along = 0.0 if axes is None or axes.size != 6 else float(axes[5])
    return int(np.sign(along)) if abs(abs(along) - 1) <= _ALIGNED else 0


def _triple(path: Path, item: Dataset, keyword: str, n: int) -> np.ndarray | None:
    values = floats_of(path, item, keyword)
    if values is None:
        return None
    if values.size != n:
        raise FormatError(f"{path}: {tag(keyword)} has {values.size} numbers, expected {n}; damaged header?")
    return values


def _rows_up(path: Path, axes: np.ndarray | None, given: Given, notes: Notes) -> bool:
    chosen = given.choice("row_order", "head", "feet")
    if chosen is not None:
        return chosen == "feet"
    along = 0.0 if axes is None else float(axes[5])
    if abs(abs(along) - 1) <= _ALIGNED:
        return along > 0
    why = "is missing" if axes is None else "does not say how the rows run"
    notes.add(
        path,
        f"{tag('ImageOrientationPatient')} {why}: the first row is taken to be at the head; pass row_order=feet to say "
        "otherwise",
    )
    return False


def _meaning(path: Path, header: Dataset, corner: np.ndarray, axes: np.ndarray | None, start: float, same: bool) -> str:
    """What ImagePositionPatient is the position of.

    same : whether it is the same for several heads, which cannot be in one place.
    """
    maker = (text_of(header, "Manufacturer") or "").upper()
    known = abs(corner[0]) < _ZERO or maker.startswith("GE") or _table_height(path, header) is not None
    if abs(corner[1]) < _ZERO and known:
        return "centre"
    if axes is None or same or any(name in maker for name in _CORNERS):
        return "corner"
    a = np.deg2rad(start)
    sign = -1 if axes[5] > 0 else 1
    seen = sign * np.array([-np.cos(a), np.sin(a), 0])
    return "detector" if np.abs(axes[:3] - seen).max() <= _ALIGNED and abs(axes[5]) > 0.5 else "corner"


def _table_height(path: Path, header: Dataset) -> float | None:
    items = items_of(header, "RotationInformationSequence")
    heights = [single_of(path, item, "TableHeight") for item in (*items, header)]
    return next((height for height in heights if height is not None), None)


def given_placement(given: Given) -> tuple[float, float, float] | None:
    """Return the placement that the caller gives."""
    values = given.numbers("placement", 3)
    return None if values is None else (float(values[0]), float(values[1]), float(values[2]))
