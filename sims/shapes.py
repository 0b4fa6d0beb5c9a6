"""Solids with exact geometry: what is inside, where a line enters and leaves, how large they are. All in mm (LPS)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

Bounds = tuple[np.ndarray, np.ndarray]


class Solid(Protocol):
    """What a phantom asks of a shape; it has to be convex, so that a line has one way in and one way out."""

    @property
    def bounds(self) -> Bounds:
        """The lowest and highest (x, y, z) of a box around the solid, in mm; infinite where the solid is."""

    def contains(self, x: Any, y: Any, z: Any) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""

    def straddles(self, x: Any, y: Any, z: Any, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; never falsely no."""

    def crossing(self, point: Any, direction: Any) -> tuple[np.ndarray, np.ndarray]:
        """Where the lines point + t direction / |direction| enter and leave, t in mm; equal where they miss."""

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Self:
        """The solid turned by `angle` degrees (from x towards y) about the z axis, then shifted by `offset` mm."""


class _Quadric(ABC):
    """An intersection of balls, discs and slabs around one centre, in axes scaled by the half widths and turned.

    Every part is a norm of some of the scaled axes, |s|_part <= 1: all three make a ball, (x, y) a round cylinder, one
    alone a slab. A norm changes by no more than the norm of the step, which tells the voxels that an edge may cross.
    """

    centre: tuple[float, float, float]
    angle: float
    _parts: ClassVar[tuple[tuple[int, ...], ...]]

    @property
    @abstractmethod
    def half_widths(self) -> tuple[float, float, float]:
        """Half of the extent along the solid's own axes in mm."""

    @property
    @abstractmethod
    def volume(self) -> float:
        """The volume in mL."""

    @property
    def bounds(self) -> Bounds:
        """The lowest and highest (x, y, z) of a box around the solid, in mm; infinite where the solid is."""
        a, b, c = self.half_widths
        cosine, sine = _turn(self.angle)
        # wide enough for the box, whose corners reach furthest
        reach = np.array([a * abs(cosine) + b * abs(sine), a * abs(sine) + b * abs(cosine), c])
        return np.array(self.centre) - reach, np.array(self.centre) + reach

    def contains(self, x: Any, y: Any, z: Any) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return _every([norm <= 1 for norm in self._norms(*self._centred(x, y, z))])

    def straddles(self, x: Any, y: Any, z: Any, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; never falsely no."""
        norms = self._norms(*self._centred(x, y, z))
        corners = [self._norms(half[0], side * half[1], half[2]) for side in (-1, 1)]
        reach = [max(corner) for corner in zip(*corners)]
        touched = _every([norm <= 1 + r for norm, r in zip(norms, reach)])
        return touched & ~_every([norm < 1 - r for norm, r in zip(norms, reach)])

    def crossing(self, point: Any, direction: Any) -> tuple[np.ndarray, np.ndarray]:
        """Where the lines point + t direction / |direction| enter and leave, t in mm; equal (0) where they miss.

        point, direction : (..., 3) in mm, broadcast against each other.  Returns two arrays (...).
        A line along an infinite cylinder enters at -inf and leaves at +inf.
        Raises ValueError for a direction of length zero and for trailing axes that are not 3.
        """
        start, along = _components(point, "point"), _unit(direction)
        p, d = self._scaled(*(s - c for s, c in zip(start, self.centre))), self._scaled(*along)
        intervals = [_inside_ball([p[i] for i in part], [d[i] for i in part]) for part in self._parts]
        enter, leave = intervals[0]
        for first, last in intervals[1:]:
            enter, leave = np.maximum(enter, first), np.minimum(leave, last)
        hit = enter < leave
        return np.where(hit, enter, 0.0), np.where(hit, leave, 0.0)

    def chord(self, point: Any, direction: Any) -> np.ndarray:
        """Return the length in mm of lines through the solid, 0 where they miss.

        point, direction : (..., 3), any point of a line and its direction, broadcast against each other.
        """
        enter, leave = self.crossing(point, direction)
        return leave - enter

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Self:
        """Return the solid turned by `angle` degrees (from x towards y) about the z axis, then shifted by `offset`."""
        (cosine, sine), (x, y, z) = _turn(angle), self.centre
        turned = (cosine * x - sine * y, sine * x + cosine * y, z)
        centre = tuple(t + o for t, o in zip(turned, offset))
        return replace(self, centre=centre, angle=self.angle + angle)  # type: ignore[type-var]

    def _centred(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        return x - self.centre[0], y - self.centre[1], z - self.centre[2]

    def _scaled(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """Return a vector along the solid's own axes, in half widths."""
        (cosine, sine), (a, b, c) = _turn(self.angle), self.half_widths
        return (cosine * x + sine * y) / a, (cosine * y - sine * x) / b, z / c

    def _norms(self, x: Any, y: Any, z: Any) -> list[Any]:
        scaled = self._scaled(x, y, z)
        return [np.sqrt(sum(scaled[i] ** 2 for i in part)) for part in self._parts]


@dataclass(frozen=True)
class Ellipsoid(_Quadric):
    """An ellipsoid, (x/a)^2 + (y/b)^2 + (z/c)^2 <= 1 around its centre.

    centre : (x, y, z) in mm.  radii : (a, b, c) semi-axes in mm, or one number for a sphere.
    angle : degrees by which the axes a and b are turned from x towards y.
    Raises ValueError for radii that are not positive and finite.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float] | float
    angle: float = 0.0
    _parts: ClassVar = ((0, 1, 2),)

    def __post_init__(self) -> None:
        _keep(self, centre=_numbers(self.centre, 3, "Ellipsoid centre (mm)"))
        _keep(self, radii=_sizes(self.radii, 3, "Ellipsoid radii (mm)"))

    @property
    def half_widths(self) -> tuple[float, float, float]:
        """The semi-axes (a, b, c) in mm."""
        return self.radii  # type: ignore[return-value]

    @property
    def volume(self) -> float:
        """The volume in mL, 4/3 pi a b c."""
        return 4 / 3 * math.pi * math.prod(self.half_widths) / 1000


@dataclass(frozen=True)
class Cylinder(_Quadric):
    """An elliptic cylinder along z, (x/a)^2 + (y/b)^2 <= 1 and |z| <= height / 2 around its centre.

    centre : (x, y, z) in mm.  radii : (a, b) semi-axes in mm, or one number for a round one.
    height : mm along z; infinite by default, which is what two-dimensional phantoms are made of.
    angle : degrees by which the axes a and b are turned from x towards y.
    Raises ValueError for sizes that are not positive.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float] | float
    height: float = math.inf
    angle: float = 0.0
    _parts: ClassVar = ((0, 1), (2,))

    def __post_init__(self) -> None:
        _keep(self, centre=_numbers(self.centre, 3, "Cylinder centre (mm)"))
        _keep(self, radii=_sizes(self.radii, 2, "Cylinder radii (mm)"))
        if not self.height > 0:
            raise ValueError(f"Cylinder height must be positive (mm, or infinite), got {self.height}")

    @property
    def half_widths(self) -> tuple[float, float, float]:
        """The semi-axes and half of the height in mm."""
        return (*self.radii, self.height / 2)  # type: ignore[misc]

    @property
    def volume(self) -> float:
        """The volume in mL, pi a b height."""
        return math.pi * 2 * math.prod(self.half_widths) / 1000


