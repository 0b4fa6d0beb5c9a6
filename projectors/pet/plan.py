"""Scanners, sinograms and grids as the PET kernels need them."""

from __future__ import annotations

import numpy as np

from ..core.grid import ImageGrid
from .event_kernels import EventPlan
from .kernels import PAD, PETPlan
from .scanner import PETScanner
from .sinogram import PETSinogram
from .tof import TimeOfFlight


def make_plan(grid: ImageGrid, sinogram: PETSinogram, dtype: str) -> PETPlan:
    """Return the kernels' view of a sinogram and a grid, in the precision `dtype`."""
    z = (sinogram.plane_ends - grid.origin[2]) / grid.voxel_size[2]
    return PETPlan(
        ends=np.ascontiguousarray(sinogram.transaxial_ends),
        start=(z[:, 0] + PAD).astype(dtype),
        rise=(z[:, 1] - z[:, 0]).astype(dtype),
        rise_mm=np.diff(sinogram.plane_ends, axis=1)[:, 0].astype(dtype),
        origin=np.asarray(grid.origin),
        voxel=np.asarray(grid.voxel_size),
        **timing(sinogram.tof, dtype),
    )


def timing(tof: TimeOfFlight | None, dtype: str) -> dict[str, np.ndarray]:
    """Return the fields of a plan that describe time of flight; `edges` is empty without."""
    if tof is None:
        return {"edges": np.zeros(0, dtype), "kernel": np.zeros(9, dtype), "per_mm": np.zeros(1)}
    per_mm = 1 / tof.half_width
    return {
        "edges": (tof.edges * per_mm).astype(dtype),
        "kernel": tof.polynomial.astype(dtype),
        "per_mm": np.array([per_mm]),
    }


def make_event_plan(grid: ImageGrid, scanner: PETScanner, tof: TimeOfFlight | None, dtype: str) -> EventPlan:
    """Return the kernels' view of a scanner and a grid, in the precision `dtype`."""
    places = {"origin": np.asarray(grid.origin), "voxel": np.asarray(grid.voxel_size)}
    positions = np.ascontiguousarray(scanner.positions)
    return EventPlan(positions, np.array([not scanner.is_cylinder]), **places, **timing(tof, dtype))
