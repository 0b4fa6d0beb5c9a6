"""DICOM PET series: read as LPS images with their facts, turned into SUV, and written; CT series are read, too."""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from emrecon.projectors import ImageGrid, Isotope, isotope
from emrecon.projectors._arrays import to_numpy
from emrecon.projectors._files import atomic_path

from ._errors import MAXIMUM_ELEMENTS, FormatError, check_size, naming, require_file

__all__ = [
    "PETFacts",
    "PETImage",
    "decay_reference_time",
    "read_dicom_ct",
    "read_dicom_pet",
    "suv_factor",
    "write_dicom_pet",
]

FilePath = str | os.PathLike[str]
_PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"
_MODALITIES = {"1.2.840.10008.5.1.4.1.1.20": "NM", _PET_STORAGE: "PT", "1.2.840.10008.5.1.4.1.1.2": "CT"}
_EXPLAINED = {"NM": "NM (gamma camera: planar or SPECT)"}
_MULTI_FRAME = ("1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1", "1.2.840.10008.5.1.4.1.1.2.1")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LARGEST_DEFLATION = 1032
_JPEG_PACKAGES = "pylibjpeg pylibjpeg-libjpeg"
_JPEG_2000_PACKAGES = "pylibjpeg pylibjpeg-openjpeg"
# direction cosines are stored with about six digits; the same limit as for NIfTI
_OBLIQUE = 1e-3
_SAME_PLACE = 0.01  # mm
_SMALLEST_BECQUEREL = 1e4  # a smaller "dose in Bq" is one in MBq: 10 kBq cannot be imaged, 10 GBq is not injected
_DAYLONG = 12 * 3600.0  # s: tracers of this half-life are scanned days after injection
_MOST_HALF_LIVES = 10
_COPIED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientAge", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    "TimezoneOffsetFromUTC",
)
_EMPTY_WHERE_UNKNOWN = (
    *("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "PositionReferenceIndicator"),
)
_ELEMENTS = dict(
    re.findall(
        r"([a-z]+) ([A-Z][a-z]?)",
        "carbon C, nitrogen N, oxygen O, fluorine F, sodium Na, potassium K, scandium Sc, titanium Ti, manganese Mn, "
        "iron Fe, copper Cu, zinc Zn, gallium Ga, germanium Ge, arsenic As, selenium Se, bromine Br, rubidium Rb, "
        "yttrium Y, zirconium Zr, niobium Nb, technetium Tc, iodine I, terbium Tb",
    )
)
_SUV_KINDS = {
    "body weight": "BW",
    "james lean body mass": "LBMJAMES128",
    "janmahasatian lean body mass": "LBMJANMA",
    "ideal body weight": "IBW",
    "body surface area": "BSA",
}


@dataclass(frozen=True)
class PETFacts:
    """What a PET series says about itself; None where it does not say, so `dataclasses.replace` fills or mends it.

    units : of the values, as DICOM writes them: "BQML" (Bq/mL), "CNTS", "GML" (SUV in g/mL), "PROPCPS", ...
    suv_type : "BW", "LBMJAMES128", "LBMJANMA", "BSA", ... where the values are SUV already.
    decay_correction : "START", "ADMIN" or "NONE".  corrections : as (0028,0051), such as "ATTN", "SCAT", "DECY".
    series_type : "STATIC", "DYNAMIC", "GATED" or "WHOLE BODY".
    radionuclide : such as "F-18".  half_life : s.  injected_dose : MBq.  injection_time : date and time.
    series_time : of the series; acquisition_time : when the earliest image of the series began; frame_start : when the
        earliest image of this frame began (n_beds different ones occur in it).
    frame_reference_time : s after series_time.  frame_duration : s.  decay_factor : what the values were multiplied by.
    n_frames : time frames or gates of the series; frame : the one that was read, 1 to n_frames.
    decay_reference : the moment the values are decay corrected to; None leaves it to `decay_reference_time`.
    siemens_decay_time, ge_scan_time, philips_suv_factor, philips_activity_factor : private attributes.
    weight : kg.  height : m.  sex : "M", "F" or "O".  patient_position : such as "HFS".
    study : attributes of patient and study that a derived series shares (names and UIDs; not shown by repr).
    """

    units: str | None = None
    suv_type: str | None = None
    decay_correction: str | None = None
    corrections: tuple[str, ...] = ()
    series_type: str | None = None
    radionuclide: str | None = None
    radiopharmaceutical: str | None = None
    half_life: float | None = None
    injected_dose: float | None = None
    injection_time: datetime | None = None
    series_time: datetime | None = None
    acquisition_time: datetime | None = None
    frame_start: datetime | None = None
    n_beds: int = 1
    frame_reference_time: float | None = None
    frame_duration: float | None = None
    decay_factor: float | None = None
    n_frames: int = 1
    frame: int = 1
    decay_reference: datetime | None = None
    siemens_decay_time: datetime | None = None
    ge_scan_time: datetime | None = None
    philips_suv_factor: float | None = None
    philips_activity_factor: float | None = None
    weight: float | None = None
    height: float | None = None
    sex: str | None = None
    patient_position: str | None = None
    series_description: str | None = None
    series_number: int | None = None
    series_uid: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    study: Mapping[str, str] = field(default_factory=dict, repr=False)


class PETImage(NamedTuple):
    """A PET image (x, y, z), float32 in `facts.units`, on its grid (LPS, mm), with the facts of its series."""

    image: np.ndarray
    grid: ImageGrid
    facts: PETFacts


def read_dicom_pet(
    path: FilePath | Iterable[FilePath], *, series: str | int | None = None, frame: int | None = None
) -> PETImage:
    """Return the image, grid and facts of a PET series: value = stored * RescaleSlope + RescaleIntercept, by slice.

    path : a folder (with its subfolders; files that are not PET images are passed over), a list of files, or one file.
    series : SeriesInstanceUID or series number, where several series are there.
    frame : 1, 2, ... in order of time (or gate), where the series holds several.
    Slices are put in order by ImagePositionPatient along the slice normal; other orientations along the patient's axes
    are turned to LPS. Settings of pydicom and warning filters are as before afterwards.
    Raises FileNotFoundError; FormatError (a ValueError) naming the file and the fact: not DICOM, truncated, NM or
    another modality, missing attributes, several series or frames (listed), slices missing, doubled, unevenly spaced or
    oblique, compression that needs a package, absurd size.
    Source: DICOM PS3.3, Image Plane and PET Image modules.
    """
    with _lenient():
        slices, folder = _series(path, "PT", series)
        _check_units(slices)
        frames = _frames(slices)
        number = _choose_frame(slices, frames, frame)
        chosen = frames[number - 1]
        _check_stack(chosen)
        if folder:
            _check_number_of_slices(chosen, len(slices))
        facts = _facts([item.header for item in chosen], [item.header for item in slices])
        return PETImage(*_volume(chosen), replace(facts, n_frames=len(frames), frame=number))


def read_dicom_ct(
    path: FilePath | Iterable[FilePath], *, series: str | int | None = None
) -> tuple[np.ndarray, ImageGrid]:
    """Return (image (x, y, z) in Hounsfield units, grid) of a CT series; everything else as `read_dicom_pet`.

    `projectors.hounsfield_to_mu` turns the image into attenuation.
    """
    with _lenient():
        slices, _ = _series(path, "CT", series)
        frames = _frames(slices)
        chosen = frames[_choose_frame(slices, frames, None) - 1]
        _check_stack(chosen)
        return _volume(chosen)


def suv_factor(facts: PETFacts, kind: str = "body weight") -> float:
    """Return what the image is multiplied by to be SUV: size / (dose * 2 ** (-(reference - injection) / half-life)).

    kind : "body weight", "James lean body mass", "Janmahasatian lean body mass" or "ideal body weight" (size in g, SUV
        in g/mL), or "body surface area" (size in cm2, SUV in cm2/mL).
    reference : `decay_reference_time(facts)`.  Images in Philips' counts take the scanner's private factors, and images
        that are SUV already are converted between the kinds.
    Raises ValueError that says which fact is missing or contradictory and how to replace it. Warns where DecayFactor
    says that the values were corrected to another time.
    James' lean body mass turns over for the obese (body mass index near 43 for men, 36 for women).
    Source: QIBA, vendor-neutral pseudo-code for SUV; James 1976; Janmahasatian et al. 2005; Du Bois & Du Bois 1916;
    Sugawara et al. 1999 (ideal body weight).
    """
    suv_type = _suv_type(kind)
    if facts.units in ("GML", "CM2ML"):
        return _relative_size(facts, suv_type, facts.suv_type or {"GML": "BW", "CM2ML": "BSA"}[facts.units])
    _check_corrections(facts)
    if facts.units == "CNTS" and facts.philips_suv_factor:
        return facts.philips_suv_factor * _relative_size(facts, suv_type, "BW")
    return _becquerel_per_ml(facts) * _size(facts, suv_type) / _decayed_dose(facts)


def decay_reference_time(facts: PETFacts) -> datetime:
    """Return the moment that the values are decay corrected to.

    ADMIN : the injection.
    START : SeriesTime, unless an image began before it: then the series was made afterwards, and the reference is the
        scan time GE notes, or the earlier of the first AcquisitionTime and what FrameReferenceTime implies.
    NONE : the moment of mean activity during the frame.
    `facts.decay_reference` and the moment Siemens notes come before these rules.
    Raises ValueError where times are not known, or where beds that are not decay corrected began at different times.
    Source: QIBA, vendor-neutral pseudo-code for SUV; DICOM PS3.3, PET Image module.
    """
    if facts.decay_reference is not None:
        return facts.decay_reference
    if facts.decay_correction == "ADMIN":
        return _required(facts, "injection_time")
    if facts.decay_correction == "NONE":
        _check_one_bed(facts)
        return _mean_activity_time(facts)
    if facts.decay_correction != "START":
        raise ValueError(
            f"DecayCorrection is {facts.decay_correction!r}, expected START, ADMIN or NONE; "
            + _advice("decay_correction", '"START"')
        )
    if facts.siemens_decay_time is not None:
        return facts.siemens_decay_time
    series = facts.series_time or _required(facts, "acquisition_time")
    begun = facts.acquisition_time or series
    if series <= begun:
        return series
    return facts.ge_scan_time or min(begun, _implied_by_frame_reference(facts) or begun)


def write_dicom_pet(
    folder: FilePath, image: Any, grid: ImageGrid, like: Any = None, *, overwrite: bool = False, **changes: Any
) -> None:
    """Write an image (x, y, z) on `grid` as a PET series, one file per slice, 0001.dcm, 0002.dcm, ... from the feet up.

    like : `PETFacts`, a `PETImage` or a pydicom dataset whose patient, study, tracer and times the series shares.
    changes : fields of `PETFacts` that are different, such as units="BQML" (the default without `like`),
        series_description="MAP-EM", corrections=("ATTN", "SCAT", "DECY").
    Values are stored with 16 bits and a RescaleSlope by slice, so they are rounded by at most half a step, the largest
    value of the slice / 131070 (/ 65534 where the image has negative values). Series and images get new UIDs, and
    nothing private is copied. The folder appears complete or not at all; what was in it stays unless `overwrite`, and
    then only a series written by this function is replaced.
    Raises ValueError for an image that does not fit the grid or has values that are not finite; FileExistsError;
    OSError naming the folder where it cannot be written.
    """
    values = _writable(image, grid)
    facts = replace(_facts_like(like), **changes)
    signed = bool((values < 0).any())
    with _lenient(), _new_folder(folder, overwrite) as temporary:
        dataset = _series_dataset(facts, grid, signed)
        for k in range(grid.shape[2]):
            _put_slice(dataset, values[:, :, k], grid, k, signed)
            with atomic_path(temporary / f"{k + 1:04d}.dcm") as file:
                dataset.save_as(file, enforce_file_format=True)


@contextmanager
def _lenient() -> Iterator[None]:
    """Take values as they are; pydicom's settings and the warning filters are put back afterwards."""
    from pydicom import config

    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ---- from files to slices --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Slice:
    """One file: its header and where it lies, with axes along (columns, rows, normal)."""

    path: Path
    header: Any
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


def _series(path: FilePath | Iterable[FilePath], modality: str, series: str | int | None) -> tuple[list[_Slice], bool]:
    paths, folder = _paths(path)
    headers = [(file, header) for file in paths if (header := _header(file, required=not folder)) is not None]
    found = Counter(_modality(header) for _, header in headers)
    wanted = [(file, header) for file, header in headers if _modality(header) == modality]
    if not folder and len(wanted) < len(headers):
        file, kind = next((file, kind) for file, header in headers if (kind := _modality(header)) != modality)
        raise FormatError(f"{file} is {_EXPLAINED.get(kind, kind)}, not {modality}; the wrong file or reader?")
    if not wanted:
        kinds = ", ".join(f"{n} {_EXPLAINED.get(kind, kind)}" for kind, n in found.items()) or "no DICOM images"
        raise FormatError(f"{path} holds {kinds}, not {modality}; the wrong folder?")
    chosen = _choose_series(path, wanted, series)
    slices = [_slice(file, header) for file, header in chosen]
    _check_identity(slices)
    return slices, folder


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


def _header(path: Path, required: bool) -> Any:
    """The attributes of a DICOM file without its pixels, or None for another file where that is no mistake."""
    import pydicom

    with path.open("rb") as stream:
        start = stream.read(1024)
    # some old files lack the preamble and begin with group 0002 or 0008
    if start[128:132] != b"DICM" and start[:2] not in (b"\x02\x00", b"\x08\x00"):
        if required or path.suffix.lower() in (".dcm", ".ima"):
            raise FormatError(f"{path} is not a DICOM file; truncated, or another format with the wrong suffix?")
        return None
    if _DEFLATED in start and path.stat().st_size * _LARGEST_DEFLATION > 4 * MAXIMUM_ELEMENTS:
        raise FormatError(f"{path} is deflated and could be absurdly large; save it uncompressed first")
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except Exception as error:  # pydicom raises many kinds of errors for damaged files
        raise FormatError(f"{path}: the DICOM header cannot be read ({error}); truncated or damaged?") from error


def _modality(header: Any) -> str:
    return _text(header, "Modality") or _MODALITIES.get(_text(header, "SOPClassUID") or "", "of unknown modality")


def _choose_series(path: Any, images: list[tuple[Path, Any]], series: str | int | None) -> list[tuple[Path, Any]]:
    groups: dict[str, list[tuple[Path, Any]]] = {}
    for file, header in images:
        groups.setdefault(_text(header, "SeriesInstanceUID") or "", []).append((file, header))
    if series is None and len(groups) == 1:
        return images
    matches = [uid for uid, group in groups.items() if str(series) in (uid, _text(group[0][1], "SeriesNumber"))]
    if series is not None and len(matches) == 1:
        return groups[matches[0]]
    problem = "several series" if series is None else f"{'no' if not matches else 'more than one'} series {series!r}"
    lines = [_series_line(uid, group) for uid, group in groups.items()]
    where = path if isinstance(path, (str, os.PathLike)) else "the list of files"
    raise FormatError(f"{where} holds {problem}; choose one by series=:\n" + "\n".join(_shortened(lines)))


def _series_line(uid: str, group: list[tuple[Path, Any]]) -> str:
    header = group[0][1]
    number, description = _text(header, "SeriesNumber") or "none", _text(header, "SeriesDescription") or ""
    return f'  series="{uid}" (number {number}, {len(group)} images) {description}'


def _shortened(lines: list[str], most: int = 20) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"  and {len(lines) - most} more"]


