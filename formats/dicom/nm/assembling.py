"""From the frames of one file or several to scans: windows, beds, time frames and gates, in the containers for them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np

from emrecon.projectors import (
    BedScan,
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    Scan,
    SPECTGeometry,
    Study,
    WindowedScan,
    WindowedSeries,
)
from emrecon.projectors.core.errors import FormatError, naming

from .acquisitions import Acquisition
from .given import Given
from .header import tag
from .notes import Notes
from .place import given_placement

NMScan = Scan | WindowedScan | DynamicScan | GatedScan | WindowedSeries | BedScan

_SAME_PLACE = 0.5  # mm
_SAME_ENERGY = 0.05  # keV
_SAME_ANGLE = 0.05  # degrees
_SAME_RADIUS = 1.0  # mm


@dataclass(eq=False)
class Table:
    """The frames of all files, (frames,) each; windows, beds, gates and sweeps by number from 0.

    file, frame : where the pixels are.  sweep : one turn of the camera in one file.  z : mm.
    """

    file: np.ndarray
    frame: np.ndarray
    window: np.ndarray
    bed: np.ndarray
    gate: np.ndarray
    sweep: np.ndarray
    head: np.ndarray
    view: np.ndarray
    angle: np.ndarray
    radius: np.ndarray
    shift: np.ndarray
    z: np.ndarray
    seconds: np.ndarray

    def where(self, chosen: np.ndarray) -> Table:
        """Return some of the frames."""
        return Table(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})


@dataclass(frozen=True, eq=False)
class Context:
    """What assembling needs besides the frames; `pixels` holds those of the files that were read last."""

    files: list[Acquisition]
    windows: list[EnergyWindow | None]
    given: Given
    notes: Notes
    pixels: dict[int, np.ndarray] = field(default_factory=dict)


def assembled(files: list[Acquisition], given: Given, notes: Notes) -> NMScan:
    """Return the scan, or the container of windows, beds, frames or gates, that the files hold together.

    Raises FormatError where they do not belong together, or a choice is needed (window=, bed=, frame=, gate=).
    """
    _check_alike(files)
    windows, numbers = _joined_windows(files)
    context = Context(files, windows, given, notes)
    table = _table(context, numbers)
    table = _choose(table, "window", table.window, _window_number(context), context)
    table.bed = _beds(context, table)
    table = _choose(table, "bed", table.bed, given.count("bed"), context)
    table = _choose(table, "gate", table.gate, given.count("gate"), context)
    beds = np.unique(table.bed)
    origin, placement = _origin(context, table, beds)
    made = [_of_bed(context, table.where(table.bed == bed), origin, placement) for bed in beds]
    if len(made) == 1:
        return made[0]
    wrong = next((bed for bed in made if not isinstance(bed, (Scan, WindowedScan))), None)
    if wrong is not None:
        one = wrong.series[0] if isinstance(wrong, WindowedSeries) else wrong
        what, n = ("gate" if isinstance(one, GatedScan) else "frame"), len(one)
        raise FormatError(
            f"{given.path}: {len(made)} beds of {n} {what}s each, of which one image at a time is made: pass {what}=1 "
            f"(to {n}) for all beds of one {what}, or bed=1 (to {len(made)}) for all {what}s of one bed; as an option, "
            f"--header {what}=1 or --header bed=1"
        )
    first = [int(table.file[table.bed == bed][0]) for bed in beds]
    together = max(first.count(file) for file in first)
    if together > 1 and all(bed.study is not None and bed.study.start is not None for bed in made):
        notes.add(
            given.path, f"{together} beds of one file, with one start, are taken to follow one another without pauses"
        )
    with naming(given.path):
        return BedScan(tuple(made))  # type: ignore[arg-type]  # checked


# ---- the table of all frames -----------------------------------------------------------------------------------------


def _check_alike(files: list[Acquisition]) -> None:
    first = files[0]
    for other in files[1:]:
        if other.shape != first.shape or not np.allclose(other.pixel, first.pixel, rtol=1e-3):
            raise FormatError(
                f"{other.path} has {other.shape} bins and rows of {other.pixel} mm, {first.path} has {first.shape} of "
                f"{first.pixel} mm; two acquisitions? Read one file, or choose by series="
            )
        if other.nuclide != first.nuclide:
            raise FormatError(
                f"{other.path} is of {other.nuclide or 'an unknown nuclide'}, {first.path} of "
                f"{first.nuclide or 'an unknown nuclide'}; two acquisitions? Pass radionuclide=, or read one file"
            )


def _joined_windows(files: list[Acquisition]) -> tuple[list[EnergyWindow | None], list[dict[int, int]]]:
    """The different windows of all files, and for each file the number of its windows among them."""
    windows: list[EnergyWindow | None] = []
    numbers = []
    for file in files:
        own = {}
        taken: set[int] = set()
        for i in np.unique(file.frames.window).tolist():
            same = [k for k, other in enumerate(windows) if k not in taken and _is_same(file.windows[i], other)]
            if not same:
                windows.append(_renamed(file.windows[i], windows))
                same = [len(windows) - 1]
            own[i] = same[0]
            taken.add(same[0])
        numbers.append(own)
    return windows, numbers


def _is_same(one: EnergyWindow | None, other: EnergyWindow | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one.limits, other.limits, rtol=0, atol=_SAME_ENERGY))


def _renamed(window: EnergyWindow | None, others: list[EnergyWindow | None]) -> EnergyWindow | None:
    """The window with a name of its own."""
    names = {other.name for other in others if other is not None}
    if window is None or window.name not in names:
        return window
    return replace(window, name=f"{window.name} {window.lower:g}-{window.upper:g} keV ({len(others) + 1})")


def _table(context: Context, numbers: list[dict[int, int]]) -> Table:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Table.__dataclass_fields__}
    n_sweeps = 0
    for k, (file, own) in enumerate(zip(context.files, numbers)):
        frames, n = file.frames, file.n_frames
        turns = np.stack([frames.turn, frames.time])
        _, sweep = np.unique(turns, axis=1, return_inverse=True)
        sweep = np.ravel(sweep)
        values: dict[str, Any] = {
            "file": np.full(n, k),
            "frame": np.arange(n),
            "window": np.array([own[i] for i in frames.window.tolist()]),
            "bed": np.zeros(n, int),
            "gate": _gates_of(file, context),
            "sweep": sweep + n_sweeps,
            "head": frames.head,
            "view": frames.view,
            "angle": file.orbit.angle,
            "radius": file.orbit.radius,
            "shift": file.shifts(context.given),
            "z": file.z,
            "seconds": np.full(n, np.nan) if file.orbit.seconds is None else file.orbit.seconds,
        }
        n_sweeps += int(sweep.max()) + 1
        for name, value in values.items():
            parts[name].append(value)
    return Table(**{name: np.concatenate(value) for name, value in parts.items()})


def _gates_of(file: Acquisition, context: Context) -> np.ndarray:
    """The gate of each frame: of one R-R interval; -1 for those of others."""
    interval, slot = file.frames.interval, file.frames.slot
    n = int(interval.max()) + 1
    chosen = context.given.count("rr_interval")
    if n > 1 and chosen is None:
        raise FormatError(
            f"{file.path}: {n} R-R intervals ({tag('RRIntervalVector')}), whose gates are not of one kind of beat; "
            "choose one by rr_interval="
        )
    if chosen is not None and chosen > n:
        raise FormatError(f"{file.path}: there is no rr_interval={chosen}; it has {n}")
    return slot if n == 1 else np.where(interval == (chosen or 1) - 1, slot, -1)


def _window_number(context: Context) -> int | None:
    """The window that is asked for, by its name or number, counted from 1."""
    asked = context.given.values.get("window")
    if asked is None:
        return None
    names = [window.name if window else "" for window in context.windows]
    if isinstance(asked, str) and asked in names:
        return names.index(asked) + 1
    try:
        number = context.given.count("window") or 0
    except FormatError:
        number = 0
    if not 1 <= number <= len(names):
        shown = ", ".join(f"{i} ({name})" for i, name in enumerate(names, 1))
        raise FormatError(f"{context.given.path}: there is no energy window {asked!r}; choose from {shown}")
    return number


def _choose(table: Table, name: str, values: np.ndarray, wanted: int | None, context: Context) -> Table:
    """The frames of one window, bed or gate where it was asked for, without those that are marked (-1)."""
    if wanted is None:
        return table.where(values >= 0) if (values < 0).any() else table
    if wanted - 1 not in values:
        raise FormatError(f"{context.given.path}: there is no {name}={wanted}; it has {int(values.max()) + 1}")
    return table.where(values == wanted - 1)


def _beds(context: Context, table: Table) -> np.ndarray:
    """The bed of each frame, in order of z."""
    given = context.given.numbers("axial_shift")
    if given is not None:
        turns = np.unique(table.sweep)
        if given.size not in (1, turns.size):
            raise FormatError(
                f"{context.given.path}: axial_shift= has {given.size} entries, expected one for each of {turns.size} "
                "rotations or files"
            )
        table.z = np.broadcast_to(given, turns.size)[np.searchsorted(turns, table.sweep)].astype(float)
    known = {file.place.middle is None for file in context.files}
    if len(known) > 1:
        raise FormatError(
            f"{context.given.path}: some files say where they lie ({tag('ImagePositionPatient')}), others do not; read "
            "them one by one, or pass axial_shift=[...]"
        )
    heights = np.sort(np.unique(table.z))
    edges = [0, *(i + 1 for i, (low, high) in enumerate(pairwise(heights)) if high - low > _SAME_PLACE)]
    return np.searchsorted(heights[edges], table.z + 1e-9, side="right") - 1


def _origin(context: Context, table: Table, beds: np.ndarray) -> tuple[float, tuple[float, float, float] | None]:
    """z that is 0 in the scan's own coordinates, between the first and the last bed, and where that lies in LPS."""
    heights = [float(table.z[table.bed == bed].mean()) for bed in beds]
    middle = (heights[0] + heights[-1]) / 2
    chosen = given_placement(context.given)
    shifts = context.given.numbers("axial_shift")
    if chosen is not None:
        return (0.0 if shifts is not None else middle), chosen
    places = [context.files[i].place for i in dict.fromkeys(table.file.tolist())]
    axes = [place.axis for place in places if place.axis is not None]
    if not axes or places[0].middle is None:
        # without a place, the shift of a single bed has no meaning
        return (0.0 if shifts is not None else middle), None
    if any(np.abs(np.subtract(axis, axes[0])).max() > _SAME_PLACE for axis in axes):
        context.notes.add(
            context.given.path,
            "the axes of rotation of the files lie apart in x or y; that of the first is taken, pass placement=",
        )
    if shifts is not None:
        return 0.0, (*axes[0], places[0].middle)
    return middle, (*axes[0], middle)


