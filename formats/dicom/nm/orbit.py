"""Where each frame was taken: gantry angle, radius, offset from the axis, table, and time.

Angles are those of DICOM and of `SPECTGeometry`: 0 at the patient's back, growing towards the left (counter-clockwise
from the feet).  Source: DICOM PS3.3, NM Detector and NM Tomo Acquisition modules (C.8.4.11, C.8.4.12).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.errors import FormatError

from ..attributes import items_of, text_of, texts_of
from .frames import FrameTable
from .given import Given
from .header import floats_of, single_of, tag
from .notes import Notes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DIRECTIONS = {"CC": 1, "CCW": 1, "CW": -1}
_GE_GROUP, _GE_SEQUENCE, _GE_OFFSETS = 0x0055, 0x22, (0x0013, 0x101E)
_SMALLEST = 50.0  # mm: a smaller radius of a camera for patients is one in cm
_TILT = 0.5  # degrees
_SAME_ANGLE = 0.5  # degrees
_LARGEST_ANGLE = 720.0
_SHORTEST, _LONGEST = 0.2, 3600.0  # s of a view


@dataclass(frozen=True, eq=False)
class Orbit:
    """Of each frame (frames,): angle in degrees, radius, shift and table position in mm, and seconds.

    shift : of the detector's centre along the columns of the file.  table : None where the file does not say it.
    seconds : None where unknown.
    """

    angle: np.ndarray
    radius: np.ndarray
    shift: np.ndarray
    table: np.ndarray | None
    seconds: np.ndarray | None


def orbit_of(path: Path, header: Dataset, frames: FrameTable, given: Given, notes: Notes) -> Orbit:
    """Return where the frames were taken; raises FormatError naming the attribute that is missing or wrong."""
    detectors = items_of(header, "DetectorInformationSequence")
    rotations = items_of(header, "RotationInformationSequence")
    n_rotations = int(frames.rotation.max()) + 1
    if rotations and len(rotations) < n_rotations:
        raise FormatError(
            f"{path}: {tag('RotationVector')} goes up to {n_rotations}, but {tag('RotationInformationSequence')} has "
            f"{len(rotations)} items"
        )
    if detectors and not frames.stacked and len(detectors) < int(frames.head.max()) + 1:
        raise FormatError(
            f"{path}: {tag('DetectorVector')} goes up to {int(frames.head.max()) + 1}, but "
            f"{tag('DetectorInformationSequence')} has {len(detectors)} items"
        )
    rotation = _own_rotations(path, frames, rotations, notes)
    _check_collimation(path, detectors, given)
    angle = _angles(path, header, frames, rotation, detectors, rotations, given, notes)
    if np.abs(angle).max() > _LARGEST_ANGLE + 360:
        raise FormatError(f"{path}: {tag('StartAngle')} puts views at {np.abs(angle).max():g} degrees; damaged header?")
    return Orbit(
        _turned(path, header, angle, given, notes),
        _radii(path, header, frames, rotation, detectors, rotations, given, notes),
        _shifts(path, header, frames, detectors, given, notes),
        _tables(path, header, rotation, rotations),
        _seconds(path, header, rotation, rotations, given, notes),
    )


def _own_rotations(path: Path, frames: FrameTable, rotations: list[Dataset], notes: Notes) -> np.ndarray:
    """The item of RotationInformationSequence that each frame belongs to."""
    if len(rotations) > 1 and frames.rotation.max() == 0 and len(rotations) == frames.n_heads:
        notes.add(
            path,
            f"{tag('RotationInformationSequence')} has an item for each of {frames.n_heads} heads, which turned once",
        )
        return frames.head
    return frames.rotation


def _item(items: list[Dataset], i: int, header: Dataset) -> Dataset:
    """An item; the header itself, where old files keep the values, for a sequence that is missing."""
    return items[min(i, len(items) - 1)] if items else header


# ---- angles ----------------------------------------------------------------------------------------------------------


def _angles(
    path: Path,
    header: Dataset,
    frames: FrameTable,
    rotation: np.ndarray,
    detectors: list[Dataset],
    rotations: list[Dataset],
    given: Given,
    notes: Notes,
) -> np.ndarray:
    total = frames.n_heads * frames.n_views
    listed = given.numbers("angles", total, len(np.unique(frames.head)) * frames.n_views)
    if listed is not None:
        return listed[_place(frames)]
    angle = np.empty(rotation.size)
    for r in np.unique(rotation):
        item = _item(rotations, int(r), header)
        mine = rotation == r
        step = _step(path, item, frames, given, notes)
        sign = _sign(path, item, frames, given)
        starts = _starts(path, header, item, int(r), frames, detectors, rotations, given, notes)
        used = np.unique(frames.head[mine])
        apart = np.abs((starts[used][:, None] - starts[used] + 180) % 360 - 180)[np.triu_indices(used.size, 1)]
        if apart.size and apart.min() < _SAME_ANGLE and np.abs(starts[used]).max() <= _LARGEST_ANGLE:
            raise FormatError(
                f"{path}: two heads have one {tag('StartAngle')}, {_listed(starts[used])} degrees; where they were "
                "cannot be known: pass start_angle=[...] in degrees, one for each head"
            )
        angle[mine] = starts[frames.head[mine]] + sign * step * frames.view[mine]
    return angle


def _place(frames: FrameTable) -> np.ndarray:
    """Where a frame is in a list of all views, one head after the other."""
    return np.searchsorted(np.unique(frames.head), frames.head) * frames.n_views + frames.view


def _step(path: Path, item: Dataset, frames: FrameTable, given: Given, notes: Notes) -> float:
    extent = given.positive("extent")
    if extent is not None:
        return extent / frames.n_views
    step, arc = single_of(path, item, "AngularStep"), single_of(path, item, "ScanArc")
    n, heads = frames.n_views, frames.n_heads
    if n == 1:
        return 0.0
    if step is None or step == 0:
        if not arc:
            raise FormatError(f"{path}: {tag('AngularStep')} and {tag('ScanArc')} are missing; pass extent= in degrees")
        notes.add(path, f"{tag('AngularStep')} is missing; {tag('ScanArc')} {arc:g} is shared by {n} views")
        return abs(arc) / n
    if step < 0:
        notes.add(path, f"{tag('AngularStep')} is negative; {tag('RotationDirection')} gives the direction")
    fitting = [k * abs(step) for views in (n, heads * n) for k in (views, views - 1)]
    covered = abs(arc or 0.0)
    apart = min(abs(covered - value) for value in fitting) if covered else 0.0
    if apart > 1.001 * abs(step):
        raise FormatError(
            f"{path}: {tag('ScanArc')} is {covered:g} degrees, but {n} views {abs(step):g} degrees apart "
            f"({tag('AngularStep')}) are {n * abs(step):g}; frames lost? Pass extent={n * abs(step):g} or "
            f"extent={covered:g}, the degrees that the views of a head cover"
        )
    if apart > abs(step) / 2:
        notes.add(
            path,
            f"{tag('ScanArc')} is {covered:g} degrees, but {n} views are {abs(step):g} degrees apart; the step is "
            "taken, pass extent= to say otherwise",
        )
    return abs(step)


def _sign(path: Path, item: Dataset, frames: FrameTable, given: Given) -> int:
    chosen = given.choice("direction", "cw", "ccw", "cc")
    word = (chosen or text_of(item, "RotationDirection") or "").upper()
    if word in _DIRECTIONS:
        return _DIRECTIONS[word]
    if frames.n_views == 1:
        return 1
    said = f"is {word[:16]}" if word else "is missing"
    raise FormatError(f"{path}: {tag('RotationDirection')} {said}, expected CW or CC; pass direction=cw or ccw")


def _starts(
    path: Path,
    header: Dataset,
    item: Dataset,
    r: int,
    frames: FrameTable,
    detectors: list[Dataset],
    rotations: list[Dataset],
    given: Given,
    notes: Notes,
) -> np.ndarray:
    """The angle of the first view of each head in a rotation."""
    n = frames.n_heads
    listed = given.numbers("start_angle", 1, n)
    if listed is not None:
        return listed if listed.size == n else listed[0] + _apart(path, n, notes) * np.arange(n)
    own = [single_of(path, detector, "StartAngle") for detector in detectors[:n]]
    turn = single_of(path, item, "StartAngle")
    used = np.unique(frames.head[frames.rotation == r]) if r <= frames.rotation.max() else np.array([r])
    if len(own) == n and all(own[head] is not None for head in used):
        starts = np.array([np.nan if start is None else start for start in own])
        firsts = {int(frames.rotation[frames.head == head].min()) for head in used}
        first = single_of(path, _item(rotations, min(firsts), header), "StartAngle")
        if turn is not None and first is not None and len(rotations) > 1:
            # the detectors' angles are those of the first rotation
            return starts + (turn - first)
        if first is not None and np.abs((starts[used] - first + 180) % 360 - 180).min() > _SAME_ANGLE:
            notes.add(
                path,
                f"{tag('StartAngle')} is {first:g} of the rotation, and {_listed(starts[used])} of the heads; those of "
                "the heads are taken, pass start_angle= to say otherwise",
            )
        return starts
    start = next((value for value in (turn, *own) if value is not None), None)
    if start is None:
        if frames.n_views * n == 1:
            return np.zeros(1)
        raise FormatError(f"{path}: {tag('StartAngle')} is missing; pass start_angle= in degrees")
    if len(used) > 1 and not frames.stacked:
        raise FormatError(
            f"{path}: {len(used)} heads, but {tag('StartAngle')} is not given for each; pass start_angle=[...] in "
            "degrees, one for each head"
        )
    return start + (_apart(path, n, notes) * np.arange(n) if len(used) > 1 else np.zeros(n))


def _apart(path: Path, n: int, notes: Notes) -> float:
    """How far heads are apart that the file does not describe."""
    if n > 1:
        notes.add(path, f"the {n} heads are taken to be {360 / n:g} degrees apart; pass start_angle=[...] of each")
    return 360.0 / n


def _turned(path: Path, header: Dataset, angle: np.ndarray, given: Given, notes: Notes) -> np.ndarray:
    """Angles about the patient; those of the gantry are turned for a patient who does not lie head first and supine."""
    from .place import position_of

    reference = given.choice("angle_reference", "patient", "gantry") or "patient"
    position = position_of(path, header, given)
    if reference == "gantry":
        if position is None:
            raise FormatError(
                f"{path}: angle_reference=gantry, but {tag('PatientPosition')} is missing; pass patient_position="
            )
        way = 1 if position.startswith("HF") else -1
        return way * angle + {"S": 0, "P": 180, "DR": -90, "DL": 90}[position[2:]]
    if position not in (None, "HFS"):
        notes.add(
            path,
            f"the patient lies {position}; {tag('StartAngle')} and {tag('RotationDirection')} are taken as DICOM "
            "defines them, about the patient; pass angle_reference=gantry if this camera writes those of the gantry",
        )
    return angle


# ---- radius and offset -----------------------------------------------------------------------------------------------


def _radii(
    path: Path,
    header: Dataset,
    frames: FrameTable,
    rotation: np.ndarray,
    detectors: list[Dataset],
    rotations: list[Dataset],
    given: Given,
    notes: Notes,
) -> np.ndarray:
    n, views = frames.n_heads, frames.n_views
    heads = np.unique(frames.head)
    listed = given.numbers("radius", 1, n, n * views, views if n == 1 else n * views, len(heads) * views)
    if listed is not None:
        return _spread_given(listed, frames)
    radius = np.full(rotation.size, np.nan)
    for head in heads:
        for r in np.unique(rotation[frames.head == head]):
            mine = (frames.head == head) & (rotation == r)
            own = None if frames.stacked and not detectors else _item(detectors, int(head), header)
            found, turned = None if own is None else _radius_list(path, own), True
            for item in (_item(rotations, int(r), header), header):
                if found is None:
                    found, turned = _radius_list(path, item), False
            if found is not None:
                turn = int(frames.turn[mine][0]) if turned else None
                radius[mine] = _of_head(path, found, int(head), turn, frames, notes)[frames.view[mine]]
    if np.isnan(radius).any():
        raise FormatError(
            f"{path}: {tag('RadialPosition')} is missing; pass radius= in mm, one, one for each head, or one for each "
            "view"
        )
    radius = radius + _ge_offsets(path, header, frames, notes)
    if radius.min() <= 0 or radius.max() < _SMALLEST:
        raise FormatError(
            f"{path}: {tag('RadialPosition')} is {radius.min():g} to {radius.max():g} mm, which no camera for patients "
            "has; in cm? Pass radius= in mm"
        )
    return radius


def _radius_list(path: Path, item: Dataset) -> np.ndarray | None:
    """The radii of an item, None where there are none; zeros count as none."""
    values = floats_of(path, item, "RadialPosition")
    return None if values is None or not values.any() else values


def _of_head(
    path: Path, values: np.ndarray, head: int, turn: int | None, frames: FrameTable, notes: Notes
) -> np.ndarray:
    """The radius of each view of a head, from a list of a detector (all turns) or of a rotation (turn None)."""
    n, views = frames.n_heads, frames.n_views
    turns = int(frames.turn.max()) + 1
    if values.size == 1:
        if views > 1:
            notes.add(
                path,
                f"one {tag('RadialPosition')} of {values[0]:g} mm stands for all views: a circular orbit is assumed; "
                "pass radius=[...] of each view where it was not",
            )
        return np.full(views, values[0])
    if values.size == views:
        return values
    if turn is not None and values.size == turns * views:
        return values.reshape(turns, views)[turn]
    if values.size == n * views:
        return values.reshape(n, views)[head]
    if values.size == turns * n * views:
        return values.reshape(turns, n, views)[turn or 0, head]
    raise FormatError(
        f"{path}: {tag('RadialPosition')} has {values.size} entries for {views} views of {n} "
        f"head{'s' if n > 1 else ''}; pass radius= in mm"
    )


def _spread_given(listed: np.ndarray, frames: FrameTable) -> np.ndarray:
    if listed.min() <= 0:
        raise FormatError(f"radius= must be positive mm, got {listed.min():g}")
    heads = np.unique(frames.head)
    if listed.size == 1:
        return np.full(frames.head.size, listed[0])
    if listed.size in (frames.n_heads * frames.n_views, len(heads) * frames.n_views):
        return listed[_place(frames)]
    return listed[frames.head]


def _ge_offsets(path: Path, header: Dataset, frames: FrameTable, notes: Notes) -> np.ndarray:
    """What GE's workstations add to the radius of each view, the last of three numbers, in mm."""
    offsets = _ge_list(header)
    if offsets is None:
        return np.zeros(frames.head.size)
    turns = int(frames.turn.max()) + 1
    if offsets.size == frames.n_views:
        order = frames.view
    elif offsets.size == frames.n_heads * frames.n_views:
        order = _place(frames)
    elif offsets.size == turns * frames.n_heads * frames.n_views:
        order = frames.turn * frames.n_heads * frames.n_views + _place(frames)
    else:
        notes.add(path, f"GE's private radial offsets (0055,xx22) are {offsets.size}, not one for each view; left out")
        return np.zeros(frames.head.size)
    if offsets.any():
        notes.add(
            path,
            f"GE's private radial offsets (0055,xx22) of {offsets.min():g} to {offsets.max():g} mm are added to "
            f"{tag('RadialPosition')}",
        )
    return offsets[order]


