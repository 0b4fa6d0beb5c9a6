"""Interfile 3.3: SPECT projections as STIR, SIMIND and GATE write them; docs/interfile.md lists keys and traps."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from emrecon.projectors import Scan, SPECTGeometry
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.errors import FormatError, naming

from .entries import (
    axes_of,
    axis_lines,
    energy_window_of,
    first_lines,
    one_line,
    radionuclide_of,
    stir_name,
    window_lines,
    writable,
    write_pair,
)
from .header import DATA_OVERRIDES, Header, count, load_header, positive, read_values, short, text
from .orbits import (
    ORBIT_OVERRIDES,
    check_collimation,
    duration_of,
    geometry_of,
    heads_of,
    interfile_angle,
    lying_of,
    views_of,
)
from .parts import PART_OVERRIDES, Parts, one_part, parts_of

__all__ = ["Projections", "read_interfile", "read_projections", "write_interfile"]

SCAN_OVERRIDES = (
    *ORBIT_OVERRIDES,
    *("n_bins", "pixel_size", "radionuclide", "energy_window", "description", "background", "factors"),
    *PART_OVERRIDES,
    *DATA_OVERRIDES,
)

T = TypeVar("T")

_PROJECTION_AXES = ("bin", "axial", "view")
_PROJECTION_LABELS = {
    "bin coordinate": "bin",
    "tangential coordinate": "bin",
    "axial coordinate": "axial",
    "view": "view",
    "angle": "view",
}
_TOMOGRAPHIC = ("", "tomographic", "tomo", "spect", "gated tomographic", "gated tomo", "gated spect", "gspect")


def read_interfile(header_path: str | os.PathLike[str], **overrides: object) -> Scan:
    """Return the scan that an Interfile SPECT header describes.

    counts : (views, bins, rows) in the file's own number format, contiguous; the file holds [view][axial][bin] unless
    its axis labels say otherwise. The views of several heads follow each other, with `head` to tell them. Angles become
    those of `SPECTGeometry`, in the axes of the patient: prone, on the side and feet in are turned to head first and
    supine (feet in turns bins and rows round). Units: mm, degrees, seconds, keV.

    Every value of the header can be replaced: n_heads, n_views (of each head), n_bins (bins, rows), pixel_size (bin,
    axial) mm, start_angle (degrees, as in the header), direction "cw" or "ccw", extent (degrees), angles (degrees, as
    in `SPECTGeometry`, of all views of all heads; replaces those before), radius (mm, one, one per head or one per
    view), shift, axial_shift (mm), head, patient_orientation, patient_rotation (as in the header), parallel_holes
    (True: the header is wrong about the collimator), duration (s per view), radionuclide, energy_window (keV),
    description, background, factors, byte_order "LITTLEENDIAN" or "BIGENDIAN", number_format (as in the header),
    bytes_per_pixel, data_offset (bytes), data_file and scale. start_angle, direction, extent, n_views and duration may
    be lists of one for each head. window (1, 2, ...) chooses an energy window, frame or gate (1, 2, ...) one part of a
    dynamic or gated file, which `read_dynamic` and `read_gated` read as a whole.

    Raises FileNotFoundError for missing files, TypeError for unknown overrides, FormatError (a ValueError) that names
    the file where keys are missing or contradict the data, sizes do not match, counts are negative or not finite, or a
    key says what a `Scan` cannot be: planar images, converging holes, several parts without a choice.

    Source: Todd-Pokropek et al. 1992, Nucl Med Commun 13:673 (Interfile 3.3), and STIR's keys.
    """
    found = read_projections(load_header(header_path, overrides, SCAN_OVERRIDES))
    header = found.header
    with naming(header.path):
        i = one_part(header, found.parts)
        seconds = found.parts.seconds(header)
        duration = found.duration if found.parts.kind != "gate" or seconds is None else float(seconds[i])
        return Scan(
            found.counts[i],
            found.geometry,
            cast("Array | float", header.overrides.get("background", 0.0)),
            cast("Array | float", header.overrides.get("factors", 1.0)),
            duration,
            radionuclide_of(header),
            energy_window_of(header),
            description_of(header),
        )


@dataclass(frozen=True)
class Projections:
    """What a file of projections holds: counts (parts, views, bins, rows), where they were taken, and in which parts.

    duration : seconds per view, None where unknown.
    """

    header: Header
    counts: np.ndarray
    geometry: SPECTGeometry
    parts: Parts
    duration: float | None


def read_projections(header: Header) -> Projections:
    """Return all time frames or gates of an Interfile SPECT file."""
    _refuse_others(header)
    check_collimation(header)
    axes = axes_of(header, _PROJECTION_AXES, _PROJECTION_LABELS)
    n_bins, pixel = _projection_sizes(header, axes)
    heads, parts = heads_of(header), parts_of(header)
    if len(heads) > 1 and parts.n > 1:
        raise FormatError(
            f"{header.path}: the file holds {parts.n} {parts.kind}s of {len(heads)} heads, and the header does not say "
            "which comes first; write one file for each head or part"
        )
    scales = [header.keys.get(f"image scaling factor [{i}]") for i in range(1, parts.n + 1)]
    if len({scale for scale in scales if scale}) > 1 and "scale" not in header.overrides:
        raise FormatError(f"{header.path}: the parts have different image scaling factors; write one file for each")
    views = [views_of(head, axes.index("view") + 1) for head in heads]
    sizes = {"view": sum(views), "bin": n_bins[0], "axial": n_bins[1]}
    values = read_values(header, parts.shape(tuple(sizes[axis] for axis in reversed(axes))), "projections")
    order = [axes[::-1].index(axis) for axis in ("view", "bin", "axial")]
    counts = parts.first(values).transpose(0, *(1 + axis for axis in order))
    if lying_of(header).feet_first:
        counts = counts[:, :, ::-1, ::-1]
    if counts.min() < 0:
        raise FormatError(
            f"{header.path}: {int((counts < 0).sum())} counts are negative; wrong byte order or number format, "
            "or already corrected data?"
        )
    with naming(header.path):
        geometry = geometry_of(header, heads, views, n_bins, pixel)
        return Projections(header, np.array(counts, order="C"), geometry, parts, duration_of(header, heads))


def description_of(header: Header) -> str:
    """Return the free text of a header."""
    return header.get("description", ["data description", "study description"], text, "")


def write_interfile(header_path: str | os.PathLike[str], scan: Scan, *, overwrite: bool = True) -> None:
    """Write a scan as a header `.hs` and data `.s` that STIR reads: [view][axial][bin], little endian.

    Both files are written atomically. Whole numbers of up to 4 bytes and floats keep their number format.

    Raises ValueError for what Interfile 3.3 cannot say: views that are not equally spaced, shifts, several images,
    background and factors (write those as HDF5); OSError naming the file that cannot be written.
    """
    geometry = _camera_of(scan)
    counts = writable(np.asarray(to_numpy(scan.counts)))
    lines = [
        *first_lines(Path(header_path), "Tomographic", counts.dtype),
        f"data description := {one_line(scan.description)}" if scan.description else "",
        f"isotope name := {stir_name(scan.radionuclide)}" if scan.radionuclide else "",
        *window_lines(scan.energy_window),
        "!SPECT STUDY (General) :=",
        "patient orientation := head_in",
        "patient rotation := supine",
        *axis_lines(("bin coordinate", "axial coordinate"), geometry.n_bins, geometry.pixel_size),
        f"!number of projections := {geometry.n_views}",
        f"!extent of rotation := {_extent(geometry):.10g}",
        f"!time per projection (sec) := {float(scan.duration)!r}" if scan.duration else "",
        "!process status := Acquired",
        "!SPECT STUDY (acquired data) :=",
        f"!direction of rotation := {'CW' if _step(geometry) < 0 else 'CCW'}",
        f"start angle := {interfile_angle(geometry.angles[0]):.10g}",
        *_orbit_lines(geometry.radius),
    ]
    write_pair(header_path, lines, [counts.transpose(0, 2, 1)], overwrite)


def _refuse_others(header: Header) -> None:
    """Refuse what is not tomographic projections, by name."""
    kind = " ".join(header.plain("type of data").replace("_", " ").split())
    if header.plain("process status") == "reconstructed" or header.plain("pet data type") == "image":
        raise FormatError(f"{header.path} describes an image, not projections; use read_image or read_interfile_image")
    if kind == "pet":
        raise FormatError(
            f"{header.path} describes PET data, not SPECT projections; use read_scan or read_interfile_pet"
        )
    if kind not in _TOMOGRAPHIC:
        raise FormatError(
            f"{header.path}: the type of data is {short(kind)}, which holds no tomographic projections (planar images "
            "and curves cannot be reconstructed)"
        )
    for key in ("number of bed positions", "number of beds"):
        if header.keys.get(key, "1") not in ("0", "1"):
            raise FormatError(f"{header.path}: {header.keys[key]} bed positions in one file; write one file for each")


def _projection_sizes(header: Header, axes: tuple[str, ...]) -> tuple[tuple[int, int], tuple[float, float]]:
    """The numbers of bins and rows, and their sizes in mm."""
    index = {axis: axes.index(axis) + 1 for axis in axes}
    given = header.get("n_bins", [], _pair(count), (None, None))
    pixel = header.get("pixel_size", [], _pair(positive), (None, None))
    n_u, n_z = (
        value or header.get("n_bins", [f"matrix size [{index[axis]}]"], count)
        for axis, value in zip(("bin", "axial"), given)
    )
    size_u, size_z = (
        value or header.get("pixel_size", [f"scaling factor (mm/pixel) [{index[axis]}]"], positive)
        for axis, value in zip(("bin", "axial"), pixel)
    )
    return (n_u, n_z), (size_u, size_z)


def _pair(convert: Callable[[object], T]) -> Callable[[object], tuple[T, T]]:
    def pair(value: object) -> tuple[T, T]:
        entries = [convert(entry) for entry in np.ravel(np.asarray(value, object))]
        if len(entries) not in (1, 2):
            raise ValueError("expected (bin, axial) or one value for both")
        return entries[0], entries[-1]

    return pair


def _camera_of(scan: Scan) -> SPECTGeometry:
    """Return the camera of a scan that Interfile can hold; ValueError with the reason for others."""
    geometry = scan.geometry
    if not isinstance(geometry, SPECTGeometry):
        raise ValueError("write_interfile writes SPECT projections; use write_interfile_pet for a PET sinogram")
    if scan.counts.ndim != 3:
        raise ValueError(
            f"write_interfile: a file holds one set of projections, got counts of shape {tuple(scan.counts.shape)}"
        )
    if geometry.shift.any() or geometry.axial_shift:
        raise ValueError("write_interfile: Interfile 3.3 cannot hold detector shifts; write HDF5 instead")
    if np.any(to_numpy(scan.background) != 0) or np.any(to_numpy(scan.factors) != 1):
        raise ValueError("write_interfile: Interfile holds counts only; write HDF5 to keep background and factors")
    steps = np.diff(geometry.angles)
    if steps.size and (not np.allclose(steps, steps[0], rtol=0, atol=1e-6) or abs(steps[0]) < 1e-6):
        raise ValueError("write_interfile: Interfile 3.3 can only hold equally spaced views; write HDF5 instead")
    return geometry


def _step(geometry: SPECTGeometry) -> float:
    if geometry.n_views == 1:
        return 360.0
    return float(geometry.angles[-1] - geometry.angles[0]) / (geometry.n_views - 1)


def _extent(geometry: SPECTGeometry) -> float:
    return abs(_step(geometry)) * geometry.n_views


def _orbit_lines(radius: np.ndarray) -> list[str]:
    if np.ptp(radius) == 0:
        return ["orbit := Circular", f"radius := {float(radius[0])!r}"]
    return ["orbit := Non-circular", f"radii := {{{', '.join(repr(float(r)) for r in radius)}}}"]
