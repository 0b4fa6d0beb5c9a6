"""Random brains with a folded cortex, deep nuclei and lesions, and a magnetic resonance image that nearly matches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple

import numpy as np
from emrecon.projectors import ImageGrid

from .noise import generator
from .phantoms import Phantom, Region, _window
from .shapes import Bounds, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to, sub_positions

Wave = tuple[float, float, float, float, float]
"""Wave vector (x, y, z) in rad/mm, phase and amplitude."""

UPTAKES: dict[str, dict[str, float]] = {
    "fdg": {"skin": 0.5, "grey": 4.0, "white": 1.0, "striatum": 4.4, "thalamus": 4.0, "cerebellum": 3.4, "other": 0.25},
    "amyloid": {
        "skin": 0.3, "grey": 2.2, "white": 1.8, "striatum": 2.2, "thalamus": 1.8, "cerebellum": 1.0, "other": 0.2
    },
    "dat": {"skin": 0.1, "grey": 1.0, "white": 1.0, "striatum": 8.0, "thalamus": 1.0, "cerebellum": 1.0, "other": 0.1},
    "perfusion": {
        "skin": 0.1, "grey": 9.2, "white": 2.3, "striatum": 10.1, "thalamus": 9.7, "cerebellum": 10.1, "other": 0.1
    },
}  # fmt: skip
"""Activity per mL of tissues, in any unit: cortex, deep nuclei, cerebellar cortex; "other" is bone. CSF has none.

fdg : grey : white : skin = 4 : 1 : 0.5, as the brainweb package has it.  amyloid : a
positive scan, cortex above the unspecific white matter.  dat : dopamine transporter, striatum to rest 8 : 1.
perfusion : Tc-99m HMPAO or ECD, grey : white 4 : 1. What is not said here is our choice.
"""

_INTENSITY = {
    "skin": 0.85, "skull": 0.10, "csf": 0.22, "grey": 0.65, "white": 1.0, "ventricles": 0.18, "cerebellum": 0.65,
    "cerebellar white": 0.97, "brainstem": 0.93, "caudate": 0.68, "putamen": 0.72, "thalamus": 0.78,
}  # fmt: skip
_DEEPEST_LEVEL = 6.0  # mm below the surface up to which `Folds.depth` is exact
_RADIAL = 0.4  # 1: sulci run straight to the centre; 0: in any direction
_POINTS_AT_ONCE = 2**15
_VOXELS_AT_ONCE = 2**18
_CANDIDATES = 400


@dataclass(frozen=True)
class Fissure:
    """A cleft along a plane into the brain.

    normal : (x, y, z) of length 1, through the point.  half_width, depth : mm; the depth falls to both sides along y as
    depth exp(-((y - y_point) / reach)^4).
    """

    point: tuple[float, float, float]
    normal: tuple[float, float, float]
    half_width: float
    depth: float
    reach: float = math.inf

    def distance(self, x: Any, y: Any, z: Any) -> Any:
        """Return the distance to the plane in mm."""
        return abs(sum(n * (c - p) for n, c, p in zip(self.normal, (x, y, z), self.point)))

    def depth_at(self, y: Any) -> Any:
        """Return how deep the cleft is there, in mm."""
        return self.depth * np.exp(-np.square(np.square((y - self.point[1]) / self.reach)))


@dataclass(frozen=True)
class Folds:
    """The folded outer surface of a cerebrum around the origin, as a depth below it.

    The hull is an ellipsoid, n(p) = 1, of other height above than below z = 0. Its depth is a = (1 - n) / |grad n|.
    Sulci are sheets where a random wave h is zero, h(q) = sum of amplitude cos(k q + phase) at q = p n^-0.4 so that
    they rather run towards the centre; the distance to the nearest sheet is d = atan(k |h| / |grad h|) / k, exact
    for a plane wave. A sheet with half width w and depth D, measured from the hull, is cut out as a cleft with a round
    bottom, and the depth below all of it is

        s = min(a, sqrt(d^2 + max(a - D, 0)^2) - w, the same for every fissure)

    so that the cortex 0 < s < thickness has the same thickness on gyri, along sulci and under them.
    radii : (x, y, z above, z below) of the hull in mm.  waves : of h.  swell : waves that vary the sulci's depth
    between the two numbers of `depth` (mm).  half_width : of the sulci in mm.  fissures : deeper clefts along planes.
    Source: ours; folds as level sets of random waves.
    """

    radii: tuple[float, float, float, float]
    waves: tuple[Wave, ...]
    swell: tuple[Wave, ...]
    half_width: float
    depth: tuple[float, float]
    fissures: tuple[Fissure, ...] = ()

    def below(self, x: Any, y: Any, z: Any) -> np.ndarray:
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

    def unsure(self, x: Any, y: Any, z: Any, reach: float, low: float, high: float) -> np.ndarray:
        """Whether a level between `low` and `high` may be crossed within `reach` mm of the points; never falsely no.

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

    def _hull(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, np.ndarray]:
        """Return n, |grad n| and grad n (..., 3)."""
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

    level : 0 for the surface itself, the thickness of the cortex for the white matter; up to 6 mm.
    offset : (x, y, z) mm of the folds' origin.  angle : degrees by which they are turned from x towards y.
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

    def contains(self, x: Any, y: Any, z: Any) -> np.ndarray:
        """Whether points are inside; x, y, z in mm broadcast against each other."""
        return self.folds.below(*self._own(x, y, z)) > self.level

    def straddles(self, x: Any, y: Any, z: Any, half: tuple[float, float, float]) -> np.ndarray:
        """Whether the surface may cross the boxes centred on (x, y, z) with these half edges; never falsely no."""
        return self.folds.unsure(*self._own(x, y, z), math.hypot(*half), self.level, self.level)

    def crossing(self, point: Any, direction: Any) -> tuple[np.ndarray, np.ndarray]:
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

    def _own(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        cosine, sine = self._turn()
        x, y, z = (c - o for c, o in zip((x, y, z), self.offset))
        return cosine * x + sine * y, cosine * y - sine * x, z

    def _turn(self) -> tuple[float, float]:
        return math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))


