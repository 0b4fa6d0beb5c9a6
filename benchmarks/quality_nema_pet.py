"""Image quality of PET after NEMA NU 2 on a simulated body phantom: two scanners, and one of them with and without TOF.

    python benchmarks/quality_nema_pet.py

The phantom is painted on a fine grid, blurred to the scanner's resolution, projected, attenuated, and covered with
smooth scatter and randoms; counts are Poisson. OSEM, without resolution model or filter, reconstructs on another,
coarser grid, and knows attenuation, scatter and randoms as they are: what is compared is what the events tell, not how
well corrections are estimated. The Vision 600 is reduced to what a small computer holds: its central segment, views
joined by three, lines that meet the phantom, and the TOF bins where coincidences from it can fall. Events of the other
TOF bins are randoms, which data without TOF contain and a likelihood with TOF may leave out. Non-TOF data are the sums
of the TOF data over their bins, plus those events.

Images with and without TOF are compared at equal background variability, which is reached in two ways: by stopping OSEM
early, or by filtering the last iteration with Gaussians of several widths. Without TOF, OSEM needs more iterations; the
second way keeps that out of the comparison.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from scipy.ndimage import gaussian_filter

from emrecon.projectors import (
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    TimeOfFlight,
    single_scatter,
)
from emrecon.recon import ImageQuality, ImageQualityLayout, nema_image_quality, osem, pet_problem
from emrecon.sims import generator, nema_iec_body, nema_layout

ROOT = Path(__file__).resolve().parents[1]
FWHM = 2 * np.sqrt(2 * np.log(2))
VISIONS = ("Vision 600 TOF", "Vision 600")
SHOWN = (10.0, 17.0, 28.0)  # mm, the spheres of the picture's curves
WIDTHS = (10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 0.0)  # mm FWHM of the filters, so that variability rises
LEAST_WIDTH = 4.0  # of the filters whose images bound the comparison


@dataclass(frozen=True)
class Setup:
    """A scanner, its sinogram, the scan and its reconstruction; lengths in mm, energies in keV.

    tof_bins : how many of the scanner's TOF bins, around the middle, are kept; 0 for no time of flight.
    reported : the iteration of the tables.
    """

    scanner: str
    span: int
    max_ring_difference: int
    mashing: int
    n_radial: int
    tof_bins: int
    prompts: float
    blur_fwhm: float
    energy_window: tuple[float, float]
    energy_resolution: float
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    n_subsets: int
    n_iterations: int
    reported: int
    n_realisations: int
    hot_ratio: float = 4.0
    fine_shape: tuple[int, int, int] = (161, 129, 125)
    fine_voxel_size: tuple[float, float, float] = (2.0, 2.0, 2.0)
    scatter_fraction: float = 0.30  # scatter / (trues + scatter)
    randoms_fraction: float = 0.25  # randoms / prompts
    seed: int = 20

    @property
    def grid(self) -> ImageGrid:
        """The grid of the reconstruction."""
        return ImageGrid(self.shape, self.voxel_size)

    @property
    def sinogram(self) -> PETSinogram:
        """The bins of the data."""
        scanner = PETScanner.named(self.scanner)
        tof = scanner.time_of_flight
        kept = TimeOfFlight(self.tof_bins, tof.bin_width, tof.fwhm) if tof and self.tof_bins else None
        return PETSinogram(scanner, self.max_ring_difference, self.span, kept, self.n_radial, self.mashing)

    @property
    def randoms_outside(self) -> float:
        """Randoms in TOF bins that are left out, over those in bins that are kept."""
        tof = PETScanner.named(self.scanner).time_of_flight
        return tof.n_bins / self.tof_bins - 1 if tof and self.tof_bins else 0.0


MMR = Setup(
    scanner="mmr",
    span=11,
    max_ring_difference=60,
    mashing=1,
    n_radial=173,
    tof_bins=0,
    prompts=100e6,
    blur_fwhm=4.5,
    energy_window=(430.0, 610.0),
    energy_resolution=0.145,
    shape=(107, 85, 63),
    voxel_size=(3.0, 3.0, 4.0625),
    n_subsets=21,
    n_iterations=8,
    reported=3,
    n_realisations=2,
)
VISION = replace(
    MMR,
    scanner="vision600",
    span=19,
    max_ring_difference=9,
    mashing=3,
    n_radial=221,
    tof_bins=19,
    prompts=40e6,
    blur_fwhm=4.0,
    energy_window=(435.0, 585.0),
    energy_resolution=0.10,
    shape=(107, 85, 79),
    voxel_size=(3.0, 3.0, 3.29114),
    n_subsets=7,
    n_iterations=12,
    reported=4,
    n_realisations=6,
)
WITHOUT_TOF = replace(VISION, tof_bins=0, n_iterations=30, reported=8)


@dataclass(frozen=True, eq=False)
class Expected:
    """What a scan expects: factors and background of its model, with TOF bins where there are any, and totals."""

    factors: np.ndarray
    background: np.ndarray
    trues: np.ndarray
    outside: np.ndarray
    totals: dict[str, float]


@dataclass(frozen=True, eq=False)
class Run:
    """Central slice and quality after every iteration of OSEM, and the quality of the last one filtered."""

    images: list[np.ndarray]
    stopped: list[ImageQuality]
    filtered: list[ImageQuality]
    seconds_per_iteration: float


def curve(qualities: list[ImageQuality], sphere: int) -> np.ndarray:
    """Return (images, 2): variability and contrast of a sphere."""
    return np.array([[q.spheres[sphere].variability, q.spheres[sphere].contrast] for q in qualities])


def main() -> None:
    """Simulate, reconstruct, print, and write the numbers and the picture."""
    options, console, start = _options(), Console(), time.perf_counter()
    if options.quick:
        console.print("[bold]quick: fewer iterations and one realisation; not for quoting")
    setups = {name: _quick(setup) if options.quick else setup for name, setup in _setups().items()}
    runs: dict[str, list[Run]] = {name: [] for name in setups}
    totals = {"mMR": mmr_runs(setups["mMR"], runs), "Vision 600": vision_runs(setups, runs)}
    stopped = [[run.stopped for run in runs[name]] for name in VISIONS]
    filtered = [[run.filtered for run in runs[name]] for name in VISIONS]
    curves = {name: curves_of([run.stopped for run in some]) for name, some in runs.items()}
    gains = {
        "stopped early": equal_noise(stopped[0], stopped[1], last=setups["Vision 600"].reported - 1),
        "filtered": equal_noise(filtered[0], filtered[1], last=WIDTHS.index(LEAST_WIDTH)),
    }
    about = machine()
    results: dict[str, Any] = {
        "machine": about,
        "minutes": (time.perf_counter() - start) / 60,
        "settings": {name: asdict(setup) for name, setup in setups.items()},
        "sinograms": {name: str(setup.sinogram) for name, setup in setups.items()},
        "counts": totals,
        "reconstruction": "OSEM without resolution model or filter; attenuation, scatter and randoms known",
        "tables": {name: table_of(runs[name], setups[name].reported) for name in setups},
        "tof_at_equal_noise": gains,
        "curves": curves,
        "filter_fwhm_mm": WIDTHS,
        "least_filter_fwhm_compared_mm": LEAST_WIDTH,
        "filtered_curves": {name: curves_of([run.filtered for run in runs[name]]) for name in setups},
        "seconds_per_iteration": {
            name: float(np.median([run.seconds_per_iteration for run in some])) for name, some in runs.items()
        },
    }
    report(console, results)
    console.print(machine_line(about))
    results["picture"] = picture(options.picture, runs, setups, curves)
    write_json(options.out, results)


def _setups() -> dict[str, Setup]:
    return {"mMR": MMR, "Vision 600 TOF": VISION, "Vision 600": WITHOUT_TOF}


def _quick(setup: Setup) -> Setup:
    few = max(setup.n_iterations // 3, setup.reported)
    return replace(setup, n_iterations=few, n_realisations=1)


# ---- the scan -------------------------------------------------------------------------------------------------------


def mmr_runs(setup: Setup, runs: dict[str, list[Run]]) -> dict[str, float]:
    """Fill in the runs of a scanner without TOF; return the totals of its scan."""
    scan = expect(setup)
    for k in range(setup.n_realisations):
        counts = draw(scan.trues, scan.background, setup.seed, f"{setup.scanner} {k}")
        runs["mMR"].append(reconstruct(setup, counts, scan.factors, scan.background))
    return scan.totals


def vision_runs(setups: dict[str, Setup], runs: dict[str, list[Run]]) -> dict[str, float]:
    """Fill in the runs with and without TOF, of the same events; return the totals of the scan."""
    with_tof, without = setups["Vision 600 TOF"], setups["Vision 600"]
    scan = expect(with_tof)
    background = scan.background.sum(2) + scan.outside
    for k in range(with_tof.n_realisations):
        counts = draw(scan.trues, scan.background, with_tof.seed, f"{with_tof.scanner} {k}")
        outside = draw(np.zeros_like(scan.outside), scan.outside, with_tof.seed, f"{with_tof.scanner} outside {k}")
        summed = counts.sum(2, dtype=np.uint16) + outside
        runs["Vision 600 TOF"].append(reconstruct(with_tof, counts, scan.factors, scan.background))
        runs["Vision 600"].append(reconstruct(without, summed, scan.factors[:, :, 0], background))
    return scan.totals


def expect(setup: Setup) -> Expected:
    """Return factors, trues and background, scaled to the fractions and the prompts of the setup."""
    phantom, sinogram = nema_iec_body(setup.hot_ratio), setup.sinogram
    fine = ImageGrid(setup.fine_shape, setup.fine_voxel_size)
    mu = phantom.attenuation(fine, 511.0)
    activity = gaussian_filter(phantom.activity(fine), setup.blur_fwhm / FWHM / np.array(setup.fine_voxel_size))
    pairs = sinogram.multiplicity()
    factors = with_tof_axis(pairs * attenuation_factors(fine, mu, sinogram), sinogram)
    trues = by_subsets(lambda part: PETProjector(fine, part)(activity), sinogram, setup.n_subsets)
    trues *= factors
    scatter = single_scatter(
        activity,
        mu,
        fine,
        sinogram,
        energy_window=setup.energy_window,
        energy_resolution=setup.energy_resolution,
    )
    scatter *= with_tof_axis(pairs, sinogram)
    single = total(scatter) / (total(scatter) + total(trues))  # in the right unit already
    randoms = setup.randoms_fraction * setup.prompts
    scattered = setup.scatter_fraction * (setup.prompts - randoms)
    counts_per_unit = (setup.prompts - randoms - scattered) / total(trues)
    inside = randoms / (1 + setup.randoms_outside)
    spread = pairs * (inside / total(pairs) / (sinogram.tof.n_bins if sinogram.tof else 1))
    scatter *= scattered / total(scatter)
    scatter += with_tof_axis(spread, sinogram)
    trues *= counts_per_unit
    totals = {
        "trues": total(trues),
        "scatter": scattered,
        "randoms": randoms,
        "randoms_in_tof_bins_left_out": randoms - inside,
        "single_scatter_fraction_simulated": single,
        "bins": float(trues.size),
    }
    outside = pairs * np.float32((randoms - inside) / total(pairs))
    return Expected(factors * np.float32(counts_per_unit), scatter, trues, outside, totals)


def attenuation_factors(grid: ImageGrid, mu: np.ndarray, sinogram: PETSinogram) -> np.ndarray:
    """Return exp(-A mu), mu in 1/cm, without TOF bins."""
    return np.exp(PETProjector(grid, sinogram.without_tof())(mu) / -10)


def with_tof_axis(values: np.ndarray, sinogram: PETSinogram) -> np.ndarray:
    """Return (views, radial, planes) so that it broadcasts to the data."""
    return values[:, :, None] if sinogram.tof else values


def by_subsets(project: Callable[[PETSinogram], np.ndarray], sinogram: PETSinogram, n: int) -> np.ndarray:
    """Return the whole projection, made subset by subset to save memory."""
    out = np.empty(sinogram.shape, np.float32)
    for k in range(n):
        out[k::n] = project(sinogram.subset(k, n))
    return out


def draw(trues: np.ndarray, background: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Return Poisson counts in two bytes, view by view to save memory."""
    rng, counts = generator(seed, purpose), np.empty(trues.shape, np.uint16)
    for out, *parts in zip(counts, trues, background):
        out[...] = rng.poisson(parts[0] + parts[1])
    return counts


