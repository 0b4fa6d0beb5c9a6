"""Interfile 3.3: SPECT projections and images as STIR and SIMIND write them; docs/interfile.md lists keys and traps."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from emrecon.projectors import ImageGrid, Scan, SPECTGeometry
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.errors import FormatError, naming

from .entries import (
    axes_of,
    data_path_of,
    energy_window_of,
    format_lines,
    one_line,
    radionuclide_of,
    stir_name,
    window_lines,
    writable,
    write_pair,
)
from .header import (
    DATA_OVERRIDES,
    Header,
    count,
    load_header,
    number,
    numbers,
    one_of,
    parse_header,
    positive,
    read_values,
    text,
)

__all__ = ["parse_header", "read_interfile", "read_interfile_image", "write_interfile", "write_interfile_image"]

SCAN_OVERRIDES = (
    *("n_views", "n_bins", "pixel_size", "start_angle", "direction", "extent", "angles"),
    *("radius", "shift", "axial_shift", "head", "duration", "radionuclide", "energy_window"),
    *("description", "background", "factors"),
    *DATA_OVERRIDES,
)
IMAGE_OVERRIDES = ("shape", "voxel_size", "origin", *DATA_OVERRIDES)

T = TypeVar("T")

_PROJECTION_AXES = ("bin", "axial", "view")
_PROJECTION_LABELS = {
    "bin coordinate": "bin",
    "tangential coordinate": "bin",
    "axial coordinate": "axial",
    "view": "view",
    "angle": "view",
}
_IMAGE_AXES = ("x", "y", "z")
_DIRECTIONS = {"ccw": 1, "cc": 1, "counter-clockwise": 1, "cw": -1, "clockwise": -1}
_LARGEST_CENTIMETRES = 80.0


def read_interfile(header_path: str | os.PathLike[str], **overrides: object) -> Scan:
    """Return the scan that an Interfile SPECT header describes.

    counts : (views, bins, rows) in the file's own number format, contiguous; the file holds [view][axial][bin] unless
    its axis labels say otherwise. Angles become those of `SPECTGeometry`. Units: mm, degrees, seconds, keV.
    Every value of the header can be replaced: n_views, n_bins (bins, rows), pixel_size (bin, axial) mm,
    start_angle (degrees, as in the header), direction "cw" or "ccw", extent (degrees), angles (degrees, as in
    `SPECTGeometry`; replaces the three before), radius (mm, one or one per view), shift, axial_shift (mm), head,
    duration (s per view), radionuclide, energy_window (keV), description, background, factors, byte_order
    "LITTLEENDIAN" or "BIGENDIAN", number_format (as in the header), bytes_per_pixel, data_offset (bytes), data_file,
    scale, and window (1, 2, ...) to choose one of several sets of projections in a file.
    Raises FileNotFoundError for missing files, TypeError for unknown overrides, FormatError (a ValueError) that names
    the file where keys are missing or contradict the data, sizes do not match, or counts are negative or not finite.
    Source: Todd-Pokropek et al. 1992, Nucl Med Commun 13:673 (Interfile 3.3), and STIR's keys.
    """
    header = load_header(header_path, overrides, SCAN_OVERRIDES)
    _refuse_images(header)
    axes = axes_of(header, _PROJECTION_AXES, _PROJECTION_LABELS)
    sizes, pixel = _projection_sizes(header, axes)
    values = read_values(header, tuple(sizes[axis] for axis in reversed(axes)))
    order = [axes[::-1].index(axis) for axis in ("view", "bin", "axial")]
    counts = np.ascontiguousarray(_flip_bins(values.transpose(order)))
    if counts.min() < 0:
        raise FormatError(
            f"{header.path}: {int((counts < 0).sum())} counts are negative; wrong byte order or number format, "
            "or already corrected data?"
        )
    with naming(header.path):
        return _scan(header, counts, pixel)


def read_interfile_image(header_path: str | os.PathLike[str], **overrides: object) -> tuple[np.ndarray, ImageGrid]:
    """Return (image (x, y, z), grid) of an Interfile image header such as .hv or .h33.

    Values keep their number format; the file holds [z][y][x] and no axis is turned. The grid is centred on the rotation
    axis unless the header gives `first pixel offset (mm)`: along x and y that is the position of the first pixel, along
    z (as STIR uses it) the displacement of the middle. Values can be replaced: shape (x, y, z), voxel_size (mm),
    origin (mm), byte_order, number_format, bytes_per_pixel, data_offset, data_file, scale, window.
    Raises as `read_interfile` does.
    """
    header = load_header(header_path, overrides, IMAGE_OVERRIDES)
    if header.plain("process status") == "acquired" and "number of projections" in header.keys:
        raise FormatError(f"{header.path} describes projections, not an image; use read_scan or read_interfile")
    axes = axes_of(header, _IMAGE_AXES, {axis: axis for axis in _IMAGE_AXES})
    shape = _image_shape(header, axes)
    values = read_values(header, tuple(shape[_IMAGE_AXES.index(axis)] for axis in reversed(axes)))
    image = np.ascontiguousarray(values.transpose([axes[::-1].index(axis) for axis in _IMAGE_AXES]))
    with naming(header.path):
        voxel_size = _voxel_size(header, axes)
        return image, ImageGrid(shape, voxel_size, _origin(header, axes, shape, voxel_size))  # type: ignore[arg-type]


def write_interfile(header_path: str | os.PathLike[str], scan: Scan, *, overwrite: bool = True) -> None:
    """Write a scan as a header `.hs` and data `.s` that STIR reads: [view][axial][bin], little endian.

    Both files are written atomically. Whole numbers of up to 4 bytes and floats keep their number format.
    Raises ValueError for what Interfile 3.3 cannot say: views that are not equally spaced, shifts, several images,
    background and factors (write those as HDF5); OSError naming the file that cannot be written.
    """
    geometry = _camera_of(scan)
    counts = writable(np.asarray(to_numpy(scan.counts)))
    lines = [
        *_first_lines(Path(header_path), "Tomographic", counts.dtype),
        f"data description := {one_line(scan.description)}" if scan.description else "",
        f"isotope name := {stir_name(scan.radionuclide)}" if scan.radionuclide else "",
        *window_lines(scan.energy_window),
        "!SPECT STUDY (General) :=",
        *_axis_lines(("bin coordinate", "axial coordinate"), geometry.n_bins, geometry.pixel_size),
        f"!number of projections := {geometry.n_views}",
        f"!extent of rotation := {_extent(geometry):.10g}",
        f"!time per projection (sec) := {float(scan.duration)!r}" if scan.duration else "",
        "!process status := Acquired",
        "!SPECT STUDY (acquired data) :=",
        f"!direction of rotation := {'CW' if _step(geometry) < 0 else 'CCW'}",
        f"start angle := {_interfile_angle(geometry.angles[0]):.10g}",
        *_orbit_lines(geometry.radius),
    ]
    write_pair(header_path, lines, [_flip_bins(counts).transpose(0, 2, 1)], overwrite)


def write_interfile_image(
    header_path: str | os.PathLike[str], image: Array, grid: ImageGrid, *, overwrite: bool = True
) -> None:
    """Write an image (x, y, z) on `grid` as a header `.hv` (data `.v`) or `.h33` (data `.i33`), [z][y][x], atomically.

    Raises ValueError where the image does not fit the grid, OSError naming the file that cannot be written.
    """
    values = np.asarray(to_numpy(image))
    if values.shape != grid.shape:
        raise ValueError(f"write_interfile_image: an image of shape {values.shape} does not fit a grid of {grid.shape}")
    values = writable(values)
    offsets = (*(grid.origin or ())[:2], grid.centre[2])
    lines = [
        *_first_lines(Path(header_path), "PET", values.dtype),
        "!PET STUDY (General) :=",
        "!PET data type := Image",
        "process status := Reconstructed",
        *_axis_lines(_IMAGE_AXES, grid.shape, grid.voxel_size),
        *(f"first pixel offset (mm) [{i}] := {float(offset)!r}" for i, offset in enumerate(offsets, 1)),
    ]
    write_pair(header_path, lines, [values.transpose(2, 1, 0)], overwrite)


def _gantry_angle(interfile_angle: float) -> float:
    """Our gantry angle in degrees: 0 at the back (DICOM); Interfile's zero is opposite, the sense is the same."""
    return (interfile_angle + 180) % 360