def _slice(path: Path, header: Any) -> _Slice:
    n_frames = _number(header, "NumberOfFrames") or 1
    if _text(header, "SOPClassUID") in _MULTI_FRAME or n_frames > 1:
        raise FormatError(f"{path} is a multi-frame image of {n_frames:g} frames; save one file per slice first")
    if "REPROJECTION" in _texts(header, "SeriesType"):
        raise FormatError(f"{path} is a reprojection (SeriesType), not a slice; choose the series of slices")
    if (_number(header, "SamplesPerPixel") or 1) != 1:
        raise FormatError(f"{path} holds colours; a screen capture rather than an image?")
    columns, rows = (int(_numbers(path, header, name, 1)[0]) for name in ("Columns", "Rows"))
    if min(columns, rows) < 1:
        raise FormatError(f"{path} announces {columns} columns and {rows} rows; damaged header?")
    spacing = _numbers(path, header, "PixelSpacing", 2)
    if (spacing <= 0).any():
        raise FormatError(f"{path}: PixelSpacing is {spacing.tolist()} mm; damaged header?")
    along_rows, along_columns = _numbers(path, header, "ImageOrientationPatient", 6).reshape(2, 3)
    axes = np.stack([along_rows, along_columns, np.cross(along_rows, along_columns)], 1)
    _check_axes(path, axes)
    # PixelSpacing gives the distance of rows first
    position = _numbers(path, header, "ImagePositionPatient", 3)
    return _Slice(path, header, position, axes, (float(spacing[1]), float(spacing[0])), (columns, rows))


