"""The left ventricle in its 17 segments, perfusion defects, and the torso around it for myocardial perfusion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from emrecon.projectors import ImageGrid

from ..noise import generator
from .bodies import random_build, stretched, torso_around, varied
from .phantom import Phantom, Region
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid
from .torso_parts import Build, Triple, beside_the_ventricle, heart_axes

SEGMENTS = (
    *(
        f"{ring} {wall}"
        for ring in ("basal", "mid")
        for wall in ("anterior", "anteroseptal", "inferoseptal", "inferior", "inferolateral", "anterolateral")
    ),
    *(f"apical {wall}" for wall in ("anterior", "septal", "inferior", "lateral")),
    "apex",
)
"""Names of the 17 segments in the order of the American Heart Association: number n is SEGMENTS[n - 1]."""

PERFUSION: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        # Tc-99m sestamibi or tetrofosmin an hour after injection at rest, myocardium 10
        "tc-99m": {
            "myocardium": 10.0,
            "right ventricle": 4.0,
            "blood": 0.8,
            "lung": 1.0,
            "liver": 5.0,
            "spleen": 4.0,
            "kidney": 8.0,
            "stomach": 1.5,
            "bowel": 5.0,
            "bladder": 8.0,
            "body": 0.8,
            "fat": 0.3,
            "bone": 0.8,
        },
        # Tl-201 minutes after injection under stress, myocardium 10
        "tl-201": {
            "myocardium": 10.0,
            "right ventricle": 4.5,
            "blood": 1.2,
            "lung": 2.0,
            "liver": 3.0,
            "spleen": 3.0,
            "kidney": 9.0,
            "stomach": 2.0,
            "bowel": 2.5,
            "bladder": 1.0,
            "body": 1.5,
            "fat": 0.5,
            "bone": 1.2,
        },
    }
)
"""Activity per mL by organ for `cardiac_torso`: typical ratios, our choice."""

_EACH_WAY = 90.0  # degrees: wider wedges are cut in parts, for a wedge has to be convex


@dataclass(frozen=True)
class Defect:
    """A part of the myocardium that takes up less: (1 - severity) times what is around it.

    Args:
        segments : numbers of AHA segments, 1 to 17, as a whole; or
        extent : (from, to) degrees around the long axis, increasing, by up to 360: 0 is the middle of the septum, 90 of
            the anterior, 180 of the lateral, 270 (or -90) of the inferior wall; with
        place : (from, to) along the long axis as a fraction of its outer length, 0 the base and 1 the apex.
        severity : 0 (none) to 1 (no uptake).
        transmural : the inner part of the wall that is affected; 1 is all of it, 0.5 the subendocardial half.

    Raises ValueError for numbers out of their range, and unless segments or extent is given, and not both.
    """

    segments: tuple[int, ...] = ()
    extent: tuple[float, float] | None = None
    place: tuple[float, float] = (0.0, 1.0)
    severity: float = 0.5
    transmural: float = 1.0

    def __post_init__(self) -> None:
        segments = tuple(int(n) for n in np.ravel(np.asarray(self.segments, int)))
        object.__setattr__(self, "segments", segments)
        if bool(segments) == (self.extent is not None):
            raise ValueError("a Defect is given either by segments or by its extent")
        if segments and not all(1 <= n <= 17 for n in segments):
            raise ValueError(f"Defect segments are 1 to 17, got {segments}")
        if self.extent is not None and not 0 < self.extent[1] - self.extent[0] <= 360:
            raise ValueError(f"Defect extent must increase by up to 360 degrees, got {self.extent}")
        if not 0 <= self.place[0] < self.place[1] <= 1:
            raise ValueError(f"Defect place must be 0 <= from < to <= 1 (base to apex), got {self.place}")
        if segments and self.place != (0.0, 1.0):
            raise ValueError("Defect segments have their place; give it with an extent only")
        if not 0 <= self.severity <= 1:
            raise ValueError(f"Defect severity must be 0 to 1, got {self.severity}")
        if not 0 < self.transmural <= 1:
            raise ValueError(f"Defect transmural must be above 0, up to 1, got {self.transmural}")


@dataclass(frozen=True)
class LeftVentricle:
    """A left ventricle: the shell between two half ellipsoids of revolution, open at the base.

    Args:
        centre : (x, y, z) mm, the middle of the outer long axis.
        direction : from base to apex; the default points to the left, the front and down.
        radius : mm of the cavity at the base.
        wall : mm of myocardium, at the base and at the apex.
        length : mm from base to outer apex.
        cylinder : mm from the base over which the wall is straight, the half ellipsoids begin there.
        roll : degrees by which the septum is turned towards the anterior wall.

    Outside, (r / (radius + wall))^2 + ((s - cylinder) / (length - cylinder))^2 <= 1 at a distance s from the base and r
    from the axis; the cavity has `radius` and length - wall in their stead.
    Angles around the axis begin in the middle of the septum and turn over the anterior (90) and lateral (180) to the
    inferior wall (270 degrees). Without roll the anterior wall is the uppermost: its middle is the head's direction
    less its part along the axis, and the septum is direction x anterior, which is to the patient's right and front.
    Segments: the length of the cavity in thirds, basal and mid ring in six parts of 60 degrees (anterior 60 to 120),
    apical ring in four of 90 (anterior 45 to 135), and what is beyond the cavity is the apex.
    The default has 126 mL of myocardium and a cavity of 105 mL.

    Raises ValueError for sizes that are not positive, a cylinder that leaves no room for the apex, and a direction
    along z.

    Source: segments of Cerqueira et al. 2002 (American Heart Association).
    """

    centre: Triple = (42.0, -38.0, 122.0)
    direction: Triple = (0.62, -0.60, -0.50)
    radius: float = 25.0
    wall: float = 10.0
    length: float = 90.0
    cylinder: float = 0.0
    roll: float = 0.0

    def __post_init__(self) -> None:
        if not min(self.radius, self.wall, self.length) > 0:
            sizes = f"radius {self.radius}, wall {self.wall}, length {self.length}"
            raise ValueError(f"LeftVentricle sizes must be positive (mm), got {sizes}")
        if not 0 <= self.cylinder < self.length - self.wall:
            raise ValueError(f"LeftVentricle cylinder must be 0 to below length - wall, got {self.cylinder} mm")
        heart_axes(self.direction)

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors to the septum, to the anterior wall and to the apex, as the columns of a 3 x 3 array."""
        return np.array(heart_axes(self.direction, self.roll)) * (1, -1, 1)

    @property
    def base(self) -> np.ndarray:
        """The middle of the base in mm."""
        return np.array(self.centre) - self.length / 2 * self.axes[:, 2]

    @property
    def cavity_volume(self) -> float:
        """The volume of the cavity in mL: pi r^2 (cylinder + 2/3 of the rest)."""
        return self._slab_volume(0.0, 0.0, self.length)

    @property
    def myocardial_volume(self) -> float:
        """The volume of the myocardium in mL."""
        return self._slab_volume(1.0, 0.0, self.length) - self.cavity_volume

    def segment_volume(self, number: int) -> float:
        """Return the volume of an AHA segment (1 to 17) in mL.

        Raises ValueError for another number.
        """
        low, high, start, stop = self._segment(number)
        return (self._slab_volume(1, low, high) - self._slab_volume(0, low, high)) * (stop - start) / 360

    def segment_centre(self, number: int) -> np.ndarray:
        """Return the middle of an AHA segment (1 to 17) in mm: half of its length, angle and wall; (3,).

        Raises ValueError for another number.
        """
        low, high, start, stop = self._segment(number)
        s, angle = (low + high) / 2, math.radians((start + stop) / 2)
        middle = 0.0
        if number < 17:
            middle = (self._radius(0.0, s) + self._radius(1.0, s)) / 2
        septum, anterior, apex = self.axes.T
        place = self.base + s * apex + middle * (math.cos(angle) * septum + math.sin(angle) * anterior)
        return np.asarray(place)

    def regions(
        self, activity: float = 1.0, defects: Sequence[Defect] = (), blood: float | None = 0.0
    ) -> tuple[Region, ...]:
        """Return the ventricle in painter's order: segments by their names, "defect 1" ..., and "cavity".

        Args:
            activity : of the myocardium per mL.
            blood : of the cavity; None keeps what is below.

        Where defects overlap the last one holds. A defect takes its place away from the segments: their own volume is
        that of the ventricle without defects.
        """
        painted = [
            Region(name, solid, activity, "muscle")
            for number, name in enumerate(SEGMENTS, 1)
            for solid in self._solids(1.0, *self._segment(number))
        ]
        for number, defect in enumerate(defects, 1):
            less = (1 - defect.severity) * activity
            painted += [Region(f"defect {number}", solid, less, "muscle") for solid in self._defect_solids(defect)]
        painted += [Region("cavity", solid, blood, "muscle") for solid in self._solids(0.0, 0.0, self.length, 0, 360)]
        return tuple(painted)

    def segment_means(self, image: np.ndarray, grid: ImageGrid, oversample: int = 4) -> np.ndarray:
        """Return the mean of an image over every segment, (17,) float64, weighted by the part of a voxel it fills.

        Args:
            image : (nx, ny, nz) on the grid.

        Raises ValueError for an image of another shape and for segments without voxels.
        """
        if image.shape != grid.shape:
            raise ValueError(f"segment_means: the image has shape {image.shape}, the grid {grid.shape}")
        # neighbours only share faces, so each segment can be painted alone, under the cavity
        parts = {name: [region for region in self.regions() if region.name in (name, "cavity")] for name in SEGMENTS}
        weights = [Phantom(tuple(part)).fraction(grid, name, oversample).astype(float) for name, part in parts.items()]
        if not all(weight.any() for weight in weights):
            raise ValueError("segment_means: a segment is outside of the grid")
        return np.array([(weight * image).sum() / weight.sum() for weight in weights])

    def _segment(self, number: int) -> tuple[float, float, float, float]:
        """Where a segment is: from and to in mm along the axis and in degrees around it."""
        if not 1 <= number <= 17:
            raise ValueError(f"segments are numbered 1 to 17, got {number}")
        inside = self.length - self.wall
        if number == 17:
            return inside, self.length, 0.0, 360.0
        ring, k = divmod(number - 1, 6)
        width = 90.0 if ring == 2 else 60.0
        start = (90 - width / 2 - k * width) % 360  # the numbers turn from the anterior over the septal wall
        return ring * inside / 3, (ring + 1) * inside / 3, start, start + width

    def _defect_solids(self, defect: Defect) -> Iterator[Solid]:
        if defect.extent is None:
            for number in defect.segments:
                yield from self._solids(defect.transmural, *self._segment(number))
        else:
            low, high = (fraction * self.length for fraction in defect.place)
            yield from self._solids(defect.transmural, low, high, *defect.extent)

    def _solids(self, depth: float, low: float, high: float, start: float, stop: float) -> Iterator[Solid]:
        """Yield what is inside the wall up to a depth (0 the cavity, 1 all), in a slab and in a wedge of degrees."""
        rotation, base = heart_axes(self.direction, self.roll), tuple(self.base.tolist())
        n = 1 if stop - start == 360 else math.ceil((stop - start) / _EACH_WAY)
        edges = np.linspace(start, stop, n + 1).tolist()
        for part, begin, end in self._parts(depth):
            bottom, top = max(low, begin), min(high, end)
            if bottom < top:
                slab = Box((0, 0, (bottom + top) / 2), (3 * self._outside, 3 * self._outside, top - bottom))
                for first, last in pairwise(edges):
                    wedge = () if stop - start == 360 else (_behind(first, 1), _behind(last, -1))
                    yield Oriented(Intersection((part, slab, *wedge)), rotation, base)

    def _parts(self, depth: float) -> Iterator[tuple[Solid, float, float]]:
        """Yield the straight and the round part around +z, and from where to where they reach."""
        radius, tip = self.radius + depth * self.wall, self.length - (1 - depth) * self.wall
        if self.cylinder > 0:
            yield Cylinder((0, 0, self.cylinder / 2), radius, self.cylinder), 0.0, self.cylinder
        yield Ellipsoid((0, 0, self.cylinder), (radius, radius, tip - self.cylinder)), self.cylinder, tip

    def _radius(self, depth: float, s: float) -> float:
        """The distance from the axis of what is inside the wall up to a depth, at s from the base."""
        radius, tip = self.radius + depth * self.wall, self.length - (1 - depth) * self.wall
        beyond = max(s - self.cylinder, 0.0) / (tip - self.cylinder)
        return radius * math.sqrt(max(1 - beyond**2, 0.0))

    def _slab_volume(self, depth: float, low: float, high: float) -> float:
        """The volume in mL of `_solids` all around: pi r^2 (h - (t1^3 - t0^3) / (3 l^2)) in an ellipsoid l long."""
        total = 0.0
        for part, begin, end in self._parts(depth):
            bottom, top = (min(max(edge, begin), end) - begin for edge in (low, high))
            a, b, c = part.half_widths  # type: ignore[attr-defined]
            missing = (top**3 - bottom**3) / (3 * c**2) if isinstance(part, Ellipsoid) else 0.0
            total += math.pi * a * b * (top - bottom - missing) / 1000
        return total

    @property
    def _outside(self) -> float:
        return self.radius + self.wall


