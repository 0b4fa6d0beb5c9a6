"""Phantoms made of solids: painted on any grid, and integrated exactly along any line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from emrecon.projectors import ImageGrid, SPECTGeometry, linear_attenuation, materials

from .noise import generator
from .shapes import Cylinder, Ellipsoid, Solid, sub_positions

Layer = tuple[Solid, float]
Integrate = Callable[..., np.ndarray]

_VOXELS_AT_ONCE = 2**18
_CROSSINGS_AT_ONCE = 2**20


@dataclass(frozen=True)
class Region:
    """A solid with what fills it.

    name : regions of one name share a label, so a shape that is not convex is a union of regions.
    activity : per mL, in any unit; None keeps the activity that is below.
    material : one of `projectors.materials()`, or mu : linear attenuation in 1/cm, the same at every energy; with
        neither, the region keeps the attenuation that is below.
    density : of the material in g/mL; None takes the material's own.
    Raises ValueError for a negative or non-finite value, an unknown material, material and mu together, and a density
    that is not positive or has no material.
    """

    name: str
    shape: Solid
    activity: float | None = None
    material: str | None = None
    mu: float | None = None
    density: float | None = None

    def __post_init__(self) -> None:
        for what, value in (("activity", self.activity), ("mu", self.mu)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"region {self.name!r}: {what} must be finite and >= 0, got {value}")
        if self.material is not None and self.mu is not None:
            raise ValueError(f"region {self.name!r} has a material and a mu; give one of them")
        if self.material is not None and self.material not in materials():
            raise ValueError(f"region {self.name!r}: no material {self.material!r}; known: {', '.join(materials())}")
        if self.density is not None and self.material is None:
            raise ValueError(f"region {self.name!r} has a density but no material; name one, or give mu alone")
        if self.density is not None and not 0 < self.density < math.inf:
            raise ValueError(f"region {self.name!r}: density must be positive and finite (g/mL), got {self.density}")

    def attenuation(self, energy_kev: float) -> float | None:
        """Return the linear attenuation coefficient in 1/cm, None where the region keeps what is below."""
        return self.mu if self.material is None else linear_attenuation(self.material, energy_kev, self.density)


@dataclass(frozen=True)
class Phantom:
    """Regions in painter's order: where they overlap, the last one that has a value replaces the others.

    regions : a sequence of `Region`; `Phantom((*phantom.regions, lesion))` adds one on top. Outside of all of them
        there is no activity and no attenuation.
    """

    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", tuple(self.regions))

    def activity(self, grid: ImageGrid, oversample: int = 4) -> np.ndarray:
        """Return the mean activity concentration of every voxel, float32 (nx, ny, nz).

        Voxels that an edge crosses are the mean of oversample^3 points, all others are exact. A grid of one slice is
        two-dimensional: it shows the plane through its middle, and edges are averaged along x and y only.
        """
        return _painted(self._layers(_activity), grid, oversample)

    def attenuation(self, grid: ImageGrid, energy_kev: float, oversample: int = 4) -> np.ndarray:
        """Return the mean linear attenuation coefficient of every voxel in 1/cm, float32 (nx, ny, nz); see `activity`.

        Raises ValueError for an energy outside the tables (1 to 20000 keV).
        """
        return _painted(self._layers(partial(Region.attenuation, energy_kev=energy_kev)), grid, oversample)

    def fraction(self, grid: ImageGrid, name: str, oversample: int = 4) -> np.ndarray:
        """Return the part of every voxel that the regions of one name fill and no later one covers, 0 to 1, float32.

        Raises ValueError for a name that no region has.
        """
        if name not in self.names:
            raise ValueError(f"no region is called {name!r}; there are {', '.join(self.names[1:])}")
        return _painted(self._layers(lambda region: float(region.name == name)), grid, oversample)

    @property
    def names(self) -> tuple[str, ...]:
        """What the labels mean: "outside", then the names of the regions in the order of their first appearance."""
        return ("outside", *dict.fromkeys(region.name for region in self.regions))

    def labels(self, grid: ImageGrid) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the label at every voxel's centre, int16 (nx, ny, nz), and `names`, so that names[label] is there."""
        number = {name: i for i, name in enumerate(self.names)}
        image = _painted(self._layers(lambda region: number[region.name]), grid, oversample=1)
        return image.astype(np.int16), self.names

    def line_integral(self, points: Any, directions: Any) -> np.ndarray:
        """Return the integral of the activity along whole lines, exactly: sum over pieces of activity x length in mm.

        points, directions : (..., 3) any point of each line in mm and its direction (any length); they broadcast.
        Returns (...), float64.
        Raises ValueError where a line never leaves an infinite region.
        """
        return self._along(points, directions, (_activity,), lambda activity: activity.sum(0))

    def attenuation_integral(self, points: Any, directions: Any, energy_kev: float) -> np.ndarray:
        """Return the integral of mu along whole lines, without unit: exp(-integral) is the transmission.

        points, directions : as in `line_integral`.
        """
        mu = partial(Region.attenuation, energy_kev=energy_kev)
        return self._along(points, directions, (mu,), lambda depth: depth.sum(0) / 10)

    def attenuated_integral(self, points: Any, directions: Any, energy_kev: float) -> np.ndarray:
        """Return the activity integral as a detector far along `directions` sees it through the phantom, exactly.

            integral of a(t) exp(-integral of mu from t to infinity) dt,  in mm

        points, directions : as in `line_integral`; directions point to the detector.
        On a piece of length l with constant a and mu the integral is a l (1 - exp(-mu l)) / (mu l).
        """
        mu = partial(Region.attenuation, energy_kev=energy_kev)
        return self._along(points, directions, (_activity, mu), _attenuated)

    def projection(self, geometry: SPECTGeometry, energy_kev: float | None = None, oversample: int = 1) -> np.ndarray:
        """Return ideal parallel projections: the line integral through every bin in mm x activity, (views, bins, rows).

        energy_kev : attenuate at this energy; None for no attenuation.
        oversample : every bin is the mean of oversample^2 lines; 1 takes the line through its centre.
        No blur, float32. A projector without response sums voxels instead: if x holds the concentration, du x dz is the
        size of a bin and dx dy dz' that of a voxel, SPECTProjector's counts are this integral x du dz / (dx dy dz')
        (for an image of one slice seen by one row: x du / (dx dy)).
        """
        views = [self._seen(points, toward, energy_kev) for points, toward in _rays(geometry, oversample)]
        fine = np.reshape(views, (geometry.n_views, geometry.n_bins[0], oversample, geometry.n_bins[1], oversample))
        mean: np.ndarray = fine.mean((2, 4)).astype(np.float32)
        return mean

    def moved(self, offset: tuple[float, float, float] = (0, 0, 0), angle: float = 0.0) -> Phantom:
        """Return the phantom turned by `angle` degrees (from x towards y) about the z axis, then shifted by `offset`.

        offset : mm.  Seen at the gantry angle g - angle, a turned phantom looks as it did at g.
        """
        return Phantom(tuple(replace(region, shape=region.shape.moved(offset, angle)) for region in self.regions))

    def _seen(self, points: np.ndarray, toward: np.ndarray, energy_kev: float | None) -> np.ndarray:
        if energy_kev is None:
            return self.line_integral(points, toward)
        return self.attenuated_integral(points, toward, energy_kev)

    def _layers(self, value: Callable[[Region], float | None]) -> list[Layer]:
        valued = [(region.shape, value(region)) for region in self.regions]
        return [(shape, v) for shape, v in valued if v is not None]

    def _along(
        self, points: Any, directions: Any, values: Sequence[Callable[[Region], float | None]], integrate: Integrate
    ) -> np.ndarray:
        """Return `integrate` of value x length (pieces, lines) of every quantity, some lines at a time."""
        shapes = [region.shape for region in self.regions]
        table = np.array([[value(region) for value in values] for region in self.regions], float)  # None becomes NaN
        points, directions = np.broadcast_arrays(np.asarray(points, float), np.asarray(directions, float))
        lines, n = points.shape[:-1], max(1, _CROSSINGS_AT_ONCE // max(1, len(shapes)))
        points, directions = points.reshape(-1, points.shape[-1]), directions.reshape(-1, directions.shape[-1])
        starts = range(0, max(1, len(points)), n)
        table = table.reshape(len(shapes), len(values))
        parts = [integrate(*_pieces(shapes, table, points[i : i + n], directions[i : i + n])) for i in starts]
        return np.concatenate(parts).reshape(lines)


def uniform_cylinder(radius: float = 100.0, height: float = 200.0, activity: float = 1.0) -> Phantom:
    """Return a water cylinder along z around the origin.

    radius, height : mm; height=math.inf for two dimensions.
    """
    return Phantom((Region("cylinder", Cylinder((0, 0, 0), radius, height), activity, "water"),))


# the classic ten ellipses: name, the value that replaces what is below in the modified and in the emission phantom,
# semi-axes (a, b, c) and centre (x, y) in half of the square's edge, and turn in degrees
_SHEPP_LOGAN = (
    ("skull", 1.0, 0.0, (0.69, 0.92, 0.81), (0.0, 0.0), 0),
    ("brain", 0.2, 1.0, (0.6624, 0.874, 0.78), (0.0, -0.0184), 0),
    ("right ventricle", 0.0, 0.0, (0.11, 0.31, 0.22), (0.22, 0.0), -18),
    ("left ventricle", 0.0, 0.0, (0.16, 0.41, 0.28), (-0.22, 0.0), 18),
    ("large lesion", 0.3, 2.0, (0.21, 0.25, 0.41), (0.0, 0.35), 0),
    ("upper lesion", 0.4, 4.0, (0.046, 0.046, 0.05), (0.0, 0.1), 0),
    ("lower lesion", 0.3, 4.0, (0.046, 0.046, 0.05), (0.0, -0.1), 0),
    ("left lesion", 0.3, 4.0, (0.046, 0.023, 0.05), (-0.08, -0.605), 0),
    ("middle lesion", 0.3, 4.0, (0.023, 0.023, 0.02), (0.0, -0.606), 0),
    ("right lesion", 0.3, 4.0, (0.023, 0.046, 0.02), (0.06, -0.605), 0),
)


def shepp_logan(size: float = 200.0, activity: float = 1.0, emission: bool = False) -> Phantom:
    """Return the Shepp-Logan head of ellipsoids, whose middle slice is the classic two-dimensional phantom.

    size : edge in mm of the square around the slice (the head is 0.92 of it long).
    activity : of the skull, or of the brain with emission=True.
    emission : False gives the values of the modified phantom, 1, 0.2, 0 and 0.3, but they replace each other instead of
        adding up, so nothing is negative (the upper lesion gets 0.4, to be seen on the large one). True fills the same
        ellipsoids as a scan would find them, in values of our choice: nothing in the skull, 1 in the brain, nothing in
        the ventricles, 2 in the large lesion and 4 in the five small ones.
    The front of the head is at -y (LPS), so image[:, :, 0].T looks as in the books, and regions are named as left and
    right are there: the picture's right (+x) is the patient's left. All centres are at z = 0
    (three-dimensional versions in the literature displace some, which then miss the middle slice).
    The skull attenuates as bone, all else as water.
    Source: Shepp & Logan 1974; contrasts Toft 1996.
    """
    half = size / 2
    return Phantom(
        tuple(
            Region(
                name,
                Ellipsoid((half * x, -half * y, 0), tuple(half * r for r in radii), -angle),  # type: ignore[arg-type]
                activity * (uptake if emission else value),
                "bone-cortical" if name == "skull" else "water",
            )
            for name, value, uptake, radii, (x, y), angle in _SHEPP_LOGAN
        )
    )


@dataclass(frozen=True)
class EllipseRanges:
    """What `random_ellipses` draws from, every range uniform and both ends included.

    number : of ellipses.  size : their semi-axes in mm.  activity : theirs, where the body has 1.
    overlap : whether they may touch and cover each other; the later one is then on top.
    bones, lungs : how many ellipses of bone and of lung there are; they change the attenuation only.
    Raises ValueError for ranges that are negative, not finite or the wrong way round.
    """

    number: tuple[int, int] = (3, 12)
    size: tuple[float, float] = (5.0, 30.0)
    activity: tuple[float, float] = (0.0, 4.0)
    overlap: bool = True
    bones: tuple[int, int] = (0, 0)
    lungs: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for what in ("number", "size", "activity", "bones", "lungs"):
            low, high = getattr(self, what)
            if not 0 <= low <= high < math.inf:
                raise ValueError(f"EllipseRanges {what} must be 0 <= low <= high and finite, got {low} to {high}")
        if not 0 < self.size[0] <= self.size[1] <= 60:
            raise ValueError(f"EllipseRanges size must be positive and at most 60 mm to fit the body, got {self.size}")


def random_ellipses(seed: int, dimensions: int = 2, ranges: EllipseRanges | None = None) -> Phantom:
    """Return random ellipses of any activity in an elliptic body of activity 1.

    seed : a non-negative integer; each seed has its own phantom, whatever was drawn before.
    dimensions : 2 for infinite cylinders (paint it on a grid of one slice) or 3 for ellipsoids.
    ranges : how many, how large, how hot, and what else attenuates; None is `EllipseRanges()`.
    All ranges are ours and uniform: body semi-axes 85 to 115 mm (x), 70 to 100 mm (y) and 70 to 100 mm (z), turned by
    up to 30 degrees and displaced by up to 5 mm along x and y; ellipses at any turn and place inside the body, of which
    large ones keep to the middle so as not to stick out.
    Bones have semi-axes of 5 to 15 mm and lungs of 20 to 40 mm; they overlap freely and keep the activity around them.
    All else attenuates as water. What does not overlap is found by drawing size and place anew until the circles
    (spheres) around the ellipses are apart, which favours small ones where room is scarce.
    Region names: "body", "lung 1", "bone 1", "ellipse 1" and so on.
    Raises ValueError for other dimensions and seeds, and where ellipses without overlap find no room.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    ranges = ranges or EllipseRanges()
    random = generator(seed, "ellipses")
    body = random.uniform((85, 70, 70), (115, 100, 100))
    regions = [Region("body", _body(np.zeros(3), body, 0.0, dimensions), 1.0, "water")]
    inserts = (("lung", ranges.lungs, (20.0, 40.0)), ("bone-cortical", ranges.bones, (5.0, 15.0)))
    for material, number, size in inserts:
        for k in range(1, int(random.integers(*number, endpoint=True)) + 1):
            shape = _body(*_inside(random, body, size, dimensions), dimensions)
            regions.append(Region(f"{material.split('-')[0]} {k}", shape, None, material))
    taken: list[tuple[np.ndarray, float]] = []
    for k in range(1, int(random.integers(*ranges.number, endpoint=True)) + 1):
        centre, radii, angle = _apart(random, body, ranges, dimensions, taken)
        taken.append((centre, float(radii[:dimensions].max())))
        activity = float(random.uniform(*ranges.activity))
        regions.append(Region(f"ellipse {k}", _body(centre, radii, angle, dimensions), activity))
    dx, dy = random.uniform(-5, 5, 2)
    return Phantom(tuple(regions)).moved((float(dx), float(dy), 0.0), float(random.uniform(-30, 30)))


def random_brain(seed: int, dimensions: int = 2) -> Phantom:
    """Return a random head: an ellipse of activity 1 with hot regions of 3 to 9, in a ring of bone.

    seed : a non-negative integer; each seed has its own phantom, whatever was drawn before.
    dimensions : 2 for infinite cylinders (paint it on a grid of one slice) or 3 for ellipsoids.
    As published: background 1, hot values from 3 to 9 that are most frequent around 6, outside 0, water in the ellipse
    and 2 to 4 mm of bone around it. The publication does not say more; these ranges are ours, all uniform but for the
    values: values are normal (mean 6, standard deviation 1.5) cut to 3 to 9; 2 to 6 hot regions, each a union of 2 to 5
    ellipses with semi-axes of 5 to 16 mm, centres within 12 mm and any turn; head semi-axes 65 to 80 mm (x), 80 to
    100 mm (y) and 65 to 80 mm (z), turned by up to 30 degrees and displaced by up to 10 mm along x and y. Hot regions
    stay inside the head and may cover each other. The ring is the difference of two ellipses, so 2 to 4 mm is its
    thickness along the axes.
    Raises ValueError for other dimensions and seeds.
    Source: Shao et al. 2021 (SPECTnet), section on the training phantoms.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    random = generator(seed, "brain")
    head, bone = random.uniform((65, 80, 65), (80, 100, 80)), random.uniform(2, 4)
    regions = [
        Region("skull", _body(np.zeros(3), head + bone, 0.0, dimensions), 0.0, "bone-cortical"),
        Region("brain", _body(np.zeros(3), head, 0.0, dimensions), 1.0, "water"),
    ]
    for k in range(1, int(random.integers(2, 6, endpoint=True)) + 1):
        activity = _cut_normal(random, 6.0, 1.5, 3.0, 9.0)
        regions += [Region(f"hot {k}", shape, activity) for shape in _blob(random, head, dimensions)]
    dx, dy = random.uniform(-10, 10, 2)
    return Phantom(tuple(regions)).moved((float(dx), float(dy), 0.0), float(random.uniform(-30, 30)))


# ---- random shapes ---------------------------------------------------------------------------------------------------


def _body(centre: np.ndarray, radii: np.ndarray, angle: float, dimensions: int) -> Solid:
    x, y, z = (float(c) for c in centre)
    a, b, c = (float(r) for r in radii)
    return Cylinder((x, y, 0.0), (a, b), angle=angle) if dimensions == 2 else Ellipsoid((x, y, z), (a, b, c), angle)


def _blob(random: np.random.Generator, head: np.ndarray, dimensions: int) -> list[Solid]:
    """Return a union of ellipses that lies inside the ellipsoid `head` around the origin."""
    n = int(random.integers(2, 5, endpoint=True))
    radii, angles = random.uniform(5, 16, (n, 3)), random.uniform(0, 180, n)
    offsets = 12 * _in_ball(random, n, dimensions)
    # an ellipse is inside if its centre's norm (that of the head) and its longest over the shortest semi-axis allow it
    room = 1 - radii[:, :dimensions].max(1) / head[:dimensions].min()
    while True:
        centres = head * _in_ball(random, 1, dimensions) + offsets
        if np.all(np.linalg.norm(centres / head, axis=1) <= room):
            return [_body(c, r, float(a), dimensions) for c, r, a in zip(centres, radii, angles)]


def _inside(
    random: np.random.Generator, body: np.ndarray, size: tuple[float, float], dimensions: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return centre, semi-axes and turn of an ellipse that lies inside the ellipsoid `body` around the origin."""
    radii, angle = random.uniform(*size, 3), float(random.uniform(0, 180))
    room = 1 - radii[:dimensions].max() / body[:dimensions].min()
    return room * body * _in_ball(random, 1, dimensions)[0], radii, angle


def _apart(
    random: np.random.Generator,
    body: np.ndarray,
    ranges: EllipseRanges,
    dimensions: int,
    taken: Sequence[tuple[np.ndarray, float]],
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return `_inside`, drawn again until it touches none of the (centre, radius) that are taken, if it must not."""
    for _ in range(10000):
        centre, radii, angle = _inside(random, body, ranges.size, dimensions)
        reach = radii[:dimensions].max()
        if ranges.overlap or all(np.linalg.norm(centre - other) > reach + r for other, r in taken):
            return centre, radii, angle
    low, high = ranges.size
    raise ValueError(
        f"no room for ellipse {len(taken) + 1} with semi-axes of {low:g} to {high:g} mm beside the others; "
        "allow overlap, or take fewer or smaller ones"
    )


def _in_ball(random: np.random.Generator, n: int, dimensions: int) -> np.ndarray:
    """Return (n, 3) points spread evenly over the unit ball, or over the unit disc with z = 0."""
    directions = random.normal(size=(n, 3)) * (np.arange(3) < dimensions)
    length = random.uniform(size=(n, 1)) ** (1 / dimensions)
    points: np.ndarray = length * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return points


def _cut_normal(random: np.random.Generator, mean: float, deviation: float, low: float, high: float) -> float:
    while True:
        value = float(random.normal(mean, deviation))
        if low <= value <= high:
            return value


# ---- painting --------------------------------------------------------------------------------------------------------


def _activity(region: Region) -> float | None:
    return region.activity


def _painted(layers: Sequence[Layer], grid: ImageGrid, oversample: int) -> np.ndarray:
    """Return the mean of the painted values over every voxel, float32, a few x-planes at a time."""
    if oversample < 1:
        raise ValueError(f"oversample must be at least 1, got {oversample}")
    axes = [c.ravel() for c in grid.coordinates()]
    flat = grid.shape[2] == 1
    half = (grid.voxel_size[0] / 2, grid.voxel_size[1] / 2, 0.0 if flat else grid.voxel_size[2] / 2)
    offsets = sub_positions(half, oversample)
    image = np.zeros(grid.shape, np.float32)
    n_planes = max(1, _VOXELS_AT_ONCE // (grid.shape[1] * grid.shape[2]))
    for i in range(0, grid.shape[0], n_planes):
        image[i : i + n_planes] = _painted_block(layers, [axes[0][i : i + n_planes], *axes[1:]], half, offsets)
    return image


def _painted_block(
    layers: Sequence[Layer], axes: list[np.ndarray], half: tuple[float, float, float], offsets: np.ndarray
) -> np.ndarray:
    values = np.zeros([axis.size for axis in axes])
    edge = np.zeros(values.shape, bool)
    met = []
    for shape, value in layers:
        window = _window(shape, axes, half)
        if all(part.stop > part.start for part in window):
            x, y, z = np.meshgrid(*(axis[part] for axis, part in zip(axes, window)), indexing="ij", sparse=True)
            values[window][shape.contains(x, y, z)] = value
            edge[window] |= shape.straddles(x, y, z, half)
            met.append((shape, value))
    if len(offsets) > 1:
        centres = np.stack([axis[index] for axis, index in zip(axes, np.nonzero(edge))], 1)
        values[edge] = _mean_over_voxels(met, centres, half, offsets)
    return values


def _mean_over_voxels(
    layers: Sequence[Layer], centres: np.ndarray, half: tuple[float, float, float], offsets: np.ndarray
) -> np.ndarray:
    """Return the mean over `offsets` of the painted value for voxels at `centres` (n, 3)."""
    samples = np.zeros((len(centres), len(offsets)))
    for shape, value in layers:
        x, y, z = centres.T
        near = shape.straddles(x, y, z, half)
        samples[shape.contains(x, y, z) & ~near] = value
        x, y, z = np.moveaxis(centres[near][:, None] + offsets, -1, 0)
        samples[near] = np.where(shape.contains(x, y, z), value, samples[near])
    mean: np.ndarray = samples.mean(1)
    return mean


def _window(shape: Solid, axes: list[np.ndarray], half: tuple[float, float, float]) -> tuple[slice, ...]:
    """Return the part of the grid whose voxels can touch the shape."""
    low, high = shape.bounds
    return tuple(
        slice(int(np.searchsorted(axis, a - h, "left")), int(np.searchsorted(axis, b + h, "right")))
        for axis, a, b, h in zip(axes, low, high, half)
    )


# ---- lines -----------------------------------------------------------------------------------------------------------


def _pieces(shapes: Sequence[Solid], table: np.ndarray, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return value x length, (quantities, pieces, lines), from the table (regions, quantities) with NaN for "as below".

    Every line is cut where it enters and leaves a region; the value of a piece is that of the last region around it.
    """
    if not shapes:
        return np.zeros((table.shape[1], 1, len(points)))
    enter, leave = np.stack([shape.crossing(points, directions) for shape in shapes], 1)
    if not (np.all(np.isfinite(enter)) and np.all(np.isfinite(leave))):
        raise ValueError("a line runs inside an infinite region for ever; give the cylinder a height?")
    hit, layer = _met(leave > enter)
    enter, leave = (np.where(hit, np.take_along_axis(t, layer, 0), 0.0) for t in (enter, leave))
    cuts = np.sort(np.concatenate([enter, leave]), axis=0)
    length, middle = np.diff(cuts, axis=0), (cuts[1:] + cuts[:-1]) / 2
    painted = np.zeros((table.shape[1], *length.shape))
    for first, last, values in zip(enter, leave, table[layer]):
        inside = (first < middle) & (middle < last)
        for q, value in enumerate(values.T):
            painted[q] = np.where(inside & ~np.isnan(value), value, painted[q])
    return painted * length


def _attenuated(activity: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return what gets through, from activity x mm and mu x mm of the pieces (pieces, lines), the detector last."""
    depth = depth / 10
    ahead = np.cumsum(depth[::-1], 0)[::-1] - depth
    own = np.divide(-np.expm1(-depth), depth, out=np.ones_like(depth), where=depth > 0)
    seen: np.ndarray = (activity * np.exp(-ahead) * own).sum(0)
    return seen


def _met(hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (most, lines) whether there is such a region and its number: the regions each line meets, in their order.

    hit : (regions, lines). Of the many regions of a phantom a line meets few, and the rest is dropped here.
    """
    line, region = np.nonzero(hit.T)
    n_met = hit.sum(0)
    place = np.arange(line.size) - (np.cumsum(n_met) - n_met)[line]
    layer = np.zeros((max(1, int(n_met.max(initial=0))), hit.shape[1]), int)
    layer[place, line] = region
    return np.arange(layer.shape[0])[:, None] < n_met, layer


def _rays(geometry: SPECTGeometry, oversample: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the points (bins * oversample, rows * oversample, 3) and the direction (3,) of the rays of each view."""
    if oversample < 1:
        raise ValueError(f"oversample must be at least 1, got {oversample}")
    (u, z), n = geometry.bin_centres(), oversample
    du, dz = (((np.arange(n) + 0.5) / n - 0.5) * size for size in geometry.pixel_size)
    fine_z = (z[:, None] + dz).ravel()
    for toward, along, centres in zip(*geometry.directions, u):
        points = np.empty((centres.size * n, fine_z.size, 3))
        points[..., :2] = (centres[:, None] + du).reshape(-1, 1, 1) * along
        points[..., 2] = fine_z
        yield points, np.append(toward, 0.0)
