"""Real heads, read where they are installed: Colin27 with AAL labels, and the MNI152 average; activity is random."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform, binary_fill_holes, distance_transform_edt, label

from emrecon.formats import read_nifti
from emrecon.projectors import ImageGrid, linear_attenuation

from ..noise import generator
from .body_guides import BodyGuideVariety
from .fields import Lobes, MarkedLesion, SmoothField, random_texture
from .folds import random_waves
from .label_map import average_onto
from .phantom import Phantom, Region
from .shapes import Ellipsoid
from .varied_brain import BrainVariety, brain_spots, brain_uptake, head_lobes
from .varied_torso import BodyLesions

SOURCES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "colin27": (("ch2.nii.gz", "ch2bet.nii.gz", "aal.nii.gz", "aal.nii.txt"), "the Debian package mricron-data"),
    "mni152": (
        tuple(f"mni_icbm152_{part}_tal_nlin_sym_09a_converted.nii.gz" for part in ("t1", "gm", "wm")),
        "the Python package nilearn",
    ),
}
"""Files of each source, and what installs them."""

_MRICRON = Path("/usr/share/mricron/templates")
_NUCLEI = ("caudate", "putamen", "thalamus")
_TISSUES = (
    "grey",
    "white",
    "csf",
    "skin",
    "skull",
    *(f"{s} {n}" for s in ("left", "right") for n in (*_NUCLEI, "cerebellum")),
)


def anatomy_files(source: str, folder: str | Path | None = None) -> dict[str, Path]:
    """Return the files of a source by their names.

    Args:
        source : "colin27" or "mni152".
        folder : where they are (default: where the package puts them).

    Raises ValueError for another source; FileNotFoundError, naming the package, where a file is missing.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown anatomy {source!r}; choose from {', '.join(SOURCES)}")
    names, package = SOURCES[source]
    place = Path(folder) if folder is not None else _installed(source)
    missing = [name for name in names if place is None or not (place / name).is_file()]
    if place is None or missing:
        where = f"{place} has no {missing[0]}" if place is not None else "it is not installed"
        raise FileNotFoundError(f"anatomy {source!r}: {where}; install {package}, or give the folder of its files")
    return {name: place / name for name in names}


def _installed(source: str) -> Path | None:
    if source == "colin27":
        return _MRICRON
    found = importlib.util.find_spec("nilearn")
    return None if found is None or not found.origin else Path(found.origin).parent / "datasets" / "data"


@dataclass(frozen=True, eq=False)
class Head:
    """A head on its own voxels, with the middle of the brain at the origin.

    Args:
        grid : of all images.
        parts : by tissue, the part of every voxel that it fills, 0 to 1.
        t1 : the magnetic resonance image, white matter about 1.
        regions : number of the cortical region of every voxel, 0 for none, and their names.
    """

    grid: ImageGrid
    parts: Mapping[str, np.ndarray]
    t1: np.ndarray
    regions: np.ndarray
    names: tuple[str, ...]


def real_head(source: str, folder: str | Path | None = None) -> Head:
    """Return a real head, read from the files of `anatomy_files`; raises as that does, and FormatError for others.

    Colin27: tissues by the intensity of the skull-stripped T1-weighted image (three means, linear between them),
    nuclei, cerebellum and cortical regions by the AAL labels; 4 mm CSF, 7 mm bone and scalp in the image of the head.
    MNI152: tissues by the probability maps; it has no skull, so 4 mm CSF, 7 mm bone and 5 mm scalp are put around it,
    and nuclei, cerebellum and lobes where a brain of this space has them.

    Source: Holmes et al. 1998 (Colin27), Tzourio-Mazoyer et al. 2002 (AAL), Fonov et al. 2011 (MNI152).
    """
    files = anatomy_files(source, folder)
    return _head(source, tuple(str(path) for path in files.values()))


@cache
def _head(source: str, paths: tuple[str, ...]) -> Head:
    return _colin27(*paths) if source == "colin27" else _mni152(*paths)


