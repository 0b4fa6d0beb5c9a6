"""Which bins of a scan are measured: views left out, gaps between detectors, blocks that failed, open rings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from emrecon.projectors import PETSinogram


def every_view(n_views: int, n: int, shape: Sequence[int]) -> Tensor:
    """Return the booleans, (views, bins, rows), of every n-th view.

    Raises ValueError for a number that does not divide the views.
    """
    if n < 1 or n_views % n:
        raise ValueError(f"every {n}-th view of {n_views} is not evenly spaced; choose a divisor")
    kept = torch.zeros(tuple(shape), dtype=torch.bool)
    kept[::n] = True
    return kept


def without_bins(shape: Sequence[int], bins: Iterable[int]) -> Tensor:
    """Return the booleans, ``shape``, of all bins but these columns, which every view lacks.

    Raises ValueError for a bin that is not there, and where none is left.
    """
    lost = sorted(set(bins))
    if lost and not 0 <= lost[0] <= lost[-1] < shape[1]:
        raise ValueError(f"bins are 0 to {shape[1] - 1}, got {lost[0]} to {lost[-1]}")
    if len(lost) == shape[1]:
        raise ValueError("without_bins: no bin is left")
    kept = torch.ones(tuple(shape), dtype=torch.bool)
    kept[:, lost] = False
    return kept


def without_crystals(sinogram: PETSinogram, crystals: Iterable[int], rings: Iterable[int] | None = None) -> Tensor:
    """Return the booleans, the sinogram's shape, of bins that no failed crystal takes part in.

    A bin that joins several pairs counts as measured only where none of them is lost.

    Args:
        crystals : numbers within a ring, such as `range(8)` for a block or `range(0, n // 4)` for an open ring.
        rings : in which they failed (default: all).

    Raises ValueError for crystals or rings that are not there, arc-corrected data, and where nothing is left.
    """
    scanner = sinogram.scanner
    failed = np.zeros((scanner.n_rings, scanner.n_crystals), bool)
    chosen, lost = list(range(scanner.n_rings) if rings is None else rings), list(crystals)
    if not all(0 <= n < scanner.n_crystals for n in lost) or not all(0 <= n < scanner.n_rings for n in chosen):
        raise ValueError(f"crystals are 0 to {scanner.n_crystals - 1} and rings 0 to {scanner.n_rings - 1}")
    failed[np.ix_(chosen, lost)] = True
    within = failed[:, sinogram.crystal_pairs]  # (rings, views, mashing, radial, 2)
    planes = [
        np.any([within[a, ..., 0] | within[b, ..., 1] for a, b in pairs], axis=0).any(1)
        for pairs in sinogram.ring_pairs
    ]
    kept = ~np.stack(planes, -1)
    if not kept.any():
        raise ValueError("without_crystals: no bin is left")
    if sinogram.tof is not None:
        kept = np.broadcast_to(kept[:, :, None], sinogram.shape)
    return torch.as_tensor(np.ascontiguousarray(kept))
