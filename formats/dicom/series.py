"""DICOM files of one series: found, put in order in space and time, and stacked to a volume on its grid."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import (
    MAXIMUM_ELEMENTS,
    FormatError,
    check_size,
    naming,
    require_affordable,
    require_file,
)
from emrecon.projectors.core.progress import tracked

from .attributes import PET_STORAGE, FilePath, date_time_of, moment_of, number_of, numbers_of, text_of, texts_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

_MODALITIES = {"1.2.840.10008.5.1.4.1.1.20": "NM", PET_STORAGE: "PT", "1.2.840.10008.5.1.4.1.1.2": "CT"}
_EXPLAINED = {"NM": "NM (gamma camera: planar or SPECT)"}
_MULTI_FRAME = ("1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1", "1.2.840.10008.5.1.4.1.1.2.1")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LARGEST_DEFLATION = 1032
_JPEG_PACKAGES = "pylibjpeg pylibjpeg-libjpeg"
_JPEG_2000_PACKAGES = "pylibjpeg pylibjpeg-openjpeg"
# direction cosines are stored with about six digits; the same limit as for NIfTI
_OBLIQUE = 1e-3
_SAME_PLACE = 0.01  # mm
_HALF_A_DAY = 12.0  # h
_ROUNDED = 0.1  # mm, to which some scanners round the positions of slices


_LOG = logging.getLogger("emrecon")
_SUFFIXES = (".dcm", ".ima")
_File = tuple[Path, "Dataset"]


@dataclass(frozen=True, eq=False)
class _Slice:
    """One file: its header and where it lies, with axes along (columns, rows, normal)."""

    path: Path
    header: Dataset
    position: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @property
    def upward(self) -> np.ndarray:
        """The slice normal that points to the patient's left, back or head."""
        normal = self.axes[:, 2]
        return normal * np.sign(normal[np.abs(normal).argmax()])

    @property
    def height(self) -> float:
        """The position along `upward` in mm."""
        return float(self.position @ self.upward)


def slices_of_series(
    path: FilePath | Iterable[FilePath], modality: str, series: str | int | None, chosen_by: str = "series="
) -> tuple[list[_Slice], bool]:
    """Return the slices of a series, and whether `path` is a folder; raises FormatError where there is not just one.

    Localizers, the overviews that a CT is planned on, are passed over where there are other images.

    Args:
        chosen_by : how a user chooses a series, for the message.
    """
    headers, folder = headers_of(path)
    found = Counter(modality_of(header) for _, header in headers)
    wanted = [(file, header) for file, header in headers if modality_of(header) == modality]
    if folder:
        wanted = [item for item in wanted if not is_localizer(item[1])] or wanted
    if not folder and len(wanted) < len(headers):
        file, kind = next((file, kind) for file, header in headers if (kind := modality_of(header)) != modality)
        raise FormatError(f"{file} is {_EXPLAINED.get(kind, kind)}, not {modality}; the wrong file or reader?")
    if not wanted:
        kinds = ", ".join(f"{n} {_EXPLAINED.get(kind, kind)}" for kind, n in found.items()) or "no DICOM images"
        raise FormatError(f"{path} holds {kinds}, not {modality}; the wrong folder?")
    chosen = _choose_series(path, wanted, series, chosen_by)
    slices = [_slice(file, header) for file, header in chosen]
    _check_identity(slices)
    return slices, folder


def headers_of(path: FilePath | Iterable[FilePath]) -> tuple[list[_File], bool]:
    """Return the DICOM files with their attributes but for pixels, and whether `path` is a folder.

    Files of a folder that only their suffix says to be DICOM are passed over; a warning in the log counts them.
    """
    paths, folder = _paths(path)
    headers = [(file, _header(file, required=not folder)) for file in tracked(paths, "DICOM files")]
    found = [(file, header) for file, header in headers if header is not None]
    junk = [file for file, header in headers if header is None and file.suffix.lower() in _SUFFIXES]
    if junk:
        empty = sum(file.stat().st_size == 0 for file in junk)
        _LOG.warning(
            "%s: %d of the files named %s hold no DICOM (%d are empty) and are passed over, such as %s; a broken copy?",
            *(path, len(junk), " or ".join(_SUFFIXES), empty, junk[0].name),
        )
    return found, folder


