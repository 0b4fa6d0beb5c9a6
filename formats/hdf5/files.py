"""The native file of emrecon: HDF5 with a versioned schema, units, checksums and exact round trips.

docs/hdf5.md lists the schema. Files are written atomically and read with every size checked before it is allocated.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emrecon.projectors import ImageGrid, PETScanner, PETSinogram, Scan, SPECTGeometry, TimeOfFlight
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.errors import FormatError, check_size, naming, require_file
from emrecon.projectors.core.files import atomic_path

from ..summary import image_summary, scan_summary

SCHEMA_VERSION = 2
"""The latest schema this version knows; files of a later one are refused. Scans of PET sinograms need 2, others 1."""

_GEOMETRY_UNITS = {
    "angles": "degree",
    "radius": "mm",
    "shift": "mm",
    "head": "1",
    "n_bins": "1",
    "pixel_size": "mm",
    "axial_shift": "mm",
}
_SCANNER_UNITS = {"n_radial": "1", "bin_size": "mm", "energy_resolution": "1"}
_SINOGRAM = ("max_ring_difference", "span", "n_radial", "mashing", "views")
_DTYPES = {"bool", "float16", "float32", "float64", *(f"{sign}int{8 * n}" for sign in ("", "u") for n in (1, 2, 4, 8))}
# what reads each kind of file, and its latest schema
_KINDS = {
    "scan": ("read_scan", SCHEMA_VERSION),
    "image": ("read_image", SCHEMA_VERSION),
    "dynamic": ("read_dynamic", 1),
    "gated": ("read_gated", 1),
    "windowed-scan": ("read_windowed_scan", 1),
}
# deflate cannot shrink data by more than this: less on the disk means that values are missing
_LARGEST_COMPRESSION = 1100


def write_scan(path: str | os.PathLike[str], scan: Scan) -> None:
    """Write `scan` to an HDF5 file (schema "scan"); the file appears complete or not at all.

    Arrays of any library are stored; whole counts take 2 or 4 bytes and come back in their own dtype.
    Raises OSError naming `path` where it cannot be written, TypeError for dtypes that HDF5 cannot hold exactly.
    """
    pet = isinstance(scan.geometry, PETSinogram)
    if not isinstance(scan, Scan):
        raise TypeError(f"write_scan expects a Scan, got {type(scan).__name__}; write_dynamic or write_windowed_scan?")
    with _creating(path, "scan", SCHEMA_VERSION if pet else 1) as file:
        _store(file, "counts", scan.counts, "counts")
        _store(file, "background", scan.background, "counts")
        _store(file, "factors", scan.factors, "1")
        if scan.duration is not None:
            _put(file, "duration", float(scan.duration), "s")
        if scan.energy_window is not None:
            _put(file, "energy_window", scan.energy_window, "keV")
        if scan.radionuclide is not None:
            _put(file, "radionuclide", scan.radionuclide, "")
        _put(file, "description", scan.description, "")
        if isinstance(scan.geometry, PETSinogram):
            _put_sinogram(file, scan.geometry)
        else:
            for name, units in _GEOMETRY_UNITS.items():
                _put(file, f"geometry/{name}", getattr(scan.geometry, name), units)


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """Return the scan of an HDF5 file that `write_scan` wrote, equal in every field and dtype.

    Arrays are NumPy arrays in native byte order; torch and CuPy arrays are not restored as such.
    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails its checksum.
    """
    with _opened(path, "scan") as file:
        geometry = _load_sinogram(file) if "geometry/scanner" in file else _load_camera(file)
        duration, window = _optional(file, "duration"), _energy_window(file)
        return Scan(
            _load(file, "counts"),
            geometry,
            _plain(_load(file, "background")),
            _plain(_load(file, "factors")),
            duration if duration is None else _number(duration, "duration"),
            _text(file, "radionuclide") if "radionuclide" in file else None,
            window,
            _text(file, "description"),
        )


def _load_camera(file: h5py.File) -> SPECTGeometry:
    values: dict[str, Any] = {name: _load(file, f"geometry/{name}") for name in _GEOMETRY_UNITS}
    values["axial_shift"] = _number(values["axial_shift"], "geometry/axial_shift")
    return SPECTGeometry(**values)


def _put_sinogram(file: h5py.File, sinogram: PETSinogram) -> None:
    scanner = sinogram.scanner
    _put(file, "geometry/scanner/crystals", scanner.crystals, "mm")
    _put(file, "geometry/scanner/virtual", scanner.virtual, "1")
    _put(file, "geometry/scanner/name", scanner.name, "")
    for name, units in _SCANNER_UNITS.items():
        if getattr(scanner, name) is not None:
            _put(file, f"geometry/scanner/{name}", getattr(scanner, name), units)
    for name in _SINOGRAM:
        _put(file, f"geometry/{name}", getattr(sinogram, name), "1")
    for name, tof in (("geometry/scanner/tof", scanner.time_of_flight), ("geometry/tof", sinogram.tof)):
        if tof is not None:
            _put(file, name, (tof.n_bins, tof.bin_width, tof.fwhm), "1, mm, mm")


def _load_sinogram(file: h5py.File) -> PETSinogram:
    """Return a sinogram; the constructors check everything that the file says."""
    more: dict[str, Any] = {
        name: _number(_load(file, f"geometry/scanner/{name}"), name)
        for name in _SCANNER_UNITS
        if f"geometry/scanner/{name}" in file
    }
    if "n_radial" in more:
        more["n_radial"] = int(more["n_radial"])
    more["time_of_flight"] = _load_tof(file, "geometry/scanner/tof")
    crystals, virtual = (_load(file, f"geometry/scanner/{name}") for name in ("crystals", "virtual"))
    scanner = PETScanner(crystals, virtual.astype(bool), _text(file, "geometry/scanner/name"), **more)
    values: dict[str, Any] = {name: _load(file, f"geometry/{name}") for name in _SINOGRAM}
    for name in (*_SINOGRAM, "n_radial"):
        if np.any(np.asarray(values[name]) % 1):
            raise FormatError(f"{file.filename}: geometry/{name} holds fractions; edited by hand?")
    numbers = {name: int(_number(values[name], name)) for name in _SINOGRAM if name != "views"}
    return PETSinogram(scanner, **numbers, tof=_load_tof(file, "geometry/tof"), views=values["views"])


def _load_tof(file: h5py.File, name: str) -> TimeOfFlight | None:
    if name not in file:
        return None
    values = _load(file, name)
    if values.shape != (3,):
        raise FormatError(f"{file.filename}: {name} has shape {values.shape}, expected 3 numbers; edited by hand?")
    return TimeOfFlight(*map(float, values))  # type: ignore[arg-type]  # which refuses fractions of bins


def write_image(
    path: str | os.PathLike[str], image: Any, grid: ImageGrid, *, units: str = "", **attributes: Any
) -> None:
    """Write an image (..., x, y, z) on `grid` to an HDF5 file (schema "image"), atomically.

    units : of the values, such as "MBq/mL" or "1/cm".  attributes : names with numbers, short lists or text; `describe`
    returns them.
    Raises ValueError where the image does not fit the grid, OSError naming `path` where it cannot be written.
    """
    shape = tuple(image.shape)
    if shape[-3:] != grid.shape:
        raise ValueError(f"write_image: an image of shape {shape} does not fit a grid of {grid.shape}")
    with _creating(path, "image", 1) as file:
        _store(file, "image", image, units)
        _put(file, "grid/voxel_size", grid.voxel_size, "mm")
        _put(file, "grid/origin", grid.origin, "mm")
        file["grid"].attrs["orientation"] = "LPS"
        file.create_group("attributes").attrs.update(attributes)


def read_image(path: str | os.PathLike[str]) -> tuple[np.ndarray, ImageGrid]:
    """Return (image, grid) of an HDF5 file that `write_image` wrote; raises as `read_scan` does."""
    with _opened(path, "image") as file:
        image = _load(file, "image")
        if image.ndim < 3:
            raise FormatError(f"{path}: the image has shape {image.shape}, expected (..., x, y, z); edited by hand?")
        voxel_size, origin = (
            tuple(np.ravel(_load(file, f"grid/{name}")).tolist()) for name in ("voxel_size", "origin")
        )
        return image, ImageGrid(image.shape[-3:], voxel_size, origin)


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return which kind of file of emrecon this is: "scan", "image", "dynamic", "gated" or "windowed-scan"."""
    with _opened(path, None) as file:
        return str(_attribute(file, "emrecon_schema"))


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a file of a scan or an image holds as names and plain values, after reading and verifying it."""
    with _opened(path, None) as file:
        kind = _attribute(file, "emrecon_schema")
        facts = {"format": "emrecon HDF5", "schema version": int(file.attrs["schema_version"])}
        facts["creator"] = _attribute(file, "creator")
        if kind == "image":
            facts["units"] = str(file["image"].attrs.get("units", ""))
            facts |= {name: _simple(value) for name, value in _group(file, "attributes").attrs.items()}
    return facts | (scan_summary(read_scan(path)) if kind == "scan" else image_summary(*read_image(path)))


@contextmanager
def _creating(path: str | os.PathLike[str], kind: str, version: int) -> Iterator[h5py.File]:
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["emrecon_schema"] = kind
        file.attrs["schema_version"] = version
        file.attrs["creator"] = f"emrecon {_version()}"
        yield file


@contextmanager
def _opened(path: str | os.PathLike[str], kind: str | None) -> Iterator[h5py.File]:
    path = require_file(path)
    if not h5py.is_hdf5(path):
        raise FormatError(f"{path} is not an HDF5 file; another format with the wrong suffix?")
    try:
        with naming(path), h5py.File(path, "r") as file:
            _check_schema(file, path, kind)
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise FormatError(f"{path}: HDF5 cannot read it ({_first_line(error)}); truncated or damaged?") from error


def _check_schema(file: h5py.File, path: Path, kind: str | None) -> None:
    found = _attribute(file, "emrecon_schema")
    if found not in _KINDS:
        raise FormatError(f"{path} is HDF5, but not a scan or an image of emrecon (emrecon_schema is {found!r})")
    reader, latest = _KINDS[found]
    number = file.attrs.get("schema_version")
    if not isinstance(number, (int, np.integer)) or number < 1:
        raise FormatError(f"{path}: schema_version is {number!r}, expected a whole number; edited by hand?")
    if number > latest:
        creator = _attribute(file, "creator")
        raise FormatError(
            f"{path} has schema version {number} (written by {creator}), this emrecon reads up to {latest}; "
            "upgrade emrecon"
        )
    if kind is not None and found != kind:
        raise FormatError(f"{path} holds a {found}, not a {kind}; use {reader}?".replace("a image", "an image"))


def _store(file: h5py.File, name: str, values: Any, units: str) -> None:
    """Store a number, or an array with its dtype and checksum, compressed by view (or by plane)."""
    array = np.asarray(to_numpy(values))
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}; HDF5 files hold {', '.join(sorted(_DTYPES))}")
    if array.ndim == 0:
        _put(file, name, array, units)
        return
    if array.size == 0:
        raise ValueError(f"{name} of shape {array.shape} has no values to write")
    stored = _compact(array)
    chunks: Any = (1,) * (array.ndim - 2) + array.shape[-2:] if array.ndim > 2 else True
    dataset = file.create_dataset(name, data=stored, chunks=chunks, compression="gzip", shuffle=True)
    dataset.attrs.update({"units": units, "original_dtype": array.dtype.name, "sha256": _checksum(stored)})


def _compact(array: np.ndarray) -> np.ndarray:
    """Whole numbers in 16 or 32 bits; anything that would not come back exactly stays as it is."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    low, high = array.min(), array.max()
    if array.dtype.itemsize <= 2 or not (low >= 0 and high < 2**32):
        return little
    if array.dtype.kind == "f" and (np.any(array != np.rint(array)) or np.signbit(array).any()):
        return little
    return array.astype("<u2" if high < 2**16 else "<u4")