def _interfile_angle(gantry_angle: float) -> float:
    """The inverse of `_gantry_angle`."""
    return (gantry_angle - 180) % 360


def _flip_bins(projections: np.ndarray) -> np.ndarray:
    """Turn (views, bins, rows) from the file's direction of u to ours or back: both directions are the same."""
    return projections


def _refuse_images(header: Header) -> None:
    if header.plain("process status") == "reconstructed" or header.plain("pet data type") == "image":
        raise FormatError(f"{header.path} describes an image, not projections; use read_image or read_interfile_image")
    if header.plain("type of data") == "pet":
        raise FormatError(
            f"{header.path} describes PET data, not SPECT projections; use read_scan or read_interfile_pet"
        )


def _projection_sizes(header: Header, axes: tuple[str, ...]) -> tuple[dict[str, int], tuple[float, float]]:
    index = {axis: axes.index(axis) + 1 for axis in axes}
    n_bins = header.get("n_bins", [], _pair(count), (None, None))
    pixel = header.get("pixel_size", [], _pair(positive), (None, None))
    sizes = {
        axis: value or header.get("n_bins", [f"matrix size [{index[axis]}]"], count)
        for axis, value in zip(("bin", "axial"), n_bins)
    }
    keys = ["number of projections", f"matrix size [{index['view']}]"]
    sizes["view"] = header.get("n_views", keys, count)
    scale = "scaling factor (mm/pixel) [{}]"
    size_u, size_z = (
        value or header.get("pixel_size", [scale.format(index[axis])], positive)
        for axis, value in zip(("bin", "axial"), pixel)
    )
    return sizes, (size_u, size_z)


