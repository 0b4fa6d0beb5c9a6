"""Penalised against plain OSEM on a Monte Carlo SPECT scan: background noise at equal contrast of cold rods.

    python benchmarks/quality_simset_map.py [DATA]

DATA is the folder that holds simset_spect/input.hs, the SimSET scan that STIR distributes: a water cylinder with six
cold rods along its axis (slices 20 to 36) and uniform slices below them. All methods share one model: the response of
that simulation, a cylinder with the attenuation that makes the uniform slices flat (the data hold scatter), and a
little constant background, without which bins far from the object would expect next to nothing and gradients there
would have no bound.

Methods: OSEM stopped after each of many iterations; OSEM after some of them, with Gaussian filters of many widths; and
the minimum of likelihood + beta * relative difference prior, found by SVRG, for many beta. Contrast of a rod is
1 - m_C / m_B, and the noise is that of background voxels. Where methods reach the same contrast their noise is
compared, by interpolation along their curves; of filtered OSEM the best number of iterations is taken each time.

Twice: for the scan as it is, where noise is the coefficient of variation in one image (it holds what structure is left
in the background, too), and for two scans of a fifth of the counts, Poisson around the scan, where it is the standard
deviation of the difference of their images over sqrt(2), which is noise alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq

from emrecon import formats
from emrecon.projectors import GaussianBlur, ImageGrid, LinearResponse, Scan
from emrecon.recon import (
    Likelihood,
    RegionOfInterest,
    RelativeDifference,
    contrast_recovery,
    kkt_residual,
    osem,
    region_of,
    spect_problem,
    svrg,
)
from emrecon.sims import generator
from emrecon.sims.phantoms.shapes import Cylinder

ROOT = Path(__file__).resolve().parents[1]
GRID = ImageGrid((72, 72, 64), (3.32, 3.32, 3.32))
METHODS = {"OSEM": "tab:gray", "OSEM, filtered": "tab:blue", "RDP-SVRG": "tab:red"}
NOISES = {"beside_rods": "beside the rods", "uniform_slices": "uniform slices"}


@dataclass(frozen=True)
class Settings:
    """The scan's model, the methods and the regions; mm, 1/cm, and slices of which the last is excluded.

    background : counts per bin, in the whole scan.  part : of the counts, in the second comparison.
    inner_part : of a rod's radius, within which contrast is measured.  margin : around the rods, out of the background.
    epsilon : of the prior, as a part of the largest value after one OSEM iteration.
    rods : (x, y, radius), found by fits of blurred discs to the sum of the slices.
    """

    mu: float = 0.104
    cylinder_radius: float = 99.0
    slope: float = 0.0163
    intercept: float = 1.466
    background: float = 0.05
    n_subsets: int = 10
    n_iterations: int = 40
    filtered_iterations: tuple[int, ...] = (2, 4, 8, 20, 40)
    filter_fwhms: tuple[float, ...] = (0.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0)
    betas: tuple[float, ...] = (0.03, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
    gamma: float = 2.0
    epsilon: float = 1e-3
    svrg_subsets: int = 12
    svrg_passes: int = 24
    rods: tuple[tuple[float, float, float], ...] = (
        (-34.0, 58.5, 26.0),
        (33.3, 58.3, 21.0),
        (67.2, -0.7, 16.0),
        (33.4, -58.8, 11.5),
        (-34.3, -59.2, 8.0),
        (-67.8, -0.8, 5.0),
    )
    inner_part: float = 0.7
    rod_slices: tuple[int, int] = (22, 35)
    uniform_slices: tuple[int, int] = (11, 16)
    background_radius: float = 80.0
    margin: float = 12.0
    part: float = 0.2
    seed: int = 3
    levels: tuple[float, ...] = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


class Regions(NamedTuple):
    """The inner parts of the rods, and the background beside them and in the uniform slices."""

    rods: tuple[RegionOfInterest, ...]
    beside_rods: RegionOfInterest
    uniform_slices: RegionOfInterest


class Point(NamedTuple):
    """A set of images, one for each realisation: the iterations, filter and beta behind it, and what it is worth."""

    setting: dict[str, float]
    images: np.ndarray
    contrasts: np.ndarray
    noise: dict[str, float]

    @property
    def contrast(self) -> float:
        return float(self.contrasts.mean())


Curves = dict[str, list[list[Point]]]  # of every method; filtered OSEM has one for each number of iterations


def main() -> None:
    """Reconstruct, compare, and write the numbers and the picture."""
    options, settings, console = _options(), Settings(), Console()
    scan = formats.read_scan(options.data / "simset_spect" / "input.hs")
    places = regions(settings)
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "data": about_counts(scan, settings)}
    scans: dict[str, Curves] = {}
    for name, counts in realisations(scan, settings).items():
        begin = time.perf_counter()
        curves, convergence = reconstruct(counts, scan, settings, places)
        results[name] = {"total_counts": float(counts[0].sum()), "convergence": convergence}
        results[name] |= compare(curves, settings) | {"seconds": round(time.perf_counter() - begin, 1)}
        scans[name] = curves
        report(console, name, results[name], settings)
    console.print(machine_line(results["machine"]))
    write_json(options.out, results)
    picture(options.picture, scans, places, settings)


# ---- the scan --------------------------------------------------------------------------------------------------------


def realisations(scan: Scan, settings: Settings) -> dict[str, np.ndarray]:
    """Return counts (realisations, view, u, z): the scan, and two Poisson draws around a part of it."""
    counts = np.asarray(scan.counts, np.float32)
    draws = generator(settings.seed, "fewer counts").poisson(settings.part * counts, (2, *counts.shape))
    return {"whole scan": counts[None], "a fifth of the counts": draws.astype(np.float32)}


def about_counts(scan: Scan, settings: Settings) -> dict[str, float]:
    """Return the total, and variance / mean of the bins that see the uniform slices: 1 for Poisson counts.

    The variance is half of that of the difference of neighbouring slices.
    """
    counts = np.asarray(scan.counts, float)[:, 44:84, slice(*settings.uniform_slices)]
    return {"total": float(np.sum(scan.counts, dtype=float)),
            "variance_over_mean": float(np.diff(counts, axis=2).var() / 2 / counts.mean())}  # fmt: skip


def regions(settings: Settings) -> Regions:
    """Return where contrast and noise are measured."""
    first, last = settings.rod_slices
    z = np.ravel(GRID.coordinates()[2])
    middle, height = float(z[first:last].mean()), (last - first) * GRID.voxel_size[2]
    rods = tuple(
        region_of(f"rod of {r:g} mm", Cylinder((x, y, middle), settings.inner_part * r, height), GRID)
        for x, y, r in settings.rods
    )
    x, y, _ = GRID.coordinates()
    core = np.hypot(x, y) < settings.background_radius
    clear = core & np.all([np.hypot(x - a, y - b) > r + settings.margin for a, b, r in settings.rods], axis=0)
    return Regions(rods, _slab("beside rods", clear, settings.rod_slices),
                   _slab("uniform slices", core, settings.uniform_slices))  # fmt: skip


def _slab(name: str, mask: np.ndarray, slices: tuple[int, int]) -> RegionOfInterest:
    inside = np.zeros(GRID.shape, bool)
    inside[:, :, slice(*slices)] = mask
    return RegionOfInterest(name, inside)


# ---- reconstructions and what they are worth -------------------------------------------------------------------------


def reconstruct(
    counts: np.ndarray, scan: Scan, settings: Settings, places: Regions
) -> tuple[Curves, list[dict[str, float]]]:
    """Return the curves of all methods, and how far SVRG is from the optimum for every beta."""
    radius = np.hypot(*GRID.coordinates()[:2])
    mu = np.broadcast_to(settings.mu * (radius < settings.cylinder_radius), GRID.shape).astype(np.float32)
    response = LinearResponse(settings.slope, settings.intercept)
    part = float(counts[0].sum(dtype=float) / np.sum(scan.counts, dtype=float))
    noisy = replace(scan, counts=counts, background=settings.background * part)
    (f,) = spect_problem(noisy, mu=mu, response=response, grid=GRID, subsets=1).parts

    def point(images: np.ndarray, **setting: float) -> Point:
        return Point(setting, images, *quality(images, places))

    plain = [
        point(it.image, iterations=it.iteration)
        for it in islice(osem(f, n_subsets=settings.n_subsets), settings.n_iterations)
    ]
    filtered = [
        [point(GaussianBlur(GRID, w)(plain[n - 1].images), iterations=n, fwhm=w) for w in settings.filter_fwhms]
        for n in settings.filtered_iterations
    ]
    found = [penalised(f, beta, plain[0].images, settings) for beta in settings.betas]
    penal = [point(images, beta=beta) for beta, (images, _) in zip(settings.betas, found)]
    return {"OSEM": [plain], "OSEM, filtered": filtered, "RDP-SVRG": [penal]}, [errors for _, errors in found]


def penalised(f: Likelihood, beta: float, start: np.ndarray, settings: Settings) -> tuple[np.ndarray, dict[str, float]]:
    """Return the minimum for one beta, and its residuals: of the optimality conditions, and the last passes' change."""
    epsilon = settings.epsilon * float(start.max())
    prior = beta * RelativeDifference(settings.gamma, epsilon=epsilon, voxel_size=GRID.voxel_size)
    engine = svrg(f, prior, start, settings.svrg_subsets)
    *_, before, _, _, last = (it.image for it in islice(engine, settings.svrg_passes))
    residual = kkt_residual(last, f.gradient(last) + prior.gradient(last), f.gradient(start) + prior.gradient(start))
    change = float(np.linalg.norm(last - before) / np.linalg.norm(last))
    return last, {"beta": beta, **residual._asdict(), "change_of_last_3_passes": change}


