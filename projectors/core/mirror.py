"""Lines that go on, mirrored, beyond their ends: what stands for the body where an image ends and the body does not."""

from __future__ import annotations

import numpy as np


def mirrored(index: np.ndarray, n: int, low: bool = True, high: bool = True) -> np.ndarray:
    """Return which of the samples 0 to n - 1 stands at each index of a line mirrored at the ends that say so.

    The line is ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...; -1 stands beyond an end that is not mirrored.
    """
    if low and high:
        index = np.mod(index, 2 * n)
    elif low:
        index = np.where(index < 0, -1 - index, index)
    if high:
        index = np.where(index >= n, 2 * n - 1 - index, index)
    return np.where((index >= 0) & (index < n), index, -1)


def folded(matrix: np.ndarray, first: int, n: int, low: bool = True, high: bool = True) -> np.ndarray:
    """Return a matrix over samples first, first + 1, ... as one over 0 to n - 1, mirrored at the ends that say so.

    What lies beyond an end that is not mirrored is left out.
    """
    index = mirrored(np.arange(first, first + matrix.shape[1]), n, low, high)
    out = np.zeros((matrix.shape[0], n))
    np.add.at(out.T, index[index >= 0], matrix.T[index >= 0])
    return out
