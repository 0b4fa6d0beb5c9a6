"""Planar images: STATIC, WHOLE BODY, DYNAMIC and GATED."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import EnergyWindow, Study
from emrecon.projectors.core.errors import FormatError, naming
from emrecon.projectors.core.grid import FrozenArrays

from ..attributes import items_of, number_of, text_of
from .circumstances import study_of
from .frames import counted
from .given import Given
from .header import PLANAR, matrix_of, tag, type_of
from .notes import Notes
from .pixels import check_not_negative, pixel_size_of, rescaled, stored_of
from .vectors import OF_PLANAR, vectors_of
from .windows import nuclide_of, windows_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True, eq=False)
class PlanarImages(FrozenArrays):
    """Planar images of a gamma camera, as they were stored: rows from the top, columns as the viewer sees them.

    Args:
        counts : (n, rows, columns).
        pixel_size : mm (row, column) apart, None where the file does not say it.
        kind : "STATIC", "WHOLE BODY", "DYNAMIC" or "GATED".
        windows : `EnergyWindow` of each image, or None.
        views : name of each image, such as "ANTERIOR" or "detector 1".
        parts : (n,) time frame or gate of each image, from 0; 0 for one that stands alone.
        durations : (n,) s, nan where unknown.
        radionuclide : a name `isotope` knows, or None.
        description : free text.
        study : patient, tracer, times and camera.
    """

    counts: np.ndarray
    pixel_size: tuple[float, float] | None
    kind: str
    windows: tuple[EnergyWindow | None, ...]
    views: tuple[str, ...]
    parts: np.ndarray
    durations: np.ndarray
    radionuclide: str | None = None
    description: str = field(default="", repr=False)  # free text, which may name the patient
    study: Study | None = field(default=None)

    def __len__(self) -> int:
        return len(self.counts)

    def __str__(self) -> str:
        size = "unknown size" if self.pixel_size is None else " x ".join(f"{d:g}" for d in self.pixel_size) + " mm"
        shape = " x ".join(map(str, self.counts.shape[1:]))
        return f"{len(self)} {self.kind.lower()} images of {shape} pixels of {size}"


def planar_of(path: Path, header: Dataset, given: Given, notes: Notes) -> PlanarImages:
    """Return the images of a file; raises FormatError where it cannot be used."""
    kind = type_of(header)
    if kind not in PLANAR:
        raise FormatError(f"{path} is {kind or 'of no known type'} ({tag('ImageType')}), which is not planar")
    n_frames, _, _ = matrix_of(path, header)
    vectors = vectors_of(path, header, n_frames, OF_PLANAR, notes)
    detector = vectors["detector"]
    if detector is None:
        detector = counted([np.asarray(vectors["window"])])
        notes.add(path, f"{tag('DetectorVector')} is missing; images of one window are taken to be of different heads")
    window, phase, slot, interval = (np.asarray(vectors[name]) for name in ("window", "phase", "slot", "interval"))
    time = vectors["time"]
    if time is None:
        time = counted([window, detector, phase])
    keys = np.stack([window, detector, phase, interval, slot, time])
    if np.unique(keys, axis=1).shape[1] < n_frames:
        raise FormatError(f"{path}: the vectors give several frames of {tag('NumberOfFrames')} the same place")
    counts = rescaled(path, header, stored_of(path, header), given.positive("scale"))
    check_not_negative(path, counts)
    windows = windows_of(path, header, np.unique(window - 1), given, notes)
    nuclide = nuclide_of(path, header, windows, given, notes)
    _, parts = np.unique(np.stack([interval, phase, time, slot]), axis=1, return_inverse=True)
    pixel = given.pixel_size() or pixel_size_of(path, header)
    if pixel is None:
        notes.add(path, f"{tag('PixelSpacing')} is missing; pass pixel_size= in mm")
    with naming(path):
        return PlanarImages(
            counts.astype(counts.dtype.newbyteorder("="), copy=False),
            None if pixel is None else (pixel[1], pixel[0]),
            kind,
            tuple(windows[i - 1] for i in window.tolist()),
            tuple(_view_name(header, i) for i in detector.tolist()),
            np.ravel(parts),
            _durations(header, kind, phase, slot, given),
            nuclide,
            text_of(header, "SeriesDescription") or "",
            study_of(path, header, nuclide, given, notes),
        )


def _view_name(header: Dataset, detector: int) -> str:
    """The name of a view by its code, or of the detector."""
    items = items_of(header, "DetectorInformationSequence")
    codes = items_of(items[detector - 1], "ViewCodeSequence") if detector <= len(items) else []
    name = text_of(codes[0], "CodeMeaning") if codes else None
    return name or f"detector {detector}"


def _durations(header: Dataset, kind: str, phase: np.ndarray, slot: np.ndarray, given: Given) -> np.ndarray:
    """s of each image: of a phase for DYNAMIC, shared by the gates for GATED."""
    chosen = given.positive("duration")
    if chosen is not None:
        return np.full(phase.size, chosen)
    phases = items_of(header, "PhaseInformationSequence")
    if kind == "DYNAMIC" and phases:
        each = [number_of(item, "ActualFrameDuration") or np.nan for item in phases]
        return np.array([each[i - 1] / 1000 if i <= len(each) else np.nan for i in phase.tolist()])
    whole = number_of(header, "ActualFrameDuration")
    n_slots = len(np.unique(slot))
    return np.full(phase.size, np.nan if not whole or whole <= 0 else whole / 1000 / n_slots)
