"""NEMA NU 2 with images: spatial resolution, co-registration with CT, and image quality, of simulated scans."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import ArcCorrection, ImageGrid, PETProjector, PETScanner, PETSinogram, attenuation_factors
from emrecon.recon import (
    ImageQuality,
    ImageQualityLayout,
    Sphere,
    centroid,
    fbp,
    nema_image_quality,
    nema_recovery,
    osem,
    pet_problem,
    point_response,
    sphere_profile,
)
from emrecon.recon import SingleScatter as EstimatedScatter
from emrecon.sims import Mismatch, PETSimulator, Randoms, SingleScatter, nema_iec_body, nema_layout
from emrecon.sims.phantoms.phantom import Phantom, Region
from emrecon.sims.phantoms.shapes import Ellipsoid

from .pet_counting import rebin, rebinned
from .photons import Detector, Source, photon_pairs, vision

RADII = (10.0, 100.0, 200.0)  # mm from the axis
_NEAR = 27.0  # mm of rings to each side of a point
_RINGS = 3  # difference of rings that counts
_PIXEL = 0.8
_ARC = 1.0


def point_image(
    detector: Detector, place: tuple[float, float, float], n: int, seed: int
) -> tuple[np.ndarray, ImageGrid]:
    """Return the image of a point source by single-slice rebinning and filtered back projection with the bare ramp.

    Only rings within 27 mm and pairs of rings 3 or less apart count: more oblique ones rebin to the wrong plane.
    """
    heights = detector.scanner.crystals[:, 0, 2]
    rings = np.flatnonzero(np.abs(heights - place[2]) <= _NEAR)
    part = slice(int(rings[0]), int(rings[-1]) + 1)
    scanner = PETScanner(detector.scanner.crystals[part], detector.scanner.virtual[part])
    near = replace(detector, scanner=scanner)
    pairs = photon_pairs(near, Source(*place), n, seed, steepest=0.016)
    rings_of = pairs.crystals // scanner.n_crystals
    kept = np.abs(np.diff(rings_of, axis=1)[:, 0]) <= _RINGS
    reach = max(abs(place[0]), abs(place[1])) + 30.0
    n_radial = 2 * int(1.1 * reach / scanner.radial_spacing) + 1
    sinogram = rebinned(near, n_radial=n_radial)
    arc = ArcCorrection(sinogram, _ARC, 2 * int(reach / _ARC) + 1)
    data = np.asarray(arc(rebin(pairs, sinogram, kept).astype(float)))
    planes = arc.geometry.n_planes
    size = float(arc.geometry.plane_size or 1.0)
    z = float(arc.geometry.axial_shift or 0.0) - size * (planes - 1) / 2
    half = 31
    origin = (place[0] - half * _PIXEL, place[1] - half * _PIXEL, z)
    grid = ImageGrid((2 * half + 1, 2 * half + 1, planes), (_PIXEL, _PIXEL, size), origin)
    return np.asarray(fbp(data, arc.geometry, grid)), grid


def spatial_resolution(folder: Path, *, n: int, seed: int = 30, detector: Detector | None = None) -> dict[str, Any]:
    """Measure points 1, 10 and 20 cm above the axis, in the middle and at three eighths of the axial field."""
    scanner = detector or vision()
    heights = scanner.scanner.crystals[:, 0, 2]
    pitch = abs(float(heights[1] - heights[0]))
    field = float(np.ptp(heights)) + pitch
    rows, shown = [], []
    for k, radius in enumerate(RADII):
        found = []
        for j, z in enumerate((0.0, 0.375 * field)):
            image, grid = point_image(scanner, (0.0, -radius, z), n, seed + 10 * k + j)
            widths = point_response(image, grid, (0.0, -radius, z), reach=20.0)
            radial, tangential = widths.radial_tangential()
            found.append([radial.fwhm, tangential.fwhm, widths.fwhm[2], radial.fwtm, tangential.fwtm, widths.fwtm[2]])
            if j == 0:
                shown.append(image[:, :, int(np.argmax(image.max((0, 1))))])
        rows.append({"radius": radius, "middle": found[0], "three_eighths": found[1],
                     "mean": np.mean(found, 0).tolist()})  # fmt: skip
    np.savez(folder / "points.npz", images=np.stack(shown))
    columns = ["radial FWHM", "tangential FWHM", "axial FWHM", "radial FWTM", "tangential FWTM", "axial FWTM"]
    return {"columns": columns, "rows": rows, "pixel": _PIXEL, "slice": pitch / 2, "pairs": n}


def coregistration(folder: Path, *, n: int, seed: int = 60, detector: Detector | None = None) -> dict[str, Any]:
    """Measure three markers in PET and CT, where the CT lies off by a known amount."""
    scanner, shift = detector or vision(), (0.8, -0.6, 1.1)
    rows = []
    for k, place in enumerate(((0.0, -10.0, 0.0), (0.0, -200.0, 0.0), (200.0, 0.0, 0.0))):
        image, grid = point_image(scanner, place, n, seed + k)
        pet = np.array(centroid(image, grid, place, 12.0))
        there = np.add(place, shift)
        marker = Phantom((Region("marker", Ellipsoid(tuple(there.tolist()), 3.0), 0.0, "water"),))
        ct_grid = ImageGrid((31, 31, 31), (1.0, 1.0, 1.0), tuple(np.subtract(place, 15.0).tolist()))
        ct = np.array(centroid(marker.attenuation(ct_grid, 70.0), ct_grid, place, 12.0))
        difference = ct - pet
        rows.append({"place": list(place), "pet": (pet - place).tolist(), "difference": difference.tolist(),
                     "distance": float(np.linalg.norm(difference))})  # fmt: skip
    return {"given": list(shift), "given_distance": math.hypot(*shift), "rows": rows}


def image_quality(
    folder: Path, *, prompts: float, iterations: tuple[int, ...], seed: int = 70, coarse: bool = False
) -> dict[str, Any]:
    """Simulate the phantom of NU 2-2018, reconstruct it by OSEM with estimated scatter, and measure.

    Args:
        prompts : expected.
        iterations : whose images are measured.
        coarse : a scanner of 6 mm crystals in place of the Vision 600, of which planes of 9 rings or less are taken.
    """
    sinogram, grid, subsets = _coarse_scanner() if coarse else _vision_scanner()
    phantom = nema_iec_body(4.0, 5.3)
    simulator = PETSimulator(
        grid, sinogram, duration=300.0, resolution=4.0, scatter=SingleScatter(0.33, (435.0, 585.0), 0.09),
        randoms=Randoms(0.3), mismatch=Mismatch(1 if coarse else 2, attenuation=1.0, shift=(0.0, 0.0, 0.0)),
    )  # fmt: skip
    expected = simulator.expect(phantom).with_counts(prompts)
    # the problem attenuates by itself, and estimates the scatter
    factors = expected.factors / attenuation_factors(PETProjector(grid, sinogram), expected.mu)
    scan = replace(simulator.scan(expected, seed), factors=factors, background=expected.randoms)
    scatter = EstimatedScatter(energy_resolution=0.09)
    problem = pet_problem(scan, mu=expected.mu, scatter=scatter, grid=grid, subsets=subsets)
    # one unit of activity in the phantom's own unit: what was scaled to reach the counts
    level = float(expected.truth[_background_voxel(grid)])
    layout = ImageQualityLayout(**nema_layout())
    found: list[dict[str, Any]] = []
    kept: dict[str, np.ndarray] = {}
    for it in osem(problem.parts, problem.start):
        if it.iteration in iterations:
            image = np.asarray(it.image, float)
            found.append({"iteration": it.iteration, **_measured(image, grid, layout, level)})
            kept[str(it.iteration)] = image.astype(np.float32)
        if it.iteration >= max(iterations):
            break
    np.savez(folder / "images.npz", truth=expected.truth.astype(np.float32), **kept)  # type: ignore[arg-type]  # NumPy's own flag comes last
    fractions = [float(value) for value in expected.fractions]
    return {
        "prompts": prompts,
        "scatter_fraction": fractions[0],
        "randoms_fraction": fractions[1],
        "images": found,
        "shape": list(grid.shape),
        "voxel_size": list(grid.voxel_size),
        "summary": str(problem),
        "level": level,
    }


def _vision_scanner() -> tuple[PETSinogram, ImageGrid, int]:
    sinogram = PETSinogram(PETScanner.named("vision600"), 9, 19, n_radial=221, mashing=7)
    return sinogram, ImageGrid((107, 85, 79), (3.0, 3.0, 3.29114)), 19


def _coarse_scanner() -> tuple[PETSinogram, ImageGrid, int]:
    scanner = PETScanner.polygon(sides=24, crystals_per_side=16, radius=380.0, depth=7.0, rings=24, ring_pitch=7.0)
    return PETSinogram(scanner, 2, 5, n_radial=121, mashing=4), ImageGrid((81, 63, 47), (4.0, 4.0, 3.5)), 6


def _background_voxel(grid: ImageGrid) -> tuple[int, ...]:
    place = (0.0, 77.0, 0.0)
    return tuple(round((p - o) / d) for p, o, d in zip(place, grid.origin, grid.voxel_size))


def _measured(image: np.ndarray, grid: ImageGrid, layout: ImageQualityLayout, level: float) -> dict[str, Any]:
    quality: ImageQuality = nema_image_quality(image, grid, layout)
    background = quality.spheres[0].background
    profiles = [
        sphere_profile(image, grid, Sphere(tuple(centre), float(d)), background, fixed_radius=True)
        for centre, d in zip(layout.centres.tolist(), layout.diameters)
    ]
    recovery = nema_recovery(image, grid, layout, 4 * level, background=level)
    return {
        "spheres": [
            {
                "diameter": sphere.diameter,
                "contrast": sphere.contrast,
                "variability": sphere.variability,
                "fwhm": profile.fwhm,
                "a50": profile.isocontour / (4 * level),
                "maximum": profile.maximum / (4 * level),
                "volume_recovery": float(recovery.coefficient(sphere.diameter)),
            }
            for sphere, profile in zip(quality.spheres, profiles)
        ],
        "lung": list(quality.lung_residuals),
        "background": background / level,
    }
