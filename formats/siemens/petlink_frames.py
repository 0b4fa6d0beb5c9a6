"""PETLINK list-mode split into frames or gates: one pass over the file, as events or as sinograms."""

from __future__ import annotations

import numpy as np

from emrecon.projectors import PETSinogram
from emrecon.projectors.core.progress import tracked
from emrecon.projectors.scan.frames import Frames, Gates, histogram_events, split_events

from .petlink import Chunk, PETLink


def split_petlink(scan: PETLink, parts: Frames | Gates) -> list[Chunk]:
    """Return the prompts and delays of every frame or gate, one `Chunk` each.

    Args:
        parts : times in s after the file's first time tag, as in `PETLink.read`; events outside of all are left out.
    """
    chunks: list[list[Chunk]] = [[] for _ in range(len(parts))]
    zero = scan.first_time()
    for chunk in tracked(scan.chunks(), f"events of {scan.path.name}", scan.n_chunks):
        for found, part in zip(chunks, _split(chunk, parts, zero)):
            found.append(part)
    empty = Chunk(*(np.zeros((0, 2), np.int32),) * 2, *(np.zeros(0, np.int64),) * 2)
    return [Chunk(*(np.concatenate(columns) for columns in zip(empty, *found))) for found in chunks]


def histogram_petlink(
    scan: PETLink, parts: Frames | Gates, sinogram: PETSinogram | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts (parts, ``*sinogram.shape``) of prompts and of delays, float32, without holding the events.

    Args:
        parts : times in s after the file's first time tag.
        sinogram : without TOF (default: that of the file, span 1).

    The prompts are the counts of a `DynamicScan` or a `GatedScan`; randoms are better estimated from the delays by
    `crystal_rates` than used as they are.
    """
    bins = scan.sinogram if sinogram is None else sinogram
    prompts, delays = (np.zeros((len(parts), *bins.shape), np.float32) for _ in range(2))
    zero = scan.first_time()
    for chunk in tracked(scan.chunks(), f"events of {scan.path.name}", scan.n_chunks):
        for events, times, counts in (
            (chunk.prompts, chunk.prompt_times, prompts),
            (chunk.delays, chunk.delay_times, delays),
        ):
            histogram_events(bins, events, parts.index_of((times - zero) / 1000), len(parts), counts)
    return prompts, delays


def _split(chunk: Chunk, parts: Frames | Gates, zero: int) -> list[Chunk]:
    columns: list[list[np.ndarray]] = []
    for kind in ("prompt", "delay"):
        times = getattr(chunk, f"{kind}_times")
        index = parts.index_of((times - zero) / 1000)
        columns += [split_events(values, index, len(parts)) for values in (getattr(chunk, f"{kind}s"), times)]
    prompts, prompt_times, delays, delay_times = columns
    return [Chunk(*part) for part in zip(prompts, delays, prompt_times, delay_times)]
