"""Quantitative Lu-177: spheres for recovery coefficients, and organs of a patient in Bq/mL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import (
    DeadTime,
    EffectiveSource,
    EnergyWindow,
    ImageGrid,
    Scan,
    SPECTGeometry,
    WindowedScan,
    accepted_fraction,
    collimator,
    isotope,
    with_dead_time,
)
from emrecon.recon import EffectiveScatter, RegionOfInterest, osem, quantify, region_of, spect_problem
from emrecon.sims import Lesion, Mismatch, SPECTSimulator, torso
from emrecon.sims.phantoms.bodies import UPTAKES
from emrecon.sims.phantoms.phantom import Phantom, Region
from emrecon.sims.phantoms.shapes import Cylinder, Ellipsoid

from .spect_camera import RESOLUTION

COLLIMATOR = "siemens-me"
ENERGY = 208.366
PEAK = (187.2, 228.8)
LOWER, UPPER = EnergyWindow(166.6, 187.2, "lower"), EnergyWindow(228.8, 249.4, "upper")
SPHERES = (75.0, 60.0, 37.0, 28.0, 22.0, 17.0, 13.0, 10.0)
LIVER = 280.0  # kBq/mL at 24 h; the others are in proportion
HOURS = (4.0, 24.0, 72.0, 168.0)
HALF_LIVES: Mapping[str, float] = {"kidney": 52.0, "liver": 70.0, "spleen": 60.0, "spine": 40.0, "body": 30.0}
"""Effective, h; of everything that is not named, the body's."""

_DEAD_TIME = DeadTime(8e-7)
_KIDNEYS = ("left kidney", "right kidney")


@dataclass(frozen=True)
class Protocol:
    """How Lu-177 is measured and reconstructed.

    Args:
        fine : the full protocol, 4.8 mm; else 9.6 mm and few views, for a look.
        seconds : per view.
        iterations, subsets : of OSEM, which models attenuation and response.
    """

    fine: bool = True
    seconds: float = 30.0
    iterations: int = 10
    subsets: int = 10

    @property
    def size(self) -> float:
        """Of voxels and bins, mm."""
        return 4.8 if self.fine else 9.6

    @property
    def grid(self) -> ImageGrid:
        """About 40 cm along the axis, around the kidneys."""
        n = (92, 66, 68) if self.fine else (46, 33, 34)
        centre = (0.0, 0.0, -10.0)
        x, y, z = (c - self.size * (k - 1) / 2 for c, k in zip(centre, n))
        return ImageGrid(n, (self.size, self.size, self.size), (x, y, z))

    def camera(self, body: np.ndarray) -> SPECTGeometry:
        """Return views around a body (x, y, z) of booleans, 25 mm away from it and not closer than 150 mm."""
        n_views = 120 if self.fine else 30
        angles = np.arange(n_views) * 360.0 / n_views
        nx, _, nz = self.grid.shape
        pixel = (self.size, self.size)
        far = SPECTGeometry(angles, np.full(n_views, 400.0), (nx, nz), pixel)
        x, y, _ = self.grid.coordinates()
        there = body.any(2)
        points = np.stack([np.broadcast_to(c[..., 0], there.shape)[there] for c in (x, y)])
        toward, _ = far.directions
        reach = (toward @ points).max(1) + 25.0
        axial = float(self.grid.centre[2])
        return SPECTGeometry(angles, np.maximum(reach, 150.0), (nx, nz), pixel, axial_shift=axial)

    @cached_property
    def sensitivity(self) -> float:
        """Counts/s/MBq of one head, from the collimator's geometry, the yield of 208 keV and the window."""
        passed = collimator(COLLIMATOR).efficiency(ENERGY)
        counted = accepted_fraction(ENERGY, PEAK, RESOLUTION * math.sqrt(140.511 / 510.999))
        return float(1e6 * passed * isotope("Lu-177").lines[ENERGY] * counted)

    def simulator(self, phantom: Phantom) -> SPECTSimulator:
        """Return the camera around a phantom, with scatter in three windows and dead time."""
        body = phantom.attenuation(self.grid, ENERGY) > 0.02
        resolution = RESOLUTION * math.sqrt(140.511 / ENERGY)
        source = EffectiveSource(PEAK, ENERGY, resolution, n_photons=200_000 if self.fine else 20_000)
        return SPECTSimulator(
            self.grid, self.camera(body), collimator(COLLIMATOR).response(ENERGY), self.sensitivity, self.seconds,
            "Lu-177", source, (LOWER, UPPER), dead_time=_DEAD_TIME,
            mismatch=Mismatch(refine=2 if self.fine else 1, attenuation=1.0, shift=(0.0, 0.0, 0.0), response=1.0),
        )  # fmt: skip


