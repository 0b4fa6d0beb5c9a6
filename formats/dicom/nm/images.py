"""Reconstructed images of nuclear medicine, RECON TOMO and RECON GATED TOMO, on their grid in the patient's LPS.

Source: DICOM PS3.3, NM Reconstruction module (C.8.4.15): slices are stacked along the cross product of the directions
of rows and columns where SpacingBetweenSlices is positive, and against it where it is negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emrecon.projectors import ImageGrid, Study
from emrecon.projectors.core.errors import FormatError, naming

from ..attributes import items_of, text_of
from ..units import IMAGE_UNITS, unit_of_mapping
from .circumstances import study_of
from .frames import counted
from .given import Given
from .header import RECONSTRUCTED, floats_of, matrix_of, single_of, tag, type_of
from .notes import Notes
from .pixels import pixel_size_of, rescaled, stored_of
from .vectors import OF_IMAGE, vectors_of
from .windows import nuclide_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_OBLIQUE = 1e-3
_UNITS = {known.pet: name for name, known in IMAGE_UNITS.items() if known.pet} | {"CPS": "counts/s", "GML": "g/mL"}
_MU_SCALE = (0x0033, 0x38)  # of Siemens' attenuation maps


@dataclass(frozen=True)
class Mapping:
    """What stored numbers mean: value = slope x stored + intercept, in a unit."""

    slope: float
    intercept: float
    unit: str


class NMImage(NamedTuple):
    """A reconstructed image of nuclear medicine.

    Args:
        image : (x, y, z), or (gates, x, y, z), float32.
        grid : in the patient's LPS mm.
        unit : of the values, such as "Bq/mL" or "counts".
        kind : "RECON TOMO" or "RECON GATED TOMO".
        radionuclide : a name `isotope` knows, or None.
        study : patient, tracer, times and camera; its placement is (0, 0, 0), as the grid is the patient's, or None
            where the file does not say where the image lies.
    """

    image: np.ndarray
    grid: ImageGrid
    unit: str
    kind: str
    radionuclide: str | None
    study: Study


def image_of(path: Path, header: Dataset, given: Given, notes: Notes) -> NMImage:
    """Return the image of a file; raises FormatError where it cannot be used."""
    kind = type_of(header)
    if kind not in RECONSTRUCTED:
        raise FormatError(f"{path} is {kind or 'of no known type'} ({tag('ImageType')}), not {RECONSTRUCTED[0]}")
    n_frames, _, _ = matrix_of(path, header)
    slices, gates = _slices_of(path, header, n_frames, given, notes)
    volume, unit = _values(path, header, given, notes)
    if gates is None:
        volume = volume[np.argsort(slices)]
        parts = [volume]
    else:
        parts = [volume[gates == gate][np.argsort(slices[gates == gate])] for gate in np.unique(gates) if gate > 0]
    axes, corner, spacing = _geometry(path, header, parts[0].shape, given, notes)
    turned = [_turned(part, axes, corner, spacing) for part in parts]
    shape, voxel, origin = turned[0][0].shape, turned[0][1], turned[0][2]
    with naming(path):
        grid = ImageGrid(shape, voxel, origin)  # type: ignore[arg-type]  # three of each
    image = turned[0][0] if len(turned) == 1 else np.stack([part[0] for part in turned])
    nuclide = nuclide_of(path, header, [], given, Notes())
    study = study_of(path, header, nuclide, given, Notes())
    placed = _has_place(path, header, given)
    with naming(path):
        study = replace(study, placement=(0.0, 0.0, 0.0) if placed else None)
    return NMImage(np.ascontiguousarray(image, np.float32), grid, unit, kind, nuclide, study)


def _slices_of(
    path: Path, header: Dataset, n_frames: int, given: Given, notes: Notes
) -> tuple[np.ndarray, np.ndarray | None]:
    """The slice of each frame, and its gate where there are several: -1 for those of other gates."""
    vectors = vectors_of(path, header, n_frames, OF_IMAGE, notes)
    if vectors["detector"] is None:
        vectors["detector"] = np.ones(n_frames, int)
    for name in ("window", "detector"):
        if len(np.unique(vectors[name])) > 1:  # type: ignore[arg-type]
            raise FormatError(
                f"{path}: {tag('EnergyWindowVector' if name == 'window' else 'DetectorVector')} tells "
                "several volumes apart, which a reconstructed image does not have"
            )
    interval, slot = np.asarray(vectors["interval"]), np.asarray(vectors["slot"])
    taken = np.ones(n_frames, bool)
    for name, values in (("rr_interval", interval), ("gate", slot)):
        wanted = given.count(name)
        if wanted is not None:
            if wanted not in values:
                raise FormatError(f"{path}: there is no {name}={wanted}; it has 1 to {values.max()}")
            taken &= values == wanted
    if len(np.unique(interval[taken])) > 1:
        raise FormatError(
            f"{path}: {len(np.unique(interval))} R-R intervals ({tag('RRIntervalVector')}); choose one by rr_interval="
        )
    running = vectors["slice"]
    if running is None:
        running = counted([interval, slot])
    keys = np.stack([interval, slot, running])
    if np.unique(keys, axis=1).shape[1] < n_frames:
        raise FormatError(f"{path}: {tag('SliceVector')} gives several frames the same slice; damaged header?")
    n_slices = len(np.unique(running[taken]))
    if n_slices != running[taken].max() or taken.sum() != n_slices * len(np.unique(slot[taken])):
        raise FormatError(
            f"{path}: {tag('SliceVector')} goes up to {running[taken].max()}, but there are {n_slices} slices; frames "
            "lost?"
        )
    if taken.all() and len(np.unique(slot)) == 1:
        return running, None
    return running, np.where(taken, slot, -1)


def _values(path: Path, header: Dataset, given: Given, notes: Notes) -> tuple[np.ndarray, str]:
    """All frames as float32 in their unit, which is returned, too."""
    stored = stored_of(path, header)
    unit = given.text("unit")
    scale = given.number("scale")
    if scale is not None:
        return rescaled(path, header, stored, scale).astype(np.float32), unit or ""
    mapping = mapping_of(path, header)
    mu = _mu_scale(header)
    if mapping is not None:
        slope = single_of(path, header, "RescaleSlope")
        if slope is not None and slope != 1 and not np.isclose(slope, mapping.slope, rtol=1e-3):
            notes.add(
                path,
                f"{tag('RealWorldValueMappingSequence')} (x {mapping.slope:g}) is used, not {tag('RescaleSlope')} "
                f"{slope:g}",
            )
        with np.errstate(over="ignore"):
            values = (stored * mapping.slope + mapping.intercept).astype(np.float32)
        if mapping.slope == 0 or not np.isfinite(values).all():
            raise FormatError(f"{path}: {tag('RealWorldValueMappingSequence')} gives no usable values; pass scale=")
        return values, unit or mapping.unit
    values = rescaled(path, header, stored)
    units = (text_of(header, "Units") or "").upper()
    said = _UNITS.get(units, units)
    if mu is not None and single_of(path, header, "RescaleSlope") in (None, 1.0):
        notes.add(path, f"values are divided by the private (0033,xx38), {mu:g}, to 1/cm; pass scale= to say otherwise")
        return (values / mu).astype(np.float32), unit or "1/cm"
    if not said and unit is None:
        notes.add(path, "the file does not say the unit of its values; they are taken as counts, pass unit=")
        said = "counts"
    return values.astype(np.float32), unit or said


def unit_of(path: Path, header: Dataset) -> str:
    """Return the unit of the values of an image by its header, "counts" where it says none."""
    mapping = mapping_of(path, header)
    if mapping is not None:
        return mapping.unit
    if _mu_scale(header) is not None and single_of(path, header, "RescaleSlope") in (None, 1.0):
        return "1/cm"
    units = (text_of(header, "Units") or "").upper()
    return _UNITS.get(units, units) or "counts"


def mapping_of(path: Path, header: Dataset) -> Mapping | None:
    """Return the linear RealWorldValueMapping of a file, None where there is none."""
    for item in items_of(header, "RealWorldValueMappingSequence"):
        parts = [floats_of(path, item, name) for name in ("RealWorldValueSlope", "RealWorldValueIntercept")]
        if parts[0] is None:
            continue
        codes = items_of(item, "MeasurementUnitsCodeSequence")
        code = text_of(codes[0], "CodeValue") if codes else None
        unit = unit_of_mapping(item)
        return Mapping(
            float(parts[0][0]), 0.0 if parts[1] is None else float(parts[1][0]), (code or "") if unit is None else unit
        )
    return None


def _mu_scale(header: Dataset) -> float | None:
    try:
        entry = next(e for e in header if e.tag.group == _MU_SCALE[0] and e.tag.element & 0xFF == _MU_SCALE[1])
        value = float(entry.value)
        return value if np.isfinite(value) and value > 0 and entry.tag.element > 0xFF else None
    except Exception:  # not there, or damaged
        return None


# ---- where it lies ---------------------------------------------------------------------------------------------------


def _has_place(path: Path, header: Dataset, given: Given) -> bool:
    return given.has("position") or _from_detector(path, header, "ImagePositionPatient") is not None


def _from_detector(path: Path, header: Dataset, keyword: str) -> np.ndarray | None:
    """A value of the detector's item, where the standard has it for nuclear medicine, or of the header."""
    for item in (*items_of(header, "DetectorInformationSequence"), header):
        values = floats_of(path, item, keyword)
        if values is not None:
            return values
    return None