def _check_axes(path: Path, axes: np.ndarray) -> None:
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
        uid = _text(item.header, "SOPInstanceUID")
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


def _check_units(slices: list[_Slice]) -> None:
    units = {_text(item.header, "Units"): item.path for item in slices}
    if len(units) > 1:
        raise FormatError(f"the slices have different Units: {', '.join(f'{unit} ({p})' for unit, p in units.items())}")


# ---- time frames -----------------------------------------------------------------------------------------------------


def _frames(slices: list[_Slice]) -> list[list[_Slice]]:
    """The slices of each time frame or gate, in order of time, each in order of position."""
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
        ordered = [[item for _, item in frames[value]] for value in sorted(frames)]  # type: ignore[type-var]
        short = [i for i, frame in enumerate(ordered, 1) if len(frame) < n_places]
        if not short:
            return ordered
        if _text(slices[0].header, "SeriesType") in ("DYNAMIC", "GATED"):
            n = len(ordered[short[0] - 1])
            raise FormatError(f"{slices[0].path.parent}: frame {short[0]} has {n} of {n_places} slices; missing files?")
    raise _doubled(slices, place)


def _doubled(slices: list[_Slice], place: np.ndarray) -> FormatError:
    first = int(np.flatnonzero(np.diff(place) == 0)[0])
    one, two = slices[first], slices[first + 1]
    return FormatError(
        f"{len(slices) - int(place[-1]) - 1} slices lie where another one is, such as {one.path} and {two.path} at "
        f"{one.height:g} mm, and nothing tells time frames apart; copied files? Pass the list of files of one stack"
    )


def _image_group(header: Any) -> float | None:
    """The frame or gate that ImageIndex counts: it runs over the slices first."""
    index, n_slices = _number(header, "ImageIndex"), _number(header, "NumberOfSlices")
    return (index - 1) // n_slices if index and n_slices else None


def _start(header: Any) -> datetime | None:
    return _moment(_text(header, "AcquisitionDate"), _text(header, "AcquisitionTime"))


_FRAME_KEYS: tuple[Callable[[Any], float | datetime | None], ...] = (
    lambda header: _number(header, "FrameReferenceTime"),
    _start,
    lambda header: _number(header, "TriggerTime"),
    lambda header: _number(header, "TemporalPositionIdentifier"),
    _image_group,
)


