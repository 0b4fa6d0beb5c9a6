"""Planes of torsos in a PET scanner with time of flight and in a SPECT camera, for topics on attenuation maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from emrecon import recon, sims
from emrecon.projectors import (
    AcquisitionModel,
    EffectiveSource,
    EnergyWindow,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
    TimeOfFlight,
    attenuation_factors,
)

from ..kept import kept

GRID = ImageGrid((70, 42, 1), (8.0, 8.0, 8.0))
SINOGRAM = PETSinogram(
    PETScanner.polygon(sides=24, crystals_per_side=8, radius=400, rings=1, ring_pitch=8),
    n_radial=91,
    tof=TimeOfFlight.from_ps(11, 360, 400),
)
CAMERA = SPECTGeometry.circular(48, 300, (72, 1), 8.0)
PEAK, LOWER = (126.0, 154.0), (92.0, 125.0)
REGIONS = ("lung", "liver", "bone", "soft tissue")
SETS = {"test": "as in training", "lungs": "lungs of 0.45 g/mL", "bones": "bones 30 % denser"}
"""Sets of tests: the second and third hold what no training has seen."""

FIELD = 150.0  # mm, radius of the CT that is cut off
_WATER = {"pet": 0.096, "spect": 0.153}
_COUNTS = 4e5
_BONES = ("spine", "rib", "sternum", "scapula", "clavicle", "humerus", "pelvis", "femur")
_SUBSETS = 8

Arrays = Mapping[str, np.ndarray]


def patient(seed: int, kind: str, uptake: str) -> sims.Phantom:
    """Return a torso with a slice between diaphragm and shoulders at z = 0, with the lungs or bones of a set."""
    height = float(np.random.default_rng([seed, 1]).uniform(-20, 190))
    body = sims.random_torso(seed, uptake).moved((0.0, 0.0, -height))
    regions = body.regions
    if kind == "lungs":
        regions = tuple(replace(r, density=0.45) if r.material == "lung" else r for r in regions)
    if kind == "bones":
        regions = tuple(
            replace(r, density=1.3 * (r.density or 1.92)) if r.material == "bone-cortical" else r for r in regions
        )
    return sims.Phantom(regions)


def labels(body: sims.Phantom, grid: ImageGrid = GRID) -> np.ndarray:
    """Return the number of the region of every voxel, 1 for the first of `REGIONS`, 0 outside."""
    x, y, z = np.broadcast_arrays(*grid.coordinates())
    found = np.zeros(grid.shape, np.int8)
    for region in body.regions:
        name = region.name.removeprefix("left ").removeprefix("right ")
        number = {"lung": 1, "liver": 2}.get(name, 3 if name in _BONES else 4)
        if region.material is not None or name in ("lung", "liver"):
            found[region.shape.contains(x, y, z)] = number
    return found


def planes(folder: Path | None, name: str, seeds: Sequence[int], kind: str, modality: str) -> Arrays:
    """Return the arrays of patients, made once: what is measured, images without attenuation correction, and maps.

    "activity", "mu", "labels", "nac" (N, x, y, 1), for PET also "counts", "background", "water" and "fat", for SPECT
    "counts", "background" and "window" (the image of the lower window).
    """
    path = None if folder is None else folder / f"attenuation-{modality}-{name}-{len(seeds)}.npz"
    make = _pet if modality == "pet" else _spect
    return kept(path, lambda: stacked([make(seed, kind) for seed in seeds]))


def stacked(cases: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Return the arrays of cases, (N, ...) each."""
    return {key: np.stack([case[key] for case in cases]) for key in cases[0]}


def _pet(seed: int, kind: str) -> dict[str, np.ndarray]:
    body = patient(seed, kind, "fdg")
    activity, mu = (np.asarray(v, np.float32) for v in (body.activity(GRID), body.attenuation(GRID, 511.0)))
    survival = attenuation_factors(PETProjector(GRID, SINOGRAM.without_tof()), mu)[:, :, None]
    trues = np.asarray(survival * PETProjector(GRID, SINOGRAM)(activity))
    scale = np.float32(_COUNTS / (1.3 * trues.sum(dtype=float)))
    background = np.full(trues.shape, 0.3 * scale * trues.mean(), np.float32)
    counts = np.random.default_rng([seed, 2]).poisson(scale * trues + background).astype(np.float32)
    water, fat = sims.dixon_images(body, GRID, seed)
    found = {"activity": scale * activity, "mu": mu, "labels": labels(body), "counts": counts}
    found |= {"background": background, "water": water, "fat": fat}
    return found | {"nac": pet_image(found, None)}