def _ge_list(header: Dataset) -> np.ndarray | None:
    """The last of each three numbers of Tomo View Offset, of all items of the Xeleris Detector Information Sequence."""
    try:
        sequence = next(e for e in header if e.tag.group == _GE_GROUP and e.tag.element & 0xFF == _GE_SEQUENCE)
        values = np.array([float(value) for item in sequence.value for value in item[_GE_OFFSETS].value])
        return values.reshape(-1, 3)[:, -1] if np.isfinite(values).all() else None
    except Exception:  # not there, or of another kind: private attributes may be anything
        return None


def _shifts(
    path: Path, header: Dataset, frames: FrameTable, detectors: list[Dataset], given: Given, notes: Notes
) -> np.ndarray:
    """The displacement of the detector's centre from the axis along the columns; the axis is CenterOfRotationOffset
    to the right of the centre."""
    listed = given.numbers("shift", 1, frames.n_heads)
    if listed is not None:
        return np.broadcast_to(listed, frames.n_heads)[frames.head]
    items = [_item(detectors, head, header) for head in range(frames.n_heads)]
    offsets = np.array([single_of(path, item, "CenterOfRotationOffset") or 0.0 for item in items])
    if not offsets.any():
        return np.zeros(frames.head.size)
    if "COR" in texts_of(header, "CorrectedImage"):
        notes.add(
            path,
            f"{tag('CenterOfRotationOffset')} is {_listed(offsets)} mm, but the frames are corrected for it "
            f"({tag('CorrectedImage')} COR); pass shift= in mm to say otherwise",
        )
        return np.zeros(frames.head.size)
    notes.add(path, f"{tag('CenterOfRotationOffset')} of {_listed(offsets)} mm is modelled; pass shift=0 to leave it")
    return -offsets[frames.head]