def _pair(convert: Callable[[object], T]) -> Callable[[object], tuple[T, T]]:
    def pair(value: object) -> tuple[T, T]:
        entries = [convert(entry) for entry in np.ravel(np.asarray(value, object))]
        if len(entries) not in (1, 2):
            raise ValueError("expected (bin, axial) or one value for both")
        return entries[0], entries[-1]

    return pair


def _scan(header: Header, counts: np.ndarray, pixel_size: tuple[float, float]) -> Scan:
    n_views, extra = counts.shape[0], header.overrides
    geometry = SPECTGeometry(
        _angles(header, n_views),
        _radius(header, n_views),
        counts.shape[1:],
        pixel_size,
        header.get("shift", [], numbers, np.zeros(1)),
        header.get("axial_shift", [], number, 0.0),
        header.get("head", [], numbers, np.zeros(1)),
    )
    return Scan(
        counts,
        geometry,
        cast("Array | float", extra.get("background", 0.0)),
        cast("Array | float", extra.get("factors", 1.0)),
        header.get("duration", ["time per projection (sec)", "time per projection (sec) [1]"], positive, None),
        radionuclide_of(header),
        energy_window_of(header),
        header.get("description", ["data description", "study description"], text, ""),
    )


def _angles(header: Header, n_views: int) -> np.ndarray:
    angles = header.get("angles", [], numbers, None)
    if angles is not None:
        return angles
    start = header.get("start_angle", ["start angle"], number, 0.0)
    # without the key STIR takes clockwise, too
    sign = header.get("direction", ["direction of rotation"], one_of(_DIRECTIONS), -1)
    extent = header.get("extent", ["extent of rotation"], positive)
    return _gantry_angle(start) + sign * extent / n_views * np.arange(n_views)


def _radius(header: Header, n_views: int) -> np.ndarray:
    """The radius in mm, one or one per view."""
    orbit = header.plain("orbit").replace(" ", "-")
    live = ["radii", "radius"] if orbit != "circular" else ["radius", "radii"]
    if "radius" not in header.overrides and not any(header.keys.get(key) for key in live):
        return _commented_radius(header)
    radius = header.get("radius", live, numbers)
    if (
        radius.size == 1
        and orbit in ("non-circular", "noncircular")
        and n_views > 1
        and "radius" not in header.overrides
    ):
        raise FormatError(f"{header.path}: the orbit is non-circular, but there is one radius; pass radius=[...] in mm")
    return radius


