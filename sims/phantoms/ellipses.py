"""Heads and bodies of ellipses: Shepp-Logan, random ellipses, simple random brains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..noise import generator
from .phantom import Phantom, Region
from .shapes import Cylinder, Ellipsoid, Solid

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

    Args:
        size : edge in mm of the square around the slice (the head is 0.92 of it long).
        activity : of the skull, or of the brain with emission=True.
        emission : False gives the values of the modified phantom, 1, 0.2, 0 and 0.3, but they replace each other
            instead of adding up, so nothing is negative (the upper lesion gets 0.4, to be seen on the large one). True
            fills the same ellipsoids as a scan would find them, in values of our choice: nothing in the skull, 1 in the
            brain, nothing in the ventricles, 2 in the large lesion and 4 in the five small ones.

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

    Args:
        number : of ellipses.
        size : their semi-axes in mm.
        activity : theirs, where the body has 1.
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

    Args:
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

    Args:
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
