"""PETSIRD list-mode files: the scanner of the header and the events by crystal numbers; see docs/petsird.md."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from math import pi
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import PETScanner, TimeOfFlight
from emrecon.projectors.core.errors import FormatError, require_file
from emrecon.projectors.core.progress import tracked

if TYPE_CHECKING:
    import petsird

__all__ = [
    "PETSIRDBlock",
    "PETSIRDEfficiencies",
    "PETSIRDHeader",
    "PETSIRDScan",
    "petsird_blocks",
    "read_petsird",
    "read_petsird_header",
]

_SAME_PLACE = 0.01  # mm; transformations are stored as float32
_EVEN = 1e-3  # of the width of a TOF bin
_MOST_CRYSTALS = 2**22  # what is more is a damaged or hostile header
_DAMAGES = (ValueError, TypeError, OverflowError, IndexError, AttributeError, MemoryError, struct.error)

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PETSIRDEfficiencies:
    """How likely crystal pairs detect: single efficiencies, those of module pairs, and a calibration::

        efficiency = calibration * sum over energy bins a, b of single[c, a] * single[d, b] * pair[group, c, a, d, b]

    Args:
        elements : (crystals, 3) the [module type, module, element] of every crystal of the scanner.
        calibration : counts for each annihilation times mm of line.
        single : for every module type (modules, elements, energy bins), 0 in energy bins that were not read.
        groups : for pairs of module types (first >= second), (modules, modules) the symmetry group; negative where a
            pair is not in coincidence.
        pair : for pairs of module types (groups, elements, energy bins, elements, energy bins); empty where all are 1.

    Source: the documentation of DetectionEfficiencies in PETSIRD 0.12.
    """

    elements: np.ndarray
    calibration: float
    single: Mapping[int, np.ndarray]
    groups: Mapping[Pair, np.ndarray]
    pair: Mapping[Pair, np.ndarray]

    def of(self, events: ArrayLike) -> np.ndarray:
        """Return the efficiency of every event, (n,) float64.

        Args:
            events : (n, 2 or more) crystal numbers of both ends in either order; further columns are ignored.
        """
        ends = self.elements[np.asarray(events)[:, :2]]
        first, second = ends[:, 0], ends[:, 1]
        # module types first, then modules: the tables hold only pairs with first >= second
        turned = (first[:, 0] < second[:, 0]) | ((first[:, 0] == second[:, 0]) & (first[:, 1] < second[:, 1]))
        first, second = (np.where(turned[:, None], a, b) for a, b in ((second, first), (first, second)))
        efficiency = np.zeros(len(ends))
        for types in sorted({(int(a), int(b)) for a, b in np.unique(np.stack([first[:, 0], second[:, 0]], 1), axis=0)}):
            of_types = (first[:, 0] == types[0]) & (second[:, 0] == types[1])
            efficiency[of_types] = self._of_types(types, first[of_types], second[of_types])
        return self.calibration * efficiency

    def _of_types(self, types: Pair, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        (_, module1, element1), (_, module2, element2) = first.T, second.T
        single1, single2 = (self.single[kind] for kind in types)
        group = self.groups[types][module1, module2] if types in self.groups else np.zeros(len(first), int)
        total = np.zeros(len(first))
        for a in range(single1.shape[2]):
            for b in range(single2.shape[2]):
                both = single1[module1, element1, a] * single2[module2, element2, b]
                pair = self.pair[types][group, element1, a, element2, b] if types in self.pair else 1.0
                total += both * pair
        return np.where(group >= 0, total, 0.0)


@dataclass(frozen=True, eq=False)
class PETSIRDHeader:
    """What the header says that reconstruction needs.

    Args:
        scanner : crystals at the middle of their boxes, in mm of the gantry. Rings of equal crystals come in the order
            of `PETScanner.polygon` as (rings, crystals, 3), anything else as (1, crystals, 3) in the order of the file.
        elements : (crystals, 3) the [module type, module, element] of every crystal in the file.
        efficiencies : None where the file has none.
        alignment : (3, 4) the transformation from the gantry to a reference such as the CT, None where the file has
            none.
    """

    scanner: PETScanner
    elements: np.ndarray
    efficiencies: PETSIRDEfficiencies | None = None
    alignment: np.ndarray | None = None

    @property
    def tof(self) -> TimeOfFlight | None:
        """The TOF bins, which are the scanner's."""
        return self.scanner.time_of_flight