# ---- one bed ---------------------------------------------------------------------------------------------------------


def _of_bed(
    context: Context, table: Table, origin: float, placement: tuple[float, float, float] | None
) -> Scan | WindowedScan | DynamicScan | GatedScan | WindowedSeries:
    """The scan of one bed, in all its windows."""
    used = np.unique(table.window)
    parts = [_of_window(context, table.where(table.window == window), origin, placement) for window in used]
    if len(parts) == 1:
        return parts[0]
    names = [context.windows[window] for window in used]
    first = parts[0]
    _check_same_views(context, parts)
    with naming(context.given.path):
        if isinstance(first, Scan):
            scans = [part for part in parts if isinstance(part, Scan)]
            about = first.duration, first.radionuclide, first.description, first.study
            return WindowedScan(
                tuple(window for window in names if window is not None),
                tuple(scan.counts for scan in scans),
                first.geometry,  # type: ignore[arg-type]  # of SPECT
                1.0,
                *about,
            )
        return WindowedSeries(tuple(names), tuple(parts))  # type: ignore[arg-type]  # series of windows with limits


def _check_same_views(context: Context, parts: list[Any]) -> None:
    first = parts[0].geometry
    for part in parts[1:]:
        if part.geometry.shape != first.shape or not np.allclose(part.geometry.angles, first.angles, atol=_SAME_ANGLE):
            raise FormatError(
                f"{context.given.path}: the energy windows have different views; two acquisitions? Choose by window= "
                "or series="
            )
        if getattr(part, "duration", None) != getattr(parts[0], "duration", None):
            raise FormatError(
                f"{context.given.path}: the energy windows were measured for {parts[0].duration} and {part.duration} s "
                "a view; choose one by window=, or pass duration= in s"
            )


