"""Three scans of the kinds of the PETRIC challenge, small enough to run, with the problem that all engines solve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import binary_erosion

from emrecon import recon, sims
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    Projector,
)
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_json

LOW_COUNTS = 0.1  # of the events, in the low-count versions
_LOW_BETA = 2.5  # by which beta is larger there
_ARRAYS, _ABOUT = "replica.npz", "replica.json"


class Tally:
    """How many views were projected, forth and back, by all projectors that share it."""

    def __init__(self) -> None:
        self.halves = 0.0

    @property
    def passes(self) -> float:
        """How often all data were projected forth and back."""
        return self.halves / 2


class CountingProjector(Projector):
    """A projector that counts the views it projects, forth or back; its subsets count for it.

    Args:
        projector : any projector whose first data axis are the views.
        tally : where the count is kept (default: one of its own).
    """

    def __init__(self, projector: Projector, tally: Tally | None = None, n_views: int | None = None) -> None:
        self.projector, self.in_shape, self.out_shape = projector, projector.in_shape, projector.out_shape
        self.n_views = projector.out_shape[0] if n_views is None else n_views
        self.tally = Tally() if tally is None else tally

    def _forward(self, x: Any) -> Any:
        self.tally.halves += self.out_shape[0] / self.n_views
        return self.projector._forward(x)

    def _adjoint(self, y: Any) -> Any:
        self.tally.halves += self.out_shape[0] / self.n_views
        return self.projector._adjoint(y)

    def subset(self, k: int, n: int) -> CountingProjector:
        """Return the projector of the views k, k + n, ..., which counts for this one."""
        return CountingProjector(self.projector.subset(k, n), self.tally, self.n_views)


class Regions(NamedTuple):
    """Where images are compared, booleans (x, y, z): the whole object, the background, and regions by name."""

    whole: np.ndarray
    background: np.ndarray
    named: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Replica:
    """A scan of PETRIC's kind and the problem to solve: minimise f(x) + beta U(x) over x >= 0.

    Args:
        name, title : of the scan.
        grid : of the images.
        likelihood : f, of all data, through a `CountingProjector`.
        prior : beta U, the relative difference prior with gamma = 2, epsilon = max(start) / 1000, 26 neighbours, and
            kappa = sqrt(H 1), H the Hessian of f at the start.
        start : the image of one pass of OSEM, from which every engine begins.
        start_seconds : what it took, wall and processor.
        regions : where images are compared with the reference.
        n_subsets : of the engines with subsets.
        facts : what a report says of it.
    """

    name: str
    title: str
    grid: ImageGrid
    likelihood: recon.PoissonLikelihood
    prior: recon.SmoothPrior
    start: np.ndarray
    start_seconds: tuple[float, float]
    regions: Regions
    n_subsets: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tally(self) -> Tally:
        """The count of all projections."""
        projector = self.likelihood.model.projector
        assert isinstance(projector, CountingProjector)
        return projector.tally

    @property
    def objective(self) -> recon.Objective:
        """f + beta U."""
        return recon.Objective(self.likelihood, self.prior)

    def parts(self) -> list[recon.PoissonLikelihood]:
        """Return the likelihoods of the subsets."""
        return [self.likelihood.subset(k, self.n_subsets) for k in range(self.n_subsets)]

    def rule(self, reference: np.ndarray, n_in_row: int = 10) -> recon.PetricRule:
        """Return PETRIC's rule against a reference: 0.01 in object and background, 0.005 in every region."""
        whole, background, named = self.regions
        return recon.PetricRule(reference, whole, background, list(named.values()), n_in_row=n_in_row)


@dataclass(frozen=True)
class _Kind:
    """How one of the scans is made; of the sizes "quick" is for tests."""

    title: str
    scanner: Mapping[str, Any]
    n_radial: int
    grid: tuple[tuple[int, int, int], tuple[float, float, float]]
    counts: float
    fractions: tuple[float, float]  # of scatter S / (T + S) and of randoms R / (T + S + R)
    resolution: float
    beta: float  # times the mean of the start where there is activity, for beta has its unit
    n_subsets: int
    body: Callable[[], tuple[sims.Phantom, Callable[[ImageGrid], Regions]]]