@dataclass(frozen=True)
class Box(_Quadric):
    """A rectangular box around its centre.

    centre : (x, y, z) in mm.  size : full edges in mm, or one number for a cube; the last may be infinite.
    angle : degrees by which the box is turned from x towards y.
    Raises ValueError for sizes that are not positive.
    """

    centre: tuple[float, float, float]
    size: tuple[float, float, float] | float
    angle: float = 0.0
    _parts: ClassVar = ((0,), (1,), (2,))

    def __post_init__(self) -> None:
        _keep(self, centre=_numbers(self.centre, 3, "Box centre (mm)"))
        size = np.ravel(np.asarray(self.size, float))
        in_plane = _sizes(size[:2], 2, "Box size (mm)")
        _keep(self, size=(*in_plane, math.inf) if size[-1] == math.inf else _sizes(size, 3, "Box size (mm)"))

    @property
    def half_widths(self) -> tuple[float, float, float]:
        """Half of the edges in mm."""
        return tuple(edge / 2 for edge in self.size)  # type: ignore[union-attr, return-value]

    @property
    def volume(self) -> float:
        """The volume in mL."""
        return 8 * math.prod(self.half_widths) / 1000


def sub_positions(half: tuple[float, float, float], n: int) -> np.ndarray:
    """Return (n^3, 3) offsets in mm inside a box with these half edges, or (n^2, 3) where it has no depth.

    One point in each of n^3 equal parts, on a lattice turned such that few share a coordinate: a face along an axis is
    resolved to 1 / n^2 of the box (1 / n^3 along z) instead of 1 / n. Reflection through the centre changes nothing,
    and neither do quarter turns where there is no depth.
    """
    i, j, k = np.indices((n, n, n if half[2] > 0 else 1))
    x, y = (i + (j + 0.5) / n) / n, (j + (n - i - 0.5) / n) / n
    z = (k + (i * n + j + 0.5) / n**2) / k.shape[2]
    return np.stack([(2 * p.ravel() - 1) * h for p, h in zip((x, y, z), half)], 1)


