"""Interfile images, such as .hv and .h33, read and written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.errors import FormatError, naming

from .entries import axes_of, axis_lines, first_lines, writable, write_pair
from .header import DATA_OVERRIDES, Header, count, load_header, number, numbers, positive, read_values

__all__ = ["read_interfile_image", "write_interfile_image"]

IMAGE_OVERRIDES = ("shape", "voxel_size", "origin", *DATA_OVERRIDES)

_IMAGE_AXES = ("x", "y", "z")


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
    values = read_values(header, tuple(shape[_IMAGE_AXES.index(axis)] for axis in reversed(axes)), "images")
    image = np.ascontiguousarray(values.transpose([axes[::-1].index(axis) for axis in _IMAGE_AXES]))
    with naming(header.path):
        voxel_size = _voxel_size(header, axes)
        return image, ImageGrid(shape, voxel_size, _origin(header, axes, shape, voxel_size))  # type: ignore[arg-type]


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
        *first_lines(Path(header_path), "PET", values.dtype),
        "!PET STUDY (General) :=",
        "!PET data type := Image",
        "process status := Reconstructed",
        *axis_lines(_IMAGE_AXES, grid.shape, grid.voxel_size),
        *(f"first pixel offset (mm) [{i}] := {float(offset)!r}" for i, offset in enumerate(offsets, 1)),
    ]
    write_pair(header_path, lines, [values.transpose(2, 1, 0)], overwrite)


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