def first_header(path: Path) -> Dataset | None:
    """Return the attributes of a file, or of the first DICOM file of a folder; None where there is none."""
    for file in _paths(path)[0]:
        header = _header(file, required=False)
        if header is not None:
            return header
    return None


def _paths(path: FilePath | Iterable[FilePath]) -> tuple[list[Path], bool]:
    """The files to look at, and whether they come from a folder, where other files may lie too."""
    if not isinstance(path, (str, os.PathLike)):
        files = [require_file(file) for file in path]
        if not files:
            raise ValueError("the list of DICOM files is empty; a pattern that matched nothing?")
        return files, False
    if not Path(path).is_dir():
        return [require_file(path)], False
    found = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return [file for file in found if file.is_file()], True


def _header(path: Path, required: bool) -> Dataset | None:
    """The attributes of a DICOM file without its pixels, None for another kind of file unless `required`."""
    import pydicom

    with path.open("rb") as stream:
        start = stream.read(1024)
    # some old files lack the preamble and begin with group 0002 or 0008
    if start[128:132] != b"DICM" and start[:2] not in (b"\x02\x00", b"\x08\x00"):
        if required:
            raise FormatError(f"{path} is not a DICOM file; truncated, or another format with the wrong suffix?")
        return None
    if _DEFLATED in start and path.stat().st_size * _LARGEST_DEFLATION > 4 * MAXIMUM_ELEMENTS:
        raise FormatError(f"{path} is deflated and could be absurdly large; save it uncompressed first")
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except Exception as error:  # pydicom raises many kinds of errors for damaged files
        raise FormatError(f"{path}: the DICOM header cannot be read ({error}); truncated or damaged?") from error


def modality_of(header: Dataset) -> str:
    """Return the modality, such as PT, NM or CT."""
    return text_of(header, "Modality") or _MODALITIES.get(text_of(header, "SOPClassUID") or "", "of unknown modality")


def is_localizer(header: Dataset) -> bool:
    """Whether an image is an overview that the scan was planned on."""
    return "LOCALIZER" in texts_of(header, "ImageType")


def _choose_series(
    path: FilePath | Iterable[FilePath], images: list[_File], series: str | int | None, chosen_by: str
) -> list[_File]:
    groups: dict[str, list[_File]] = {}
    for file, header in images:
        groups.setdefault(text_of(header, "SeriesInstanceUID") or "", []).append((file, header))
    if series is None and len(groups) == 1:
        return images
    matches = [uid for uid, group in groups.items() if str(series) in (uid, text_of(group[0][1], "SeriesNumber"))]
    if series is not None and len(matches) == 1:
        return groups[matches[0]]
    problem = "several series" if series is None else f"{'more than one' if matches else 'no'} series {series!r}"
    lines = [_series_line(uid, group) for uid, group in groups.items()]
    where = path if isinstance(path, (str, os.PathLike)) else "the list of files"
    raise FormatError(f"{where} holds {problem}; choose one by {chosen_by}:\n" + "\n".join(_shortened(lines)))


def _series_line(uid: str, group: list[_File]) -> str:
    header = group[0][1]
    number, description = text_of(header, "SeriesNumber") or "none", text_of(header, "SeriesDescription") or ""
    return f'  series="{uid}" (number {number}, {len(group)} images) {description}'


def _shortened(lines: list[str], most: int = 20) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"  and {len(lines) - most} more"]


