"""Solids with exact geometry: what is inside, where a line enters and leaves, how large they are. All in mm (LPS)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

Bounds = tuple[np.ndarray, np.ndarray]

Coordinate = np.ndarray | float
"""One coordinate of one point or of many, in mm."""


class Solid(Protocol):
    """What a phantom asks of a shape; it has to be convex, so that a line has one way in and one way out."""

    @property
    def bounds(self) -> Bounds:
        """The lowest and highest (x, y, z) of a box around the solid, in mm; infinite where the solid is."""

    def contains(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""

    def straddles(self, x: Coordinate, y: Coordinate, z: Coordinate, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; when in doubt, yes."""

    def crossing(self, point: ArrayLike, direction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where the lines point + t direction / ``|direction|`` enter and leave, t in mm; equal where they miss."""

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Self:
        """The solid turned by `angle` degrees (from x towards y) about the z axis, then shifted by `offset` mm."""


class _Quadric(ABC):
    """An intersection of balls, discs and slabs around one centre, in axes scaled by the half widths and turned.

    Every part is a norm of some of the scaled axes, ``|s|_part`` <= 1: all three make a ball, (x, y) a round cylinder,
    one alone a slab. A norm changes by no more than the norm of the step, which tells the voxels that an edge may
    cross.
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

    def contains(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return _every([norm <= 1 for norm in self._norms(*self._centred(x, y, z))])

    def straddles(self, x: Coordinate, y: Coordinate, z: Coordinate, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; when in doubt, yes."""
        norms = self._norms(*self._centred(x, y, z))
        corners = [self._norms(half[0], side * half[1], half[2]) for side in (-1, 1)]
        reach = [max(corner) for corner in zip(*corners)]
        touched = _every([norm <= 1 + r for norm, r in zip(norms, reach)])
        return touched & ~_every([norm < 1 - r for norm, r in zip(norms, reach)])

    def crossing(self, point: ArrayLike, direction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where the lines point + t direction / ``|direction|`` enter and leave, t in mm; equal (0) where they miss.

        Args:
            point, direction : (..., 3) in mm, broadcast against each other.

        Returns two arrays (...).
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

    def chord(self, point: ArrayLike, direction: ArrayLike) -> np.ndarray:
        """Return the length in mm of lines through the solid, 0 where they miss.

        Args:
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

    def _centred(self, x: Coordinate, y: Coordinate, z: Coordinate) -> tuple[Coordinate, Coordinate, Coordinate]:
        return x - self.centre[0], y - self.centre[1], z - self.centre[2]

    def _scaled(self, x: Coordinate, y: Coordinate, z: Coordinate) -> tuple[Coordinate, Coordinate, Coordinate]:
        """Return a vector along the solid's own axes, in half widths."""
        (cosine, sine), (a, b, c) = _turn(self.angle), self.half_widths
        return (cosine * x + sine * y) / a, (cosine * y - sine * x) / b, z / c

    def _norms(self, x: Coordinate, y: Coordinate, z: Coordinate) -> list[np.ndarray]:
        scaled = self._scaled(x, y, z)
        return [np.sqrt(sum(scaled[i] ** 2 for i in part)) for part in self._parts]


@dataclass(frozen=True)
class Ellipsoid(_Quadric):
    """An ellipsoid, (x/a)^2 + (y/b)^2 + (z/c)^2 <= 1 around its centre.

    Args:
        centre : (x, y, z) in mm.
        radii : (a, b, c) semi-axes in mm, or one number for a sphere.
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
    """An elliptic cylinder along z, (x/a)^2 + (y/b)^2 <= 1 and ``|z|`` <= height / 2 around its centre.

    Args:
        centre : (x, y, z) in mm.
        radii : (a, b) semi-axes in mm, or one number for a round one.
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

    Args:
        centre : (x, y, z) in mm.
        size : full edges in mm, or one number for a cube; the last may be infinite.
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


@dataclass(frozen=True)
class HalfSpace:
    """Everything behind a plane, (p - point) . normal <= 0; to be intersected with other solids.

    Args:
        point : (x, y, z) of the plane in mm.
        normal : (x, y, z), out of the half space, any length.

    Raises ValueError for a normal of length zero.
    """

    point: tuple[float, float, float]
    normal: tuple[float, float, float]

    def __post_init__(self) -> None:
        _keep(self, point=_numbers(self.point, 3, "HalfSpace point (mm)"))
        normal = np.array(_numbers(self.normal, 3, "HalfSpace normal"))
        if not np.linalg.norm(normal) > 0:
            raise ValueError("HalfSpace normal must not have length zero")
        _keep(self, normal=tuple((normal / np.linalg.norm(normal)).tolist()))

    @property
    def bounds(self) -> Bounds:
        """Infinite."""
        return np.full(3, -np.inf), np.full(3, np.inf)

    def contains(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return np.asarray(self._height(x, y, z) <= 0)

    def straddles(self, x: Coordinate, y: Coordinate, z: Coordinate, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the plane may cross the boxes centred on (x, y, z) with these half edges; when in doubt, yes."""
        reach = sum(abs(n) * h for n, h in zip(self.normal, half))
        return np.asarray(np.abs(self._height(x, y, z)) <= reach)

    def crossing(self, point: ArrayLike, direction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where the lines point + t direction / ``|direction|`` enter and leave, t in mm, one of them infinite."""
        height = self._height(*_components(point, "point"))
        rate = sum(n * d for n, d in zip(self.normal, _unit(direction)))
        height, rate = np.broadcast_arrays(height, rate)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = -height / rate
        along = (rate == 0) & (height <= 0)
        enter = np.where(along | (rate > 0), -np.inf, np.where(rate < 0, at, 0.0))
        return enter, np.where(along | (rate < 0), np.inf, np.where(rate > 0, at, 0.0))

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> HalfSpace:
        """Return the half space turned by `angle` degrees (from x towards y) about z, then shifted by `offset` mm."""
        turn = _about_z(angle)
        return HalfSpace(tuple(turn @ self.point + np.asarray(offset)), tuple(turn @ self.normal))

    def _height(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        return np.asarray(sum(n * (c - p) for n, c, p in zip(self.normal, (x, y, z), self.point)))


@dataclass(frozen=True)
class Intersection:
    """What is inside all of some solids: as convex as they are.

    Args:
        parts : at least one solid.
    """

    parts: tuple[Solid, ...]

    def __post_init__(self) -> None:
        _keep(self, parts=tuple(self.parts))
        if not self.parts:
            raise ValueError("Intersection needs at least one solid")

    @property
    def bounds(self) -> Bounds:
        """The lowest and highest (x, y, z) of a box around the solid, in mm; infinite where all parts are."""
        lows, highs = zip(*(part.bounds for part in self.parts))
        return np.max(lows, axis=0), np.min(highs, axis=0)

    def contains(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return np.logical_and.reduce([part.contains(x, y, z) for part in self.parts])

    def straddles(self, x: Coordinate, y: Coordinate, z: Coordinate, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; when in doubt, yes."""
        edges = [part.straddles(x, y, z, half) for part in self.parts]
        touched = [edge | part.contains(x, y, z) for edge, part in zip(edges, self.parts)]
        result: np.ndarray = np.logical_and.reduce(touched) & np.logical_or.reduce(edges)
        return result

    def crossing(self, point: ArrayLike, direction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where the lines point + t direction / ``|direction|`` enter and leave, t in mm; equal (0) where they miss."""
        crossings = [part.crossing(point, direction) for part in self.parts]
        hit = np.logical_and.reduce([leave > enter for enter, leave in crossings])
        enter, leave = np.max([c[0] for c in crossings], axis=0), np.min([c[1] for c in crossings], axis=0)
        hit &= leave > enter
        return np.where(hit, enter, 0.0), np.where(hit, leave, 0.0)

    def chord(self, point: ArrayLike, direction: ArrayLike) -> np.ndarray:
        """Return the length in mm of lines through the solid, 0 where they miss."""
        enter, leave = self.crossing(point, direction)
        return leave - enter

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Intersection:
        """Return all parts turned by `angle` degrees (from x towards y) about z, then shifted by `offset` mm."""
        return Intersection(tuple(part.moved(offset, angle) for part in self.parts))


@dataclass(frozen=True)
class Oriented:
    """A solid in any orientation: described in axes of its own, then rotated and shifted, p = R q + offset.

    Args:
        solid : around the origin of its own axes.
        rotation : R, 3 x 3, whose columns are the solid's axes in the world;

    `rotation_to(direction)` makes one.  offset : (x, y, z) mm of the solid's origin.

    Raises ValueError for a matrix that is not a rotation.
    """

    solid: Solid
    rotation: tuple[tuple[float, float, float], ...]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        R = np.asarray(self.rotation, float)
        if R.shape != (3, 3) or not np.allclose(R @ R.T, np.eye(3), atol=1e-9) or np.linalg.det(R) < 0:
            raise ValueError(f"Oriented rotation must be a 3 x 3 rotation matrix, got {self.rotation!r}")
        _keep(self, rotation=tuple(map(tuple, R.tolist())), offset=_numbers(self.offset, 3, "Oriented offset (mm)"))

    @property
    def volume(self) -> float:
        """The volume in mL, where the solid knows its own."""
        return float(self.solid.volume)  # type: ignore[attr-defined]

    @property
    def bounds(self) -> Bounds:
        """The lowest and highest (x, y, z) of a box around the solid, in mm; infinite where the solid is."""
        low, high = self.solid.bounds
        R = np.array(self.rotation)
        # 0 * inf: an infinite edge does not count along an axis that is perpendicular to it
        ends = np.stack([np.where(R == 0, 0.0, R * np.where(R == 0, 0.0, end)) for end in (low, high)])
        return ends.min(0).sum(1) + self.offset, ends.max(0).sum(1) + self.offset

    def contains(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return self.solid.contains(*self._own(x, y, z))

    def straddles(self, x: Coordinate, y: Coordinate, z: Coordinate, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; when in doubt, yes."""
        a, b, c = np.abs(np.array(self.rotation)).T @ np.asarray(half)
        return self.solid.straddles(*self._own(x, y, z), (float(a), float(b), float(c)))

    def crossing(self, point: ArrayLike, direction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Where the lines point + t direction / ``|direction|`` enter and leave, t in mm; equal (0) where they miss."""
        R = np.array(self.rotation)
        return self.solid.crossing((np.asarray(point, float) - self.offset) @ R, np.asarray(direction, float) @ R)

    def chord(self, point: ArrayLike, direction: ArrayLike) -> np.ndarray:
        """Return the length in mm of lines through the solid, 0 where they miss."""
        enter, leave = self.crossing(point, direction)
        return leave - enter

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Oriented:
        """Return the solid turned by `angle` degrees (from x towards y) about the z axis, then shifted by `offset`."""
        turn = _about_z(angle)
        at = turn @ self.offset + np.asarray(offset, float)
        return Oriented(self.solid, tuple(map(tuple, (turn @ np.array(self.rotation)).tolist())), tuple(at.tolist()))

    def _own(self, x: Coordinate, y: Coordinate, z: Coordinate) -> tuple[Coordinate, Coordinate, Coordinate]:
        R = np.array(self.rotation)
        d = [c - o for c, o in zip((x, y, z), self.offset)]
        a, b, c = (sum(R[i, k] * d[i] for i in range(3)) for k in range(3))
        return a, b, c


def rotation_to(direction: ArrayLike) -> tuple[tuple[float, float, float], ...]:
    """Return the shortest rotation that takes +z to a direction, as `Oriented` wants it.

    Args:
        direction : (x, y, z), any length; opposite to z it turns about x.

    Raises ValueError for a direction of length zero.
    """
    x, y, z = (float(c) for c in _unit(direction))
    if z < -1 + 1e-12:
        return (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)
    # Rodrigues' formula for the axis z x d with cosine z
    k = 1 / (1 + z)
    return (1 - k * x * x, -k * x * y, x), (-k * x * y, 1 - k * y * y, y), (-x, -y, z)


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


def _inside_ball(p: Sequence[Coordinate], d: Sequence[Coordinate]) -> tuple[np.ndarray, np.ndarray]:
    """Return the two t at which ``|p + t d|`` = 1: roots of d.d t^2 + 2 p.d t + p.p - 1, or +inf and -inf."""
    a = np.asarray(sum(np.square(di) for di in d))
    b = np.asarray(sum(pi * di for pi, di in zip(p, d)))
    c = np.asarray(sum(np.square(pi) for pi in p) - 1)
    discriminant = b**2 - a * c
    with np.errstate(divide="ignore", invalid="ignore"):
        middle, half = -b / a, np.sqrt(discriminant) / a
        enter = np.where(discriminant >= 0, middle - half, np.inf)
        leave = np.where(discriminant >= 0, middle + half, -np.inf)
    # lines that run along the part are inside all the way or never
    never = np.where(c <= 0, -np.inf, np.inf)
    return np.where(a > 0, enter, never), np.where(a > 0, leave, -never)


def _every(conditions: Sequence[np.ndarray]) -> np.ndarray:
    result = conditions[0]
    for condition in conditions[1:]:
        result = result & condition
    return np.asarray(result)


def _turn(angle: float) -> tuple[float, float]:
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


def _about_z(angle: float) -> np.ndarray:
    cosine, sine = _turn(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _components(vectors: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    array = np.asarray(vectors, float)
    if array.ndim == 0 or array.shape[-1] != 3:
        raise ValueError(f"{what} must be (..., 3) in mm, got {array.shape}; add the z component?")
    return array[..., 0], array[..., 1], array[..., 2]


def _unit(direction: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = _components(direction, "direction")
    length = np.sqrt(x**2 + y**2 + z**2)
    if not np.all(length > 0):
        raise ValueError("direction must not have length zero")
    return x / length, y / length, z / length


def _keep(solid: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(solid, name, value)


def _numbers(values: ArrayLike, n: int, what: str) -> tuple[float, ...]:
    array = np.ravel(np.asarray(values, float))
    if array.size != n or not np.all(np.isfinite(array)):
        raise ValueError(f"{what} must be {n} finite numbers, got {values!r}")
    return tuple(array.tolist())


def _sizes(values: ArrayLike, n: int, what: str) -> tuple[float, ...]:
    array = np.ravel(np.asarray(values, float))
    numbers = _numbers(np.full(n, array[0]) if array.size == 1 else array, n, what)
    if min(numbers) <= 0:
        raise ValueError(f"{what} must be positive, got {values!r}")
    return numbers