def _choose_frame(slices: list[_Slice], frames: list[list[_Slice]], frame: int | None) -> int:
    if frame is None and len(frames) == 1:
        return 1
    if isinstance(frame, (int, np.integer)) and 1 <= frame <= len(frames):
        return int(frame)
    problem = f"{len(frames)} time frames" if frame is None else f"no frame {frame!r} (1 to {len(frames)})"
    lines = [_frame_line(i, group[0].header) for i, group in enumerate(frames, 1)]
    raise FormatError(
        f"{slices[0].path.parent}: the series holds {problem}; choose one by frame=:\n" + "\n".join(_shortened(lines))
    )


def _frame_line(number: int, header: Any) -> str:
    start, duration, gate = _start(header), _number(header, "ActualFrameDuration"), _number(header, "TriggerTime")
    parts = [
        f"from {start:%H:%M:%S}" if start else "",
        f"{duration / 1000:g} s" if duration else "",
        f"{gate:g} ms after the trigger" if gate is not None else "",
    ]
    return f"  frame={number}: " + ", ".join(part for part in parts if part)


def _check_number_of_slices(frame: list[_Slice], n_images: int) -> None:
    announced = _number(frame[0].header, "NumberOfSlices")
    # some scanners count the slices of all frames
    if announced and max(len(frame), n_images) < announced:
        raise FormatError(
            f"{frame[0].path.parent} holds {len(frame)} of {announced:g} slices (NumberOfSlices); an incomplete copy? "
            "Pass the list of files to read them all the same"
        )


def _check_stack(slices: list[_Slice]) -> None:
    """Raise FormatError unless the slices, in order of position, are evenly spaced on top of each other."""
    gaps = np.diff([item.height for item in slices])
    usual = float(np.median(gaps)) if gaps.size else 1.0
    wrong = np.flatnonzero(np.abs(gaps - usual) > 0.01 * usual + _SAME_PLACE)
    if wrong.size:
        raise _uneven(slices[wrong[0]], slices[wrong[0] + 1], usual)
    offsets = np.stack([item.position - item.height * item.upward for item in slices])
    if np.abs(offsets - offsets[0]).max() > 0.1 * min(slices[0].spacing):
        raise FormatError(f"{slices[0].path.parent}: the slices are shifted against each other; a tilted gantry?")


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


def _volume(slices: list[_Slice]) -> tuple[np.ndarray, ImageGrid]:
    """The image and grid of parallel slices in order of position, turned to LPS."""
    first = slices[0]
    check_size(first.path, (*first.shape, len(slices)), "the slices")
    spacing = (*first.spacing, _slice_spacing(slices))
    stack = np.empty((len(slices), *first.shape[::-1]), np.float32)
    for k, item in enumerate(slices):
        stack[k] = _values(item)
    patient_axis = np.abs(first.axes).argmax(0)
    image, origin = stack.transpose(2, 1, 0), first.position.copy()
    for axis in (0, 1):
        if first.axes[patient_axis[axis], axis] < 0:
            image = np.flip(image, axis)
            origin[patient_axis[axis]] -= (image.shape[axis] - 1) * spacing[axis]
    order = np.argsort(patient_axis)
    image = np.ascontiguousarray(image.transpose(order))
    with naming(first.path):
        grid = ImageGrid(image.shape, tuple(np.take(spacing, order)), tuple(origin.tolist()))
    return image, _exact(grid, first.header)


def _slice_spacing(slices: list[_Slice]) -> float:
    header = slices[0].header
    # SpacingBetweenSlices may be negative, and SliceThickness differs from it where slices overlap
    announced = [abs(_number(header, name) or 0) for name in ("SpacingBetweenSlices", "SliceThickness")]
    if len(slices) == 1:
        thickness = next((value for value in announced if value > 0), None)
        if thickness is None:
            raise FormatError(f"{slices[0].path}: one slice without SliceThickness; pass the whole series?")
        return thickness
    mean = (slices[-1].height - slices[0].height) / (len(slices) - 1)
    # positions are rounded; an announced value that agrees with them is the number that was meant
    exact = [value for value in announced if abs(value - mean) * (len(slices) - 1) < _SAME_PLACE]
    return exact[0] if exact else float(f"{mean:.10g}")


def _exact(grid: ImageGrid, header: Any) -> ImageGrid:
    """The grid `write_dicom_pet` noted in full precision, where it is this one: decimals of 16 characters round."""
    noted = re.search(
        r"grid of (\S+) (\S+) (\S+) mm from (\S+) (\S+) (\S+) mm", _text(header, "DerivationDescription") or ""
    )
    with suppress(ValueError):
        numbers = [float(number) for number in noted.groups()] if noted else []
        if numbers and np.allclose(numbers, [*grid.voxel_size, *grid.origin], rtol=1e-9, atol=1e-9):
            return ImageGrid(grid.shape, tuple(numbers[:3]), tuple(numbers[3:]))  # type: ignore[arg-type]
    return grid


def _values(item: _Slice) -> np.ndarray:
    """The values (rows, columns) of a slice in the file's units."""
    slope, intercept = (
        float(_numbers(item.path, item.header, f"Rescale{name}", 1)[0]) for name in ("Slope", "Intercept")
    )
    stored = _stored(item)
    if stored.shape != item.shape[::-1]:
        raise FormatError(f"{item.path}: the pixels have shape {stored.shape}, not {item.shape[::-1]}; damaged?")
    with np.errstate(over="ignore"):
        values = (stored * slope + intercept).astype(np.float32)
    if slope == 0 or not np.isfinite(values).all():
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


def _require_decoder(path: Path, syntax: Any) -> None:
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise FormatError(f"{path} has the transfer syntax {syntax.name}, which pydicom cannot decode") from error
    if not decoder.is_available:
        packages = _JPEG_2000_PACKAGES if re.search("2000|HTJ2K|High-Throughput", syntax.name) else _JPEG_PACKAGES
        raise FormatError(f"{path} is compressed ({syntax.name}); `pip install {packages}` makes it readable")


# ---- attributes ------------------------------------------------------------------------------------------------------


def _get(header: Any, keyword: str) -> Any:
    """The value of an attribute, None where it is missing, empty or cannot be understood."""
    try:
        value = header.get(keyword)
    except Exception:  # damaged values raise many kinds of errors when they are looked at first
        return None
    return None if value is None or value == "" else value


def _texts(header: Any, keyword: str) -> tuple[str, ...]:
    value = _get(header, keyword)
    if value is None:
        return ()
    many = not isinstance(value, (str, bytes)) and isinstance(value, Sequence)
    return tuple(str(part).strip() for part in (value if many else [value]))


def _text(header: Any, keyword: str) -> str | None:
    return next(iter(_texts(header, keyword)), None) or None


def _number(header: Any, keyword: str) -> float | None:
    """The first number of an attribute, None where there is none or it is not finite."""
    with suppress(ValueError, TypeError, OverflowError):
        number = float(_text(header, keyword) or "")
        return number if math.isfinite(number) else None
    return None


