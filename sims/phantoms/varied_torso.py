"""Random patients whose CT or MR cannot give the activity away: uptake by organ, texture, lesions, defects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..noise import generator
from .bodies import UPTAKES, random_build, torso
from .body_guides import BodyGuide, BodyGuideVariety, random_body_guide
from .cardiac import PERFUSION, _random_defect, _random_ventricle, cardiac_torso
from .fields import MarkedLesion, Modulated, SmoothField, random_texture
from .phantom import Phantom, Region
from .ranges import Range, require_range
from .shapes import Ellipsoid

TORSO_UPTAKES = (*UPTAKES, *PERFUSION)
_PAIRS = ("kidney", "lung")
_SITES = {
    "bone-scan": ("spine", "rib", "pelvis", "scapula", "femur", "sternum"),
    "fdg": ("liver", "lung", "body", "spine", "spleen"),
    "lu-177": ("liver", "spleen", "body", "spine", "pelvis", "kidney"),
    "tc-99m": ("liver", "body"),
    "tl-201": ("liver", "body"),
}
_CANDIDATES = 3000


@dataclass(frozen=True)
class TorsoVariety:
    """How patients differ from each other in the emission image.

    Args:
        uptake : "fdg", "lu-177", "bone-scan", or "tc-99m" and "tl-201" for the heart.
        spread : every organ's activity times 1 / spread to spread, drawn evenly in the logarithm; kidneys and lungs by
            side.
        smooth : standard deviation of the logarithm of a field with waves of 120 mm in every organ.
        texture : likewise with waves of 25 mm.
        defects : the lowest and highest number of defects of the myocardium, of the heart's tracers.
        slices : heights in mm between which the plane (or the middle of the volume) lies that comes to z = 0.

    Raises ValueError for an unknown uptake and numbers out of range.
    """

    uptake: str = "fdg"
    spread: float = 2.0
    smooth: float = 0.1
    texture: float = 0.08
    defects: tuple[int, int] = (0, 2)
    slices: Range = (-60.0, 200.0)

    def __post_init__(self) -> None:
        if self.uptake not in TORSO_UPTAKES:
            raise ValueError(f"TorsoVariety: unknown uptake {self.uptake!r}; choose from {', '.join(TORSO_UPTAKES)}")
        if not 1 <= self.spread <= 10:
            raise ValueError(f"TorsoVariety: spread must be from 1 to 10, got {self.spread}")
        for name in ("smooth", "texture"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"TorsoVariety: {name} must be from 0 to 1, got {getattr(self, name)}")
        require_range("TorsoVariety defects", self.defects, 0, 5)
        require_range("TorsoVariety slices", self.slices, -1000, 1000)


@dataclass(frozen=True)
class BodyLesions:
    """How many lesions a body gets and which; contrast, size and place are independent of the guide.

    Args:
        number : the lowest and highest number of those in the emission image.
        in_guide : the part of them that the guide shows, too.
        guide_only : the lowest and highest number of those that the guide alone shows.
        diameter : mm.
        hot : the part that is hot; hot_ratio, cold_ratio : activity over that of the tissue at the centre, drawn
            evenly in the logarithm (hot) and evenly (cold).

    Raises ValueError for numbers out of range.
    """

    number: tuple[int, int] = (0, 4)
    in_guide: float = 0.5
    guide_only: tuple[int, int] = (0, 1)
    diameter: Range = (12.0, 35.0)
    hot: float = 0.7
    hot_ratio: Range = (1.5, 6.0)
    cold_ratio: Range = (0.0, 0.6)

    def __post_init__(self) -> None:
        require_range("BodyLesions number", self.number, 0, 40)
        require_range("BodyLesions guide_only", self.guide_only, 0, 40)
        require_range("BodyLesions diameter", self.diameter, 0.1, 200)
        require_range("BodyLesions hot_ratio", self.hot_ratio, 1, 1000)
        require_range("BodyLesions cold_ratio", self.cold_ratio, 0, 1)
        for name in ("in_guide", "hot"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"BodyLesions: {name} is a part between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class VariedBody:
    """A body with its guide.

    Args:
        phantom : activity, attenuation and lesions.
        guide : makes the CT- or MR-like image on a grid.
        about : what was drawn.
    """

    phantom: Modulated
    guide: BodyGuide
    about: Mapping[str, str]


def random_varied_torso(
    seed: int,
    dimensions: int = 2,
    variety: TorsoVariety | None = None,
    lesions: BodyLesions | None = None,
    guide: BodyGuideVariety | None = None,
) -> VariedBody:
    """Return a patient of `random_torso`'s build, arms up, with activity that CT and MR do not tell.

    Args:
        seed : a non-negative integer.
        dimensions : 2 for a plane at z = 0, in which lesions are centred; 3 for a volume of 200 mm around it.
        variety, lesions, guide : what is drawn, independently of each other.

    Lesions are uniform spheres in bones (bone-scan), liver, lung, spleen, spine and soft tissue (fdg), liver, spleen,
    kidneys, bones and soft tissue (lu-177). Defects of the myocardium are those of `random_cardiac_torso`; they are
    told with the diameter 0, and labels say where they are.

    Raises ValueError for other dimensions and seeds.

    Source: ours.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    variety, lesions, guide = variety or TorsoVariety(), lesions or BodyLesions(), guide or BodyGuideVariety()
    random = generator(seed, "varied torso")
    height = float(random.uniform(*variety.slices))
    plain, marked = _patient(random, variety)
    plain = plain.moved((0.0, 0.0, -height))
    defects = tuple(
        MarkedLesion(name, (0.0, 0.0, 0.0), 0.0, True, False, False) for name in plain.names if name in marked
    )
    found = place_lesions(
        generator(seed, "varied torso lesions"),
        plain,
        lesions,
        _SITES[variety.uptake],
        dimensions,
        (190.0, 130.0, 100.0),
    )
    texture = generator(seed, "varied torso fields")
    fields = {}
    for name in plain.names[1:]:
        waves, sigma = random_texture(texture, {120.0: variety.smooth, 25.0: variety.texture})
        fields[name] = SmoothField(waves=waves, strength=sigma)
    whole = Phantom((*plain.regions, *(region for region, _ in found if region is not None)))
    spheres = tuple(lesion for _, lesion in found)
    made = random_body_guide(seed, plain.regions, spheres, guide, dimensions, marked)
    about = {"tracer": variety.uptake, "contrast": made.contrast}
    return VariedBody(Modulated(whole, fields, {}, (*defects, *spheres)), made, about)