def _geometry(
    path: Path, header: Dataset, shape: tuple[int, ...], given: Given, notes: Notes
) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float, float]]:
    """Axes along (columns, rows, slices) as columns, the centre of the first pixel, and their spacing."""
    cosines = given.numbers("orientation", 6)
    if cosines is None:
        cosines = _from_detector(path, header, "ImageOrientationPatient")
    if cosines is None:
        notes.add(
            path,
            f"{tag('ImageOrientationPatient')} is missing: rows are taken to run to the patient's left, columns to the "
            "back; pass orientation=",
        )
        cosines = np.array([1.0, 0, 0, 0, 1, 0])
    if cosines.size != 6:
        raise FormatError(f"{path}: {tag('ImageOrientationPatient')} has {cosines.size} numbers, expected 6")
    row, column = cosines.reshape(2, 3)
    axes = np.stack([row, column, np.cross(row, column)], 1)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=10 * _OBLIQUE):
        raise FormatError(
            f"{path}: {tag('ImageOrientationPatient')} is no pair of perpendicular unit vectors; damaged?"
        )
    if (np.sort(np.abs(axes), 0)[:2] > _OBLIQUE).any():
        raise FormatError(
            f"{path} is oblique to the patient's axes ({tag('ImageOrientationPatient')}), as slices of the heart are; "
            "resample it to transverse slices, or pass orientation=1,0,0,0,1,0 to read it in axes of its own"
        )
    position = given.numbers("position", 3)
    if position is None:
        position = _from_detector(path, header, "ImagePositionPatient")
    if position is not None and position.size != 3:
        raise FormatError(f"{path}: {tag('ImagePositionPatient')} has {position.size} numbers, expected 3")
    if position is None:
        notes.add(
            path,
            f"{tag('ImagePositionPatient')} is missing: the image is centred on (0, 0, 0), and where it lies in the "
            "patient is not known; pass position=",
        )
    return axes, position, _spacing(path, header, shape[0], given, notes)


