# ruff: noqa: NPY002  # numba compiles the legacy generator only
"""SPECT scatter correction of Tc-99m in a water cylinder with a cold sphere: energy windows and the effective source.

    python benchmarks/quality_spect_scatter.py

Scatter comes from a Monte Carlo written here, which shares nothing with the models it judges but the attenuation of
water: photons are tracked through Compton scatters in the cylinder, and from each collision they are forced towards
every view, with the energy windows' acceptance, attenuation on the way out and the collimator's blur. Primaries are
projected on a grid finer than that of the reconstruction; the Monte Carlo's own primaries check the total.

Compared are OSEM reconstructions of the same data: of primaries alone, without correction, with the true scatter as
background, which is the best a correction can do after as many iterations, with the triple energy window estimate, and
with effective source estimates from the image reconstructed so far. Once with expected counts,
which shows the bias, and once with Poisson counts.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from rich.console import Console
from rich.table import Table
from scipy.special import ndtr

from emrecon.projectors import (
    ImageGrid,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    collimator,
    linear_attenuation,
)
from emrecon.projectors.scan.energy_windows import EnergyWindow, smooth_projections, triple_energy_window
from emrecon.projectors.spect.effective_source import EffectiveSource, SPECTScatterProjector
from emrecon.recon import reconstruct, spect_problem
from emrecon.sims import generator

ENERGY = 140.511  # keV
ELECTRONS = 3.343e23  # per cm3 of water
RADIUS_SQUARED = 2.8179403e-13**2  # of the electron, cm2
ELECTRON_MASS = 510.999  # keV
LEAST_ENERGY = 85.0  # keV: photons below are outside of all windows


@dataclass(frozen=True)
class Setup:
    """The phantom, the camera, the windows and the reconstruction; mm and keV."""

    radius: float = 100.0
    half_height: float = 100.0
    sphere: tuple[float, float, float, float] = (50.0, 0.0, 0.0, 18.0)  # centre and radius; cold water
    orbit: float = 150.0
    n_views: int = 60
    n_bins: tuple[int, int] = (56, 44)
    pixel_size: float = 5.0
    peak: tuple[float, float] = (126.46, 154.56)
    lower: tuple[float, float] = (120.46, 126.46)
    upper: tuple[float, float] = (154.56, 160.56)
    energy_resolution: float = 0.099
    photons: int = 1_000_000
    orders: int = 8
    counts: float = 8e6  # in the peak window
    smoothing: float = 15.0  # FWHM of the energy windows' estimate
    n_subsets: int = 6
    n_iterations: int = 8
    updates: int = 5  # effective source estimates
    seed: int = 3

    @property
    def camera(self) -> SPECTGeometry:
        """The camera."""
        return SPECTGeometry.circular(
            n_views=self.n_views, radius=self.orbit, n_bins=self.n_bins, pixel_size=self.pixel_size
        )

    @property
    def windows(self) -> tuple[EnergyWindow, EnergyWindow, EnergyWindow]:
        """Peak, lower and upper window."""
        names = ("peak", "lower", "upper")
        limits = (self.peak, self.lower, self.upper)
        peak, lower, upper = (EnergyWindow(*pair, name) for pair, name in zip(limits, names))
        return peak, lower, upper


def main() -> None:
    """Simulate, reconstruct, print and write the numbers."""
    options, console, start = _options(), Console(), time.perf_counter()
    setup = Setup(photons=options.photons)
    data = simulate(setup)
    system = make_system(setup)
    estimated: dict[str, Any] = {}
    rows = {
        kind: {name: measure(setup, image) for name, image in reconstructions(setup, system, data, kind, estimated)}
        for kind in ("expected", "Poisson")
    }
    about = machine()
    results = {
        "machine": about,
        "minutes": (time.perf_counter() - start) / 60,
        "settings": asdict(setup),
        "simulation": data["facts"],
        "scatter_estimates": estimated,
        "images": rows,
    }
    report(console, results)
    console.print(machine_line(about))
    write_json(options.out, results)


# ---- the Monte Carlo ------------------------------------------------------------------------------------------------


@numba.njit(cache=False)
def exit_length(x: float, y: float, z: float, dx: float, dy: float, dz: float, radius: float, half: float) -> float:
    """Return the distance along a direction from inside the cylinder to its surface, 0 from outside."""
    if x * x + y * y >= radius * radius or abs(z) >= half:
        return 0.0
    a, b, c = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - radius * radius
    side = (-b + math.sqrt(b * b - a * c)) / a if a > 1e-12 else 1e9
    end = ((half if dz > 0 else -half) - z) / dz if abs(dz) > 1e-12 else 1e9
    return min(side, end)


@numba.njit(cache=False)
def cross_section(cosine: float, energy: float) -> float:
    """Return the differential cross section of an electron in cm2/sr."""
    p = 1 / (1 + energy / ELECTRON_MASS * (1 - cosine))
    return RADIUS_SQUARED / 2 * p * p * (p + 1 / p - 1 + cosine * cosine)


@numba.njit(cache=False)
def accepted(energy: float, low: float, high: float, resolution: float) -> float:
    """Return the fraction of photons of an energy that a window counts."""
    sigma = resolution * math.sqrt(ENERGY * energy) / 2.3548200450309493 * math.sqrt(2.0)
    return 0.5 * (math.erf((high - energy) / sigma) - math.erf((low - energy) / sigma))


@numba.njit(cache=False)
def track(n, seed, body, sphere, camera, windows, resolution, mu_table, orders, out, totals):  # type: ignore[no-untyped-def]
    """Add n decays to out (views, bins, rows, windows), and their sums over views in the first window by order.

    body : radius, half height.  camera : angles, and orbit, a, b, c of the response, pixel size.
    mu_table : attenuation of water in 1/mm at every keV from 0 on.
    """
    np.random.seed(seed)
    radius, half = body
    angles, (orbit, a, b, c, pixel) = camera
    for _ in range(n):
        while True:
            x, y = radius * (2 * np.random.random() - 1), radius * (2 * np.random.random() - 1)
            z = half * (2 * np.random.random() - 1)
            cold = (x - sphere[0]) ** 2 + (y - sphere[1]) ** 2 + (z - sphere[2]) ** 2 < sphere[3] ** 2
            if x * x + y * y < radius * radius and not cold:
                break
        cosine, phi = 2 * np.random.random() - 1, 2 * math.pi * np.random.random()
        sine = math.sqrt(1 - cosine * cosine)
        dx, dy, dz, energy, weight = sine * math.cos(phi), sine * math.sin(phi), cosine, ENERGY, 1.0
        for order in range(orders + 1):
            low = int(energy)
            mu = mu_table[low] + (energy - low) * (mu_table[low + 1] - mu_table[low])
            for v in range(angles.size):
                nx, ny = math.sin(angles[v]), math.cos(angles[v])
                out_energy, strength = energy, weight
                if order > 0:
                    cosine = dx * nx + dy * ny
                    out_energy = energy / (1 + energy / ELECTRON_MASS * (1 - cosine))
                    if out_energy < 100:
                        continue
                    # per decay that goes everywhere: 4 pi times what goes towards the camera
                    strength *= 4 * math.pi * 3.343e22 * cross_section(cosine, energy) / mu
                low = int(out_energy)
                mu_out = mu_table[low] + (out_energy - low) * (mu_table[low + 1] - mu_table[low])
                strength *= math.exp(-mu_out * exit_length(x, y, z, nx, ny, 0.0, radius, half))
                depth = orbit - (x * nx + y * ny)
                sigma = math.sqrt((a * depth + b) ** 2 + c * c)
                u = -x * ny + y * nx + sigma * np.random.normal()
                row = z + sigma * np.random.normal()
                i = math.floor(u / pixel + out.shape[1] / 2)
                k = math.floor(row / pixel + out.shape[2] / 2)
                inside = 0 <= i < out.shape[1] and 0 <= k < out.shape[2]
                for w in range(windows.shape[0]):
                    score = strength * accepted(out_energy, windows[w, 0], windows[w, 1], resolution)
                    if inside and order > 0:
                        out[v, i, k, w] += score
                    if inside and w == 0:
                        totals[order] += score
            if order > 0:
                # turn: rejection below the forward cross section
                while True:
                    cosine = 2 * np.random.random() - 1
                    if np.random.random() * RADIUS_SQUARED < cross_section(cosine, energy):
                        break
                # all of mu but Compton scattering absorbs
                k0 = energy / ELECTRON_MASS
                log = math.log(1 + 2 * k0)
                first = (1 + k0) / k0**2 * (2 * (1 + k0) / (1 + 2 * k0) - log / k0)
                total = 2 * math.pi * RADIUS_SQUARED * (first + log / (2 * k0) - (1 + 3 * k0) / (1 + 2 * k0) ** 2)
                weight *= 3.343e22 * total / mu
                sine, phi = math.sqrt(1 - cosine * cosine), 2 * math.pi * np.random.random()
                flat = math.sqrt(max(1 - dz * dz, 1e-24))
                ex, ey, ez = dx * dz / flat, dy * dz / flat, -flat
                fx, fy = -dy / flat, dx / flat
                cp, sp = sine * math.cos(phi), sine * math.sin(phi)
                dx, dy, dz = cosine * dx + cp * ex + sp * fx, cosine * dy + cp * ey + sp * fy, cosine * dz + cp * ez
                energy = energy / (1 + k0 * (1 - cosine))
                if energy < LEAST_ENERGY:
                    break
                low = int(energy)
                mu = mu_table[low] + (energy - low) * (mu_table[low + 1] - mu_table[low])
            step = -math.log(1 - np.random.random()) / mu
            x, y, z = x + step * dx, y + step * dy, z + step * dz
            if x * x + y * y >= radius * radius or abs(z) >= half:
                break


def monte_carlo(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Return scatter (views, bins, rows, windows) and totals by order, per decay and view."""
    response = collimator("siemens-lehr").response(ENERGY)
    energies = np.maximum(np.arange(0, 150), 10)
    mu = np.array([linear_attenuation("water", float(e)) / 10 for e in energies])
    out, totals = np.zeros((setup.n_views, *setup.n_bins, 3)), np.zeros(setup.orders + 1)
    camera = np.deg2rad(setup.camera.angles), (setup.orbit, response.a, response.b, response.c, setup.pixel_size)
    windows = np.array([setup.peak, setup.lower, setup.upper])
    body = setup.radius, setup.half_height
    resolution = setup.energy_resolution
    track(setup.photons, setup.seed, body, setup.sphere, camera, windows, resolution, mu, setup.orders, out, totals)
    return out / setup.photons, totals / setup.photons / setup.n_views