def quality(images: np.ndarray, places: Regions) -> tuple[np.ndarray, dict[str, float]]:
    """Return the contrast of every rod, the mean of all images, and the noise of every background."""
    contrasts = np.array([np.mean(contrast_recovery(images, rod, places.beside_rods, 0)) for rod in places.rods])
    return contrasts, {name: noise(images, getattr(places, name)) for name in NOISES}


def noise(images: np.ndarray, place: RegionOfInterest) -> float:
    """Return the standard deviation over the mean: of one image, or of the difference of two over sqrt(2)."""
    fluctuation = images[0] if len(images) == 1 else (images[0] - images[1]) / np.sqrt(2)
    return float(place.sd(fluctuation) / np.mean(place.mean(images)))


def noise_at(
    curves: Sequence[Sequence[Point]], level: float, key: str, contrast: Callable[[Point], float]
) -> float | None:
    """Return the lowest noise where curves cross a contrast, by linear interpolation; None where none does."""
    found = []
    for a, b in (pair for curve in curves for pair in pairwise(curve)):
        low, high = sorted((contrast(a), contrast(b)))
        if low <= level <= high and low < high:
            t = (level - contrast(a)) / (contrast(b) - contrast(a))
            found.append((1 - t) * a.noise[key] + t * b.noise[key])
    return min(found, default=None)