def _patient(random: np.random.Generator, variety: TorsoVariety) -> tuple[Phantom, tuple[str, ...]]:
    """A patient, and the names of the defects of the myocardium."""
    heart = variety.uptake in PERFUSION
    table = dict(PERFUSION[variety.uptake] if heart else UPTAKES[variety.uptake])
    for organ in _PAIRS:
        if organ in table:
            table |= {f"{side} {organ}": table[organ] for side in ("left", "right")}
    reach = math.log(variety.spread)
    table = {organ: value * math.exp(random.uniform(-reach, reach)) for organ, value in sorted(table.items())}
    build = random_build(random)
    if not heart:
        return torso(table, build=build), ()
    ventricle = _random_ventricle(random, build)
    defects = [_random_defect(random) for _ in range(int(random.integers(*variety.defects, endpoint=True)))]
    whole = cardiac_torso(ventricle, defects, table, build)
    return whole, tuple(name for name in whole.names if name.startswith("defect"))


def place_lesions(
    random: np.random.Generator,
    plain: Phantom,
    recipe: BodyLesions,
    sites: Sequence[str],
    dimensions: int,
    reach: tuple[float, float, float],
) -> list[tuple[Region | None, MarkedLesion]]:
    """Return lesions with their regions (None of those that the guide alone shows), centred in the sites.

    Args:
        sites : names of regions, or the last words of them. With none of them in reach there are no lesions.
        reach : mm along x, y and z around the origin.

    There are fewer than was drawn where there is no more room.
    """
    n = int(random.integers(*recipe.number, endpoint=True))
    total = n + int(random.integers(*recipe.guide_only, endpoint=True))
    if not total:
        return []
    box = np.array(reach) * (np.arange(3) < dimensions)
    points = random.uniform(-box, box, (_CANDIDATES, 3))
    top = np.full(len(points), -1)
    for k, region in enumerate(plain.regions):
        top[region.shape.contains(*points.T)] = k
    found: list[tuple[Region | None, MarkedLesion]] = []
    by_site: dict[str, list[int]] = {site: [] for site in sites}
    for i, k in enumerate(top):
        name = plain.regions[k].name if k >= 0 else ""
        site = next((s for s in sites if name == s or name.endswith(f" {s}")), None)
        if site:
            by_site[site].append(i)
    for k in range(total):
        open_sites = [site for site, places in by_site.items() if places]
        diameter, hot = float(random.uniform(*recipe.diameter)), bool(random.uniform() < recipe.hot)
        strength, shown = random.uniform(), bool(random.uniform() < recipe.in_guide)
        if not open_sites:
            break
        places = by_site[open_sites[int(random.integers(len(open_sites)))]]
        centre, below = None, None
        while places and centre is None:
            i = places.pop(int(random.integers(len(places))))
            if all(math.dist(points[i], other.centre) > (diameter + other.diameter) / 2 + 6 for _, other in found):
                centre, below = tuple(float(c) for c in points[i]), plain.regions[top[i]]
        if centre is None or below is None:
            continue
        low, high = recipe.hot_ratio if hot else recipe.cold_ratio
        ratio = low * (high / low) ** strength if hot else low + (high - low) * strength
        name, emitting = f"lesion {k + 1}", k < n
        lesion = MarkedLesion(name, centre, diameter, emitting, shown or not emitting, hot if emitting else None)  # type: ignore[arg-type]
        material = "muscle" if "lung" in below.name and lesion.in_guide else None
        region = Region(name, Ellipsoid(lesion.centre, diameter / 2), float(ratio * (below.activity or 0.0)), material)
        found.append((region if emitting else None, lesion))
    return found
