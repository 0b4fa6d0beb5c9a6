"""RT structure sets: contours of organs and lesions in the patient's coordinates, rasterised onto a grid."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import FormatError

from .attributes import items_of, number_of, text_of, texts_of, without_patient
from .regions import usual_spacing, volume_shares

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LOG = logging.getLogger("emrecon")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_FLAT = 0.05  # mm; contours are written with few digits
_ROUND = 2  # digits of mm that tell planes apart
_MOST_POINTS = 10_000_000


@dataclass
class _Structure:
    """A region of interest: axis -> height -> contours."""

    name: str
    frame: str | None
    planes: dict[int, dict[float, list[np.ndarray]]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def structure_masks(path: Path, header: Dataset, grid: ImageGrid, frame: str | None) -> dict[str, np.ndarray]:
    """Return name -> bool (x, y, z) of every structure of an RTSTRUCT, voxels of which half or more are inside.

    Args:
        grid : in the patient's LPS coordinates.
        frame : of reference that the grid is in, None where it is not known.

    Raises FormatError for files without contours, contours that are not planar or oblique to the patient's axes, and
    where no structure touches the grid.
    """
    structures = list(_structures(path, header))
    _check_frame(path, structures, frame)
    known = [usual_spacing(list(planes)) for item in structures for planes in item.planes.values()]
    smallest = min((value for value in known if value), default=None)
    masks = {}
    for item, name in zip(structures, unique_names([item.name for item in structures])):
        if not item.planes and not item.others:
            _LOG.warning("%s: %s has no contours and is left out", path.name, name)
        if item.others:
            _LOG.warning("%s: %s has %s, which are left out", path.name, name, ", ".join(sorted(set(item.others))))
        if item.planes:
            masks[name] = _mask(path, name, item, grid, smallest)
    if not masks:
        raise FormatError(f"{path} holds no closed contours; an empty structure set?")
    require_some(path, masks, grid)
    return masks


def unique_names(names: list[str]) -> list[str]:
    """Return names of which each occurs once: "liver", "liver (2)"."""
    found: list[str] = []
    for name in names:
        count, unique = 1, name
        while unique in found:
            count += 1
            unique = f"{name} ({count})"
        found.append(unique)
    return found


def require_some(path: Path, masks: dict[str, np.ndarray], grid: ImageGrid) -> None:
    """Raise FormatError where all masks are empty, and log those that are."""
    empty = [name for name, mask in masks.items() if not mask.any()]
    if len(empty) == len(masks):
        first, last = np.array(grid.origin), np.array(grid.origin) + (np.array(grid.shape) - 1) * grid.voxel_size
        raise FormatError(
            f"{path}: no region lies on the grid, which runs from {_shown(first)} to {_shown(last)} mm (LPS); "
            "another patient, or a grid in the coordinates of the scan without study=?"
        )
    for name in empty:
        _LOG.warning("%s: the mask of %s is empty: outside of the grid, or smaller than a voxel", path.name, name)


def _shown(place: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.0f}" for value in place) + ")"


def _structures(path: Path, header: Dataset) -> Iterator[_Structure]:
    names = {}
    for item in items_of(header, "StructureSetROISequence"):
        names[number_of(item, "ROINumber")] = item
    contours = items_of(header, "ROIContourSequence")
    if not contours:
        raise FormatError(f"{path} holds no contours (ROIContourSequence); an empty or damaged structure set?")
    n_points = 0
    for item in contours:
        number = number_of(item, "ReferencedROINumber")
        about = names.get(number)
        if about is None:
            raise FormatError(f"{path}: contours belong to region {number}, which no StructureSetROISequence names")
        name = without_patient(header, text_of(about, "ROIName") or f"region {number:g}")
        found = _Structure(name, text_of(about, "ReferencedFrameOfReferenceUID"))
        for contour in items_of(item, "ContourSequence"):
            kind = (text_of(contour, "ContourGeometricType") or "").upper()
            if kind not in _CLOSED:
                found.others.append(f"contours of type {kind or 'unknown'}")
                continue
            points = _points(path, name, contour)
            n_points += len(points)
            if n_points > _MOST_POINTS:
                raise FormatError(f"{path} holds more than {_MOST_POINTS} points; damaged?")
            if len(points) < 3:
                found.others.append("closed contours of fewer than 3 points")
                continue
            axis, height, flat = _plane(path, name, points)
            beside = found.planes.setdefault(axis, {}).setdefault(round(height, _ROUND), [])
            if any(np.array_equal(flat, other) for other in beside):  # twice would make a hole of it
                found.others.append("contours that are there twice")
                continue
            beside.append(flat)
        yield found


def _points(path: Path, name: str, contour: Dataset) -> np.ndarray:
    try:
        values = np.array([float(value) for value in texts_of(contour, "ContourData")])
    except ValueError as error:
        raise FormatError(f"{path}: a contour of {name} holds what is no number ({error})") from error
    announced = number_of(contour, "NumberOfContourPoints")
    if values.size % 3 or not np.isfinite(values).all():
        raise FormatError(f"{path}: a contour of {name} has {values.size} numbers, not three by point; truncated?")
    if announced is not None and announced * 3 != values.size:
        raise FormatError(
            f"{path}: a contour of {name} announces {announced:g} points and holds {values.size / 3:g}; truncated?"
        )
    return values.reshape(-1, 3)


def _plane(path: Path, name: str, points: np.ndarray) -> tuple[int, float, np.ndarray]:
    """The axis that a contour is perpendicular to, where, and its points along the other two."""
    extent = np.ptp(points, 0)
    axis = int(extent[::-1].argmin())
    axis = 2 - axis  # axial where several are flat
    if extent[axis] > _FLAT:
        raise FormatError(
            f"{path}: a contour of {name} is oblique to the patient's axes ({extent[axis]:.3g} mm off a plane); "
            "draw it on axial, coronal or sagittal slices"
        )
    return axis, float(points[:, axis].mean()), np.delete(points, axis, 1)


def _mask(path: Path, name: str, item: _Structure, grid: ImageGrid, smallest: float | None) -> np.ndarray:
    if len(item.planes) > 1:
        raise FormatError(f"{path}: {name} is drawn on slices of several directions; keep one of them")
    ((axis, planes),) = item.planes.items()
    own = usual_spacing(list(planes))
    spacing = own or smallest or grid.voxel_size[axis]
    if own is None:
        _LOG.warning("%s: %s has one plane of contours, which is taken to be %.3g mm thick", path.name, name, spacing)
    shares, gaps = volume_shares(planes, spacing, axis, grid)
    if gaps:
        _LOG.warning(
            "%s: %s has %d gaps of more than 2.5 slices (%.3g mm), which are left empty",
            path.name,
            name,
            gaps,
            spacing,
        )
    if _reaches_out(planes, spacing, axis, grid):
        _LOG.warning("%s: %s goes on beyond the grid, where it is cut off", path.name, name)
    inside: np.ndarray = shares >= 0.5
    return inside


def _reaches_out(planes: dict[float, list[np.ndarray]], spacing: float, axis: int, grid: ImageGrid) -> bool:
    points = np.concatenate([part for parts in planes.values() for part in parts])
    heights = np.array([min(planes) - spacing / 2, max(planes) + spacing / 2])
    low, high = np.insert(points.min(0), axis, heights[0]), np.insert(points.max(0), axis, heights[1])
    half = np.array(grid.voxel_size) / 2
    first, last = np.array(grid.origin) - half, grid.origin + (np.array(grid.shape) - 1) * grid.voxel_size + half
    return bool((low < first - half).any() or (high > last + half).any())


def _check_frame(path: Path, structures: list[_Structure], frame: str | None) -> None:
    own = {item.frame for item in structures if item.frame}
    if frame is not None and own and frame not in own:
        _LOG.warning(
            "%s: contours and scan have different frames of reference; their coordinates are taken for the same",
            path.name,
        )