def compare(curves: Curves, settings: Settings) -> dict[str, Any]:
    """Return the curves, and noise at equal contrast: of the mean over the rods, and of each rod."""
    rods: list[tuple[str, Callable[[Point], float]]] = [("mean", lambda p: p.contrast)]
    rods += [(f"{r:g}", lambda p, k=k: float(p.contrasts[k])) for k, (*_, r) in enumerate(settings.rods)]
    rows = [
        {"rod": rod, "contrast": level, "where": key} | {m: noise_at(curves[m], level, key, of) for m in METHODS}
        for key in NOISES
        for rod, of in rods
        for level in settings.levels
    ]
    points = {
        method: [
            [p.setting | {"contrast": p.contrast, "contrasts": p.contrasts.tolist(), "noise": p.noise} for p in curve]
            for curve in those
        ]
        for method, those in curves.items()
    }
    return {"noise_at_equal_contrast": rows, "curves": points}


# ---- output ----------------------------------------------------------------------------------------------------------


def report(console: Console, name: str, results: dict[str, Any], settings: Settings) -> None:
    """Print noise at equal contrast, and how converged SVRG is."""
    table = Table("where", "rod (mm)", "contrast", *METHODS, title=f"{name}: noise at equal contrast")
    for row in results["noise_at_equal_contrast"]:
        values = ["" if row[m] is None else f"{100 * row[m]:.2f} %" for m in METHODS]
        if any(values):
            table.add_row(NOISES[row["where"]], row["rod"], f"{row['contrast']:.2f}", *values)
    console.print(table)
    table = Table("beta", "KKT product", "KKT negative", "change of 3 passes", title=f"{name}: convergence")
    for row in results["convergence"]:
        table.add_row(f"{row['beta']:g}", *(f"{value:.1e}" for key, value in row.items() if key != "beta"))
    console.print(table)
    table = Table("method", "setting", "contrast", *(f"{r:g} mm" for *_, r in settings.rods), *NOISES.values())
    for method, curve in ((m, curve) for m, curves in results["curves"].items() for curve in curves):
        for p in curve:
            setting = ", ".join(f"{key} {p[key]:g}" for key in ("iterations", "fwhm", "beta") if key in p)
            cells = [*p["contrasts"], *(p["noise"][key] for key in NOISES)]
            table.add_row(method, setting, f"{p['contrast']:.3f}", *(f"{value:.3f}" for value in cells))
    console.print(table)