def _slice(path: Path, header: Dataset) -> _Slice:
    n_frames = number_of(header, "NumberOfFrames") or 1
    if text_of(header, "SOPClassUID") in _MULTI_FRAME or n_frames > 1:
        raise FormatError(f"{path} is a multi-frame image of {n_frames:g} frames; save one file per slice first")
    if "REPROJECTION" in texts_of(header, "SeriesType"):
        raise FormatError(f"{path} is a reprojection (SeriesType), not a slice; choose the series of slices")
    if (number_of(header, "SamplesPerPixel") or 1) != 1:
        raise FormatError(f"{path} holds colours; is it a screen capture?")
    columns, rows = (int(numbers_of(path, header, name, 1)[0]) for name in ("Columns", "Rows"))
    if min(columns, rows) < 1:
        raise FormatError(f"{path} announces {columns} columns and {rows} rows; damaged header?")
    spacing = numbers_of(path, header, "PixelSpacing", 2)
    if (spacing <= 0).any():
        raise FormatError(f"{path}: PixelSpacing is {spacing.tolist()} mm; damaged header?")
    along_rows, along_columns = numbers_of(path, header, "ImageOrientationPatient", 6).reshape(2, 3)
    axes = np.stack([along_rows, along_columns, np.cross(along_rows, along_columns)], 1)
    check_axes(path, axes)
    # PixelSpacing gives the distance of rows first
    position = numbers_of(path, header, "ImagePositionPatient", 3)
    return _Slice(path, header, position, axes, (float(spacing[1]), float(spacing[0])), (columns, rows))


def check_axes(path: Path, axes: np.ndarray) -> None:
    """Raise FormatError unless axes (columns, rows, normal) are perpendicular and along the patient's."""
    if not np.allclose(axes.T @ axes, np.eye(3), atol=10 * _OBLIQUE):
        raise FormatError(
            f"{path}: ImageOrientationPatient {axes[:, :2].T.ravel().tolist()} is not a pair of perpendicular unit "
            "vectors; damaged header?"
        )
    if (np.sort(np.abs(axes), 0)[:2] > _OBLIQUE).any():
        raise FormatError(f"{path} is oblique to the patient axes; resample the series to axis-aligned slices first")


def _check_identity(slices: list[_Slice]) -> None:
    first = slices[0]
    seen: dict[str, Path] = {}
    for item in slices:
        uid = text_of(item.header, "SOPInstanceUID")
        if uid and uid in seen:
            raise FormatError(f"{item.path} and {seen[uid]} are the same image (SOPInstanceUID); a copied file?")
        seen[uid or ""] = item.path
        if item.shape != first.shape or not np.allclose(item.spacing, first.spacing, rtol=1e-4):
            raise FormatError(
                f"{item.path} has {item.shape} pixels of {item.spacing} mm, {first.path} has {first.shape} of "
                f"{first.spacing} mm; two scans in one series? Pass the list of files of one"
            )
        if not np.allclose(item.axes, first.axes, atol=1e-4):
            raise FormatError(f"{item.path} and {first.path} are not parallel; pass the list of files of one stack")


def check_units(slices: list[_Slice]) -> None:
    """Raise FormatError where slices have different units."""
    units = {text_of(item.header, "Units"): item.path for item in slices}
    if len(units) > 1:
        raise FormatError(f"the slices have different Units: {', '.join(f'{unit} ({p})' for unit, p in units.items())}")


# ---- time frames -----------------------------------------------------------------------------------------------------


def frames_of(slices: list[_Slice]) -> list[list[_Slice]]:
    """Return the slices of each time frame or gate, in order of time, each in order of position."""
    slices = sorted(slices, key=lambda item: item.height)
    place = np.concatenate([[0], np.cumsum(np.diff([item.height for item in slices]) > _SAME_PLACE)])
    n_places = int(place[-1]) + 1
    if n_places == len(slices):
        return [slices]
    for key in _FRAME_KEYS:
        values = [key(item.header) for item in slices]
        if any(value is None for value in values):
            continue
        frames = {value: [(p, s) for p, s, v in zip(place, slices, values) if v == value] for value in set(values)}
        if any(len({p for p, _ in frame}) < len(frame) for frame in frames.values()):
            continue
        _check_midnight(slices, frames, key)
        ordered = [[item for _, item in frames[value]] for value in sorted(frames)]  # type: ignore[type-var]
        short = [i for i, frame in enumerate(ordered, 1) if len(frame) < n_places]
        # a frame that lacks slices does not stand in the way of the others
        if not short or text_of(slices[0].header, "SeriesType") in ("DYNAMIC", "GATED"):
            return ordered
    raise _doubled(slices, place)