def _numbers(path: Path, header: Any, keyword: str, n: int) -> np.ndarray:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    values = _texts(header, keyword)
    if not values:
        raise FormatError(f"{path}: {keyword} {Tag(tag_for_keyword(keyword) or 0)} is missing; an incomplete file?")
    with suppress(ValueError):
        numbers = np.array([float(value) for value in values])
        if numbers.size == n and np.isfinite(numbers).all():
            return numbers
    raise FormatError(f"{path}: {keyword} is {', '.join(values)[:80]}, expected {n} numbers; damaged header?")


def _private(header: Any, group: int, creator: str, element: int) -> str | None:
    with suppress(Exception):  # not there, or damaged
        value = header.private_block(group, creator)[element].value
        return (value.decode("ascii") if isinstance(value, bytes) else str(value)).strip("\0 ") or None
    return None


def _moment(date: str | None, time: str | None) -> datetime | None:
    """A DICOM date and time, also in the old forms 1993.11.24 and 09:53:00; None where either is missing or wrong."""
    day = re.sub(r"[.]", "", date or "")
    whole, _, fraction = (time or "").replace(":", "").partition(".")
    if len(whole) in (2, 4, 6):
        with suppress(ValueError):
            return datetime.strptime(f"{day} {whole:0<6} {fraction[:6] or 0}", "%Y%m%d %H%M%S %f")
    return None


def _date_time(value: str | None, offset: str | None = None) -> datetime | None:
    """A DICOM DateTime in the local time of the file, whose offset from UTC is `offset`, such as "+0100"."""
    parts = re.fullmatch(r"(\d{8})(\d{2,6}(?:\.\d*)?)([+-]\d{4})?", value or "")
    moment = _moment(parts[1], parts[2]) if parts else None
    if moment and parts and parts[3] and re.fullmatch(r"[+-]\d{4}", offset or ""):
        moment += _minutes(offset or "") - _minutes(parts[3])
    return moment


def _minutes(offset: str) -> timedelta:
    return int(f"{offset[0]}1") * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))


def _positive(number: float | None, scale: float = 1.0) -> float | None:
    return number * scale if number and number > 0 else None


# ---- facts -----------------------------------------------------------------------------------------------------------


def _facts(frame: list[Any], series: list[Any]) -> PETFacts:
    """The facts of a frame, from the headers of its slices and of the whole series."""
    starts = {start for header in frame if (start := _start(header))}
    header = min(frame, key=lambda item: _start(item) or datetime.max)
    begun = min((start for item in series if (start := _start(item))), default=None)
    series_time = _moment(_text(header, "SeriesDate"), _text(header, "SeriesTime"))
    facts = PETFacts(
        units=_text(header, "Units"),
        suv_type=_text(header, "SUVType"),
        decay_correction=_text(header, "DecayCorrection"),
        corrections=_texts(header, "CorrectedImage"),
        series_type=_text(header, "SeriesType"),
        series_time=series_time,
        acquisition_time=begun,
        frame_start=_start(header),
        n_beds=max(len(starts), 1),
        frame_reference_time=_scaled(_number(header, "FrameReferenceTime"), 1e-3),
        frame_duration=_positive(_number(header, "ActualFrameDuration"), 1e-3),
        decay_factor=_positive(_number(header, "DecayFactor")),
        siemens_decay_time=_date_time(_private(header, 0x0071, "SIEMENS MED PT", 0x22)),
        ge_scan_time=_date_time(_private(header, 0x0009, "GEMS_PETD_01", 0x0D)),
        philips_suv_factor=_positive(_private_number(header, 0x00)),
        philips_activity_factor=_positive(_private_number(header, 0x09)),
        weight=_positive(_number(header, "PatientWeight")),
        height=_positive(_number(header, "PatientSize")),
        sex=_text(header, "PatientSex"),
        patient_position=_text(header, "PatientPosition"),
        series_description=_text(header, "SeriesDescription"),
        series_number=None if (number := _number(header, "SeriesNumber")) is None else int(number),
        series_uid=_text(header, "SeriesInstanceUID"),
        manufacturer=_text(header, "Manufacturer"),
        model=_text(header, "ManufacturerModelName"),
        study={name: value for name in _COPIED if (value := _text(header, name))},
    )
    return replace(facts, **_tracer(header, facts))


def _scaled(number: float | None, scale: float) -> float | None:
    return None if number is None else number * scale


def _private_number(header: Any, element: int) -> float | None:
    with suppress(ValueError):
        return float(_private(header, 0x7053, "Philips PET Private Group", element) or "")
    return None


def _tracer(header: Any, facts: PETFacts) -> dict[str, Any]:
    """What the file says of the one tracer that was injected."""
    items = list(_get(header, "RadiopharmaceuticalInformationSequence") or ())
    if len(items) != 1:
        return {}
    item = items[0]
    code = next(iter(_get(item, "RadionuclideCodeSequence") or ()), None)
    drug = next(iter(_get(item, "RadiopharmaceuticalCodeSequence") or ()), None)
    drug_name = _text(item, "Radiopharmaceutical") or (_text(drug, "CodeMeaning") if drug else None)
    name = _radionuclide((_text(code, "CodeMeaning") if code else None) or drug_name)
    half_life = _positive(_number(item, "RadionuclideHalfLife")) or _known_half_life(name)
    dose = _positive(_number(item, "RadionuclideTotalDose"))
    return {
        "radionuclide": name,
        "radiopharmaceutical": drug_name,
        "half_life": half_life,
        "injected_dose": dose if dose is None or dose < _SMALLEST_BECQUEREL else dose / 1e6,
        "injection_time": _injection_time(header, item, facts, half_life),
    }


def _injection_time(header: Any, item: Any, facts: PETFacts, half_life: float | None) -> datetime | None:
    """The date and time of injection; where the file gives a time of day, that before the scan."""
    full = _date_time(_text(item, "RadiopharmaceuticalStartDateTime"), _text(header, "TimezoneOffsetFromUTC"))
    scan = min((t for t in (facts.series_time, facts.acquisition_time) if t), default=None)
    if full or scan is None or (half_life or 0) > _DAYLONG:
        return full
    injected = _moment(f"{scan:%Y%m%d}", _text(item, "RadiopharmaceuticalStartTime"))
    if injected is None:
        return None
    # a dynamic scan begins before its injection; any other injection after the scan was the day before, over midnight
    allowed = timedelta(seconds=_DAYLONG if facts.series_type == "DYNAMIC" else 0)
    return injected - timedelta(days=1) if injected - scan > allowed else injected


