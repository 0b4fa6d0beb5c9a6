"""A parametric human torso made of convex solids: anatomy, uptake of common tracers, lesions, random patients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from .noise import generator
from .phantoms import Phantom, Region
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to

Triple = tuple[float, float, float]

BONES = ("spine", "rib", "sternum", "scapula", "clavicle", "humerus", "forearm", "pelvis", "femur")
"""Bones by which `torso` may be given uptake; "bone" stands for all of them."""

UPTAKES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        # Tc-99m diphosphonate three hours after injection, soft tissue 1
        "bone-scan": {
            "body": 1.0,
            "fat": 0.5,
            "bone": 8.0,
            "spine": 10.0,
            "pelvis": 9.0,
            "rib": 7.0,
            "lung": 0.5,
            "liver": 1.2,
            "spleen": 1.2,
            "kidney": 9.0,
            "bladder": 40.0,
            "blood": 1.5,
            "myocardium": 1.2,
            "stomach": 1.0,
            "bowel": 1.0,
        },
        # F-18 FDG one hour after injection, as standardised uptake values
        "fdg": {
            "body": 0.7,
            "fat": 0.25,
            "bone": 0.9,
            "spine": 1.4,
            "lung": 0.45,
            "liver": 2.2,
            "spleen": 1.8,
            "kidney": 3.0,
            "bladder": 20.0,
            "blood": 1.6,
            "myocardium": 5.0,
            "stomach": 1.5,
            "bowel": 1.2,
        },
        # Lu-177 DOTATATE a day after injection, liver 1
        "lu-177": {
            "body": 0.06,
            "fat": 0.03,
            "bone": 0.10,
            "lung": 0.05,
            "liver": 1.0,
            "spleen": 3.3,
            "kidney": 2.2,
            "bladder": 1.5,
            "blood": 0.12,
            "myocardium": 0.12,
            "stomach": 0.15,
            "bowel": 0.25,
        },
    }
)
"""Activity per mL by organ, our choice of typical values; Lu-177 liver, spleen and kidneys as in one patient."""

_TOP, _BOTTOM = 345.0, -335.0  # mm, neck and thighs
_CAGE_CENTRE, _CAGE_RADII, _RIB_DEPTH = (0.0, -2.0, 80.0), (142.0, 97.0, 235.0), 8.0
_SPINE_TOP, _N_VERTEBRAE = 300.0, 17
_TRABECULAR, _CORTICAL, _FLAT_BONE = 1.18, 1.60, 1.40  # g/mL
# where the middle of the vertebrae lies, from the neck to the sacrum
_SPINE_Z, _SPINE_Y = (-176, -100, -20, 60, 150, 230, 300), (38, 30, 46, 60, 64, 55, 38)
_LIVER_CUT = (0.55, 0.25, -0.80)
_MOST_LESIONS = 40


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid hotter, or colder, than what is around it.

    centre : (x, y, z) in mm.  diameter : mm, one number or the three along x, y and z.
    ratio : its activity over that of the phantom at its centre, where the phantom has any.
    name : of its region; None numbers them, "lesion 1" and so on.  material : None keeps the attenuation below, which
        is right in bone and in soft tissue; a nodule of the lung is "muscle".
    Raises ValueError for a ratio that is negative or not finite.
    """

    centre: Triple
    diameter: float | Triple
    ratio: float
    name: str | None = None
    material: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < math.inf:
            raise ValueError(f"lesion ratio must be finite and >= 0, got {self.ratio}")

    @property
    def solid(self) -> Ellipsoid:
        """The ellipsoid."""
        radii = np.broadcast_to(np.asarray(self.diameter, float) / 2, 3)
        return Ellipsoid(self.centre, tuple(radii.tolist()))