def replica_names() -> tuple[str, ...]:
    """Return the names of the three scans, and of their versions with a tenth of the counts."""
    return (*_KINDS, *(f"{name}-low" for name in _KINDS))


def replica(name: str, size: str = "full", seed: int = 0) -> Replica:
    """Return one of the scans of PETRIC's kind.

    Args:
        name : one of `replica_names()`. "...-low" has a tenth of the counts: as many events drawn with replacement
            from those of the full scan, the bootstrap of PETRIC's low-count data.
        size : "full", or "quick" for a third of the rings and half the sampling.
        seed : of the noise; the phantom and the crystals' efficiencies stay.

    Activity is painted on a grid of half the voxels' size and blurred by the scanner's resolution, which the model of
    the reconstruction does not have, as PETRIC's has none; attenuation, crystal efficiencies, scatter (single scatter
    simulation) and randoms (products of the crystals' singles) are in the model.

    Raises ValueError for an unknown name or size.
    """
    if name not in replica_names():
        raise ValueError(f"unknown PETRIC replica {name!r}; choose from {', '.join(replica_names())}")
    if size not in ("quick", "full"):
        raise ValueError(f'the size of a PETRIC replica is "quick" or "full", got {size!r}')
    kind = _KINDS[name.removesuffix("-low")]
    return _made(name, kind if size == "full" else _quick(kind), name.endswith("-low"), seed)


def save_replica(scan: Replica, folder: Path, size: str = "full") -> None:
    """Write a scan to `replica.npz` and `replica.json` in a folder, for `load_replica`."""
    f, whole, background, named = scan.likelihood, *scan.regions
    pair = _relative_difference(scan.prior)
    with atomic_path(folder / _ARRAYS) as path, path.open("wb") as stream:
        np.savez(
            stream,
            counts=f.data,
            factors=f.model.factors,
            background=f.model.background,
            start=scan.start,
            kappa=np.asarray(pair.kappa),
            whole=whole,
            reference_region=background,
            **{f"region {name}": mask for name, mask in named.items()},  # type: ignore[arg-type]
        )
    about = {
        "name": scan.name,
        "size": size,
        "start_seconds": list(scan.start_seconds),
        "epsilon": pair.epsilon,
        "facts": dict(scan.facts),
    }
    with atomic_path(folder / _ABOUT) as path:
        path.write_text(json.dumps(about, indent=1), encoding="utf-8")


