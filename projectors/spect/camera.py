"""The positions of a SPECT camera, on the host, in mm and degrees.

Gantry angles follow DICOM: 0 degrees is the detector at the back (+y), growing counter-clockwise seen from the feet, so
the detector centre is at radius * (sin a, cos a). The bin axis u runs to the right of a viewer who stands behind the
detector, looks at the patient and sees the head up: u = (-cos a, sin a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from ..core.grid import FrozenArrays, ImageGrid, check_subset, finite_numbers, positive_integers, positive_numbers
from ..core.html import brief_range, html_table
from ..core.operator import Shape
from .orbit_svg import orbit_svg


class _Placement(TypedDict, total=False):
    """The rest of a geometry, as in `SPECTGeometry`."""

    shift: ArrayLike
    axial_shift: float
    head: ArrayLike


@dataclass(frozen=True, eq=False)
class SPECTGeometry(FrozenArrays):
    """The positions of parallel-hole detectors: one angle, radius and shift per view.

    Args:
        angles : (views,) gantry angles in degrees (DICOM sense, see the module's first lines); any list.
        radius : one number or (views,), mm from the rotation axis to the collimator face: body contours are fine.
        n_bins : (bins along u, rows along z).
        pixel_size : (du, dz) in mm, or one number; it need not equal the voxel size.
        shift : (views,) or one number, mm by which the detector's centre is displaced along u (centre-of-rotation
            offset).
        axial_shift : mm by which the detector's centre is displaced along z; all views.
        head : (views,) which detector head took a view; information only.

    Raises ValueError where lengths differ or values are not finite and positive.
    """

    angles: np.ndarray
    radius: np.ndarray
    n_bins: tuple[int, int]
    pixel_size: tuple[float, float]
    shift: np.ndarray = field(default_factory=lambda: np.zeros(1))
    axial_shift: float = 0.0
    head: np.ndarray = field(default_factory=lambda: np.zeros(1, int))

    def __post_init__(self) -> None:
        angles = finite_numbers(self.angles, None, "SPECTGeometry angles (degrees)")
        n = angles.size
        if n == 0:
            raise ValueError("SPECTGeometry needs at least one view")
        values: dict[str, Any] = {
            "angles": angles,
            "radius": finite_numbers(self.radius, n, "SPECTGeometry radius (mm)"),
            "shift": finite_numbers(self.shift, n, "SPECTGeometry shift (mm)"),
            "head": finite_numbers(self.head, n, "SPECTGeometry head").round().astype(int),
            "n_bins": positive_integers(self.n_bins, 2, "SPECTGeometry n_bins"),
            "pixel_size": positive_numbers(self.pixel_size, 2, "SPECTGeometry pixel_size (mm)"),
            "axial_shift": float(finite_numbers(self.axial_shift, 1, "SPECTGeometry axial_shift (mm)")[0]),
        }
        if np.any(values["radius"] <= 0):
            raise ValueError("SPECTGeometry radius must be positive (mm from the rotation axis to the collimator face)")
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def circular(
        cls,
        n_views: int,
        radius: float | Sequence[float] | np.ndarray,
        n_bins: tuple[int, int],
        pixel_size: float | tuple[float, float],
        *,
        start: float = 0.0,
        direction: str = "ccw",
        extent: float = 360.0,
        **more: Unpack[_Placement],
    ) -> Self:
        """Return equally spaced views over `extent` degrees from `start`, in `direction` "ccw" or "cw" (from the feet).

        Args:
            radius : mm, one number or one per view (non-circular orbit).  More keywords go to `SPECTGeometry`.
        """
        if n_views < 1 or n_views % 1:
            raise ValueError(f"n_views must be a whole number, at least 1, got {n_views}")
        sign = {"ccw": 1.0, "cw": -1.0}.get(direction.lower())
        if sign is None:
            raise ValueError(f'direction must be "ccw" or "cw" (seen from the feet), got {direction!r}')
        angles = start + sign * extent / n_views * np.arange(n_views)
        return cls(angles, np.asarray(radius, float), n_bins, pixel_size, **more)  # type: ignore[arg-type]

    @classmethod
    def heads(cls, *geometries: SPECTGeometry) -> SPECTGeometry:
        """Join the views of several heads, in the order given; `head` numbers them."""
        if not geometries:
            raise ValueError("SPECTGeometry.heads needs at least one geometry")
        first = geometries[0]
        for other in geometries[1:]:
            if (other.n_bins, other.pixel_size, other.axial_shift) != (
                first.n_bins,
                first.pixel_size,
                first.axial_shift,
            ):
                raise ValueError("heads of one camera must share n_bins, pixel_size and axial_shift")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(g, name) for g in geometries]) for name in ("angles", "radius", "shift")
        }
        head = np.concatenate([np.full(g.n_views, i) for i, g in enumerate(geometries)])
        return replace(first, **joined, head=head)

    @property
    def n_views(self) -> int:
        """The number of views."""
        return int(self.angles.size)

    @property
    def shape(self) -> Shape:
        """The shape of the projections, (views, bins along u, rows along z)."""
        return (self.n_views, *self.n_bins)

    def default_grid(self) -> ImageGrid:
        """Return a grid of bins x bins x rows voxels of the detector's pixel size."""
        (nu, nz), (du, dz) = self.n_bins, self.pixel_size
        origin = (-(nu - 1) / 2 * du, -(nu - 1) / 2 * du, -(nz - 1) / 2 * dz + self.axial_shift)
        return ImageGrid((nu, nu, nz), (du, du, dz), origin)

    def subset(self, k: int, n: int) -> SPECTGeometry:
        """Return the views k, k + n, k + 2n, ..."""
        check_subset(k, n, self.n_views)
        per_view = ("angles", "radius", "shift", "head")
        return replace(self, **{name: getattr(self, name)[k::n] for name in per_view})

    @cached_property
    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (views, 2) in the (x, y) plane: towards the detector, and along u."""
        a = np.deg2rad(self.angles)
        return np.stack([np.sin(a), np.cos(a)], 1), np.stack([-np.cos(a), np.sin(a)], 1)

    def bin_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return u of every bin (views, bins) and z of every row (rows,), in mm."""
        (nu, nz), (du, dz) = self.n_bins, self.pixel_size
        u = (np.arange(nu) - (nu - 1) / 2) * du
        z = (np.arange(nz) - (nz - 1) / 2) * dz + self.axial_shift
        return u[None] + self.shift[:, None], z

    def orbit_svg(self) -> str:
        """Return a small drawing of the orbit as an SVG element, seen from the feet."""
        outward, along = self.directions
        middle = self.radius[:, None] * outward + self.shift[:, None] * along
        return orbit_svg(middle, along, self.n_bins[0] * self.pixel_size[0] / 2, self.head)

    def _repr_html_(self) -> str:
        heads = [self.angles[self.head == head] for head in np.unique(self.head)]
        rows = {
            "views": self.n_views,
            "angles (degrees)": "\n".join(f"{angles[0]:.5g} to {angles[-1]:.5g}" for angles in heads),
            "radius (mm)": brief_range(self.radius),
            "shift (mm)": brief_range(self.shift) if self.shift.any() else None,
            "axial shift (mm)": self.axial_shift or None,
            "bins": self.n_bins,
            "pixel size (mm)": self.pixel_size,
            "heads": len(heads),
        }
        return html_table("SPECTGeometry", rows, self.orbit_svg())

    def __str__(self) -> str:
        low, high = self.radius.min(), self.radius.max()
        radius = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        bins, size = "x".join(map(str, self.n_bins)), " x ".join(f"{d:g}" for d in self.pixel_size)
        return f"{self.n_views} views of {bins} bins of {size} mm at radius {radius} mm"
