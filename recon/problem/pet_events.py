"""From list-mode events to a problem: each rank reads its share of the file, in memory or sorted into files on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from emrecon.projectors import (
    AcquisitionModel,
    ListmodeProjector,
    PETSinogram,
    Projector,
    events_product,
)
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.progress import stage, tracked
from emrecon.projectors.pet.pairs import fans_of_events, rates_of_fans

from ..likelihoods.listmode import ListmodeLikelihood
from ..likelihoods.unexplained import say_once
from ..ranks import RankGroup, of_share
from .pet_corrections import Corrections, crystals_of, profile_of, require_factors
from .problem import ArgumentError, Problem, digest, expected_counts, seen_start
from .subsets import filled_subsets

_BLOCK = 1 << 20  # events worked on at a time on disk


class EventLists(Protocol):
    """Coincidences in memory, (n, 2) integers each: the numbers of the crystals at both ends."""

    @property
    def prompts(self) -> np.ndarray: ...
    @property
    def delays(self) -> np.ndarray: ...


class Listmode(Protocol):
    """What `pet_problem` asks of list-mode data, such as those that `formats.read_petlink` opens.

    Args:
        sinogram : the bins that the events fall into, without compression.  read() : all events.

    With `chunks()`, which yields `EventLists`, events need not fit in the memory; with `part(k, n)`, the k-th of n
    parts of the file, each of several ranks reads no more than its share.
    """

    @property
    def sinogram(self) -> PETSinogram: ...
    def read(self) -> EventLists: ...


Given = Array | float | None


@dataclass(frozen=True, eq=False)
class _Source:
    """This rank's share of the events, block by block."""

    data: Any
    ranks: RankGroup
    scratch: Path | None

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield prompts and delays."""
        k, n = self.ranks.rank, self.ranks.size
        divided = n > 1 and hasattr(self.data, "part")
        share = self.data.part(k, n) if divided else self.data
        if self.scratch is not None and hasattr(share, "chunks"):
            name = getattr(getattr(share, "path", None), "name", "the data")
            blocks = tracked(share.chunks(), f"events of {name}", getattr(share, "n_chunks", None))
        else:
            blocks = iter([share.read()])
        for block in blocks:
            every = slice(None) if n == 1 or divided else slice(k, None, n)
            yield block.prompts[every], block.delays[every]


@dataclass(frozen=True, eq=False)
class _Tally:
    """What is counted of all events of all ranks, whatever their order.

    Args:
        by_view, by_plane : prompts.  fans : delays of each crystal.  delays : how many there are.
        checksum : of the prompts.
    """

    by_view: np.ndarray
    by_plane: np.ndarray
    fans: np.ndarray
    delays: int
    checksum: np.ndarray


def events_problem(
    data: Listmode,
    sinogram: PETSinogram,
    corrections: Corrections,
    subsets: int,
    given: tuple[Given, Given],
    ranks: RankGroup,
    scratch: Path | None,
) -> Problem:
    """Return one likelihood for each subset of views: their events, and the sensitivity of all their bins.

    Args:
        given : randoms and scatter, or None.
        ranks : which read the file in as many parts.
        scratch : a folder for the events of this rank, None to hold them in memory.
    """
    require_factors(sinogram)
    if ranks.size > 1 or scratch is not None:
        _require_numbers(given, ranks)
    source, grid = _Source(data, ranks, scratch), corrections.grid
    held = None if scratch is not None else list(source.blocks())
    tally = _tallied(source.blocks() if held is None else iter(held), sinogram, corrections, ranks)
    n_prompts = int(tally.by_view.sum())
    if not n_prompts:
        raise ValueError(
            f"{getattr(data, 'path', 'the list-mode data')}: no prompts within ring differences up to "
            f"{sinogram.max_ring_difference}; is the file cut off, or max_ring_difference too small?"
        )
    subsets, few = filled_subsets(subsets, tally.by_view, grid)
    events, given = _sorted(source, held, sinogram, subsets, given)
    randoms, scatter = given
    singles = None
    if randoms is None:
        with stage("randoms of delays"):
            singles = _singles(sinogram, tally.fans, corrections)

    def part(k: int) -> Any:
        views, mine = sinogram.subset(k, subsets), events[k]
        lines = ListmodeProjector(grid, sinogram.scanner, mine)

        def background(block: np.ndarray, at: slice) -> np.ndarray | float:
            own: Any = _at(randoms, k, at) if singles is None else events_product(block, singles)
            return own + _at(scatter, k, at)

        def factors(block: np.ndarray, at: slice) -> np.ndarray | float:
            return corrections.of_events(sinogram, ListmodeProjector(grid, sinogram.scanner, block))

        model = AcquisitionModel(
            corrections.blurred(lines), _of_blocks(factors, mine, scratch), _of_blocks(background, mine, scratch)
        )
        found = ListmodeLikelihood(model, _sensitivity(corrections, views, ranks))
        n_events = int(tally.by_view[k::subsets].sum())
        return found if ranks.size == 1 else of_share(found, ranks, n_events)

    parts = tuple(part(k) for k in tracked(range(subsets), "sensitivity of subsets"))
    say_once(parts)
    known = (v if isinstance(v, float) else None if v is None else np.concatenate(v) for v in given)
    content = digest(tally.checksum, singles, *known, *corrections.components(), *crystals_of(sinogram))
    shown = ListmodeProjector(grid, sinogram.scanner, np.broadcast_to(np.zeros((1, 2), np.int32), (n_prompts, 2)))
    summary = f"{shown}\n  delays   {tally.delays}\n{corrections}"
    signature = f"{sinogram}, {subsets} subsets, contents {content}"
    ranks.require_same(signature, "these have another problem; are files or options not the same?")
    notes = (*corrections.notes(profile_of(sinogram, tally.by_plane, grid)), *few)
    return Problem(parts, grid, seen_start(parts), "PET", summary, signature, notes, corrections.attenuation.mu)


def _require_numbers(given: tuple[Given, Given], ranks: RankGroup) -> None:
    """Refuse expected counts of single events where no process has them all in order."""
    why = "for ranks" if ranks.size > 1 else "with a scratch folder"
    for name, values in zip(("randoms", "scatter"), given):
        if values is not None and np.ndim(to_numpy(values)):
            raise ArgumentError(name, f"{name} of list-mode must be a number {why}, or those of the delays")


def _tallied(
    blocks: Iterator[tuple[np.ndarray, np.ndarray]],
    sinogram: PETSinogram,
    corrections: Corrections,
    ranks: RankGroup,
) -> _Tally:
    norm = corrections.norm
    known = None if norm is None else norm.crystal
    by_view, by_plane = np.zeros(sinogram.n_views, np.int64), np.zeros(sinogram.n_planes, np.int64)
    fans = np.zeros(sinogram.scanner.virtual.shape, np.int64)
    more = np.zeros(3, np.int64)  # delays, and the checksum
    error: ValueError | None = None
    try:
        for prompts, delays in blocks:
            bins = sinogram.bins_of(prompts)
            inside = bins[:, 0] >= 0
            by_view += np.bincount(bins[inside, 0], minlength=len(by_view))
            by_plane += np.bincount(bins[inside, -1], minlength=len(by_plane))
            fans += fans_of_events(sinogram, delays, known).astype(np.int64)
            more += (len(delays), *_checksum(prompts[inside]))
    except ValueError as raised:  # of a damaged share: all ranks are to end with it
        error = raised
    ranks.agree(error)
    by_view, by_plane, fans, more = (ranks.sum_own(values) for values in (by_view, by_plane, fans, more))
    return _Tally(by_view, by_plane, fans, int(more[0]), more[1:])


def _checksum(events: np.ndarray) -> tuple[int, int]:
    """Two sums over events of 24 bits of a hash each: the same in any order, and in any parts."""
    first, second = (events[:, i].astype(np.uint64) for i in (0, 1))
    mixed = (first << np.uint64(32) | second) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int((mixed >> np.uint64(40)).sum()), int(((mixed >> np.uint64(8)) & np.uint64(0xFFFFFF)).sum())


def _sorted(
    source: _Source,
    held: list[tuple[np.ndarray, np.ndarray]] | None,
    sinogram: PETSinogram,
    subsets: int,
    given: tuple[Given, Given],
) -> tuple[list[np.ndarray], Any]:
    """This rank's prompts of every subset, and randoms and scatter: numbers, or a list for every subset, or None."""
    if held is None:
        assert source.scratch is not None
        return _on_disk(source, sinogram, subsets, source.scratch), tuple(v if v is None else float(v) for v in given)
    prompts = held[0][0]
    view = sinogram.bins_of(prompts)[:, 0]
    inside = view >= 0
    subset = np.where(inside, view % subsets, -1)

    def dealt(name: str, values: Given) -> Any:
        if values is None:
            return None
        known = expected_counts(name, values, inside.shape)
        if isinstance(known, float):
            return known
        whole = np.broadcast_to(to_numpy(known), inside.shape).astype(np.float32)
        return [whole[subset == k] for k in range(subsets)]

    events = [prompts[subset == k] for k in range(subsets)]
    return events, tuple(dealt(name, values) for name, values in zip(("randoms", "scatter"), given))


