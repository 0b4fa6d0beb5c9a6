"""Which frame is what: the vectors of a file of nuclear medicine, with one entry for each frame.

Source: DICOM PS3.3, NM Multi-frame module (C.8.4.8) and table C.8-8.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.errors import FormatError

from ..attributes import texts_of, value_of
from .header import tag, type_of, whole_of
from .notes import Notes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

VECTORS = {
    "window": ("EnergyWindowVector", "NumberOfEnergyWindows"),
    "detector": ("DetectorVector", "NumberOfDetectors"),
    "phase": ("PhaseVector", "NumberOfPhases"),
    "rotation": ("RotationVector", "NumberOfRotations"),
    "interval": ("RRIntervalVector", "NumberOfRRIntervals"),
    "slot": ("TimeSlotVector", "NumberOfTimeSlots"),
    "slice": ("SliceVector", "NumberOfSlices"),
    "view": ("AngularViewVector", ""),
    "time": ("TimeSliceVector", ""),
}
"""The vectors and what says how many different entries they have, in the order of table C.8-8."""

OF_TOMO = ("window", "detector", "rotation", "interval", "slot", "time", "view")
OF_PLANAR = ("window", "detector", "phase", "interval", "slot", "time")
OF_IMAGE = ("window", "detector", "interval", "slot", "slice")

_LAST = {"view", "slice", "time"}  # what the order of the frames may tell where the vector is missing


def vectors_of(
    path: Path, header: Dataset, n_frames: int, wanted: tuple[str, ...], notes: Notes
) -> dict[str, np.ndarray | None]:
    """Return the entries (frames,), counted from 1, of the vectors that a kind of image may have.

    None where a vector is missing that the order of frames replaces: the views, slices and detectors.

    Raises FormatError naming the tags where vectors, FrameIncrementPointer, NumberOfFrames and the numbers of windows,
    detectors, ... contradict each other.
    """
    pointed = _pointed(path, header, wanted)
    if not pointed and n_frames > 1:
        notes.add(path, f"{tag('FrameIncrementPointer')} is missing; the vectors say what a frame is")
    found: dict[str, np.ndarray | None] = {}
    for name in wanted:
        found[name] = _vector(path, header, name, n_frames)
        if found[name] is not None and found[name].max() > 1 and pointed and name not in pointed:  # type: ignore[union-attr]
            notes.add(
                path,
                f"{tag(VECTORS[name][0])} has different entries, but {tag('FrameIncrementPointer')} does not name it; "
                "it is used",
            )
    missing = [name for name in wanted if found[name] is None and _announced(path, header, name) > 1]
    needed = [name for name in missing if name not in _LAST | {"detector"}]
    if needed and all(found[name] is None for name in wanted):
        return _by_order(path, header, n_frames, wanted, notes)
    if needed:
        vector, number = VECTORS[needed[0]]
        raise FormatError(
            f"{path}: {tag(vector)} is missing, and {tag(number)} is {_announced(path, header, needed[0])}; which "
            "frame is what cannot be known"
        )
    if "view" in wanted and found["view"] is None and n_frames > 1:
        notes.add(
            path,
            f"{tag(VECTORS['view'][0])} is missing: the frames of a head are taken to follow one another in the order "
            "of its views",
        )
    for name in wanted:
        if found[name] is None and name not in _LAST and name not in missing:
            found[name] = np.ones(n_frames, int)
    if "time" in wanted and found["time"] is None and ("time" not in pointed or _announced_times(header) <= 1):
        found["time"] = np.ones(n_frames, int)
    return found


def _announced_times(header: Dataset) -> int:
    return 2 if type_of(header) == "DYNAMIC" else 1


def _pointed(path: Path, header: Dataset, wanted: tuple[str, ...]) -> list[str]:
    """The names of the vectors that FrameIncrementPointer lists."""
    from pydicom.datadict import keyword_for_tag

    value = value_of(header, "FrameIncrementPointer")
    tags = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]  # type: ignore[call-overload]
    known = {vector: name for name, (vector, _) in VECTORS.items()}
    names = []
    for entry in tags:
        if entry is None:
            continue
        keyword = keyword_for_tag(entry) if isinstance(entry, int) else ""
        if keyword not in known:
            raise FormatError(
                f"{path}: {tag('FrameIncrementPointer')} names {str(entry)[:40]}, which is no vector of nuclear "
                "medicine; damaged header?"
            )
        if known[keyword] not in wanted:
            raise FormatError(
                f"{path}: {tag('FrameIncrementPointer')} names {tag(keyword)}, which images of type "
                f"{type_of(header) or 'unknown'} ({tag('ImageType')}) do not have; one of both is wrong"
            )
        names.append(known[keyword])
    return names


def _vector(path: Path, header: Dataset, name: str, n_frames: int) -> np.ndarray | None:
    keyword, number = VECTORS[name]
    texts = texts_of(header, keyword)
    if not any(texts):
        return None
    try:
        values = np.array([int(entry) for entry in texts])
    except ValueError:
        values = np.zeros(1, int)
    if values.size != n_frames:
        raise FormatError(
            f"{path}: {tag(keyword)} has {values.size} entries, and {tag('NumberOfFrames')} is {n_frames}; damaged "
            "header, or frames lost?"
        )
    if values.min() < 1 or values.max() > 2**16:
        raise FormatError(f"{path}: {tag(keyword)} must hold numbers from 1 on, got {', '.join(texts)[:60]}")
    announced = whole_of(path, header, number) if number else None
    if announced and values.max() > announced:
        raise FormatError(f"{path}: {tag(keyword)} goes up to {values.max()}, and {tag(number)} is {announced}")
    return values


def _announced(path: Path, header: Dataset, name: str) -> int:
    number = VECTORS[name][1]
    return (whole_of(path, header, number) if number else None) or 1


def _by_order(
    path: Path, header: Dataset, n_frames: int, wanted: tuple[str, ...], notes: Notes
) -> dict[str, np.ndarray | None]:
    """A file without any vector: frames in the order of table C.8-8, the last index running fastest."""
    outer = [name for name in wanted if name not in _LAST]
    sizes = [_announced(path, header, name) for name in outer]
    if n_frames % math.prod(sizes):
        said = ", ".join(f"{tag(VECTORS[name][1])} {size}" for name, size in zip(outer, sizes) if size > 1)
        raise FormatError(
            f"{path}: no vector says what a frame is, and {n_frames} frames ({tag('NumberOfFrames')}) cannot be shared "
            f"evenly by {said}"
        )
    notes.add(path, "no vector says what a frame is; frames are taken in the order of DICOM's table C.8-8")
    each = n_frames // math.prod(sizes)
    index = np.indices((*sizes, each)).reshape(len(sizes) + 1, -1) + 1
    found: dict[str, np.ndarray | None] = dict(zip(outer, index[:-1]))
    last = next((name for name in reversed(wanted) if name in _LAST), None)
    return found | {name: index[-1] if name == last else np.ones(n_frames, int) for name in wanted if name in _LAST}