# ---- data -----------------------------------------------------------------------------------------------------------


def phantom(setup: Setup, grid: ImageGrid, oversample: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of every voxel that is active, and that is water."""
    fine = ImageGrid(tuple(n * oversample for n in grid.shape), tuple(d / oversample for d in grid.voxel_size))
    x, y, z = fine.coordinates()
    water = (x**2 + y**2 < setup.radius**2) & (np.abs(z) < setup.half_height)
    cx, cy, cz, r = setup.sphere
    active = water & ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 >= r**2)
    (nx, ny, nz), f = grid.shape, oversample
    active, water = (m.reshape(nx, f, ny, f, nz, f).mean((1, 3, 5)) for m in (active, water))
    return active, water


def simulate(setup: Setup) -> dict[str, Any]:
    """Return expected primaries and scatter in the three windows, scaled to the counts, and facts about them."""
    grid = ImageGrid((112, 112, 88), 2.5)
    active, water = phantom(setup, grid, 2)
    response = collimator("siemens-lehr").response(ENERGY)
    projector = SPECTProjector(grid, setup.camera, water * linear_attenuation("water", ENERGY), response)
    primary = projector((active / active.sum()).astype(np.float32)).astype(float)
    shares = [acceptance(ENERGY, window.lower, window.upper, setup.energy_resolution) for window in setup.windows]
    start = time.perf_counter()
    scatter, totals = monte_carlo(setup)
    seconds = time.perf_counter() - start
    scale = setup.counts / (shares[0] * primary.sum() + scatter[..., 0].sum())
    facts = {
        "monte_carlo_seconds": seconds,
        "scatter_to_primary": float(scatter[..., 0].sum() / (shares[0] * primary.sum())),
        "scatter_to_primary_by_order": [float(t / totals[0]) for t in totals[1:]],
        "primaries_monte_carlo_over_projector": float(totals[0] * setup.n_views / (shares[0] * primary.sum())),
    }
    return {
        "primaries": [scale * share * primary for share in shares],
        "scatter": [scale * scatter[..., w] for w in range(3)],
        "scale": scale * shares[0],
        "facts": facts,
    }


def acceptance(energy: float, low: float, high: float, resolution: float) -> float:
    """Return the fraction of photons of an energy that a window counts."""
    sigma = resolution * math.sqrt(ENERGY * energy) / 2.3548200450309493
    return float(ndtr((high - energy) / sigma) - ndtr((low - energy) / sigma))


# ---- reconstruction and measures ------------------------------------------------------------------------------------


def make_system(setup: Setup) -> tuple[SPECTProjector, SPECTScatterProjector]:
    """Return the models of primaries and of scatter on the grid of the reconstruction."""
    grid = setup.camera.default_grid()
    _, water = phantom(setup, grid)
    response = collimator("siemens-lehr").response(ENERGY)
    projector = SPECTProjector(grid, setup.camera, water * linear_attenuation("water", ENERGY), response)
    source = EffectiveSource(setup.peak, ENERGY, setup.energy_resolution)
    return projector, SPECTScatterProjector(projector, source)


def reconstructions(setup: Setup, system: Any, data: dict[str, Any], kind: str, estimated: dict[str, Any]) -> Any:
    """Yield names and images; note how good the scatter estimates are."""
    projector, model = system
    primaries, scatter = data["primaries"], data["scatter"]
    if kind == "Poisson":
        primaries = [draw(p, setup.seed, f"primary {w}") for w, p in enumerate(primaries)]
        scattered = [draw(s, setup.seed, f"scatter {w}") for w, s in enumerate(scatter)]
    else:
        scattered = scatter
    peak, lower, upper = setup.windows
    counts = [p + s for p, s in zip(primaries, scattered)]

    def image(measured: np.ndarray, background: Any = 0.0) -> np.ndarray:
        scan = Scan(measured.astype(np.float32), setup.camera, background)
        known = {"mu": projector.attenuation, "response": projector.response, "grid": projector.grid}
        return reconstruct(spect_problem(scan, **known, subsets=setup.n_subsets), "osem", setup.n_iterations)

    def note(name: str, estimate: np.ndarray) -> np.ndarray:
        estimated[f"{name}, {kind}"] = {
            "estimate_over_truth": float(estimate.sum() / scatter[0].sum()),
            "rms_error_percent_of_mean": rms_error(estimate, scatter[0]),
        }
        return estimate

    yield "primaries only", image(primaries[0])
    without = image(counts[0])
    yield "no correction", without
    yield "scatter known", image(counts[0], scatter[0])
    windows = triple_energy_window(peak, (lower, counts[1]), (upper, counts[2]))
    windows = smooth_projections(windows, setup.smoothing, setup.pixel_size)
    yield "triple energy window", image(counts[0], note("triple energy window", windows))
    found = without
    for k in range(setup.updates):
        estimate = model.estimate(found)
        found = image(counts[0], note(f"effective source {k + 1}", estimate))
    yield "effective source", found
    if kind == "expected":
        active, _ = phantom(setup, projector.grid)
        note("effective source, true image", model.estimate(data["scale"] * active / active.sum()))


def draw(expected: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Return Poisson counts."""
    return generator(seed, purpose).poisson(expected).astype(float)


def rms_error(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return the root mean square difference of means over views, in percent of the mean scatter.

    The object is nearly round, and the mean over views has less of the Monte Carlo's noise.
    """
    estimate, truth = estimate.mean(0), truth.mean(0)
    there = truth > 0.1 * truth.max()
    return float(100 * np.sqrt(np.mean((estimate - truth)[there] ** 2)) / truth[there].mean())


def measure(setup: Setup, image: np.ndarray) -> dict[str, float]:
    """Return cold contrast, cupping, variation and the mean of the background in units of the primaries' truth."""
    grid = setup.camera.default_grid()
    x, y, z = grid.coordinates()
    cx, cy, cz, r = setup.sphere
    r_xy = np.hypot(x, y) + 0 * z
    from_sphere = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)
    middle = (np.abs(z) < 0.7 * setup.half_height) & (from_sphere > r + 20)
    cold = from_sphere < 0.7 * r
    beside = middle & (np.abs(r_xy - np.hypot(cx, cy)) < r) & (np.abs(z - cz) < r)
    centre, edge = middle & (r_xy < 0.3 * setup.radius), middle & (np.abs(r_xy / setup.radius - 0.75) < 0.1)
    whole = middle & (r_xy < 0.85 * setup.radius)
    return {
        "cold_contrast_percent": float(100 * (1 - image[cold].mean() / image[beside].mean())),
        "centre_over_edge": float(image[centre].mean() / image[edge].mean()),
        "variation_percent": float(100 * image[whole].std() / image[whole].mean()),
        "background": float(image[whole].mean()),
    }


def report(console: Console, results: dict[str, Any]) -> None:
    """Print the tables."""
    console.print(results["simulation"])
    for kind, rows in results["images"].items():
        truth = rows["primaries only"]["background"]
        table = Table("", "cold contrast %", "centre / edge", "variation %", "background", title=f"{kind} counts")
        for name, row in rows.items():
            table.add_row(
                name,
                f"{row['cold_contrast_percent']:.1f}",
                f"{row['centre_over_edge']:.3f}",
                f"{row['variation_percent']:.1f}",
                f"{row['background'] / truth:.3f}",
            )
        console.print(table)
    table = Table("scatter estimate", "sum / truth", "RMS error %")
    for name, row in results["scatter_estimates"].items():
        table.add_row(name, f"{row['estimate_over_truth']:.3f}", f"{row['rms_error_percent_of_mean']:.1f}")
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photons", type=int, default=Setup.photons, help="decays of the Monte Carlo")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_spect_scatter.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
