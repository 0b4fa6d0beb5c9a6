"""Random shapes whose guide shows some of them, some others, and none of their activities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..noise import generator
from .body_guides import BodyGuideVariety, random_body_guide
from .fields import Modulated, SmoothField, random_texture
from .phantom import Phantom, Region
from .ranges import Range, require_range
from .shapes import Cylinder, Ellipsoid, HalfSpace, Intersection, Solid
from .varied_torso import BodyLesions, VariedBody, place_lesions


@dataclass(frozen=True)
class ShapeVariety:
    """What is in a body of random shapes.

    Args:
        number : the lowest and highest number of shapes: ellipses, blobs (unions of ellipses) and polygons alike.
        size : their radii in mm.
        activity : theirs, even in the logarithm, where the body has 1.
        emission_only, guide_only : the parts of the shapes that one image alone shows.
        smooth, texture : standard deviation of the logarithm of fields with waves of 80 and of 16 mm in every shape.

    Raises ValueError for numbers out of range.
    """

    number: tuple[int, int] = (5, 12)
    size: Range = (8.0, 35.0)
    activity: Range = (0.2, 6.0)
    emission_only: float = 0.3
    guide_only: float = 0.2
    smooth: float = 0.1
    texture: float = 0.08

    def __post_init__(self) -> None:
        require_range("ShapeVariety number", self.number, 0, 100)
        require_range("ShapeVariety size", self.size, 1, 60)
        require_range("ShapeVariety activity", self.activity, 1e-3, 1e3)
        for name in ("emission_only", "guide_only", "smooth", "texture"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ShapeVariety: {name} must be from 0 to 1, got {getattr(self, name)}")
        if self.emission_only + self.guide_only > 1:
            raise ValueError("ShapeVariety: emission_only and guide_only are parts of one whole, and exceed it")


def random_varied_shapes(
    seed: int,
    dimensions: int = 2,
    variety: ShapeVariety | None = None,
    lesions: BodyLesions | None = None,
    guide: BodyGuideVariety | None = None,
) -> VariedBody:
    """Return an elliptic body of activity 1 with random shapes, and a guide that shows a part of them.

    Args:
        seed : a non-negative integer.
        dimensions : 2 for cylinders along z, painted on a grid of one slice; 3 for balls and polyhedra.
        variety, lesions, guide : what is drawn, independently of each other.

    The body has semi-axes of 80 to 100 mm (x), 70 to 95 mm (y) and 60 to 80 mm (z). Three of ten shapes attenuate as
    bone or lung, all else as water. Region names: "body", "ellipse 1", "blob 2", "polygon 3" and so on.

    Raises ValueError for other dimensions and seeds.

    Source: ours.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    variety, lesions, guide = variety or ShapeVariety(), lesions or BodyLesions(), guide or BodyGuideVariety()
    random = generator(seed, "varied shapes")
    axes = random.uniform((80, 70, 60), (100, 95, 80))
    body = Region("body", _round(np.zeros(3), axes, 0.0, dimensions), 1.0, "water")
    emission, seen = [body], [body]
    for k in range(1, int(random.integers(*variety.number, endpoint=True)) + 1):
        name, solids = _shape(random, axes, variety, dimensions)
        low, high = variety.activity
        activity, u = low * (high / low) ** random.uniform(), random.uniform()
        material = ("lung", "bone-cortical", "water")[int(np.searchsorted([0.15, 0.3], random.uniform()))]
        own = [Region(f"{name} {k}", solid, float(activity), None) for solid in solids]
        shown = [Region(f"{name} {k}", solid, None, material) for solid in solids]
        in_emission = u >= variety.guide_only
        in_guide = not variety.guide_only <= u < variety.guide_only + variety.emission_only
        if in_emission:
            emission += [Region(r.name, r.shape, r.activity, material if in_guide else None) for r in own]
        if in_guide:
            seen += shown
    plain = Phantom(tuple(emission))
    found = place_lesions(
        generator(seed, "varied shapes lesions"), plain, lesions, ("body",), dimensions, tuple(0.8 * axes)
    )
    texture = generator(seed, "varied shapes fields")
    fields = {}
    for region in plain.names[1:]:
        waves, sigma = random_texture(texture, {80.0: variety.smooth, 16.0: variety.texture})
        fields[region] = SmoothField(waves=waves, strength=sigma)
    spheres = tuple(lesion for _, lesion in found)
    whole = Phantom((*plain.regions, *(region for region, _ in found if region is not None)))
    made = random_body_guide(seed, seen, spheres, guide, dimensions)
    return VariedBody(Modulated(whole, fields, {}, spheres), made, {"tracer": "shapes", "contrast": made.contrast})


def _shape(
    random: np.random.Generator, axes: np.ndarray, variety: ShapeVariety, dimensions: int
) -> tuple[str, list[Solid]]:
    kind = ("ellipse", "blob", "polygon")[int(random.integers(3))]
    size = float(random.uniform(*variety.size))
    direction = random.normal(size=3) * (np.arange(3) < dimensions)
    room = np.maximum(1 - 1.2 * size / axes, 0)
    centre = room * axes * direction / np.linalg.norm(direction) * random.uniform() ** (1 / dimensions)
    if kind == "ellipse":
        radii = size * random.uniform(0.5, 1.0, 3)
        return kind, [_round(centre, radii, float(random.uniform(0, 180)), dimensions)]
    if kind == "blob":
        parts = []
        for _ in range(int(random.integers(2, 5))):
            radii, turn = size * random.uniform(0.3, 0.7, 3), float(random.uniform(0, 180))
            off = 0.5 * size * random.uniform(-1, 1, 3) * (np.arange(3) < dimensions)
            parts.append(_round(centre + off, radii, turn, dimensions))
        return kind, parts
    sides, start = int(random.integers(3, 7)), random.uniform(0, 2 * np.pi)
    planes: list[Solid] = []
    for k in range(sides):
        angle = start + 2 * math.pi * k / sides + random.uniform(-0.25, 0.25)
        normal = np.array((math.cos(angle), math.sin(angle), 0.0 if dimensions == 2 else random.uniform(-0.5, 0.5)))
        point = centre + 0.6 * size * random.uniform(0.7, 1.1) * normal
        planes.append(HalfSpace(tuple(point.tolist()), tuple(normal.tolist())))
    around = _round(centre, np.full(3, size), 0.0, dimensions)
    return kind, [Intersection((around, *planes))]


def _round(centre: np.ndarray, radii: np.ndarray, angle: float, dimensions: int) -> Solid:
    x, y, z = (float(c) for c in centre)
    a, b, c = (float(r) for r in radii)
    return Cylinder((x, y, 0.0), (a, b), angle=angle) if dimensions == 2 else Ellipsoid((x, y, z), (a, b, c), angle)