@dataclass(frozen=True, eq=False)
class PETSIRDBlock:
    """The events of one time block.

    Args:
        start, stop : s since the start of the acquisition.
        events : (n, 2) int32 crystal numbers of both ends, or (n, 3) with the TOF bin, counted towards the second end.
        delayed : likewise, the delayed coincidences; None where the file has none.
        bed : (3, 4) how the bed was moved when the block was measured, None where the file does not say.
    """

    start: float
    stop: float
    events: np.ndarray
    delayed: np.ndarray | None = None
    bed: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class PETSIRDScan:
    """The events of a PETSIRD file.

    Args:
        events, delayed, bed : as in `PETSIRDBlock`, of all time blocks one after the other.
        intervals : (blocks, 2) start and stop of every time block in s.
        counts : (blocks,) events of every block.
    """

    header: PETSIRDHeader
    events: np.ndarray
    intervals: np.ndarray
    counts: np.ndarray
    delayed: np.ndarray | None = None
    bed: np.ndarray | None = None

    @property
    def scanner(self) -> PETScanner:
        """The scanner of the header."""
        return self.header.scanner

    @property
    def tof(self) -> TimeOfFlight | None:
        """The TOF bins of the header."""
        return self.header.tof

    @property
    def efficiencies(self) -> PETSIRDEfficiencies | None:
        """The detection efficiencies of the header."""
        return self.header.efficiencies

    @property
    def duration(self) -> float:
        """The length of all time blocks together in s."""
        return float(np.diff(self.intervals).sum())

    @property
    def times(self) -> np.ndarray:
        """The middle of every event's time block in s, (n,); finer times are not in the file."""
        return np.repeat(self.intervals.mean(1), self.counts)


def read_petsird(
    path: str | os.PathLike[str],
    *,
    tof: bool = True,
    energy_window: tuple[float, float] | None = None,
    module_types: Pair | None = None,
) -> PETSIRDScan:
    """Return the coincidences of a binary PETSIRD file, all in memory; `petsird_blocks` reads them block by block.

    Args:
        tof : False leaves out the TOF bins.
        energy_window : (low, high) keV; keeps events with both photons in energy bins within it (default: all bins).
        module_types : reads the coincidences between two types of modules only, and their crystals (default: all).

    TOF bins of PETSIRD are (arrival at the first end - arrival at the second) c / 2, which is positive towards the
    second end, as here: they stay as they are.

    Raises ImportError without the package petsird; FileNotFoundError; FormatError (a ValueError) that names the file
    where it is truncated, damaged, not PETSIRD or of another version, for TOF bins that are not even or differ between
    module types, for a gantry that moves and, here only, for a bed that does.
    """
    with _opened(path, tof, energy_window, module_types) as (header, blocks):
        read = list(tracked(blocks, f"time blocks of {Path(path).name}"))
    beds = [block.bed for block in read]
    if any(not _same(a, b) for a, b in pairwise(beds)):
        raise FormatError(f"{path}: the bed moves between time blocks; read them one by one with petsird_blocks")
    delayed = [block.delayed for block in read if block.delayed is not None]
    width = 2 if header.tof is None else 3
    return PETSIRDScan(
        header,
        events=_joined([block.events for block in read], width),
        intervals=np.array([(block.start, block.stop) for block in read]).reshape(-1, 2),
        counts=np.array([len(block.events) for block in read], int),
        delayed=_joined(delayed, width) if delayed else None,
        bed=beds[0] if beds else None,
    )


