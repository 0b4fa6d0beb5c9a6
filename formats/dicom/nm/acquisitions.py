"""One file of projections as a table of frames, each with its window, head, place, angle and time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import EnergyWindow, Study
from emrecon.projectors.core.errors import FormatError

from ..attributes import items_of, text_of, texts_of
from ..series import start_of
from .circumstances import study_of
from .frames import FrameTable, frames_of
from .given import Given
from .header import floats_of, matrix_of, single_of, tag, type_of
from .images import mapping_of
from .notes import Notes
from .orbit import Orbit, orbit_of
from .pixels import check_not_negative, pixel_size_of, rescaled, stored_of
from .place import Place, place_of
from .windows import nuclide_of, windows_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MOVED = 0.5  # mm


@dataclass(frozen=True, eq=False)
class Acquisition:
    """A file of projections.

    Args:
        frames, orbit : what each frame is, and where it was taken.
        windows : of the file, by number.
        pixel : (bin, row) mm.  shape : (bins, rows).
        z : (frames,) mm of the middle of the rows; of the patient where `place` says it, else only between tables.
        gate_shares : of the time of a view, (R-R intervals, gates); None where an R-R interval's share is not known.
    """

    path: Path
    header: Dataset
    kind: str
    frames: FrameTable
    orbit: Orbit
    windows: list[EnergyWindow | None]
    pixel: tuple[float, float]
    shape: tuple[int, int]
    place: Place
    z: np.ndarray
    start: datetime | None
    nuclide: str | None
    study: Study
    description: str
    gate_shares: np.ndarray | None

    @property
    def n_frames(self) -> int:
        """The number of frames."""
        return int(self.frames.view.size)

    def counts(self, given: Given, notes: Notes) -> np.ndarray:
        """Return all frames (frames, bins, rows) with u and z as `SPECTGeometry` has them."""
        scale = given.positive("scale")
        if scale is None:
            mapping = mapping_of(self.path, self.header)
            if mapping is not None and "count" in mapping.unit.lower():
                scale = mapping.slope
                notes.add(self.path, f"counts are stored x {scale:g} ({tag('RealWorldValueMappingSequence')})")
            elif mapping is not None:
                notes.add(
                    self.path,
                    f"{tag('RealWorldValueMappingSequence')} in {mapping.unit or 'an unknown unit'} is not used: "
                    "projections are counts",
                )
        values = rescaled(self.path, self.header, stored_of(self.path, self.header), scale)
        check_not_negative(self.path, values)
        turned = values[:, :, ::-1] if self.place.rows_up else values[:, ::-1, :]
        return turned.transpose(0, 2, 1)

    def shifts(self, given: Given) -> np.ndarray:
        """Return the displacement of the detector's centre along u of each frame, mm; what is given is along u."""
        if given.has("shift"):
            return self.orbit.shift
        return -self.orbit.shift if self.place.rows_up else self.orbit.shift


def acquisition_of(path: Path, header: Dataset, given: Given, notes: Notes) -> Acquisition:
    """Return what a file of projections says but for its pixels; raises FormatError where it cannot be used."""
    if "TRANSMISSION" in [value.upper() for value in texts_of(header, "ImageType")]:
        raise FormatError(f"{path} is a transmission scan ({tag('ImageType')}), not one of emission; leave it out")
    n_frames, rows, columns = matrix_of(path, header)
    frames = frames_of(path, header, n_frames, given, notes)
    orbit = orbit_of(path, header, frames, given, notes)
    pixel = _pixel(path, header, (columns, rows), given, notes)
    windows = windows_of(path, header, np.unique(frames.window), given, notes)
    nuclide = nuclide_of(path, header, windows, given, notes)
    study = study_of(path, header, nuclide, given, notes)

    def first_view(head: int) -> tuple[float, float, float]:
        mine = np.flatnonzero((frames.head == min(head, frames.head.max())) & (frames.view == 0) & (frames.turn == 0))
        i = int(mine[0]) if mine.size else 0
        return float(orbit.angle[i]), float(orbit.radius[i]), float(orbit.shift[i])

    place = place_of(path, header, (columns, rows), pixel, first_view, given, notes)
    return Acquisition(
        path,
        header,
        type_of(header),
        frames,
        orbit,
        windows,
        pixel,
        (columns, rows),
        place,
        _heights(path, orbit, place, study, frames, notes),
        start_of(header),
        nuclide,
        study,
        _description(header, given),
        _gate_shares(path, header, frames, notes),
    )


