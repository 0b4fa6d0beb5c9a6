"""Tasks of detection: patients without and with a lesion, their scans, and the patch that an observer looks at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emrecon import recon, sims
from emrecon.projectors import AcquisitionModel, ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.files import atomic_path
from emrecon.sims.recipes.recipe import simulator_of

SEVERITIES = (0.25, 0.5, 0.75)
"""How much less a defect takes up: mild, moderate, severe."""

SPECT_SCANNER = """
[grid]
shape = [64, 64, {slices}]
voxel_size = [6.8, 6.8, 6.8]

[spect]
views = 60
bins = [64, {slices}]
pixel_size = [6.8, 6.8]
radius = 240.0
collimator = "siemens-lehr"
radionuclide = "Tc-99m"
duration = 20.0
"""
PET_SCANNER = """
[grid]
shape = [64, 64, {slices}]
voxel_size = [7.6, 7.6, 6.8]

[pet]
n_radial = 143
mashing = 4
resolution = 6.0
duration = 180.0
radionuclide = "F-18"
scatter_fraction = 0.3
randoms_fraction = 0.3

[pet.ring]
sides = 40
crystals_per_side = 8
radius = 350.0
rings = {slices}
ring_pitch = 6.8
"""
_RECIPE = """
name = "detection"
n = 1
outputs = ["truth"]

[phantom]
kind = "torso"
uptake = "fdg"
lesions = [0, 0]
slices = [0.0, 0.0]

[counts]
total = 1e5
"""


_OVERSAMPLE = 2  # of the simulation's fine grid


class Drawn(NamedTuple):
    """A patient without and with a lesion, where it is in mm, and what it is."""

    absent: sims.Phantom
    present: sims.Phantom
    site: tuple[float, float, float]
    details: Mapping[str, float | str]


class Case(NamedTuple):
    """A batch of scans as methods take it: likelihood, truth (B, x, y, z), and no guide."""

    likelihood: recon.PoissonLikelihood
    truth: Array
    guide: None = None


@dataclass(frozen=True, eq=False)
class Scans:
    """Expected scans of one class, and where an observer looks.

    Args:
        expected, background, factors : (N, ...) as of `sims.Expectation`, at all counts.
        truth, mu : (N, x, y, z).
        sites : (N, 3) voxel in the middle of the patch.
        kinds : (N,) what the lesion is, or would be, such as "segment 8, severity 0.5".
        present : (N,) whether it is there.
    """

    task: DetectionTask
    expected: np.ndarray
    background: np.ndarray
    factors: np.ndarray
    truth: np.ndarray
    mu: np.ndarray
    sites: np.ndarray
    kinds: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, which: slice | np.ndarray) -> Scans:
        parts = {name: getattr(self, name)[which] for name in _STORED}
        return Scans(self.task, **parts)

    def followed_by(self, *others: Scans) -> Scans:
        """Return these scans and after them others, as those of this task."""
        parts = {name: np.concatenate([getattr(part, name) for part in (self, *others)]) for name in _STORED}
        return Scans(self.task, **parts)

    def counts(self, level: float, seed: int) -> np.ndarray:
        """Return counts at a part `level` of all, float32; the same for the same seed."""
        drawn = np.random.default_rng([seed, round(1e6 * level)]).poisson(level * self.expected.astype(float))
        return drawn.astype(np.float32)

    def case(self, counts: np.ndarray, level: float, *, tensors: bool = False) -> Case:
        """Return counts (N, ...) that were measured at a level, with their model, as arrays or as tensors."""
        parts = [counts, level * self.factors, level * self.background, self.truth]
        if tensors:
            import torch

            parts = [torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts]
        y, factors, background, truth = parts
        model = AcquisitionModel(self.task.projector(self.mu), factors, background)
        return Case(recon.PoissonLikelihood(y, model), truth)

    def write(self, path: Path) -> None:
        """Write all but the task into an .npz file."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in _STORED})

    @classmethod
    def read(cls, task: DetectionTask, path: Path) -> Scans:
        """Return what `write` has written."""
        with np.load(path) as stored:
            return cls(task, **{name: stored[name] for name in _STORED})


