"""Attenuation maps on the way into a problem: onto its grid, units and energy judged, and what they leave out noted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from emrecon.projectors import AttenuationMap, ImageGrid
from emrecon.projectors.core.arrays import Array, array_namespace, to_numpy
from emrecon.projectors.core.resampling import resample
from emrecon.projectors.physics.attenuation_maps import (
    check_attenuation,
    check_unit,
    commonest_attenuation,
    extremes,
    note_on_energy,
)

from .problem import ArgumentError, on_grid

_SLIGHT = 0.05  # of the highest value; what cubic interpolation overshoots below zero
_FEW_COUNTS = 0.05  # of all, in slices without attenuation


@dataclass(frozen=True, eq=False)
class Attenuation:
    """A map on the grid of a problem (None: no attenuation), and what a user should know about it."""

    mu: Array | None
    notes: tuple[str, ...] = ()
    source: str = ""

    def __str__(self) -> str:
        found = None if self.mu is None else commonest_attenuation(self.mu)
        if self.mu is None or found is None:
            return "none"
        said = f"most of the body {found:.3g} /cm, up to {extremes(self.mu)[1]:.3g} /cm"
        return f"{self.source}: {said}" if self.source else said


def attenuation_of(
    mu: Array | AttenuationMap | None,
    own_grid: ImageGrid | None,
    grid: ImageGrid,
    energy: float | None,
    counts: np.ndarray | None = None,
    *,
    batch: bool = False,
) -> Attenuation:
    """Return a map on the grid of the image after judging it.

    Args:
        mu : 1/cm, (x, y, z) on `own_grid`, or on the image's grid where that is None; or a map with a grid of its own.
        energy : of the photons in keV, None where unknown.
        counts : (z,) counts whose lines lie in each slice of the image, to tell what the map leaves out.
        batch : allow a leading axis.

    Values slightly below zero, which interpolation makes, are set to zero with a note.

    Raises ArgumentError for a map that does not fit, and for values that are not attenuation in 1/cm.
    """
    if mu is None:
        if own_grid is not None:
            raise ArgumentError("mu_grid", "mu_grid is given, but mu is not")
        return Attenuation(None)
    if isinstance(mu, AttenuationMap):
        if own_grid is not None:
            raise ArgumentError("mu_grid", "mu is an AttenuationMap, which has its own grid; leave mu_grid out")
        found = attenuation_of(mu.values, mu.grid, grid, energy, counts, batch=batch)
        return replace(found, notes=(*mu.notes, *found.notes), source=mu.source)
    notes: list[str | None] = []
    if own_grid is not None:
        mu = _resampled(mu, own_grid, grid)
        notes.append(_outside(own_grid, grid))
    values: Array = on_grid("mu", mu, grid, batch=batch)
    low, high = extremes(values)
    if -_SLIGHT * high <= low < 0:
        xp = array_namespace(values)
        notes.append(
            f"{int((to_numpy(values) < 0).sum())} values of mu slightly below zero (down to {low:.2g} /cm) are set to 0"
        )
        values, low = xp.where(values < 0, xp.zeros_like(values), values), 0.0
    try:
        if not low >= 0:  # or NaN
            check_attenuation(values, "mu")
        check_unit(values, energy)
        check_attenuation(values, "mu")
    except ValueError as error:
        raise ArgumentError("mu", str(error)) from error
    notes += [note_on_energy(values, energy), left_out(to_numpy(values), counts)]
    return Attenuation(values, tuple(note for note in notes if note))


def counts_by_slice(grid: ImageGrid, heights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return counts (n,) of lines at heights z (n,) in mm, added up in the slices of a grid; (z,)."""
    k = np.rint((heights - grid.origin[2]) / grid.voxel_size[2]).astype(int)
    inside = (k >= 0) & (k < grid.shape[2])
    return np.bincount(k[inside], np.maximum(counts[inside], 0), grid.shape[2])


def _resampled(mu: Array, own_grid: ImageGrid, grid: ImageGrid) -> Array:
    try:
        return resample(mu, own_grid, grid)
    except ValueError as error:
        raise ArgumentError("mu", str(error)) from error


def _outside(own_grid: ImageGrid, grid: ImageGrid) -> str | None:
    """Where the map ends inside the image, by more than half a voxel of either."""
    ends = []
    for axis, name in enumerate("xyz"):
        (first, last), (start, end) = _edges(own_grid, axis), _edges(grid, axis)
        room = max(own_grid.voxel_size[axis], grid.voxel_size[axis]) / 2
        if first > start + room or last < end - room:
            ends.append(f"{name} {first:.0f} to {last:.0f} mm of {start:.0f} to {end:.0f} mm")
    if not ends:
        return None
    return f"the attenuation map covers only {', '.join(ends)}; there is no attenuation outside it"


def _edges(grid: ImageGrid, axis: int) -> tuple[float, float]:
    size = grid.voxel_size[axis]
    first = grid.origin[axis] - size / 2
    return first, first + grid.shape[axis] * size


def left_out(mu: np.ndarray, counts: np.ndarray | None) -> str | None:
    """Return a sentence where slices with counts (z,) have no attenuation, or None."""
    if counts is None or not counts.sum() > 0:
        return None
    empty = ~mu.reshape(-1, *mu.shape[-3:]).any((0, 1, 2))
    share = float(counts[empty].sum() / counts.sum())
    if not empty.any() or share <= _FEW_COUNTS:
        return None
    return f"{100 * share:.0f} % of the counts lie in {int(empty.sum())} of {empty.size} slices without any attenuation"