def recovery(folder: Path, *, protocol: Protocol, seed: int = 100) -> dict[str, Any]:
    """Measure the recovery of spheres of 0.5 to 221 mL in a water cylinder, 15 : 1, with both kinds of scatter."""
    phantom, grid = sphere_phantom(), protocol.grid
    images = _images(phantom, protocol, seed, ("tew", "esse"))
    np.savez(folder / "image.npz", **{name: image.astype(np.float32) for name, image in images.items()})  # type: ignore[arg-type]  # NumPy's own flag comes last
    regions = [region_of(f"{d:g} mm", Ellipsoid(place, d / 2), grid) for d, place in zip(SPHERES, _places())]
    far = RegionOfInterest("background", phantom.fraction(grid, "background") * _away(grid))
    around = {way: float(far.mean(image)) for way, image in images.items()}
    rows = [
        {
            "diameter": d,
            "volume": math.pi / 6 * d**3 / 1000,
            **{way: (float(region.mean(image)) - around[way]) / (_HOT - _WARM) / 1000 for way, image in images.items()},
        }
        for d, region in zip(SPHERES, regions)
    ]
    background = {way: value / (1000 * _WARM) for way, value in around.items()}
    return {"spheres": rows, "background": background, "sensitivity": protocol.sensitivity}


def patient(folder: Path, *, hours: float, protocol: Protocol, seed: int = 110) -> dict[str, Any]:
    """Measure a patient's organs some hours after the injection.

    24 h after it, scatter is corrected in both ways, and there is an image of unscattered photons without noise.
    """
    phantom, grid = patient_at(hours), protocol.grid
    ways = ("tew", "esse", "primaries") if hours == 24.0 else ("esse",)
    images = _images(phantom, protocol, seed + round(hours), ways)
    organs, activity = _organs(phantom, grid), {region.name: region.activity or 0.0 for region in phantom.regions}
    kept = {"truth": phantom.activity(grid) * 1000, **images}
    np.savez(folder / "image.npz", **{name: image.astype(np.float32) for name, image in kept.items()})  # type: ignore[arg-type]  # NumPy's own flag comes last
    rows = []
    for name, region in organs.items():
        part = {"kidneys": _KIDNEYS[0], "marrow": "spine"}.get(name, name)
        shell = _shell(region, grid)
        row: dict[str, Any] = {"organ": name, "volume": region.volume(grid), "true": 1000 * activity[part]}
        row |= {way: float(region.mean(image)) for way, image in images.items()}
        row |= {f"{way} around": float(shell.mean(image)) for way, image in images.items()}
        rows.append(row)
    return {"hours": hours, "organs": rows}


_HOT, _WARM = 600.0, 40.0  # kBq/mL


def sphere_phantom() -> Phantom:
    """Return eight spheres in a cylinder of 300 mm."""
    water = Cylinder((0.0, 0.0, -10.0), 105.0, 260.0)
    regions = [Region("background", water, _WARM, "water")]
    regions += [
        Region(f"sphere {d:g} mm", Ellipsoid(place, d / 2), _HOT, "water") for d, place in zip(SPHERES, _places())
    ]
    return Phantom(tuple(regions))


def _places() -> list[tuple[float, float, float]]:
    ring = [(60 * math.cos(math.radians(60 * k)), 60 * math.sin(math.radians(60 * k)), -75.0) for k in range(6)]
    return [(-50.0, 0.0, 55.0), (55.0, 0.0, 55.0), *ring]


