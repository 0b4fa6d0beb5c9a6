"""Scans and images in the native file: HDF5 with a versioned schema, units, checksums and exact round trips.

docs/hdf5.md lists the schema. Files are written atomically and read with every size checked before it is allocated.
"""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import ImageGrid, PETSinogram, Scan
from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.errors import FormatError

from ..records import Provenance, provenance_of
from ..summary import image_summary, scan_summary
from .geometry import load_geometry, put_geometry
from .storage import (
    SCHEMA_VERSION,
    attribute_of,
    creating,
    dataset_of,
    energy_window_of,
    group_of,
    load,
    opened,
    optional_number,
    optional_put,
    optional_text,
    plain,
    plain_attribute,
    put,
    put_attributes,
    require_room,
    store,
    text_of,
)
from .studies import load_study, put_study


def write_scan(path: str | os.PathLike[str], scan: Scan) -> None:
    """Write `scan` to an HDF5 file (schema "scan"); the file appears complete or not at all.

    Arrays of any library are stored; whole counts take 2 or 4 bytes and come back in their own dtype.

    Raises OSError naming `path` where it cannot be written, TypeError for dtypes that HDF5 cannot hold exactly.
    """
    if not isinstance(scan, Scan):
        other = "write_dynamic, write_windowed_scan or write_beds"
        raise TypeError(f"write_scan expects a Scan, got {type(scan).__name__}; {other}?")
    with creating(path, "scan", _version(scan)) as file:
        put_scan(file, scan)


def put_scan(file: h5py.Group, scan: Scan) -> None:
    """Store all of a scan in a file or a group."""
    store(file, "counts", scan.counts, "counts")
    store(file, "background", scan.background, "counts")
    store(file, "factors", scan.factors, "1")
    optional_put(file, "duration", scan.duration, "s")
    optional_put(file, "energy_window", scan.energy_window, "keV")
    optional_put(file, "radionuclide", scan.radionuclide, "")
    put(file, "description", scan.description, "")
    put_geometry(file, scan.geometry)
    put_study(file, scan.study)


def _version(scan: Scan) -> int:
    """The schema that holds a scan."""
    if scan.study is not None or isinstance(getattr(scan.geometry, "span", 1), tuple):
        return SCHEMA_VERSION
    if not isinstance(scan.geometry, PETSinogram):
        return 1
    return 2 if scan.geometry.lines is None else 3


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """Return the scan of an HDF5 file that `write_scan` wrote, equal in every field and dtype.

    Arrays are NumPy arrays in native byte order; torch and CuPy arrays are not restored as such.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails its checksum.
    """
    with opened(path, "scan") as file:
        require_room(file, ["counts", "background", "factors"])
        return load_scan(file)


def load_scan(file: h5py.Group) -> Scan:
    """Return the scan that `put_scan` stored."""
    return Scan(
        load(file, "counts"),
        load_geometry(file),
        plain(load(file, "background")),
        plain(load(file, "factors")),
        optional_number(file, "duration"),
        optional_text(file, "radionuclide"),
        energy_window_of(file),
        text_of(file, "description"),
        load_study(file),
    )


def write_image(
    path: str | os.PathLike[str],
    image: Array,
    grid: ImageGrid,
    *,
    units: str = "",
    provenance: Provenance | None = None,
    **attributes: ArrayLike,
) -> None:
    """Write an image (..., x, y, z) on `grid` to an HDF5 file (schema "image"), atomically.

    Args:
        units : of the values, such as "MBq/mL" or "1/cm" (default: the record's).
        provenance : kept in the group "provenance": the main facts as attributes, all of it as JSON.
        attributes : names with numbers, short lists or text; `describe` returns them.

    Raises ValueError where the image does not fit the grid, OSError naming `path` where it cannot be written.
    """
    shape = tuple(image.shape)
    if shape[-3:] != grid.shape:
        raise ValueError(f"write_image: an image of shape {shape} does not fit a grid of {grid.shape}")
    with creating(path, "image", 1) as file:
        store(file, "image", image, units or ("" if provenance is None else provenance.unit))
        put(file, "grid/voxel_size", grid.voxel_size, "mm")
        put(file, "grid/origin", grid.origin, "mm")
        put_attributes(file["grid"], orientation="LPS")
        put_attributes(file.create_group("attributes"), **attributes)
        if provenance is not None:
            _put_provenance(file, provenance)


def _put_provenance(file: h5py.File, record: Provenance) -> None:
    inputs = [f"{item.role}: {item}" for item in record.inputs]
    texts = {name: getattr(record, name) for name in ("version", "command", "method", "unit", "date")}
    put_attributes(file.create_group("provenance"), **texts, **({"inputs": inputs} if inputs else {}))
    put(file, "provenance/record", record.json(), "")


def read_image_provenance(path: str | os.PathLike[str]) -> Provenance | None:
    """Return the record of an image, None where the file holds none; raises as `read_scan` does."""
    with opened(path, "image") as file:
        if "provenance" not in file:
            return None
        try:
            content = json.loads(text_of(file, "provenance/record"))
        except (RecursionError, ValueError) as error:
            raise FormatError(f"{path}: the record cannot be read ({error}); edited by hand?") from error
        return provenance_of(content, path)


def read_image(path: str | os.PathLike[str]) -> tuple[np.ndarray, ImageGrid]:
    """Return (image, grid) of an HDF5 file that `write_image` wrote; raises as `read_scan` does."""
    with opened(path, "image") as file:
        image = load(file, "image")
        if image.ndim < 3:
            raise FormatError(f"{path}: the image has shape {image.shape}, expected (..., x, y, z); edited by hand?")
        voxel_size, origin = (tuple(np.ravel(load(file, f"grid/{name}")).tolist()) for name in ("voxel_size", "origin"))
        return image, ImageGrid(image.shape[-3:], voxel_size, origin)


def image_unit(path: str | os.PathLike[str]) -> str | None:
    """Return the unit of an image's values, None where the file says none; values are not read."""
    with opened(path, "image") as file:
        return attribute_of(dataset_of(file, "image"), "units") or None


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return which kind of file of emrecon this is: "scan", "image", "dynamic", "gated", "windowed-scan" or "beds"."""
    with opened(path, None) as file:
        return str(attribute_of(file, "emrecon_schema"))


def holds_pet(path: str | os.PathLike[str]) -> bool:
    """Whether a file of a scan is one of PET; its counts are not read."""
    with opened(path, None) as file:
        return "geometry/scanner" in file


def describe(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return what a file of a scan or an image holds as names and plain values, after reading and verifying it."""
    with opened(path, None) as file:
        kind = attribute_of(file, "emrecon_schema")
        facts: dict[str, object] = {"format": "emrecon HDF5", "schema version": plain_attribute(file, "schema_version")}
        facts["creator"] = attribute_of(file, "creator")
        if kind == "image":
            facts["units"] = attribute_of(dataset_of(file, "image"), "units") or ""
            given = group_of(file, "attributes")
            facts |= {name: plain_attribute(given, name) for name in given.attrs}
    return facts | (scan_summary(read_scan(path)) if kind == "scan" else image_summary(*read_image(path)))