def _description(header: Dataset, given: Given) -> str:
    chosen = given.text("description")
    return chosen if chosen is not None else text_of(header, "SeriesDescription") or ""


def _pixel(path: Path, header: Dataset, shape: tuple[int, int], given: Given, notes: Notes) -> tuple[float, float]:
    """(bin, row) mm, with what is said about the zoom."""
    chosen = given.pixel_size()
    if chosen is not None:
        return chosen
    pixel = pixel_size_of(path, header)
    if pixel is None:
        raise FormatError(f"{path}: {tag('PixelSpacing')} is missing; pass pixel_size= in mm")
    zooms = [_zoom(path, item) for item in (*items_of(header, "DetectorInformationSequence"), header)]
    zoom = next((value for value in zooms if value is not None), (1.0, 1.0))
    if given.flag("spacing_is_zoomed") is False:
        return pixel[0] / zoom[0], pixel[1] / zoom[1]
    if zoom != (1.0, 1.0):
        notes.add(
            path,
            f"{tag('ZoomFactor')} is {zoom[0]:g}, and {tag('PixelSpacing')} of {pixel[0]:g} mm is taken as that of the "
            f"zoomed pixels, so {shape[0] * pixel[0]:.0f} mm are seen; pass spacing_is_zoomed=no if it is not, or "
            "pixel_size=",
        )
    return pixel


def _zoom(path: Path, item: Dataset) -> tuple[float, float] | None:
    values = floats_of(path, item, "ZoomFactor")
    if values is None or values.size not in (1, 2) or values.min() <= 0:
        return None
    # the factor of the rows comes first
    return float(values[-1]), float(values[0])


def _heights(path: Path, orbit: Orbit, place: Place, study: Study, frames: FrameTable, notes: Notes) -> np.ndarray:
    """z of the middle of the rows in each frame, where the table moved between rotations."""
    middle = 0.0 if place.middle is None else place.middle
    if orbit.table is None:
        return np.full(frames.view.size, middle)
    way = 1 if (study.patient_position or "HF").startswith("FF") else -1
    if np.ptp(orbit.table) > _MOVED:
        said = f"who lies {study.patient_position}" if study.patient_position else "taken to lie head first"
        notes.add(
            path,
            f"{tag('TableTraverse')} moves by {np.ptp(orbit.table):g} mm between rotations; a larger one is taken to "
            f"bring the {'head' if way > 0 else 'feet'} of the patient, {said}, into view; pass axial_shift=[...] in "
            "mm of each bed to say otherwise",
        )
    first = orbit.table[frames.turn == 0][0] if place.middle is not None else 0.0
    return middle + way * (orbit.table - first)


def _gate_shares(path: Path, header: Dataset, frames: FrameTable, notes: Notes) -> np.ndarray | None:
    """How the time of a view is shared by R-R intervals and their gates."""
    n, m = int(frames.slot.max()) + 1, int(frames.interval.max()) + 1
    if n == m == 1:
        return None
    gated = items_of(header, "GatedInformationSequence")
    data = [item for part in gated for item in items_of(part, "DataInformationSequence")]
    equally = f"the time of a view is shared equally by the {n} gates; pass gate_seconds= to say otherwise"
    times = np.ones((m, n))
    for i, item in enumerate(data[:m]):
        slots = [single_of(path, slot, "TimeSlotTime") for slot in items_of(item, "TimeSlotInformationSequence")]
        if slots and len(slots) != n:
            raise FormatError(
                f"{path}: {tag('TimeSlotInformationSequence')} has {len(slots)} items, but {tag('TimeSlotVector')} "
                f"tells {n} gates apart"
            )
        if slots and all(time and time > 0 for time in slots):
            times[i] = np.array(slots, float)
        elif i == 0:
            notes.add(path, equally)
    if not data:
        notes.add(path, equally)
    beats = np.ones(m)
    if m > 1:
        names = ("NominalInterval", "IntervalsAcquired")
        spent = [[single_of(path, item, name) for name in names] for item in data[:m]]
        if len(spent) < m or any(not value or value <= 0 for pair in spent for value in pair):
            return None
        beats = np.array([float(pair[0] or 0) * float(pair[1] or 0) for pair in spent])
    shares: np.ndarray = times / times.sum(1, keepdims=True) * (beats / beats.sum())[:, None]
    return shares