def read_petsird_header(
    path: str | os.PathLike[str],
    *,
    tof: bool = True,
    energy_window: tuple[float, float] | None = None,
    module_types: Pair | None = None,
) -> PETSIRDHeader:
    """Return the header of a PETSIRD file; arguments and errors are those of `read_petsird`."""
    with _opened(path, tof, energy_window, module_types) as (header, _):
        return header


def petsird_blocks(
    path: str | os.PathLike[str],
    *,
    tof: bool = True,
    energy_window: tuple[float, float] | None = None,
    module_types: Pair | None = None,
) -> Iterator[PETSIRDBlock]:
    """Yield the time blocks with events of a PETSIRD file, one at a time in memory.

    Arguments and errors are those of `read_petsird`; a damaged file raises after the whole blocks before the damage.
    """
    with _opened(path, tof, energy_window, module_types) as (_, blocks):
        yield from blocks


# ---- the file -------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(
    path: str | os.PathLike[str], tof: bool, energy_window: tuple[float, float] | None, module_types: Pair | None
) -> Iterator[tuple[PETSIRDHeader, Iterator[PETSIRDBlock]]]:
    """Give (header, the time blocks as they are read) while the file is open."""
    package, file = _package(), require_file(path)
    with file.open("rb") as stream, _naming(file):
        reader = package.BinaryPETSIRDReader(stream, skip_completed_check=True)
        scanner = reader.read_header().scanner
        layout = _Layout.of(scanner, energy_window, module_types)
        header, numbers = _header(scanner, layout, tof)
        yield header, _blocks(package, reader, layout, numbers, header.tof)


def _package() -> ModuleType:
    try:
        return import_module("petsird")
    except ImportError as error:
        raise ImportError("PETSIRD files need the package petsird: pip install 'emrecon[petsird]'") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what reading can raise into FormatErrors that name the file."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error.__cause__
    except (EOFError, BufferError) as error:
        raise FormatError(f"{path} ends too early for a PETSIRD file; was the copy interrupted?") from error
    except RuntimeError as error:
        raise FormatError(
            f"{path} is not a binary PETSIRD file of the version that the installed package petsird reads ({error})"
        ) from error
    except _DAMAGES as error:
        raise FormatError(f"{path} is damaged: {error}") from error


# ---- module types ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Layout:
    """How the detection bins of the module types that are read are numbered.

    A detection bin is energy bin + energy bins * (element + elements * module), separately for every module type.

    Args:
        pairs : of module types, first >= second.
        shape : for every type (modules, elements, energy bins).
        first : the number of its first crystal in the file's order.
        window : for every type which energy bins are read.
    """

    pairs: tuple[Pair, ...]
    shape: Mapping[int, tuple[int, int, int]]
    first: Mapping[int, int]
    window: Mapping[int, np.ndarray]

    @classmethod
    def of(
        cls, scanner: petsird.ScannerInformation, energy_window: tuple[float, float] | None, module_types: Pair | None
    ) -> _Layout:
        n_types = len(scanner.scanner_geometry.replicated_modules)
        pairs = tuple((a, b) for a in range(n_types) for b in range(a + 1))
        if module_types is not None:
            chosen = (max(module_types), min(module_types))
            if chosen not in pairs:
                raise FormatError(f"the module types are 0 to {n_types - 1}, so there is no pair {module_types}")
            pairs = (chosen,)
        shape, first, window, total = {}, {}, {}, 0
        for kind in sorted({kind for pair in pairs for kind in pair}):
            modules = scanner.scanner_geometry.replicated_modules[kind]
            edges = np.asarray(scanner.event_energy_bin_edges[kind].edges, float)
            n_modules, n_elements = len(modules.transforms), len(modules.object.detecting_elements.transforms)
            shape[kind], first[kind] = (n_modules, n_elements, max(1, len(edges) - 1)), total
            window[kind] = _within(edges, energy_window, kind)
            total += n_modules * n_elements
        if not 2 <= total <= _MOST_CRYSTALS:
            raise FormatError(f"the header announces {total} crystals; damaged?")
        return cls(pairs, shape, first, window)

    def elements(self) -> np.ndarray:
        """Return [module type, module, element] of every crystal in the file's order, (crystals, 3)."""
        tables = []
        for kind, (n_modules, n_elements, _) in self.shape.items():
            module, element = np.divmod(np.arange(n_modules * n_elements), n_elements)
            tables.append(np.stack([np.full_like(module, kind), module, element], 1))
        return np.concatenate(tables)


