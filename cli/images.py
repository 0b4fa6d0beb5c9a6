"""Images for pictures and comparisons: read with their unit, one frame of several, in the unit that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import typer

from emrecon import figures, formats
from emrecon.figures import Look
from emrecon.formats.dicom.nm import nm_kind
from emrecon.formats.dicom.summary import is_dicom
from emrecon.projectors import ImageGrid
from emrecon.projectors.physics.ct_maps import shifted_grid

from . import options

_CONCENTRATIONS = {"Bq/mL": 1.0, "kBq/mL": 1e3, "MBq/mL": 1e6}
_SAME = {"g/mL": "SUV", "BQML": "Bq/mL", "bq/ml": "Bq/mL", "suv": "SUV", "hu": "HU", "cnts": "counts"}
_AIR, _METAL = -500.0, 40000.0  # HU: an image that goes below the one and not above the other is a CT


@dataclass(frozen=True, eq=False)
class Shown:
    """An image (x, y, z) with its unit ("" where nobody says it), and what to say about it."""

    image: np.ndarray
    grid: ImageGrid
    unit: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_ct(self) -> bool:
        """Whether the values are Hounsfield units, as the file says or as they look."""
        finite = self.image[np.isfinite(self.image)]
        seems = not self.unit and finite.size > 0 and finite.min() < _AIR and 0 < finite.max() < _METAL
        return self.unit == "HU" or bool(seems)

    def look(
        self, colour: str | None, window: str | None, log: bool, option: str = "--window"
    ) -> tuple[Look, list[str]]:
        """Return how it is shown, and notes: a CT in a window for soft tissue unless the options say otherwise."""
        base, said = Look(self.unit), []
        if self.is_ct:
            base = replace(figures.CT, unit=self.unit or "HU")
            if not self.unit:
                said = [
                    f"the image is taken for a CT in Hounsfield units by its values; {option} LOW,HIGH sets its window"
                ]
        with named(option):
            limits = base.window if window is None else figures.parse_window(window)
        with named("--colour"):
            look = replace(base, colour=colour or base.colour, window=limits)
            _ = look.colormap
        with named("--log"):
            look = replace(look, log=log)
        with named("--log" if log else option):
            look.limits(self.image)
        return look, said


def load(path: Path, *, frame: int | None = None, unit: str | None = None, header: Sequence[str] = ()) -> Shown:
    """Return the image of a file or a DICOM folder.

    Args:
        frame : 1, 2, ... of a file that holds several; without it their mean.
        unit : that the values are wanted in; where the file says none, it is the name of what it holds.
        header : NAME=VALUE that replace values of a header.

    Raises as `formats.read_image`; typer.BadParameter that names the option for frames that are not there, and for a
    unit that cannot be made of the file's.
    """
    overrides: dict[str, Any] = options.header_values(header)
    by_reader = (path.is_dir() or is_dicom(path)) and nm_kind(path) is None  # which chooses among the files of a series
    if by_reader and frame is not None:
        overrides["frame"] = frame
    image, grid = formats.read_image(path, **overrides)
    grid = in_patient(path, grid)
    notes: list[str] = []
    if image.ndim == 4:
        image, said = _frame(image, None if by_reader else frame)
        notes += said
    elif frame not in (None, 1) and not by_reader:
        raise typer.BadParameter(f"{path.name} holds one volume", param_hint="--frame")
    missing = int((~np.isfinite(image)).sum())
    if missing:
        notes.append(f"{missing} voxels are NaN or infinite; they have a colour of their own")
    shown = Shown(image, grid, known(formats.image_unit(path)), tuple(notes))
    return shown if unit is None else _in_unit(shown, known(unit), path)


def is_planar(path: Path) -> bool:
    """Whether a DICOM file or folder holds planar images of nuclear medicine, and no volumes."""
    return (path.is_dir() or is_dicom(path)) and nm_kind(path) == "planar"


def different_patients(one: tuple[str, Path | None], other: tuple[str, Path]) -> list[str]:
    """Return a note where two DICOM images, (what it is called, file) each, are of different patients."""
    if one[1] is None:
        return []
    studies = [formats.study_of_file(path) for path in (one[1], other[1])]
    said = formats.patient_note(one[0], other[0], *studies)
    return [] if said is None else [said]


def in_patient(path: Path, grid: ImageGrid) -> ImageGrid:
    """Return a grid in the patient's coordinates, where HDF5 and Interfile have kept the place of the scan."""
    if not path.name.lower().endswith((".h5", ".hdf5", ".hv", ".h33")):
        return grid
    with suppress(formats.FormatError, OSError):
        placement = formats.read_provenance(path).placement
        if placement is not None:
            return shifted_grid(grid, placement)
    return grid


def known(unit: str | None) -> str:
    """Return a unit as it is written here."""
    return "" if unit is None else _SAME.get(unit, _SAME.get(unit.lower(), unit))


def in_unit_of(shown: Shown, other: Shown) -> Shown | None:
    """Return an image in the unit of another one, None where their units are known and cannot be converted."""
    if not shown.unit or not other.unit or shown.unit == other.unit:
        return shown
    factor = _factor(shown.unit, other.unit)
    return None if factor is None else replace(shown, image=shown.image * factor, unit=other.unit)


def point(text: str | None, usual: Any = "middle") -> Any:
    """Return the place of --at: X,Y,Z in mm, "middle" or "max"."""
    if text is None:
        return usual
    if text.strip().lower() in ("middle", "max"):
        return text.strip().lower()
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f'{text!r} is not X,Y,Z in mm, "middle" or "max"', param_hint="--at") from None
    return x, y, z


@contextmanager
def named(option: str) -> Iterator[None]:
    """Turn a ValueError of the body into a typer.BadParameter that names the option."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _frame(image: np.ndarray, frame: int | None) -> tuple[np.ndarray, list[str]]:
    n = image.shape[0]
    if frame is None:
        said = [f"the file holds {n} frames, and their mean is shown; --frame N shows one of them"] if n > 1 else []
        return image.mean(0), said
    if not 1 <= frame <= n:
        raise typer.BadParameter(f"there are frames 1 to {n}, got {frame}", param_hint="--frame")
    return image[frame - 1], []


def _in_unit(shown: Shown, unit: str, path: Path) -> Shown:
    if not shown.unit or shown.unit == unit:
        return replace(shown, unit=unit)
    factor = _factor(shown.unit, unit)
    if factor is None and unit == "SUV":
        factor = _suv_factor(path)
    if factor is None:
        why = f"{path.name} is in {shown.unit}, which cannot be converted to {unit}"
        raise typer.BadParameter(why, param_hint="--unit")
    return replace(shown, image=shown.image * factor, unit=unit)


def _factor(own: str, wanted: str) -> float | None:
    if own == wanted:
        return 1.0
    if own in _CONCENTRATIONS and wanted in _CONCENTRATIONS:
        return _CONCENTRATIONS[own] / _CONCENTRATIONS[wanted]
    return None


def _suv_factor(path: Path) -> float | None:
    """What turns a DICOM PET image into SUV, None for other files; typer.BadParameter says which fact is missing."""
    if not (path.is_dir() or is_dicom(path)):
        return None
    try:
        facts = formats.read_dicom_pet(path).facts
    except formats.FormatError:
        return None
    with named("--unit"):
        return formats.suv_factor(facts)
