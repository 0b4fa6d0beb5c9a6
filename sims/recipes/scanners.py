"""PET scanners of recipes: some rings of one that is known by name, or a polygon of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from emrecon.projectors import PETScanner, TimeOfFlight


def named_scanner(name: str, rings: int | None = None) -> PETScanner:
    """Return a scanner of the library, or so many of its rings, next to each other.

    Of all such blocks of rings that with the most real rings is taken, and of those the one nearest to the middle: some
    scanners number the gaps between their blocks as rings.

    Raises ValueError for an unknown name and more rings than there are.
    """
    scanner = PETScanner.named(name)
    if rings is None:
        return scanner
    if rings > scanner.n_rings:
        raise ValueError(f"rings must be at most {scanner.n_rings}, those of {scanner}, got {rings}")
    real = np.append(0, np.cumsum(~scanner.virtual.all(axis=1)))
    counts = real[rings:] - real[:-rings]
    starts = np.flatnonzero(counts == counts.max())
    first = int(starts[np.abs(starts - (scanner.n_rings - rings) // 2).argmin()])
    some = slice(first, first + rings)
    return replace(scanner, crystals=scanner.crystals[some], virtual=scanner.virtual[some])


def own_scanner(ring: Mapping[str, Any]) -> PETScanner:
    """Return the polygon of a table [pet.ring]; `tof` is (bins, ps of a bin, FWHM in ps)."""
    given = {name: value for name, value in ring.items() if value is not None}
    tof = given.pop("tof", None)
    return PETScanner.polygon(**given, time_of_flight=None if tof is None else TimeOfFlight.from_ps(*tof))