def _put(file: h5py.File, name: str, value: Any, units: str) -> None:
    file[name] = value
    file[name].attrs["units"] = units


def _load(file: h5py.File, name: str) -> np.ndarray:
    """Return a dataset of numbers in its original dtype, after checking its size and its checksum."""
    dataset = _dataset(file, name)
    if dataset.dtype.kind not in "buif":
        raise FormatError(f"{file.filename}: {name} has dtype {dataset.dtype}, expected numbers; edited by hand?")
    values = np.asarray(dataset[()])
    if "/" in name and not np.isfinite(values).all():
        raise FormatError(f"{file.filename}: {name} is not finite; edited by hand?")
    if values.ndim and "/" not in name:
        if _attribute(dataset, "sha256") != _checksum(values):
            raise FormatError(
                f"{file.filename}: the checksum of {name} is wrong; altered or damaged after it was written?"
            )
        values = values.astype(_original_dtype(file, dataset), copy=False)
    return values


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    _check_links(file, name)
    if name not in file or not isinstance(file[name], h5py.Dataset):
        raise FormatError(f"{file.filename}: the dataset {name} is missing; an incomplete or edited file?")
    dataset = file[name]
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        raise FormatError(f"{file.filename}: {name} keeps its values elsewhere; emrecon never writes that, refused")
    check_size(Path(file.filename), dataset.shape, f"the values of {name}")
    check_size(Path(file.filename), dataset.chunks or (), f"the chunks of {name}")
    if dataset.chunks and dataset.id.get_storage_size() * _LARGEST_COMPRESSION < dataset.nbytes:
        raise FormatError(f"{file.filename}: {name} announces {dataset.shape} but most values are not in the file")
    return dataset