def _within(edges: np.ndarray, energy_window: tuple[float, float] | None, kind: int) -> np.ndarray:
    if energy_window is None:
        return np.ones(max(1, len(edges) - 1), bool)
    low, high = energy_window
    inside = (edges[:-1] >= low - 1e-3) & (edges[1:] <= high + 1e-3)
    if not inside.any():
        raise FormatError(f"module type {kind} has no energy bin within {low:g} to {high:g} keV; its edges: {edges}")
    return inside


# ---- the header -----------------------------------------------------------------------------------------------------


def _header(scanner: petsird.ScannerInformation, layout: _Layout, tof: bool) -> tuple[PETSIRDHeader, np.ndarray]:
    """Return (header, our number of every crystal in the file's order)."""
    if int(scanner.prompt_event_policy.value) == 0:
        raise FormatError("the file holds no coincidences (its prompt event policy is NONE)")
    positions = np.concatenate([_positions(scanner, kind) for kind in layout.shape])
    crystals, order = _arranged(positions)
    elements = layout.elements()[order]
    resolution = [float(scanner.energy_resolution_at_511[kind]) for kind in layout.shape]
    about = PETScanner(
        crystals,
        name=scanner.model_name,
        time_of_flight=_time_of_flight(scanner, layout) if tof else None,
        energy_resolution=resolution[0] if len(set(resolution)) == 1 and resolution[0] > 0 else None,
    )
    alignment = scanner.gantry_alignment
    header = PETSIRDHeader(
        about,
        elements,
        _efficiencies(scanner, layout, elements),
        None if alignment is None else np.array(alignment.matrix, float),
    )
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.arange(len(order))
    return header, numbers


def _positions(scanner: petsird.ScannerInformation, kind: int) -> np.ndarray:
    """The middle of every crystal of a module type in mm, (modules * elements, 3)."""
    modules = scanner.scanner_geometry.replicated_modules[kind]
    crystals = modules.object.detecting_elements
    middle = np.mean([corner.c for corner in crystals.object.shape.corners], axis=0, dtype=float)
    within = _moved(_matrices(crystals.transforms), middle[None])[:, 0]
    return _moved(_matrices(modules.transforms), within).reshape(-1, 3)


def _matrices(transforms: Iterable[petsird.RigidTransformation]) -> np.ndarray:
    return np.array([transform.matrix for transform in transforms], float).reshape(-1, 3, 4)