def _behind(angle: float, sign: int) -> HalfSpace:
    """What has a larger angle (up to 180 degrees more) than a plane through the axis; sign -1: a smaller one.

    In the solids' own axes y points down, so that a point at the angle t is at (cos t, -sin t).
    """
    turn = math.radians(angle % 360)
    return HalfSpace((0, 0, 0), (sign * math.sin(turn), sign * math.cos(turn), 0))


def bullseye(values: Sequence[float] | np.ndarray, size: int = 128) -> np.ndarray:
    """Return the polar map of 17 values as an image (size, size), rows from top to bottom, NaN outside.

    As printed: anterior above, septum at the left, apex in the middle; rings of a quarter of the radius each.

    Raises ValueError for another number of values.

    Source: segments of Cerqueira et al. 2002 (American Heart Association).
    """
    numbers = np.asarray(values, float)
    if numbers.shape != (17,):
        raise ValueError(f"a polar map has 17 values, got shape {numbers.shape}")
    x = (np.arange(size) + 0.5) / size * 2 - 1
    down, right = np.meshgrid(x, x, indexing="ij")
    radius, angle = np.hypot(right, down), np.degrees(np.arctan2(-down, -right)) % 360  # 0 at the left, 90 above
    from_apex = np.minimum((radius * 4).astype(int), 4)
    ring = 3 - from_apex  # 0 basal, 1 mid, 2 apical, 3 the apex
    in_six = ((120 - angle) % 360 // 60).astype(int)
    in_four = ((135 - angle) % 360 // 90).astype(int)
    number = np.select([ring == 3, ring == 2, ring >= 0], [16, 12 + in_four, 6 * ring + in_six], 0)
    return np.where(ring >= 0, numbers[number], np.nan)


def cardiac_torso(
    ventricle: LeftVentricle = LeftVentricle(),
    defects: Sequence[Defect] = (),
    ratios: str | Mapping[str, float] = "tc-99m",
    build: Build = Build(),
    right_ventricle: bool = True,
) -> Phantom:
    """Return the torso of `torso` with a heart for myocardial perfusion.

    Args:
        ventricle : the left ventricle, where and as large as it is told whatever the build.
        defects : of its wall.
        ratios : activity per mL, by the name of a preset ("tc-99m" for sestamibi and tetrofosmin, "tl-201", see
            `PERFUSION`) or by organ as for `torso`, with "myocardium", and "right ventricle" for that wall (else
            "body").
        right_ventricle : its wall of 3.5 mm; without it there is blood beside the septum all the same.

    Region names: those of `torso`, with "heart" for the blood of the right ventricle and the atria, "right ventricle"
    for its wall, the 17 names of `SEGMENTS` for the myocardium, "defect 1" and so on, and "cavity".
    Volumes of the default: myocardium 126 mL, cavity 105 mL, liver, lungs and the rest as for `torso`.

    Raises ValueError as `torso` does, and for ratios without "myocardium".
    """
    table = _table(ratios)
    around = {organ: value for organ, value in table.items() if organ not in ("myocardium", "right ventricle")}
    return torso_around(_heart(ventricle, defects, table, right_ventricle), around, build=build)


def random_cardiac_torso(
    seed: int, ratios: str | Mapping[str, float] = "tc-99m", defects: tuple[int, int] | Sequence[Defect] = (0, 2)
) -> Phantom:
    """Return a random patient for myocardial perfusion; each seed has its own, whatever was drawn before.

    Args:
        seed : a non-negative integer.
        ratios : as for `cardiac_torso`.
        defects : the lowest and highest number of them; or the defects themselves, in the patient that the seed has
            without them.

    Ranges, ours and uniform: build and organs' activities as in `random_torso`; ventricle displaced by up to 5 mm along
    each axis, its long axis 36 to 54 degrees to the left of the front and 15 to 40 degrees down, rolled by up to 15
    degrees, cavity radius 20 to 27 mm, wall 8.5 to 12 mm, length 80 to 95 mm, up to 20 mm of it straight. A defect has
    the severity 0.1 to 0.9; half of them are one to three neighbouring segments of a ring, the others an extent of 30
    to 150 degrees anywhere and 0.2 to 0.6 of the length; in one of three only the inner 0.3 to 0.7 of the wall.

    Raises ValueError for a seed or numbers of defects that are negative, or the lowest above the highest.
    """
    random = generator(seed, "cardiac torso")
    table, build = varied(random, _table(ratios)), random_build(random)
    ventricle = _random_ventricle(random, build)
    given = [defect for defect in defects if isinstance(defect, Defect)]
    if len(given) == len(defects):
        return cardiac_torso(ventricle, given, table, build)
    numbers = [n for n in defects if not isinstance(n, Defect)]
    if len(numbers) != 2 or given or not 0 <= numbers[0] <= numbers[1]:
        raise ValueError(f"random_cardiac_torso: numbers of defects must be 0 <= lowest <= highest, got {defects}")
    drawn = [_random_defect(random) for _ in range(int(random.integers(numbers[0], numbers[1] + 1)))]
    return cardiac_torso(ventricle, drawn, table, build)


def random_ventricle(seed: int, ratios: str | Mapping[str, float] = "tc-99m") -> LeftVentricle:
    """Return the left ventricle of `random_cardiac_torso(seed, ratios)`.

    Raises ValueError as that does.
    """
    random = generator(seed, "cardiac torso")
    varied(random, _table(ratios))
    return _random_ventricle(random, random_build(random))


def _table(ratios: str | Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(ratios, str) and ratios not in PERFUSION:
        raise ValueError(
            f"unknown ratios {ratios!r}; choose from {', '.join(PERFUSION)}, or give a mapping of organs to activity"
        )
    table = PERFUSION[ratios] if isinstance(ratios, str) else ratios
    if "myocardium" not in table:
        raise ValueError('ratios: "myocardium" is missing')
    return table


def _heart(
    ventricle: LeftVentricle, defects: Sequence[Defect], table: Mapping[str, float], right_ventricle: bool
) -> Iterator[Region]:
    rotation, base = heart_axes(ventricle.direction, ventricle.roll), tuple(ventricle.base.tolist())
    wide, body = ventricle.radius + ventricle.wall, table.get("body", 0.0)
    size = (wide / 35, wide / 35, ventricle.length / 90)

    def placed(name: str, solid: Solid, activity: float) -> Region:
        return Region(name, Oriented(stretched(solid, size), rotation, base), activity, "muscle")

    blood = table.get("blood", body)
    if right_ventricle:
        yield placed("right ventricle", beside_the_ventricle(wall=3.5)[0], table.get("right ventricle", body))
    yield from (placed("heart", solid, blood) for solid in beside_the_ventricle())
    yield from ventricle.regions(table["myocardium"], defects, blood)


def _random_ventricle(random: np.random.Generator, build: Build) -> LeftVentricle:
    centre = np.array(LeftVentricle().centre) * build.scale + random.uniform(-5, 5, 3)
    left, down = np.radians(random.uniform((36, 15), (54, 40)))
    direction = (math.sin(left) * math.cos(down), -math.cos(left) * math.cos(down), -math.sin(down))
    radius, wall, length, straight, roll = random.uniform((20, 8.5, 80, 0, -15), (27, 12, 95, 20, 15)).tolist()
    return LeftVentricle(tuple(centre.tolist()), direction, radius, wall, length, straight, roll)


def _random_defect(random: np.random.Generator) -> Defect:
    severity = float(random.uniform(0.1, 0.9))
    inner = float(random.uniform(0.3, 0.7)) if random.uniform() < 1 / 3 else 1.0
    if random.uniform() < 0.5:
        ring = int(random.integers(3))
        size, first = (4 if ring == 2 else 6), int(random.integers(6))
        numbers = [6 * ring + 1 + (first + k) % size for k in range(int(random.integers(1, 4)))]
        return Defect(tuple(numbers), severity=severity, transmural=inner)
    start, width, length = random.uniform((0, 30, 0.2), (360, 150, 0.6)).tolist()
    low = float(random.uniform(0, 1 - length))
    return Defect((), (start, start + width), (low, low + length), severity, inner)