def _away(grid: ImageGrid) -> np.ndarray:
    """Return where the cylinder holds no sphere within 25 mm: a slab in the middle."""
    x, y, z = grid.coordinates()
    slab = (np.abs(z + 18.0) <= 10.0) & (np.hypot(x, y) <= 75.0)
    return np.asarray(np.broadcast_to(slab, grid.shape), float)


def patient_at(hours: float) -> Phantom:
    """Return the patient: DOTATATE, and two lesions in the liver of 20 and 35 mm, six times as hot."""
    preset = UPTAKES["lu-177"]
    table = {**preset, "spine": 0.18}
    start = 24.0
    uptake = {
        organ: LIVER * value * 0.5 ** ((hours - start) / HALF_LIVES.get(organ, HALF_LIVES["body"]))
        for organ, value in table.items()
    }
    lesions = (
        Lesion((-85.0, -20.0, 55.0), 20.0, 6.0, "lesion 20 mm"),
        Lesion((-60.0, 10.0, 20.0), 35.0, 6.0, "lesion 35 mm"),
    )
    return torso(uptake, lesions)


def _organs(phantom: Phantom, grid: ImageGrid) -> dict[str, RegionOfInterest]:
    """Return the regions: organs as they are, and marrow as the inside of vertebrae, a voxel from their surface."""
    from scipy.ndimage import binary_erosion

    found = {
        name: RegionOfInterest(name, phantom.fraction(grid, name))
        for name in (*_KIDNEYS, "liver", "spleen", "lesion 20 mm", "lesion 35 mm")
    }
    both = sum(found[name].weights for name in _KIDNEYS)
    whole = phantom.fraction(grid, "spine") > 0.99
    eroded = binary_erosion(whole)
    spine = eroded if eroded.any() else whole
    spine[:, :, : grid.shape[2] // 8] = spine[:, :, -(grid.shape[2] // 8) :] = False  # the ends are seen in part
    marrow = RegionOfInterest("marrow", spine)
    return {"kidneys": RegionOfInterest("kidneys", np.minimum(both, 1.0)), **found, "marrow": marrow}


def _shell(region: RegionOfInterest, grid: ImageGrid) -> RegionOfInterest:
    """Return what lies 15 to 25 mm from a region."""
    from scipy.ndimage import distance_transform_edt

    far = distance_transform_edt(region.weights < 0.5, grid.voxel_size)
    return RegionOfInterest("around", (far > 15) & (far <= 25))


def _images(phantom: Phantom, protocol: Protocol, seed: int, ways: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return images in Bq/mL at the start of the scan, by how scatter was dealt with.

    "tew" and "esse" are of noisy counts, "primaries" of the expected ones that were not scattered: what is missing
    there is partial volume alone.
    """
    simulator = protocol.simulator(phantom)
    expected = simulator.expect(phantom)
    response = simulator.response
    images: dict[str, np.ndarray] = {}
    windowed = with_dead_time(_of_phantom(simulator.windowed(expected, seed)), _DEAD_TIME)
    for way in ways:
        scan: Scan | WindowedScan = windowed
        scatter: str | EffectiveScatter = "tew"
        if way == "esse":
            scan, scatter = windowed.scan("peak"), EffectiveScatter(updates=3, spacing=9.6)
        if way == "primaries":
            counts = np.where(expected.trues > 1e-12, expected.trues, 0.0)  # tails that no image explains
            scan = replace(windowed.scan("peak"), counts=counts, background=0.0)
            scatter = "none"
        problem = spect_problem(
            scan, mu=expected.mu, response=response, scatter=scatter, grid=protocol.grid, subsets=protocol.subsets
        )
        for it in osem(problem.parts, problem.start):
            if it.iteration >= protocol.iterations:
                break
        quantity = quantify(
            scan if isinstance(scan, Scan) else scan.scan("peak"), protocol.grid, calibration=protocol.sensitivity,
            timed_factors=False,
        )  # fmt: skip
        images[way] = np.asarray(quantity(it.image), float)
    return images


def _of_phantom(scan: WindowedScan) -> WindowedScan:
    """Return the scan as a camera has it: its factors hold nothing that is not measured."""
    return replace(scan, factors=1.0)