@dataclass(frozen=True)
class LesionRecipe:
    """How many lesions a brain gets, and which.

    both : in the emission image and in the guide.  emission_only, guide_only : in one of them.
    diameter : range in mm.  hot : the part of the lesions of the emission image that is hot, 1.5 x the grey matter's
    activity; the others have 0.5 x the white matter's.  tissue : where they lie, wholly in white matter, or centred in
    grey matter.
    Raises ValueError for negative numbers, diameters that are not 0 < low <= high, and parts outside 0 to 1.
    Source: diameters, part and contrasts of Mehranian & Reader 2021 (FBSEM), who put 15 into each.
    """

    both: int = 0
    emission_only: int = 0
    guide_only: int = 0
    diameter: tuple[float, float] = (2.0, 8.0)
    hot: float = 0.6
    tissue: Literal["white", "grey"] = "white"

    def __post_init__(self) -> None:
        for name in ("both", "emission_only", "guide_only"):
            if getattr(self, name) < 0:
                raise ValueError(f"LesionRecipe: {name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.diameter[0] <= self.diameter[1] < math.inf:
            raise ValueError(f"LesionRecipe: diameter must be (low, high) in mm, 0 < low <= high, got {self.diameter}")
        if not 0 <= self.hot <= 1:
            raise ValueError(f"LesionRecipe: hot is a part between 0 and 1, got {self.hot}")
        if self.tissue not in ("white", "grey"):
            raise ValueError(f"LesionRecipe: tissue must be 'white' or 'grey', got {self.tissue!r}")


@dataclass(frozen=True)
class GuideRecipe:
    """What is wrong with the guide beside its lesions.

    shift : the largest displacement in mm along each axis, and turn : the largest rotation in degrees about z, both
    drawn evenly.  bias : the largest relative bias of a smooth field, exp(+-bias).  noise : standard deviation over the
    intensity of white matter, Rician.
    Raises ValueError for negative or non-finite values.
    """

    shift: float = 0.0
    turn: float = 0.0
    bias: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shift", "turn", "bias", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"GuideRecipe: {name} must be finite and >= 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Lesion:
    """A sphere in the emission image, in the guide, or in both.

    name : of its region.  centre, diameter : mm, in the emission image's position.  seen : "both", "emission" or
    "guide".  activity : per mL (None for "guide").  intensity : in the guide (None for "emission").
    """

    name: str
    centre: tuple[float, float, float]
    diameter: float
    seen: Literal["both", "emission", "guide"]
    activity: float | None
    intensity: float | None


@dataclass(frozen=True)
class Mismatches:
    """Where guide and emission image deliberately differ.

    offset : mm and angle : degrees about z (x towards y) that take the emission image's anatomy to the guide's, first
    the turn and then the shift.  emission_only, guide_only : names of lesions.
    """

    offset: tuple[float, float, float]
    angle: float
    emission_only: tuple[str, ...]
    guide_only: tuple[str, ...]


class BrainImages(NamedTuple):
    """Images of one brain on one grid, float32 (nx, ny, nz): activity, mu in 1/cm, and the guide."""

    activity: np.ndarray
    attenuation: np.ndarray
    guide: np.ndarray


@dataclass(frozen=True)
class Brain:
    """A brain and the magnetic resonance image that goes with it.

    phantom : activity and attenuation.  anatomy : the guide's phantom, whose "activity" is the intensity of a
    T1-weighted image (white matter 1, grey matter 0.65, CSF 0.2).  lesions, mismatches : what was put in.
    recipe : bias and noise of the guide.  seed : of all of it.
    """

    phantom: Phantom
    anatomy: Phantom
    lesions: tuple[Lesion, ...]
    mismatches: Mismatches
    recipe: GuideRecipe = field(default_factory=GuideRecipe)
    seed: int = 0

    def images(self, grid: ImageGrid, energy_kev: float, oversample: int = 4) -> BrainImages:
        """Return activity, attenuation and guide at once: `phantom.activity`, `phantom.attenuation` and `guide`.

        The images are the same as these (to rounding) in less than half of the time, because the folds are evaluated
        once for all of them where the guide is not displaced.
        Raises ValueError for an energy outside the tables (1 to 20000 keV).
        """
        emission = np.array([(region.activity, region.attenuation(energy_kev)) for region in self.phantom.regions])
        intensity = np.array([region.activity for region in self.anatomy.regions], float)[:, None]
        if self.mismatches.offset == (0, 0, 0) and self.mismatches.angle == 0:
            (activity, mu), (guide,) = self._painted_together(emission, intensity, grid, oversample)
        else:
            ((activity, mu),) = _painted(self.phantom.regions, [[*range(len(emission))]], [emission], grid, oversample)
            ((guide,),) = _painted(self.anatomy.regions, [[*range(len(intensity))]], [intensity], grid, oversample)
        return BrainImages(activity, mu, self._degraded(guide, grid))

    def guide(self, grid: ImageGrid, oversample: int = 4) -> np.ndarray:
        """Return the magnetic resonance image, float32 (nx, ny, nz): anatomy x bias field, with Rician noise.

        The bias belongs to the place, the noise to the voxels of the grid; both are those of the seed.
        """
        return self._degraded(self.anatomy.activity(grid, oversample), grid)

    def _painted_together(
        self, emission: np.ndarray, intensity: np.ndarray, grid: ImageGrid, oversample: int
    ) -> list[np.ndarray]:
        """Paint the anatomy once: the lesions of the guide come after those of the emission image, and each skips the
        other's."""
        n, lesions = len(emission), {lesion.name for lesion in self.lesions}
        common = sum(region.name not in lesions for region in self.phantom.regions)
        extra = self.anatomy.regions[common:]
        in_emission = [*range(n), *[-1] * len(extra)]
        in_guide = [*range(common), *[-1] * (n - common), *range(common, common + len(extra))]
        regions = (*self.phantom.regions, *extra)
        return _painted(regions, [in_emission, in_guide], [emission, intensity], grid, oversample)

    def _degraded(self, guide: np.ndarray, grid: ImageGrid) -> np.ndarray:
        if self.recipe.bias > 0:
            waves = _random_waves(generator(self.seed, "folded brain bias"), 4, 300.0)
            limit = sum(abs(wave[4]) for wave in waves)
            x, y, z = grid.coordinates()
            total = sum(a * np.cos(kx * x + ky * y + kz * z + phase) for kx, ky, kz, phase, a in waves)
            guide = guide * np.exp(self.recipe.bias / limit * total)
        if self.recipe.noise > 0:
            real, imaginary = generator(self.seed, "folded brain noise").normal(0, self.recipe.noise, (2, *grid.shape))
            guide = np.hypot(guide + real, imaginary)
        return guide.astype(np.float32)


def random_folded_brain(
    seed: int,
    dimensions: int = 2,
    uptake: str | Mapping[str, float] = "fdg",
    lesions: LesionRecipe | None = None,
    guide: GuideRecipe | None = None,
) -> Brain:
    """Return a random head: scalp, skull, CSF, folded cortex, white matter, ventricles, deep nuclei and cerebellum.

    seed : a non-negative integer; each has its own brain, the same for every other argument. Lesions, displacement,
        bias and noise have their own numbers, so the anatomy does not depend on them.
    dimensions : 3 for a brain with z = 0 half way up the head, at the height of the basal ganglia; 2 for the same
        brain moved along z by a random -30 to 10 mm, so that an image of one slice shows one height of it (paint other
        heights of a 3-D one by the grid's origin). Lesions then lie in that plane.
    uptake : a key of `UPTAKES`, or activities by the same tissues as there.
    lesions, guide : see `LesionRecipe` and `GuideRecipe`; without, there are no lesions and the guide matches and has
        no noise.
    Ranges, all uniform and ours: hull of the cerebrum 63 to 68 mm (x), 79 to 85 mm (y), 56 to 61 mm (up) and 52 to
    56 mm (down); cortex 2.6 to 3.2 mm; sulci about 11.5 to 13 mm apart, 1.2 to 1.8 mm wide and 8 to 28 mm deep, beside
    the fissures between the hemispheres and above the temporal lobes; CSF around it 2 to 3.5 mm, skull 5 to 8 mm, scalp
    4 to 7 mm; ventricles 0.95 to 1.15 and nuclei 0.97 to 1.05 of their usual size, moved by up to 1 mm; the head is
    turned by up to 15 degrees about z and displaced by up to 8 mm along x and y. Sixteen of them had 1.16 to 1.30 L of
    brain, 1.05 to 1.57 times as much grey as white matter, 18 to 30 mL of ventricles and 14 to 18 mL of striatum.
    Brain and scalp attenuate as muscle (their density is 1.04 to 1.1 g/mL), CSF as water, the skull as cortical bone.
    Region names: "skin", "skull", "csf", "grey", "white", "cerebellum", "cerebellar white", "brainstem", "thalamus",
    "caudate", "putamen", "ventricles", "lesion 1" and so on.
    Raises ValueError for other dimensions, seeds and uptakes, and for more lesions than there is room for.
    Source: ours.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    taken = _table(uptake)
    random = generator(seed, "folded brain")
    anatomy = _anatomy(random)
    turn, dx, dy = (float(v) for v in random.uniform((-15, -8, -8), (15, 8, 8)))
    height = float(random.uniform(-30, 10))
    place = (dx, dy, height if dimensions == 2 else 0.0)
    shapes = [(name, shape.moved(place, turn)) for name, shape in anatomy]
    found = _lesions(seed, shapes, lesions or LesionRecipe(), taken, dimensions)
    offset, angle = _displacement(seed, guide or GuideRecipe(), dimensions)
    return Brain(
        Phantom((*(_emitting(name, shape, taken) for name, shape in shapes), *_in_emission(found))),
        Phantom((*(Region(name, shape, _INTENSITY[name]) for name, shape in shapes), *_in_guide(found))).moved(
            offset, angle
        ),
        found,
        Mismatches(
            offset,
            angle,
            tuple(lesion.name for lesion in found if lesion.seen == "emission"),
            tuple(lesion.name for lesion in found if lesion.seen == "guide"),
        ),
        guide or GuideRecipe(),
        seed,
    )


# ---- anatomy ---------------------------------------------------------------------------------------------------------

# name, centre (|x|, y, z) in mm, radii and turn from x towards y on the patient's left, in painter's order; pairs are
# mirrored. Sizes are about those of atlases, shapes are ours
_DEEP = (
    ("brainstem", (0, 20, -50), (13, 12, 30), 0),
    ("thalamus", (11, 13, 1), (8.5, 14.5, 9.5), -15),
    ("putamen", (26.5, -4, -1), (5.8, 17.5, 11), -14),
    ("caudate", (15.5, -23, 2), (5.5, 10.5, 10.5), -12),
    ("caudate", (20, -2, 15), (3.2, 17, 4.5), -10),
    ("ventricles", (7.5, -25, 5), (4.5, 14, 9.5), -18),
    ("ventricles", (12, 2, 16), (5.5, 25, 6), -10),
    ("ventricles", (26, 33, 6), (5.5, 16, 9), -28),
    ("ventricles", (0, 6, -3), (2.2, 13, 9), 0),
    ("ventricles", (0, 33, -42), (6, 4, 8), 0),
)
_BASE = 24.0  # mm by which the head reaches lower than the cerebrum
_FOSSA = ((0.0, 34.0, -50.0), (51.0, 35.0, 28.0))  # the space of cerebellum and brainstem: centre and radii in mm
_TISSUES = {  # of the activity and of attenuation
    "skin": ("skin", "muscle"), "skull": ("other", "bone-cortical"), "csf": ("", "water"), "grey": ("grey", "muscle"),
    "white": ("white", "muscle"), "ventricles": ("", "water"), "cerebellum": ("cerebellum", "muscle"),
    "cerebellar white": ("white", "muscle"), "brainstem": ("white", "muscle"), "caudate": ("striatum", "muscle"),
    "putamen": ("striatum", "muscle"), "thalamus": ("thalamus", "muscle"),
}  # fmt: skip


def _anatomy(random: np.random.Generator) -> list[tuple[str, Solid]]:
    """Return names and shapes around the origin, in painter's order."""
    a, b, up, down = (float(v) for v in random.uniform((63, 79, 56, 52), (68, 85, 61, 56)))
    cortex, csf, skull, scalp = (float(v) for v in random.uniform((2.6, 2, 5, 4), (3.2, 3.5, 8, 7)))
    folds = _folds(random, (a, b, up, down))
    shapes: list[tuple[str, Solid]] = [("skin", half) for half in _egg(a, b, up, down, csf + skull + scalp, _BASE)]
    for name, wall in (("skull", csf + skull), ("csf", csf)):
        shapes += [(name, half) for half in _egg(a, b, up, down, wall)]
        shapes.append((name, Ellipsoid(_FOSSA[0], tuple(r + wall for r in _FOSSA[1]))))  # type: ignore[arg-type]
    shapes += [("grey", Folded(folds)), ("white", Folded(folds, cortex))]
    shapes += _cerebellum(random)
    swelling = {"ventricles": float(random.uniform(0.95, 1.15)), "": float(random.uniform(0.97, 1.05))}
    for name, centre, radii, angle in _DEEP:
        size = np.array(radii) * swelling.get(name, swelling[""])
        for side in (1, -1) if centre[0] else (0,):
            x, y, z = (np.array(centre) + random.uniform(-1, 1, 3) * (side != 0)) * (side or 1, 1, 1)
            shapes.append((name, Ellipsoid((float(x), float(y), float(z)), tuple(size), side * angle)))
    return shapes


def _folds(random: np.random.Generator, radii: tuple[float, float, float, float]) -> Folds:
    width, spacing, shallow, tilt = (float(v) for v in random.uniform((0.6, 11.5, 8, 0.35), (0.9, 13, 10, 0.5)))
    waves = _random_waves(random, 24, 2 * spacing, spread=0.15)
    swell = _random_waves(random, 4, 45.0)
    limit = sum(abs(wave[4]) for wave in swell)
    y, z, deep, middle = (float(v) for v in random.uniform((-4, -4, 22, 31), (4, 4, 26, 35)))
    rise = math.hypot(1, tilt)
    # one plane for both sides: it rises to the back, and leaves front and back of the head alone
    lateral = Fissure((0.0, y, z), (0.0, -tilt / rise, 1 / rise), 0.7, deep, 38.0)
    fissures = (Fissure((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 1.0, middle), lateral)
    scaled = tuple((*wave[:4], wave[4] / limit) for wave in swell)
    return Folds(radii, waves, scaled, width, (shallow, shallow + 18), fissures)


def _egg(a: float, b: float, up: float, down: float, wall: float, base: float = 0.0) -> Iterator[Solid]:
    """Yield the hull with a wall around it in two halves, above and below z = 0; `base` mm more below."""
    for height, normal in ((up, (0, 0, -1)), (down + base, (0, 0, 1))):
        half = Ellipsoid((0, 0, 0), (a + wall, b + wall, height + wall))
        yield Intersection((half, HalfSpace((0, 0, 0), normal)))


def _cerebellum(random: np.random.Generator) -> list[tuple[str, Solid]]:
    """Return both hemispheres of the cerebellum in a thin layer of CSF, which tilt outwards and to the front."""
    radii = np.array((27.0, 25.0, 19.0)) * random.uniform(0.97, 1.05)
    shapes: list[tuple[str, Solid]] = []
    for name, scale in (("csf", 1.07), ("cerebellum", 1.0), ("cerebellar white", 0.62)):
        for side in (1, -1):
            ball = Ellipsoid((0, 0, 0), tuple(scale * radii))
            shapes.append((name, Oriented(ball, rotation_to((side * 0.25, 0.35, 1)), (side * 23.0, 42.0, -54.0))))
    return shapes


def _random_waves(random: np.random.Generator, n: int, wavelength: float, spread: float = 0.0) -> tuple[Wave, ...]:
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


def _table(uptake: str | Mapping[str, float]) -> Mapping[str, float]:
    tissues = UPTAKES["fdg"]
    if isinstance(uptake, str):
        if uptake not in UPTAKES:
            raise ValueError(f"no uptake {uptake!r}; there are {', '.join(UPTAKES)}, or give a mapping of tissues")
        return UPTAKES[uptake]
    if set(uptake) != set(tissues):
        raise ValueError(f"uptake must have the tissues {', '.join(tissues)}, got {', '.join(uptake)}")
    return uptake


def _emitting(name: str, shape: Solid, uptake: Mapping[str, float]) -> Region:
    tissue, material = _TISSUES[name]
    return Region(name, shape, uptake.get(tissue, 0.0), material)


# ---- lesions and displacement ----------------------------------------------------------------------------------------


def _lesions(
    seed: int, shapes: list[tuple[str, Solid]], recipe: LesionRecipe, uptake: Mapping[str, float], dimensions: int
) -> tuple[Lesion, ...]:
    kinds = ["both"] * recipe.both + ["emission"] * recipe.emission_only + ["guide"] * recipe.guide_only
    random = generator(seed, "folded brain lesions")
    found: list[Lesion] = []
    if not kinds:
        return ()
    places = _places(random, shapes, recipe, dimensions)
    for k, seen in enumerate(kinds, 1):
        centre, diameter = _next_place(places, found, recipe, len(kinds))
        hot, bright = random.uniform() < recipe.hot, random.uniform() < 0.5
        activity = 1.5 * uptake["grey"] if hot else 0.5 * uptake["white"]
        intensity = 1.25 if bright else 0.45
        found.append(
            Lesion(
                f"lesion {k}",
                centre,
                diameter,
                seen,  # type: ignore[arg-type]
                None if seen == "guide" else activity,
                None if seen == "emission" else intensity,
            )
        )
    return tuple(found)


def _next_place(
    places: Iterator[tuple[np.ndarray, float]], found: list[Lesion], recipe: LesionRecipe, wanted: int
) -> tuple[tuple[float, float, float], float]:
    for centre, diameter in places:
        gaps = [math.dist(centre, other.centre) - (diameter + other.diameter) / 2 for other in found]
        if min(gaps, default=1.0) > 0.5:
            x, y, z = (float(c) for c in centre)
            return (x, y, z), diameter
    raise ValueError(
        f"no room for {wanted} lesions of {recipe.diameter[0]:g} to {recipe.diameter[1]:g} mm in {recipe.tissue} "
        f"matter, only for {len(found)}; fewer or smaller ones?"
    )


def _places(
    random: np.random.Generator, shapes: list[tuple[str, Solid]], recipe: LesionRecipe, dimensions: int
) -> Iterator[tuple[np.ndarray, float]]:
    """Yield places where a sphere lies in the tissue, with its diameter; many times, then no more."""
    cerebrum = next(shape for name, shape in shapes if name == "grey")
    low, high = (np.where(np.arange(3) < dimensions, bound, 0.0) for bound in cerebrum.bounds)
    around = np.vstack([np.zeros(3), np.eye(3), -np.eye(3), (np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1) / 3**0.5])
    for _ in range(20):
        centres = random.uniform(low, high, (_CANDIDATES, 3))
        diameters = random.uniform(*recipe.diameter, _CANDIDATES)
        points = centres[:, None] + diameters[:, None, None] / 2 * around
        centred = _inside(shapes, recipe.tissue, centres)
        within = centred.copy()
        if recipe.tissue == "white":
            within[centred] = _inside(shapes, "white", points[centred]).all(1)
        yield from ((centre, float(d)) for centre, d in zip(centres[within], diameters[within]))


def _inside(shapes: list[tuple[str, Solid]], tissue: str, points: np.ndarray) -> np.ndarray:
    """Whether the tissue is on top at points (..., 3)."""
    top = np.zeros(points.shape[:-1], bool)
    for name, shape in shapes:
        top = np.where(shape.contains(*np.moveaxis(points, -1, 0)), name == tissue, top)
    return top


def _in_emission(lesions: Sequence[Lesion]) -> Iterator[Region]:
    for lesion in lesions:
        if lesion.activity is not None:
            yield Region(lesion.name, Ellipsoid(lesion.centre, lesion.diameter / 2), lesion.activity, "muscle")


def _in_guide(lesions: Sequence[Lesion]) -> Iterator[Region]:
    for lesion in lesions:
        if lesion.intensity is not None:
            yield Region(lesion.name, Ellipsoid(lesion.centre, lesion.diameter / 2), lesion.intensity)


def _displacement(seed: int, recipe: GuideRecipe, dimensions: int) -> tuple[tuple[float, float, float], float]:
    random = generator(seed, "folded brain displacement")
    x, y, z = (float(v) for v in recipe.shift * random.uniform(-1, 1, 3))
    return (x, y, z if dimensions == 3 else 0.0), float(recipe.turn * random.uniform(-1, 1))


# ---- painting several images at once ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """Regions that are evaluated together: levels of the same folds, each within the one before, or one solid."""

    rows: tuple[int, ...]
    shapes: tuple[Solid, ...]

    def row(self, x: Any, y: Any, z: Any) -> np.ndarray:
        """Return the row of the region that is on top, -1 outside."""
        first = self.shapes[0]
        if isinstance(first, Folded):
            depth = first.folds.below(*first._own(x, y, z))
            levels = [shape.level for shape in self.shapes]  # type: ignore[attr-defined]
            return np.array([-1, *self.rows], np.int16)[np.searchsorted(levels, depth)]
        return np.where(first.contains(x, y, z), np.int16(self.rows[0]), np.int16(-1))

    def straddles(self, x: Any, y: Any, z: Any, half: tuple[float, float, float]) -> np.ndarray:
        first = self.shapes[0]
        if isinstance(first, Folded):
            levels = [shape.level for shape in self.shapes]  # type: ignore[attr-defined]
            return first.folds.unsure(*first._own(x, y, z), math.hypot(*half), min(levels), max(levels))
        return first.straddles(x, y, z, half)


def _layers(regions: Sequence[Region]) -> list[_Layer]:
    def surface(item: tuple[int, Region]) -> Any:
        row, region = item
        return replace(region.shape, level=0.0) if isinstance(region.shape, Folded) else row

    groups = [list(items) for _, items in groupby(enumerate(regions), surface)]
    return [_Layer(tuple(row for row, _ in items), tuple(region.shape for _, region in items)) for items in groups]


def _painted(
    regions: Sequence[Region], pictures: list[list[int]], values: list[np.ndarray], grid: ImageGrid, oversample: int
) -> list[np.ndarray]:
    """Return for every picture (columns, nx, ny, nz): the mean over the voxels of each column of its values.

    pictures : for each what every region paints, a row of `values` or -1 to leave what is below.
    values : for each (rows, columns); where no region is, they are 0.
    """
    if oversample < 1:
        raise ValueError(f"oversample must be at least 1, got {oversample}")
    axes = [c.ravel() for c in grid.coordinates()]
    half = (grid.voxel_size[0] / 2, grid.voxel_size[1] / 2, grid.voxel_size[2] / 2 if grid.shape[2] > 1 else 0.0)
    offsets = sub_positions(half, oversample)
    layers, paints = _layers(regions), [np.array([*picture, -1], np.int16) for picture in pictures]
    tables = [np.vstack([table, np.zeros_like(table[:1])]) for table in values]  # row -1: outside of everything
    images = [np.zeros((table.shape[1], *grid.shape), np.float32) for table in tables]
    n = max(1, _VOXELS_AT_ONCE // (grid.shape[1] * grid.shape[2]))
    for i in range(0, grid.shape[0], n):
        tops, edge, samples = _tops(layers, paints, [axes[0][i : i + n], *axes[1:]], half, offsets)
        for image, table, top, sampled in zip(images, tables, tops, samples):
            for column, value in zip(image, table.T):
                block = value[top]
                block[edge] = value[sampled].mean(1)
                column[i : i + n] = block
    return images


def _tops(
    layers: list[_Layer],
    paints: list[np.ndarray],
    axes: list[np.ndarray],
    half: tuple[float, float, float],
    offsets: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return what is on top at the voxels' centres, where an edge may be, and what is on top at points of these."""
    tops = [np.full([axis.size for axis in axes], -1, np.int16) for _ in paints]
    edge = np.zeros(tops[0].shape, bool)
    met = []
    for layer in layers:
        window = _window(layer.shapes[0], axes, half)
        if all(part.stop > part.start for part in window):
            x, y, z = np.meshgrid(*(axis[part] for axis, part in zip(axes, window)), indexing="ij", sparse=True)
            rows = layer.row(x, y, z)
            _put([top[window] for top in tops], rows, paints)
            near = layer.straddles(x, y, z, half)
            edge[window] |= near
            met.append((layer, window, rows, near))
    if len(offsets) == 1:
        edge[:] = False
        met = []
    index = np.cumsum(edge).reshape(edge.shape) - 1
    centres = np.stack([axis[i] for axis, i in zip(axes, np.nonzero(edge))], 1)
    samples = [np.full((len(centres), len(offsets)), -1, np.int16) for _ in paints]
    for layer, window, rows, near in met:
        here = edge[window]
        points = centres[index[window][near]][:, None] + offsets
        sampled = np.repeat(rows[here][:, None], len(offsets), 1)
        sampled[near[here]] = layer.row(*np.moveaxis(points, -1, 0))
        _put_at(samples, index[window][here], sampled, paints)
    return tops, edge, samples


def _put(tops: list[np.ndarray], rows: np.ndarray, paints: list[np.ndarray]) -> None:
    for top, paint in zip(tops, paints):
        painted = paint[rows]
        np.copyto(top, painted, where=painted >= 0)


def _put_at(samples: list[np.ndarray], at: np.ndarray, rows: np.ndarray, paints: list[np.ndarray]) -> None:
    for sample, paint in zip(samples, paints):
        painted = paint[rows]
        sample[at] = np.where(painted >= 0, painted, sample[at])
