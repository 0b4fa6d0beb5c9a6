"""The geometry in files of scans: a SPECT camera or a PET sinogram with its scanner."""

from __future__ import annotations

import h5py
import numpy as np

from emrecon.projectors import EquallySpacedLines, PETScanner, PETSinogram, SPECTGeometry, TimeOfFlight
from emrecon.projectors.core.errors import FormatError

from .storage import dataset_of, load, number_of, optional_number, optional_put, put, text_of

_CAMERA_UNITS = {
    "angles": "degree",
    "radius": "mm",
    "shift": "mm",
    "head": "1",
    "n_bins": "1",
    "pixel_size": "mm",
    "axial_shift": "mm",
}
_SCANNER_UNITS = {"n_radial": "1", "bin_size": "mm", "energy_resolution": "1"}
_MOST_RINGS = 2**11
_SINOGRAM_NUMBERS = ("max_ring_difference", "span", "n_radial", "mashing", "views")


def put_geometry(file: h5py.Group, geometry: SPECTGeometry | PETSinogram) -> None:
    """Write the group "geometry" of a scan."""
    if isinstance(geometry, PETSinogram):
        _put_sinogram(file, geometry)
        return
    for name, units in _CAMERA_UNITS.items():
        put(file, f"geometry/{name}", getattr(geometry, name), units)


def load_geometry(file: h5py.Group) -> SPECTGeometry | PETSinogram:
    """Return the geometry of a scan; the constructors check everything that the file says."""
    return _load_sinogram(file) if "geometry/scanner" in file else load_camera(file)


def load_camera(file: h5py.Group) -> SPECTGeometry:
    """Return the geometry of a scan that must be SPECT."""
    values = {name: load(file, f"geometry/{name}") for name in _CAMERA_UNITS}
    axial_shift = number_of(values.pop("axial_shift"), "geometry/axial_shift")
    return SPECTGeometry(**values, axial_shift=axial_shift)  # type: ignore[arg-type]  # which makes tuples of arrays


def _put_sinogram(file: h5py.Group, sinogram: PETSinogram) -> None:
    scanner = sinogram.scanner
    put(file, "geometry/scanner/crystals", scanner.crystals, "mm")
    put(file, "geometry/scanner/virtual", scanner.virtual, "1")
    put(file, "geometry/scanner/name", scanner.name, "")
    for name, units in _SCANNER_UNITS.items():
        optional_put(file, f"geometry/scanner/{name}", getattr(scanner, name), units)
    for name in _SINOGRAM_NUMBERS:
        put(file, f"geometry/{name}", getattr(sinogram, name), "1")
    if sinogram.lines is not None:
        put(file, "geometry/lines", (sinogram.lines.n_views, sinogram.lines.bin_size), "1, mm")
    for name, tof in (("geometry/scanner/tof", scanner.time_of_flight), ("geometry/tof", sinogram.tof)):
        if tof is not None:
            put(file, name, (tof.n_bins, tof.bin_width, tof.fwhm), "1, mm, mm")


def _load_sinogram(file: h5py.Group) -> PETSinogram:
    scanner = PETScanner(
        load(file, "geometry/scanner/crystals"),
        load(file, "geometry/scanner/virtual").astype(bool),
        text_of(file, "geometry/scanner/name"),
        n_radial=_whole(file, "geometry/scanner/n_radial") if "geometry/scanner/n_radial" in file else None,
        bin_size=optional_number(file, "geometry/scanner/bin_size"),
        time_of_flight=_load_tof(file, "geometry/scanner/tof"),
        energy_resolution=optional_number(file, "geometry/scanner/energy_resolution"),
    )
    difference, span = _whole(file, "geometry/max_ring_difference"), _span(file)
    _check_planes(file, scanner.n_rings, difference, max(span))
    return PETSinogram(
        scanner,
        difference,
        span,  # one number for all segments comes out as such
        n_radial=_whole(file, "geometry/n_radial"),
        mashing=_whole(file, "geometry/mashing"),
        tof=_load_tof(file, "geometry/tof"),
        views=_whole_numbers(file, "geometry/views"),
        lines=_load_lines(file),
    )


def _load_lines(file: h5py.Group) -> EquallySpacedLines | None:
    if "geometry/lines" not in file:
        return None
    values = load(file, "geometry/lines")
    if values.shape != (2,):
        raise FormatError(f"{file.file.filename}: geometry/lines has shape {values.shape}, expected 2 numbers")
    return EquallySpacedLines(*map(float, values))  # type: ignore[arg-type]  # which refuses fractions of views


def _check_planes(file: h5py.Group, rings: int, difference: int, span: int) -> None:
    """Raise FormatError where the ring pairs are too many for the planes of the counts; listing them takes long."""
    name = "counts" if "counts" in file else "counts_0000"
    planes = dataset_of(file, name).shape[-1:]
    inside = min(max(difference, 0), rings)
    pairs = rings + inside * (2 * rings - inside - 1)
    if rings > _MOST_RINGS or not planes or pairs > planes[0] * max(span, 1):
        raise FormatError(f"{file.file.filename}: {rings} rings do not fit {name} of {planes} planes; edited by hand?")


def _span(file: h5py.Group) -> tuple[int, ...]:
    values = np.atleast_1d(_whole_numbers(file, "geometry/span"))
    if values.ndim != 1 or not 1 <= values.size <= _MOST_RINGS:
        raise FormatError(f"{file.file.filename}: geometry/span has shape {values.shape}; edited by hand?")
    return tuple(map(int, values))


def _whole(file: h5py.Group, name: str) -> int:
    return int(number_of(_whole_numbers(file, name), name))


def _whole_numbers(file: h5py.Group, name: str) -> np.ndarray:
    values = load(file, name)
    if np.any(values % 1):
        raise FormatError(f"{file.file.filename}: {name} holds fractions; edited by hand?")
    return values


def _load_tof(file: h5py.Group, name: str) -> TimeOfFlight | None:
    if name not in file:
        return None
    values = load(file, name)
    if values.shape != (3,):
        raise FormatError(f"{file.file.filename}: {name} has shape {values.shape}, expected 3 numbers; edited by hand?")
    return TimeOfFlight(*map(float, values))  # type: ignore[arg-type]  # which refuses fractions of bins
