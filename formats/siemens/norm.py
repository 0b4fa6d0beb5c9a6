"""Siemens component normalisation files (.n with .n.hdr): efficiencies of crystals and their patterns."""

from __future__ import annotations

import math
import os

import numpy as np

from emrecon.projectors import PETScanner, PETSinogram
from emrecon.projectors.core.errors import FormatError, require_file
from emrecon.projectors.pet.pairs import Normalisation

from ..interfile.header import Header, count, load_header, split_list, whole
from .petlink import data_file_of

_MOST_COMPONENTS, _MOST_AXES = 100, 3
_NAMES = {
    "geometric effects": "geometric",
    "crystal interference": "interference",
    "crystal efficiencies": "crystal",
    "axial effects": "axial",
    "paralyzing ring dt parameters": "dead_time_1",
    "non-paralyzing ring dt parameters": "dead_time_2",
}


def read_siemens_norm(
    path: str | os.PathLike[str], scanner: PETScanner | str = "mmr", *, data_file: str | os.PathLike[str] | None = None
) -> Normalisation:
    """Return the `Normalisation` of a Siemens normalisation header (.n.hdr) and its data file.

    Args:
        scanner : what the file belongs to, a `PETScanner` or a name.

    Components are found by their names in the header: geometric effects, crystal interference, crystal efficiencies,
    axial effects (planes of the header's axial compression, segments 0, -1, +1, ...; ring pairs beyond get 1), and the
    two dead time parameters of every ring. Others ("additional axial effects", the crystals' dead time) are not used.

    Raises FileNotFoundError; FormatError where the file is not a normalisation, truncated, of another scanner, or holds
    values that are not finite.
    """
    scanner = PETScanner.named(scanner) if isinstance(scanner, str) else scanner
    header = load_header(path, {"data_file": data_file}, ("data_file",))
    if "normalization" not in header.plain("pet data type"):
        raise FormatError(f"{header.path} lacks `PET data type := normalization`; another kind of header?")
    n = header.get("", ["%number of normalization components"], whole)
    parts = {}
    if n > _MOST_COMPONENTS:
        raise FormatError(f"{header.path} announces {n} normalization components, more than {_MOST_COMPONENTS}")
    for i in range(1, n + 1):
        name = _NAMES.get(header.plain(f"%normalization component [{i}]"))
        if name in parts:
            raise FormatError(f"{header.path}: the normalization component [{i}] is there twice; edited by hand?")
        if name is not None:
            parts[name] = _component(header, i)
    dead_time = [parts.pop(name).ravel() for name in ("dead_time_1", "dead_time_2") if name in parts]
    if len(dead_time) == 2:
        parts["dead_time"] = np.stack(dead_time, 1)
    if "axial" in parts:
        parts["axial"] = _axial(header, parts["axial"].ravel(), scanner)
    try:
        return Normalisation(scanner, **parts)
    except ValueError as error:
        raise FormatError(f"{header.path}: {error}; is the file of another scanner?") from error


def _component(header: Header, i: int) -> np.ndarray:
    """One component, its slowest axis first."""
    shape = header.get("", [f"%matrix size [{i}]"], _sizes)[::-1]
    offset = header.get("", [f"data offset in bytes [{i}]"], whole)
    path, size = require_file(data_file_of(header)), 4 * math.prod(shape)
    if offset + size > path.stat().st_size:
        raise FormatError(
            f"{path}: component {i} of shape {shape} at {offset} ends after the file's {path.stat().st_size} bytes; "
            "truncated?"
        )
    values = np.fromfile(path, "<f4", math.prod(shape), offset=offset).astype(float)
    if not np.isfinite(values).all():
        raise FormatError(f"{path}: component {i} holds NaN or infinite values; damaged?")
    return values.reshape(shape)


def _sizes(value: object) -> tuple[int, ...]:
    """The whole numbers of a list, or a single one."""
    entries = value if isinstance(value, tuple) else split_list(str(value))
    if not 1 <= len(entries) <= _MOST_AXES:
        raise ValueError(f"expected 1 to {_MOST_AXES} sizes")
    return tuple(count(entry) for entry in entries)


def _axial(header: Header, planes: np.ndarray, scanner: PETScanner) -> np.ndarray:
    """The factors of compressed planes, by ring pair."""
    span = header.get("", ["%axial compression"], whole)
    difference = header.get("", ["%maximum ring difference"], whole)
    try:
        sinogram = PETSinogram(scanner, difference, span)
    except ValueError as error:
        raise FormatError(f"{header.path}: {error}; is the file of another scanner?") from error
    if planes.size != sinogram.n_planes:
        raise FormatError(
            f"{header.path} has {planes.size} axial effects, but {sinogram} has {sinogram.n_planes} planes"
        )
    table, michelogram = np.ones(sinogram.michelogram.shape), sinogram.michelogram.T
    # the transpose exchanges segments +d and -d, which Siemens lists in the other order
    table[michelogram >= 0] = planes[michelogram[michelogram >= 0]]
    return table
