"""NIfTI images: our LPS grids as RAS+ affines, and any axis-aligned NIfTI back on an LPS grid."""

from __future__ import annotations

import gzip
import json
import math
import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.errors import FormatError, check_size, naming, require_affordable, require_file
from emrecon.projectors.core.files import atomic_path

from .records import Provenance, provenance_of

if TYPE_CHECKING:
    from nibabel import Nifti1Image

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_LARGEST_HEADER, _LARGEST_OFFSET = 540, 2**27
# the axes of a quaternion in single precision are off by up to about 3e-4 near 180 degrees
_OBLIQUE = 1e-3
_UNIT = "emrecon, unit "
_COMMENT = 6  # the code of a header extension that holds text
_LONGEST_RECORD = 2**24  # bytes


def write_nifti(
    path: str | os.PathLike[str],
    image: Array,
    grid: ImageGrid,
    *,
    seconds: tuple[float, float] | None = None,
    unit: str = "",
    provenance: Provenance | None = None,
) -> None:
    """Write an image (x, y, z), or frames or gates (F, x, y, z), on `grid` as NIfTI-1 float32, `.nii` or `.nii.gz`.

    The values keep their order; the affine says that x runs to the left and y to the back (NIfTI itself counts to the
    right and to the front), and frames become the fourth axis. Values are rounded to float32. The file appears complete
    or not at all.

    Args:
        seconds : (start of the first frame, from one frame to the next) in s, for the header (toffset, pixdim[4]) of
            frames that follow one another evenly; `write_image` knows it of its frames. Without it the header says
            nothing of times.
        unit : of the values, such as "Bq/mL": the header's description says it.
        provenance : where the image comes from, kept in a header extension (code 6, a text).

    Raises ValueError for a wrong suffix or an image that does not fit the grid or float32, OSError naming `path` where
    it cannot be written.
    """
    import nibabel

    values = np.asarray(to_numpy(image))
    if not str(path).lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"write_nifti: {path} must end in .nii or .nii.gz")
    if values.shape[-3:] != grid.shape or values.ndim > 4:
        raise ValueError(
            f"write_nifti: an image of shape {values.shape} does not fit a grid of {grid.shape}; a file holds one "
            "image, or frames (F, x, y, z)"
        )
    if values.dtype.kind not in "buif":
        raise ValueError(f"write_nifti: a NIfTI image holds real numbers, got {values.dtype}")
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if np.isinf(rounded).sum() > np.isinf(values).sum():
        raise ValueError(f"write_nifti: values up to {np.abs(values).max():.3g} do not fit float32")
    volume = nibabel.Nifti1Image(
        rounded if values.ndim == 3 else np.moveaxis(rounded, 0, -1), _LPS_TO_RAS @ grid.affine
    )
    volume.set_sform(volume.affine, code="scanner")
    volume.set_qform(volume.affine, code="scanner")
    volume.header.set_xyzt_units("mm", "sec" if seconds else None)
    if seconds and values.ndim == 4:
        volume.header["toffset"], volume.header["pixdim"][4] = seconds
    if unit:
        volume.header["descrip"] = f"{_UNIT}{unit}".encode()[:79]
    if provenance is not None:
        volume.header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, provenance.json().encode()))
    with atomic_path(path) as temporary:
        nibabel.save(volume, temporary)


def read_nifti(path: str | os.PathLike[str]) -> tuple[np.ndarray, ImageGrid]:
    """Return (image, grid) of an axis-aligned NIfTI-1 or -2 file: (x, y, z), or (F, x, y, z) of several volumes.

    Axes are permuted and flipped to LPS; values are float64 where the file holds float64, else float32, scaled as the
    header says. Units of the header (m, mm, micrometre) become mm. A file without orientation (sform and qform code 0)
    is taken as nibabel takes it: centred, x to the left.

    Raises FileNotFoundError; FormatError naming the file where it is not NIfTI, damaged, oblique, of colours
    or complex numbers, of more than four axes, or of absurd size.
    """
    path = require_file(path)
    _check_start(path)
    volume = _load(path)
    check_size(path, volume.shape, "the voxels")
    require_affordable(path, math.prod(volume.shape) * max(4, volume.get_data_dtype().itemsize), "the voxels")
    shape = _volume_shape(path, volume.shape)
    if volume.get_data_dtype().kind not in "buif":
        raise FormatError(f"{path} holds {volume.get_data_dtype()} voxels; only real numbers are supported")
    affine = _clean(volume.affine) * _unit(volume)
    _check_affine(path, affine)
    return _to_lps(path, _values(path, volume).reshape(shape), affine)


