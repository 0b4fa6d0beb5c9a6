"""Keys of what arrays hold: the same for the same numbers, whatever library, device and precision they are in."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Array, to_numpy


def counts_key(counts: Array | ArrayLike) -> tuple[int, ...]:
    """Return four numbers below 2^32 that belong to whole counts and their shape.

    As the spawn key of a `numpy.random.SeedSequence` they give scans that share a seed independent random numbers.
    """
    whole = np.ascontiguousarray(to_numpy(counts), dtype=np.int64)
    found = hashlib.sha256(repr(whole.shape).encode() + whole.tobytes())
    return tuple(int(word) for word in np.frombuffer(found.digest()[:16], "<u4"))