def pet_likelihood(case: Arrays, mu: np.ndarray | None) -> recon.PoissonLikelihood:
    """Return the likelihood of a scan with a map, or without one."""
    factors: Any = 1.0
    if mu is not None:
        factors = attenuation_factors(PETProjector(GRID, SINOGRAM.without_tof()), mu.astype(np.float32))[:, :, None]
    model = AcquisitionModel(PETProjector(GRID, SINOGRAM), factors, case["background"])
    return recon.PoissonLikelihood(case["counts"], model)


def pet_image(case: Arrays, mu: np.ndarray | None) -> np.ndarray:
    """Return the OSEM image of a scan with a map, or without one."""
    image = recon.run(recon.osem(pet_likelihood(case, mu), None, _SUBSETS), 3)
    return np.asarray(image, np.float32)


def _spect(seed: int, kind: str) -> dict[str, np.ndarray]:
    body = patient(seed, kind, "bone-scan")
    source = EffectiveSource(PEAK, 140.511)
    window = EnergyWindow(*LOWER, name="lower")
    simulator = sims.SPECTSimulator(
        GRID,
        CAMERA,
        scatter=sims.ConvolvedScatter(source, 0.3),
        windows=(window,),
        mismatch=sims.Mismatch.none(),
    )
    expected = simulator.expect([body]).with_counts(_COUNTS / 4)
    windows = list(simulator.expected_in_windows(expected).values())
    drawn = [np.asarray(e.measure([seed + k])[0], np.float32) for k, e in enumerate(windows)]
    scatter = np.asarray(expected.background[0], np.float32) + np.float32(1e-3)
    factors = np.float32(np.ravel(expected.factors)[0])
    found = {
        "activity": expected.truth[0].astype(np.float32),
        "mu": body.attenuation(GRID, 140.511).astype(np.float32),
        "labels": labels(body),
        "counts": drawn[0],
        "background": scatter,
        "factor": factors,
    }
    low = {**found, "counts": drawn[1], "background": np.full_like(scatter, 1e-3)}
    return found | {"nac": spect_image(found, None), "window": spect_image(low, None)}


def spect_image(case: Arrays, mu: np.ndarray | None) -> np.ndarray:
    """Return the OSEM image of the photopeak with a map, or without one; scatter is known."""
    projector = SPECTProjector(GRID, CAMERA, None if mu is None else mu.astype(np.float32))
    model = AcquisitionModel(projector, float(case["factor"]), case["background"])
    return np.asarray(recon.run(recon.osem(recon.PoissonLikelihood(case["counts"], model), None, 6), 3), np.float32)


def ellipse_map(image: np.ndarray, modality: str) -> np.ndarray:
    """Return a uniform ellipse of water around what an uncorrected image shows, (x, y, 1) in 1/cm."""
    outline = ndimage.binary_fill_holes(ndimage.gaussian_filter(image[..., 0], 1) > 0.15 * np.quantile(image, 0.95))
    i, j = np.nonzero(outline)
    centre = np.array([i.mean(), j.mean()])
    covariance = np.cov(np.vstack([i, j]))
    grid = np.moveaxis(np.indices(outline.shape), 0, -1) - centre
    distance = np.einsum("...i,ij,...j", grid, np.linalg.inv(covariance), grid)
    return np.asarray(_WATER[modality] * (distance <= 4)[..., None], np.float32)


def cut_map(mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a map that ends at the field of view of the CT, and where that is, 1 or 0."""
    x, y, _ = GRID.coordinates()
    inside = np.broadcast_to(np.hypot(x, y) < FIELD, GRID.shape).astype(np.float32)
    return mu * inside, inside


def errors(
    arrays: Arrays,
    maps: Sequence[np.ndarray | None],
    image: Callable[[Arrays, np.ndarray | None], np.ndarray],
) -> dict[str, list[float]]:
    """Return by region how far the activity with some maps is from that with the true ones, %, of every patient.

    Args:
        maps : one for each of the first patients.
    """
    found: dict[str, list[float]] = {name: [] for name in REGIONS}
    for k, mu in enumerate(maps):
        case = case_of(arrays, k)
        add_errors(found, case, image(case, mu), image(case, case["mu"]))
    return found


def add_errors(found: dict[str, list[float]], case: Arrays, image: np.ndarray, reference: np.ndarray) -> None:
    """Add the errors of an image in the regions that it shows."""
    for number, name in enumerate(REGIONS, 1):
        region = case["labels"] == number
        if region.sum() >= 8:
            found[name].append(float(100 * (image[region].mean() / reference[region].mean() - 1)))


def case_of(arrays: Arrays, k: int) -> dict[str, np.ndarray]:
    """Return the arrays of one patient."""
    return {name: values[k] for name, values in arrays.items()}