def _radionuclide(text: str | None) -> str | None:
    """The positron emitter in a text such as "^18^Fluorine", "F^18^" or "Fluorodeoxyglucose F-18", as "F-18"."""
    plain = re.sub(r"[\^\[\]]", " ", text or "")
    for elements, flags in (("|".join(_ELEMENTS), re.IGNORECASE), ("|".join(_ELEMENTS.values()), 0)):
        for pattern in (
            rf"(?<!\w)(?P<mass>\d{{1,3}}m?)[ -]*(?P<element>{elements})(?![a-z])",
            rf"(?<![A-Za-z])(?P<element>{elements})[ -]*(?P<mass>\d{{1,3}}m?)(?!\w)",
        ):
            for found in re.finditer(pattern, plain, flags):
                name = f"{_ELEMENTS.get(found['element'].lower(), found['element'])}-{found['mass']}"
                if _radionuclide_code(name):
                    return name
    return None


def _radionuclide_code(name: str | None) -> Any:
    """DICOM's code (context group 4020) of a positron emitter, None where it has none."""
    from pydicom.sr.codedict import codes

    symbol, _, mass = (name or "").partition("-")
    element = next((element.capitalize() for element, known in _ELEMENTS.items() if known == symbol), "")
    return getattr(codes.cid4020, f"_{mass}{element}", None)


def _known_half_life(name: str | None) -> float | None:
    with suppress(ValueError):
        return isotope(name).half_life if name else None
    return None


def _facts_like(like: Any) -> PETFacts:
    if like is None:
        return PETFacts(units="BQML", decay_correction="NONE")
    facts = like.facts if isinstance(like, PETImage) else like
    if isinstance(facts, PETFacts):
        return facts
    if not hasattr(facts, "private_block"):
        raise TypeError(f"like must be PETFacts, a PETImage or a pydicom dataset, got {type(like).__name__}")
    with _lenient():
        return _facts([facts], [facts])


# ---- SUV -------------------------------------------------------------------------------------------------------------


def _suv_type(kind: str) -> str:
    suv_type = _SUV_KINDS.get(kind.lower())
    if suv_type is None:
        raise ValueError(f"no SUV by {kind!r}; known: {', '.join(_SUV_KINDS)}")
    return suv_type


def _size(facts: PETFacts, suv_type: str) -> float:
    """What the dose is divided over: g, or cm2 for the body surface area."""
    weight = _required(facts, "weight")
    if weight > 500:
        raise ValueError(f"the weight is {weight:g} kg; given in g? " + _advice("weight", "70.0"))
    if suv_type == "BW":
        return 1000 * weight
    height = _required(facts, "height")
    if not 0.2 <= height <= 2.6:
        raise ValueError(f"the height is {height:g} m; given in cm? " + _advice("height", "1.75"))
    if suv_type == "BSA":
        return 1e4 * 0.007184 * weight**0.425 * (100 * height) ** 0.725
    size = 1000 * _BODIES[suv_type, _sex(facts)](weight, height)
    if size <= 0:
        raise ValueError(f"no {suv_type} for {weight:g} kg and {height:g} m: the formula gives {size / 1000:g} kg")
    return size


# kg from weight (kg) and height (m), as DICOM names the formulas: LBM is the one with the misprint, 120 for 128
_BODIES: dict[tuple[str, str], Callable[[float, float], float]] = {
    ("LBM", "M"): lambda w, h: 1.10 * w - 120 * (w / (100 * h)) ** 2,
    ("LBM", "F"): lambda w, h: 1.07 * w - 148 * (w / (100 * h)) ** 2,
    ("LBMJAMES128", "M"): lambda w, h: 1.10 * w - 128 * (w / (100 * h)) ** 2,
    ("LBMJAMES128", "F"): lambda w, h: 1.07 * w - 148 * (w / (100 * h)) ** 2,
    ("LBMJANMA", "M"): lambda w, h: 9270 * w / (6680 + 216 * w / h**2),
    ("LBMJANMA", "F"): lambda w, h: 9270 * w / (8780 + 244 * w / h**2),
    ("IBW", "M"): lambda w, h: 48.0 + 1.06 * (100 * h - 152),
    ("IBW", "F"): lambda w, h: 45.5 + 0.91 * (100 * h - 152),
}


def _sex(facts: PETFacts) -> str:
    sex = _required(facts, "sex")
    if sex not in ("M", "F"):
        raise ValueError(
            f"the formulas of lean body mass know the sexes M and F, not {sex!r}; " + _advice("sex", '"F"')
        )
    return sex


def _relative_size(facts: PETFacts, wanted: str, given: str) -> float:
    """The factor from SUV by `given` to SUV by `wanted`."""
    if wanted == given:
        return 1.0
    if given not in _SUV_KINDS.values() and given != "LBM":
        raise ValueError(f"the values are SUV of the unknown type {given!r}; " + _advice("suv_type", '"BW"'))
    return _size(facts, wanted) / _size(facts, given)


def _check_corrections(facts: PETFacts) -> None:
    needed = ("ATTN",) if facts.decay_correction == "NONE" else ("ATTN", "DECY")
    missing = [name for name in needed if name not in facts.corrections]
    if facts.corrections and missing:
        raise ValueError(
            f"CorrectedImage ({', '.join(facts.corrections)}) lacks {' and '.join(missing)}, which SUV needs; "
            + _advice("corrections", "()")
        )


def _becquerel_per_ml(facts: PETFacts) -> float:
    if facts.units == "BQML":
        return 1.0
    if facts.units == "CNTS" and facts.philips_activity_factor:
        return facts.philips_activity_factor
    raise ValueError(
        f"the image is in {facts.units}, which the file does not relate to Bq/mL; multiply it by its calibration and "
        + _advice("units", '"BQML"')
    )


def _decayed_dose(facts: PETFacts) -> float:
    """The injected dose in Bq at the moment the values are corrected to."""
    dose = 1e6 * _required(facts, "injected_dose")
    if facts.decay_correction == "ADMIN" and facts.decay_reference is None:
        return dose
    reference, injected, half_life = decay_reference_time(facts), _required(facts, "injection_time"), _half_life(facts)
    elapsed = (reference - injected).total_seconds()
    if (elapsed < 0 and facts.series_type != "DYNAMIC") or abs(elapsed) > _MOST_HALF_LIVES * half_life:
        raise ValueError(
            f"the injection ({injected}) and the time of the image ({reference}) are {elapsed / half_life:.3g} "
            "half-lives apart; dates changed by an anonymiser, or clocks that differ? "
            + _advice("injection_time", "datetime(...)")
        )
    _compare_with_decay_factor(facts, reference, half_life)
    return float(dose * 2 ** (-elapsed / half_life))