_STORED = ("expected", "background", "factors", "truth", "mu", "sites", "kinds", "present")


@dataclass(frozen=True)
class DetectionTask:
    """A question to an observer: is there a lesion at this place?

    Args:
        name, title : short, and for people.
        draw : seed -> a patient without and with a lesion, and its place.
        counts : expected in a whole scan (all slices).
        scanner : the tables "grid" and "spect" or "pet" of a recipe, "{slices}" in the place of their number.
        n_slices : around the place; 1 is a scan of one slice.
        known : "exactly", one patient and one lesion, so that only the noise differs; or "statistically", each image is
            of another patient with another lesion, whose place the observer is told.
        patch : width of the square patch around the place, in voxels, odd.
        width : of the Laguerre-Gauss channels, in mm.

    The scan's middle slice is that of the lesion. The simulation differs from the model of the reconstruction as
    `sims.Mismatch()` says; the background that a reconstruction is given is the expected one.

    Raises ValueError for an even patch, another `known`, and counts that are not positive.
    """

    name: str
    title: str
    draw: Callable[[int], Drawn]
    counts: float
    scanner: str = field(default=SPECT_SCANNER, repr=False)
    n_slices: int = 1
    known: str = "statistically"
    patch: int = 21
    width: float = 40.0

    def __post_init__(self) -> None:
        if self.known not in ("exactly", "statistically"):
            raise ValueError(f"task '{self.name}': known is exactly or statistically, got {self.known!r}")
        if self.patch < 3 or self.patch % 2 == 0:
            raise ValueError(f"task '{self.name}': the patch must be odd, 3 voxels or more, got {self.patch}")
        if not self.counts > 0 or self.n_slices < 1:
            raise ValueError(f"task '{self.name}': counts and slices must be positive")

    @property
    def simulator(self) -> Any:
        """The scanner."""
        return _simulator(self.scanner, self.n_slices)

    @property
    def grid(self) -> ImageGrid:
        """The grid of images."""
        grid: ImageGrid = self.simulator.grid
        return grid

    def projector(self, mu: np.ndarray) -> Any:
        """Return the projector for maps (B, x, y, z); that of PET has attenuation in its factors."""
        empty = _projector(self.scanner, self.n_slices)
        return empty.with_attenuation(mu) if hasattr(empty, "with_attenuation") else empty

    def scans(self, seeds: Sequence[int], present: bool) -> Scans:
        """Return the expected scans of patients by their seeds, of one class."""
        known = self.known == "exactly"
        made = [self._expected(0 if known else int(seed), present) for seed in (seeds[:1] if known else seeds)]
        parts = {name: np.stack([one[name] for one in made]) for name in _STORED}
        if known:
            parts = {name: np.repeat(part, len(seeds), 0) for name, part in parts.items()}
        return Scans(self, **parts)

    def channels(self, n: int = 6) -> np.ndarray:
        """Return Laguerre-Gauss channels (voxels of a patch, n)."""
        shape = (self.patch, self.patch, min(self.patch, self.n_slices))
        return recon.laguerre_gauss_channels(shape, self.width, n, voxel_size=self.grid.voxel_size)

    def _expected(self, seed: int, present: bool) -> dict[str, np.ndarray]:
        drawn, simulator = self.draw(seed), self.simulator
        grid = self.grid
        middle = tuple(float(c) for c in grid.centre)
        phantom = drawn.present if present else drawn.absent
        # the slice of the lesion becomes the middle one
        phantom = _near(phantom.moved((0, 0, middle[2] - drawn.site[2])), grid)
        fine = simulator.fine_grid
        mu = phantom.attenuation(fine, simulator.energy, _OVERSAMPLE)
        expectation = simulator.expect_images(phantom.activity(fine, _OVERSAMPLE), mu).with_counts(self.counts)
        place = np.array([drawn.site[0], drawn.site[1], middle[2]])
        site = np.rint((place - grid.origin) / grid.voxel_size).astype(int)
        shape = expectation.total.shape
        return {
            "expected": expectation.total,
            "background": np.broadcast_to(expectation.background, shape),
            "factors": np.broadcast_to(expectation.factors, shape),
            "truth": expectation.truth,
            "mu": expectation.mu,
            "sites": site,
            "kinds": np.array(", ".join(f"{name} {value}" for name, value in drawn.details.items()), dtype="U60"),
            "present": np.array(present),
        }