def _doubled(slices: list[_Slice], place: np.ndarray) -> FormatError:
    first = int(np.flatnonzero(np.diff(place) == 0)[0])
    one, two = slices[first], slices[first + 1]
    return FormatError(
        f"{len(slices) - int(place[-1]) - 1} slices lie where another one is, such as {one.path} and {two.path} at "
        f"{one.height:g} mm, and nothing tells their time frames; copied files? Pass the list of files of one stack"
    )


def _image_group(header: Dataset) -> float | None:
    """The frame or gate that ImageIndex counts: it runs over the slices first."""
    index, n_slices = number_of(header, "ImageIndex"), number_of(header, "NumberOfSlices")
    return (index - 1) // n_slices if index and n_slices else None


def start_of(header: Dataset) -> datetime | None:
    """Return when an image began, as AcquisitionDate and -Time or AcquisitionDateTime say, None where they do not."""
    begun = moment_of(text_of(header, "AcquisitionDate"), text_of(header, "AcquisitionTime"))
    return begun or date_time_of(text_of(header, "AcquisitionDateTime"), text_of(header, "TimezoneOffsetFromUTC"))


def _check_midnight(slices: list[_Slice], frames: dict[Any, Any], key: Callable[[Dataset], Any]) -> None:
    """Raise FormatError where times of day, or a date that was not counted on, put the frames in a wrong order."""
    if key not in (start_of, _time_of_day):
        return
    times = sorted(frames)
    gap = max((later - earlier for earlier, later in pairwise(times)), default=timedelta(0))
    if gap > timedelta(hours=_HALF_A_DAY):
        earlier, later = (f"{moment:%H:%M:%S}" for moment in (times[0], times[-1]))
        raise FormatError(
            f"{slices[0].path.parent}: the frames began from {earlier} to {later}, so over midnight or half a day "
            "apart, and neither FrameReferenceTime nor AcquisitionDate tells their order; set either in the files, or "
            "pass the list of files of one frame"
        )


def _time_of_day(header: Dataset) -> datetime | None:
    """When an image without a date began, on a day that stands for all."""
    return None if text_of(header, "AcquisitionDate") else moment_of("19700101", text_of(header, "AcquisitionTime"))


_FRAME_KEYS: tuple[Callable[[Dataset], float | datetime | None], ...] = (
    lambda header: number_of(header, "FrameReferenceTime"),
    start_of,
    _time_of_day,
    lambda header: number_of(header, "TriggerTime"),
    lambda header: number_of(header, "TemporalPositionIdentifier"),
    _image_group,
)


def choose_frame(slices: list[_Slice], frames: list[list[_Slice]], frame: int | None) -> int:
    """Return the number of the frame that is asked for, or of the only one; raises FormatError that lists them."""
    if frame is None and len(frames) == 1:
        return 1
    if isinstance(frame, (int, np.integer)) and 1 <= frame <= len(frames):
        return int(frame)
    problem = f"{len(frames)} time frames" if frame is None else f"no frame {frame!r} (1 to {len(frames)})"
    lines = [_frame_line(i, group[0].header) for i, group in enumerate(frames, 1)]
    raise FormatError(
        f"{slices[0].path.parent}: the series holds {problem}; choose one by frame=:\n" + "\n".join(_shortened(lines))
    )


def _frame_line(number: int, header: Dataset) -> str:
    start, duration, gate = start_of(header), number_of(header, "ActualFrameDuration"), number_of(header, "TriggerTime")
    parts = [
        f"from {start:%H:%M:%S}" if start else "",
        f"{duration / 1000:g} s" if duration else "",
        f"{gate:g} ms after the trigger" if gate is not None else "",
    ]
    return f"  frame={number}: " + ", ".join(part for part in parts if part)