def _check_links(file: h5py.File, name: str) -> None:
    """Refuse soft and external links: a file must not make its reader open another one."""
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:end]), getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise FormatError(
                f"{file.filename}: {name} is a link to somewhere else; emrecon never writes that, refused"
            )


def _group(file: h5py.File, name: str) -> h5py.Group:
    _check_links(file, name)
    if not isinstance(file.get(name), h5py.Group):
        raise FormatError(f"{file.filename}: the group {name} is missing; an incomplete or edited file?")
    return file[name]


def _optional(file: h5py.File, name: str) -> np.ndarray | None:
    return np.asarray(_dataset(file, name)[()]) if name in file else None


def _energy_window(file: h5py.File) -> tuple[float, float] | None:
    values = _optional(file, "energy_window")
    if values is None:
        return None
    if values.dtype.kind not in "fiu" or values.shape != (2,):
        raise FormatError(f"{file.filename}: energy_window is not two numbers in keV; edited by hand?")
    return float(values[0]), float(values[1])


def _text(file: h5py.File, name: str) -> str:
    dataset = _dataset(file, name)
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.shape != ():
        raise FormatError(f"{file.filename}: {name} is not a text; edited by hand?")
    return str(dataset.asstr()[()])


def _attribute(item: Any, name: str) -> str | None:
    value = item.attrs.get(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else None


def _original_dtype(file: h5py.File, dataset: h5py.Dataset) -> np.dtype:
    name = _attribute(dataset, "original_dtype")
    if name not in _DTYPES:
        raise FormatError(f"{file.filename}: {dataset.name} has the original_dtype {name!r}; edited by hand?")
    return np.dtype(name)


def _plain(values: np.ndarray) -> Any:
    return values if values.ndim else values.item()


def _number(values: np.ndarray, name: str) -> float:
    if np.size(values) != 1:
        raise ValueError(f"{name} has shape {np.shape(values)}, expected one number")
    return float(np.ravel(values)[0])


def _simple(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _checksum(values: np.ndarray) -> str:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).data).hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").partition("\n")[0]


def _version() -> str:
    try:
        return version("emrecon")
    except PackageNotFoundError:
        return "of unknown version"
