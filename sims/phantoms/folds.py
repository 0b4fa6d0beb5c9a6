"""Folded surfaces: the cortex of a brain as an ellipsoid with sulci, which are zeros of random waves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .shapes import Bounds, Coordinate

Wave = tuple[float, float, float, float, float]
"""Wave vector (x, y, z) in rad/mm, phase and amplitude."""

_DEEPEST_LEVEL = 6.0  # mm below the surface up to which `Folds.depth` is exact

_RADIAL = 0.4  # 1: sulci run straight to the centre; 0: in any direction

_POINTS_AT_ONCE = 2**15


@dataclass(frozen=True)
class Fissure:
    """A cleft along a plane into the brain.

    Args:
        normal : (x, y, z) of length 1, through the point.
        half_width, depth : mm; the depth falls to both sides along y as depth exp(-((y - y_point) / reach)^4).
    """

    point: tuple[float, float, float]
    normal: tuple[float, float, float]
    half_width: float
    depth: float
    reach: float = math.inf

    def distance(self, x: Coordinate, y: Coordinate, z: Coordinate) -> Coordinate:
        """Return the distance to the plane in mm."""
        return np.abs(sum(n * (c - p) for n, c, p in zip(self.normal, (x, y, z), self.point)))

    def depth_at(self, y: Coordinate) -> Coordinate:
        """Return how deep the cleft is there, in mm."""
        return self.depth * np.exp(-np.square(np.square((y - self.point[1]) / self.reach)))


@dataclass(frozen=True)
class Folds:
    """The folded outer surface of a cerebrum around the origin, as a depth below it.

    The hull is an ellipsoid, n(p) = 1, of other height above than below z = 0. Its depth is a = (1 - n) / ``|grad n|``.
    Sulci are sheets where a random wave h is zero, h(q) = sum of amplitude cos(k q + phase) at q = p n^-0.4 so that
    they rather run towards the centre; the distance to the nearest sheet is d = atan(k ``|h| / |grad h|``) / k, exact
    for a plane wave. A sheet with half width w and depth D, measured from the hull, is cut out as a cleft with a round
    bottom, and the depth below all of it is::

        s = min(a, sqrt(d^2 + max(a - D, 0)^2) - w, the same for every fissure)

    so that the cortex 0 < s < thickness has the same thickness on gyri, along sulci and under them.

    Args:
        radii : (x, y, z above, z below) of the hull in mm.
        waves : of h.
        swell : waves that vary the sulci's depth between the two numbers of `depth` (mm).
        half_width : of the sulci in mm.
        fissures : deeper clefts along planes.

    Source: ours; folds as level sets of random waves.
    """

    radii: tuple[float, float, float, float]
    waves: tuple[Wave, ...]
    swell: tuple[Wave, ...]
    half_width: float
    depth: tuple[float, float]
    fissures: tuple[Fissure, ...] = ()

    def below(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return s in mm at points of the brain's own axes, > 0 inside; exact up to 6 mm, a lower bound beyond."""
        x, y, z = np.broadcast_arrays(*(np.asarray(c, float) for c in (x, y, z)))
        n, slope, gradient = self._hull(x, y, z)
        a = (1 - n) / slope
        s = np.minimum(a, a - self.depth[1] - self.half_width)
        near = (a > 0) & (s < _DEEPEST_LEVEL)
        s = np.where(near, a, np.where(a > 0, s, a))
        if np.any(near):
            p = np.stack([c[near] for c in (x, y, z)], -1)
            s[near] = np.minimum(a[near], self._sulci(p, n[near], gradient[near], a[near]))
        for fissure in self.fissures:
            near = (a > 0) & (fissure.distance(x, y, z) < fissure.half_width + _DEEPEST_LEVEL)
            x_near, y_near, z_near = x[near], y[near], z[near]
            beyond = np.maximum(a[near] - fissure.depth_at(y_near), 0)
            cleft = np.sqrt(fissure.distance(x_near, y_near, z_near) ** 2 + beyond**2) - fissure.half_width
            s[near] = np.minimum(s[near], cleft)
        return s

    def unsure(self, x: Coordinate, y: Coordinate, z: Coordinate, reach: float, low: float, high: float) -> np.ndarray:
        """Whether a level between `low` and `high` may be crossed within `reach` mm of the points; when in doubt, yes.

        Norm and slope of the hull change by no more than the step over the shortest radius (and its square), which
        bounds a. All that is within the reach of the sulci may be an edge.
        """
        x, y, z = np.broadcast_arrays(*(np.asarray(c, float) for c in (x, y, z)))
        n, slope, _ = self._hull(x, y, z)
        shortest, longest = min(self.radii), max(self.radii)
        step, change = reach / shortest, reach / shortest**2
        least = np.maximum((n * slope - change) / (n + step), 1 / longest)
        most = np.minimum((n * slope + change) / np.maximum(n - step, 1e-9), 1 / shortest)
        shallowest = np.where(1 - n - step > 0, (1 - n - step) / most, (1 - n - step) / least)
        deepest = np.where(1 - n + step > 0, (1 - n + step) / least, (1 - n + step) / most)
        inside = shallowest > high + self.half_width + self.depth[1]
        for fissure in self.fissures:
            rim = high + fissure.half_width
            inside &= (fissure.distance(x, y, z) > rim + reach) | (shallowest > rim + fissure.depth)
        return np.asarray((deepest >= low) & ~inside)

    def _hull(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return n, ``|grad n|`` and grad n (..., 3)."""
        a, b, up, down = self.radii
        c = np.where(z > 0, up, down)
        n = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        gradient = np.stack([x / a**2, y / b**2, z / c**2], -1) / np.maximum(n, 1e-12)[..., None]
        return n, np.maximum(np.sqrt((gradient**2).sum(-1)), 1 / max(self.radii)), gradient

    def _sulci(self, p: np.ndarray, n: np.ndarray, gradient: np.ndarray, a: np.ndarray) -> np.ndarray:
        starts = range(0, len(p), _POINTS_AT_ONCE)
        cut = [slice(i, i + _POINTS_AT_ONCE) for i in starts]
        return np.concatenate([self._sulci_of(p[i], n[i], gradient[i], a[i]) for i in cut])

    def _sulci_of(self, p: np.ndarray, n: np.ndarray, gradient: np.ndarray, a: np.ndarray) -> np.ndarray:
        m = (n**-_RADIAL)[:, None]
        h, slope = _wave(self.waves, m * p)
        # chain rule of h(p n^-r)
        slope = m * slope - _RADIAL * (m / n[:, None]) * (p * slope).sum(1, keepdims=True) * gradient
        k = m[:, 0] * np.sqrt(np.mean(np.square(np.array(self.waves)[:, :3]).sum(1)))
        d = np.arctan2(k * np.abs(h), np.sqrt((slope**2).sum(1))) / k
        low, high = self.depth
        swell = _wave(self.swell, p)[0]
        depth = (low + high) / 2 + (high - low) / 2 * swell
        return np.asarray(np.sqrt(d**2 + np.maximum(a - depth, 0) ** 2) - self.half_width)


@dataclass(frozen=True)
class Folded:
    """What lies deeper than `level` mm below a folded surface, as a solid to be painted; not convex.

    Args:
        level : 0 for the surface itself, the thickness of the cortex for the white matter; up to 6 mm.
        offset : (x, y, z) mm of the folds' origin.
        angle : degrees by which they are turned from x towards y.

    Raises ValueError for a level outside 0 to 6.
    """

    folds: Folds
    level: float = 0.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    angle: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.level <= _DEEPEST_LEVEL:
            raise ValueError(f"Folded level must be 0 to {_DEEPEST_LEVEL:g} mm below the surface, got {self.level}")

    @property
    def bounds(self) -> Bounds:
        """The lowest and highest (x, y, z) of a box around the solid, in mm."""
        a, b, up, down = self.folds.radii
        cosine, sine = self._turn()
        x, y = a * abs(cosine) + b * abs(sine), a * abs(sine) + b * abs(cosine)
        return np.array(self.offset) - np.array((x, y, down)), np.array(self.offset) + np.array((x, y, up))

    def depth(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return the depth in mm below the surface of the folds, > 0 inside; see `Folds.below`."""
        return self.folds.below(*self._own(x, y, z))

    def near_levels(
        self,
        x: Coordinate,
        y: Coordinate,
        z: Coordinate,
        half: tuple[float, float, float],
        levels: tuple[float, float],
    ) -> np.ndarray:
        """Whether a level between two may cross the boxes centred on (x, y, z); when in doubt, yes."""
        return self.folds.unsure(*self._own(x, y, z), math.hypot(*half), *levels)

    def contains(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return self.depth(x, y, z) > self.level

    def straddles(self, x: Coordinate, y: Coordinate, z: Coordinate, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; when in doubt, yes."""
        return self.near_levels(x, y, z, half, (self.level, self.level))

    def crossing(self, point: ArrayLike, direction: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Raise ValueError: a line enters a folded surface many times."""
        raise ValueError(
            "a line crosses a folded surface many times, so a folded brain has no exact line integrals; "
            "paint it on a fine grid and project the image"
        )

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Folded:
        """Return the solid turned by `angle` degrees (from x towards y) about the z axis, then shifted by `offset`."""
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        x, y, z = self.offset
        turned = (cosine * x - sine * y, sine * x + cosine * y, z)
        at = tuple(float(t + o) for t, o in zip(turned, offset))
        return replace(self, offset=at, angle=self.angle + angle)  # type: ignore[arg-type]

    def _own(self, x: Coordinate, y: Coordinate, z: Coordinate) -> tuple[Coordinate, Coordinate, Coordinate]:
        cosine, sine = self._turn()
        x, y, z = (c - o for c, o in zip((x, y, z), self.offset))
        return cosine * x + sine * y, cosine * y - sine * x, z

    def _turn(self) -> tuple[float, float]:
        return math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))


def random_folds(random: np.random.Generator, radii: tuple[float, float, float, float]) -> Folds:
    """Return random folds of a hull with these radii, with the fissures between hemispheres and above the temples."""
    width, spacing, shallow, tilt = (float(v) for v in random.uniform((0.6, 11.5, 8, 0.35), (0.9, 13, 10, 0.5)))
    waves = random_waves(random, 24, 2 * spacing, spread=0.15)
    swell = random_waves(random, 4, 45.0)
    limit = sum(abs(wave[4]) for wave in swell)
    y, z, deep, middle = (float(v) for v in random.uniform((-4, -4, 22, 31), (4, 4, 26, 35)))
    rise = math.hypot(1, tilt)
    # one plane for both sides: it rises to the back, and leaves front and back of the head alone
    lateral = Fissure((0.0, y, z), (0.0, -tilt / rise, 1 / rise), 0.7, deep, 38.0)
    fissures = (Fissure((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 1.0, middle), lateral)
    scaled = tuple((*wave[:4], wave[4] / limit) for wave in swell)
    return Folds(radii, waves, scaled, width, (shallow, shallow + 18), fissures)


def random_waves(random: np.random.Generator, n: int, wavelength: float, spread: float = 0.0) -> tuple[Wave, ...]:
    """Return n waves in random directions whose sum has mean square 1."""
    directions = random.normal(size=(n, 3))
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    k = 2 * np.pi / wavelength * (1 + spread * random.uniform(-1, 1, (n, 1))) * directions / length
    phase = random.uniform(0, 2 * np.pi, (n, 1))
    rows = np.hstack([k, phase, np.full((n, 1), math.sqrt(2 / n))])
    return tuple(tuple(row) for row in rows.tolist())


def _wave(waves: Sequence[Wave], q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the waves (n,) and its gradient (n, 3) at q (n, 3), in single precision for speed."""
    table = np.array(waves, np.float32)
    k, phase, amplitude = table[:, :3], table[:, 3], table[:, 4]
    angle = q.astype(np.float32) @ k.T + phase
    return np.cos(angle) @ amplitude, np.sin(angle) @ (-amplitude[:, None] * k)
