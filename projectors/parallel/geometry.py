"""Ideal parallel beams: where their lines are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ..core.grid import FrozenArrays, check_subset, finite_numbers, positive_integers, positive_numbers
from ..core.html import brief_range, html_table
from ..core.operator import Shape
from ..spect.camera import SPECTGeometry


class _Placement(TypedDict, total=False):
    """The rest of a geometry, as in `ParallelBeamGeometry`."""

    plane_size: float | None
    shift: np.ndarray
    axial_shift: float | None


@dataclass(frozen=True, eq=False)
class ParallelBeamGeometry(FrozenArrays):
    """Stacked two-dimensional parallel beams: views at any angles, evenly spaced bins, planes along z.

    The line of the angle phi at s is {(x, y) : x cos phi + y sin phi = s}, in the axes of the image (LPS).
    The bins of a view lie at s = (i - (n_bins - 1) / 2) * bin_size + shift.

    Args:
        angles : (views,) degrees, any list.
        n_bins, bin_size : bins per view, and their distance in mm.
        n_planes : the image's slices, one plane for each.
        plane_size : mm; None for whatever the image's slices have.
        shift : mm, one number or (views,).
        axial_shift : z of the middle of the planes in mm; None for wherever the image is.

    Raises ValueError where lengths differ or values are not finite and positive.
    """

    angles: np.ndarray
    n_bins: int
    bin_size: float
    n_planes: int = 1
    plane_size: float | None = None
    shift: np.ndarray = field(default_factory=lambda: np.zeros(1))
    axial_shift: float | None = None

    def __post_init__(self) -> None:
        who = "ParallelBeamGeometry"
        angles = finite_numbers(self.angles, None, f"{who} angles (degrees)")
        if angles.size == 0:
            raise ValueError(f"{who} needs at least one view")
        values: dict[str, object] = {
            "angles": angles,
            "n_bins": positive_integers(self.n_bins, 1, f"{who} n_bins")[0],
            "bin_size": positive_numbers(self.bin_size, 1, f"{who} bin_size (mm)")[0],
            "n_planes": positive_integers(self.n_planes, 1, f"{who} n_planes")[0],
            "shift": finite_numbers(self.shift, angles.size, f"{who} shift (mm)"),
        }
        if self.plane_size is not None:
            values["plane_size"] = positive_numbers(self.plane_size, 1, f"{who} plane_size (mm)")[0]
        if self.axial_shift is not None:
            values["axial_shift"] = float(finite_numbers(self.axial_shift, 1, f"{who} axial_shift (mm)")[0])
        self.__setstate__(values)

    @classmethod
    def equally_spaced(
        cls,
        n_views: int,
        n_bins: int,
        bin_size: float,
        n_planes: int = 1,
        *,
        start: float = 0.0,
        extent: float = 180.0,
        **more: Unpack[_Placement],
    ) -> Self:
        """Return n_views views from `start` over `extent` degrees; more keywords go to `ParallelBeamGeometry`."""
        if n_views < 1 or n_views % 1:
            raise ValueError(f"n_views must be a whole number, at least 1, got {n_views}")
        return cls(start + extent / n_views * np.arange(n_views), n_bins, bin_size, n_planes, **more)

    @classmethod
    def from_spect(cls, geometry: SPECTGeometry) -> Self:
        """Return the lines that a SPECT camera without blur looks along: phi = 180 degrees minus the gantry angle."""
        (n_bins, n_planes), (bin_size, plane_size) = geometry.n_bins, geometry.pixel_size
        angles = 180 - geometry.angles
        return cls(angles, n_bins, bin_size, n_planes, plane_size, geometry.shift, geometry.axial_shift)

    @property
    def n_views(self) -> int:
        """The number of views."""
        return int(self.angles.size)

    @property
    def shape(self) -> Shape:
        """The shape of the data, (views, bins, planes)."""
        return (self.n_views, self.n_bins, self.n_planes)

    def subset(self, k: int, n: int) -> ParallelBeamGeometry:
        """Return the views k, k + n, k + 2n, ..."""
        check_subset(k, n, self.n_views)
        return replace(self, angles=self.angles[k::n], shift=self.shift[k::n])

    def bin_centres(self) -> np.ndarray:
        """Return s of every bin in mm, (views, bins)."""
        return (np.arange(self.n_bins) - (self.n_bins - 1) / 2) * self.bin_size + self.shift[:, None]

    def rays(self, z: ArrayLike = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return a point of every line and its unit direction, in mm: (views, bins, planes, 3) and (views, 1, 1, 3).

        Args:
            z : of each plane in mm, for instance the z coordinates of an `ImageGrid`.
        """
        phi, s, z = np.deg2rad(self.angles)[:, None, None], self.bin_centres()[..., None], np.ravel(z)
        points = np.stack(np.broadcast_arrays(s * np.cos(phi), s * np.sin(phi), z), -1)
        return points, np.stack([-np.sin(phi), np.cos(phi), np.zeros_like(phi)], -1)

    def _repr_html_(self) -> str:
        rows = {
            "views": self.n_views,
            "angles (degrees)": f"{self.angles[0]:.5g} to {self.angles[-1]:.5g}",
            "bins": self.n_bins,
            "bin size (mm)": self.bin_size,
            "planes": self.n_planes,
            "plane size (mm)": self.plane_size,
            "shift (mm)": brief_range(self.shift) if self.shift.any() else None,
        }
        return html_table("ParallelBeamGeometry", rows)

    def __str__(self) -> str:
        return f"{self.n_views} views of {self.n_bins} bins of {self.bin_size:g} mm, {self.n_planes} planes"