def picture(path: Path, scans: dict[str, Curves], places: Regions, settings: Settings) -> None:
    """Draw, for every scan, contrast against noise, and one slice of three images of equal contrast."""
    figure = Figure(figsize=(15.5, 4.6 * len(scans)), layout="constrained")
    rows = figure.subplots(len(scans), 4, width_ratios=(1.35, 1, 1, 1))
    for (name, curves), (axis, *panels) in zip(scans.items(), rows):
        level = shown_level(curves)
        _draw_curves(axis, name, curves, level)
        images = equal_images(curves, level, places)
        top = 1.5 * float(np.mean(places.beside_rods.mean(images[0][1])))
        for panel, (title, image) in zip(panels, images):
            _, values = quality(image, places)
            shown = panel.imshow(image[0, 4:68, 4:68, 28].T, cmap="gray_r", vmin=0, vmax=top, interpolation="nearest")
            panel.set_title(f"{title}\nnoise {100 * values['beside_rods']:.1f} %", fontsize=10)
            panel.set(xticks=[], yticks=[])
        panels[0].set_ylabel(f"slice 28, contrast {level:.2f}")
        figure.colorbar(shown, ax=panels, shrink=0.8, label="activity (same scale in all three)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _draw_curves(axis: Any, name: str, curves: Curves, level: float) -> None:
    for method, colour in METHODS.items():
        for k, curve in enumerate(curves[method]):
            x, y = [100 * p.noise["beside_rods"] for p in curve], [p.contrast for p in curve]
            style = "s:" if method == "OSEM, filtered" else "o-"
            axis.plot(x, y, style, ms=3, color=colour, label=_label(method) if k == 0 else None, alpha=0.85)
    highest = max(noise_at(curves[m], level, "beside_rods", lambda p: p.contrast) or 0 for m in METHODS)
    axis.axhline(level, color="black", lw=0.7)
    axis.set(xlabel="noise of the background beside the rods (%)", ylabel="contrast, mean of six cold rods",
             title=name, xlim=(0, 160 * highest))  # fmt: skip
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _label(method: str) -> str:
    along = {"OSEM": "more iterations", "OSEM, filtered": "narrower filters, after 2 to 40 iterations"}
    return f"{method} ({along.get(method, 'smaller beta')})"


def shown_level(curves: Curves) -> float:
    """Return the contrast of OSEM after four iterations."""
    return curves["OSEM"][0][3].contrast


def equal_images(curves: Curves, level: float, places: Regions) -> list[tuple[str, np.ndarray]]:
    """Return a title and the images of each method at one contrast: filters by their width, others between points."""
    filtered, width = best_filtered(curves["OSEM, filtered"], level, places)
    n = filtered.setting["iterations"]
    plain, between = blended(curves["OSEM"][0], level, places)
    penal, betas = blended(curves["RDP-SVRG"][0], level, places)
    return [
        (f"OSEM, {_either(between, 'iterations')} iterations", plain),
        (f"OSEM, {n:g} iterations, filter {width:.1f} mm", GaussianBlur(GRID, width)(filtered.images)),
        (f"RDP-SVRG, beta {_either(betas, 'beta')}", penal),
    ]


def best_filtered(curves: Sequence[Sequence[Point]], level: float, places: Regions) -> tuple[Point, float]:
    """Return the unfiltered images, and the width in mm of the filter that takes them to a contrast, of least noise."""

    def excess(width: float, images: np.ndarray) -> float:
        return float(quality(GaussianBlur(GRID, width)(images), places)[0].mean()) - level

    found = []
    for curve in (c for c in curves if c[0].contrast > level):
        width = float(brentq(excess, 0.0, 40.0, args=(curve[0].images,), xtol=0.01))
        found.append((noise(GaussianBlur(GRID, width)(curve[0].images), places.beside_rods), width, curve[0]))
    _, width, point = min(found, key=lambda each: each[:2])
    return point, width


def blended(curve: Sequence[Point], level: float, places: Regions) -> tuple[np.ndarray, list[Point]]:
    """Return the weighted mean of two neighbours on a curve that has a contrast, and those of weight."""
    a, b = next((a, b) for a, b in pairwise(curve) if (a.contrast - level) * (b.contrast - level) <= 0)

    def mixed(t: float) -> np.ndarray:
        return (1 - t) * a.images + t * b.images

    t = float(brentq(lambda t: float(quality(mixed(t), places)[0].mean()) - level, 0.0, 1.0, xtol=1e-4))
    used = [point for point, weight in ((a, 1 - t), (b, t)) if weight > 1e-3]
    return mixed(t), used


def _either(between: Sequence[Point], key: str) -> str:
    return " to ".join(f"{value:g}" for value in sorted(point.setting[key] for point in between))


def _options() -> argparse.Namespace:
    default = Path(os.environ.get("EMRECON_DATA") or ROOT.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description="Noise at equal cold contrast: OSEM and RDP-SVRG on a SPECT scan.")
    parser.add_argument("data", nargs="?", type=Path, default=default, help="folder that holds simset_spect")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_simset_map.json", help="numbers, as JSON")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "simset_map.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
