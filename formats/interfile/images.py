"""Interfile images, such as .hv and .h33, read and written in the axes of the projections that they belong to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.errors import FormatError, naming
from emrecon.projectors.core.texts import read_text

from .entries import axes_of, axis_lines, first_lines, writable, write_pair
from .header import DATA_OVERRIDES, Header, count, load_header, number, numbers, positive, read_values, short
from .orbits import ORBIT_OVERRIDES, lying_of
from .pet import is_sinogram

__all__ = ["ImageAxes", "interfile_axes", "read_interfile_image", "write_interfile_image"]

IMAGE_OVERRIDES = ("shape", "voxel_size", "origin", *DATA_OVERRIDES)

_IMAGE_AXES = ("x", "y", "z")
_UNIT = "; unit of the values:"
_UNITS_OF_MU = {"1/mm": 10.0, "mm-1": 10.0, "/mm": 10.0, "1/m": 0.01, "m-1": 0.01}


@dataclass(frozen=True)
class ImageAxes:
    """Which way the axes of Interfile images run, against the patient's (LPS): 1 along them, -1 the other way.

    Args:
        signs : of x, y, z, for a patient who lies head first and supine: beside PET sinograms (1, 1, -1), where slice 0
            is at ring 0, which is at the head, and beside SPECT projections (1, 1, 1), where it is at row 0.
        pet : whether they belong to PET, for headers that are written.
    """

    signs: tuple[int, int, int]
    pet: bool = False

    def turn(self, image: np.ndarray, grid: ImageGrid) -> tuple[np.ndarray, ImageGrid]:
        """Return an image and its grid from the axes of the file in those of the patient, or back: it is the same."""
        # -(origin + (n - 1) d) + i d are the places of the voxels the other way round
        origin = [
            o if sign > 0 else -(o + (n - 1) * d)
            for o, n, d, sign in zip(grid.origin, grid.shape, grid.voxel_size, self.signs)
        ]
        turned = image[tuple(slice(None, None, sign) for sign in self.signs)]
        return turned, ImageGrid(grid.shape, grid.voxel_size, tuple(origin))  # type: ignore[arg-type]


PET_AXES, SPECT_AXES = ImageAxes((1, 1, -1), pet=True), ImageAxes((1, 1, 1))


def interfile_axes(header_path: str | os.PathLike[str], **overrides: object) -> ImageAxes:
    """Return the axes of images that lie beside Interfile projections, sinograms or list-mode, or of an image itself.

    Args:
        overrides : patient_orientation and patient_rotation, in place of the header's; others do not matter.

    Raises FormatError for a patient on the side, whose images would need another turn than a reflection.
    """
    return _axes(
        load_header(header_path, {k: v for k, v in overrides.items() if k in ORBIT_OVERRIDES}, ORBIT_OVERRIDES)
    )


def _axes(header: Header) -> ImageAxes:
    signs, pet = lying_of(header).signs, is_pet(header)
    if signs is None:
        raise FormatError(
            f"{header.path}: an image of a patient who lies on the side cannot be turned to the patient's axes by "
            "reflections; use NIfTI images, which say their own axes"
        )
    x, y, z = signs
    return ImageAxes((x, y, -z), pet=True) if pet else ImageAxes(signs)


def is_pet(header: Header) -> bool:
    """Whether a header belongs to PET: STIR's by its modality or type of data, Siemens' by its own keys."""
    return (
        is_sinogram(header)
        or header.plain("imaging modality") in ("pt", "pet")
        or header.plain("type of data") == "pet"
        or "pet data type" in header.keys
        or any(key.startswith("%sms-mi") for key in header.keys)
    )


def read_interfile_image(
    header_path: str | os.PathLike[str], *, axes: ImageAxes | None = None, **overrides: object
) -> tuple[np.ndarray, ImageGrid]:
    """Return (image (x, y, z), grid), in the patient's axes, of an Interfile image header such as .hv, .h33 or .v.hdr.

    Args:
        axes : of the projections that the image belongs to, see `interfile_axes`. By default the header decides: images
            of PET (STIR's and Siemens') run from the head to the feet, all others as a SPECT scan's rows do.
        overrides : shape (x, y, z), voxel_size (mm), origin (mm, of the image that is returned), byte_order,
            number_format, bytes_per_pixel, data_offset, data_file, scale, window (a time frame).

    Values keep their number format unless they are scaled; attenuation in 1/mm or 1/m (`quantification units`) becomes
    1/cm. The file holds [z][y][x]. The grid is centred on the rotation axis unless the header gives `first pixel offset
    (mm)`: along x and y that is the position of the first pixel, along z (as STIR uses it) the displacement of the
    middle.
    Raises as `read_interfile` does.
    """
    header = load_header(header_path, overrides, IMAGE_OVERRIDES)
    _refuse_others(header)
    file_axes = axes_of(header, _IMAGE_AXES, {axis: axis for axis in _IMAGE_AXES})
    shape = _image_shape(header, file_axes)
    values = read_values(header, tuple(shape[_IMAGE_AXES.index(axis)] for axis in reversed(file_axes)), "images")
    image = values.transpose([file_axes[::-1].index(axis) for axis in _IMAGE_AXES])
    if axes is None:
        axes = _axes(header)
    with naming(header.path):
        voxel_size = _voxel_size(header, file_axes)
        grid = ImageGrid(shape, voxel_size, _origin(header, file_axes, shape, voxel_size))  # type: ignore[arg-type]
        image, grid = axes.turn(image, grid)
        given = header.get("origin", [], numbers, None)
        if given is not None:
            grid = ImageGrid(shape, grid.voxel_size, tuple(given.tolist()))
        return np.array(_in_units(header, image), order="C"), grid


def _refuse_others(header: Header) -> None:
    if header.plain("process status") == "acquired" and "number of projections" in header.keys:
        raise FormatError(f"{header.path} describes projections, not an image; use read_scan or read_interfile")
    if is_sinogram(header):
        raise FormatError(f"{header.path} describes a sinogram, not an image; use read_scan or read_interfile_pet")
    if header.plain("pet data type").startswith("normali"):
        raise FormatError(f"{header.path} describes a normalisation; use read_siemens_norm, or --norm")
    if header.plain("type of data") in ("static", "whole body", "curve", "roi"):
        raise FormatError(
            f"{header.path}: the type of data is {short(header.plain('type of data'))}: planar images or curves are no "
            "slices of a volume"
        )


def _in_units(header: Header, image: np.ndarray) -> np.ndarray:
    factor = _UNITS_OF_MU.get(header.plain("quantification units").replace(" ", ""))
    return image if factor is None or "scale" in header.overrides else (image * factor).astype(np.float32)


def write_interfile_image(
    header_path: str | os.PathLike[str],
    image: Array,
    grid: ImageGrid,
    *,
    axes: ImageAxes | None = None,
    overwrite: bool = True,
    unit: str = "",
) -> None:
    """Write an image (x, y, z) on `grid` as a header `.hv` (data `.v`) or `.h33` (data `.i33`), [z][y][x], atomically.

    Args:
        axes : of the projections that the image belongs to, see `interfile_axes`; by default those of PET for `.hv`, as
            STIR names images, and those of SPECT for `.h33`, as SIMIND does.
        unit : of the values, such as "Bq/mL"; a comment says it, as programs take `quantification units` for a scale.

    Raises ValueError where the image does not fit the grid, OSError naming the file that cannot be written.
    """
    values = np.asarray(to_numpy(image))
    if values.ndim == 4:
        raise ValueError(
            f"write_interfile_image: {len(values)} frames or gates do not go into one file; write each as its own, or "
            "all as .nii.gz or .h5"
        )
    if values.shape != grid.shape:
        raise ValueError(f"write_interfile_image: an image of shape {values.shape} does not fit a grid of {grid.shape}")
    if axes is None:
        axes = PET_AXES if Path(header_path).suffix.lower() == ".hv" else SPECT_AXES
    values, turned = axes.turn(writable(values), grid)
    offsets = (*turned.origin[:2], turned.centre[2])
    lines = [
        *first_lines(Path(header_path), "PET" if axes.pet else "Tomographic", values.dtype),
        *(["!PET STUDY (General) :=", "!PET data type := Image"] if axes.pet else ["!SPECT STUDY (General) :="]),
        *_position_lines(axes),
        "process status := Reconstructed",
        f"{_UNIT} {unit}" if unit else "",
        *axis_lines(_IMAGE_AXES, grid.shape, grid.voxel_size),
        *(f"first pixel offset (mm) [{i}] := {float(offset)!r}" for i, offset in enumerate(offsets, 1)),
    ]
    write_pair(header_path, lines, [values.transpose(2, 1, 0)], overwrite)


def interfile_unit(path: str | os.PathLike[str]) -> str | None:
    """Return the unit that `write_interfile_image` was given, None where the header says none."""
    lines = read_text(path).splitlines()
    return next((line.removeprefix(_UNIT).strip() or None for line in lines if line.startswith(_UNIT)), None)


def _position_lines(axes: ImageAxes) -> list[str]:
    way, turned = axes.signs[2] * (-1 if axes.pet else 1), axes.signs[1]
    return [
        f"patient orientation := {'head_in' if way > 0 else 'feet_in'}",
        f"patient rotation := {'supine' if turned > 0 else 'prone'}",
    ]


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
    keys = [f"scaling factor (mm/pixel) [{index}]", f"scale factor (mm/pixel) [{index}]"]  # Siemens' name for it
    if index < 3 or any(header.keys.get(key) for key in keys):
        return header.get("voxel_size", keys, positive)
    separations = ["centre-centre slice separation (pixels)", "slice thickness (pixels)"]
    separation = header.get("voxel_size", separations, positive)
    # the standard counts pixels, yet most programs write mm under the same name: 1 means a pixel, all else mm
    return _spacing(header, 1) if separation == 1 else separation


def _origin(
    header: Header, axes: tuple[str, ...], shape: tuple[int, ...], voxel_size: tuple[float, ...]
) -> tuple[float, ...] | None:
    keys = [f"first pixel offset (mm) [{axes.index(axis) + 1}]" for axis in _IMAGE_AXES]
    if "origin" in header.overrides or not all(header.keys.get(key) for key in keys):
        return None
    x, y, z = (header.get("origin", [key], number) for key in keys)
    return x, y, z - (shape[2] - 1) / 2 * voxel_size[2]
