"""NEMA NU 1 with images: tomographic resolution without scatter, contrast of cold spheres, uniformity of slices."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import (
    EffectiveSource,
    EnergyWindow,
    ImageGrid,
    SPECTGeometry,
    SPECTProjector,
    collimator,
)
from emrecon.recon import ImageQualityLayout, fbp, nema_image_quality, osem, point_response, spect_problem
from emrecon.sims import JASZCZAK_MODELS, Mismatch, SPECTSimulator, jaszczak

from .spect_camera import COLLIMATOR, ENERGY, RESOLUTION, WINDOW, head_sensitivity

_TO_FWHM = 2 * math.sqrt(2 * math.log(2))
_MODEL = "deluxe"
_SPHERES_Z, _RING = 34.0, 58.0  # mm, of `jaszczak`


def resolution(folder: Path, *, fine: bool) -> dict[str, Any]:
    """Measure three points in air, 120 views around 360 degrees at 15 cm, filtered back projection with the bare ramp.

    One is on the axis, two are 7.5 cm from it, along x and along y, each at another height.
    """
    size = 2.0 if fine else 3.0
    n, rows = (129, 81) if fine else (85, 55)
    grid = ImageGrid((n, n, rows), (size, size, size))
    response = collimator(COLLIMATOR).response(ENERGY)
    camera = SPECTGeometry.circular(n_views=120, radius=150.0, n_bins=(n, rows), pixel_size=size)
    places = ((0.0, 0.0, 0.0), (75.0, 0.0, 48.0), (0.0, 75.0, -48.0))
    centre = [round(-o / size) for o in grid.origin]
    image = np.zeros(grid.shape, np.float32)
    found_at: list[tuple[float, ...]] = []
    for at in places:
        index = tuple(c + round(p / size) for c, p in zip(centre, at))
        image[index] = 1.0
        found_at.append(tuple(o + size * i for o, i in zip(grid.origin, index)))
    data = np.asarray(SPECTProjector(grid, camera, None, response)(image), float)
    picture = np.asarray(fbp(data, camera, grid))
    np.savez(folder / "points.npz", image=picture.max(2), size=size)
    rows_found = []
    for place in found_at:
        widths = point_response(picture, grid, place, reach=40.0)
        row: dict[str, Any] = {"place": list(place), "fwhm": list(widths.fwhm), "fwtm": list(widths.fwtm)}
        if place[0] or place[1]:
            radial, tangential = widths.radial_tangential()
            row |= {"radial": radial.fwhm, "tangential": tangential.fwhm}
        rows_found.append(row)
    distances = (75.0, 150.0, 225.0)
    closed = {f"{d:g}": float(response.sigma(np.array([d]))[0] * _TO_FWHM) for d in distances}
    return {"pixel": size, "rows": rows_found, "planar_fwhm_at": closed}


def cold_spheres(folder: Path, *, counts: float, iterations: int, fine: bool, seed: int = 90) -> dict[str, Any]:
    """Measure the contrast of a Jaszczak phantom's cold spheres, and how uniform its slices are, with OSEM and TEW."""
    size = 4.0 if fine else 8.0
    n, rows = (64, 56) if fine else (32, 28)
    grid = ImageGrid((n, n, rows), (size, size, size))
    camera = SPECTGeometry.circular(n_views=120 if fine else 30, radius=150.0, n_bins=(n, rows), pixel_size=size)
    source = EffectiveSource(WINDOW, ENERGY, RESOLUTION, n_photons=200_000 if fine else 20_000)
    response = collimator(COLLIMATOR).response(ENERGY)
    low, high = EnergyWindow(121.6, WINDOW[0], "lower"), EnergyWindow(WINDOW[1], 159.1, "upper")
    simulator = SPECTSimulator(
        grid, camera, response, head_sensitivity(), 20.0, "Tc-99m", source, (low, high),
        mismatch=Mismatch(refine=2 if fine else 1, attenuation=1.0, shift=(0.0, 0.0, 0.0)),
    )  # fmt: skip
    expected = simulator.expect(jaszczak(_MODEL)).with_counts(counts)
    scan = simulator.windowed(expected, seed)
    problem = spect_problem(
        scan, mu=expected.mu, response=response, scatter="tew", grid=grid, subsets=10 if fine else 5
    )
    for it in osem(problem.parts, problem.start):
        if it.iteration >= iterations:
            break
    image = np.asarray(it.image, float)
    layout = sphere_layout()
    quality = nema_image_quality(image, grid, layout)
    np.savez(folder / "image.npz", image=image.astype(np.float32), truth=expected.truth.astype(np.float32))
    x, y, z = grid.coordinates()
    inside = (np.hypot(x, y) <= 80) & (np.abs(z - 9.0) <= 8)
    values = image[np.broadcast_to(inside, image.shape)]
    rings = [
        float(image[np.broadcast_to((np.abs(np.hypot(x, y) - r) <= 8) & (np.abs(z - 9) <= 8), image.shape)].mean())
        for r in (8.0, 24.0, 40.0, 56.0, 72.0)
    ]
    return {
        "counts": counts,
        "iterations": iterations,
        "scatter_fraction": float(expected.fractions[0]),
        "spheres": [{"diameter": s.diameter, "contrast": s.contrast, "variability": s.variability}
                    for s in quality.spheres],
        "uniform": {"coefficient_of_variation": float(values.std(ddof=1) / values.mean()),
                    "rings": [ring / float(np.mean(rings)) for ring in rings]},
        "voxel": size,
    }  # fmt: skip


def sphere_layout() -> ImageQualityLayout:
    """Return where the cold spheres are, and twelve regions for each diameter in the uniform part below them."""
    diameters = np.array(JASZCZAK_MODELS[_MODEL][1])
    angles = np.radians(60.0 * np.arange(6))
    centres = np.stack([_RING * np.cos(angles), _RING * np.sin(angles), np.full(6, _SPHERES_Z)], 1)
    ring = np.radians(30.0 * np.arange(12))
    beside = np.stack([65 * np.cos(ring), 65 * np.sin(ring)], 1)
    return ImageQualityLayout(centres, diameters, np.zeros(6), beside, np.array([2.0, 9.0, 16.0]))
