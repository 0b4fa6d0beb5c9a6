"""Compare single scatter simulation with a Monte Carlo that shares only the total cross section with it.

    python benchmarks/agreement_scatter.py [--decays 4e7]

A water cylinder off the axis with a dense rod; activity in the water and four times as much in a hot cylinder. The
Monte Carlo tracks both photons of every decay through the exact shapes (Woodcock's method, any number of scatters) to
an ideal cylinder of crystals. Counts are compared in absolute terms: nothing is scaled.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from numba import njit

from emrecon.projectors import ImageGrid, PETProjector, PETScanner, PETSinogram, TimeOfFlight
from emrecon.projectors.core.threads import share
from emrecon.projectors.pet.scatter import single_scatter
from emrecon.projectors.physics.compton import accepted_fraction, klein_nishina_total
from emrecon.sims import Cylinder, Phantom, Region

WINDOW, RESOLUTION = (430.0, 610.0), 0.145
RADIUS, LENGTH = 335.0, 260.0  # of the scanner, mm
TOF = TimeOfFlight(11, 50.0, 60.0)
SCANNER = PETScanner.polygon(
    sides=96, crystals_per_side=1, radius=RADIUS, rings=13, ring_pitch=LENGTH / 13, time_of_flight=TOF
)
# x, y, z of the centre, radius, half length in mm
BODY, ROD, HOT = (30.0, -20.0, 0.0, 100.0, 110.0), (70.0, -60.0, 0.0, 20.0, 110.0), (0.0, 20.0, 30.0, 30.0, 40.0)
MU_BODY, MU_ROD = 0.0096, 0.0080  # 1/mm; the rod's is added to the body's
HOT_ACTIVITY = 3.0  # added to the body's 1 per mm^3
CHUNK = 500_000

_compile = njit(nogil=True, cache=True)


def main() -> None:
    """Compare, print, and write the numbers."""
    options = _options()
    sinogram = PETSinogram(SCANNER, tof=True)
    n_decays = int(options.decays) // CHUNK * CHUNK
    start = time.perf_counter()
    expected = model(n_decays, sinogram)
    seconds = {"model": time.perf_counter() - start}
    counts = monte_carlo(n_decays, sinogram)
    seconds["monte_carlo"] = time.perf_counter() - start - seconds["model"]
    results = {
        "machine": machine(),
        "decays": n_decays,
        "seconds": seconds,
        "totals": totals(counts, expected),
        "chi_square_per_bin": chi_square(counts[1], expected[1]),
        "profiles": profiles(counts, expected, sinogram),
    }
    write_json(options.out, results)
    print(json.dumps({name: results[name] for name in ("totals", "chi_square_per_bin", "seconds")}, indent=2))
    print(machine_line(results["machine"]))


def totals(counts: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Return counts and what the model says of them; trues are sampled at the middle of bins 20 mm wide."""
    trues, single, multiple = counts.sum((1, 2, 3, 4))
    return {
        "trues": trues,
        "trues_over_model": trues / expected[0].sum(),
        "single_scatters": single,
        "single_scatters_over_model": single / expected[1].sum(),
        "standard_error": single**-0.5,
        "multiple_over_single": multiple / single,
        "scatter_fraction": (single + multiple) / (trues + single + multiple),
    }