def patches(images: Array, sites: np.ndarray, width: int) -> np.ndarray:
    """Return the patches of images (N, x, y, z) around voxels (N, 3), (N, width, width, min(width, z)).

    Beyond the image there is 0. Axes shorter than the patch are taken whole.

    Raises ValueError for an even width and sites that are not in the image.
    """
    values, sites = to_numpy(images), np.asarray(sites)
    if width % 2 == 0 or values.ndim != 4 or sites.shape != (len(values), 3):
        raise ValueError(f"patches: odd width, images (N, x, y, z) and sites (N, 3), got {width}, {values.shape}")
    if (sites < 0).any() or (sites >= values.shape[1:]).any():
        raise ValueError("patches: a site lies outside of its image")
    half = [width // 2 if n >= width else None for n in values.shape[1:]]
    padded = np.pad(values, [(0, 0), *((h or 0, h or 0) for h in half)])
    cut = []
    for image, site in zip(padded, sites):
        x, y, z = (slice(None) if h is None else slice(c, c + width) for c, h in zip(site, half))
        cut.append(image[x, y, z])
    return np.stack(cut)


# ---- lesions ---------------------------------------------------------------------------------------------------------


def myocardial_defect(
    segment: int | None = None, severity: float | None = None, *, counts: float = 1.2e5, **options: Any
) -> DetectionTask:
    """Return the task of a perfusion defect of one AHA segment in Tc-99m SPECT.

    Args:
        segment : 1 to 17; with a severity the signal is known exactly, in the reference patient. None: any of them.
        severity : 0 to 1. None: one of `SEVERITIES`.
        options : of `DetectionTask`.

    With either of them None each image is another patient (`sims.random_cardiac_torso`).

    Raises ValueError for a segment or severity that `sims.Defect` refuses.
    """
    known = segment is not None and severity is not None
    if segment is not None or severity is not None:
        sims.Defect((segment or 1,), severity=0.5 if severity is None else severity)

    def draw(seed: int) -> Drawn:
        random = np.random.default_rng([seed, 17])
        number = int(random.integers(1, 18)) if segment is None else segment
        less = float(random.choice(SEVERITIES)) if severity is None else severity
        defect, details = sims.Defect((number,), severity=less), {"segment": number, "severity": less}
        if known:
            ventricle = sims.LeftVentricle()
            bodies = sims.cardiac_torso(ventricle), sims.cardiac_torso(ventricle, (defect,))
        else:
            ventricle = sims.random_ventricle(seed)
            bodies = sims.random_cardiac_torso(seed, defects=()), sims.random_cardiac_torso(seed, defects=(defect,))
        return Drawn(*bodies, _triple(ventricle.segment_centre(number)), details)

    name = f"myocardium-{segment or 'any'}" + (f"-{severity:g}" if severity is not None else "")
    title = "Defects of the myocardium" if not known else f"Segment {segment}, severity {severity:g}"
    given = {"known": "exactly" if known else "statistically", **options}
    return DetectionTask(name, title, draw, counts, SPECT_SCANNER, **given)


def liver_lesion(*, counts: float = 4e5, **options: Any) -> DetectionTask:
    """Return the task of a lesion of the liver in FDG PET, 14 to 22 mm and 1.4 to 1.9 times the liver."""
    draw = _lesion("fdg", ("liver",), (14.0, 22.0), (1.4, 1.9), margin=1.0)
    return DetectionTask("liver", "Lesions of the liver", draw, counts, PET_SCANNER, **options)


def lung_lesion(*, counts: float = 4e5, **options: Any) -> DetectionTask:
    """Return the task of a nodule of the lung in FDG PET, 9 to 15 mm and 3 to 6 times the lung, of soft tissue."""
    draw = _lesion("fdg", ("left lung", "right lung"), (9.0, 15.0), (3.0, 6.0), margin=1.5, material="muscle")
    return DetectionTask("lung", "Nodules of the lung", draw, counts, PET_SCANNER, **options)


def bone_lesion(*, counts: float = 2e5, **options: Any) -> DetectionTask:
    """Return the task of a lesion of spine or pelvis in bone SPECT, 12 to 20 mm and 1.6 to 2.4 times the bone."""
    draw = _lesion("bone-scan", ("spine", "left pelvis", "right pelvis"), (12.0, 20.0), (1.6, 2.4), margin=0.6)
    return DetectionTask("bone", "Lesions of the bone", draw, counts, SPECT_SCANNER, **options)


def _lesion(
    uptake: str,
    organs: tuple[str, ...],
    diameter: tuple[float, float],
    ratio: tuple[float, float],
    *,
    margin: float,
    material: str | None = None,
) -> Callable[[int], Drawn]:
    """A drawer of patients with one lesion; `margin` radii around its centre are in the organ."""

    def draw(seed: int) -> Drawn:
        random = np.random.default_rng([seed, 23])
        body = sims.random_torso(seed, uptake, (0, 0), arms=False)
        size, times = (float(random.uniform(*limits)) for limits in (diameter, ratio))
        site = _place(random, body, organs, margin * size / 2)
        lesion = sims.Lesion(site, size, times, material=material)
        details = {"diameter": round(size, 1), "ratio": round(times, 2)}
        return Drawn(body, sims.with_lesions(body, [lesion]), site, details)

    return draw


def _place(
    random: np.random.Generator, body: sims.Phantom, organs: tuple[str, ...], margin: float
) -> tuple[float, float, float]:
    """A place in an organ, with so much of it on all sides."""
    solids = [region.shape for region in body.regions if region.name in organs]
    bounds = [solid.bounds for solid in solids]
    shares = np.array([np.prod(high - low) for low, high in bounds])
    around = margin * np.array([[0, 0, 0], *np.eye(3), *-np.eye(3)])
    for _ in range(2000):
        low, high = bounds[random.choice(len(solids), p=shares / shares.sum())]
        point = random.uniform(low, high)
        x, y, z = (point + around).T
        names = np.full(len(around), "", dtype="U40")
        for region in body.regions:
            names[region.shape.contains(x, y, z)] = region.name
        if np.isin(names, organs).all():
            return _triple(point)
    raise ValueError(f"no place for a lesion with {margin:.0f} mm of {', '.join(organs)} around it")


def _near(phantom: sims.Phantom, grid: ImageGrid) -> sims.Phantom:
    """The regions that reach into the slices of a grid: the others take time."""
    low = grid.origin[2] - grid.voxel_size[2]
    high = low + (grid.shape[2] + 1) * grid.voxel_size[2]
    regions = [r for r in phantom.regions if r.shape.bounds[0][2] <= high and r.shape.bounds[1][2] >= low]
    return sims.Phantom(tuple(regions))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    if not math.isfinite(x + y + z):
        raise ValueError("a place must be finite")
    return x, y, z


@cache
def _simulator(scanner: str, n_slices: int) -> Any:
    return simulator_of(sims.parse_recipe((_RECIPE + scanner).format(slices=n_slices), "detection"))


@cache
def _projector(scanner: str, n_slices: int) -> Any:
    simulator = _simulator(scanner, n_slices)
    return simulator.projector(np.zeros(simulator.grid.shape, np.float32))