def _colin27(whole: str, stripped: str, atlas: str, table: str) -> Head:
    (t1, grid), (brain, _), (labels, _) = read_nifti(whole), read_nifti(stripped), read_nifti(atlas)
    names = _aal_names(Path(table))
    inside, numbers = brain > 0, np.rint(labels).astype(np.int16)
    c, g, w = _three_means(brain[inside])
    grey = np.clip(np.where(brain < g, (brain - c) / (g - c), (w - brain) / (w - g)), 0, 1) * inside
    white = np.clip((brain - g) / (w - g), 0, 1) * inside
    parts = {"grey": grey, "white": white}
    for name in (*_NUCLEI, "cerebellum"):
        for side, letter in (("left", "L"), ("right", "R")):
            own = [k for k, n in names.items() if _is(n, name) and n.endswith(letter)]
            there = np.isin(numbers, own)
            if name == "cerebellum":
                parts[f"{side} {name}"] = np.where(there, parts["grey"], 0)
                parts["grey"] = np.where(there, 0, parts["grey"])
            else:
                parts[f"{side} {name}"] = there * np.clip((brain - c) / (g - c), 0, 1)
                parts["grey"], parts["white"] = (np.where(there, 0, parts[t]) for t in ("grey", "white"))
    kept = np.array(
        [0 if _is(names.get(k, ""), *_NUCLEI, "cerebellum", "Vermis") else k for k in range(max(names) + 1)]
    )
    regions = kept[numbers]
    head = _largest(binary_fill_holes(t1 > 0.25 * w))
    return _assembled(grid, parts, t1 / w, regions, names, inside, head)


def _is(name: str, *kinds: str) -> bool:
    start = {"cerebellum": "Cerebelum"}
    return any(name.startswith(start.get(kind, kind.capitalize())) for kind in kinds)


def _mni152(t1: str, grey: str, white: str) -> Head:
    (image, grid), (g, _), (w, _) = read_nifti(t1), read_nifti(grey), read_nifti(white)
    image, g, w = (np.asarray(x, np.float32) / max(float(x.max()), 1e-6) for x in (image, g, w))
    inside = binary_fill_holes(image > 0.1)
    parts: dict[str, np.ndarray] = {"grey": g, "white": w}
    x, y, z = grid.coordinates()
    for name, centre, radii in _MNI_NUCLEI:
        for side, sign in (("left", 1), ("right", -1)):
            near = ((x - sign * centre[0]) / radii[0]) ** 2 + ((y + centre[1]) / radii[1]) ** 2
            there = near + ((z - centre[2]) / radii[2]) ** 2 < 1
            parts[f"{side} {name}"] = np.where(there, parts["grey"], 0)
            parts["grey"] = np.where(there, 0, parts["grey"])
    for side, sign in (("left", 1), ("right", -1)):
        there = (z < -12) & (y > 42 - 0.4 * (z + 12)) & (sign * x > 0) & (z < -14 - 0.35 * (y - 50))
        parts[f"{side} cerebellum"] = np.where(there, parts["grey"], 0)
        parts["grey"] = np.where(there, 0, parts["grey"])
    distance = distance_transform_edt(~inside, grid.voxel_size)
    return _assembled(grid, parts, image, np.zeros(grid.shape, np.int16), {}, inside, distance < 16.0)


# centres (|x|, y to the front, z) in mm of the MNI space and radii
_MNI_NUCLEI = (
    ("caudate", (13, 11, 11), (8, 16, 14)),
    ("putamen", (26, 3, 1), (9, 18, 12)),
    ("thalamus", (11, -18, 8), (11, 14, 10)),
)


def _assembled(
    grid: ImageGrid,
    parts: Mapping[str, np.ndarray],
    t1: np.ndarray,
    regions: np.ndarray,
    names: Mapping[int, str],
    brain: np.ndarray,
    head: np.ndarray,
) -> Head:
    """Put layers around the brain and its middle at the origin."""
    distance = distance_transform_edt(~brain, grid.voxel_size)
    outside = head & ~brain
    csf, bone = outside & (distance < 4), outside & (distance >= 4) & (distance < 11)
    filled = sum(parts.values())
    layers = {"csf": csf + np.where(brain, np.clip(1 - filled, 0, 1), 0), "skull": bone, "skin": outside & ~csf & ~bone}
    places = np.argwhere(brain)
    middle = (places.min(0) + places.max(0)) / 2 * np.array(grid.voxel_size)
    own = replace(grid, origin=tuple((-middle).tolist()))
    whole = {name: np.asarray(part, np.float32) for name, part in (*parts.items(), *layers.items())}
    table = tuple(names.get(k, "") for k in range(max(names, default=0) + 1))
    return Head(own, whole, np.asarray(t1, np.float32), regions.astype(np.int16), table)


def _aal_names(path: Path) -> dict[int, str]:
    lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    return {int(words[0]): words[1] for words in lines if len(words) >= 2 and words[0].isdigit()}