def _of_window(
    context: Context, table: Table, origin: float, placement: tuple[float, float, float] | None
) -> Scan | DynamicScan | GatedScan:
    gates = np.unique(table.gate)
    times = [_times(context, table.where(table.gate == gate)) for gate in gates]
    n_times = {len(part) for part in times}
    if len(n_times) > 1:
        raise FormatError(f"{context.given.path}: gates have different numbers of rotations; frames lost?")
    wanted = context.given.count("frame")
    if wanted is not None:
        if wanted > len(times[0]):
            raise FormatError(f"{context.given.path}: there is no frame={wanted}; it has {len(times[0])}")
        times = [part[wanted - 1 : wanted] for part in times]
    parts = [part for gate in times for part in gate]
    geometry = _geometry(context, parts, origin)
    counts = _counts(context, parts)
    study = _study(context, parts[0], placement)
    file = context.files[int(parts[0].file[0])]
    window = context.windows[int(parts[0].window[0])]
    about: dict[str, Any] = {
        "radionuclide": file.nuclide,
        "energy_window": window.limits if window else None,
        "description": file.description,
        "study": study,
    }
    with naming(context.given.path):
        if len(gates) > 1 and len(times[0]) > 1:
            raise FormatError(
                f"{context.given.path}: {len(times[0])} time frames of {len(gates)} gates; choose by frame= or gate="
            )
        if len(gates) > 1:
            return GatedScan(counts, geometry, _gate_seconds(context, parts, gates), **about)
        if len(times[0]) > 1:
            frames, schedule = _frames(context, parts)
            return DynamicScan(counts, geometry, frames, schedule=schedule, **about)
        return Scan(counts[0], geometry, duration=_duration(context, parts[0]), **about)