def _spacing(path: Path, header: Dataset, n_slices: int, given: Given, notes: Notes) -> tuple[float, float, float]:
    pixel = given.pixel_size() or pixel_size_of(path, header)
    if pixel is None:
        raise FormatError(f"{path}: {tag('PixelSpacing')} is missing; pass pixel_size= in mm")
    along = given.number("slice_spacing") or single_of(path, header, "SpacingBetweenSlices")
    if not along:
        along = single_of(path, header, "SliceThickness")
        if not along or along < 0:
            raise FormatError(
                f"{path}: {tag('SpacingBetweenSlices')} and {tag('SliceThickness')} are missing; pass slice_spacing= "
                "in mm"
            )
        if n_slices > 1:
            notes.add(
                path,
                f"{tag('SpacingBetweenSlices')} is missing; slices are taken to be {along:g} mm apart, "
                f"their {tag('SliceThickness')}",
            )
    return pixel[0], pixel[1], along


def _turned(
    volume: np.ndarray, axes: np.ndarray, corner: np.ndarray | None, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...] | None]:
    """The volume (slices, rows, columns) as (x, y, z), its voxels, and the centre of the first."""
    image = volume.transpose(2, 1, 0)
    patient = np.abs(axes).argmax(0)
    steps = np.array(spacing) * axes[patient, range(3)]
    origin = None if corner is None else np.array(corner, float)
    for axis in range(3):
        if steps[axis] < 0:
            image = np.flip(image, axis)
            if origin is not None:
                origin[patient[axis]] += (image.shape[axis] - 1) * steps[axis]
    order = np.argsort(patient)
    voxel = tuple(np.abs(steps)[order].tolist())
    return image.transpose(order), voxel, None if origin is None else tuple(origin.tolist())
