"""Where things are: the image grid and the positions of a SPECT camera, on the host, in mm and degrees.

Axes are those of a patient image (LPS): x to the patient's left, y to the back, z to the head. Gantry angles follow
DICOM: 0 degrees is the detector at the back (+y), growing counter-clockwise seen from the feet, so the detector centre
is at radius * (sin a, cos a). The bin axis u runs to the right of a viewer who stands behind the detector, looks at
the patient and sees the head up: u = (-cos a, sin a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from .operator import Shape


class FrozenArrays:
    """What frozen dataclasses with arrays share: equality by value, and arrays that stay read-only after pickling."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class ImageGrid:
    """A regular grid of voxels in patient space.

    shape : (nx, ny, nz) voxels; use nz = 1 for a two-dimensional image.
    voxel_size : (dx, dy, dz) in mm, or one number for cubes.
    origin : centre of voxel (0, 0, 0) in mm (LPS); by default the grid is centred on (0, 0, 0), the rotation axis.
    Raises ValueError for sizes that are not positive and finite.
    """

    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    origin: tuple[float, float, float] = None  # type: ignore[assignment]  # None only as an argument

    def __post_init__(self) -> None:
        shape = _integers(self.shape, 3, "ImageGrid shape")
        voxel = _positive(self.voxel_size, 3, "ImageGrid voxel_size (mm)")
        centred = tuple(-(n - 1) / 2 * d for n, d in zip(shape, voxel))
        origin = centred if self.origin is None else tuple(float(v) for v in np.ravel(self.origin))
        if len(origin) != 3 or not np.all(np.isfinite(origin)):
            raise ValueError(f"ImageGrid origin must be 3 finite numbers in mm, got {self.origin}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "voxel_size", voxel)
        object.__setattr__(self, "origin", origin)

    @property
    def affine(self) -> np.ndarray:
        """The 4 x 4 matrix from voxel indices to LPS mm."""
        matrix = np.diag([*self.voxel_size, 1.0])
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def voxel_volume(self) -> float:
        """The volume of a voxel in mL."""
        return float(np.prod(self.voxel_size)) / 1000

    @property
    def centre(self) -> np.ndarray:
        """The middle of the grid in mm (LPS)."""
        return np.asarray(self.origin) + (np.asarray(self.shape) - 1) / 2 * np.asarray(self.voxel_size)

    def coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Voxel centres in mm as three arrays that broadcast to `shape`."""
        x, y, z = (o + d * np.arange(n) for o, d, n in zip(self.origin, self.voxel_size, self.shape))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} voxels of {' x '.join(f'{d:g}' for d in self.voxel_size)} mm"


@dataclass(frozen=True, eq=False)
class SPECTGeometry(FrozenArrays):
    """The positions of parallel-hole detectors: one angle, radius and shift per view.

    angles : (views,) gantry angles in degrees (DICOM sense, see the module's first lines); any list.
    radius : one number or (views,), mm from the rotation axis to the collimator face: body contours are fine.
    n_bins : (bins along u, rows along z).
    pixel_size : (du, dz) in mm, or one number; it need not equal the voxel size.
    shift : (views,) or one number, mm by which the detector's centre is displaced along u (centre-of-rotation offset).
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
        angles = _finite(self.angles, None, "SPECTGeometry angles (degrees)")
        n = angles.size
        if n == 0:
            raise ValueError("SPECTGeometry needs at least one view")
        values: dict[str, Any] = {
            "angles": angles,
            "radius": _finite(self.radius, n, "SPECTGeometry radius (mm)"),
            "shift": _finite(self.shift, n, "SPECTGeometry shift (mm)"),
            "head": _finite(self.head, n, "SPECTGeometry head").round().astype(int),
            "n_bins": _integers(self.n_bins, 2, "SPECTGeometry n_bins"),
            "pixel_size": _positive(self.pixel_size, 2, "SPECTGeometry pixel_size (mm)"),
            "axial_shift": float(_finite(self.axial_shift, 1, "SPECTGeometry axial_shift (mm)")[0]),
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
        **more: Any,
    ) -> Self:
        """Return equally spaced views over `extent` degrees from `start`, in `direction` "ccw" or "cw" (from the feet).

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

    def __str__(self) -> str:
        low, high = self.radius.min(), self.radius.max()
        radius = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        bins, size = "x".join(map(str, self.n_bins)), " x ".join(f"{d:g}" for d in self.pixel_size)
        return f"{self.n_views} views of {bins} bins of {size} mm at radius {radius} mm"


def check_subset(k: int, n: int, n_views: int) -> None:
    """Raise ValueError unless subset k of n exists and holds at least one of `n_views` views."""
    if not (isinstance(k, (int, np.integer)) and isinstance(n, (int, np.integer))):
        raise TypeError(f"subset takes two integers, got {k!r} and {n!r}")
    if not (0 <= k < n):
        raise ValueError(f"subset {k} of {n} does not exist; k runs from 0 to n - 1")
    if n > n_views:
        raise ValueError(f"{n} subsets of {n_views} views would leave subsets empty; use at most {n_views}")


def _finite(values: Any, n: int | None, what: str) -> np.ndarray:
    array = np.atleast_1d(np.array(values, float))
    if array.ndim != 1 or not np.all(np.isfinite(array)):
        raise ValueError(f"{what} must be one finite number or a list of them, got {values!r}")
    if n is None or array.size == n:
        return array
    if array.size != 1:
        raise ValueError(f"{what} has {array.size} entries for {n} views")
    return np.full(n, array[0])


def _positive(values: Any, n: int, what: str) -> Any:
    array = np.ravel(np.asarray(values, float))
    if array.size == 1:
        array = np.full(n, array[0])
    if array.size != n or not np.all(np.isfinite(array)) or np.any(array <= 0):
        raise ValueError(f"{what} must be {n} positive numbers, got {values!r}")
    return tuple(array.tolist())


def _integers(values: Any, n: int, what: str) -> Any:
    array = np.ravel(np.asarray(values, float))
    if array.size != n or not np.all(np.isfinite(array)) or np.any(array % 1) or np.any(array < 1):
        raise ValueError(f"{what} must be {n} positive integers, got {values!r}")
    return tuple(int(v) for v in array)