def _times(context: Context, table: Table) -> list[Table]:
    """The frames of each time frame, in order of time, or of all rotations together where they are no time frames."""
    sweeps = [table.where(table.sweep == sweep) for sweep in np.unique(table.sweep)]
    if len(sweeps) == 1:
        return [_in_order(sweeps[0])]
    keys = [_view_keys(sweep) for sweep in sweeps]
    wanted = context.given.choice("rotations", "frames", "views")
    repeated = all(np.array_equal(key, keys[0]) for key in keys[1:])
    angles = [set(key[1].tolist()) for key in keys]
    apart = sum(map(len, angles)) == len(set().union(*angles))
    if wanted == "frames" and not repeated:
        raise FormatError(f"{context.given.path}: rotations=frames, but the rotations have different views")
    if repeated and wanted != "views":
        return _in_time(context, sweeps)
    files = {int(sweep.file[0]) for sweep in sweeps}
    if len(files) > 1 and not apart and wanted != "views":
        names = " and ".join(context.files[i].path.name for i in sorted(files)[:2])
        raise FormatError(
            f"{context.given.path}: {names} have the same window and bed, and some of the same views; two "
            "acquisitions? Read one file, choose by series=, or join them by rotations=views"
        )
    context.notes.add(
        context.given.path,
        f"{len(sweeps)} rotations at one place are joined: their views are those of one scan; pass rotations=frames "
        "for time frames",
    )
    joined = _joined_heads(sweeps) if len(files) > 1 and apart else sweeps
    together = Table(**{n: np.concatenate([getattr(s, n) for s in joined]) for n in Table.__dataclass_fields__})
    return [_in_order(together)]


def _view_keys(table: Table) -> np.ndarray:
    """(head, angle) of the views of a sweep, in order."""
    angle = np.round(table.angle % 360 / _SAME_ANGLE).astype(int) % round(360 / _SAME_ANGLE)
    keys = np.stack([table.head, angle])
    return keys[:, np.lexsort(keys[::-1])]


