"""Random brains with a folded cortex, deep nuclei and lesions, and a magnetic resonance image that nearly matches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from emrecon.projectors import ImageGrid

from ..noise import generator
from .folds import Folded, random_folds, random_waves
from .layers import painted_together
from .phantom import Phantom, Region
from .shapes import Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to

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

_CANDIDATES = 400


@dataclass(frozen=True)
class LesionRecipe:
    """How many lesions a brain gets, and which.

    Args:
        both : in the emission image and in the guide.
        emission_only, guide_only : in one of them.
        diameter : range in mm.
        hot : the part of the lesions of the emission image that is hot, 1.5 x the grey matter's activity; the others
            have 0.5 x the white matter's.
        tissue : where they lie, wholly in white matter, or centred in grey matter.

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

    Args:
        shift : the largest displacement in mm along each axis, and turn : the largest rotation in degrees about z, both
            drawn evenly.
        bias : the largest relative bias of a smooth field, exp(+-bias).
        noise : standard deviation over the intensity of white matter, Rician.

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

    Args:
        name : of its region.
        centre, diameter : mm, in the emission image's position.
        seen : "both", "emission" or "guide".
        activity : per mL (None for "guide").
        intensity : in the guide (None for "emission").
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

    Args:
        offset : mm and angle : degrees about z (x towards y) that take the emission image's anatomy to the guide's,
            first the turn and then the shift.
        emission_only, guide_only : names of lesions.
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

    Args:
        phantom : activity and attenuation.
        anatomy : the guide's phantom, whose "activity" is the intensity of a T1-weighted image (white matter 1, grey
            matter 0.65, CSF 0.2).
        lesions, mismatches : what was put in.
        recipe : bias and noise of the guide.
        seed : of all of it.
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
            ((activity, mu),) = painted_together(
                self.phantom.regions, [[*range(len(emission))]], [emission], grid, oversample
            )
            ((guide,),) = painted_together(
                self.anatomy.regions, [[*range(len(intensity))]], [intensity], grid, oversample
            )
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
        return painted_together(regions, [in_emission, in_guide], [emission, intensity], grid, oversample)

    def _degraded(self, guide: np.ndarray, grid: ImageGrid) -> np.ndarray:
        if self.recipe.bias > 0:
            waves = random_waves(generator(self.seed, "folded brain bias"), 4, 300.0)
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

    Args:
        seed : a non-negative integer; each has its own brain, the same for every other argument. Lesions, displacement,
            bias and noise have their own numbers, so the anatomy does not depend on them.
        dimensions : 3 for a brain with z = 0 half way up the head, at the height of the basal ganglia; 2 for the same
            brain moved along z by a random -30 to 10 mm, so that an image of one slice shows one height of it (paint
            other heights of a 3-D one by the grid's origin). Lesions then lie in that plane.
        uptake : a key of `UPTAKES`, or activities by the same tissues as there.
        lesions, guide : see `LesionRecipe` and `GuideRecipe`; without, there are no lesions and the guide matches and
            has no noise.

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
    taken = _table(uptake)
    shapes, _ = head(seed, dimensions)
    found = _lesions(seed, shapes, lesions or LesionRecipe(), taken, dimensions)
    offset, angle = displacement(seed, guide or GuideRecipe(), dimensions)
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


def head(seed: int, dimensions: int) -> tuple[list[tuple[str, Solid]], tuple[tuple[float, float, float], float]]:
    """Return the names and shapes of a random head in painter's order, and where it lies: offset in mm and turn.

    Raises ValueError for other dimensions than 2 and 3.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    random = generator(seed, "folded brain")
    anatomy = _anatomy(random)
    turn, dx, dy = (float(v) for v in random.uniform((-15, -8, -8), (15, 8, 8)))
    height = float(random.uniform(-30, 10))
    place = (dx, dy, height if dimensions == 2 else 0.0)
    return [(name, shape.moved(place, turn)) for name, shape in anatomy], (place, turn)


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
    folds = random_folds(random, (a, b, up, down))
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


def _table(uptake: str | Mapping[str, float]) -> Mapping[str, float]:
    tissues = UPTAKES["fdg"]
    if isinstance(uptake, str):
        if uptake not in UPTAKES:
            raise ValueError(
                f"unknown uptake {uptake!r}; choose from {', '.join(UPTAKES)}, or give a mapping of tissues"
            )
        return UPTAKES[uptake]
    if set(uptake) != set(tissues):
        raise ValueError(f"uptake must have the tissues {', '.join(tissues)}, got {', '.join(uptake)}")
    return uptake


def _emitting(name: str, shape: Solid, uptake: Mapping[str, float]) -> Region:
    tissue, material = _TISSUES[name]
    return Region(name, shape, uptake.get(tissue, 0.0), material)


def _lesions(
    seed: int, shapes: list[tuple[str, Solid]], recipe: LesionRecipe, uptake: Mapping[str, float], dimensions: int
) -> tuple[Lesion, ...]:
    kinds = ["both"] * recipe.both + ["emission"] * recipe.emission_only + ["guide"] * recipe.guide_only
    random = generator(seed, "folded brain lesions")
    found: list[Lesion] = []
    if not kinds:
        return ()
    free = places(random, shapes, recipe, dimensions)
    for k, seen in enumerate(kinds, 1):
        centre, diameter = _next_place(free, found, recipe, len(kinds))
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


def places(
    random: np.random.Generator,
    shapes: list[tuple[str, Solid]],
    recipe: LesionRecipe,
    dimensions: int,
    tissues: Sequence[str] = (),
) -> Iterator[tuple[np.ndarray, float]]:
    """Yield places where a sphere lies in the tissue, with its diameter; many times, then no more.

    Args:
        tissues : where centres lie (default: the tissue of the recipe).
    """
    cerebrum = next(shape for name, shape in shapes if name == "grey")
    low, high = (np.where(np.arange(3) < dimensions, bound, 0.0) for bound in cerebrum.bounds)
    around = np.vstack([np.zeros(3), np.eye(3), -np.eye(3), (np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1) / 3**0.5])
    for _ in range(20):
        centres = random.uniform(low, high, (_CANDIDATES, 3))
        diameters = random.uniform(*recipe.diameter, _CANDIDATES)
        points = centres[:, None] + diameters[:, None, None] / 2 * around
        centred = _inside(shapes, tissues or (recipe.tissue,), centres)
        within = centred.copy()
        if recipe.tissue == "white":
            within[centred] = _inside(shapes, ("white",), points[centred]).all(1)
        yield from ((centre, float(d)) for centre, d in zip(centres[within], diameters[within]))


def _inside(shapes: list[tuple[str, Solid]], tissues: Sequence[str], points: np.ndarray) -> np.ndarray:
    """Whether one of the tissues is on top at points (..., 3)."""
    top = np.zeros(points.shape[:-1], bool)
    for name, shape in shapes:
        top = np.where(shape.contains(*np.moveaxis(points, -1, 0)), name in tissues, top)
    return top


def _in_emission(lesions: Sequence[Lesion]) -> Iterator[Region]:
    for lesion in lesions:
        if lesion.activity is not None:
            yield Region(lesion.name, Ellipsoid(lesion.centre, lesion.diameter / 2), lesion.activity, "muscle")


def _in_guide(lesions: Sequence[Lesion]) -> Iterator[Region]:
    for lesion in lesions:
        if lesion.intensity is not None:
            yield Region(lesion.name, Ellipsoid(lesion.centre, lesion.diameter / 2), lesion.intensity)


def displacement(seed: int, recipe: GuideRecipe, dimensions: int) -> tuple[tuple[float, float, float], float]:
    """Return the guide's offset in mm and its turn in degrees."""
    random = generator(seed, "folded brain displacement")
    x, y, z = (float(v) for v in recipe.shift * random.uniform(-1, 1, 3))
    return (x, y, z if dimensions == 3 else 0.0), float(recipe.turn * random.uniform(-1, 1))
