"""A parametric human torso made of convex solids: anatomy, uptake of common tracers, lesions, random patients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from ..noise import generator
from .phantom import Phantom, Region
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid
from .torso_parts import BONES, ORGANS, Build, Triple, heart, kind, organs, outside, rows, skeleton

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

_MOST_LESIONS = 40


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid hotter, or colder, than what is around it.

    Args:
        centre : (x, y, z) in mm.
        diameter : mm, one number or the three along x, y and z.
        ratio : its activity over that of the phantom at its centre, where the phantom has any.
        name : of its region; None numbers them, "lesion 1" and so on.
        material : None keeps the attenuation below, which is right in bone and in soft tissue; a nodule of the lung is
            "muscle".

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


def torso(
    uptake: str | Mapping[str, float] = "fdg",
    lesions: Sequence[Lesion] = (),
    arms: bool = False,
    build: Build = Build(),
) -> Phantom:
    """Return a human torso from the neck to the thighs, 680 mm long, x to the left, y to the back and z to the head.

    Args:
        uptake : activity per mL, by the name of a preset ("bone-scan", "fdg" or "lu-177", see `UPTAKES`) or by organ: a
            region's name ("left kidney"), the same without its side ("kidney"), "bone" for bones that are not given by
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
    All sizes and values are our choice within the ranges of healthy adults, not taken from an atlas.

    Raises ValueError for an unknown preset or organ, a mapping without "body", and a lesion outside of the body.
    """
    own = (replace(region, shape=stretched(region.shape, build.scale)) for region in heart())
    return with_lesions(torso_around(own, uptake, arms, build), lesions)


def torso_around(
    around: Iterable[Region], uptake: str | Mapping[str, float], arms: bool = False, build: Build = Build()
) -> Phantom:
    """Return the torso of `torso` around another heart.

    Args:
        around : the heart's regions in painter's order, in place; those without activity get theirs from `uptake`.
    """

    def fitted(regions: Iterable[Region]) -> Iterator[Region]:
        return (replace(region, shape=stretched(region.shape, build.scale)) for region in regions)

    inside = fitted((*outside(build.fat, arms), *organs(build)))
    return Phantom(tuple(_filled((*inside, *around, *fitted(skeleton(arms))), uptake)))


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


def random_torso(
    seed: int,
    uptake: str | Mapping[str, float] = "fdg",
    lesions: tuple[int, int] = (0, 6),
    arms: bool | None = None,
    lesion_size: float = 1.0,
) -> Phantom:
    """Return a random patient; each seed has its own, whatever was drawn before.

    Args:
        seed : a non-negative integer.
        uptake : as for `torso`.
        lesions : the lowest and highest number of them.
        arms : beside the body or not; None: in one of five, as below. The rest of the patient is the same.
        lesion_size : the diameters below times this, in the same places; lesions above 1 may touch, and reach beyond
            their tissue.

    Ranges, ours and uniform: scale 0.92 to 1.06 along x and y and 0.93 to 1.05 along z, fat 4 to 30 mm; liver, spleen,
    stomach, kidneys and bladder displaced by up to 3 mm along each axis and 0.94 to 1.04 as long (bladder 0.75 to 1.1);
    every organ's activity times a factor of 0.8 to 1.25 (uniform in its logarithm); arms down in one of five.
    Lesions are ellipsoids, each with its own region ("lesion 1", ...) and centred in the tissue it belongs to::

        bone-scan  bones, most of them in spine, ribs and pelvis; 10 to 30 mm, 2 to 8 times the bone
        fdg        liver (1.5 to 4 times), lung (5 to 20 times, soft tissue) and lymph nodes around the aorta (3 to 15
                   times the body); 8 to 30 mm
        lu-177     liver (4 to 24 times), lymph nodes (40 to 200 times the body) and bone (20 to 100 times); 10 to 40 mm

    Any other uptake takes the places and ratios of fdg. Axes differ by up to 15 % from the mean. Lesions do not touch
    each other.

    Raises ValueError for a negative seed, a size that is not above 0 and at most 4, and unless 0 <= lowest <= highest
    number <= 40 (more may not find room).
    """
    low, high = lesions
    if not 0 < lesion_size <= 4:
        raise ValueError(f"random_torso: lesion_size must be above 0 and at most 4, got {lesion_size}")
    if not 0 <= low <= high <= _MOST_LESIONS:
        raise ValueError(f"random_torso: lesions must be 0 <= lowest <= highest <= {_MOST_LESIONS}, got {lesions}")
    random = generator(seed, "torso")
    table, drawn = varied(random, _table(uptake)), bool(random.uniform() < 0.2)
    plain = torso(table, arms=drawn if arms is None else arms, build=random_build(random))
    sites = _SITES[uptake if isinstance(uptake, str) else "fdg"]
    found = _random_lesions(random, plain, sites, int(random.integers(low, high + 1)))
    return with_lesions(plain, [_resized(lesion, lesion_size) for lesion in found])


def with_uptake(phantom: Phantom, uptake: str | Mapping[str, float], seed: int) -> Phantom:
    """Return a `random_torso` with another tracer: the same body, other activities.

    Args:
        uptake : as for `torso`.
        seed : of the organs' activities, 0.8 to 1.25 times those of the uptake, and of what lesions take up: 0.5 to 8
            times as much as what is around them, even in the logarithm.
    """
    random = generator(seed, "second uptake")
    table = varied(random, _table(uptake))
    painted: list[Region] = []
    for region in phantom.regions:
        if not region.name.startswith("lesion"):
            value = next(table[key] for key in _keys(region.name) if key in table)
            painted.append(replace(region, activity=value if region.activity else region.activity))
            continue
        below = _at(painted, np.mean(region.shape.bounds, 0))
        around = 0.0 if below is None or below.activity is None else below.activity
        painted.append(replace(region, activity=around * math.exp(random.uniform(math.log(0.5), math.log(8)))))
    return Phantom(tuple(painted))


def _resized(lesion: Lesion, size: float) -> Lesion:
    """A lesion of `size` times the diameters."""
    x, y, z = (float(d) * size for d in np.broadcast_to(lesion.diameter, 3))
    return lesion if size == 1 else replace(lesion, diameter=(x, y, z))


def varied(random: np.random.Generator, uptake: Mapping[str, float]) -> dict[str, float]:
    """Return the uptake with every organ's activity times 0.8 to 1.25, uniform in the logarithm."""
    low, high = math.log(0.8), math.log(1.25)
    return {organ: value * math.exp(random.uniform(low, high)) for organ, value in sorted(uptake.items())}