def _joined_heads(sweeps: list[Table]) -> list[Table]:
    """Files of one head each: the heads are numbered on."""
    joined, n = [], 0
    for sweep in sweeps:
        joined.append(replace(sweep, head=sweep.head - sweep.head.min() + n))
        n += int(np.ptp(sweep.head)) + 1
    return joined


def _in_order(table: Table) -> Table:
    return table.where(np.lexsort((table.view, table.sweep, table.head)))


def _in_time(context: Context, sweeps: list[Table]) -> list[Table]:
    """Sweeps over the same views in order of time, each with its views in the order of the first."""
    files = context.files

    def begun(sweep: Table) -> tuple[datetime, int]:
        return files[int(sweep.file[0])].start or datetime.min, int(sweep.sweep[0])

    several = len({int(sweep.file[0]) for sweep in sweeps}) > 1
    if several:
        starts = [files[int(sweep.file[0])].start for sweep in sweeps]
        if len(set(starts)) < len({int(sweep.file[0]) for sweep in sweeps}):
            names = " and ".join(dict.fromkeys(files[int(sweep.file[0])].path.name for sweep in sweeps[:2]))
            raise FormatError(
                f"{context.given.path}: {names} have the same window, bed and views, and began at the same time or do "
                "not say when; a copied file, or gates in files of their own? Read one file"
            )
        context.notes.add(context.given.path, f"{len(sweeps)} acquisitions of the same views are taken as time frames")
    else:
        context.notes.add(
            context.given.path,
            f"{len(sweeps)} rotations over the same views at one place are taken as time frames; pass rotations=views "
            "to join them",
        )
    ordered = sorted(sweeps, key=begun)
    first = _in_order(ordered[0])
    places = _arranged(first)
    return [first, *(_like(sweep, places) for sweep in ordered[1:])]


def _arranged(table: Table) -> np.ndarray:
    """Where each view of a sweep is in the order of heads and angles."""
    return np.argsort(_sorted_views(table))


def _sorted_views(table: Table) -> np.ndarray:
    return np.lexsort((np.round(table.angle % 360 / _SAME_ANGLE), table.head))


def _like(table: Table, places: np.ndarray) -> Table:
    return table.where(_sorted_views(table)[places])


def _geometry(context: Context, parts: list[Table], origin: float) -> SPECTGeometry:
    """The camera, which is that of the first part and must be that of all."""
    first, file = parts[0], context.files[int(parts[0].file[0])]
    for part in parts[1:]:
        if part.angle.size != first.angle.size:
            raise FormatError(f"{context.given.path}: gates or frames have different numbers of views; frames lost?")
        apart = np.abs(part.radius - first.radius).max()
        if apart > _SAME_RADIUS:
            raise FormatError(
                f"{context.given.path}: the radius differs by up to {apart:.3g} mm between time frames or gates, which "
                "one scan cannot have; read them by frame=, or pass radius= in mm"
            )
    with naming(context.given.path):
        return SPECTGeometry(
            first.angle,
            first.radius,
            file.shape,
            file.pixel,
            first.shift,
            float(first.z.mean()) - origin,
            first.head,
        )


def _counts(context: Context, parts: list[Table]) -> np.ndarray:
    """(parts, views, bins, rows) of one file after the other, which are read once each."""
    read = context.pixels
    needed = {i for part in parts for i in np.unique(part.file).tolist()}
    for i in set(read) - needed:
        del read[i]
    for i in needed - set(read):
        read[i] = context.files[i].counts(context.given, context.notes)
    dtype = np.result_type(*{values.dtype for values in read.values()})
    shape = next(iter(read.values())).shape[1:]
    counts = np.empty((len(parts), parts[0].frame.size, *shape), dtype.newbyteorder("="))
    for k, part in enumerate(parts):
        for v, (i, frame) in enumerate(zip(part.file.tolist(), part.frame.tolist())):
            counts[k, v] = read[i][frame]
    return counts