def check_number_of_slices(frames: list[list[_Slice]], number: int, folder: bool) -> None:
    """Raise FormatError where a frame (1, 2, ...) has fewer slices than others, or than the header promises.

    Args:
        folder : whether all files of a folder were looked at; a list of files may be a part on purpose.
    """
    frame, most = frames[number - 1], max(map(len, frames))
    where = frame[0].path.parent
    if len(frame) < most:
        raise FormatError(f"{where}: frame {number} has {len(frame)} of {most} slices; missing files?")
    announced = number_of(frame[0].header, "NumberOfSlices")
    # some scanners count the slices of all frames
    if folder and announced and max(len(frame), len(frames) * most) < announced:
        raise FormatError(
            f"{where} holds {len(frame)} of {announced:g} slices (NumberOfSlices); an incomplete copy? "
            "Pass the list of files to read them anyway"
        )


def check_stack(slices: list[_Slice]) -> None:
    """Raise FormatError unless the slices, in order of position, are evenly spaced on top of each other."""
    heights = np.array([item.height for item in slices])
    gaps = np.diff(heights)
    usual = float(np.median(gaps)) if gaps.size else 1.0
    wrong = np.flatnonzero(np.abs(gaps - usual) > 0.01 * usual + _SAME_PLACE)
    if wrong.size and not _is_even(heights):
        raise _uneven(slices[wrong[0]], slices[wrong[0] + 1], usual)
    offsets = np.stack([item.position - item.height * item.upward for item in slices])
    if np.abs(offsets - offsets[0]).max() > 0.1 * min(slices[0].spacing):
        raise FormatError(f"{slices[0].path.parent}: the slices are shifted against each other; a tilted gantry?")


def _is_even(heights: np.ndarray) -> bool:
    """Whether heights are evenly spaced but for their rounding to 0.1 mm."""
    even = np.linspace(heights[0], heights[-1], heights.size)
    return _are_rounded(heights) and bool(np.abs(heights - even).max() <= _ROUNDED + _SAME_PLACE)


def _are_rounded(heights: np.ndarray) -> bool:
    return bool(np.allclose(heights, np.round(heights / _ROUNDED) * _ROUNDED, rtol=0, atol=1e-4))


def _uneven(one: _Slice, two: _Slice, usual: float) -> FormatError:
    gap = two.height - one.height
    n = round(gap / usual) - 1
    between = f"between {one.path} ({one.height:g} mm) and {two.path} ({two.height:g} mm)"
    if n > 0 and abs(gap - (n + 1) * usual) < 0.1 * usual:
        return FormatError(f"missing slices: {n} {between}; an incomplete copy?")
    return FormatError(
        f"the slices are unevenly spaced: {gap:g} mm {between}, {usual:g} mm elsewhere; slices missing, or two stacks "
        "in one series? Pass the list of files of one stack"
    )


# ---- from slices to a volume -----------------------------------------------------------------------------------------


def volume_of(slices: list[_Slice]) -> tuple[np.ndarray, ImageGrid]:
    """Return the image and grid of parallel slices in order of position, turned to LPS."""
    first = slices[0]
    check_size(first.path, (*first.shape, len(slices)), "the slices")
    stored = sum(item.path.stat().st_size for item in slices)
    require_affordable(first.path, 4 * math.prod(first.shape) * len(slices), "the slices", stored)
    spacing = (*first.spacing, _slice_spacing(slices))
    stack = np.empty((len(slices), *first.shape[::-1]), np.float32)
    for k, item in enumerate(tracked(slices, "DICOM slices")):
        stack[k] = _values(item)
    with naming(first.path):
        image, grid = turned(stack, first.axes, spacing, first.position)
    return image, _exact(grid, first.header)


def turned(
    stack: np.ndarray, axes: np.ndarray, spacing: tuple[float, float, float], position: np.ndarray
) -> tuple[np.ndarray, ImageGrid]:
    """Return a stack of slices as an LPS image on its grid.

    Args:
        stack : (slices, rows, columns), in order of position along the slice normal that points to left, back or head.
        axes : (3, 3), its columns the directions of columns, rows and normal, along the patient's axes.
        spacing : mm of columns, rows and slices.
        position : of the first pixel of the first slice, LPS mm.
    """
    patient_axis = np.abs(axes).argmax(0)
    image, origin = stack.transpose(2, 1, 0), np.array(position, float)
    for axis in (0, 1):
        if axes[patient_axis[axis], axis] < 0:
            image = np.flip(image, axis)
            origin[patient_axis[axis]] -= (image.shape[axis] - 1) * spacing[axis]
    order = np.argsort(patient_axis)
    image = np.ascontiguousarray(image.transpose(order))
    return image, ImageGrid(image.shape, tuple(np.take(spacing, order)), tuple(origin.tolist()))


