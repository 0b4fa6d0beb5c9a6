"""DICOM segmentations: segments stored as frames of bits, fractions or labels, brought onto a grid."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import FormatError, check_size
from emrecon.projectors.core.progress import tracked

from .attributes import items_of, number_of, numbers_of, text_of, without_patient
from .regions import box_shares
from .rtstruct import require_some, unique_names
from .series import check_axes, turned

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LOG = logging.getLogger("emrecon")
_KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
_OFF = 0.1  # of the distance of frames, or of a pixel


@dataclass(frozen=True, eq=False)
class _Frames:
    """Where the frames lie.

    Args:
        segment : (frames,) number of the segment, 0 where a frame holds labels of all.
        place : (frames,) number of the plane, from the lowest.
        axes : (3, 3) directions of columns, rows and planes.
        spacing : mm of columns, rows and planes.
        first : LPS mm of the first pixel of plane 0.
    """

    segment: np.ndarray
    place: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float, float]
    first: np.ndarray


def segment_masks(path: Path, header: Dataset, grid: ImageGrid, frame: str | None) -> dict[str, np.ndarray]:
    """Return name -> bool (x, y, z) of every segment, voxels of which half or more are inside.

    Args:
        grid : in the patient's LPS coordinates.
        frame : of reference that the grid is in, None where it is not known.

    On an equal grid the voxels are those of the file. A fractional segmentation counts where it is half or more.

    Raises FormatError for damaged files, frames that are oblique, unevenly spaced or doubled, and where no segment
    touches the grid.
    """
    kind = (text_of(header, "SegmentationType") or "").upper()
    if kind not in _KINDS:
        raise FormatError(f"{path}: SegmentationType is {kind or 'missing'}; {', '.join(_KINDS)} are read")
    own = text_of(header, "FrameOfReferenceUID")
    if None not in (own, frame) and own != frame:
        said = "%s: segments and scan have different frames of reference; their coordinates are taken for the same"
        _LOG.warning(said, path.name)
    shape = tuple(int(numbers_of(path, header, name, 1)[0]) for name in ("NumberOfFrames", "Rows", "Columns"))
    if min(shape) < 1:
        raise FormatError(f"{path} announces {shape[0]} frames of {shape[2]} x {shape[1]} pixels; damaged header?")
    check_size(path, shape, "the frames")
    segments = _segments(path, header)
    frames = _frames(path, header, shape[0], labels=kind == "LABELMAP")
    dataset = _read(path)
    scale = 1.0
    if kind == "FRACTIONAL":
        scale = float(numbers_of(path, header, "MaximumFractionalValue", 1)[0])
        meaning = (text_of(header, "SegmentationFractionalType") or "unknown").lower()
        _LOG.warning("%s: fractions (%s) of a half or more count as inside", path.name, meaning)
    masks = {}
    names = unique_names(list(segments.values()))
    for (number, _), name in zip(tracked(list(segments.items()), "segments"), names):
        masks[name] = _mask(path, dataset, number, frames, shape[1:], scale, grid)
    require_some(path, masks, grid)
    return masks


def _segments(path: Path, header: Dataset) -> dict[int, str]:
    found = {}
    for item in items_of(header, "SegmentSequence"):
        number = int(numbers_of(path, item, "SegmentNumber", 1)[0])
        if number:  # 0 is the background of a label map
            found[number] = without_patient(header, text_of(item, "SegmentLabel") or f"segment {number}")
    if not found:
        raise FormatError(f"{path} names no segments (SegmentSequence); damaged?")
    return found


def _frames(path: Path, header: Dataset, n: int, *, labels: bool) -> _Frames:
    each = items_of(header, "PerFrameFunctionalGroupsSequence")
    if len(each) != n:
        raise FormatError(f"{path} announces {n} frames and describes {len(each)} of them; truncated?")
    shared = items_of(header, "SharedFunctionalGroupsSequence")

    def numbers(sequence: str, keyword: str, size: int) -> np.ndarray:
        return np.array([numbers_of(path, _group(path, item, shared, sequence), keyword, size) for item in each])

    orientation = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if (spacing <= 0).any() or np.ptp(spacing, 0).max() > 1e-4 or np.ptp(orientation, 0).max() > 1e-4:
        raise FormatError(f"{path}: the frames differ in PixelSpacing or ImageOrientationPatient; save them apart")
    along_rows, along_columns = orientation[0].reshape(2, 3)
    axes = np.stack([along_rows, along_columns, np.cross(along_rows, along_columns)], 1)
    check_axes(path, axes)
    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    upward = axes[:, 2] * np.sign(axes[np.abs(axes[:, 2]).argmax(), 2])
    heights = position @ upward
    between = _spacing(_group(path, each[0], shared, "PixelMeasuresSequence"), heights)
    if between is None:
        raise FormatError(f"{path}: one plane without SliceThickness; how thick is it?")
    place = (heights - heights.min()) / between
    beside = position - heights[:, None] * upward
    if np.abs(place - np.rint(place)).max() > _OFF or np.ptp(beside, 0).max() > _OFF * spacing.min():
        raise FormatError(f"{path}: the frames are unevenly spaced or shifted against each other; damaged?")
    segment = np.zeros(n, int) if labels else _numbers(path, each, shared)
    size = (float(spacing[0, 1]), float(spacing[0, 0]), between)
    return _Frames(segment, np.rint(place).astype(int), axes, size, position[heights.argmin()])


def _group(path: Path, item: Dataset, shared: list[Dataset], sequence: str) -> Dataset:
    """The functional group of a frame, its own or the one of all frames."""
    for holder in (item, *shared):
        found = items_of(holder, sequence)
        if found:
            return found[0]
    raise FormatError(f"{path}: {sequence} is missing; a segmentation without a place in the patient?")


def _numbers(path: Path, each: list[Dataset], shared: list[Dataset]) -> np.ndarray:
    groups = (_group(path, item, shared, "SegmentIdentificationSequence") for item in each)
    return np.array([int(numbers_of(path, group, "ReferencedSegmentNumber", 1)[0]) for group in groups])


def _spacing(measures: Dataset, heights: np.ndarray) -> float | None:
    """The distance of planes in mm: frames without anything in them may be left out."""
    gaps = np.diff(np.unique(heights.round(3)))
    smallest = float(gaps[gaps > 0.01].min(initial=np.inf))
    stated = [abs(number_of(measures, name) or 0) for name in ("SpacingBetweenSlices", "SliceThickness")]
    if not np.isfinite(smallest):
        return next((value for value in stated if value > 0), None)
    steps = [(value, smallest / value) for value in stated if value > 0]
    fitting = [value for value, n in steps if round(n) >= 1 and abs(n - round(n)) < _OFF / 2]
    return fitting[0] if fitting else smallest


def _read(path: Path) -> Dataset:
    import pydicom

    try:
        return pydicom.dcmread(path, force=True)
    except Exception as error:  # pydicom raises many kinds of errors for damaged files
        raise FormatError(f"{path}: cannot be read ({error}); truncated or damaged?") from error


def _mask(
    path: Path,
    dataset: Dataset,
    number: int,
    frames: _Frames,
    shape: tuple[int, ...],
    scale: float,
    grid: ImageGrid,
) -> np.ndarray:
    mine = np.flatnonzero((frames.segment == number) | (frames.segment == 0))
    if not mine.size:
        return np.zeros(grid.shape, bool)
    place = frames.place[mine]
    if np.unique(place).size < place.size:
        raise FormatError(f"{path}: two frames of segment {number} lie at the same place; of several times?")
    start = int(place.min())
    stack = np.zeros((int(place.max()) - start + 1, *shape), bool)
    for at, values in zip(place, _pixels(path, dataset, mine)):
        if values.shape != shape:
            raise FormatError(f"{path}: a frame has shape {values.shape}, not {shape}; damaged?")
        stack[at - start] = values == number if frames.segment[mine[0]] == 0 else values >= scale / 2
    upward = frames.axes[:, 2] * np.sign(frames.axes[np.abs(frames.axes[:, 2]).argmax(), 2])
    image, own = turned(stack, frames.axes, frames.spacing, frames.first + start * frames.spacing[2] * upward)
    return box_shares(image, own, grid) >= 0.5


def _pixels(path: Path, dataset: Dataset, which: np.ndarray) -> Iterator[np.ndarray]:
    from pydicom.pixels import iter_pixels

    try:
        if dataset.get("BitsAllocated") == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            yield from _bits(path, dataset, which)
        else:
            yield from iter_pixels(dataset, indices=[int(i) for i in which], raw=True)
    except FormatError:
        raise
    except Exception as error:  # pydicom raises many kinds of errors for damaged files
        raise FormatError(f"{path}: the pixels cannot be read ({error}); truncated or damaged?") from error


def _bits(path: Path, dataset: Dataset, which: np.ndarray) -> Iterator[np.ndarray]:
    """Frames of bits, which follow each other without a gap: one may begin within a byte."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    stored, n = np.frombuffer(dataset.get("PixelData") or b"", np.uint8), rows * columns
    if stored.size * 8 < n * len(items_of(dataset, "PerFrameFunctionalGroupsSequence")):
        raise FormatError(f"{path}: the pixels cannot be read ({stored.size} bytes are too few); truncated or damaged?")
    for i in which:
        first = int(i) * n
        bits = np.unpackbits(stored[first // 8 : (first + n + 7) // 8], bitorder="little")
        yield bits[first % 8 : first % 8 + n].reshape(rows, columns)