def _study(context: Context, part: Table, placement: tuple[float, float, float] | None) -> Study:
    used = {i: part.frame[part.file == i] for i in np.unique(part.file).tolist()}
    starts = [start for i, frames in used.items() if (start := _begun(context.files[i], frames)) is not None]
    return replace(context.files[next(iter(used))].study, placement=placement, start=min(starts) if starts else None)


def _begun(file: Acquisition, frames: np.ndarray) -> datetime | None:
    """When the first rotation of some frames began in a file of several: one follows the other."""
    turns, seconds = file.frames.turn, file.orbit.seconds
    if file.start is None or turns.max() == 0:
        return file.start
    first = int(turns[frames].min())
    if seconds is None:
        return file.start if first == 0 else None
    earlier = [float(seconds[turns == turn].mean()) * file.frames.n_views for turn in range(first)]
    return file.start + timedelta(seconds=sum(earlier))


# ---- times -----------------------------------------------------------------------------------------------------------


def _duration(context: Context, part: Table) -> float | None:
    seconds = np.unique(part.seconds)
    if np.isnan(seconds).all():
        context.notes.add(
            context.given.path,
            f"{tag('ActualFrameDuration')} is missing: the time of a view is not known; pass duration= in s",
        )
        return None
    if np.isnan(seconds).any() or np.ptp(seconds) > 1e-3 * seconds.max():
        raise FormatError(
            f"{context.given.path}: views were measured for {np.nanmin(seconds):g} to {np.nanmax(seconds):g} s "
            f"({tag('ActualFrameDuration')}), which one scan cannot have; pass duration= in s"
        )
    return float(seconds[0])


def _gate_seconds(context: Context, parts: list[Table], gates: np.ndarray) -> np.ndarray:
    chosen = context.given.numbers("gate_seconds", 1, len(gates))
    if chosen is not None:
        return np.broadcast_to(chosen, len(gates)).copy()
    view = _duration(context, parts[0])
    if view is None:
        raise FormatError(
            f"{context.given.path}: {tag('ActualFrameDuration')} is missing; pass gate_seconds= in s of each gate in a "
            "view"
        )
    shares = context.files[int(parts[0].file[0])].gate_shares
    if shares is None:
        raise FormatError(
            f"{context.given.path}: how long each R-R interval was measured is not known ({tag('IntervalsAcquired')}, "
            f"{tag('NominalInterval')}); pass gate_seconds= in s of each gate in a view"
        )
    seconds: np.ndarray = view * shares[(context.given.count("rr_interval") or 1) - 1][gates]
    return seconds


def _frames(context: Context, parts: list[Table]) -> tuple[Frames, np.ndarray]:
    """When the time frames were, and when each view was measured in them, as fractions."""
    n_views = parts[0].frame.size
    schedule = np.empty((len(parts), n_views, 2))
    lengths = np.empty(len(parts))
    for k, part in enumerate(parts):
        n = int(part.view.max()) + 1
        schedule[k, :, 0], schedule[k, :, 1] = part.view / n, (part.view + 1) / n
        lengths[k] = n * part.seconds.mean()
    chosen = context.given.get("frames", _protocol)
    if chosen is not None:
        if len(chosen) != len(parts):
            raise FormatError(f"{context.given.path}: frames= has {len(chosen)} frames, but there are {len(parts)}")
        return chosen, schedule
    if np.isnan(lengths).any():
        raise FormatError(
            f"{context.given.path}: {tag('ActualFrameDuration')} is missing; pass duration= in s per view, or frames="
        )
    begun = [context.files[int(part.file[0])].start for part in parts]
    starts = np.cumsum([0.0, *lengths[:-1]])
    if len({int(part.file[0]) for part in parts}) > 1 and None not in begun:
        first = begun[0] or datetime.min
        later = np.array([(moment - first).total_seconds() for moment in begun if moment is not None])
        own = np.array([part.sweep[0] for part in parts])
        files = np.array([part.file[0] for part in parts])
        within = np.array([lengths[(files == file) & (own < sweep)].sum() for file, sweep in zip(files, own)])
        starts = later + within
    return Frames(starts, lengths), schedule


def _protocol(value: object) -> Frames:
    if isinstance(value, Frames):
        return value
    return Frames.parse(",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
