"""Files and folders of nuclear medicine, read by what they hold: projections, planar images, reconstructed images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.errors import FormatError

from ..attributes import FilePath, items_of, lenient, number_of, text_of
from ..series import headers_of, modality_of, start_of
from .acquisitions import acquisition_of
from .assembling import NMScan, assembled
from .given import IMAGE_OVERRIDES, PLANAR_OVERRIDES, SCAN_OVERRIDES, Given, check_names
from .header import PLANAR, RECONSTRUCTED, TOMOGRAPHIC, floats_of, tag, type_of
from .images import NMImage, image_of
from .notes import Notes
from .planar import PlanarImages, planar_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_File = tuple[Path, "Dataset"]
_LONGEST = timedelta(hours=3)
_APART = 0.3  # of the field of view, between beds of one acquisition
_NM_STORAGE = "1.2.840.10008.5.1.4.1.1.20"


def read_dicom_nm(path: FilePath | Iterable[FilePath], **overrides: object) -> NMScan:
    """Return the projections of DICOM files of nuclear medicine, of TOMO and GATED TOMO.

    Args:
        path : a file, a folder (with its subfolders; other files are passed over), or a list of files that belong
            together: beds, energy windows, heads or time frames in files of their own.
        overrides : values that replace those of the file; `NM_OVERRIDES` says which there are and what each of them is.

    Returns a `Scan`; a `WindowedScan` of several energy windows; a `DynamicScan` where the camera turned several times
    over the same views, a `GatedScan` where there are gates, and a `WindowedSeries` for these in several windows; a
    `BedScan` of scans or windowed scans where the table moved.

    counts : (views, bins, rows) in the number format of the file. The views of a head follow each other, with `head` to
    tell heads apart. Angles are those of DICOM, about the patient. `Study.placement` is where the scan lies in the
    patient's LPS; `axial_shift` differs between beds. What the file does not say and is assumed is logged as a warning
    of "emrecon".

    Raises FileNotFoundError; TypeError for overrides that do not exist; FormatError (a ValueError) naming the file and
    the attribute for what is missing, contradictory or damaged.

    Source: DICOM PS3.3, C.8.4.
    """
    check_names(overrides, SCAN_OVERRIDES)
    notes = Notes()
    with lenient():
        files = _chosen(path, TOMOGRAPHIC, overrides, notes)
        given = Given(_shown(path, files), overrides)
        scan = assembled([acquisition_of(file, header, given, notes) for file, header in files], given, notes)
    notes.tell()
    return scan


def read_planar(path: FilePath | Iterable[FilePath], **overrides: object) -> PlanarImages:
    """Return the planar images (STATIC, WHOLE BODY, DYNAMIC, GATED) of a DICOM file of nuclear medicine.

    Args:
        overrides : series, pixel_size (mm), energy_windows (LOWER:UPPER of each, keV), duration (s of an image),
            radionuclide and scale replace values of the file.

    Raises as `read_dicom_nm` does.
    """
    check_names(overrides, PLANAR_OVERRIDES)
    notes = Notes()
    with lenient():
        ((file, header), *others) = _chosen(path, PLANAR, overrides, notes)
        if others:
            raise FormatError(
                f"{_where(path)} holds {len(others) + 1} files of planar images, such as {file.name} and "
                f"{others[0][0].name}; name one of them"
            )
        images = planar_of(file, header, Given(file, overrides), notes)
    notes.tell()
    return images


def read_dicom_nm_image(path: FilePath | Iterable[FilePath], **overrides: object) -> NMImage:
    """Return the reconstructed image (RECON TOMO, RECON GATED TOMO) of a DICOM file of nuclear medicine.

    Args:
        overrides : series, orientation (six direction cosines), position (mm, LPS), pixel_size (mm), slice_spacing (mm,
            negative where slices are stacked against the normal), gate and rr_interval (to read one), scale and unit
            replace values of the file.

    value = slope x stored + intercept, of RealWorldValueMappingSequence where it is there, else of RescaleSlope and
    RescaleIntercept; the unit is that of the mapping, or Units. The image is (x, y, z), or (gates, x, y, z).

    Raises as `read_dicom_nm` does, and FormatError for images that are oblique to the patient's axes.
    """
    check_names(overrides, IMAGE_OVERRIDES)
    notes = Notes()
    with lenient():
        ((file, header), *others) = _chosen(path, RECONSTRUCTED, overrides, notes)
        if others:
            raise FormatError(
                f"{_where(path)} holds {len(others) + 1} reconstructed images, such as {file.name} and "
                f"{others[0][0].name}; choose one by series=, or name the file"
            )
        image = image_of(file, header, Given(file, overrides), notes)
    notes.tell()
    return image


def nm_kind(path: FilePath) -> str | None:
    """Return what a file or folder holds of nuclear medicine: "tomo", "planar" or "image", None for nothing of it.

    Of several, projections come first.
    """
    with lenient():
        headers, _ = headers_of(path)
        kinds = {type_of(header) for _, header in headers if is_nm(header)}
    for name, types in (("tomo", TOMOGRAPHIC), ("image", RECONSTRUCTED), ("planar", PLANAR)):
        if kinds & set(types):
            return name
    return None


def is_nm(header: Dataset) -> bool:
    """Whether a file is of nuclear medicine, by its modality; files of another SOP class may be."""
    return modality_of(header) == "NM" or text_of(header, "SOPClassUID") == _NM_STORAGE


# ---- which files -----------------------------------------------------------------------------------------------------


def _where(path: FilePath | Iterable[FilePath]) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else "the list of files"


def _shown(path: FilePath | Iterable[FilePath], files: list[_File]) -> Path:
    return Path(path) if isinstance(path, (str, os.PathLike)) else files[0][0]


def _chosen(
    path: FilePath | Iterable[FilePath], types: tuple[str, ...], overrides: Mapping[str, object], notes: Notes
) -> list[_File]:
    """The files of the wanted types, of one series or of several that belong together."""
    headers, folder = headers_of(path)
    found = [(file, header) for file, header in headers if is_nm(header)]
    wanted = [(file, header) for file, header in found if type_of(header) in types]
    if not folder and len(wanted) < len(headers) and (isinstance(path, (str, os.PathLike)) or types == TOMOGRAPHIC):
        file, header = next(
            (file, header) for file, header in headers if type_of(header) not in types or not is_nm(header)
        )
        raise _other(file, header, types)
    if not wanted:
        raise _none(path, headers, found, types)
    _check_distinct(wanted)
    series = overrides.get("series")
    groups: dict[str, list[_File]] = {}
    for file, header in wanted:
        groups.setdefault(text_of(header, "SeriesInstanceUID") or "", []).append((file, header))
    if series is not None:
        matches = [group for uid, group in groups.items() if str(series) in (uid, _number(group[0][1]))]
        if len(matches) != 1:
            raise FormatError(
                f"{_where(path)} holds {'no' if not matches else 'more than one'} series {str(series)[:70]!r}; choose "
                "one by series=:\n" + _listed(groups)
            )
        return matches[0]
    if len(groups) == 1 or types != TOMOGRAPHIC:
        return wanted
    if not _belong_together(groups):
        raise FormatError(
            f"{_where(path)} holds several series of projections; choose one by series=:\n" + _listed(groups)
        )
    notes.add(
        _shown(path, wanted),
        f"{len(groups)} series of one study are read as the beds or energy windows of one acquisition; choose one by "
        "series= to say otherwise",
    )
    return wanted


def _belong_together(groups: dict[str, list[_File]]) -> bool:
    """Whether series are parts of one acquisition: of one study, within hours, and beds or energy windows of their own.

    Two scans of a day, such as at stress and at rest, may lie a little apart: beds overlap by less.
    """
    headers = [header for group in groups.values() for _, header in group]
    studies = {text_of(header, "StudyInstanceUID") for header in headers}
    starts = [start for header in headers if (start := start_of(header)) is not None]
    if len(studies) > 1 or (starts and max(starts) - min(starts) > _LONGEST):
        return False
    parts: dict[tuple[float, ...], list[float]] = {}
    for header in headers:
        place = _place_of(header)
        if place is None:
            return False
        parts.setdefault(_limits_of(header), []).append(place)
    field = max((number_of(h, "Rows") or 0) * (number_of(h, "PixelSpacing") or 0) for h in headers)
    if any(later - earlier < _APART * field for part in parts.values() for earlier, later in pairwise(sorted(part))):
        return False
    lists = [sorted(part) for part in parts.values()]
    return all(len(part) == len(lists[0]) and np.allclose(part, lists[0], atol=0.5) for part in lists)


def _place_of(header: Dataset) -> float | None:
    """z of the first pixel, or the position of the table, in mm."""
    for sequence, keyword in (
        ("DetectorInformationSequence", "ImagePositionPatient"),
        ("RotationInformationSequence", "TableTraverse"),
    ):
        for item in items_of(header, sequence):
            values = floats_of(Path(""), item, keyword)
            if values is not None:
                return float(values[-1])
    return None


def _limits_of(header: Dataset) -> tuple[float, ...]:
    """The limits of all energy windows, keV."""
    ranges = [
        part
        for window in items_of(header, "EnergyWindowInformationSequence")
        for part in items_of(window, "EnergyWindowRangeSequence")
    ]
    names = ("EnergyWindowLowerLimit", "EnergyWindowUpperLimit")
    return tuple(round(number_of(part, name) or 0.0, 2) for part in ranges for name in names)


def _number(header: Dataset) -> str | None:
    return text_of(header, "SeriesNumber")


def _listed(groups: dict[str, list[_File]]) -> str:
    lines = []
    for uid, group in list(groups.items())[:20]:
        header = group[0][1]
        text = text_of(header, "SeriesDescription") or ""
        lines.append(f'  series="{uid}" (number {_number(header) or "none"}, {len(group)} files) {text}'.rstrip())
    return "\n".join(lines)


def _check_distinct(files: list[_File]) -> None:
    seen: dict[str, Path] = {}
    for file, header in files:
        uid = text_of(header, "SOPInstanceUID")
        if uid and uid in seen:
            raise FormatError(f"{file} and {seen[uid]} are the same file ({tag('SOPInstanceUID')}); a copy?")
        seen[uid or ""] = file


def _other(file: Path, header: Dataset, types: tuple[str, ...]) -> FormatError:
    """Why a file cannot be read as what was asked for, and what reads it."""
    if not is_nm(header):
        return FormatError(f"{file} is {modality_of(header)}, not NM (nuclear medicine); the wrong file or reader?")
    kind = type_of(header)
    for others, reader in (
        (TOMOGRAPHIC, "projections: use read_scan"),
        (RECONSTRUCTED, "a reconstructed image: use read_image or read_dicom_nm_image"),
        (PLANAR, "planar images, which cannot be reconstructed: use read_planar"),
    ):
        if kind in others:
            return FormatError(f"{file} is {kind} ({tag('ImageType')}), {reader}")
    said = f"is {kind[:40]}" if kind else "does not say what it is"
    return FormatError(f"{file}: {tag('ImageType')} {said}; expected {', '.join(types)}")


def _none(
    path: FilePath | Iterable[FilePath], headers: list[_File], found: list[_File], types: tuple[str, ...]
) -> FormatError:
    if len(found) == 1:
        return _other(*found[0], types)
    kinds = Counter(f"NM {type_of(h) or 'of no type'}" if is_nm(h) else modality_of(h) for _, h in headers)
    said = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "no DICOM files"
    return FormatError(f"{_where(path)} holds {said}, and no {' or '.join(types)}; the wrong folder or reader?")