def _commented_radius(header: Header) -> np.ndarray:
    # SIMIND before version 7 writes `;#Radius := 15.000`, in cm
    if header.plain("orbit").replace("-", "") == "noncircular":
        raise FormatError(f"{header.path}: the orbit is non-circular but no radii are given; pass radius=[...] in mm")
    radius = header.get("radius", ["radius", "#radius"], numbers)
    if radius.max() > _LARGEST_CENTIMETRES:
        raise FormatError(
            f"{header.path}: a radius of {radius.max():g} cm (`;#Radius`) is not plausible; pass radius=... in mm"
        )
    return 10 * radius


def _image_shape(header: Header, axes: tuple[str, ...]) -> tuple[int, int, int]:
    slices = ["number of slices", "total number of images"]

    def along(axis: str) -> int:
        index = axes.index(axis) + 1
        return header.get("shape", [f"matrix size [{index}]", *(slices if index == 3 else [])], count)

    def triple(value: object) -> tuple[int, int, int]:
        x, y, z = (count(entry) for entry in np.ravel(np.asarray(value, object)))
        return x, y, z

    return header.get("shape", [], triple, None) or (along("x"), along("y"), along("z"))


def _voxel_size(header: Header, axes: tuple[str, ...]) -> tuple[float, ...]:
    given = header.get("voxel_size", [], numbers, None)
    if given is not None:
        return tuple(np.broadcast_to(given, 3).tolist())
    found = dict(zip(axes, (_spacing(header, index) for index in (1, 2, 3))))
    return tuple(found[axis] for axis in _IMAGE_AXES)


def _spacing(header: Header, index: int) -> float:
    key = f"scaling factor (mm/pixel) [{index}]"
    if index < 3 or header.keys.get(key):
        return header.get("voxel_size", [key], positive)
    separations = ["centre-centre slice separation (pixels)", "slice thickness (pixels)"]
    separation = header.get("voxel_size", separations, positive)
    # the standard counts pixels, yet most programs write mm under the same name: 1 means a pixel, all else mm
    return _spacing(header, 1) if separation == 1 else separation


def _origin(
    header: Header, axes: tuple[str, ...], shape: tuple[int, ...], voxel_size: tuple[float, ...]
) -> tuple[float, ...] | None:
    given = header.get("origin", [], numbers, None)
    keys = [f"first pixel offset (mm) [{axes.index(axis) + 1}]" for axis in _IMAGE_AXES]
    if given is not None or not all(header.keys.get(key) for key in keys):
        return None if given is None else tuple(given.tolist())
    x, y, z = (header.get("origin", [key], number) for key in keys)
    return x, y, z - (shape[2] - 1) / 2 * voxel_size[2]


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


def _first_lines(header_path: Path, kind: str, dtype: np.dtype) -> list[str]:
    return [
        "!INTERFILE :=",
        "!imaging modality := nucmed",
        "!version of keys := 3.3",
        f"name of data file := {data_path_of(header_path).name}",
        "!GENERAL DATA :=",
        "!GENERAL IMAGE DATA :=",
        f"!type of data := {kind}",
        "imagedata byte order := LITTLEENDIAN",
        *format_lines(dtype),
    ]


def _axis_lines(labels: tuple[str, ...], sizes: tuple[int, ...], spacings: tuple[float, ...]) -> list[str]:
    lines = [f"number of dimensions := {len(labels)}"]
    for index, (label, size, spacing) in enumerate(zip(labels, sizes, spacings), 1):
        lines += [f"matrix axis label [{index}] := {label}", f"!matrix size [{index}] := {size}"]
        lines += [f"scaling factor (mm/pixel) [{index}] := {float(spacing)!r}"]
    return lines


def _orbit_lines(radius: np.ndarray) -> list[str]:
    if np.ptp(radius) == 0:
        return ["orbit := Circular", f"radius := {float(radius[0])!r}"]
    return ["orbit := Non-circular", f"radii := {{{', '.join(repr(float(r)) for r in radius)}}}"]