def _half_life(facts: PETFacts) -> float:
    half_life, known = _required(facts, "half_life"), _known_half_life(facts.radionuclide)
    if known and abs(half_life - known) > 0.05 * known:
        raise ValueError(
            f"the half-life is {half_life:g} s, that of {facts.radionuclide} is {known:g} s; given in minutes? "
            + _advice("half_life", f"{known:g}")
        )
    return half_life


def _compare_with_decay_factor(facts: PETFacts, reference: datetime, half_life: float) -> None:
    factor, duration = facts.decay_factor, facts.frame_duration
    if facts.decay_correction == "NONE" or not factor or factor == 1 or not duration or facts.frame_start is None:
        return
    implied = _mean_activity_time(facts) - timedelta(seconds=half_life * math.log2(factor))
    # scanners differ in whether the factor contains the decay during the frame
    if abs((implied - reference).total_seconds()) > duration + 60:
        warnings.warn(
            f"SUV: the rules say that the values are decay corrected to {reference}, DecayFactor {factor:g} says "
            f"{implied:%Y-%m-%d %H:%M:%S}; if that is right, " + _advice("decay_reference", "datetime(...)"),
            stacklevel=4,
        )


def _mean_activity_time(facts: PETFacts) -> datetime:
    """The moment t after the frame's start at which the activity is its mean: 2 ** (-t / half-life) = mean decay."""
    start, duration, half_life = (_required(facts, name) for name in ("frame_start", "frame_duration", "half_life"))
    return start - timedelta(seconds=half_life * math.log2(Isotope("", half_life).mean_decay(duration)))


def _check_one_bed(facts: PETFacts) -> None:
    if facts.n_beds > 1:
        raise ValueError(
            f"the {facts.n_beds} beds of this image are not decay corrected to one time (DecayCorrection NONE); "
            "correct each bed first"
        )


def _implied_by_frame_reference(facts: PETFacts) -> datetime | None:
    """The scan start FrameReferenceTime counts from: GE counts to the start of a frame, others to its mean activity."""
    start, offset = facts.frame_start, facts.frame_reference_time
    if start is None or offset is None or offset < 0:
        return None
    if (facts.manufacturer or "").upper().startswith("GE"):
        return start - timedelta(seconds=offset)
    with suppress(ValueError):
        return _mean_activity_time(facts) - timedelta(seconds=offset)
    return None


_NAMES = {
    "weight": ("the patient's weight in kg", "70.0"),
    "height": ("the patient's height in m", "1.75"),
    "sex": ("the patient's sex", '"F"'),
    "injected_dose": ("the injected dose in MBq", "350.0"),
    "injection_time": ("the date and time of the injection", "datetime(...)"),
    "half_life": ("the half-life in s", "6584.0"),
    "acquisition_time": ("the time of the series or of its first image", "datetime(...)"),
    "frame_start": ("the time the image began", "datetime(...)"),
    "frame_duration": ("the duration of the frame in s", "300.0"),
}


def _required(facts: PETFacts, name: str) -> Any:
    value = getattr(facts, name)
    if value is None:
        meaning, example = _NAMES[name]
        raise ValueError(f"{meaning} is needed, and the file does not tell for certain; {_advice(name, example)}")
    return value


def _advice(name: str, example: str) -> str:
    return f"pass dataclasses.replace(facts, {name}={example})"


# ---- writing ---------------------------------------------------------------------------------------------------------


def _writable(image: Any, grid: ImageGrid) -> np.ndarray:
    values = np.asarray(to_numpy(image))
    if values.shape != grid.shape:
        raise ValueError(
            f"write_dicom_pet: an image of shape {values.shape} does not fit a grid of {grid.shape}; one frame a series"
        )
    if values.dtype.kind not in "buif":
        raise ValueError(f"write_dicom_pet: a PET image holds real numbers, got {values.dtype}")
    values = values.astype(np.float64)
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise ValueError("write_dicom_pet: the image has values that are NaN, infinite or beyond float32")
    if max(grid.shape[:2]) > 65535:
        raise ValueError(f"write_dicom_pet: DICOM has at most 65535 rows and columns, got {grid.shape[:2]}")
    return values


