"""Random brains whose guide cannot give the activity away: tracer, ratios, lobes, sides, spots, texture and lesions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emrecon.projectors import ImageGrid

from ..noise import generator
from .brain import Brain, GuideRecipe, LesionRecipe, Mismatches, displacement, head, places
from .brain import Lesion as BrainLesion
from .brain_tissues import CONTRASTS, TISSUES
from .fields import Lobes, MarkedLesion, Modulated, SmoothField, Spot, random_texture
from .phantom import Phantom, Region
from .ranges import Range, require_range
from .shapes import Ellipsoid, Solid

TRACERS = ("fdg", "perfusion", "amyloid", "dat")

# name, centre (x, y, z) in mm on the patient's left (x > 0), where y is to the back and z = 0 lies half way up
_LOBES = (
    ("frontal", (26.0, -52.0, 18.0)),
    ("orbital", (22.0, -48.0, -18.0)),
    ("central", (42.0, -6.0, 34.0)),
    ("temporal", (50.0, 0.0, -22.0)),
    ("back temporal", (48.0, 34.0, -8.0)),
    ("parietal", (34.0, 38.0, 34.0)),
    ("occipital", (20.0, 66.0, 2.0)),
    ("medial", (5.0, -4.0, 26.0)),
)
_SOFT = 9.0  # mm, softness of the lobes
_NUCLEI = ("caudate", "putamen", "thalamus")
_BRAIN = ("grey", "white", "cerebellum", "cerebellar white", "brainstem", *_NUCLEI)
_GREY = ("grey", "cerebellum", *_NUCLEI)


@dataclass(frozen=True)
class BrainVariety:
    """How brains differ from each other in the emission image; the magnetic resonance image shows none of it.

    Args:
        tracers : families of which each brain has one, of `TRACERS`.
        ratio : grey over white matter of "fdg" and "perfusion", drawn evenly in the logarithm.
        lobes : standard deviation of the logarithm of every lobe's factor; white matter has half of it, by lobes of its
            own.
        asymmetry : likewise, of the left against the right side of each lobe, nucleus and hemisphere of the cerebellum.
        reduced : the lowest and highest number of regions with less activity, ellipsoids with soft borders.
        depth : the part of the activity that is missing in the middle of these.
        size : their diameters in mm.
        smooth : standard deviation of the logarithm of a field with waves of 70 mm, the same in all tissues.
        texture : likewise with waves of 14 mm, and as much again with waves of 28 mm; each tissue has its own.

    Raises ValueError for unknown tracers and numbers out of range.
    """

    tracers: tuple[str, ...] = ("fdg",)
    ratio: Range = (1.5, 6.0)
    lobes: float = 0.2
    asymmetry: float = 0.1
    reduced: tuple[int, int] = (0, 3)
    depth: Range = (0.2, 0.7)
    size: Range = (20.0, 50.0)
    smooth: float = 0.12
    texture: float = 0.08

    def __post_init__(self) -> None:
        unknown = [name for name in self.tracers if name not in TRACERS]
        if unknown or not self.tracers:
            raise ValueError(f"BrainVariety: unknown tracers {unknown}; choose one or more of {', '.join(TRACERS)}")
        require_range("BrainVariety ratio", self.ratio, 0.1, 100)
        require_range("BrainVariety depth", self.depth, 0, 1)
        require_range("BrainVariety size", self.size, 1, 200)
        require_range("BrainVariety reduced", self.reduced, 0, 20)
        for name in ("lobes", "asymmetry", "smooth", "texture"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"BrainVariety: {name} must be from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class LesionVariety:
    """How many lesions there are and which; contrast, size and tissue are drawn independently of the guide.

    Args:
        both, emission_only, guide_only : the lowest and highest number of those that both images show, or one alone.
        diameter : mm.
        hot : the part of the lesions of the emission image that is hot.
        hot_ratio, cold_ratio : activity over that of the tissue at the lesion's centre, drawn evenly in the logarithm
            (hot) and evenly (cold).
        tissue : "white" for lesions that lie wholly in white matter, "grey" for centres in the cortex, "brain" for
            centres anywhere in the cerebrum.

    Raises ValueError for numbers out of range.
    """

    both: tuple[int, int] = (0, 1)
    emission_only: tuple[int, int] = (0, 2)
    guide_only: tuple[int, int] = (0, 1)
    diameter: Range = (7.0, 16.0)
    hot: float = 0.5
    hot_ratio: Range = (1.5, 4.0)
    cold_ratio: Range = (0.0, 0.6)
    tissue: str = "brain"

    def __post_init__(self) -> None:
        for name in ("both", "emission_only", "guide_only"):
            require_range(f"LesionVariety {name}", getattr(self, name), 0, 20)
        require_range("LesionVariety diameter", self.diameter, 0.1, 200)
        require_range("LesionVariety hot_ratio", self.hot_ratio, 1, 1000)
        require_range("LesionVariety cold_ratio", self.cold_ratio, 0, 1)
        if not 0 <= self.hot <= 1:
            raise ValueError(f"LesionVariety: hot is a part between 0 and 1, got {self.hot}")
        if self.tissue not in ("white", "grey", "brain"):
            raise ValueError(f"LesionVariety: tissue must be white, grey or brain, got {self.tissue!r}")


@dataclass(frozen=True)
class GuideVariety:
    """How magnetic resonance images differ from each other and from the emission image.

    Args:
        shift, turn, bias, noise : see `GuideRecipe`.
        contrasts : of `CONTRASTS`, "t1", "t2" and "pd"; each image has one.
        jitter : standard deviation of the logarithm of every tissue's intensity.
        missing : the part of the images that do not show one border: that of the cortex to white matter, or that of the
            deep nuclei to white matter.
        absent : the part of the images that are constant and show nothing at all.

    Raises ValueError for unknown contrasts and numbers out of range.
    """

    shift: float = 3.0
    turn: float = 3.0
    bias: float = 0.2
    noise: float = 0.03
    contrasts: tuple[str, ...] = ("t1", "t2", "pd")
    jitter: float = 0.08
    missing: float = 0.15
    absent: float = 0.05

    def __post_init__(self) -> None:
        GuideRecipe(self.shift, self.turn, self.bias, self.noise)
        unknown = [name for name in self.contrasts if name not in CONTRASTS]
        if unknown or not self.contrasts:
            raise ValueError(f"GuideVariety: unknown contrasts {unknown}; choose one or more of {', '.join(CONTRASTS)}")
        for name in ("jitter", "missing", "absent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"GuideVariety: {name} must be from 0 to 1, got {getattr(self, name)}")
        if self.missing + self.absent > 1:
            raise ValueError("GuideVariety: missing and absent are parts of one whole, and add up to more than 1")


@dataclass(frozen=True)
class VariedBrain:
    """A brain with its magnetic resonance image.

    Args:
        phantom : activity and attenuation.
        anatomy : what the guide is painted from.
        lesions : those of either image.
        tracer, contrast : what was drawn; contrast "absent" for a constant guide.
        uptake : activity by tissue, white matter 1.
        missing : "cortex", "nuclei" or "", the border that the guide does not show.
    """

    phantom: Modulated
    anatomy: Brain
    tracer: str
    contrast: str
    uptake: dict[str, float]
    missing: str = ""

    @property
    def lesions(self) -> tuple[MarkedLesion, ...]:
        """The lesions of either image."""
        return self.phantom.lesions

    @property
    def mismatches(self) -> Mismatches:
        """Where guide and emission image lie differently, and what one of them alone shows."""
        return self.anatomy.mismatches

    def guide(self, grid: ImageGrid) -> np.ndarray:
        """Return the magnetic resonance image, float32 (nx, ny, nz)."""
        return np.ones(grid.shape, np.float32) if self.contrast == "absent" else self.anatomy.guide(grid)


def random_varied_brain(
    seed: int,
    dimensions: int = 2,
    variety: BrainVariety | None = None,
    lesions: LesionVariety | None = None,
    guide: GuideVariety | None = None,
) -> VariedBrain:
    """Return the head of `random_folded_brain` with activity that its magnetic resonance image does not tell.

    Args:
        seed : a non-negative integer; anatomy and place are those of `random_folded_brain` with this seed.
        dimensions : 2 or 3, as there.
        variety, lesions, guide : what is drawn, independently of each other.

    Activity by family, white matter 1, each range uniform and ours::

        fdg        grey = ratio; striatum 0.85 to 1.35, thalamus 0.75 to 1.2, cerebellum 0.6 to 1.1 x grey
        perfusion  grey = ratio; striatum 0.9 to 1.3, thalamus 0.85 to 1.2, cerebellum 0.9 to 1.4 x grey
        amyloid    grey 0.35 to 0.85 (three of five, negative) or 0.85 to 1.8; striatum 0.7 to 1.2 x grey,
                   thalamus 0.6 to 1.1, cerebellum 0.3 to 0.6, brainstem 0.9 to 1.3
        dat        grey 0.9 to 1.5; caudate 2 to 9, putamen 1.5 to 9 (in one of two the same loss on both sides
                   within 10 %, else each side its own), thalamus 0.9 to 1.6, cerebellum 0.8 to 1.2

    Scalp 0.1 to 0.5 and bone 0.02 to 0.15, CSF and ventricles 0 to 0.08 of the larger of grey and white.
    Striatum, thalamus and cerebellum are told apart by side; names are those of `random_folded_brain` with "left " or
    "right " before nuclei and cerebellum. Labels tell the lobes of grey matter apart ("left frontal grey").
    Lesions are uniform spheres on top.

    Raises ValueError for other dimensions and seeds, and for more lesions than there is room for.

    Source: ours.
    """
    variety, lesions, guide = variety or BrainVariety(), lesions or LesionVariety(), guide or GuideVariety()
    shapes, (place, turn) = head(seed, dimensions)
    named = [(_sided(name, shape, place, turn), shape) for name, shape in shapes]
    random = generator(seed, "varied brain activity")
    tracer = variety.tracers[int(random.integers(len(variety.tracers)))]
    uptake = brain_uptake(random, tracer, variety)
    lobes = _lobes(place, turn)
    fields = _fields(generator(seed, "varied brain fields"), variety, lobes, shapes)
    base = tuple(
        Region(name, shape, _activity_of(name, uptake, plain), TISSUES[plain])
        for (name, shape), (plain, _) in zip(named, shapes)
    )
    found = _drawn_lesions(seed, shapes, base, fields, lesions, dimensions)
    inside = tuple(
        Region(lesion.name, Ellipsoid(lesion.centre, lesion.diameter / 2), lesion.activity, "muscle")
        for lesion, _ in found
        if lesion.activity is not None
    )
    marked = tuple(
        MarkedLesion(
            lesion.name, lesion.centre, lesion.diameter, lesion.seen != "guide", lesion.seen != "emission", hot
        )
        for lesion, hot in found
    )
    phantom = Modulated(Phantom((*base, *inside)), fields, {"grey": lobes}, marked)
    anatomy, contrast, missing = _anatomy(seed, shapes, [lesion for lesion, _ in found], guide, dimensions)
    return VariedBrain(phantom, anatomy, tracer, contrast, uptake, missing)


# ---- activity --------------------------------------------------------------------------------------------------------


def _sided(name: str, shape: Solid, place: tuple[float, float, float], turn: float) -> str:
    """The name with its side; +x of the head's own axes is the patient's left."""
    if name not in (*_NUCLEI, "cerebellum", "cerebellar white"):
        return name
    middle = (np.array(shape.bounds[0]) + np.array(shape.bounds[1])) / 2 - place
    own = math.cos(math.radians(turn)) * middle[0] + math.sin(math.radians(turn)) * middle[1]
    return f"{'left' if own > 0 else 'right'} {name}"


def brain_uptake(random: np.random.Generator, tracer: str, variety: BrainVariety) -> dict[str, float]:
    """Return activity by tissue, nuclei and cerebellum by side, white matter 1."""

    def between(low: float, high: float) -> float:
        return float(random.uniform(low, high))

    white = 1.0
    if tracer in ("fdg", "perfusion"):
        grey = _logarithmic(random, variety.ratio)
        ranges = {"fdg": ((0.85, 1.35), (0.75, 1.2), (0.6, 1.1)), "perfusion": ((0.9, 1.3), (0.85, 1.2), (0.9, 1.4))}
        striatum, thalamus, cerebellum = (grey * between(*r) for r in ranges[tracer])
        table = {"caudate": striatum, "putamen": striatum, "thalamus": thalamus, "cerebellum": cerebellum}
    elif tracer == "amyloid":
        grey = between(0.35, 0.85) if random.uniform() < 0.6 else between(0.85, 1.8)
        striatum = grey * between(0.7, 1.2)
        table = {
            "caudate": striatum,
            "putamen": striatum,
            "thalamus": between(0.6, 1.1),
            "cerebellum": between(0.3, 0.6),
        }
    else:
        grey = between(0.9, 1.5)
        table = {"caudate": between(2, 9), "putamen": between(1.5, 9), "thalamus": between(0.9, 1.6)}
        table["cerebellum"] = between(0.8, 1.2)
    highest = max(grey, white)
    out = {"grey": grey, "white": white, "cerebellar white": between(0.8, 1.2), "brainstem": between(0.9, 1.3)}
    out |= {"skin": highest * between(0.1, 0.5), "skull": highest * between(0.02, 0.15)}
    out |= {"csf": highest * between(0.0, 0.08)}
    out["ventricles"] = out["csf"]
    own_sides = tracer == "dat" and random.uniform() < 0.5
    for name, value in table.items():
        spread = variety.asymmetry
        for side in ("left", "right"):
            factor = math.exp(float(np.clip(random.normal(), -2.5, 2.5)) * spread)
            out[f"{side} {name}"] = value * factor
        if own_sides and name in ("caudate", "putamen"):
            worse = "left" if random.uniform() < 0.5 else "right"
            out[f"{worse} {name}"] = max(1.0, between(0.3, 1.0) * value)
    for side in ("left", "right"):
        out[f"{side} cerebellar white"] = out["cerebellar white"]
    return out


def _activity_of(name: str, uptake: dict[str, float], plain: str) -> float:
    return uptake[name] if name in uptake else uptake[plain]


def _lobes(place: tuple[float, float, float], turn: float) -> Lobes:
    """Lobes of both sides, of factor 1, where the head lies."""
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    names, centres = [], []
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for name, (x, y, z) in _LOBES:
            names.append(f"{side} {name}")
            own = sign * x
            turned = (cosine * own - sine * y, sine * own + cosine * y, z)
            centres.append(tuple(t + p for t, p in zip(turned, place)))
    return Lobes(tuple(names), tuple(centres), (1.0,) * len(names), _SOFT)  # type: ignore[arg-type]


def _fields(
    random: np.random.Generator, variety: BrainVariety, lobes: Lobes, shapes: Sequence[tuple[str, Solid]]
) -> dict[str, SmoothField]:
    """The field of every tissue of the brain: lobes and texture of its own, spots and slow waves in common."""
    low, high = next(shape for name, shape in shapes if name == "grey").bounds
    spots = brain_spots(random, variety, np.asarray(low), np.asarray(high))
    slow, _ = random_texture(random, {70.0: variety.smooth})

    def made(part: float, in_lobes: bool) -> SmoothField:
        fast, _ = random_texture(random, {14.0: variety.texture, 28.0: variety.texture})
        sigma = math.sqrt(variety.smooth**2 + 2 * variety.texture**2)
        own = replace(lobes, factors=_factors(random, variety, part)) if in_lobes else None
        return SmoothField(1.0, own, spots, (*slow, *fast), sigma)

    grey, white, deep, cerebellum = made(1.0, True), made(0.5, True), made(0.0, False), made(0.0, False)
    fields = {"grey": grey, "white": white, "brainstem": white}
    for side in ("left", "right"):
        fields |= {f"{side} {name}": deep for name in _NUCLEI}
        fields |= {f"{side} {name}": cerebellum for name in ("cerebellum", "cerebellar white")}
    return fields


def _factors(random: np.random.Generator, variety: BrainVariety, part: float = 1.0) -> tuple[float, ...]:
    """The factor of every lobe of the left, then of the right."""
    shared = np.repeat(random.normal(size=(1, len(_LOBES))), 2, 0)
    own = random.normal(size=(2, len(_LOBES))) / math.sqrt(2)
    logs = variety.lobes * shared + variety.asymmetry * own
    return tuple(np.exp(part * np.clip(logs, -0.9, 0.9)).ravel().tolist())


def head_lobes(random: np.random.Generator, variety: BrainVariety, place: tuple[float, float, float]) -> Lobes:
    """Return the lobes of a head at a place, with random factors."""
    return replace(_lobes(place, 0.0), factors=_factors(random, variety))


def brain_spots(
    random: np.random.Generator, variety: BrainVariety, low: np.ndarray, high: np.ndarray
) -> tuple[Spot, ...]:
    """Return the regions of reduced activity of a brain between two corners in mm."""
    n = int(random.integers(*variety.reduced, endpoint=True))
    return tuple(_spot(random, variety, low, high) for _ in range(n))


def _spot(random: np.random.Generator, variety: BrainVariety, low: np.ndarray, high: np.ndarray) -> Spot:
    middle, half = (low + high) / 2, (high - low) / 2
    direction = random.normal(size=3)
    direction *= random.uniform(0.5, 0.95) / np.linalg.norm(direction)
    radii = random.uniform(*variety.size) / 2 * random.uniform(0.75, 1.25, 3)
    depth = float(random.uniform(*variety.depth))
    return Spot(
        tuple((middle + half * direction).tolist()),
        tuple(radii.tolist()),
        1 - depth,
        float(radii.mean() * random.uniform(0.1, 0.3)),
    )


# ---- lesions ---------------------------------------------------------------------------------------------------------


def _drawn_lesions(
    seed: int,
    shapes: list[tuple[str, Solid]],
    base: Sequence[Region],
    fields: dict[str, SmoothField],
    variety: LesionVariety,
    dimensions: int,
) -> list[tuple[BrainLesion, bool | None]]:
    random = generator(seed, "varied brain lesions")
    ranges = (variety.both, variety.emission_only, variety.guide_only)
    numbers = [int(random.integers(low, high, endpoint=True)) for low, high in ranges]
    kinds = [kind for kind, n in zip(("both", "emission", "guide"), numbers) for _ in range(n)]
    if not kinds:
        return []
    recipe = LesionRecipe(diameter=variety.diameter, tissue="white" if variety.tissue == "white" else "grey")
    tissues = {"white": ("white",), "grey": ("grey",), "brain": ("grey", "white", *_NUCLEI)}[variety.tissue]
    free = places(random, shapes, recipe, dimensions, tissues)
    found: list[tuple[BrainLesion, bool | None]] = []
    for k, seen in enumerate(kinds, 1):
        centre, diameter = _next(free, [lesion for lesion, _ in found], variety, len(kinds))
        hot, strength, intensity = (
            bool(random.uniform() < variety.hot),
            random.uniform(),
            float(random.uniform(0.3, 1.3)),
        )
        below = next(region for region in reversed(base) if region.shape.contains(*centre))
        around = (below.activity or 0.0) * float(fields.get(below.name, SmoothField())(*centre))
        low, high = variety.hot_ratio if hot else variety.cold_ratio
        ratio = low * (high / low) ** strength if hot else low + (high - low) * strength
        lesion = BrainLesion(
            f"lesion {k}",
            centre,
            diameter,
            seen,  # type: ignore[arg-type]
            None if seen == "guide" else float(ratio * around),
            None if seen == "emission" else intensity,
        )
        found.append((lesion, None if seen == "guide" else hot))
    return found


def _next(
    free: Iterator[tuple[np.ndarray, float]], found: list[BrainLesion], variety: LesionVariety, wanted: int
) -> tuple[tuple[float, float, float], float]:
    for centre, diameter in free:
        if all(math.dist(centre, other.centre) > (diameter + other.diameter) / 2 + 4 for other in found):
            x, y, z = (float(c) for c in centre)
            return (x, y, z), diameter
    low, high = variety.diameter
    raise ValueError(
        f"no room for {wanted} lesions of {low:g} to {high:g} mm in {variety.tissue}, only for {len(found)}; "
        "fewer or smaller ones?"
    )


# ---- guide -----------------------------------------------------------------------------------------------------------


def _anatomy(
    seed: int,
    shapes: Sequence[tuple[str, Solid]],
    lesions: Sequence[BrainLesion],
    variety: GuideVariety,
    dimensions: int,
) -> tuple[Brain, str, str]:
    """Return the brain as the guide shows it, its contrast, and the border that it does not show."""
    random = generator(seed, "varied brain guide")
    contrast = variety.contrasts[int(random.integers(len(variety.contrasts)))]
    table = {
        tissue: value * math.exp(variety.jitter * float(np.clip(random.normal(), -2.5, 2.5)))
        for tissue, value in CONTRASTS[contrast].items()
    }
    u, which = random.uniform(), random.uniform()
    missing = ("cortex" if which < 0.5 else "nuclei") if u < variety.missing else ""
    if missing == "cortex":
        table["grey"], table["cerebellum"] = table["white"], table["cerebellar white"]
    elif missing == "nuclei":
        table |= dict.fromkeys(_NUCLEI, table["white"])
    contrast = "absent" if variety.missing <= u < variety.missing + variety.absent else contrast
    recipe = GuideRecipe(variety.shift, variety.turn, variety.bias, variety.noise)
    offset, angle = displacement(seed, recipe, dimensions)
    seen = [Region(name, shape, table[name]) for name, shape in shapes]
    seen += [
        Region(lesion.name, Ellipsoid(lesion.centre, lesion.diameter / 2), lesion.intensity)
        for lesion in lesions
        if lesion.intensity is not None
    ]
    plain = Phantom(tuple(Region(name, shape, 0.0, TISSUES[name]) for name, shape in shapes))
    moved = Phantom(tuple(seen)).moved(offset, angle)
    only = {kind: tuple(lesion.name for lesion in lesions if lesion.seen == kind) for kind in ("emission", "guide")}
    mismatches = Mismatches(offset, angle, only["emission"], only["guide"])
    return Brain(plain, moved, tuple(lesions), mismatches, recipe, seed), contrast, missing


def _logarithmic(random: np.random.Generator, ends: Range) -> float:
    low, high = ends
    return float(low * (high / low) ** random.uniform())