def _moved(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Every point (n, 3) moved by every matrix (m, 3, 4), (m, n, 3)."""
    return np.einsum("mij,nj->mni", matrices[:, :, :3], points) + matrices[:, None, :, 3]


def _arranged(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (crystals, which position each one is): rings from the highest z down, else as they come.

    Rings count as such where all have the same crystals at one height each, at angles of their own all around the
    axis. What the rounding of float32 does to them is averaged out.
    """
    as_they_come = positions, np.arange(len(positions))
    by_height = np.argsort(-positions[:, 2], kind="stable")
    n_rings = 1 + np.count_nonzero(np.diff(positions[by_height, 2]) < -_SAME_PLACE)
    if len(positions) % n_rings or len(positions) // n_rings < 3:
        return as_they_come
    rings = np.stack([_around(positions, ring) for ring in by_height.reshape(n_rings, -1)])
    crystals = positions[rings]
    mean = np.empty_like(crystals)
    mean[..., :2], mean[..., 2] = crystals[..., :2].mean(0), crystals[..., 2].mean(1, keepdims=True)
    turned = _deviation(mean[0])
    full_circle = np.abs(turned - turned.mean()).max() < pi / 8
    own_angles = np.diff(turned).min() > -0.95 * 2 * pi / len(turned)
    if np.abs(crystals - mean).max() > _SAME_PLACE or not (full_circle and own_angles):
        return as_they_come
    return mean, rings.ravel()


def _around(positions: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """The crystals of a ring from the front (-y) towards the left (+x), the one nearest to the front first."""
    ring = ring[np.argsort(np.arctan2(positions[ring, 0], -positions[ring, 1]) % (2 * pi))]
    steps = _deviation(positions[ring]).mean() * len(ring) / (2 * pi)
    return np.roll(ring, int(np.floor(steps + 0.5 - 1e-3)))  # a little less: a tie must not be left to rounding


def _deviation(ring: np.ndarray) -> np.ndarray:
    """How far crystal i of N is turned from 2 pi i / N in radians, without jumps."""
    angle = np.unwrap(np.arctan2(ring[:, 0], -ring[:, 1]))
    turned: np.ndarray = angle - 2 * pi * np.arange(len(ring)) / len(ring)
    return turned - 2 * pi * np.floor(turned.mean() / (2 * pi) + 0.5)


def _time_of_flight(scanner: petsird.ScannerInformation, layout: _Layout) -> TimeOfFlight | None:
    """The TOF bins that all pairs of module types share; None for one bin, the coincidence window."""
    bins = {(a, b): _tof_of(scanner, a, b) for a, b in layout.pairs}
    if len(set(bins.values())) > 1:
        listed = "; ".join(f"{pair}: {value or 'none'}" for pair, value in bins.items())
        raise FormatError(
            f"TOF bins differ between module types ({listed}); choose one pair with module_types=, or pass tof=False"
        )
    return bins[layout.pairs[0]]


def _tof_of(scanner: petsird.ScannerInformation, a: int, b: int) -> TimeOfFlight | None:
    edges = np.asarray(scanner.tof_bin_edges[a][b].edges, float)
    if edges.size <= 2:
        return None
    width = (edges[-1] - edges[0]) / (edges.size - 1)
    even = edges[0] + width * np.arange(edges.size)
    if not width > 0 or not np.abs(edges - even).max() <= _EVEN * width:
        raise FormatError(f"module types {(a, b)} have TOF bins of different widths; pass tof=False")
    if abs(edges[0] + edges[-1]) > _EVEN * width:
        raise FormatError(
            f"module types {(a, b)} have TOF bins from {edges[0]:g} to {edges[-1]:g} mm, not centred on the line; "
            "pass tof=False"
        )
    resolution = float(scanner.tof_resolution[a][b])
    if not resolution > 0:
        raise FormatError(f"module types {(a, b)} have a TOF resolution of {resolution:g} mm; pass tof=False")
    return TimeOfFlight(edges.size - 1, float(width), resolution)


def _efficiencies(
    scanner: petsird.ScannerInformation, layout: _Layout, elements: np.ndarray
) -> PETSIRDEfficiencies | None:
    """Return the efficiencies of the energy bins that are read; what the file leaves out is 1."""
    stored = scanner.detection_efficiencies
    singles, groups, pairs = (
        stored.detection_bin_efficiencies,
        stored.module_pair_sgidlut,
        stored.module_pair_efficiencies_vectors,
    )
    if not (singles or groups or pairs):
        return None
    single = {}
    for kind, shape in layout.shape.items():
        values = np.array(singles[kind], float).reshape(shape) if singles else np.ones(shape)
        single[kind] = values * layout.window[kind]
    group_of = {(a, b): _group_table(groups[a][b], layout, a, b) for a, b in layout.pairs} if groups else {}
    pair = {(a, b): _pair_table(pairs[a][b], layout, a, b) for a, b in layout.pairs} if groups and pairs else {}
    for types, table in pair.items():
        if group_of[types].max() >= len(table):
            raise FormatError(f"symmetry group {group_of[types].max()} of module types {types} has no efficiencies")
    calibration = float(stored.calibration_factor)
    return PETSIRDEfficiencies(elements, calibration, single, group_of, pair)


def _group_table(rows: list[list[int]], layout: _Layout, a: int, b: int) -> np.ndarray:
    table = np.full((layout.shape[a][0], layout.shape[b][0]), -1)
    for module, row in enumerate(rows):
        table[module, : len(row)] = row
    return table


def _pair_table(groups: list[petsird.ModulePairEfficiencies], layout: _Layout, a: int, b: int) -> np.ndarray:
    (_, elements1, energies1), (_, elements2, energies2) = layout.shape[a], layout.shape[b]
    shape = (len(groups), elements1, energies1, elements2, energies2)
    return np.array([group.values for group in groups], np.float32).reshape(shape)


# ---- events ---------------------------------------------------------------------------------------------------------


def _blocks(
    package: ModuleType,
    reader: petsird.BinaryPETSIRDReader,
    layout: _Layout,
    numbers: np.ndarray,
    tof: TimeOfFlight | None,
) -> Iterator[PETSIRDBlock]:
    kinds, bed = package.TimeBlock, None
    for block in reader.read_time_blocks():
        if isinstance(block, kinds.BedMovementTimeBlock):
            bed = np.array(block.value.transform.matrix, float)
        elif isinstance(block, kinds.GantryMovementTimeBlock):
            moves = _matrices(block.value.transforms)
            if not np.allclose(moves, np.eye(3, 4), atol=1e-6):
                raise FormatError("the gantry moves during the scan, which is not supported")
        elif isinstance(block, kinds.EventTimeBlock):
            events = block.value
            start, stop = events.time_interval.start / 1000, events.time_interval.stop / 1000
            if stop < start:
                raise FormatError(f"a time block ends at {stop} s before it starts at {start} s")
            delayed = _events(events.delayed_events, layout, numbers, tof) if events.delayed_events else None
            yield PETSIRDBlock(start, stop, _events(events.prompt_events, layout, numbers, tof), delayed, bed)


def _events(
    lists: list[list[list[petsird.CoincidenceEvent]]], layout: _Layout, numbers: np.ndarray, tof: TimeOfFlight | None
) -> np.ndarray:
    """The coincidences of all pairs of module types, (n, 2 or 3)."""
    width = 2 if tof is None else 3
    # rows beyond the module types are ignored, as by petsird's own analysis
    return _joined([_of_pair(lists[a][b], layout, (a, b), numbers, tof) for a, b in layout.pairs if lists], width)


def _of_pair(
    events: list[petsird.CoincidenceEvent], layout: _Layout, pair: Pair, numbers: np.ndarray, tof: TimeOfFlight | None
) -> np.ndarray:
    values = np.array([(*event.detection_bins, event.tof_idx) for event in events], np.int64).reshape(-1, 3)
    keep = np.ones(len(values), bool)
    for side, kind in enumerate(pair):
        n_modules, n_elements, n_energies = layout.shape[kind]
        crystal, energy = np.divmod(values[:, side], n_energies)
        if len(crystal) and crystal.max() >= n_modules * n_elements:
            raise FormatError(
                f"an event has detection bin {values[:, side].max()} of module type {kind}, which has "
                f"{n_modules * n_elements * n_energies}"
            )
        keep &= layout.window[kind][energy]
        values[:, side] = numbers[layout.first[kind] + crystal]
    if tof is not None and len(values) and values[:, 2].max() >= tof.n_bins:
        raise FormatError(f"an event has TOF bin {values[:, 2].max()}, the scanner has {tof.n_bins}")
    return values[keep, : 2 if tof is None else 3].astype(np.int32)


def _joined(parts: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([np.empty((0, width), np.int32), *parts])


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.allclose(a, b, atol=1e-6))