def _on_disk(source: _Source, sinogram: PETSinogram, subsets: int, folder: Path) -> list[np.ndarray]:
    """Read the share again, and sort its prompts into files without a name: they are gone when the process ends."""
    files = [tempfile.TemporaryFile(dir=folder, prefix="emrecon-events-") for _ in range(subsets)]  # noqa: SIM115
    counts = [0] * subsets
    for prompts, _ in source.blocks():
        view = sinogram.bins_of(prompts)[:, 0]
        for k, file in enumerate(files):
            mine = np.ascontiguousarray(prompts[(view >= 0) & (view % subsets == k)], np.int32)
            file.write(mine.tobytes())
            counts[k] += len(mine)
    found = []
    for file, n in zip(files, counts):
        file.flush()
        found.append(np.memmap(file, np.int32, "r", shape=(n, 2)) if n else np.zeros((0, 2), np.int32))
        file.close()
    return found


def _of_blocks(
    make: Callable[[np.ndarray, slice], np.ndarray | float], events: np.ndarray, scratch: Path | None
) -> np.ndarray | float:
    """A value for every event, in memory or block by block into a file; a number where it is one."""
    if scratch is None or not len(events):
        return make(events, slice(None))
    with tempfile.TemporaryFile(dir=scratch, prefix="emrecon-events-") as file:
        for first in range(0, len(events), _BLOCK):
            at = slice(first, min(first + _BLOCK, len(events)))
            values = make(np.asarray(events[at]), at)
            if isinstance(values, (int, float)):
                return values
            file.write(np.ascontiguousarray(values, np.float32).tobytes())
        file.flush()
        return np.memmap(file, np.float32, "r", shape=(len(events),))


def _at(values: Any, k: int, at: slice) -> Any:
    """Expected counts of some events of a subset."""
    return 0.0 if values is None else values if isinstance(values, float) else values[k][at]


def _singles(sinogram: PETSinogram, fans: np.ndarray, corrections: Corrections) -> np.ndarray:
    """The square roots of the randoms of crystals; zero where there are no delays of these ring differences."""
    if not fans.any():
        return np.zeros(sinogram.scanner.virtual.shape)
    norm = corrections.norm
    return rates_of_fans(sinogram, fans, None if norm is None else norm.crystal, n_iterations=30)


def _sensitivity(corrections: Corrections, views: PETSinogram, ranks: RankGroup) -> np.ndarray:
    """A'(factors) of all bins of some views, of which every rank projects its share."""
    k, n = ranks.rank, ranks.size
    if k >= views.n_views:
        return np.asarray(ranks.sum_own(np.zeros(corrections.grid.shape, np.float32)))
    mine = views if n == 1 else views.subset(k, min(n, views.n_views))
    system: Projector = corrections.system(mine)
    own: np.ndarray = to_numpy(system.T(corrections.factors(mine)))
    return np.asarray(ranks.sum(own))