def _three_means(values: np.ndarray) -> tuple[float, float, float]:
    """CSF, grey and white matter by k-means of intensities."""
    values = values[:: max(1, values.size // 100_000)]
    means = np.percentile(values, (5, 40, 85))
    for _ in range(30):
        nearest = np.abs(values[:, None] - means).argmin(1)
        means = np.array([values[nearest == k].mean() if (nearest == k).any() else means[k] for k in range(3)])
    c, g, w = (float(m) for m in means)
    return c, g, w


def _largest(mask: np.ndarray) -> np.ndarray:
    found, n = label(mask)
    return np.asarray(found == 1 + np.argmax(np.bincount(found.ravel())[1:])) if n else mask


@dataclass(frozen=True, eq=False)
class RealBrain:
    """A real head with random activity, as simulators want it.

    Args:
        head : the anatomy.  height : mm above the middle of the brain that comes to z = 0; place : x and y in mm.
        uptake : activity by tissue.
        regional : the factor of every cortical region, by its number.
        fields : by tissue.
        lesions, inside : what was put in, and the regions of those that the emission shows.
    """

    head: Head
    place: tuple[float, float, float]
    uptake: Mapping[str, float]
    regional: np.ndarray
    fields: Mapping[str, SmoothField]
    lesions: tuple[MarkedLesion, ...] = ()
    inside: tuple[Region, ...] = ()
    _kept: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def activity(self, grid: ImageGrid) -> np.ndarray:
        """Return the mean activity concentration of every voxel, float32 (nx, ny, nz)."""
        total = np.zeros(grid.shape)
        for tissue, part in self.head.parts.items():
            values = part * self.regional[self.head.regions] if tissue == "grey" else part
            image = self._onto(values, grid) * self.uptake[tissue]
            own = self.fields.get(tissue)
            total += image if own is None or not image.any() else image * own.on(grid)
        for region in self.inside:
            filled = Phantom((replace(region, activity=1.0),)).activity(grid)
            total = total * (1 - filled) + filled * (region.activity or 0.0)
        return total.astype(np.float32)

    def attenuation(self, grid: ImageGrid, energy_kev: float) -> np.ndarray:
        """Return the mean linear attenuation coefficient of every voxel in 1/cm, float32 (nx, ny, nz)."""
        water, muscle, bone = (linear_attenuation(m, energy_kev) for m in ("water", "muscle", "bone-cortical"))
        own = {"csf": water, "skull": bone}
        values = sum(own.get(tissue, muscle) * part for tissue, part in self.head.parts.items())
        return self._onto(np.asarray(values, np.float32), grid)

    @property
    def names(self) -> tuple[str, ...]:
        """What the labels mean: "outside", tissues, cortical regions, lesions."""
        cortex = tuple(f"{name} grey" for name in self.head.names if name)
        return ("outside", *self.head.parts, *cortex, *(region.name for region in self.inside))

    def labels(self, grid: ImageGrid) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the label of the tissue that fills most of every voxel, int16, and `names`."""
        names = self.names
        parts = np.stack([self._onto(part, grid) for part in self.head.parts.values()])
        found = np.where(parts.sum(0) > 0.5, parts.argmax(0) + 1, 0)
        if self.head.names:
            voxels = [
                np.clip(np.rint((c.ravel() - o - p) / d).astype(int), 0, n - 1)
                for c, o, p, d, n in zip(
                    grid.coordinates(),
                    self.head.grid.origin,
                    self.place,
                    self.head.grid.voxel_size,
                    self.head.grid.shape,
                )
            ]
            regions = self.head.regions[np.ix_(*voxels)]
            number = np.array([names.index(f"{name} grey") if name else 0 for name in self.head.names])
            grey = (found == names.index("grey")) & (regions > 0)
            found = np.where(grey, number[regions], found)
        for region in self.inside:
            found = np.where(self.fraction(grid, region.name) > 0.5, names.index(region.name), found)
        return found.astype(np.int16), names

    def fraction(self, grid: ImageGrid, name: str) -> np.ndarray:
        """Return the part of every voxel that a tissue, a cortical region or a lesion fills.

        Raises ValueError for a name that is not there.
        """
        own = next((region for region in self.inside if region.name == name), None)
        if own is not None:
            return Phantom((replace(own, activity=1.0),)).activity(grid)
        if name in self.head.parts:
            return self._onto(self.head.parts[name], grid)
        if name not in self.names or name == "outside":
            raise ValueError(f"unknown region {name!r}; choose from {', '.join(self.names[1:])}")
        number = self.head.names.index(name.removesuffix(" grey"))
        return self._onto(self.head.parts["grey"] * (self.head.regions == number), grid)

    def t1(self, grid: ImageGrid) -> np.ndarray:
        """Return the magnetic resonance image, aligned."""
        return self._onto(self.head.t1, grid)

    def _onto(self, image: np.ndarray, grid: ImageGrid) -> np.ndarray:
        x, y, z = (o + p for o, p in zip(self.head.grid.origin, self.place))
        return average_onto(np.asarray(image, np.float32), replace(self.head.grid, origin=(x, y, z)), grid)


@dataclass(frozen=True, eq=False)
class RealGuide:
    """The T1-weighted image of a real head, displaced, biased and noisy, with lesions.

    Args:
        brain : whose head.  offset, angle : by which it is displaced, mm and degrees about z.
    """

    brain: RealBrain
    lesions: tuple[Region, ...]
    variety: BodyGuideVariety
    offset: tuple[float, float, float]
    angle: float
    seed: int

    def __call__(self, grid: ImageGrid) -> np.ndarray:
        """Return the image, float32 (nx, ny, nz)."""
        x0, y0, z0 = (o - d for o, d in zip(grid.origin, self.offset))
        there = replace(grid, origin=(x0, y0, z0))
        image = self.brain.t1(there).astype(float)
        for region in self.lesions:
            filled = Phantom((replace(region, activity=1.0),)).activity(there)
            image = image * (1 - filled) + filled * (region.activity or 0.0)
        if self.angle:
            image = _turned(image, there, self.angle)
        if self.variety.bias:
            waves = random_waves(generator(self.seed, "real guide bias"), 4, 300.0)
            limit = sum(abs(wave[4]) for wave in waves)
            x, y, z = grid.coordinates()
            total = sum(a * np.cos(kx * x + ky * y + kz * z + phase) for kx, ky, kz, phase, a in waves)
            image = image * np.exp(self.variety.bias / limit * total)
        if self.variety.noise:
            real, imaginary = generator(self.seed, "real guide noise").normal(0, self.variety.noise, (2, *grid.shape))
            image = np.hypot(image + real, imaginary)
        return image.astype(np.float32)


def _turned(image: np.ndarray, grid: ImageGrid, angle: float) -> np.ndarray:
    """The image turned about the z axis from x towards y, linear interpolation."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    dx, dy, _ = grid.voxel_size
    back = np.array([[c, s * dy / dx, 0], [-s * dx / dy, c, 0], [0, 0, 1.0]])  # of indices
    x0, y0 = grid.origin[0] / dx, grid.origin[1] / dy
    start = np.array([x0, y0, 0.0])
    return np.asarray(affine_transform(image, back, back @ start - start, order=1))


def random_real_brain(
    source: str,
    seed: int,
    dimensions: int = 2,
    variety: BrainVariety | None = None,
    lesions: BodyLesions | None = None,
    guide: BodyGuideVariety | None = None,
    slices: tuple[float, float] = (-25.0, 30.0),
    folder: str | Path | None = None,
) -> tuple[RealBrain, RealGuide, dict[str, str]]:
    """Return a real head with the random activity of `random_varied_brain`, its guide, and what was drawn.

    Args:
        source : "colin27" or "mni152".
        seed : a non-negative integer; the anatomy is the same for all, place, height and activity are not.
        dimensions : 2 for a plane at z = 0; 3 for a volume with the middle of the brain at z = 0.
        variety, lesions, guide : as for `random_varied_brain` and `random_varied_torso`.
        slices : mm above the middle of the brain between which the plane lies.
        folder : of the files, see `anatomy_files`.

    Raises ValueError and FileNotFoundError as `anatomy_files` does.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions must be 2 or 3, got {dimensions}")
    head = real_head(source, folder)
    variety, lesions, guide = variety or BrainVariety(), lesions or BodyLesions(), guide or BodyGuideVariety()
    random = generator(seed, "real brain")
    height = float(random.uniform(*slices)) if dimensions == 2 else 0.0
    x, y = (float(v) for v in random.uniform(-4, 4, 2))
    place = (x, y, -height)
    tracer = variety.tracers[int(random.integers(len(variety.tracers)))]
    uptake = brain_uptake(random, tracer, variety)
    table = {tissue: uptake[tissue] for tissue in head.parts}
    shared = random.normal(size=len(head.names) // 2 + 2)
    pairs = shared[(np.arange(len(head.names)) + 1) // 2]
    own = random.normal(size=len(head.names))
    logs = variety.lobes * pairs + variety.asymmetry / math.sqrt(2) * own
    regional = np.exp(np.clip(logs, -0.9, 0.9))
    regional[0] = 1.0
    fields = _fields(random, variety, place, bool(head.names))
    found, inside, seen = _lesions(seed, head, place, table, lesions, dimensions)
    brain = RealBrain(head, place, table, regional, fields, found, inside)
    moves = generator(seed, "real guide")
    dx, dy, dz = (float(v) for v in guide.shift * moves.uniform(-1, 1, 3))
    offset, angle = (dx, dy, dz if dimensions == 3 else 0.0), float(guide.turn * moves.uniform(-1, 1))
    return (
        brain,
        RealGuide(brain, seen, guide, offset, angle, seed),
        {"tracer": tracer, "contrast": "t1", "anatomy": source},
    )


def _fields(
    random: np.random.Generator, variety: BrainVariety, place: tuple[float, float, float], labelled: bool
) -> dict[str, SmoothField]:
    """Texture, spots and, without labels of the cortex, lobes."""
    low, high = np.array((-68.0, -85.0, -60.0)) + place, np.array((68.0, 85.0, 60.0)) + place
    spots = brain_spots(random, variety, low, high)
    slow, _ = random_texture(random, {70.0: variety.smooth})
    sigma = math.sqrt(variety.smooth**2 + 2 * variety.texture**2)
    lobes = None if labelled else head_lobes(random, variety, place)

    def made(own: Lobes | None) -> SmoothField:
        fast, _ = random_texture(random, {14.0: variety.texture, 28.0: variety.texture})
        return SmoothField(1.0, own, spots, (*slow, *fast), sigma)

    fields = {"grey": made(lobes), "white": made(None)}
    deep = made(None)
    fields |= {f"{side} {name}": deep for side in ("left", "right") for name in (*_NUCLEI, "cerebellum")}
    return fields


def _lesions(
    seed: int,
    head: Head,
    place: tuple[float, float, float],
    uptake: Mapping[str, float],
    recipe: BodyLesions,
    dimensions: int,
) -> tuple[tuple[MarkedLesion, ...], tuple[Region, ...], tuple[Region, ...]]:
    """Lesions centred in grey or white matter, their regions in the emission image and in the guide."""
    random = generator(seed, "real brain lesions")
    n = int(random.integers(*recipe.number, endpoint=True))
    total = n + int(random.integers(*recipe.guide_only, endpoint=True))
    solid = head.parts["grey"] + head.parts["white"] > 0.9
    if dimensions == 2:
        z = int(np.rint((0.0 - place[2] - head.grid.origin[2]) / head.grid.voxel_size[2]))
        solid = solid & (np.arange(solid.shape[2]) == z)
    places = np.argwhere(solid)
    if not len(places):  # above or below the brain
        return (), (), ()
    found: list[MarkedLesion] = []
    inside: list[Region] = []
    seen: list[Region] = []
    for k in range(total):
        diameter, hot = float(random.uniform(*recipe.diameter)), bool(random.uniform() < recipe.hot)
        strength, shown, bright = (
            random.uniform(),
            bool(random.uniform() < recipe.in_guide),
            float(random.uniform(0.2, 1.3)),
        )
        for _ in range(200):
            voxel = places[int(random.integers(len(places)))]
            point = voxel * np.array(head.grid.voxel_size) + head.grid.origin + place
            centre = tuple(float(c) for c in (point if dimensions == 3 else (*point[:2], 0.0)))
            if all(math.dist(centre, other.centre) > (diameter + other.diameter) / 2 + 4 for other in found):
                break
        else:
            continue
        parts = {tissue: float(head.parts[tissue][tuple(voxel)]) for tissue in ("grey", "white")}
        around = sum(parts[t] * uptake[t] for t in parts) / sum(parts.values())
        low, high = recipe.hot_ratio if hot else recipe.cold_ratio
        ratio = low * (high / low) ** strength if hot else low + (high - low) * strength
        emitting, name = k < n, f"lesion {k + 1}"
        ball = Ellipsoid(centre, diameter / 2)  # type: ignore[arg-type]
        in_guide = shown or not emitting
        found.append(MarkedLesion(name, centre, diameter, emitting, in_guide, hot if emitting else None))  # type: ignore[arg-type]
        if emitting:
            inside.append(Region(name, ball, ratio * around))
        if in_guide:
            seen.append(Region(name, ball, bright))
    return tuple(found), tuple(inside), tuple(seen)


def anatomy_digest(source: str, folder: str | Path | None = None) -> str:
    """Return the SHA-256 of the files of a source."""
    digest = hashlib.sha256()
    for path in anatomy_files(source, folder).values():
        digest.update(path.read_bytes())
    return digest.hexdigest()
