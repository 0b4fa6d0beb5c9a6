"""Frames, gates and other scans of one geometry as a batch: how many they are, their memory, what tells them apart."""

from __future__ import annotations

import math

from emrecon.projectors import DynamicScan, ImageGrid, Scan, ScanSeries
from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.memory import available_memory, in_words

from .grids import image_bytes


def batch_of(scan: Scan | ScanSeries) -> int:
    """Return how many images a scan has: its frames or gates, or the product of its leading axes."""
    return math.prod(scan.counts.shape[: scan.counts.ndim - len(scan.geometry.shape)])


def in_batch(scan: Scan | ScanSeries, grid: ImageGrid, subsets: int) -> str:
    """Return a line about the parts of a series and the memory that their images take together; empty for one scan."""
    if not isinstance(scan, ScanSeries):
        return ""
    parts, unit = f"{len(scan)} gates", "counts/s"
    if isinstance(scan, DynamicScan):
        parts = str(scan.frames)
        unit += f", decay corrected to {scan.reference:g} s" if scan.radionuclide is not None else ""
    n_bytes = len(scan) * image_bytes(grid.shape, subsets)
    return f"\n  together     {parts}, in one batch: about {in_words(n_bytes)} for images, which are in {unit}"


def fitting(scan: ScanSeries, grid: ImageGrid, subsets: int) -> int:
    """Return how many frames or gates fit into the memory that is free, half of it, in one batch; at least 1."""
    each = image_bytes(grid.shape, subsets) + 3 * 4.0 * math.prod(scan.geometry.shape)
    free = available_memory() / 2
    return max(1, min(len(scan), int(free / each))) if math.isfinite(free) else len(scan)


def scan_contents(scan: Scan | ScanSeries) -> tuple[Array | float, ...]:
    """Return the numbers that tell scans apart: counts, background, factors, and of frames their time and decay."""
    plain = scan.counts, scan.background, scan.factors
    if not isinstance(scan, ScanSeries):
        return plain
    decay = getattr(scan, "decay", 1.0)
    return (*plain, scan.seconds, decay)
