"""Pieces of torsos with their activity, density, and dose by Monte Carlo, made one by one and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from emrecon import sims
from emrecon.projectors import ImageGrid, linear_attenuation
from emrecon.recon.dosimetry import simulated_dose, uniform_dose

from ..kept import kept
from .mapping import labels, patient

_WATER = linear_attenuation("water", 511.0)
_MUSCLE, _BONE = (1.05, 1.04), (1.92, 1.781)  # g/mL, and electrons per mL over those of water
SETS = {
    "test": "as in training",
    "water": "water of 1 g/mL everywhere",
    "lungs": "lungs of 0.45 g/mL",
    "bones": "bones 30 % denser",
}
"""Sets of tests: what no training has seen are homogeneous water, dense lungs and dense bones."""

FIRST = {"train": 0, "validation": 20_000, "test": 30_000, "water": 31_000, "lungs": 32_000, "bones": 33_000}
"""Seeds of the first patients."""

Sample = Mapping[str, np.ndarray]


def mass_density(body: sims.Phantom, grid: ImageGrid) -> np.ndarray:
    """Return the density of a body in g/mL from its attenuation at 511 keV, which follows electrons per mL.

    Up to muscle grams per mL are electrons per mL over those of water; beyond, it is the line from muscle to bone.
    """
    electrons = np.asarray(body.attenuation(grid, 511.0), float) / _WATER
    slope = (_BONE[0] - _MUSCLE[0]) / (_BONE[1] - _MUSCLE[1])
    found: np.ndarray = np.maximum(electrons, _MUSCLE[0] + slope * (electrons - _MUSCLE[1]))
    return found


def dose_sample(seed: int, kind: str, grid: ImageGrid, nuclide: str, histories: int) -> Sample:
    """Return a piece of a torso: "activity" in MBq h/mL, "density" in g/mL, "dose" and its "error" in Gy, "labels".

    Lungs have 0.15 to 0.35 g/mL but in the set "lungs". Activities are those of Lu-177 therapy, scaled so that local
    absorption in water gives 1 Gy on average.
    """
    random = np.random.default_rng([seed, 7])
    place = (float(random.uniform(-110, 110)), float(random.uniform(-60, 60)), 0.0)
    body = patient(seed, kind, "lu-177").moved(place)
    activity, density = np.asarray(body.activity(grid), float), mass_density(body, grid)
    regions = labels(body, grid)
    if kind != "lungs":
        lung = density < 0.5
        density[lung] *= random.uniform(0.15, 0.35) / 0.26
    if kind == "water":
        density[:] = 1.0
    if not activity.any():  # outside of the body
        return dose_sample(seed + 1_000_000, kind, grid, nuclide, histories)
    activity /= activity.mean() * uniform_dose(nuclide, 1.0)
    dose = simulated_dose(activity, grid, nuclide, density=density, histories=histories, seed=seed)
    made = {"activity": activity, "density": density, "dose": dose.image, "error": dose.error}
    return {key: value.astype(np.float32) for key, value in made.items()} | {"labels": regions}


def dose_samples(folder: Path, name: str, n: int, grid: ImageGrid, nuclide: str, histories: int) -> Iterator[Sample]:
    """Yield the first samples of a set, "train", "validation" or one of `SETS`; each is made once and kept."""
    about = f"{nuclide}-{'x'.join(map(str, grid.shape))}-{grid.voxel_size[0]:g}-{histories}"
    for k in range(n):
        path = folder / f"dose-{about}" / f"{name}-{k}.npz"
        yield kept(path, partial(dose_sample, FIRST[name] + k, name, grid, nuclide, histories))