def total(values: np.ndarray) -> float:
    """Return the sum in double precision."""
    return float(values.sum(dtype=float))


# ---- reconstruction and measures ------------------------------------------------------------------------------------


def reconstruct(setup: Setup, counts: np.ndarray, factors: np.ndarray, background: np.ndarray) -> Run:
    """Run OSEM from ones and measure after every iteration."""
    problem = pet_problem(Scan(counts, setup.sinogram, background, factors), grid=setup.grid, subsets=setup.n_subsets)
    layout = ImageQualityLayout(**nema_layout(setup.hot_ratio))
    images, qualities, times = [], [], [time.perf_counter()]
    iterates = osem(problem.parts, np.ones(setup.shape, np.float32))
    for image in (it.image for it in islice(iterates, setup.n_iterations)):
        times.append(time.perf_counter())
        qualities.append(nema_image_quality(image, setup.grid, layout))
        images.append(central_slice(image, setup.grid))
    sigmas = [np.divide(width / FWHM, setup.voxel_size) for width in WIDTHS]
    filtered = [nema_image_quality(gaussian_filter(image, sigma), setup.grid, layout) for sigma in sigmas]
    return Run(images, qualities, filtered, float(np.median(np.diff(times))))


def central_slice(image: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """Return the slice through the spheres' centres."""
    return image[:, :, round(-grid.origin[2] / grid.voxel_size[2])].copy()


def table_of(runs: list[Run], iteration: int) -> dict[str, Any]:
    """Return contrast and variability of every sphere at an iteration, means over the realisations, and the lung."""
    qualities = [run.stopped[iteration - 1] for run in runs]
    spheres = [
        {
            "diameter": some[0].diameter,
            "contrast": float(np.mean([s.contrast for s in some])),
            "variability": float(np.mean([s.variability for s in some])),
        }
        for some in zip(*(quality.spheres for quality in qualities))
    ]
    lung = float(np.mean([quality.lung_residual for quality in qualities]))
    return {"iteration": iteration, "spheres": spheres, "lung_residual": lung}


def curves_of(runs: list[list[ImageQuality]]) -> list[dict[str, Any]]:
    """Return variability and contrast of every sphere over the images of a run, means over the realisations."""
    spheres = runs[0][0].spheres
    means = [np.mean([curve(run, k) for run in runs], 0).T.tolist() for k in range(len(spheres))]
    return [
        {"diameter": sphere.diameter, "variability": variability, "contrast": contrast}
        for sphere, (variability, contrast) in zip(spheres, means)
    ]


def equal_noise(
    with_tof: list[list[ImageQuality]], without: list[list[ImageQuality]], *, last: int, n_levels: int = 9
) -> dict[str, Any]:
    """Return contrast with and without TOF, interpolated at the same background variabilities, and their difference.

    For each sphere levels are spaced evenly from the lowest variability that all runs reach to that of image `last`
    without TOF. Where no image with TOF is as noisy as that, its noisiest one counts: TOF has less noise there.
    Differences are means over the levels, their errors those of the mean over realisations.
    """
    spheres, differences = [], []
    for k, sphere in enumerate(with_tof[0][0].spheres):
        curves = [[rising(curve(run, k)) for run in some] for some in (with_tof, without)]
        low = max(values[0, 0] for some in curves for values in some)
        high = min(curve(run, k)[last, 0] for run in without)
        levels = np.linspace(low, high, n_levels)
        tof, plain = (np.array([np.interp(levels, *values.T) for values in some]) for some in curves)
        differences.append((tof - plain).mean(1))
        spheres.append(
            {
                "diameter": sphere.diameter,
                "variability": levels.tolist(),
                "contrast_tof": tof.mean(0).tolist(),
                "contrast_without": plain.mean(0).tolist(),
                "difference": float(differences[-1].mean()),
                "standard_error": standard_error(differences[-1]),
                "highest_variability_with_tof": min(float(values[-1, 0]) for values in curves[0]),
            }
        )
    mean = np.mean(differences, 0)
    return {
        "spheres": spheres,
        "mean_difference": float(mean.mean()),
        "standard_error": standard_error(mean),
        "spheres_better_with_tof": sum(sphere["difference"] > 0 for sphere in spheres),
    }


def rising(curve: np.ndarray) -> np.ndarray:
    """Return the part of a curve from its lowest variability on: before, background is not yet flat."""
    return curve[curve[:, 0].argmin() :]


def standard_error(values: np.ndarray) -> float | None:
    """Return the standard error of a mean, None for a single value."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else None


# ---- output ---------------------------------------------------------------------------------------------------------


def report(console: Console, results: dict[str, Any]) -> None:
    """Print both tables."""
    titles = [f"{name}, {table['iteration']} iterations" for name, table in results["tables"].items()]
    table = Table("sphere", *(Column(title, justify="right") for title in titles), title="contrast / variability (%)")
    for row in zip(*(some["spheres"] for some in results["tables"].values())):
        table.add_row(f"{row[0]['diameter']:g} mm", *(f"{s['contrast']:.1f} / {s['variability']:.1f}" for s in row))
    table.add_row("lung residual", *(f"{some['lung_residual']:.1f}" for some in results["tables"].values()))
    console.print(table)
    for way, gains in results["tof_at_equal_noise"].items():
        columns = ("sphere", "variability (%)", "TOF (%)", "without (%)", "difference, all levels")
        table = Table(*columns, title=f"contrast at equal noise, Vision 600, {way}")
        for sphere in gains["spheres"]:
            middle = len(sphere["variability"]) // 2
            numbers = (sphere[name][middle] for name in ("variability", "contrast_tof", "contrast_without"))
            cells = (f"{value:.1f}" for value in numbers)
            table.add_row(f"{sphere['diameter']:g} mm", *cells, _with_error(sphere, "difference"))
        console.print(table)
        console.print(f"TOF adds {_with_error(gains, 'mean_difference')} % contrast, and is better in "
                      f"{gains['spheres_better_with_tof']} of {len(gains['spheres'])} spheres")  # fmt: skip
    console.print(f"{results['minutes']:.1f} minutes")


def _with_error(row: dict[str, Any], name: str) -> str:
    error = row["standard_error"]
    return f"{row[name]:+.1f}" + (f" +- {error:.1f}" if error is not None else "")


def picture(path: Path, runs: dict[str, list[Run]], setups: dict[str, Setup], curves: dict[str, Any]) -> dict[str, Any]:
    """Draw the central slices at about equal noise, the patient's front on top, and curves; return what is shown."""
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    panels: Any = figure.subfigures(1, 2, width_ratios=(1.3, 1))
    left, right = panels
    axes, names = left.subplots(2, 2).ravel(), (*VISIONS, "mMR")
    wanted = noise(runs[names[0]][0].stopped[setups[names[0]].reported - 1])
    truth = nema_iec_body(VISION.hot_ratio).activity(VISION.grid)
    _slice(axes[0], central_slice(truth, VISION.grid), VISION, "true activity")
    shown = {}
    for axis, name in zip(axes[1:], names):
        run = runs[name][0]
        k = int(np.argmin([abs(noise(quality) - wanted) for quality in run.stopped]))
        shown[name] = {"iteration": k + 1, "mean_variability": noise(run.stopped[k])}
        image = run.images[k] / run.stopped[k].spheres[0].background
        title = f"{name}, iteration {k + 1}, variability {noise(run.stopped[k]):.1f} %"
        drawn = _slice(axis, image, setups[name], title)
    left.colorbar(drawn, ax=axes, label="activity / background", shrink=0.6)
    _curves(right, {name: curves[name] for name in names})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return shown


def _slice(axis: Axes, image: np.ndarray, setup: Setup, title: str) -> Any:
    x, y, _ = setup.voxel_size
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])
    return axis.imshow(image.T, cmap="gray_r", vmin=0, vmax=setup.hot_ratio, aspect=y / x)


def noise(quality: ImageQuality) -> float:
    """Return the background variability, mean over the spheres' sizes."""
    return float(np.mean([sphere.variability for sphere in quality.spheres]))


def _curves(panel: Any, curves: dict[str, Any]) -> None:
    axis = panel.subplots()
    for (name, spheres), style in zip(curves.items(), ("-o", "--s", ":^")):
        for k, sphere in enumerate(s for s in spheres[::-1] if s["diameter"] in SHOWN):
            values = sphere["variability"], sphere["contrast"]
            axis.plot(*values, style, color=f"C{k}", markersize=3, label=f"{sphere['diameter']:g} mm, {name}")
    axis.set(xlabel="background variability (%)", ylabel="contrast recovery (%)", xlim=(0, None), ylim=(0, 100))
    axis.set_title("OSEM, iterations 1, 2, ... upwards", fontsize=9)
    panel.legend(fontsize=8, frameon=False, ncols=3, loc="outside lower center")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer iterations, one realisation")
    parser.add_argument("--out", type=Path, default=RESULTS / "quality_nema_pet.json", help="numbers, JSON")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/nema_pet.png", help="PNG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
