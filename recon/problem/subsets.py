"""How many ordered subsets the counts of a scan can fill."""

from __future__ import annotations

import numpy as np

from emrecon.projectors import ImageGrid

from ..engines.loop import counts_needed


def counts_by_view(counts: np.ndarray, n_axes: int) -> np.ndarray:
    """Return what fills subsets in each view, (..., views): counts, or bins with counts if there are more of them.

    Data in another unit than counts may have small sums, and yet leave no bin empty.

    Args:
        n_axes : of the data, the first of which are the views.
    """
    axes = tuple(range(1 - n_axes, 0))
    total, filled = counts.sum(axes, dtype=float), (counts > 0).sum(axes).astype(float)
    return np.where(total.sum(-1, keepdims=True) >= filled.sum(-1, keepdims=True), total, filled)


def filled_subsets(subsets: int, by_view: np.ndarray, grid: ImageGrid) -> tuple[int, tuple[str, ...]]:
    """Return how many subsets are used, as many as were asked for or fewer, and a note where these are fewer.

    A subset with few counts sets voxels to 0 that have activity, and no later step brings them back. Every subset holds
    at least one count for each line of voxels along y, and none is empty.

    Args:
        by_view : counts of each view, (..., views), such as those of `counts_by_view`; leading axes are a batch, whose
            items without any counts do not count.
    """
    totals = by_view.sum(-1)
    items, found = by_view[totals > 0].reshape(-1, by_view.shape[-1]), subsets
    if not items.size:
        return subsets, ()
    found = int(np.clip(items.sum(1).min() / counts_needed(grid.shape), 1, subsets))
    while found > 1 and any((items[:, k::found].sum(1) == 0).any() for k in range(found)):
        found -= 1
    if found == subsets:
        return subsets, ()
    shape = " x ".join(map(str, grid.shape))
    note = f"{items.sum(1).min():g} counts are few for {subsets} subsets and {shape} voxels: {found} are used"
    return found, (note,)