# ---- the rest --------------------------------------------------------------------------------------------------------


def _check_collimation(path: Path, detectors: list[Dataset], given: Given) -> None:
    for detector in detectors:
        kind = (text_of(detector, "CollimatorType") or "PARA").upper()
        focal = single_of(path, detector, "FocalDistance")
        converging = kind in ("PINH", "FANB", "CONE", "SLNT", "ASTG", "DIVG")
        if (converging or (focal and kind != "PARA")) and not given.flag("parallel_holes"):
            raise FormatError(
                f"{path}: {tag('CollimatorType')} is {kind[:16]}, and only parallel holes can be modelled; pass "
                "parallel_holes=yes if the file is wrong"
            )
        tilt = single_of(path, detector, "GantryDetectorTilt")
        if tilt and abs(tilt) > _TILT and given.number("detector_tilt") != 0:
            raise FormatError(
                f"{path}: {tag('GantryDetectorTilt')} is {tilt:g} degrees, and tilted detectors cannot be modelled; "
                "pass detector_tilt=0 if the file is wrong"
            )


def _tables(path: Path, header: Dataset, rotation: np.ndarray, rotations: list[Dataset]) -> np.ndarray | None:
    positions = [floats_of(path, item, "TableTraverse") for item in (rotations or [header])]
    if any(position is None for position in positions):
        whole = floats_of(path, header, "TableTraverse")
        return None if whole is None or len(positions) > 1 else np.full(rotation.size, whole[0])
    return np.array([position[0] for position in positions])[rotation]  # type: ignore[index]


def _seconds(
    path: Path, header: Dataset, rotation: np.ndarray, rotations: list[Dataset], given: Given, notes: Notes
) -> np.ndarray | None:
    duration = given.positive("duration")
    if duration is not None:
        return np.full(rotation.size, duration)
    whole = single_of(path, header, "ActualFrameDuration")
    values = [single_of(path, item, "ActualFrameDuration") or whole for item in rotations] or [whole]
    if any(not value or value <= 0 for value in values):
        return None
    seconds = np.array([value / 1000 for value in values if value])
    if seconds.min() < _SHORTEST or seconds.max() > _LONGEST:
        notes.add(
            path,
            f"{tag('ActualFrameDuration')} gives {_listed(seconds)} s for a view, which is odd; is it in ms? Pass "
            "duration= in s to say otherwise",
        )
    return seconds[rotation] if rotations else np.full(rotation.size, seconds[0])


def _listed(values: np.ndarray) -> str:
    return " and ".join(f"{value:g}" for value in dict.fromkeys(values.tolist()))