def _inside_ball(p: list[Any], d: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the two t at which |p + t d| = 1: roots of d.d t^2 + 2 p.d t + p.p - 1, or +inf and -inf."""
    a = sum(np.square(di) for di in d)
    b = sum(pi * di for pi, di in zip(p, d))
    c = sum(np.square(pi) for pi in p) - 1
    discriminant = b**2 - a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        middle, half = -b / a, np.sqrt(discriminant) / a
        enter = np.where(discriminant >= 0, middle - half, np.inf)
        leave = np.where(discriminant >= 0, middle + half, -np.inf)
    # lines that run along the part are inside all the way or never
    never = np.where(c <= 0, -np.inf, np.inf)
    return np.where(a > 0, enter, never), np.where(a > 0, leave, -never)


def _every(conditions: list[Any]) -> np.ndarray:
    result = conditions[0]
    for condition in conditions[1:]:
        result = result & condition
    return np.asarray(result)


def _turn(angle: float) -> tuple[float, float]:
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


def _components(vectors: Any, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    array = np.asarray(vectors, float)
    if array.ndim == 0 or array.shape[-1] != 3:
        raise ValueError(f"{what} must be (..., 3) in mm, got {array.shape}; add the z component?")
    return array[..., 0], array[..., 1], array[..., 2]


def _unit(direction: Any) -> tuple[Any, Any, Any]:
    x, y, z = _components(direction, "direction")
    length = np.sqrt(x**2 + y**2 + z**2)
    if not np.all(length > 0):
        raise ValueError("direction must not have length zero")
    return x / length, y / length, z / length


def _keep(solid: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(solid, name, value)


def _numbers(values: Any, n: int, what: str) -> tuple[float, ...]:
    array = np.ravel(np.asarray(values, float))
    if array.size != n or not np.all(np.isfinite(array)):
        raise ValueError(f"{what} must be {n} finite numbers, got {values!r}")
    return tuple(array.tolist())


def _sizes(values: Any, n: int, what: str) -> tuple[float, ...]:
    array = np.ravel(np.asarray(values, float))
    numbers = _numbers(np.full(n, array[0]) if array.size == 1 else array, n, what)
    if min(numbers) <= 0:
        raise ValueError(f"{what} must be positive, got {values!r}")
    return numbers