def _series_dataset(facts: PETFacts, grid: ImageGrid, signed: bool) -> Any:
    """What all slices share: the patient, study, series, equipment and geometry."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = _study_attributes(facts) | _series_attributes(facts) | _image_attributes(grid, signed)
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def _study_attributes(facts: PETFacts) -> dict[str, Any]:
    """The modules Patient, General Study, Patient Study and Frame of Reference."""
    from pydicom.uid import generate_uid

    attributes: dict[str, Any] = dict.fromkeys(_EMPTY_WHERE_UNKNOWN, "")
    attributes["StudyInstanceUID"], attributes["FrameOfReferenceUID"] = generate_uid(None), generate_uid(None)
    return {
        **attributes,
        **facts.study,
        "PatientSex": facts.sex or "",
        "PatientWeight": _decimal(facts.weight),
        "PatientSize": _decimal(facts.height),
        "PatientPosition": facts.patient_position or "",
        **_patient_orientation(facts.patient_position),
    }


def _series_attributes(facts: PETFacts) -> dict[str, Any]:
    """The modules General Series, General Equipment, PET Series and PET Isotope, and the times of PET Image."""
    from pydicom.uid import generate_uid

    series_time, corrected = _series_time(facts), facts.decay_correction in ("START", "ADMIN")
    return {
        "Modality": "PT",
        "Manufacturer": "emrecon",
        "SoftwareVersions": _version(),
        "SeriesInstanceUID": generate_uid(None),
        "SeriesNumber": (facts.series_number or 0) + 1000,  # beside the series it comes from
        "SeriesDescription": (facts.series_description or "")[:64],
        **_when("Series", series_time),
        **_when("Acquisition", facts.frame_start),
        **_when("Content", datetime.now()),
        "SeriesType": ["WHOLE BODY" if facts.series_type == "WHOLE BODY" else "STATIC", "IMAGE"],
        "Units": facts.units or "BQML",
        "SUVType": facts.suv_type,
        "CountsSource": "EMISSION",
        "CollimatorType": "NONE",
        "CorrectedImage": [*(c for c in facts.corrections if c != "DECY"), *(["DECY"] if corrected else [])],
        "DecayCorrection": facts.decay_correction or "NONE",
        "DecayFactor": _decimal(_decay_factor(facts)) if corrected else None,
        "FrameReferenceTime": _decimal(1000 * _frame_reference_time(facts, series_time)),
        "ActualFrameDuration": "" if facts.frame_duration is None else round(1000 * facts.frame_duration),
        "RadiopharmaceuticalInformationSequence": [_tracer_item(facts)],
    }


def _image_attributes(grid: ImageGrid, signed: bool) -> dict[str, Any]:
    """The modules General Image, Image Plane, Image Pixel and SOP Common, as far as slices share them."""
    (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.voxel_size
    sizes, origin = (" ".join(map(repr, numbers)) for numbers in (grid.voxel_size, grid.origin))
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": _PET_STORAGE,
        "ImageType": ["DERIVED", "PRIMARY"],
        "DerivationDescription": f"image on a grid of {sizes} mm from {origin} mm",
        "LossyImageCompression": "00",
        "NumberOfSlices": nz,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [_decimal(dy), _decimal(dx)],
        "SliceThickness": _decimal(dz),
        "SpacingBetweenSlices": _decimal(dz),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": ny,
        "Columns": nx,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(signed),
        "RescaleIntercept": "0",
    }


def _put_slice(dataset: Any, values: np.ndarray, grid: ImageGrid, k: int, signed: bool) -> None:
    """Put slice k (columns, rows) into the dataset: stored = values / RescaleSlope, rounded."""
    from pydicom.uid import generate_uid

    largest = 32767 if signed else 65535
    slope = _decimal(max(float(np.abs(values).max()) / largest, np.finfo(np.float64).tiny) if values.any() else 1.0)
    # the slope is rounded to 16 characters first, so the values that are read are off by half a step at most
    stored = np.clip(np.rint(values / float(slope or 1)), -largest, largest)
    x, y, z = grid.origin
    z += k * grid.voxel_size[2]
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(None)
    dataset.file_meta.MediaStorageSOPClassUID = _PET_STORAGE
    dataset.InstanceNumber = dataset.ImageIndex = k + 1
    dataset.ImagePositionPatient = [_decimal(x), _decimal(y), _decimal(z)]
    dataset.SliceLocation = _decimal(z)
    dataset.RescaleSlope = slope
    dataset.PixelData = np.ascontiguousarray(stored.T).astype("<i2" if signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def _decimal(number: float | None) -> str | None:
    from pydicom.valuerep import format_number_as_ds

    return None if number is None else format_number_as_ds(float(number))


def _when(what: str, moment: datetime | None) -> dict[str, str]:
    return {
        f"{what}Date": f"{moment:%Y%m%d}" if moment else "",
        f"{what}Time": f"{moment:%H%M%S.%f}" if moment else "",
    }


def _series_time(facts: PETFacts) -> datetime:
    """SeriesTime: with START it is what the values are corrected to, whatever notes the original series had of that."""
    if facts.decay_correction == "START":
        return decay_reference_time(facts)
    return facts.series_time or facts.acquisition_time or datetime.now()


def _frame_reference_time(facts: PETFacts, series_time: datetime) -> float:
    """Seconds from the series to the mean activity of the frame, as far as the facts tell."""
    with suppress(ValueError):
        return (_mean_activity_time(facts) - series_time).total_seconds()
    return facts.frame_reference_time or 0.0


def _decay_factor(facts: PETFacts) -> float:
    """What the activity during the frame was multiplied by, as far as the facts tell."""
    with suppress(ValueError):
        elapsed = (_mean_activity_time(facts) - decay_reference_time(facts)).total_seconds()
        return float(2 ** (elapsed / _required(facts, "half_life")))
    return facts.decay_factor or 1.0


def _tracer_item(facts: PETFacts) -> Any:
    from pydicom.dataset import Dataset

    item, code = Dataset(), _radionuclide_code(facts.radionuclide)
    item.RadionuclideCodeSequence = [_code_item(code)] if code else []
    values = {
        "Radiopharmaceutical": facts.radiopharmaceutical,
        "RadionuclideTotalDose": _decimal(None if facts.injected_dose is None else 1e6 * facts.injected_dose),
        "RadionuclideHalfLife": _decimal(facts.half_life),
        "RadiopharmaceuticalStartTime": facts.injection_time and f"{facts.injection_time:%H%M%S.%f}",
        "RadiopharmaceuticalStartDateTime": facts.injection_time and f"{facts.injection_time:%Y%m%d%H%M%S.%f}",
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(item, keyword, value)
    return item


def _code_item(code: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _patient_orientation(position: str | None) -> dict[str, Any]:
    """The codes of a patient position such as HFS: recumbent, supine, head first; empty for others."""
    from pydicom.sr.codedict import codes

    first = {"HF": codes.cid21.Headfirst, "FF": codes.cid21.FeetFirst}.get((position or "")[:2])
    lying = {
        "S": codes.cid20.Supine,
        "P": codes.cid20.Prone,
        "DR": codes.cid20.RightLateralDecubitus,
        "DL": codes.cid20.LeftLateralDecubitus,
    }.get((position or "")[2:])
    if first is None or lying is None:
        return {"PatientOrientationCodeSequence": [], "PatientGantryRelationshipCodeSequence": []}
    recumbent = _code_item(codes.cid19.Recumbent)
    recumbent.PatientOrientationModifierCodeSequence = [_code_item(lying)]
    return {
        "PatientOrientationCodeSequence": [recumbent],
        "PatientGantryRelationshipCodeSequence": [_code_item(first)],
    }


def _version() -> str:
    try:
        return version("emrecon")
    except PackageNotFoundError:
        return "of unknown version"


@contextmanager
def _new_folder(folder: FilePath, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it takes its place, on any exception it is removed."""
    target = Path(os.path.realpath(folder))
    _check_folder(target, overwrite)
    temporary = target.with_name(f".{secrets.token_hex(6)}-{target.name[-48:]}")
    try:
        temporary.mkdir()
    except OSError as error:
        reason = "its parent folder does not exist" if error.errno == errno.ENOENT else error.strerror
        raise OSError(error.errno, f"cannot write the series, {reason}", str(target)) from error
    try:
        yield temporary
        _check_folder(target, overwrite)
        _move_into_place(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _check_folder(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, "cannot write the series, it is a file; name a folder", str(target))
    names = sorted(os.listdir(target))
    if names and not overwrite:
        raise FileExistsError(
            errno.EEXIST,
            "cannot write the series, the folder is not empty; pass overwrite=True to replace it",
            str(target),
        )
    other = next((name for name in names if not re.fullmatch(r"\d{4,}\.dcm", name)), None)
    if other is not None:
        raise FileExistsError(
            errno.EEXIST, f"cannot replace the folder, {other} in it is not of a written series", str(target)
        )


def _move_into_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        return
    old = target.with_name(f".{secrets.token_hex(6)}-old")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