def _slice_spacing(slices: list[_Slice]) -> float:
    header = slices[0].header
    # SpacingBetweenSlices may be negative, and SliceThickness differs from it where slices overlap
    announced = [abs(number_of(header, name) or 0) for name in ("SpacingBetweenSlices", "SliceThickness")]
    if len(slices) == 1:
        thickness = next((value for value in announced if value > 0), None)
        if thickness is None:
            raise FormatError(f"{slices[0].path}: one slice without SliceThickness; pass the whole series?")
        return thickness
    mean = (slices[-1].height - slices[0].height) / (len(slices) - 1)
    # positions are rounded; an announced value that agrees with them is the number that was meant
    rounding = _ROUNDED if _are_rounded(np.array([item.height for item in slices])) else 0.0
    exact = [value for value in announced if abs(value - mean) * (len(slices) - 1) < rounding + _SAME_PLACE]
    return exact[0] if exact else float(f"{mean:.10g}")


def _exact(grid: ImageGrid, header: Dataset) -> ImageGrid:
    """The grid `write_dicom_pet` noted in full precision, where it is this one: decimals of 16 characters round."""
    noted = re.search(
        r"grid of (\S+) (\S+) (\S+) mm from (\S+) (\S+) (\S+) mm", text_of(header, "DerivationDescription") or ""
    )
    with suppress(ValueError):
        numbers = [float(number) for number in noted.groups()] if noted else []
        if numbers and np.allclose(numbers, [*grid.voxel_size, *grid.origin], rtol=1e-9, atol=1e-9):
            return ImageGrid(grid.shape, tuple(numbers[:3]), tuple(numbers[3:]))  # type: ignore[arg-type]
    return grid


def _values(item: _Slice) -> np.ndarray:
    """The values (rows, columns) of a slice in the file's units."""
    slope, intercept = (
        float(numbers_of(item.path, item.header, f"Rescale{name}", 1)[0]) for name in ("Slope", "Intercept")
    )
    stored = _stored(item)
    if stored.shape != item.shape[::-1]:
        raise FormatError(f"{item.path}: the pixels have shape {stored.shape}, not {item.shape[::-1]}; damaged?")
    with np.errstate(over="ignore"):
        values = (stored * slope + intercept).astype(np.float32)
    # scanners write a slope of 0 for a slice without counts
    if (slope == 0 and stored.any()) or not np.isfinite(values).all():
        raise FormatError(
            f"{item.path}: RescaleSlope {slope:g} and RescaleIntercept {intercept:g} give no usable values"
        )
    return values


def _stored(item: _Slice) -> np.ndarray:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        dataset = pydicom.dcmread(item.path, force=True)
    except Exception as error:  # pydicom raises many kinds of errors for damaged files
        raise FormatError(f"{item.path}: cannot be read ({error}); truncated or damaged?") from error
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise FormatError(f"{item.path} holds no pixels; truncated?")
    if "TransferSyntaxUID" not in dataset.file_meta:  # files without preamble
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    _require_decoder(item.path, dataset.file_meta.TransferSyntaxUID)
    try:
        return np.asarray(pydicom.pixels.pixel_array(dataset, raw=True))
    except Exception as error:  # as above
        raise FormatError(f"{item.path}: the pixels cannot be read ({error}); truncated or damaged?") from error


def _require_decoder(path: Path, syntax: UID) -> None:
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise FormatError(f"{path} has the transfer syntax {syntax.name}, which pydicom cannot decode") from error
    if not decoder.is_available:
        packages = _JPEG_2000_PACKAGES if re.search("2000|HTJ2K|High-Throughput", syntax.name) else _JPEG_PACKAGES
        raise FormatError(f"{path} is compressed ({syntax.name}); `pip install {packages}` to read it")