def read_nifti_provenance(path: str | os.PathLike[str]) -> Provenance | None:
    """Return the record in the header of a NIfTI image, None where it holds none; raises as `read_nifti` does."""
    path = require_file(path)
    _check_start(path)
    for extension in _load(path).header.extensions:
        text = extension.get_content() if extension.get_code() == _COMMENT else b""
        data = text.encode() if isinstance(text, str) else bytes(text)
        if b"emrecon provenance" in data[:200]:
            if len(data) > _LONGEST_RECORD:
                raise FormatError(f"{path}: the record of {len(data)} bytes is too long; damaged?")
            try:
                content = json.loads(data.rstrip(b"\0").decode())
            except (ValueError, RecursionError) as error:
                raise FormatError(f"{path}: the record cannot be read ({error}); damaged?") from error
            return provenance_of(content, path)
    return None


def _check_start(path: Path) -> None:
    """Raise FormatError where the voxels begin absurdly far behind the header: all between would be unpacked."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            start = stream.read(_LARGEST_HEADER)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path}: the NIfTI header cannot be read ({error}); truncated or damaged?") from error
    for order in "<>":
        for size, kind, place in ((348, "f", 108), (540, "q", 168)):
            if len(start) >= size and struct.unpack(f"{order}i", start[:4])[0] == size:
                (offset,) = struct.unpack_from(f"{order}{kind}", start, place)
                if not offset <= _LARGEST_OFFSET:
                    raise FormatError(f"{path}: the voxels begin at byte {offset:g}; damaged header?")


def _load(path: Path) -> Nifti1Image:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        volume = nibabel.load(path)
    except (ImageFileError, HeaderDataError) as error:
        raise FormatError(f"{path} is not a NIfTI file that nibabel can read ({error}); wrong suffix?") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FormatError(f"{path}: the NIfTI header cannot be read ({error}); truncated or damaged?") from error
    if not isinstance(volume, (nibabel.Nifti1Image, nibabel.Nifti1Pair)):
        raise FormatError(f"{path} is a {type(volume).__name__}, not NIfTI; convert it first")
    return volume


def _volume_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 2 or min(shape) < 1:
        raise FormatError(f"{path} has shape {shape}; expected (x, y, z)")
    if any(n != 1 for n in shape[4:]):
        raise FormatError(
            f"{path} holds volumes along several axes, shape {shape}; save one row of them as its own file"
        )
    frames = shape[3:4] if len(shape) > 3 and shape[3] > 1 else ()
    return (*(*shape[:3], 1)[:3], *frames)


def nifti_unit(path: str | os.PathLike[str]) -> str | None:
    """Return the unit of the values that `write_nifti` was given, None where the header says none."""
    path = require_file(path)
    _check_start(path)
    said = bytes(_load(path).header["descrip"].item()).decode("utf-8", "replace").rstrip("\0")
    return said.removeprefix(_UNIT) or None if said.startswith(_UNIT) else None


def _values(path: Path, volume: Nifti1Image) -> np.ndarray:
    double = volume.get_data_dtype() == np.float64
    try:
        return np.asarray(volume.get_fdata(dtype=np.float64 if double else np.float32, caching="unchanged"))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FormatError(f"{path}: the voxels cannot be read ({error}); truncated or damaged?") from error


def _clean(affine: np.ndarray) -> np.ndarray:
    """The affine with each number as the shortest decimal of its single precision: 3.32, not 3.31999993."""
    return np.array([[float(str(np.float32(value))) for value in row] for row in affine])


def _unit(volume: Nifti1Image) -> np.ndarray:
    try:
        factor = _MILLIMETRES[volume.header.get_xyzt_units()[0]]
    except KeyError:
        factor = 1.0
    return np.array([factor, factor, factor, 1.0])[:, None]


def _check_affine(path: Path, affine: np.ndarray) -> None:
    matrix = np.abs(affine[:3, :3])
    if not np.isfinite(affine).all() or (matrix.max(0) == 0).any():
        raise FormatError(f"{path}: the affine {affine[:3].tolist()} has no voxel sizes; damaged header?")
    off_axis = (matrix / matrix.max(0) > _OBLIQUE).sum(0)
    if (off_axis > 1).any() or len(set(matrix.argmax(0))) < 3:
        raise FormatError(f"{path} is oblique to the patient axes; resample it to an axis-aligned grid first")


def _to_lps(path: Path, image: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, ImageGrid]:
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(affine), axcodes2ornt("LPS"))
    turned = apply_orientation(image, turn)
    lps = _LPS_TO_RAS @ affine @ inv_ornt_aff(turn, image.shape[:3])
    frames_first = turned if turned.ndim == 3 else np.moveaxis(turned, -1, 0)
    with naming(path):
        grid = ImageGrid(frames_first.shape[-3:], tuple(np.diag(lps)[:3]), tuple(lps[:3, 3]))
        return np.ascontiguousarray(frames_first), grid
