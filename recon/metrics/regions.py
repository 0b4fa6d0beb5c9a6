"""Regions of interest: made from masks, parts of voxels, labels and shapes, and what an image holds there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, PlanCache, array_namespace, device, require_array, to_numpy

_SAMPLES_AT_ONCE = 2**21


@dataclass(frozen=True, eq=False, init=False)
class RegionOfInterest:
    """The voxels that lie inside a region of interest, wholly or in part.

    Args:
        weights : (x, y, z) the part of every voxel that is inside, 0 to 1, or booleans; any array library. Only the
            voxels that are inside are kept.

    Images are (..., x, y, z), of NumPy, CuPy or torch; leading axes are a batch and give one number each. Numbers are
    float64, and torch tensors keep their gradient.

    Raises ValueError for weights outside of 0 to 1, NaN, a region without voxels, and images of another shape.
    """

    name: str
    shape: tuple[int, ...]
    indices: np.ndarray
    parts: np.ndarray
    _plans: PlanCache = field(repr=False)

    def __init__(self, name: str, weights: Array) -> None:
        require_array(weights, f"region {name!r}")
        host = to_numpy(weights)
        if host.dtype.kind not in "fb" and not np.isin(host, (0, 1)).all():
            raise ValueError(f"region {name!r}: weights are {host.dtype}; of a label map, `regions_of` makes regions")
        flat = host.ravel()
        indices = np.flatnonzero(flat)
        parts = flat[indices].astype(float)
        if not parts.size:
            raise ValueError(f"region {name!r} holds no voxel: is it empty, or outside of the grid?")
        if not (parts.min() >= 0 and parts.max() <= 1):
            low, high = parts.min(), parts.max()
            raise ValueError(f"region {name!r}: weights run from {low:g} to {high:g}; parts of voxels are 0 to 1")
        for attribute, value in (("name", str(name)), ("shape", host.shape), ("_plans", PlanCache())):
            object.__setattr__(self, attribute, value)
        for attribute, array in (("indices", indices), ("parts", parts)):
            array.flags.writeable = False
            object.__setattr__(self, attribute, array)

    @property
    def weights(self) -> np.ndarray:
        """The part of every voxel that is inside, float64 (x, y, z)."""
        dense = np.zeros(math.prod(self.shape))
        dense[self.indices] = self.parts
        return dense.reshape(self.shape)

    @property
    def n_voxels(self) -> float:
        """The sum of the weights: how many whole voxels fit in."""
        return float(self.parts.sum())

    def volume(self, grid: ImageGrid) -> float:
        """Return the volume in mL."""
        if grid.shape != self.shape:
            raise ValueError(f"{self} was made for images of {self.shape}, not for a grid of {grid.shape}")
        return self.n_voxels * grid.voxel_volume

    def values(self, image: Array) -> Array:
        """Return the values of all voxels of which a part is inside, (..., voxels), in the order of the memory."""
        xp = require_array(image, str(self))
        n = len(self.shape)
        if tuple(image.shape[-n:]) != self.shape:
            raise ValueError(f"{self} was made for images of {self.shape}, got {tuple(image.shape)}")
        flat = xp.reshape(image, (*image.shape[:-n], math.prod(self.shape)))
        return xp.take(flat, self._plan(image)[0], axis=-1)

    def parts_like(self, x: Array) -> Array:
        """Return the weights of the same voxels, (voxels,) float64, in the library and on the device of x."""
        return self._plan(x)[1]

    def mean(self, image: Array) -> Array:
        """Return sum(w x) / sum(w)."""
        values = double(self.values(image))
        return array_namespace(values).sum(self.parts_like(image) * values, axis=-1) / self.n_voxels

    def sd(self, image: Array) -> Array:
        """Return the standard deviation of the voxels, sqrt( sum(w (x - mean)^2) / (sum(w) - sum(w^2) / sum(w)) ).

        With whole voxels this is the usual one with n - 1.

        Raises ValueError for a region of one voxel.
        """
        freedom = self.n_voxels - float((self.parts**2).sum()) / self.n_voxels
        if self.parts.size < 2:
            raise ValueError(f"{self} holds one voxel, and one value has no standard deviation")
        values = double(self.values(image))
        xp = array_namespace(values)
        squares = (values - self.mean(image)[..., None]) ** 2
        return root(xp.sum(self.parts_like(image) * squares, axis=-1) / freedom)

    def max(self, image: Array) -> Array:
        """Return the largest value of the voxels that are inside by half or more (by any part, if there are none)."""
        values = double(self.values(image))
        xp = array_namespace(values)
        return xp.max(xp.take(values, self._plan(image)[2], axis=-1), axis=-1)

    @cached_property
    def _chosen(self) -> np.ndarray:
        most = np.flatnonzero(self.parts >= 0.5)
        return most if most.size else np.arange(self.parts.size)

    def _plan(self, x: Array) -> tuple[Array, Array, Array]:
        """The indices, the weights and the places of the voxels inside by half, where the image is."""

        def make() -> tuple[Array, Array, Array]:
            xp = array_namespace(x)
            parts = xp.asarray(self.parts.copy(), device=device(x))
            indices, most = (xp.asarray(a.copy(), device=device(x)) for a in (self.indices, self._chosen))
            return indices, parts, most

        plan: tuple[Array, Array, Array] = self._plans.get(x, make)
        return plan

    def __repr__(self) -> str:
        return f"<RegionOfInterest {self.name!r}, {self.n_voxels:g} voxels of {'x'.join(map(str, self.shape))}>"


class Shape(Protocol):
    """What `region_of` asks of a shape: the solids of `emrecon.sims` have it, and anything of your own may.

    `bounds` is the lowest and the highest (x, y, z) of a box around the shape in mm, as a property or a method.
    A method `straddles(x, y, z, half)`, whether the surface may cross boxes of these half edges, saves time: without it
    every voxel within the bounds is sampled.
    """

    @property
    def bounds(self) -> Any:
        """The lowest and highest (x, y, z), in mm."""

    def contains(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Any:
        """Whether points are inside; x, y, z in mm broadcast against each other."""


@dataclass(frozen=True)
class Sphere:
    """A sphere, as a shape for `region_of`.

    Args:
        centre : (x, y, z) in mm.
        diameter : mm.

    Raises ValueError for a diameter that is not positive.
    """

    centre: tuple[float, float, float]
    diameter: float

    def __post_init__(self) -> None:
        if len(self.centre) != 3 or not np.all(np.isfinite(self.centre)):
            raise ValueError(f"Sphere centre must be 3 finite numbers in mm, got {self.centre}")
        if not 0 < self.diameter < math.inf:
            raise ValueError(f"Sphere diameter must be positive (mm), got {self.diameter}")

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and highest (x, y, z) in mm."""
        return np.array(self.centre) - self.diameter / 2, np.array(self.centre) + self.diameter / 2

    def contains(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return self._distance(x, y, z) <= self.diameter / 2

    def straddles(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges."""
        near: np.ndarray = np.abs(self._distance(x, y, z) - self.diameter / 2) <= math.hypot(*half)
        return near

    def _distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        a, b, c = self.centre
        distance: np.ndarray = np.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2)
        return distance


def region_of(name: str, shape: Shape, grid: ImageGrid, oversample: int = 8) -> RegionOfInterest:
    """Return the region that a shape covers: voxels that its surface crosses count with the part that is inside.

    Args:
        shape : a `Sphere`, a solid of `emrecon.sims` or anything like it, in mm.
        oversample : a part is the fraction of oversample^3 points that are inside. On a grid of one slice the region is
            that of the plane through its middle, as in phantoms, with oversample^2 points.

    Of a shape that reaches out of the grid, the region is what lies inside.

    Raises ValueError where the shape covers no voxel.
    """
    if oversample < 1:
        raise ValueError(f"oversample must be at least 1, got {oversample}")
    low, high = shape.bounds() if callable(shape.bounds) else shape.bounds
    window = tuple(_window(grid, axis, float(low[axis]), float(high[axis])) for axis in range(3))
    half = (grid.voxel_size[0] / 2, grid.voxel_size[1] / 2, grid.voxel_size[2] / 2 if grid.shape[2] > 1 else 0.0)
    axes = [np.ravel(c)[part] for c, part in zip(grid.coordinates(), window)]
    weights = np.zeros(grid.shape)
    weights[window] = _covered(shape, axes, half, oversample)
    return RegionOfInterest(name, weights)


def regions_of(labels: Array, names: Mapping[int, str] | Sequence[str] | None = None) -> tuple[RegionOfInterest, ...]:
    """Return a region for every label that occurs in a label map, in the order of the labels; 0 is no region.

    Args:
        labels : (x, y, z) whole numbers.
        names : names[label], as `Phantom.labels` returns them, or a mapping that may leave labels out, which then make
            no region; by default the numbers are the names.

    Raises ValueError for labels that are not whole numbers or that a sequence of names does not reach, and for maps
    without any region.
    """
    require_array(labels, "regions_of")
    host = to_numpy(labels)
    if host.dtype.kind not in "iub" and not np.array_equal(host, np.floor(host)):
        raise ValueError("regions_of: labels must be whole numbers; was the label map interpolated?")
    found = [int(label) for label in np.unique(host) if label != 0]
    if isinstance(names, Mapping):
        found = [label for label in found if label in names]
    elif names is not None and found and not 0 <= found[0] <= found[-1] < len(names):
        raise ValueError(f"regions_of: labels run from {found[0]} to {found[-1]}, but there are {len(names)} names")
    if not found:
        raise ValueError("regions_of: no voxel has a label that makes a region")
    return tuple(RegionOfInterest(str(label) if names is None else names[label], host == label) for label in found)


def region_means(image: Array, regions: Sequence[RegionOfInterest]) -> Array:
    """Return the mean of every region, (..., regions)."""
    if not regions:
        raise ValueError("region_means got no regions")
    xp = require_array(image, "region_means")
    return xp.stack([region.mean(image) for region in regions], axis=-1)


def double(x: Array) -> Array:
    """Return `x` as float64, with its gradient."""
    xp = array_namespace(x)
    return xp.astype(x, xp.float64, copy=False)


def root(x: Array) -> Array:
    """Return the square root, whose gradient is 0 instead of infinite where x is 0."""
    xp = array_namespace(x)
    return xp.where(x > 0, xp.sqrt(xp.where(x == 0, xp.ones_like(x), x)), x)


def as_region(given: RegionOfInterest | Array, name: str) -> RegionOfInterest:
    """Return a `RegionOfInterest` as it is, and a mask or weights as one."""
    return given if isinstance(given, RegionOfInterest) else RegionOfInterest(name, given)


# ---- parts of voxels -------------------------------------------------------------------------------------------------


def _window(grid: ImageGrid, axis: int, low: float, high: float) -> slice:
    """Return the voxels along an axis that touch the interval from low to high; all of an axis of one slice."""
    origin, size, n = grid.origin[axis], grid.voxel_size[axis], grid.shape[axis]
    if axis == 2 and n == 1:
        return slice(0, 1)
    first, last = np.clip([(low - origin) / size + 0.5, (high - origin) / size + 0.5], 0, n)
    return slice(math.floor(first), math.ceil(last))


def _covered(shape: Shape, axes: list[np.ndarray], half: tuple[float, float, float], oversample: int) -> np.ndarray:
    """Return the part of every voxel of a window that is inside of a shape."""
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = np.array(np.broadcast_to(shape.contains(x, y, z), x.shape), float)
    if oversample == 1:
        return inside
    straddles = getattr(shape, "straddles", None)
    edge = np.ones(x.shape, bool) if straddles is None else np.broadcast_to(straddles(x, y, z, half), x.shape)
    points, offsets = np.stack([x[edge], y[edge], z[edge]], 1), _offsets(half, oversample)
    n = max(1, _SAMPLES_AT_ONCE // len(offsets))
    parts = [
        np.mean(shape.contains(*np.moveaxis(points[i : i + n, None] + offsets, -1, 0)), axis=1)
        for i in range(0, len(points), n)
    ]
    inside[edge] = np.concatenate(parts) if parts else 0.0
    return inside


def _offsets(half: tuple[float, float, float], n: int) -> np.ndarray:
    """Return (n^3, 3) offsets in mm, one in each of n^3 equal parts of a box; (n^2, 3) where it has no depth.

    Each is displaced along an axis by its place along the next one, so that no two lie in one plane along an axis
    unless they must: faces are resolved to 1 / n^2 of the box. Reflection through the centre changes nothing.
    """
    place = np.indices((n, n, n if half[2] else 1)).reshape(3, -1)
    ahead = (1, 2, 0) if half[2] else (1, 0, 0)
    fine = (place + (place[list(ahead)] + 0.5) / n) / n
    return ((2 * fine - 1) * np.array(half)[:, None]).T
