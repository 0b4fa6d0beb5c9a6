"""The frames of an NM file: which part of a scan each of them is, their order, and their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from emrecon.projectors import (
    BedScan,
    DynamicScan,
    GatedScan,
    Scan,
    ScanSeries,
    SPECTGeometry,
    WindowedScan,
    WindowedSeries,
)
from emrecon.projectors.core.arrays import to_numpy

from .writing_habits import VECTORS, NMHabits

_Window = tuple[str, tuple[float, float] | None]
AnyScan = Scan | WindowedScan | BedScan | GatedScan | DynamicScan | WindowedSeries
LARGEST = 65535
_PLANAR = ("STATIC", "WHOLE BODY", "DYNAMIC", "GATED")
_KINDS = ("TOMO", "GATED TOMO", *_PLANAR)
# half a thousandth of a degree: angles are stored as decimals
_SAME_ANGLE = 5e-4


@dataclass(frozen=True, eq=False)
class Orbit:
    """The views of one head: `views` of the geometry, from `start` by `step` degrees (negative: clockwise)."""

    views: np.ndarray
    start: float
    step: float
    radius: np.ndarray
    shift: float


@dataclass(frozen=True, eq=False)
class Part:
    """Projections (views, bins, rows) that share all numbers but those of head and view; numbers count from 1."""

    counts: np.ndarray
    numbers: dict[str, int]


@dataclass(frozen=True, eq=False)
class Rotation:
    """One turn of the camera: its geometry, and s per view."""

    geometry: SPECTGeometry
    orbits: tuple[Orbit, ...]
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Acquisition:
    """A scan as an NM file holds it.

    Args:
        kind : value 3 of ImageType.
        windows : (name, (lower, upper) keV or None).
        slot_seconds : s of each gate in each view.
        phases : (frames, s of a frame, s before the first one) of a planar dynamic study.
    """

    kind: str
    scan: AnyScan
    windows: tuple[_Window, ...]
    rotations: tuple[Rotation, ...]
    parts: tuple[Part, ...]
    slot_seconds: tuple[float, ...] = ()
    phases: tuple[tuple[int, float, float], ...] = ()
    moved: bool = field(default=False)  # whether rotations are beds


def acquisition_of(scan: AnyScan, kind: str | None) -> Acquisition:
    """Return what an NM file says of a scan; raises ValueError for what it cannot hold."""
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"unknown kind {kind!r} of NM image; choose from {', '.join(_KINDS)}")
    if not isinstance(scan, AnyScan):
        raise TypeError(f"write_dicom_nm writes a Scan or a container of scans, got {type(scan).__name__}")
    if isinstance(scan, WindowedSeries):
        found = _in_windows(scan)
    elif isinstance(scan, (GatedScan, DynamicScan)):
        found = _of_series(scan)
    else:
        found = _static(scan, scan.beds if isinstance(scan, BedScan) else (scan,))
    if kind is None:
        return found
    one_view = all(orbit.views.size == 1 for rotation in found.rotations for orbit in rotation.orbits)
    if (kind in _PLANAR) != (found.kind in _PLANAR) and not (kind == "TOMO" and one_view):
        raise ValueError(f"a scan of this kind is written as {found.kind}, not as {kind}")
    if kind != found.kind and {kind, found.kind} != {"STATIC", "WHOLE BODY"}:
        raise ValueError(f"a {type(scan).__name__} is written as {found.kind}, not as {kind}")
    return replace(found, kind=kind)


def _camera_of(scan: Scan | WindowedScan | ScanSeries) -> SPECTGeometry:
    if not isinstance(scan.geometry, SPECTGeometry):
        raise ValueError("write_dicom_nm writes SPECT projections, not PET sinograms")
    return scan.geometry


def _require_bare(scan: Scan | WindowedScan | ScanSeries) -> None:
    """A camera writes counts; what a model has in addition would be lost."""
    _camera_of(scan)
    background, factors = getattr(scan, "background", 0.0), scan.factors
    if np.any(to_numpy(background) != 0) or np.any(to_numpy(factors) != 1):
        raise ValueError(
            "write_dicom_nm: an NM file holds counts only; write HDF5 to keep background and factors, or leave them "
            "out: dataclasses.replace(scan, background=0.0, factors=1.0)"
        )


def _of_series(scan: ScanSeries) -> Acquisition:
    """Gates or time frames of one energy window."""
    _require_bare(scan)
    return _gated(scan) if isinstance(scan, GatedScan) else _dynamic(scan)  # type: ignore[arg-type]  # there are two


def _in_windows(scan: WindowedSeries) -> Acquisition:
    """Gates or time frames of several energy windows."""
    each = [_of_series(series) for series in scan.series]
    parts = tuple(
        Part(part.counts, part.numbers | {"window": w}) for w, own in enumerate(each, 1) for part in own.parts
    )
    return replace(
        each[0], scan=scan, windows=tuple((window.name, window.limits) for window in scan.windows), parts=parts
    )


def _static(scan: AnyScan, beds: tuple[Scan | WindowedScan, ...]) -> Acquisition:
    parts: list[Part] = []
    for bed in beds:
        _require_bare(bed)
    for b, bed in enumerate(beds, 1):
        images = bed.counts if isinstance(bed, WindowedScan) else (bed.counts,)
        for w, image in enumerate(images, 1):
            parts.append(Part(_projections(image), {"window": w, "rotation": b}))
    first = beds[0]
    windows: tuple[_Window, ...]
    if isinstance(first, WindowedScan):
        windows = tuple((window.name, window.limits) for window in first.windows)
    else:
        windows = (("photopeak", first.energy_window),)
    rotations = tuple(_rotation(bed, bed.duration) for bed in beds)
    planar = all(orbit.views.size == 1 for rotation in rotations for orbit in rotation.orbits)
    if planar and len(beds) > 1:
        raise ValueError("write_dicom_nm: planar images of several beds are written as one file for each")
    return Acquisition("STATIC" if planar else "TOMO", scan, windows, rotations, tuple(parts), moved=len(beds) > 1)


def _gated(scan: GatedScan) -> Acquisition:
    parts = [Part(_projections(image), {"window": 1, "rotation": 1, "slot": g}) for g, image in _each(scan.counts)]
    seconds = np.asarray(scan.seconds)
    if not np.allclose(seconds, seconds[:, :1], rtol=1e-6):
        raise ValueError("write_dicom_nm: gates whose durations differ from view to view do not fit in an NM file")
    rotation = _rotation(scan, float(seconds[:, 0].sum()))
    planar = all(orbit.views.size == 1 for orbit in rotation.orbits)
    windows = (("photopeak", scan.energy_window),)
    slots = tuple(seconds[:, 0].tolist())
    return Acquisition("GATED" if planar else "GATED TOMO", scan, windows, (rotation,), tuple(parts), slots)


def _dynamic(scan: DynamicScan) -> Acquisition:
    rotation = _rotation(scan, None)
    planar = all(orbit.views.size == 1 for orbit in rotation.orbits)
    durations, starts = scan.frames.durations, scan.frames.starts
    gaps = np.concatenate([[starts[0]], starts[1:] - scan.frames.ends[:-1]])
    gaps[np.abs(gaps) < 1e-4] = 0.0
    windows = (("photopeak", scan.energy_window),)
    if planar:
        if (gaps < 0).any():
            raise ValueError("write_dicom_nm: frames that overlap or begin before 0 s do not fit in an NM file")
        phases, numbers = _phases(durations, gaps)
        parts = [
            Part(_projections(image), {"window": 1, "rotation": 1, "phase": p, "slice": s})
            for (_, image), (p, s) in zip(_each(scan.counts), numbers)
        ]
        return Acquisition("DYNAMIC", scan, windows, (rotation,), tuple(parts), phases=phases)
    if gaps.any():
        raise ValueError(
            "write_dicom_nm: the rotations of a dynamic TOMO follow one another directly, but the frames begin at "
            f"{starts[0]:g} s or have gaps; write one file for each"
        )
    seconds = np.broadcast_to(np.asarray(scan.seconds), (len(scan), scan.geometry.n_views))
    if not np.allclose(seconds, seconds[:, :1], rtol=1e-6):
        raise ValueError("write_dicom_nm: views of different durations do not fit in an NM file")
    per_head = rotation.orbits[0].views.size
    if not np.allclose(seconds[:, 0] * per_head, durations, rtol=1e-6):
        raise ValueError(
            "write_dicom_nm: in a dynamic TOMO each head takes its views one after another during the frame; this "
            "schedule is another one"
        )
    rotations = tuple(replace(rotation, seconds=float(s)) for s in seconds[:, 0])
    parts = [Part(_projections(image), {"window": 1, "rotation": f}) for f, image in _each(scan.counts)]
    return Acquisition("TOMO", scan, windows, rotations, tuple(parts))


def _each(counts: object) -> Iterator[tuple[int, object]]:
    return enumerate((counts[i] for i in range(len(counts))), 1)  # type: ignore[index,arg-type]


def _phases(
    durations: np.ndarray, gaps: np.ndarray
) -> tuple[tuple[tuple[int, float, float], ...], list[tuple[int, int]]]:
    """Runs of frames of one duration without a gap, and (phase, time slice) of every frame."""
    phases: list[list[float]] = []
    numbers = []
    for i, (duration, gap) in enumerate(zip(durations.tolist(), gaps.tolist())):
        if i == 0 or gap or not math.isclose(duration, phases[-1][1], rel_tol=1e-6):
            phases.append([0, duration, gap])
        phases[-1][0] += 1
        numbers.append((len(phases), int(phases[-1][0])))
    return tuple((int(n), duration, gap) for n, duration, gap in phases), numbers


def _projections(image: object) -> np.ndarray:
    values = np.asarray(to_numpy(image))  # type: ignore[arg-type]
    if values.ndim != 3:
        raise ValueError(f"write_dicom_nm: a file holds one set of projections, got counts of shape {values.shape}")
    return values


def _rotation(scan: Scan | WindowedScan | ScanSeries, seconds: float | None) -> Rotation:
    geometry = _camera_of(scan)
    orbits = tuple(_orbit(geometry, head) for head in np.unique(geometry.head))
    if len({orbit.views.size for orbit in orbits}) > 1:
        raise ValueError("write_dicom_nm: the heads of an NM file have equally many views")
    steps = {round(orbit.step, 6) for orbit in orbits}
    if len(steps) > 1:
        raise ValueError(f"write_dicom_nm: the heads of an NM file turn alike, got steps of {sorted(steps)} degrees")
    return Rotation(geometry, orbits, seconds)


def _orbit(geometry: SPECTGeometry, head: int) -> Orbit:
    views = np.flatnonzero(geometry.head == head)
    angles, shift = geometry.angles[views], geometry.shift[views]
    if np.ptp(shift) > 1e-9:
        raise ValueError("write_dicom_nm: an NM file has one centre of rotation offset for each head, these differ")
    step = float(angles[-1] - angles[0]) / (views.size - 1) if views.size > 1 else 0.0
    if not np.allclose(angles, angles[0] + step * np.arange(views.size), rtol=0, atol=_SAME_ANGLE):
        raise ValueError(
            f"write_dicom_nm: the views of an NM file are equally spaced, those of head {head} are not; with several "
            "heads, SPECTGeometry.head says which view is whose"
        )
    return Orbit(views, float(angles[0]), step, geometry.radius[views], float(shift[0]))


@dataclass(frozen=True, eq=False)
class Frames:
    """All frames in the order of the file: pixels (frames, rows, columns), and vectors, name -> (frames,)."""

    pixels: np.ndarray
    vectors: dict[str, np.ndarray]


def frames_of(acquisition: Acquisition, habits: NMHabits, flipped: bool) -> Frames:
    """Return the frames of an acquisition.

    Args:
        flipped : whether rows run from the feet and columns against u.
    """
    rows = []
    images = []
    for part in acquisition.parts:
        rotation = acquisition.rotations[part.numbers.get("rotation", 1) - 1]
        for d, orbit in enumerate(rotation.orbits, 1):
            for v, view in enumerate(orbit.views, 1):
                rows.append(_numbers(part, d, v, rotation, habits))
                image = part.counts[view].T
                images.append(image[:, ::-1] if flipped else image[::-1])
    table = np.array(rows)
    order = _order(table, habits)
    vectors = {name: table[order, i] for i, name in enumerate(VECTORS)}
    return Frames(np.stack([images[i] for i in order]), vectors)


def _numbers(part: Part, detector: int, view: int, rotation: Rotation, habits: NMHabits) -> list[int]:
    found = dict.fromkeys(VECTORS, 1) | part.numbers | {"detector": detector, "view": view}
    heads, per_head = len(rotation.orbits), rotation.orbits[0].views.size
    if habits.detectors == "stacked":
        found |= {"detector": 1, "view": (detector - 1) * per_head + view}
    elif habits.detectors == "rotations":
        found["rotation"] = (found["rotation"] - 1) * heads + detector
    return [found[name] for name in VECTORS]


def _order(table: np.ndarray, habits: NMHabits) -> np.ndarray:
    if "shuffled" in habits.frame_order:
        return np.random.default_rng(16).permutation(len(table))
    names = [*habits.frame_order, *(name for name in VECTORS if name not in habits.frame_order)]
    return np.lexsort([table[:, VECTORS.index(name)] for name in reversed(names)])


def stored(pixels: np.ndarray, rescale: bool) -> tuple[np.ndarray, float]:
    """Return pixels as uint16 and what a stored one is worth; raises ValueError where that is not exact.

    Args:
        rescale : allow counts that are not whole or beyond 65535, rounded to a step of the largest / 65535.
    """
    largest = float(pixels.max(initial=0))
    whole = pixels.dtype.kind in "iub" or bool((pixels == np.rint(pixels)).all())
    if whole and largest <= LARGEST:
        return pixels.astype("<u2"), 1.0
    if not rescale:
        reason = f"counts of up to {largest:g}" if whole else "counts that are not whole numbers"
        raise ValueError(
            f"write_dicom_nm: NM files hold whole counts up to {LARGEST}, got {reason}; pass Poisson counts, or "
            "rescale=True to round them to 16 bits with a RealWorldValueMappingSequence"
        )
    # the step is rounded to what a decimal of the file holds first, so that what is read is off by half of it at most
    step = float(f"{largest / LARGEST:.9e}")
    return np.clip(np.rint(pixels / step), 0, LARGEST).astype("<u2"), step
