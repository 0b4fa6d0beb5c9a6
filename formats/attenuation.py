"""Attenuation maps for a scan, from the CT beside it or from a file: at its energy, on its grid, at its place."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emrecon.projectors import (
    AttenuationMap,
    BedScan,
    ImageGrid,
    PETSinogram,
    Scan,
    ScanSeries,
    Study,
    WindowedScan,
    WindowedSeries,
    attenuation_from_ct,
    find_body,
    isotope,
    peak_window,
)
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.physics.attenuation import ct_scanners, tube_voltages
from emrecon.projectors.physics.compton import ELECTRON_MASS
from emrecon.projectors.physics.ct_maps import ct_coverage, ct_truncation, shifted_grid

from .dicom.attributes import lenient
from .dicom.ct import CTFacts, CTImage, is_ct, read_ct, whole_series
from .dicom.series import headers_of
from .dicom.summary import is_dicom
from .interfile.images import ImageAxes
from .registry import read_image
from .siemens import PETLink
from .subjects import patient_note, study_of_file

UNITS = ("1/cm", "1/mm", "hu")
_ASSUMED_VOLTAGE = 120.0  # kV
_VOLTAGES = (60.0, 160.0)  # kV, of tubes whose tables are near enough
_HIGHEST = 10.0  # 1/cm; see `check_attenuation`
_AIR = -200.0  # HU, below which every CT has some voxels
_SAME = 0.5  # mm
_SCALE = (0x0033, 0x1038)  # of Siemens' attenuation maps, as PyTomography reads them (Polson et al. 2025)


Measured = Scan | WindowedScan | WindowedSeries | ScanSeries | BedScan | PETLink
"""What has a place, an energy and a grid."""


@dataclass(frozen=True)
class _Choice:
    """How a CT is converted."""

    energy: float
    kvp: float | None
    shift: tuple[float, float, float]
    remove_bed: bool


def read_mu(
    path: str | os.PathLike[str],
    scan: Measured,
    grid: ImageGrid | None = None,
    *,
    energy: float | None = None,
    unit: str | None = None,
    series: str | int | None = None,
    kvp: float | None = None,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    remove_bed: bool = False,
    beside: str | os.PathLike[str] | ImageAxes | None = None,
) -> AttenuationMap:
    """Return the attenuation map of a scan; `spect_problem(scan, mu=...)` and `pet_problem` take it as it is.

    A CT is converted voxel by voxel (`hounsfield_to_mu`), then averaged over the voxels of the grid. Its place is that
    of DICOM: a point r of the scan's own coordinates is the point r + `scan.study.placement` of the patient.

    Args:
        path : a folder with a CT series or one of its files, a CT in another format (unit="hu"), or a map.
        scan : the data, whose energy, placement and grid count: a `Scan`, a series of frames or gates, several beds, or
            list-mode data.
        grid : of the image, in the scan's coordinates (default: the scan's; of several beds one over all of them).
        energy : keV (default: the line of the scan's nuclide in its window; 511 for PET).
        unit : of the values, "hu", "1/cm" or "1/mm" (default: "hu" for DICOM CT, else "1/cm").
        series : SeriesInstanceUID or series number, where the folder holds several.
        kvp : tube voltage where the file does not say it, or says it wrongly.
        shift : mm (left, back, head) that the CT is moved by, to mend a misalignment.
        remove_bed : take everything besides the body for air (`find_body`).
        beside : as for `read_image`.

    What was assumed is in `notes` of the result: another frame of reference, no placement (then the axis of the camera
    lies on that of the CT, and the middle of one on that of the other), a voltage that was not known, slices that the
    CT does not cover, bodies that it cuts off. Maps in 1/cm or 1/mm keep their own grid.

    Raises FileNotFoundError; FormatError (a ValueError) for files that cannot be used, values that are not in the unit,
    several series (listed), unknown energies and voltages, and a CT that does not lie where the image is.

    Source: bilinear conversion, see `hounsfield_to_mu`; geometry, DICOM PS3.3, Image Plane module.
    """
    if unit not in (None, *UNITS):
        raise FormatError(f"unknown unit {unit!r} of an attenuation map; choose from {', '.join(UNITS)}")
    move = _vector(shift)
    dicom = _is_dicom(path)
    if dicom and is_ct(path):
        if unit not in (None, "hu"):
            raise FormatError(f"{path} is a CT in Hounsfield units, and the unit is said to be {unit}")
        ct = read_ct(whole_series(path), series, chosen_by="series= (--mu-series)")
    else:
        if series is not None and not dicom:
            raise FormatError(f"{path} holds no DICOM series to choose from, got series {series!r}")
        chosen = {} if series is None else {"series": series}
        values, own = read_image(path, beside=beside, **chosen)
        if values.ndim != 3:
            raise FormatError(f"{path} holds several volumes, shape {values.shape}; save one of them as its own file")
        if unit != "hu":
            return _of_map(path, np.asarray(values), own, scan, unit or "1/cm", move, kvp, remove_bed)
        ct = CTImage(values, own, CTFacts())
    wanted = _grid_of(scan) if grid is None else grid
    return _of_ct(path, ct, scan, wanted, _Choice(_energy(scan, energy), kvp, move, remove_bed))


def _grid_of(scan: Measured) -> ImageGrid:
    if isinstance(scan, BedScan):
        return scan.default_grid()
    geometry = getattr(scan, "geometry", None) or getattr(scan, "sinogram", None)
    if geometry is None:
        raise TypeError(f"a scan is needed, got {type(scan).__name__}")
    found: ImageGrid = geometry.default_grid()
    return found


# ---- from a CT -------------------------------------------------------------------------------------------------------


def _of_ct(
    path: str | os.PathLike[str], ct: CTImage, scan: Measured, grid: ImageGrid, choice: _Choice
) -> AttenuationMap:
    _check_hounsfield(path, ct.image)
    kvp, scanner, notes = _voltage(ct.facts, choice)
    place, said = _placed(path, ct, scan, grid)
    own = shifted_grid(place, choice.shift)
    inside, removed = _body(ct) if choice.remove_bed else (None, None)
    try:
        values = attenuation_from_ct(ct.image, own, grid, choice.energy, kvp=kvp, scanner=scanner, inside=inside)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error
    seen = ct.image if inside is None else np.where(inside, ct.image, np.float32(-1000))
    more = (*_warnings(ct), removed, ct_coverage(own, grid), ct_truncation(seen, own), _moved(choice.shift))
    table = f"table of {scanner}" if scanner else "mean of all tables"
    source = f"CT of {ct.grid}, {kvp:g} kV ({table}), at {choice.energy:.4g} keV"
    who = patient_note("CT", "scan", Study(attributes=ct.facts.patient), getattr(scan, "study", None))
    every = (*notes, *said, *(note for note in (who, *more) if note))
    return AttenuationMap(values, grid, choice.energy, every, source)


def _check_hounsfield(path: str | os.PathLike[str], values: np.ndarray) -> None:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if not np.isfinite(values).all():
        raise FormatError(f"{path}: the CT holds NaN or infinite values")
    if low >= 0 and high <= _HIGHEST:
        raise FormatError(
            f"{path}: values from {low:.4g} to {high:.4g} are no Hounsfield units; a map in 1/cm or 1/mm? Say so by "
            "unit= (--mu-unit)"
        )
    if low >= 0:
        raise FormatError(
            f"{path}: values from {low:.4g} to {high:.4g} are no Hounsfield units, where air has -1000; subtract what "
            "was added (1000 or 1024)"
        )


def _voltage(facts: CTFacts, choice: _Choice) -> tuple[float, str | None, list[str]]:
    """The tube voltage and model whose table is taken, and what was assumed."""
    notes = []
    kvp = choice.kvp if choice.kvp is not None else facts.kvp
    if kvp is None:
        kvp = _ASSUMED_VOLTAGE
        notes.append(f"the tube voltage of the CT is not known, {kvp:g} kV is assumed; it matters for bone")
    elif choice.kvp is not None and facts.kvp is not None and choice.kvp != facts.kvp:
        notes.append(f"the CT says {facts.kvp:g} kV, and {choice.kvp:g} kV is taken as told")
    if not _VOLTAGES[0] <= kvp <= _VOLTAGES[1]:
        raise FormatError(f"there is no table for a CT of {kvp:g} kV; give the voltage by kvp= (--mu-kvp)")
    known = tube_voltages()
    nearest = min(known, key=lambda voltage: abs(voltage - kvp))
    if nearest != kvp:
        notes.append(f"there is no table for {kvp:g} kV, that of {nearest:g} kV is taken; it matters for bone")
    model = (facts.model or "").strip().lower()
    return nearest, model if model in ct_scanners(nearest) else None, notes


def _body(ct: CTImage) -> tuple[np.ndarray | None, str]:
    found = find_body(ct.image, ct.grid)
    if found is None:
        return None, "no body was found on the CT, so nothing was removed besides it"
    pieces = "one piece" if found.n_pieces == 1 else f"{found.n_pieces} pieces"
    return found.inside, f"{found.removed:.0f} mL besides the body ({pieces}) were taken for the bed and removed"


def _warnings(ct: CTImage) -> list[str | None]:
    lowest = float(ct.image.min())
    return [
        f"the values of the CT are said to be {ct.facts.rescale_type}, and are taken as HU"
        if ct.facts.rescale_type.upper() != "HU"
        else None,
        "the CT was taken with a contrast agent, which is converted as if it were bone" if ct.facts.contrast else None,
        f"no voxel of the CT is air (the lowest is {lowest:.0f}); are the values HU?" if lowest > _AIR else None,
    ]


def _moved(shift: tuple[float, float, float]) -> str | None:
    if not any(shift):
        return None
    x, y, z = shift
    return f"the CT is moved by {x:g} mm to the left, {y:g} mm to the back and {z:g} mm to the head, as told"


# ---- where it lies ---------------------------------------------------------------------------------------------------


def _placed(path: str | os.PathLike[str], ct: CTImage, scan: Measured, grid: ImageGrid) -> tuple[ImageGrid, list[str]]:
    """The CT's grid in the coordinates of the scan, and what was assumed."""
    if not _is_dicom(path):
        own, note = _of_file(path, ct.grid, scan)
        return own, [note] if note else []
    study: Study | None = getattr(scan, "study", None)
    if study is None or study.placement is None:
        return _centred(ct, grid)
    return shifted_grid(ct.grid, [-value for value in study.placement]), _frames(ct.facts, study)


def _of_file(path: str | os.PathLike[str], own: ImageGrid, scan: Measured) -> tuple[ImageGrid, str | None]:
    """The grid of an image in the coordinates of the scan, and what was assumed."""
    here = grid_in_scan(path, own, getattr(scan, "study", None))
    if here is own:
        return own, None
    note = f"{Path(path).name} is taken to be in the coordinates of the patient, in which the scan says where it lies"
    return here, note


def _frames(facts: CTFacts, study: Study) -> list[str]:
    one, two = facts.frame_of_reference, study.frame_of_reference
    notes = []
    if one is None or two is None:
        which = "the CT" if one is None else "the scan"
        notes.append(f"{which} names no frame of reference; both are taken to be in the same coordinates")
    elif one != two:
        notes.append(
            "CT and scan have different frames of reference, so perhaps the patient got up between them; their "
            "coordinates are taken to be the same, look whether they fit"
        )
    if facts.patient_position and study.patient_position and facts.patient_position != study.patient_position:
        notes.append(
            f"the patient lay {study.patient_position} for the scan and {facts.patient_position} for the CT; were they "
            "taken in one session?"
        )
    return notes


def _centred(ct: CTImage, grid: ImageGrid) -> tuple[ImageGrid, list[str]]:
    """The axis of the camera on that of the CT, and the middle of the CT in that of the image."""
    x, y, z = ct.grid.centre
    axis, how = (x, y), "the middle of the CT"
    if ct.facts.isocentre is not None:
        axis, how = ct.facts.isocentre, "the axis of the CT's gantry"
    elif ct.facts.table_height is not None and abs(y + abs(ct.facts.table_height)) < _SAME:
        how = "the axis of the CT's gantry, as its table height says"
    middle = float(grid.centre[2])
    note = (
        f"the scan does not say where it lies in the patient: its axis is put on {how}, x {axis[0]:.1f}, y "
        f"{axis[1]:.1f} mm, and the middle of the CT, z {z:.1f} mm, on that of the image; shift= (--mu-shift) moves it"
    )
    return shifted_grid(ct.grid, (-axis[0], -axis[1], middle - z)), [note]


def grid_in_scan(path: str | os.PathLike[str], grid: ImageGrid, study: Study | None) -> ImageGrid:
    """Return the grid of an image file in the coordinates of a scan, whose placement `study` says.

    DICOM and NIfTI files lie in the patient, Interfile and HDF5 in the scan; without a placement all are taken to be in
    the scan's coordinates.
    """
    if study is None or study.placement is None or not in_patient(path):
        return grid
    return shifted_grid(grid, [-value for value in study.placement])


def in_patient(path: str | os.PathLike[str]) -> bool:
    """Whether a file of this kind is in the coordinates of the patient; Interfile and HDF5 are in those of a scan."""
    return _is_dicom(path) or Path(path).name.lower().endswith((".nii", ".nii.gz"))


def _is_dicom(path: str | os.PathLike[str]) -> bool:
    return Path(path).is_dir() or is_dicom(path)


def _energy(scan: Measured, energy: float | None) -> float:
    """The energy of the photons in keV."""
    if energy is not None:
        return energy
    one = scan.beds[0] if isinstance(scan, BedScan) else scan
    if isinstance(getattr(one, "geometry", None) or getattr(one, "sinogram", None), PETSinogram):
        return ELECTRON_MASS
    try:
        window = peak_window(one).limits if isinstance(one, (WindowedScan, WindowedSeries)) else None
        name = getattr(one, "radionuclide", None)
        if name is None:
            raise ValueError("the scan names no radionuclide")
        return isotope(name).energy_in(window or getattr(one, "energy_window", None))
    except ValueError as error:
        raise FormatError(
            f"a CT is converted at the energy of the photons, which is not known: {error}; give energy= (--energy)"
        ) from error


# ---- from a map ------------------------------------------------------------------------------------------------------


def _of_map(
    path: str | os.PathLike[str],
    values: np.ndarray,
    own: ImageGrid,
    scan: Measured,
    unit: str,
    shift: tuple[float, float, float],
    kvp: float | None,
    remove_bed: bool,
) -> AttenuationMap:
    """A map that is one already, on its own grid."""
    for name, given in (("kvp", kvp is not None), ("remove_bed", remove_bed)):
        if given:
            raise FormatError(f"{path}: {name} is for CT in Hounsfield units, and this is a map in {unit}")
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < -_HIGHEST:
        raise FormatError(
            f"{path}: values from {low:.4g} to {high:.4g} look like Hounsfield units, not like attenuation in {unit}; "
            "say so by unit='hu' (--mu-unit hu)"
        )
    place, said = _of_file(path, own, scan)
    scale = _scale(path)
    scaled = f"the values of {Path(path).name} are divided by {scale:g}, the scale in its attribute (0033,1038)"
    who = patient_note("attenuation map", "scan", study_of_file(path), getattr(scan, "study", None))
    notes = tuple(note for note in (who, said, _moved(shift), scaled if scale != 1 else None) if note)
    values = values / np.float32(scale)
    if unit == "1/mm":
        values = values * np.float32(10)
    return AttenuationMap(values, shifted_grid(place, shift), None, notes, Path(path).name)


def _scale(path: str | os.PathLike[str]) -> float:
    """What the stored values of a map in DICOM are larger by: Siemens notes it in a private attribute."""
    if not _is_dicom(path):
        return 1.0
    with lenient():
        for _, header in headers_of(path)[0]:
            value = getattr(header.get(_SCALE), "value", None)
            with suppress(ValueError, TypeError, UnicodeDecodeError):
                value = value.decode("ascii").strip("\0 ") if isinstance(value, bytes) else value
                scale = float(value)  # type: ignore[arg-type]  # a TypeError is suppressed
                if math.isfinite(scale) and scale > 0:
                    return scale
    return 1.0


def _vector(shift: Sequence[float]) -> tuple[float, float, float]:
    values = tuple(float(value) for value in shift)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise FormatError(f"shift must be three finite mm (left, back, head), got {shift}")
    return values
