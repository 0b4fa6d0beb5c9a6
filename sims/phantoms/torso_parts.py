"""The parts that `torso` is made of, in mm: outline, organs, heart and bones of a patient of a given build."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from .phantom import Region
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to

Triple = tuple[float, float, float]

BONES = ("spine", "rib", "sternum", "scapula", "clavicle", "humerus", "forearm", "pelvis", "femur")
"""Bones by which `torso` may be given uptake; "bone" stands for all of them."""

_TOP, _BOTTOM = 345.0, -335.0  # mm, neck and thighs

_CAGE_CENTRE, _CAGE_RADII, _RIB_DEPTH = (0.0, -2.0, 80.0), (142.0, 97.0, 235.0), 8.0

_SPINE_TOP, _N_VERTEBRAE = 300.0, 17

_TRABECULAR, _CORTICAL, _FLAT_BONE = 1.18, 1.60, 1.40  # g/mL

# where the middle of the vertebrae lies, from the neck to the sacrum
_SPINE_Z, _SPINE_Y = (-176, -100, -20, 60, 150, 230, 300), (38, 30, 46, 60, 64, 55, 38)

_LIVER_CUT = (0.55, 0.25, -0.80)


@dataclass(frozen=True)
class Build:
    """The body of a patient, as it differs from the reference.

    Args:
        scale : factors of all lengths along x, y and z, skeleton and organs alike.
        fat : mm of fat under the skin.
        shift : (x, y, z) in mm by organ.
        growth : factor of all lengths by organ. Organs are named as in `torso`: one of a pair by its side ("left
            kidney"), or both ("kidney"). Hearts, bones and the body keep their place.

    Raises ValueError for factors outside 0.5 to 2, fat outside 0 to 80 mm, and organs that cannot be moved.
    """

    scale: Triple = (1.0, 1.0, 1.0)
    fat: float = 12.0
    shift: Mapping[str, Triple] = field(default_factory=dict)
    growth: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        factors = np.array([*np.ravel(self.scale), *self.growth.values()], float)
        if np.size(self.scale) != 3 or not np.all((factors >= 0.5) & (factors <= 2)):
            raise ValueError(f"Build: scale (three) and growth must be 0.5 to 2, got {self.scale}, {dict(self.growth)}")
        if not 0 <= self.fat <= 80:
            raise ValueError(f"Build: fat must be 0 to 80 mm, got {self.fat}")
        unknown = {*self.shift, *self.growth} - {*ORGANS, *map(kind, ORGANS)}
        if unknown:
            raise ValueError(f"Build: cannot move {', '.join(sorted(unknown))}; organs are {', '.join(ORGANS)}")
        object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))


# centre, semi-axes in mm, and the directions of the first two of them where they are not x and y
ORGANS: dict[str, tuple[Triple, Triple, tuple[Triple, Triple] | None]] = {
    "stomach": ((66, -16, 16), (34, 30, 50), ((0.9, -0.1, 0.4), (0, 1, 0))),
    "bowel": ((0, -36, -120), (108, 47, 68), None),
    "liver": ((-15, -15, 12), (113, 73, 89), ((1, -0.315, 0), (0.315, 1, 0))),
    "spleen": ((83, 37, 44), (53, 35, 21), ((0.3, -0.4, -0.87), (0.6, -0.8, 0))),
    "left kidney": ((66, 46, -42), (28, 24, 54), ((0.95, -0.2, 0.2), (0.2, 0.98, 0))),
    "right kidney": ((-66, 46, -52), (28, 24, 54), ((0.95, 0.2, -0.2), (-0.2, 0.98, 0))),
    "bladder": ((0, -18, -262), (38, 36, 35), None),
}


def kind(name: str) -> str:
    """Return the name of an organ without its side."""
    return name.removeprefix("left ").removeprefix("right ")


def outside(fat: float, arms: bool) -> Iterator[Region]:
    """Yield skin and fat, soft tissue, ribs, and what is inside the ribs: lungs and the domes of the diaphragm."""
    for name, more, material in (("fat", fat, "adipose"), ("body", 0.0, "water")):
        yield from (Region(name, solid, None, material) for solid in _outline(more, arms))
    yield from (Region("rib", solid, None, "bone-cortical", density=_FLAT_BONE) for solid in _ribs())
    yield Region("body", _cartilage(), None, "water")
    yield Region("body", _cage(_RIB_DEPTH), None, "water")
    for side in (1, -1):
        bottom = HalfSpace((0, 80, 5), (0, -0.47, -1))
        solid = Intersection((_cage(_RIB_DEPTH + 3), HalfSpace((18 * side, 0, 0), (-side, 0, 0)), bottom))
        yield Region(_side(side) + "lung", solid, None, "lung")
    for dome in (Ellipsoid((-60, -4, 10), (80, 86, 98)), Ellipsoid((62, -2, 2), (78, 84, 92))):
        yield Region("body", Intersection((dome, _cage(_RIB_DEPTH))), None, "water")


def _outline(more: float, arms: bool) -> Iterator[Solid]:
    """Yield the outside of the body as overlapping solids, `more` mm larger all round."""
    height = _TOP - _BOTTOM
    ends = Box((0, 0, (_TOP + _BOTTOM) / 2), (1000, 1000, height))
    for centre, radii in (
        ((0, 0, 90), (158, 108, 232)),
        ((0, 2, -250), (174, 108, 190)),
        ((0, 14, 244), (202, 74, 56)),
        ((0, 24, 276), (122, 56, 46)),
        ((0, 28, 185), (172, 82, 118)),
        *(((side * 160, 14, 228), (42, 46, 66)) for side in (1, -1)),
    ):
        yield Intersection((Ellipsoid(centre, tuple(r + more for r in radii)), ends))  # type: ignore[arg-type]
    yield Cylinder((0, 0, (200 + _BOTTOM) / 2), (142 + more, 97 + more), 200 - _BOTTOM)
    yield Cylinder((0, 24, (_TOP + 200) / 2), (58 + more, 62 + more), _TOP - 200)
    for side in (1, -1) if arms else ():
        yield Ellipsoid((side * 200, 12, 215), (46 + more, 42 + more, 75 + more))
        yield Cylinder((side * 214, 10, (225 + _BOTTOM) / 2), (36 + more, 38 + more), 225 - _BOTTOM)


def _cage(depth: float) -> Ellipsoid:
    return Ellipsoid(_CAGE_CENTRE, tuple(r - depth for r in _CAGE_RADII))  # type: ignore[arg-type]


def _ribs() -> Iterator[Solid]:
    """Yield the ribs as discs: slabs of the cage, whose inside is painted over them and leaves 8 mm of shell.

    They fall to the front (by 24 to 35 degrees) and to the side (7 degrees); the last two end at the side.
    """
    (_, y0, z0), (_, b, c) = _CAGE_CENTRE, _CAGE_RADII
    droop = math.tan(math.radians(7))
    for number, (_, _, z) in zip(range(12), _vertebrae()):
        fall = math.tan(math.radians(35 if number == 0 else 30 if number < 10 else 24))
        back = y0 + b * math.sqrt(1 - ((z - z0) / c) ** 2)
        front = {10: 5.0, 11: 30.0}.get(number, -200.0)
        low = z - fall * (back - y0 + b) - droop * _CAGE_RADII[0]
        for side in (1, -1):
            normal = np.array([side * droop, -fall, 1.0])
            step = 5.5 * normal / np.linalg.norm(normal)
            faces = (HalfSpace(tuple(s * step + (0, back, z)), tuple(s * normal)) for s in (1, -1))
            box = Box((side * 80, (front + 200) / 2, (low + z + 8) / 2), (160, 200 - front, z + 24 - low))
            yield Intersection((_cage(0.0), box, *faces))


def _cartilage() -> Solid:
    """What joins the ribs to the sternum: between two planes that part towards the belly."""
    sides = (HalfSpace((side * 28, 0, 235), (side, 0, 0.35)) for side in (1, -1))
    return Intersection((_cage(0.0), *sides, HalfSpace((0, -30, 0), (0, 1, 0))))


def organs(build: Build) -> Iterator[Region]:
    """Yield vessels and organs, moved and grown as the build says."""
    yield Region("aorta", _rod((16, 34, 175), (12, 0, -130), 11), None, "muscle")
    yield Region("vena cava", _rod((-15, 26, 70), (-14, 0, -130), 10), None, "muscle")
    for name, (centre, radii, axes) in ORGANS.items():
        growth = build.growth.get(name, build.growth.get(kind(name), 1.0))
        shift = build.shift.get(name, build.shift.get(kind(name), (0.0, 0.0, 0.0)))
        at = tuple(c + s for c, s in zip(centre, shift))
        solid: Solid = _ellipsoid(at, tuple(growth * r for r in radii), axes)  # type: ignore[arg-type]
        if name == "liver":
            solid = Intersection((solid, HalfSpace(at, _LIVER_CUT)))  # type: ignore[arg-type]
        yield Region(name, solid, None, "water" if name == "bladder" else "muscle")


def heart() -> Iterator[Region]:
    """Yield a heart like that of `cardiac_torso`, simpler: blood, and a left ventricle of one piece."""
    rotation, base = heart_axes((0.62, -0.60, -0.50)), np.array((42, -38, 122.0)) - 45 * _unit((0.62, -0.60, -0.50))
    yield from (Region("heart", Oriented(s, rotation, tuple(base)), None, "muscle") for s in beside_the_ventricle())
    for name, radius, length in (("myocardium", 35, 90), ("heart", 25, 80)):
        half = Intersection((Ellipsoid((0, 0, 0), (radius, radius, length)), HalfSpace((0, 0, 0), (0, 0, -1))))
        yield Region(name, Oriented(half, rotation, tuple(base)), None, "muscle")


def beside_the_ventricle(wall: float = 0.0) -> tuple[Solid, ...]:
    """Return the right ventricle and the atria of a left ventricle of 90 mm around +z, whose base is at the origin.

    x points to the septum and y down, see `heart_axes`.  wall : mm by which the right ventricle is larger.
    """
    right = Ellipsoid((28, 6, 6), (38 + wall, 38 + wall, 66 + wall))
    return (
        Intersection((right, HalfSpace((0, 0, -8 - wall), (0, 0, -1)))),
        Ellipsoid((18, 0, -24), (50, 34, 30)),
    )


def heart_axes(direction: ArrayLike, roll: float = 0.0) -> tuple[Triple, ...]:
    """Return the rotation whose columns are: towards the septum, down (inferior wall), and along the long axis.

    Args:
        direction : from base to apex, not along z.
        roll : degrees by which the septum is turned towards the anterior wall.

    Without roll the anterior wall is the uppermost: its middle is the head's direction (+z) less its part along the
    axis. The septum is then direction x anterior, to the right where the apex points to the front.

    Raises ValueError for a direction along z.
    """
    axis = _unit(direction)
    anterior = np.array((0.0, 0.0, 1.0)) - axis[2] * axis
    if np.linalg.norm(anterior) < 1e-6:
        raise ValueError("the long axis points along z, which leaves the anterior wall undefined; tilt it a little")
    anterior = _unit(anterior)
    septum, angle = np.cross(axis, anterior), math.radians(roll)
    turned = math.cos(angle) * septum + math.sin(angle) * anterior
    return rows(np.stack([turned, np.cross(axis, turned), axis], 1))


def skeleton(arms: bool) -> Iterator[Region]:
    """Yield all bones but the ribs, with those of the arms if they are there."""

    def bone(name: str, solid: Solid, density: float = _FLAT_BONE) -> Region:
        return Region(name, solid, None, "bone-cortical", density=density)

    yield bone("sternum", _ellipsoid((0, -77, 226), (31, 24, 6), ((1, 0, 0), (0, -0.25, -1))))
    yield bone("sternum", _ellipsoid((0, -90, 152), (20, 56, 6), ((1, 0, 0), (0, -0.17, -1))))
    for size, height, z in _vertebrae():
        y = float(np.interp(z, _SPINE_Z, _SPINE_Y))
        body = Cylinder((0, y, z), (size, 0.72 * size), height)
        yield bone("spine", body, _CORTICAL)
        yield bone("spine", replace(body, radii=(size - 2, 0.72 * size - 2), height=height - 3), _TRABECULAR)
        back = y + 0.72 * size + 14
        yield bone("spine", _ellipsoid((0, back + 2, z - 6), (3.5, 14, 0.35 * height), ((1, 0, 0), (0, 1, -0.45))))
        yield bone("spine", Ellipsoid((0, back - 3, z), (1.5 * size, 5, 0.28 * height)))
    yield bone("spine", _ellipsoid((0, 60, -218), (46, 15, 52), ((1, 0, 0), (0, 0.93, 0.37))))
    yield bone("spine", _rod((0, 78, -255), (0, 70, -298), 8))
    for side in (1, -1):
        yield from (bone(_side(side) + name, solid) for name, solid in _bones_of_a_side(side))
        if arms:
            yield bone(_side(side) + "humerus", _rod((side * 192, 14, 205), (side * 212, 12, -40), 12))
            for x, y in ((204, 4), (222, 16)):
                yield bone(_side(side) + "forearm", Cylinder((side * x, y, (_BOTTOM - 45) / 2), 7, -45 - _BOTTOM))


def _vertebrae() -> Iterator[tuple[float, float, float]]:
    """Yield half of the width, the height and z of the middle of the vertebrae from T1 to L5, in mm."""
    z = _SPINE_TOP
    for k in range(_N_VERTEBRAE):
        pitch = 19 + 18 * k / (_N_VERTEBRAE - 1)
        yield 13 + 11 * k / (_N_VERTEBRAE - 1), 0.8 * pitch, z - pitch / 2
        z -= pitch


def _bones_of_a_side(side: int) -> Iterator[tuple[str, Solid]]:
    def p(x: float, y: float, z: float) -> Triple:
        return side * x, y, z

    blade, up = p(0.63, 0.74, 0.14), p(0.25, -0.02, 1)
    borders = HalfSpace(p(142, 0, 240), p(0.9, 0, -0.44)), HalfSpace(p(72, 0, 0), p(-1, 0, 0.1))
    yield "scapula", Intersection((_ellipsoid(p(104, 69, 200), (4.5, 76, 58), (blade, up)), *borders))
    yield "scapula", _rod(p(62, 86, 232), p(158, 38, 268), 6.5)
    yield "scapula", _rod(p(122, 52, 244), p(144, 26, 246), 11)
    yield "clavicle", _rod(p(22, -58, 252), p(88, -38, 268), 6)
    yield "clavicle", _rod(p(88, -38, 268), p(158, 24, 272), 6)
    yield "humerus", Ellipsoid(p(167, 18, 244), 23)
    yield "humerus", _rod(p(176, 16, 236), p(192, 14, 205), 12)
    crest, flare = p(0.62, -0.79, 0), p(0.30, 0.22, 0.93)
    yield "pelvis", _ellipsoid(p(84, 14, -178), (64, 58, 6.5), (crest, flare))
    yield "pelvis", _ellipsoid(p(74, 22, -228), (20, 26, 36), (p(1, 0, 0.3), (0, 1, 0)))
    yield "pelvis", Ellipsoid(p(84, 0, -262), (30, 29, 30))
    yield "pelvis", _rod(p(74, -22, -262), p(12, -60, -284), 9)
    yield "pelvis", _ellipsoid(p(11, -62, -292), (9, 9, 19), None)
    yield "pelvis", _rod(p(14, -60, -302), p(50, 16, -322), 7)
    yield "pelvis", _rod(p(76, 14, -270), p(56, 26, -320), 14)
    yield "femur", Ellipsoid(p(90, -4, -264), 23.5)
    yield "femur", _rod(p(90, -4, -264), p(132, 5, -292), 14)
    yield "femur", _ellipsoid(p(138, 10, -286), (15, 20, 26), None)
    yield "femur", Cylinder(p(130, 6, (_BOTTOM - 290) / 2), 15, -290 - _BOTTOM)


def _side(side: int) -> str:
    return "left " if side > 0 else "right "


def _ellipsoid(centre: Triple, radii: Triple, axes: tuple[Triple, Triple] | None) -> Solid:
    """An ellipsoid; axes: directions of its first two semi-axes, the second made perpendicular."""
    if axes is None:
        return Ellipsoid(centre, radii)
    first = _unit(axes[0])
    second = _unit(np.array(axes[1]) - (first @ np.array(axes[1])) * first)
    return Oriented(Ellipsoid((0, 0, 0), radii), rows(np.stack([first, second, np.cross(first, second)], 1)), centre)


def _rod(start: Triple, end: Triple, radius: float) -> Oriented:
    along = np.subtract(end, start)
    middle: Triple = tuple((np.add(start, end) / 2).tolist())
    return Oriented(Cylinder((0, 0, 0), radius, float(np.linalg.norm(along))), rotation_to(along), middle)


def _unit(vector: ArrayLike) -> np.ndarray:
    values = np.asarray(vector, float)
    unit: np.ndarray = values / np.linalg.norm(values)
    return unit


def rows(matrix: np.ndarray) -> tuple[Triple, ...]:
    """Return a matrix as a tuple of rows, as `Oriented` wants it."""
    return tuple(map(tuple, matrix.tolist()))