def load_replica(folder: Path) -> Replica:
    """Return the scan that `save_replica` wrote.

    Raises FileNotFoundError where there is none, FormatError for files that are damaged.
    """
    about = read_json(folder / _ABOUT, "a PETRIC replica")
    try:
        kind = _KINDS[about["name"].removesuffix("-low")]
        kind = kind if about["size"] == "full" else _quick(kind)
        with np.load(folder / _ARRAYS) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        named = {name.removeprefix("region "): mask for name, mask in found.items() if name.startswith("region ")}
        regions = Regions(found["whole"], found["reference_region"], named)
        grid, sinogram = _geometry(kind)
        model = AcquisitionModel(CountingProjector(PETProjector(grid, sinogram)), found["factors"], found["background"])
        prior = about["facts"]["beta"] * recon.RelativeDifference(
            2.0, epsilon=about["epsilon"], voxel_size=grid.voxel_size, kappa=found["kappa"]
        )
        seconds = (float(about["start_seconds"][0]), float(about["start_seconds"][1]))
        f = recon.PoissonLikelihood(found["counts"], model)
        return Replica(
            about["name"], kind.title, grid, f, prior, found["start"], seconds, regions, kind.n_subsets, about["facts"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{folder / _ABOUT} is not a PETRIC replica, or is damaged: {error}") from error


def bootstrap_events(counts: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return a sinogram of `fraction` of the events, drawn with replacement from those of a scan.

    The number of events is fixed, N fraction; bins are multinomial with chances y / N. Beside Poisson noise of the
    smaller scan there is that of the scan it was drawn from, a variance larger by 1 + fraction.

    Source: Haynor & Woods 1989 (the bootstrap of events).
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of events to draw must be above 0 and at most 1, got {fraction}")
    y = np.asarray(counts, float)
    total = y.sum()
    if not (total > 0 and (y == np.floor(y)).all() and (y >= 0).all()):
        raise ValueError("events are drawn from whole counts, of which there must be some")
    random = sims.generator(seed, "bootstrap", np.asarray(counts))
    return random.multinomial(round(fraction * total), (y / total).ravel()).reshape(y.shape).astype(np.float32)


def _made(name: str, kind: _Kind, low: bool, seed: int) -> Replica:
    grid, sinogram = _geometry(kind)
    phantom, regions_on = kind.body()
    simulator = sims.PETSimulator(
        grid,
        sinogram,
        resolution=kind.resolution,
        scatter=sims.SingleScatter(kind.fractions[0], energy_resolution=0.12),
        randoms=sims.Randoms(kind.fractions[1], "object"),
        normalisation=sims.random_normalisation(sinogram.scanner, 5, 0.1),
    )
    simulation = simulator(phantom, seed, kind.counts)
    counts, part = np.asarray(simulation.scan.counts, np.float32), 1.0
    if low:
        counts, part = bootstrap_events(counts, LOW_COUNTS, seed), LOW_COUNTS
        kind = replace(kind, beta=_LOW_BETA * kind.beta)
    expected = simulation.expectation.shorter(part)
    model = AcquisitionModel(
        CountingProjector(PETProjector(grid, sinogram)),
        np.asarray(np.broadcast_to(expected.factors, counts.shape), np.float32),
        np.asarray(np.broadcast_to(expected.background, counts.shape), np.float32),
    )
    return _replica(name, kind, grid, recon.PoissonLikelihood(counts, model), regions_on(grid))


def _geometry(kind: _Kind) -> tuple[ImageGrid, PETSinogram]:
    scanner = PETScanner.polygon(**kind.scanner)
    reach = scanner.n_rings * 2 // 3
    return ImageGrid(*kind.grid), PETSinogram(scanner, max_ring_difference=reach, n_radial=kind.n_radial)


def _relative_difference(prior: Any) -> recon.RelativeDifference:
    """The prior without its weight."""
    pair = prior.prior
    assert isinstance(pair, recon.RelativeDifference)
    return pair


def _replica(name: str, kind: _Kind, grid: ImageGrid, f: recon.PoissonLikelihood, regions: Regions) -> Replica:
    ones = f.ones_image()
    for part in [f, *(f.subset(k, kind.n_subsets) for k in range(kind.n_subsets))]:
        part.value_and_gradient(ones)  # plans and compiled code are made outside of the clock
    begun = time.perf_counter(), time.process_time()
    start = recon.run(recon.osem(f, n_subsets=kind.n_subsets), 1)
    seconds = time.perf_counter() - begun[0], time.process_time() - begun[1]
    beta = kind.beta * float(start[regions.whole].mean())
    prior = beta * recon.RelativeDifference(
        2.0, epsilon=1e-3 * float(start.max()), voxel_size=grid.voxel_size, kappa=recon.spatial_weights(f, start)
    )
    seen = np.asarray(f.sensitivity > 0)
    regions = Regions(
        regions.whole & seen, regions.background & seen, {key: mask & seen for key, mask in regions.named.items()}
    )
    facts = {
        "voxels": list(grid.shape),
        "bins": math.prod(f.data.shape),
        "counts": float(f.data.sum()),
        "background's share of the counts": float(np.sum(f.model.background, dtype=float) / f.data.sum()),
        "subsets": kind.n_subsets,
        "beta": beta,
        "regions": {key: int(mask.sum()) for key, mask in regions.named.items()},
    }
    return Replica(name, kind.title, grid, f, prior, np.asarray(start), seconds, regions, kind.n_subsets, facts)


def _quick(kind: _Kind) -> _Kind:
    """Half the crystals and voxels along each axis, and three rings."""
    shape, voxel = kind.grid
    more = {"crystals_per_side": kind.scanner["crystals_per_side"] // 2, "rings": 3}
    pitch = 2 * kind.scanner["ring_pitch"]
    return replace(
        kind,
        scanner={**kind.scanner, **more, "ring_pitch": pitch},
        n_radial=kind.n_radial // 2 | 1,
        grid=((shape[0] // 2, shape[1] // 2, 5), (2 * voxel[0], 2 * voxel[1], pitch / 2)),
        counts=kind.counts / 8,
        n_subsets=kind.n_subsets // 2,
    )


def _ball(grid: ImageGrid, centre: tuple[float, float, float], diameter: float) -> np.ndarray:
    x, y, z = grid.coordinates()
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= (diameter / 2) ** 2)


def _nema() -> tuple[sims.Phantom, Callable[[ImageGrid], Regions]]:
    phantom, layout = sims.nema_iec_body(hot_ratio=4.0), sims.nema_layout(4.0)

    def regions(grid: ImageGrid) -> Regions:
        x, y, z = grid.coordinates()
        background = np.zeros(grid.shape, bool)
        for a, b in layout["background_centres"]:
            background |= (np.hypot(x - a, y - b) <= 15) & (np.abs(z) <= 20)
        spheres = {
            f"sphere {d:g} mm": _ball(grid, tuple(centre), max(d, 1.8 * grid.voxel_size[0]))
            for centre, d in zip(layout["centres"].tolist(), layout["diameters"], strict=True)
        }
        return Regions(phantom.attenuation(grid, 511) > 0.05, background, spheres)

    return phantom, regions


def _brain() -> tuple[sims.Phantom, Callable[[ImageGrid], Regions]]:
    brain = sims.random_folded_brain(901, 3, "fdg", sims.LesionRecipe(both=0, emission_only=1, guide_only=0))
    phantom = brain.phantom

    def regions(grid: ImageGrid) -> Regions:
        labels, names = phantom.labels(grid)

        def named(*wanted: str) -> np.ndarray:
            return np.isin(labels, [names.index(name) for name in wanted if name in names])

        deep = binary_erosion(named("white"), iterations=1)
        found = {
            "grey matter": named("grey"),
            "striatum": named("caudate", "putamen"),
            "thalamus": named("thalamus"),
            "ventricles": named("ventricles"),
        }
        outside = np.isin(labels, [names.index(name) for name in ("outside", "skin", "skull")])
        return Regions(~outside, deep if deep.any() else named("white"), found)

    return phantom, regions


def _thorax() -> tuple[sims.Phantom, Callable[[ImageGrid], Regions]]:
    up = (0.0, 0.0, -95.0)
    lesions = (
        sims.Lesion((-95.0, -20.0, 110.0), 16.0, 8.0, "lung nodule", "muscle"),
        sims.Lesion((-45.0, -15.0, 84.0), 20.0, 2.5, "liver lesion"),
    )
    phantom = sims.torso("fdg", lesions).moved(up)

    def regions(grid: ImageGrid) -> Regions:
        def inside(name: str, least: float = 0.9) -> np.ndarray:
            return np.asarray(phantom.fraction(grid, name) >= least)

        found = {name: inside(name, 0.6) for name in ("lung nodule", "liver lesion", "myocardium", "spine")}
        found["lung"] = binary_erosion(inside("left lung"))
        return Regions(phantom.attenuation(grid, 511) > 0.01, binary_erosion(inside("liver")), found)

    return phantom, regions


_KINDS = {
    "nema-mmr": _Kind(
        "NEMA IQ phantom, scanner of the size of a Biograph mMR",
        {"sides": 28, "crystals_per_side": 8, "radius": 328.0, "depth": 8.0, "rings": 6, "ring_pitch": 8.1},
        81,
        ((72, 56, 11), (4.5, 4.5, 4.05)),
        1.2e7,
        (0.3, 0.3),
        4.5,
        0.012,
        14,
        _nema,
    ),
    "brain-vision": _Kind(
        "Brain, scanner of the size of a Biograph Vision",
        {"sides": 38, "crystals_per_side": 10, "radius": 410.0, "depth": 8.0, "rings": 6, "ring_pitch": 6.4},
        67,
        ((64, 72, 11), (3.2, 3.2, 3.2)),
        1e7,
        (0.25, 0.2),
        3.8,
        0.005,
        19,
        _brain,
    ),
    "thorax-dmi": _Kind(
        "Thorax, scanner of the size of a Discovery MI",
        {"sides": 34, "crystals_per_side": 8, "radius": 372.0, "depth": 8.0, "rings": 6, "ring_pitch": 8.1},
        101,
        ((96, 68, 11), (4.4, 4.4, 4.05)),
        1.5e7,
        (0.35, 0.4),
        4.8,
        0.012,
        17,
        _thorax,
    ),
}