def random_build(random: np.random.Generator) -> Build:
    """Return a random build, of the ranges `random_torso` tells."""
    x, y, z = random.uniform((0.92, 0.92, 0.93), (1.06, 1.06, 1.05)).tolist()
    moving = [organ for organ in ORGANS if organ != "bowel"]
    shift = {organ: tuple(random.uniform(-3, 3, 3).tolist()) for organ in moving}
    growth = {organ: float(random.uniform(*((0.75, 1.1) if organ == "bladder" else (0.94, 1.04)))) for organ in moving}
    return Build((x, y, z), float(random.uniform(4, 30)), shift, growth)


def _table(uptake: str | Mapping[str, float]) -> Mapping[str, float]:
    if not isinstance(uptake, str):
        return uptake
    if uptake not in UPTAKES:
        raise ValueError(
            f"unknown uptake {uptake!r}; choose from {', '.join(UPTAKES)}, or give a mapping of organs to activity"
        )
    return UPTAKES[uptake]


def _filled(regions: Sequence[Region], uptake: str | Mapping[str, float]) -> Iterator[Region]:
    """Yield the regions, those without activity with that of the uptake."""
    table = _table(uptake)
    known = {key for region in regions if region.activity is None for key in _keys(region.name)}
    if unknown := set(table) - known:
        raise ValueError(f"uptake: unknown organ {', '.join(sorted(unknown))}; choose from {', '.join(sorted(known))}")
    if "body" not in table:
        raise ValueError('uptake: "body" is missing, the activity of all that is not given')
    for region in regions:
        value = next(table[key] for key in _keys(region.name) if key in table)
        yield replace(region, activity=value) if region.activity is None else region


def _keys(name: str) -> tuple[str, ...]:
    """By what an organ's activity is looked up, the most particular first."""
    organ = kind(name)
    group = "bone" if organ in BONES else "blood" if organ in ("aorta", "vena cava", "heart") else "body"
    return name, organ, group, "body"


def stretched(solid: Solid, scale: Triple) -> Solid:
    """Return the solid with all lengths along x, y and z multiplied.

    Rods and cut ellipsoids in an orientation of their own keep it, with lengths along their axes multiplied.
    """
    factors = np.array(scale)
    match solid:
        case Oriented(solid=Ellipsoid(centre=(0, 0, 0), angle=0) as ball):  # exactly: one ellipsoid becomes another
            axes, radii, _ = np.linalg.svd(factors[:, None] * np.array(solid.rotation) * ball.half_widths)
            axes[:, 0] *= np.linalg.det(axes)
            return Oriented(Ellipsoid((0, 0, 0), tuple(radii)), rows(axes), tuple((factors * solid.offset).tolist()))
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
    raise TypeError(f"a {type(solid).__name__} cannot be stretched")


def _at(regions: Sequence[Region], point: Sequence[float] | np.ndarray) -> Region | None:
    """Return the region that is seen at a point, the last one that holds it."""
    return next((region for region in reversed(regions) if region.shape.contains(*point)), None)


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
    pieces = [region for region in phantom.regions if kind(region.name) == site.organ]
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
