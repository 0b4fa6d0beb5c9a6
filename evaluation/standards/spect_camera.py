"""NEMA NU 1 without reconstruction: flood uniformity, sensitivity, centre of rotation, and loss of counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import (
    DeadTime,
    EffectiveSource,
    ImageGrid,
    SPECTGeometry,
    SPECTProjector,
    accepted_fraction,
    collimator,
    isotope,
    planar_sensitivity,
)
from emrecon.recon import centre_of_rotation, flood_uniformity, join_pixels, rate_at_loss
from emrecon.sims import Mismatch, SPECTSimulator, uniform_cylinder
from emrecon.sims.phantoms.phantom import Phantom, Region
from emrecon.sims.phantoms.shapes import Cylinder

COLLIMATOR = "siemens-lehr"
ENERGY = 140.511
WINDOW = (129.6, 151.1)  # 15 %
RESOLUTION = 0.099  # FWHM at that energy
_AT_511 = RESOLUTION * math.sqrt(ENERGY / 510.999)


def head_sensitivity() -> float:
    """Return counts/s/MBq of one head with the collimator, from its geometry, the yield and the window."""
    passed = collimator(COLLIMATOR).efficiency(ENERGY)
    photons = isotope("Tc-99m").lines[ENERGY]
    return float(1e6 * passed * photons * accepted_fraction(ENERGY, WINDOW, _AT_511))


def flood(folder: Path, *, seed: int = 80) -> dict[str, Any]:
    """Measure floods of 533 x 387 mm in pixels of 2.4 mm: noise alone, and tubes of 76 mm that differ by 1.5 %."""
    rng = np.random.default_rng(seed)
    size, shape = 2.4, (222, 161)
    u, z = ((np.arange(n) - (n - 1) / 2) * size for n in shape)
    tubes = np.cos(2 * math.pi * u[:, None] / 76) * np.cos(2 * math.pi * z / 76)
    found = {}
    for name, wave in (("noise alone", 0.0), ("tubes of 1.5 %", 0.015)):
        image = rng.poisson(6000.0 * (1 + wave * tubes))
        joined, pixel = join_pixels(image, size)
        fields = flood_uniformity(joined, pixel)
        found[name] = {key: {"integral": f.integral, "differential_x": f.differential_x,
                             "differential_y": f.differential_y, "pixels": f.n_pixels}
                       for key, f in fields.items()}  # fmt: skip
        np.savez(
            folder / f"{name.split()[0]}.npz", image=joined, ufov=fields["UFOV"].pixels, cfov=fields["CFOV"].pixels
        )
    return {"counts_per_pixel": float(joined.mean()), "pixel": pixel[0], "floods": found}


def sensitivity(folder: Path, *, fine: bool, seed: int = 81) -> dict[str, Any]:
    """Measure planar sensitivity with a dish 10 cm from the collimator, and volume sensitivity with a cylinder."""
    size = 4.8 if fine else 9.6
    n = 64 if fine else 32
    grid = ImageGrid((n, n, n), (size, size, size))
    response = collimator(COLLIMATOR).response(ENERGY)
    given, seconds, activity = head_sensitivity(), 300.0, 40.0  # s, MBq
    dish = Phantom((Region("dish", Cylinder((0, 0, 0), 75.0, 10.0), 1.0, "water"),))
    # the dish lies flat under the head: its axis is along the detector's normal, here y
    disc = np.moveaxis(dish.activity(grid), (0, 1, 2), (0, 2, 1))
    camera = SPECTGeometry(np.zeros(1), np.array([100.0]), (n, n), (size, size))
    view = SPECTProjector(grid, camera, None, response)(disc.astype(np.float32))
    expected = given * activity * seconds * view / disc.sum()
    counts = float(np.random.default_rng(seed).poisson(expected).sum())
    source = EffectiveSource(WINDOW, ENERGY, RESOLUTION, n_photons=200_000 if fine else 20_000)
    volume = SPECTSimulator(
        grid, SPECTGeometry.circular(n_views=60 if fine else 12, radius=150.0, n_bins=(n, n), pixel_size=size),
        response, given, 20.0, "Tc-99m", source, mismatch=Mismatch.none(),
    )  # fmt: skip
    level = 0.01  # MBq/mL
    scan = volume.expect(uniform_cylinder(100.0, 200.0, 1000 * level))
    per_head = float(scan.total.sum(dtype=float)) / (volume.geometry.n_views * volume.duration)
    return {
        "collimator": COLLIMATOR,
        "given": given,
        "planar": planar_sensitivity(counts, seconds, activity),
        "planar_error": planar_sensitivity(math.sqrt(counts), seconds, activity),
        "volume": 2 * per_head / level,
        "volume_per_cm": 2 * per_head / level / 20.0,
        "scatter_fraction": float(scan.fractions[0]),
    }


def rotation(folder: Path, *, seed: int = 82) -> dict[str, Any]:
    """Measure the centre of rotation of two heads, one of them 1.7 mm off, with points at three heights."""
    grid = ImageGrid((64, 64, 32), (4.0, 4.0, 4.0))
    response = collimator(COLLIMATOR).response(ENERGY)
    rows = []
    for head, (start, shift, axial) in enumerate(((0.0, 0.0, 0.0), (180.0, 1.7, 0.8))):
        angles = np.arange(start, start + 360, 6.0) % 360
        shifts = np.full(60, shift)
        camera = SPECTGeometry(angles, np.full(60, 200.0), (64, 32), (4.0, 4.0), shift=shifts, axial_shift=axial)
        for z in (-40.0, 0.0, 40.0):
            image = np.zeros(grid.shape, np.float32)
            image[40, 36, round((z - grid.origin[2]) / 4)] = 1.0
            views = SPECTProjector(grid, camera, None, response)(image)
            counts = np.random.default_rng([seed, head, round(z) + 100]).poisson(20_000 * views)
            found = centre_of_rotation(counts, camera.angles, 4.0)
            rows.append({"head": head + 1, "z": z, "offset": found.offset, "given": -shift or 0.0,
                         "largest_deviation": float(np.abs(found.deviations).max()), "axial": found.axial,
                         "axial_spread": found.axial_spread})  # fmt: skip
    spreads = [abs(a["axial"] - b["axial"]) for a, b in zip(rows[:3], rows[3:])]
    return {"rows": rows, "heads_apart": float(np.mean(spreads)), "heads_apart_given": 0.8}


def count_losses(folder: Path, *, seed: int = 83) -> dict[str, Any]:
    """Measure the observed rate at 20 % loss from a decaying source, for a paralysable counter of 0.7 microseconds."""
    counter, half_life = DeadTime(7e-7), isotope("Tc-99m").half_life
    times = np.arange(0, 12 * half_life, 0.05 * half_life)
    true = 1.6e6 * 0.5 ** (times / half_life)
    seconds = 10.0
    seen = np.random.default_rng(seed).poisson(counter.measured_rate(true) * seconds) / seconds
    # the rate without losses is extrapolated from the last points, whose activity is known
    low = true < 4000.0
    factor = float(np.mean(seen[low] / true[low]))
    rate, highest = rate_at_loss(true * factor, seen)
    closed = 0.8 * -math.log(0.8) / counter.tau
    return {"rate": rate, "closed_form": closed, "highest": highest, "highest_closed_form": counter.highest_rate}