@dataclass(frozen=True)
class Build:
    """The body of a patient, as it differs from the reference.

    scale : factors of all lengths along x, y and z, skeleton and organs alike.
    fat : mm of fat under the skin.
    shift : (x, y, z) in mm by organ.  growth : factor of all lengths by organ. Organs are named as in `torso`: one of a
        pair by its side ("left kidney"), or both ("kidney"). Hearts, bones and the body keep their place.
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
        unknown = {*self.shift, *self.growth} - {*_ORGANS, *map(_kind, _ORGANS)}
        if unknown:
            raise ValueError(f"Build: cannot move {', '.join(sorted(unknown))}; organs are {', '.join(_ORGANS)}")
        object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))


# centre, semi-axes in mm, and the directions of the first two of them where they are not x and y
_ORGANS: dict[str, tuple[Triple, Triple, tuple[Triple, Triple] | None]] = {
    "stomach": ((66, -16, 16), (34, 30, 50), ((0.9, -0.1, 0.4), (0, 1, 0))),
    "bowel": ((0, -36, -120), (108, 47, 68), None),
    "liver": ((-15, -15, 12), (113, 73, 89), ((1, -0.315, 0), (0.315, 1, 0))),
    "spleen": ((83, 37, 44), (53, 35, 21), ((0.3, -0.4, -0.87), (0.6, -0.8, 0))),
    "left kidney": ((66, 46, -42), (28, 24, 54), ((0.95, -0.2, 0.2), (0.2, 0.98, 0))),
    "right kidney": ((-66, 46, -52), (28, 24, 54), ((0.95, 0.2, -0.2), (-0.2, 0.98, 0))),
    "bladder": ((0, -18, -262), (38, 36, 35), None),
}


def _kind(name: str) -> str:
    return name.removeprefix("left ").removeprefix("right ")


def torso(
    uptake: str | Mapping[str, float] = "fdg",
    lesions: Sequence[Lesion] = (),
    arms: bool = False,
    build: Build = Build(),
) -> Phantom:
    """Return a human torso from the neck to the thighs, 680 mm long, x to the left, y to the back and z to the head.

    uptake : activity per mL, by the name of a preset ("bone-scan", "fdg" or "lu-177", see `UPTAKES`) or by organ:
        a region's name ("left kidney"), the same without its side ("kidney"), "bone" for bones that are not given by
        themselves, and "body", which every other organ gets that is not given.
    lesions : painted on top, in their order.
    arms : beside the body, as in SPECT with the arms down; they reach x = +-262 mm.
    build : how the patient differs from the reference, `Build()`.

    Region names: "fat" (under the skin), "body" (all soft tissue without a name), "liver", "spleen", "stomach",
    "bowel", "bladder", "aorta", "vena cava", "myocardium" (left ventricle), "heart" (all chambers' blood), "rib",
    "spine" (vertebrae and sacrum), "sternum", and with "left " or "right " before it "lung", "kidney", "scapula",
    "clavicle", "humerus", "forearm" (with arms), "pelvis" and "femur". Vessels and "heart" share the uptake "blood".
    Volumes of the reference: liver 1.54 L (half an ellipsoid), lungs 3.8 L together, kidneys 152 mL each, spleen
    163 mL, bladder 201 mL, myocardium 126 mL, bowel 1.4 L, stomach 0.2 L. z = 0 is at the last thoracic vertebra, the
    arch of the diaphragm at 100, the top of the lungs at 290 and the seat at -335.
    Attenuation: fat as adipose, the body as water, organs as muscle, lungs of 0.26 g/mL, and bone as cortical bone at
    1.60 g/mL on the outside of vertebrae, 1.18 g/mL within, and 1.40 g/mL where inside and outside are not told apart.
    All sizes and values are our choice within the ranges of healthy adults; no atlas is behind them.
    Raises ValueError for an unknown preset or organ, a mapping without "body", and a lesion outside of the body.
    """
    heart = (replace(region, shape=stretched(region.shape, build.scale)) for region in _heart())
    return with_lesions(torso_around(heart, uptake, arms, build), lesions)


def torso_around(
    heart: Iterable[Region], uptake: str | Mapping[str, float], arms: bool = False, build: Build = Build()
) -> Phantom:
    """Return the torso of `torso` around another heart.

    heart : its regions in painter's order, in place; those without activity get theirs from `uptake`.
    """

    def fitted(regions: Iterable[Region]) -> Iterator[Region]:
        return (replace(region, shape=stretched(region.shape, build.scale)) for region in regions)

    inside = fitted((*_outside(build.fat, arms), *_organs(build)))
    return Phantom(tuple(_filled((*inside, *heart, *fitted(_skeleton(arms))), uptake)))


def with_lesions(phantom: Phantom, lesions: Sequence[Lesion]) -> Phantom:
    """Return the phantom with lesions on top, each `ratio` times as active as the phantom is at its centre.

    Raises ValueError for a lesion where the phantom has no region.
    """
    painted = []
    for number, lesion in enumerate(lesions, 1):
        name, below = lesion.name or f"lesion {number}", _at(phantom.regions, lesion.centre)
        if below is None:
            raise ValueError(f"{name} is centred outside of the body, at {lesion.centre} mm")
        activity = lesion.ratio * (below.activity or 0.0)
        painted.append(Region(name, lesion.solid, activity, lesion.material))
    return Phantom((*phantom.regions, *painted))


def random_torso(seed: int, uptake: str | Mapping[str, float] = "fdg", lesions: tuple[int, int] = (0, 6)) -> Phantom:
    """Return a random patient; each seed has its own, whatever was drawn before.

    seed : a non-negative integer.  uptake : as for `torso`.  lesions : the lowest and highest number of them.
    Ranges, ours and uniform: scale 0.92 to 1.06 along x and y and 0.93 to 1.05 along z, fat 4 to 30 mm; liver, spleen,
    stomach, kidneys and bladder displaced by up to 3 mm along each axis and 0.94 to 1.04 as long (bladder 0.75 to 1.1);
    every organ's activity times a factor of 0.8 to 1.25 (uniform in its logarithm); arms down in one of five.
    Lesions are ellipsoids, each with its own region ("lesion 1", ...) and centred in the tissue it belongs to:
        bone-scan  bones, most of them in spine, ribs and pelvis; 10 to 30 mm, 2 to 8 times the bone
        fdg        liver (1.5 to 4 times), lung (5 to 20 times, soft tissue) and lymph nodes around the aorta (3 to 15
                   times the body); 8 to 30 mm
        lu-177     liver (4 to 24 times), lymph nodes (40 to 200 times the body) and bone (20 to 100 times); 10 to 40 mm
    Any other uptake takes the places and ratios of fdg. Axes differ by up to 15 % from the mean. Lesions do not touch
    each other.
    Raises ValueError for a negative seed, and unless 0 <= lowest <= highest number <= 40 (more may not find room).
    """
    low, high = lesions
    if not 0 <= low <= high <= _MOST_LESIONS:
        raise ValueError(f"random_torso: lesions must be 0 <= lowest <= highest <= {_MOST_LESIONS}, got {lesions}")
    random = generator(seed, "torso")
    plain = torso(varied(random, _table(uptake)), arms=bool(random.uniform() < 0.2), build=random_build(random))
    sites = _SITES[uptake if isinstance(uptake, str) else "fdg"]
    return with_lesions(plain, _random_lesions(random, plain, sites, int(random.integers(low, high + 1))))


def varied(random: np.random.Generator, uptake: Mapping[str, float]) -> dict[str, float]:
    """Return the uptake with every organ's activity times 0.8 to 1.25, uniform in the logarithm."""
    low, high = math.log(0.8), math.log(1.25)
    return {organ: value * math.exp(random.uniform(low, high)) for organ, value in sorted(uptake.items())}


def random_build(random: np.random.Generator) -> Build:
    """Return a random build, of the ranges `random_torso` tells."""
    x, y, z = random.uniform((0.92, 0.92, 0.93), (1.06, 1.06, 1.05)).tolist()
    moving = [organ for organ in _ORGANS if organ != "bowel"]
    shift = {organ: tuple(random.uniform(-3, 3, 3).tolist()) for organ in moving}
    growth = {organ: float(random.uniform(*((0.75, 1.1) if organ == "bladder" else (0.94, 1.04)))) for organ in moving}
    return Build((x, y, z), float(random.uniform(4, 30)), shift, growth)


# ---- uptake ----------------------------------------------------------------------------------------------------------


def _table(uptake: str | Mapping[str, float]) -> Mapping[str, float]:
    if not isinstance(uptake, str):
        return uptake
    if uptake not in UPTAKES:
        raise ValueError(f"no uptake {uptake!r}; known: {', '.join(UPTAKES)}, or give a mapping of organs to activity")
    return UPTAKES[uptake]


def _filled(regions: Sequence[Region], uptake: str | Mapping[str, float]) -> Iterator[Region]:
    """Yield the regions, those without activity with that of the uptake."""
    table = _table(uptake)
    known = {key for region in regions if region.activity is None for key in _keys(region.name)}
    if unknown := set(table) - known:
        raise ValueError(f"uptake: no organ {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    if "body" not in table:
        raise ValueError('uptake: "body" is missing, the activity of all that is not given')
    for region in regions:
        value = next(table[key] for key in _keys(region.name) if key in table)
        yield replace(region, activity=value) if region.activity is None else region


def _keys(name: str) -> tuple[str, ...]:
    """By what an organ's activity is looked up, the most particular first."""
    kind = _kind(name)
    group = "bone" if kind in BONES else "blood" if kind in ("aorta", "vena cava", "heart") else "body"
    return name, kind, group, "body"


# ---- anatomy ---------------------------------------------------------------------------------------------------------


def _outside(fat: float, arms: bool) -> Iterator[Region]:
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


def _organs(build: Build) -> Iterator[Region]:
    yield Region("aorta", _rod((16, 34, 175), (12, 0, -130), 11), None, "muscle")
    yield Region("vena cava", _rod((-15, 26, 70), (-14, 0, -130), 10), None, "muscle")
    for name, (centre, radii, axes) in _ORGANS.items():
        growth = build.growth.get(name, build.growth.get(_kind(name), 1.0))
        shift = build.shift.get(name, build.shift.get(_kind(name), (0.0, 0.0, 0.0)))
        at = tuple(c + s for c, s in zip(centre, shift))
        solid: Solid = _ellipsoid(at, tuple(growth * r for r in radii), axes)  # type: ignore[arg-type]
        if name == "liver":
            solid = Intersection((solid, HalfSpace(at, _LIVER_CUT)))  # type: ignore[arg-type]
        yield Region(name, solid, None, "water" if name == "bladder" else "muscle")


def _heart() -> Iterator[Region]:
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


def heart_axes(direction: Any, roll: float = 0.0) -> tuple[Triple, ...]:
    """Return the rotation whose columns are: towards the septum, down (inferior wall), and along the long axis.

    direction : from base to apex, not along z.  roll : degrees by which the septum is turned towards the anterior wall.
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
    return _rows(np.stack([turned, np.cross(axis, turned), axis], 1))


def _skeleton(arms: bool) -> Iterator[Region]:
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


# ---- solids ----------------------------------------------------------------------------------------------------------


def _ellipsoid(centre: Triple, radii: Triple, axes: tuple[Triple, Triple] | None) -> Solid:
    """An ellipsoid; axes: directions of its first two semi-axes, the second made perpendicular."""
    if axes is None:
        return Ellipsoid(centre, radii)
    first = _unit(axes[0])
    second = _unit(np.array(axes[1]) - (first @ np.array(axes[1])) * first)
    return Oriented(Ellipsoid((0, 0, 0), radii), _rows(np.stack([first, second, np.cross(first, second)], 1)), centre)


def _rod(start: Triple, end: Triple, radius: float) -> Oriented:
    along = np.subtract(end, start)
    middle: Triple = tuple((np.add(start, end) / 2).tolist())
    return Oriented(Cylinder((0, 0, 0), radius, float(np.linalg.norm(along))), rotation_to(along), middle)


def stretched(solid: Any, scale: Triple) -> Any:
    """Return the solid with all lengths along x, y and z multiplied.

    Rods and cut ellipsoids in an orientation of their own keep it, with lengths along their axes multiplied.
    """
    factors = np.array(scale)
    match solid:
        case Oriented(solid=Ellipsoid(centre=(0, 0, 0), angle=0) as ball):  # exactly: one ellipsoid becomes another
            axes, radii, _ = np.linalg.svd(factors[:, None] * np.array(solid.rotation) * ball.half_widths)
            axes[:, 0] *= np.linalg.det(axes)
            return Oriented(Ellipsoid((0, 0, 0), tuple(radii)), _rows(axes), tuple((factors * solid.offset).tolist()))
        case Oriented():
            R = np.array(solid.rotation)
            own: Triple = tuple(np.linalg.norm(factors[:, None] * R, axis=0).tolist())
            return Oriented(stretched(solid.solid, own), solid.rotation, tuple((factors * solid.offset).tolist()))
        case Intersection():
            return Intersection(tuple(stretched(part, scale) for part in solid.parts))
        case HalfSpace():
            return HalfSpace(tuple(factors * solid.point), tuple(np.array(solid.normal) / factors))
        case Ellipsoid():
            return Ellipsoid(tuple(factors * solid.centre), tuple(factors * solid.half_widths))
        case Cylinder():
            a, b, half = factors * solid.half_widths
            return Cylinder(tuple(factors * solid.centre), (a, b), 2 * half)
        case Box():
            return Box(tuple(factors * solid.centre), tuple(2 * factors * solid.half_widths))
    raise TypeError(f"no way to stretch {type(solid).__name__}")


def _unit(vector: Any) -> np.ndarray:
    unit: np.ndarray = np.asarray(vector, float) / np.linalg.norm(vector)
    return unit


def _rows(matrix: np.ndarray) -> tuple[Triple, ...]:
    return tuple(map(tuple, matrix.tolist()))


def _at(regions: Sequence[Region], point: Any) -> Region | None:
    """Return the region that is seen at a point, the last one that holds it."""
    return next((region for region in reversed(regions) if region.shape.contains(*point)), None)


# ---- random lesions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Site:
    """Where lesions grow: in an organ, or `beside` it in a tissue; how often, how hot, how large."""

    organ: str
    weight: float
    ratio: tuple[float, float]
    diameter: tuple[float, float]
    beside: str | None = None
    material: str | None = None


_SITES = {
    "bone-scan": (
        _Site("spine", 0.40, (2, 8), (10, 30)),
        _Site("rib", 0.25, (2, 8), (10, 20)),
        _Site("pelvis", 0.20, (2, 8), (10, 30)),
        _Site("scapula", 0.05, (2, 8), (10, 20)),
        _Site("sternum", 0.05, (2, 8), (10, 20)),
        _Site("femur", 0.05, (2, 8), (10, 30)),
    ),
    "fdg": (
        _Site("liver", 0.35, (1.5, 4), (8, 30)),
        _Site("lung", 0.35, (5, 20), (8, 30), material="muscle"),
        _Site("aorta", 0.30, (3, 15), (8, 20), beside="body"),
    ),
    "lu-177": (
        _Site("liver", 0.50, (4, 24), (10, 40)),
        _Site("aorta", 0.25, (40, 200), (10, 25), beside="body"),
        _Site("spine", 0.15, (20, 100), (10, 30)),
        _Site("pelvis", 0.10, (20, 100), (10, 30)),
    ),
}


def _random_lesions(
    random: np.random.Generator, phantom: Phantom, sites: Sequence[_Site], number: int
) -> tuple[Lesion, ...]:
    weights, lesions = np.array([site.weight for site in sites]), list[Lesion]()
    while len(lesions) < number:
        site = sites[int(random.choice(len(sites), p=weights / weights.sum()))]
        lesion = _random_lesion(random, phantom, site)
        if all(math.dist(lesion.centre, other.centre) > _reach(lesion) + _reach(other) for other in lesions):
            lesions.append(lesion)
    return tuple(lesions)


def _reach(lesion: Lesion) -> float:
    return float(np.max(lesion.diameter)) / 2


def _random_lesion(random: np.random.Generator, phantom: Phantom, site: _Site) -> Lesion:
    diameter = random.uniform(*site.diameter) * random.uniform(0.85, 1.15, 3)
    ratio = math.exp(random.uniform(*np.log(site.ratio)))
    pieces = [region for region in phantom.regions if _kind(region.name) == site.organ]
    around = np.concatenate([np.eye(3), -np.eye(3)]) * diameter / 2
    n_within = 1 if site.organ in BONES else 7  # bones are thinner than their lesions, which only stay in the body
    while True:
        piece = pieces[int(random.integers(len(pieces)))]
        low, high = piece.shape.bounds
        margin = np.array((25.0, 25.0, 0.0)) if site.beside else np.zeros(3)
        points = random.uniform(low - margin, high + margin, (256, 3))
        for point in points if site.beside else points[piece.shape.contains(*points.T)]:
            seen = [_at(phantom.regions, p) for p in (point, *(point + around))]
            names = [region.name for region in seen if region]
            if len(names) == 7 and set(names[:n_within]) == {site.beside or piece.name}:
                return Lesion(tuple(point.tolist()), tuple(diameter.tolist()), ratio, material=site.material)