def chi_square(counts: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Return the mean of (counts - expected)^2 / expected over bins that expect more than 20, for several sums."""
    views = {"view and radial": (2, 3), "radial and TOF": (0, 3), "plane": (0, 1, 2), "radial and plane": (0, 2)}
    found = {}
    for name, axes in views.items():
        n, m = counts.sum(axes), expected.sum(axes)
        found[name] = float(((n - m)[m > 20] ** 2 / m[m > 20]).mean())
    return found


def profiles(counts: np.ndarray, expected: np.ndarray, sinogram: PETSinogram) -> dict[str, list[Any]]:
    """Return what the picture shows: sums over views and planes."""
    tof = (0, 1, 3)
    return {
        "radial_mm": sinogram.radial_positions[0].tolist(),
        "radial_counts": counts.sum((1, 3, 4)).tolist(),
        "radial_model": expected.sum((1, 3, 4)).tolist(),
        "tof_mm": TOF.centres.tolist(),
        "tof_counts": counts[1].sum(tof).tolist(),
        "tof_model": expected[1].sum(tof).tolist(),
        "tof_radial_counts": counts[1].sum((0, 3)).T.tolist(),
        "tof_radial_model": expected[1].sum((0, 3)).T.tolist(),
    }


@_compile
def _inside(x, y, z, shape):
    return (x - shape[0]) ** 2 + (y - shape[1]) ** 2 <= shape[3] ** 2 and abs(z - shape[2]) <= shape[4]


@_compile
def _point_in(rng, shape):
    x = y = 1.0
    while x * x + y * y > 1:
        x, y = rng.uniform(-1, 1), rng.uniform(-1, 1)
    return shape[0] + shape[3] * x, shape[1] + shape[3] * y, shape[2] + shape[4] * rng.uniform(-1, 1)


@_compile
def _compton(rng, ux, uy, uz, energy):
    """Return direction and energy after scattering; cos theta by rejection."""
    k = energy / 510.999
    while True:
        c = rng.uniform(-1, 1)
        p = 1 / (1 + k * (1 - c))
        if 2 * rng.random() <= p * p * (p + 1 / p - 1 + c * c):
            break
    s, phi = math.sqrt(1 - c * c), rng.uniform(0, 2 * math.pi)
    a, b = s * math.cos(phi), s * math.sin(phi)
    r = math.sqrt(max(1 - uz * uz, 1e-16))
    return (
        c * ux + (a * ux * uz - b * uy) / r,
        c * uy + (a * uy * uz + b * ux) / r,
        c * uz - a * r,
        energy * p,
    )


@_compile
def _track(rng, x, y, z, ux, uy, uz, body, rod, mu, relative, scanner):
    """Follow a photon to the crystals: (detected?, angle, height, energy, scatters, mm travelled)."""
    energy, scatters, way = 510.999, 0, 0.0
    while energy > 350:
        free = -math.log(1 - rng.random()) / ((mu[0] + mu[1]) * relative[int(energy)])
        a, b, c = ux * ux + uy * uy, x * ux + y * uy, x * x + y * y - scanner[0] ** 2
        surface = (-b + math.sqrt(b * b - a * c)) / a
        if free >= surface:
            height, angle = z + surface * uz, math.atan2(x + surface * ux, -y - surface * uy)
            return abs(height) < scanner[1] / 2, angle, height, energy, scatters, way + surface
        x, y, z, way = x + free * ux, y + free * uy, z + free * uz, way + free
        here = (mu[0] if _inside(x, y, z, body) else 0.0) + (mu[1] if _inside(x, y, z, rod) else 0.0)
        if rng.random() * (mu[0] + mu[1]) < here:
            ux, uy, uz, energy = _compton(rng, ux, uy, uz, energy)
            scatters += 1
    return False, 0.0, 0.0, energy, scatters, way


@_compile
def _decays(rng, n, part_hot, body, rod, hot, mu, relative, scanner, events):
    """Set rows of events (angle, height, energy of both photons; scatters; TOF position); return how many."""
    found = 0
    for _ in range(n):
        x, y, z = _point_in(rng, hot if rng.random() < part_hot else body)
        uz, phi = rng.uniform(-1, 1), rng.uniform(0, 2 * math.pi)
        ux, uy = math.sqrt(1 - uz * uz) * math.cos(phi), math.sqrt(1 - uz * uz) * math.sin(phi)
        hit1, angle1, z1, e1, n1, way1 = _track(rng, x, y, z, ux, uy, uz, body, rod, mu, relative, scanner)
        if not hit1:
            continue
        hit2, angle2, z2, e2, n2, way2 = _track(rng, x, y, z, -ux, -uy, -uz, body, rod, mu, relative, scanner)
        if hit2:
            events[found] = np.array([angle1, z1, e1, angle2, z2, e2, n1 + n2, (way1 - way2) / 2])
            found += 1
    return found


def monte_carlo(n_decays: int, sinogram: PETSinogram) -> np.ndarray:
    """Return the accepted coincidences without, with one and with more scatters, (3, views, radial, TOF, planes)."""
    relative = klein_nishina_total(np.arange(1, 513) - 0.5) / klein_nishina_total(511.0)
    body, hot = volume(BODY), HOT_ACTIVITY * volume(HOT)
    settings = (hot / (body + hot), BODY, ROD, HOT, (MU_BODY, MU_ROD), relative, (RADIUS, LENGTH))
    size = math.prod(sinogram.shape)

    def work(first: int, n: int) -> np.ndarray:
        counts, rows = np.zeros(3 * size), np.empty((CHUNK, 8))
        for chunk in range(first, n_decays // CHUNK, n):
            rng = np.random.default_rng(chunk)
            found = _decays(rng, CHUNK, *settings, rows)
            counts += histogram(rows[:found], sinogram, rng)
        return counts

    total: np.ndarray = sum(share(work, n_decays // CHUNK))  # type: ignore[assignment]
    return total.reshape(3, *sinogram.shape)


def histogram(events: np.ndarray, sinogram: PETSinogram, rng: np.random.Generator) -> np.ndarray:
    """Sort events into crystals, TOF bins and the sinogram; which are accepted is drawn by their energies."""
    events = events[rng.random(len(events)) < accepted_fraction(events[:, [2, 5]], WINDOW, RESOLUTION).prod(1)]
    n, timing = sinogram.scanner.n_crystals, TOF
    crystals = [np.rint(events[:, k] * n / (2 * np.pi)).astype(int) % n for k in (0, 3)]
    rings = [((events[:, k] / LENGTH + 0.5) * sinogram.scanner.n_rings).astype(int) for k in (1, 4)]
    noise = rng.normal(size=4 * len(events) + 100)
    noise = noise[np.abs(noise) < 3][: len(events)]
    tof = np.floor((events[:, 7] + timing.sigma * noise - timing.edges[0]) / timing.bin_width).astype(int)
    ends = [n * ring + crystal for ring, crystal in zip(rings, crystals)]
    different = crystals[0] != crystals[1]
    bins = sinogram.bins_of(np.stack([*ends, tof], 1)[different])
    order = np.minimum(events[different, 6], 2).astype(int)
    inside = bins[:, 0] >= 0
    flat = np.ravel_multi_index((order[inside], *bins[inside].T), (3, *sinogram.shape))
    return np.bincount(flat, minlength=3 * math.prod(sinogram.shape))


def volume(shape: tuple[float, ...]) -> float:
    """Return the volume of a cylinder in mm^3."""
    return math.pi * shape[3] ** 2 * 2 * shape[4]


def model(n_decays: int, sinogram: PETSinogram) -> np.ndarray:
    """Return the expected trues and single scatters, (2, views, radial, TOF, planes)."""
    grid = ImageGrid((104, 104, 110), 2.0, (30 - 103, -20 - 103, -109))
    body, rod, hot = (Cylinder(s[:3], s[3], 2 * s[4]) for s in (BODY, ROD, HOT))
    phantom = Phantom(
        (
            Region("body", body, activity=1.0, mu=10 * MU_BODY),
            Region("rod", rod, mu=10 * (MU_BODY + MU_ROD)),
            Region("hot", hot, activity=1 + HOT_ACTIVITY),
        )
    )
    activity = phantom.activity(grid) * n_decays / (volume(BODY) + HOT_ACTIVITY * volume(HOT))
    mu = phantom.attenuation(grid, 511.0)
    survival = np.exp(-PETProjector(grid, sinogram.without_tof())(mu / 10))[:, :, None]
    scatter = single_scatter(activity, mu, grid, sinogram, energy_window=WINDOW, energy_resolution=RESOLUTION)
    factor = pair_factor(sinogram)[:, :, None] * accepted_fraction(511.0, WINDOW, RESOLUTION) ** 2
    return factor * np.stack([PETProjector(grid, sinogram)(activity) * survival, scatter])


def pair_factor(sinogram: PETSinogram) -> np.ndarray:
    """Return the coincidences per unit of line integral, a cos(A) b cos(B) / (2 pi |AB|^2), (views, radial, planes)."""
    first, second = sinogram.line_ends()
    way = second - first
    distance = np.linalg.norm(way, axis=-1)
    facing = [(-s * (way * end)[..., :2].sum(-1)) / (RADIUS * distance) for s, end in ((1, first), (-1, second))]
    area = 2 * math.pi * RADIUS / sinogram.scanner.n_crystals * LENGTH / sinogram.scanner.n_rings
    return area**2 * facing[0] * facing[1] / (2 * math.pi * distance**2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Single scatter simulation against Monte Carlo.")
    parser.add_argument("--decays", type=float, default=4e7, help="decays to track")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement_scatter.json", help="numbers, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
